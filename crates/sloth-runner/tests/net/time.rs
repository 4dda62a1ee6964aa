//! The times that logs and events carry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, as they say it.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Of a line or a field that begins with `2026-11-24T10:00:00.123Z`.
#[track_caller]
pub fn stamp(text: &str) -> Duration {
    let number = |range: std::ops::Range<usize>| -> u64 {
        let digits = text.get(range).and_then(|digits| digits.parse().ok());
        digits.unwrap_or_else(|| panic!("no time at the beginning of {text:?}"))
    };
    // Counted in years that begin in March, so that the leap day is the last.
    let (year, month) =
        if number(5..7) > 2 { (number(0..4), number(5..7) - 3) } else { (number(0..4) - 1, number(5..7) + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + number(8..10) - 1 - 719_468;
    let seconds = ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19);
    Duration::from_millis(seconds * 1000 + number(20..23))
}

/// A duration as results show it.
pub fn secs(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// The least and the greatest.
pub fn range(durations: &[Duration]) -> String {
    let (least, greatest) = (durations.iter().min().unwrap(), durations.iter().max().unwrap());
    if secs(*least) == secs(*greatest) { secs(*least) } else { format!("{} to {}", secs(*least), secs(*greatest)) }
}

/// How long after; zero for before.
pub fn since(start: Duration, end: Duration) -> Duration {
    end.saturating_sub(start)
}
