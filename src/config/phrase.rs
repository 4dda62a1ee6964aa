//! How messages show values and rules.

use std::fmt;

use super::layers::{Entry, Value};

pub(super) fn mismatch(value: &Value, wanted: &str) -> String {
    format!("{}, not {wanted}", kind(value))
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "a boolean",
        Value::Array(_) => "a list",
        Value::Other(kind) => kind,
    }
}

pub(super) fn outside(below: bool, low: &dyn fmt::Display, high: &dyn fmt::Display) -> String {
    if below { format!("below {low}: use {low} to {high}") } else { format!("above {high}: use {low} to {high}") }
}

/// A number with a fraction, so that it looks like what it is.
pub(super) struct Plain(pub(super) f64);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// How many characters of a value messages show.
const VALUE_SHOWN_MAX: usize = 60;

pub(super) fn shown_value(entry: &Entry) -> String {
    match &entry.value {
        Value::String(text) => bare_or_quoted(text),
        _ => shortened(&entry.raw.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

pub(super) fn bare_or_quoted(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || ".:/_-+%@[]*".contains(c);
    if !text.is_empty() && text.chars().all(bare) { shortened(text) } else { quoted(text) }
}

pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(&text.escape_debug().to_string()))
}

fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= VALUE_SHOWN_MAX {
        return text.to_string();
    }
    let start: String = text.chars().take(VALUE_SHOWN_MAX / 2).collect();
    format!("{start}… ({length} characters)")
}

/// `a, b or c`.
pub(super) fn any_of(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Edit distance: insertions, deletions, replacements and swaps of neighbours.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(128).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
