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

/// `3s ago`, `5m ago`, `2h ago`, `4d ago`; `never` for 0. A time to come, as a clock that is set differently has it,
/// is `now`.
pub fn ago(now_unix_ms: u64, then_unix_ms: u64) -> String {
    if then_unix_ms == 0 {
        return "never".to_owned();
    }
    match now_unix_ms.saturating_sub(then_unix_ms) / 1000 {
        0 if now_unix_ms < then_unix_ms => "now".to_owned(),
        seconds @ 0..=119 => format!("{seconds}s ago"),
        seconds @ 120..=7_199 => format!("{}m ago", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{}h ago", seconds / 3600),
        seconds => format!("{}d ago", seconds / 86_400),
    }
}

/// `in 4s`, `in 5m`, `in 2h`, `in 4d`: of a time to come. One that has come is `now`.
pub fn ahead(now_unix_ms: u64, then_unix_ms: u64) -> String {
    match then_unix_ms.saturating_sub(now_unix_ms) / 1000 {
        0 if then_unix_ms <= now_unix_ms => "now".to_owned(),
        seconds @ 0..=119 => format!("in {seconds}s"),
        seconds @ 120..=7_199 => format!("in {}m", seconds / 60),
        seconds @ 7_200..=172_799 => format!("in {}h", seconds / 3600),
        seconds => format!("in {}d", seconds / 86_400),
    }
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
    fn ages_are_short() {
        let now = 1_000_000_000;
        for (age_s, text) in
            [(0, "0s ago"), (3, "3s ago"), (119, "119s ago"), (120, "2m ago"), (7_200, "2h ago"), (172_800, "2d ago")]
        {
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
