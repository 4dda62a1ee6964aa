//! Durations as people write them: `90s`, `1m30s`, `250ms`, `2h`.

use std::time::Duration;

/// Longest duration that is taken: a year. A longer one is a slip of the hand.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Reads a duration above zero.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(text: &str) -> Result<Duration, String> {
    const RULE: &str = "write a duration with its unit, such as 30s, 1m30s, 250ms, 2h or 7d";
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(RULE.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let units = rest[digits..].len() - rest[digits..].trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + units]);
        let number: u64 = number.parse().map_err(|_| RULE.to_owned())?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(RULE.to_owned()),
        };
        total = number
            .checked_mul(millis)
            .and_then(|millis| total.checked_add(Duration::from_millis(millis)))
            .filter(|total| *total <= LONGEST)
            .ok_or("longer than a year")?;
        rest = &rest[digits + units..];
    }
    if total.is_zero() { Err("must be above zero".to_owned()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("7d"), Ok(Duration::from_secs(604_800)));
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "1.5s",
            "5x",
            "0s",
            "99999999999999999999s",
            "18446744073709551615d",
            "400d",
            "5€",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
