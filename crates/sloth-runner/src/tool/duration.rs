//! Durations on the command line, as the configuration writes them: `90s`, `1m30s`, `250ms`, `2h`.

use sloth_agent::config::units::parse_duration;
use std::time::Duration;

/// Longest duration that is taken: a year. A longer one is a slip of the hand.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Reads a duration of at least a millisecond.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        duration if duration > LONGEST => Err("longer than a year".to_owned()),
        duration if duration.as_millis() == 0 => Err("must be above zero".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_lie_between_a_millisecond_and_a_year() {
        assert_eq!(parse("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("366d"), Ok(LONGEST));
        for bad in ["", "5", "0s", "0.5ms", "367d", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
