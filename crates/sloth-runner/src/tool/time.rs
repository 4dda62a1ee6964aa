//! Times for people and for programs. Everything here takes Unix milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

/// The one place where the tool looks at the wall clock.
pub fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis().try_into().unwrap_or(u64::MAX))
}

/// RFC 3339 in UTC, with milliseconds; `None` for 0, which means "never".
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    /// The last millisecond of the year 9999: what RFC 3339 can say.
    const LAST: u64 = 253_402_300_799_999;
    if unix_ms == 0 {
        return None;
    }
    let unix_ms = unix_ms.min(LAST);
    let (seconds, millis) = (unix_ms / 1000, unix_ms % 1000);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"))
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

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted from March, so
/// that the leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01.
    const TO_EPOCH: u64 = 719_468;
    const FOUR_CENTURIES: u64 = 146_097;
    let days = days + TO_EPOCH;
    let (era, day_of_era) = (days / FOUR_CENTURIES, days % FOUR_CENTURIES);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
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
        assert_eq!(ago(now, 0), "never");
    }
}
