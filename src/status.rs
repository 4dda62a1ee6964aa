//! The status file: what a running agent says of itself, one flat JSON object.

use crate::logging::utc::Utc;
use std::{fmt::Write, time::Duration};

/// There, and true, while the agent is ending.
pub const SHUTTING_DOWN: &str = "shutting_down";

/// There while a certificate of the agent's is known.
pub const CERTIFICATE_ENDS: &str = "certificate_ends";

/// Whether commands are in memory alone.
pub const SPOOL_IN_MEMORY: &str = "spool_in_memory";

/// There, and true, where the state directory cannot be written.
pub const STATE_IN_MEMORY: &str = "state_in_memory";

/// A value in the status file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Text(&'a str),
    Number(u64),
    Boolean(bool),
    Seconds(Duration),
    /// Since 1970.
    Time(Duration),
    /// Written already, as [`list`] does.
    Json(&'a str),
}

/// Several objects, as an array.
pub fn list<'a, F: AsRef<[(&'a str, Field<'a>)]>>(objects: impl Iterator<Item = F>) -> String {
    let mut text = String::from("[");
    for object in objects {
        text.push_str(if text.len() == 1 { "\n  " } else { ",\n  " });
        text.push_str(write(object.as_ref()).replace('\n', "\n  ").trim_end());
    }
    text.push_str(if text.len() == 1 { "]" } else { "\n]" });
    text
}

/// Writes the object, one field a line, so that people can read the file, too.
pub fn write(fields: &[(&str, Field<'_>)]) -> String {
    let mut text = String::from("{");
    for (index, (key, value)) in fields.iter().enumerate() {
        text.push_str(if index == 0 { "\n  " } else { ",\n  " });
        push_string(&mut text, key);
        text.push_str(": ");
        match value {
            Field::Text(value) => push_string(&mut text, value),
            Field::Number(value) => write!(text, "{value}").expect("a String takes everything"),
            Field::Seconds(value) => {
                let (seconds, micros) = (value.as_secs(), value.subsec_micros());
                write!(text, "{seconds}.{micros:06}").expect("a String takes everything")
            }
            Field::Time(value) => write!(text, "\"{}\"", Utc(*value)).expect("a String takes everything"),
            Field::Json(value) => text.push_str(value),
            Field::Boolean(value) => text.push_str(if *value { "true" } else { "false" }),
        }
    }
    text.push_str("\n}\n");
    text
}

fn push_string(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => write!(text, "\\u{:04x}", u32::from(c)).expect("a String takes everything"),
            c => text.push(c),
        }
    }
    text.push('"');
}

/// Reads what [`write()`] wrote: keys and values in their order, numbers and booleans as their text. None if it is
/// anything else.
pub fn read(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (key, tail) = take_string(rest)?;
        let tail = tail.trim_start().strip_prefix(':')?.trim_start();
        let (value, tail) = if tail.starts_with('"') {
            take_string(tail)?
        } else {
            let end = tail.find([',', '\n']).unwrap_or(tail.len());
            (tail[..end].trim().to_string(), &tail[end..])
        };
        fields.push((key, value));
        let tail = tail.trim_start();
        rest = match tail.strip_prefix(',') {
            Some(tail) => tail.trim_start(),
            None if tail.is_empty() => tail,
            None => return None,
        };
    }
    Some(fields)
}

fn take_string(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => match chars.next()?.1 {
                'u' => {
                    let digits: String = (0..4).map_while(|_| chars.next().map(|(_, c)| c)).collect();
                    value.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let hostile = "a \"b\"\\ \n,:{}\u{7f}ü";
        let text = write(&[("state", Field::Text(hostile)), ("pid", Field::Number(7)), ("ok", Field::Boolean(true))]);
        let expected = [("state", hostile), ("pid", "7"), ("ok", "true")];
        assert_eq!(read(&text).unwrap(), expected.map(|(key, value)| (key.to_string(), value.to_string())));
        assert_eq!(read(&write(&[])), Some(vec![]));
    }

    #[test]
    fn it_is_json_one_field_a_line() {
        let text = write(&[("state", Field::Text("Active")), ("line", Field::Text("a\nb\"")), ("n", Field::Number(1))]);
        assert_eq!(text, "{\n  \"state\": \"Active\",\n  \"line\": \"a\\u000ab\\\"\",\n  \"n\": 1\n}\n");
    }

    #[test]
    fn half_a_file_is_none() {
        let text = write(&[("state", Field::Text("Active")), ("since", Field::Text("now"))]);
        for end in 1..text.len() - 2 {
            assert_eq!(read(&text[..end]), None, "{}", &text[..end]);
        }
    }
}
