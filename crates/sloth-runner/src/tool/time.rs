//! Times for people and for programs. Everything here takes Unix milliseconds.

use sloth_agent::logging::utc::Utc;
use std::time::Duration;

pub use crate::clock::unix_ms as now_unix_ms;

/// RFC 3339 in UTC, with milliseconds; `None` for 0, which means "never".
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    /// The last millisecond of the year 9999: what RFC 3339 can say.
    const LAST: u64 = 253_402_300_799_999;
    if unix_ms == 0 {
        return None;
    }
    Some(Utc(Duration::from_millis(unix_ms.min(LAST))).to_string())
}

/// How long something lasts, as durations are typed too: `250ms`, `45s`, `1m41s`, `2h5m`, `3d4h`. No more than two units,
/// the rest is dropped.
pub fn span(duration: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let seconds = duration.as_secs();
    let Some(first) = UNITS.iter().position(|(_, unit)| seconds >= *unit) else {
        return match duration.as_millis() {
            0 => "0s".to_owned(),
            millis => format!("{millis}ms"),
        };
    };
    let (word, unit) = UNITS[first];
    let whole = format!("{}{word}", seconds / unit);
    match UNITS.get(first + 1).map(|(word, smaller)| (word, seconds % unit / smaller)) {
        Some((word, rest)) if rest > 0 => format!("{whole}{rest}{word}"),
        _ => whole,
    }
}

/// `3s ago`, `5m ago`, `2h30m ago`, `4d ago`; `never` for 0. A time to come, as a clock that is set differently has it,
/// is `now`.
pub fn ago(now_unix_ms: u64, then_unix_ms: u64) -> String {
    match then_unix_ms {
        0 => "never".to_owned(),
        then if then > now_unix_ms => "now".to_owned(),
        then => format!("{} ago", span(whole_seconds(now_unix_ms - then))),
    }
}

/// `in 4s`, `in 5m`, `in 2h30m`, `in 4d`: of a time to come. One that has come is `now`.
pub fn ahead(now_unix_ms: u64, then_unix_ms: u64) -> String {
    match then_unix_ms.saturating_sub(now_unix_ms) {
        0 => "now".to_owned(),
        left => format!("in {}", span(whole_seconds(left))),
    }
}

fn whole_seconds(millis: u64) -> Duration {
    Duration::from_secs(millis / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (unix_ms, text) in [
            (1, "1970-01-01T00:00:00.001Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(unix_ms).unwrap(), text);
        }
        assert_eq!(rfc3339(0), None);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_999, "1s"),
            (60_000, "1m"),
            (3_599_999, "59m59s"),
            (3_601_000, "1h"),
            (90_061_000, "1d1h"),
            (86_459_000, "1d"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
        // What is shown can be typed.
        assert_eq!(super::super::duration::parse("1m41s"), Ok(Duration::from_secs(101)));
    }

    #[test]
    fn ages_are_short() {
        let now = 1_000_000_000;
        for (age_s, text) in [
            (0, "0s ago"),
            (3, "3s ago"),
            (101, "1m41s ago"),
            (120, "2m ago"),
            (9_005, "2h30m ago"),
            (172_800, "2d ago"),
        ] {
            assert_eq!(ago(now, now - age_s * 1000), text);
        }
        assert_eq!(ago(now, now + 1), "now");
        for (left_ms, text) in [(1, "in 0s"), (4_000, "in 4s"), (120_000, "in 2m"), (7_200_000, "in 2h")] {
            assert_eq!(ahead(now, now + left_ms), text);
        }
        assert_eq!((ahead(now, now), ahead(now, now - 1)), ("now".to_owned(), "now".to_owned()));
        assert_eq!(ago(now, 0), "never");
    }
}
