//! Durations and sizes as people write them: `"1m30s"`, `"16MiB"`.

use std::{fmt, time::Duration};

/// A duration that shows itself as the configuration writes it: `5s`, `2.5s`, `1m30s`, `250ms`, `7d`.
///
/// What is shown can be read back, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShowDuration(pub Duration);

/// A number of bytes that shows itself as the configuration writes it, in the largest unit that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShowSize(pub u64);

const DURATION_UNITS: [(&str, u128); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration: numbers with units (`d`, `h`, `m`, `s`, `ms`), largest first, each at most once; a number may have
/// a fraction (`2.5s`).
///
/// # Errors
/// A fragment that reads after `key is value, `: the rule, and how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "write it like \"5s\", \"1m30s\" or \"250ms\"";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("empty: {EXAMPLES}"));
    }
    if rest.starts_with('-') {
        return Err("negative: write it without the sign".to_string());
    }
    if let Ok(number) = rest.parse::<f64>() {
        let unit = if number.is_finite() { format!("\"{rest}s\" for seconds") } else { EXAMPLES.to_string() };
        return Err(format!("a number without a unit: write {unit}"));
    }
    let mut total: u128 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let Some(index) = DURATION_UNITS.iter().position(|(word, _)| *word == unit) else {
            return Err(format!("not a duration: {EXAMPLES}; the units are d, h, m, s and ms"));
        };
        if index < next_unit {
            return Err("with its units out of order: largest first, each once, like \"1m30s\"".to_string());
        }
        next_unit = index + 1;
        let part = nanos(number, DURATION_UNITS[index].1).ok_or_else(|| format!("not a duration: {EXAMPLES}"))?;
        total = total.saturating_add(part);
        rest = tail;
    }
    let seconds = u64::try_from(total / 1_000_000_000).unwrap_or(u64::MAX);
    Ok(Duration::new(seconds, (total % 1_000_000_000) as u32))
}

/// `number` (decimal, with or without a fraction) times `unit`, saturating; `None` if it is no number.
fn nanos(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole = whole.parse::<u128>().unwrap_or(u128::MAX / unit).saturating_mul(unit);
    // Nine digits are nanoseconds of the smallest whole unit; more would only overflow.
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_u128.pow(fraction.len() as u32);
    Some(whole.saturating_add(fraction.parse::<u128>().ok()? * unit / scale))
}

impl fmt::Display for ShowDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis < 1000 {
            return if millis == 0 { f.write_str("0s") } else { write!(f, "{millis}ms") };
        }
        for (word, unit) in &DURATION_UNITS[..3] {
            let unit = unit / 1_000_000;
            if millis >= unit {
                write!(f, "{}{word}", millis / unit)?;
                millis %= unit;
            }
        }
        match (millis / 1000, millis % 1000) {
            (0, 0) => Ok(()),
            (seconds, 0) => write!(f, "{seconds}s"),
            (seconds, fraction) => {
                let fraction = format!("{fraction:03}");
                write!(f, "{seconds}.{}s", fraction.trim_end_matches('0'))
            }
        }
    }
}

/// Reads a size: a whole number and a unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`).
///
/// # Errors
/// A fragment that reads after `key is value, `: the rule, and how to write it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const EXAMPLES: &str = "write it like \"16MiB\", \"64KiB\" or \"512B\", or as a plain number of bytes";
    let text = text.trim();
    if text.starts_with('-') {
        return Err("negative: write it without the sign".to_string());
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let Ok(number) = number.parse::<u64>() else {
        return Err(format!("not a size: {EXAMPLES}"));
    };
    if unit.is_empty() {
        return Ok(number);
    }
    match SIZE_UNITS.iter().find(|(word, _)| *word == unit) {
        Some((_, factor)) => Ok(number.saturating_mul(*factor)),
        None => Err(match SIZE_UNITS.iter().find(|(word, _)| meant_unit(unit, word)) {
            Some((word, _)) => format!("in a unit that is not known: write \"{number}{word}\""),
            None => format!("not a size: {EXAMPLES}"),
        }),
    }
}

/// `M`, `mb`, `MB` and the like mean `MiB`.
fn meant_unit(unit: &str, word: &str) -> bool {
    unit.len() <= 3 && unit.chars().next().map(|c| c.to_ascii_uppercase()) == word.chars().next()
}

impl fmt::Display for ShowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, unit) = SIZE_UNITS
            .iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
            .unwrap_or(&SIZE_UNITS[SIZE_UNITS.len() - 1]);
        write!(f, "{}{word}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("7d", 604_800_000),
            ("1h", 3_600_000),
            ("2.5s", 2_500),
            ("1d2h3m4s5ms", 93_784_005),
            ("0s", 0),
            (" 10s ", 10_000),
            ("0.001s", 1),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_duration_beyond_all_time_saturates_and_does_not_wrap() {
        let huge = parse_duration("99999999999999999999999999999999999999999999d").unwrap();
        assert_eq!(huge.as_secs(), u64::MAX);
        assert_eq!(parse_duration("340282366920938463463374607431768211455d").unwrap().as_secs(), u64::MAX);
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_remedy() {
        for (text, fragment) in [
            ("", "empty: write it like \"5s\", \"1m30s\" or \"250ms\""),
            ("5", "a number without a unit: write \"5s\" for seconds"),
            ("-5s", "negative: write it without the sign"),
            ("30s1m", "with its units out of order: largest first, each once, like \"1m30s\""),
            ("5s5s", "with its units out of order: largest first, each once, like \"1m30s\""),
        ] {
            assert_eq!(parse_duration(text), Err(fragment.to_string()), "{text}");
        }
        for text in ["5 s", "five", "5x", "s", "1..5s", ".s", "5sec", "inf", "nan", "5µs", "1.s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_show_as_they_are_written() {
        for text in ["5s", "2.5s", "1m30s", "250ms", "7d", "1h", "1d1ms", "0s", "1m0.05s"] {
            let duration = parse_duration(&text.replace("1d1ms", "1d0.001s")).unwrap();
            assert_eq!(parse_duration(&ShowDuration(duration).to_string()), Ok(duration), "{text}");
        }
        assert_eq!(ShowDuration(Duration::from_secs(90)).to_string(), "1m30s");
        assert_eq!(ShowDuration(Duration::from_millis(2_500)).to_string(), "2.5s");
        assert_eq!(ShowDuration(Duration::from_secs(3_600)).to_string(), "1h");
        assert_eq!(ShowDuration(Duration::from_millis(60_050)).to_string(), "1m0.05s");
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("16MiB", 16 << 20), ("1GiB", 1 << 30), ("64KiB", 65_536), ("512B", 512), ("0B", 0)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(ShowSize(bytes).to_string(), text);
        }
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(ShowSize(1_000).to_string(), "1000B");
    }

    #[test]
    fn what_is_no_size_is_refused_with_a_remedy() {
        for (text, fragment) in [
            ("16M", "in a unit that is not known: write \"16MiB\""),
            ("16mb", "in a unit that is not known: write \"16MiB\""),
            ("-1MiB", "negative: write it without the sign"),
            ("big", "not a size: write it like \"16MiB\", \"64KiB\" or \"512B\", or as a plain number of bytes"),
        ] {
            assert_eq!(parse_size(text), Err(fragment.to_string()), "{text}");
        }
        for text in ["", "1.5MiB", "16µ", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
