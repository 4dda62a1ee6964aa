//! Reading settings from layers: a file below environment variables below flags, each value with its place.
//!
//! A program builds [`Layers`], turns them into a [`Reader`], and asks it for each of its keys by a typed getter. A
//! getter that finds something wrong notes it and hands out the default, so that everything wrong is found in one pass;
//! [`Reader::finish`] adds the keys that nobody asked for and returns all of it at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

pub use super::layers::{Layers, Origin, Problem, Problems};
use super::{
    layers::{Entry, Value},
    phrase::{Plain, any_of, bare_or_quoted, distance, kind, mismatch, outside, quoted, shown_value},
    units::{ShowDuration, ShowSize, parse_duration, parse_size},
};

/// A value that was read, and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T> {
    pub key: &'static str,
    pub value: T,
    pub origin: Origin,
    /// False when the value was refused and the default stands in: rules that compare settings leave it out.
    pub valid: bool,
}

/// A key that somebody set, as `check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub key: String,
    pub value: String,
    pub origin: Origin,
}

/// Hands out settings by key, and notes what is wrong.
#[derive(Debug)]
pub struct Reader {
    entries: BTreeMap<String, Entry>,
    sections: Vec<(String, Origin)>,
    /// Of the layers themselves, before any key was read.
    layer_problems: Vec<Problem>,
    broken: bool,
    problems: Vec<Problem>,
    known: BTreeSet<&'static str>,
    tables: BTreeSet<&'static str>,
    shown: Vec<Shown>,
    directory: Option<PathBuf>,
}

impl Reader {
    pub(super) fn new(
        entries: BTreeMap<String, Entry>,
        sections: Vec<(String, Origin)>,
        layer_problems: Vec<Problem>,
        broken: bool,
    ) -> Self {
        let (problems, known, tables, shown, directory) = Default::default();
        Self { entries, sections, layer_problems, broken, problems, known, tables, shown, directory }
    }

    /// From now on relative paths begin there, and not at the working directory.
    pub fn begin_paths_at(&mut self, directory: Option<PathBuf>) {
        self.directory = directory;
    }

    /// Where a key that was read was set; none if nowhere.
    pub fn origin(&self, key: &str) -> Option<Origin> {
        self.shown.iter().find(|shown| shown.key == key).map(|shown| shown.origin.clone())
    }

    /// A duration within `bounds`.
    pub fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Setting<Duration> {
        let setting = self.optional_duration(key, bounds);
        setting.or(default)
    }

    /// A duration within `bounds`, or none.
    pub fn optional_duration(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Setting<Option<Duration>> {
        self.read(key, |entry| {
            let value = match &entry.value {
                Value::String(text) => parse_duration(text)?,
                Value::Integer(_) | Value::Float(_) => parse_duration(&entry.raw)?,
                other => return Err(mismatch(other, "a duration: write it like \"5s\", \"1m30s\" or \"250ms\"")),
            };
            if bounds.contains(&value) {
                return Ok(value);
            }
            let (low, high) = (ShowDuration(*bounds.start()), ShowDuration(*bounds.end()));
            Err(outside(value < *bounds.start(), &low, &high))
        })
    }

    /// A number of bytes within `bounds`.
    pub fn size(&mut self, key: &'static str, default: u64, bounds: RangeInclusive<u64>) -> Setting<u64> {
        let setting = self.read(key, |entry| {
            let value = match &entry.value {
                Value::String(text) => parse_size(text)?,
                Value::Integer(number) if *number < 0 => return Err("negative: write it without the sign".into()),
                Value::Integer(number) => u64::try_from(*number).unwrap_or(u64::MAX),
                other => return Err(mismatch(other, "a size: write it like \"16MiB\" or as a plain number of bytes")),
            };
            if bounds.contains(&value) {
                return Ok(value);
            }
            Err(outside(value < *bounds.start(), &ShowSize(*bounds.start()), &ShowSize(*bounds.end())))
        });
        setting.or(default)
    }

    /// A whole number within `bounds`.
    pub fn integer(&mut self, key: &'static str, default: u32, bounds: RangeInclusive<u32>) -> Setting<u32> {
        let setting = self.optional_integer(key, bounds);
        setting.or(default)
    }

    /// A whole number within `bounds`, or none.
    pub fn optional_integer(&mut self, key: &'static str, bounds: RangeInclusive<u32>) -> Setting<Option<u32>> {
        self.read(key, |entry| {
            let number = match &entry.value {
                Value::Integer(number) => *number,
                Value::String(text) if !matches!(entry.origin, Origin::File { .. }) => text
                    .parse::<i128>()
                    .map_err(|_| format!("not a whole number: use {} to {}", bounds.start(), bounds.end()))?,
                other => {
                    let wanted = format!("a whole number: use {} to {}", bounds.start(), bounds.end());
                    return Err(mismatch(other, &wanted));
                }
            };
            match u32::try_from(number) {
                Ok(value) if bounds.contains(&value) => Ok(value),
                _ => Err(outside(number < i128::from(*bounds.start()), bounds.start(), bounds.end())),
            }
        })
    }

    /// A number within `bounds`; a whole one will do.
    pub fn float(&mut self, key: &'static str, default: f64, bounds: RangeInclusive<f64>) -> Setting<f64> {
        let setting = self.read(key, |entry| {
            let wanted = format!("a number: use {:?} to {:?}", bounds.start(), bounds.end());
            let value = match &entry.value {
                Value::Float(value) => *value,
                Value::Integer(value) => *value as f64,
                Value::String(text) if !matches!(entry.origin, Origin::File { .. }) => {
                    text.parse().map_err(|_| format!("not {wanted}"))?
                }
                other => return Err(mismatch(other, &wanted)),
            };
            if value.is_nan() {
                return Err(format!("not {wanted}"));
            }
            if bounds.contains(&value) {
                return Ok(value);
            }
            Err(outside(value < *bounds.start(), &Plain(*bounds.start()), &Plain(*bounds.end())))
        });
        setting.or(default)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, default: bool) -> Setting<bool> {
        let setting = self.optional_boolean(key);
        setting.or(default)
    }

    /// `true`, `false`, or none.
    pub fn optional_boolean(&mut self, key: &'static str) -> Setting<Option<bool>> {
        self.read(key, |entry| match &entry.value {
            Value::Boolean(value) => Ok(*value),
            Value::String(text) if !matches!(entry.origin, Origin::File { .. }) => {
                text.parse().map_err(|_| "neither true nor false: use one of them".to_string())
            }
            other => Err(mismatch(other, "true or false: use one of them, without quotes")),
        })
    }

    /// A string that `check` turns into a value, or none. What `check` refuses it says as a fragment that reads after
    /// `key is "value", `, with the remedy.
    pub fn string<T>(
        &mut self,
        key: &'static str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Setting<Option<T>> {
        self.read(key, |entry| check(&string_of(entry)?))
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> Setting<T> {
        let setting = self.string(key, |text| match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                Err(format!("not a word for it: use {}", any_of(&words)))
            }
        });
        setting.or(default)
    }

    /// A path, made absolute against the working directory; or none.
    pub fn path(&mut self, key: &'static str) -> Setting<Option<PathBuf>> {
        let directory = self.directory.clone().unwrap_or_default();
        self.string(key, |text| {
            if text.is_empty() {
                return Err("empty: give a path, or leave the key out".into());
            }
            if text.contains('\0') {
                return Err("not a path: take the NUL byte out".into());
            }
            std::path::absolute(directory.join(text))
                .map_err(|error| format!("not to be made absolute ({error}): write it from the root on"))
        })
    }

    /// A list of strings, each turned into a value by `check`; or none. A single string is a list of one, on the
    /// command line.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        items_max: usize,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<Option<Vec<T>>> {
        self.known.insert(key);
        let none = |origin, valid| Setting { key, value: None, origin, valid };
        let Some(entry) = self.entries.remove(key) else { return none(Origin::Default, true) };
        let items = match &entry.value {
            Value::Array(items) if items.len() <= items_max => items.as_slice(),
            Value::Array(items) => {
                let text = format!("{key} has {} entries, above {items_max}: leave some out", items.len());
                self.problem(&entry.origin, text);
                return none(entry.origin, false);
            }
            Value::String(_) if !matches!(entry.origin, Origin::File { .. }) => std::slice::from_ref(&entry.value),
            other => {
                let rule = mismatch(other, "a list of strings: write it like [\"one\", \"two\"]");
                self.problem(&entry.origin, format!("{key} is {}, {rule}", shown_value(&entry)));
                return none(entry.origin, false);
            }
        };
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::String(text) => match check(text) {
                    Ok(value) => values.push(value),
                    Err(rule) => self.problem(&entry.origin, format!("{key} holds {}, {rule}", quoted(text))),
                },
                other => self.problem(&entry.origin, format!("{key} holds {}: put it in quotes", kind(other))),
            }
        }
        if values.len() < items.len() {
            return none(entry.origin, false);
        }
        self.show(key, shown_value(&entry), &entry.origin);
        Setting { key, value: Some(values), origin: entry.origin, valid: true }
    }

    /// A section whose keys are free, as labels are. `check` gets key and value.
    pub fn table(
        &mut self,
        section: &'static str,
        entries_max: usize,
        check: impl Fn(&str, &str) -> Result<(), String>,
    ) -> BTreeMap<String, String> {
        self.tables.insert(section);
        let prefix = format!("{section}.");
        let keys: Vec<String> = self.entries.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        let mut table = BTreeMap::new();
        for key in keys {
            let entry = self.entries.remove(&key).expect("the key was just found");
            let name = &key[prefix.len()..];
            match string_of(&entry).and_then(|text| check(name, &text).map(|()| text)) {
                Ok(text) => {
                    self.show(&key, bare_or_quoted(&text), &entry.origin);
                    table.insert(name.to_string(), text);
                }
                Err(rule) => self.problem(&entry.origin, format!("{key} is {}, {rule}", shown_value(&entry))),
            }
            if table.len() == entries_max + 1 {
                let text = format!("{section} has more than {entries_max} entries: leave some out");
                self.problem(&entry.origin, text);
            }
        }
        table
    }

    /// A secret from flag or environment. In a file or after `--set` it is refused with `remedy`; it is never shown.
    pub fn secret<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Setting<Option<T>> {
        let none = |origin, valid| Setting { key, value: None, origin, valid };
        let Some(entry) = self.entries.remove(key) else { return none(Origin::Default, true) };
        let written_down = match &entry.origin {
            Origin::File { .. } => true,
            Origin::Flag(flag) => flag.starts_with("--set"),
            Origin::Default | Origin::Environment(_) => false,
        };
        let checked =
            if written_down { Err(remedy.to_string()) } else { string_of(&entry).and_then(|text| check(&text)) };
        match checked {
            Ok(value) => {
                self.show(key, "***".into(), &entry.origin);
                Setting { key, value: Some(value), origin: entry.origin, valid: true }
            }
            Err(rule) => {
                self.problem(&entry.origin, format!("{key} {rule}"));
                none(entry.origin, false)
            }
        }
    }

    /// Two keys that say the same thing: of different layers the higher one counts, in one layer they are a problem.
    pub fn alternatives(&mut self, one: &str, other: &str) {
        let (Some(a), Some(b)) = (self.entries.get(one), self.entries.get(other)) else { return };
        match a.origin.rank().cmp(&b.origin.rank()) {
            std::cmp::Ordering::Less => drop(self.entries.remove(one)),
            std::cmp::Ordering::Greater => drop(self.entries.remove(other)),
            std::cmp::Ordering::Equal => {
                let text = format!("{one} and {other} are both given ({other} at {}): leave one out", b.origin);
                self.problem(&a.origin.clone(), text);
                self.entries.remove(other);
            }
        }
    }

    /// Notes a problem that a rule between settings found.
    pub fn problem(&mut self, origin: &Origin, text: String) {
        self.problems.push(Problem { origin: origin.clone(), text });
    }

    /// Every key that was asked for so far.
    pub fn known(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().copied()
    }

    /// Ends the reading: what somebody set, sorted by key.
    ///
    /// # Errors
    /// Everything that is wrong: what getters and rules noted, and keys and sections that nobody asked for.
    pub fn finish(mut self) -> Result<Vec<Shown>, Problems> {
        if self.broken {
            // The rest may be wrong only for want of the file.
            return Err(sorted(self.layer_problems));
        }
        self.problems.append(&mut self.layer_problems);
        let strangers = std::mem::take(&mut self.entries);
        let sections = std::mem::take(&mut self.sections);
        for (section, origin) in &sections {
            let prefix = format!("{section}.");
            let known = self.tables.iter().any(|table| section == table || section.starts_with(&format!("{table}.")))
                || self.known.iter().any(|key| key.starts_with(&prefix));
            // A section that holds something is complained of by what it holds.
            let holds = strangers.keys().any(|key| key.starts_with(&prefix))
                || sections.iter().any(|(inner, _)| inner.starts_with(&prefix));
            if !known && !holds {
                let text = self.stranger(section, None);
                self.problem(origin, text);
            }
        }
        for (key, entry) in &strangers {
            let text = self.stranger(key, Some(entry));
            self.problem(&entry.origin, text);
        }
        if self.problems.is_empty() {
            self.shown.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(self.shown)
        } else {
            Err(sorted(self.problems))
        }
    }

    /// What to say of a key, or of a section, that nobody asked for.
    fn stranger(&self, key: &str, entry: Option<&Entry>) -> String {
        if let Some(parent) = self.known.iter().find(|known| key.starts_with(&format!("{known}.")) || **known == key) {
            return format!("{key} is not known: {parent} is a single value, not a section; write {parent} = …");
        }
        let prefix = format!("{key}.");
        let inside = self.known.iter().chain(&self.tables).find(|known| known.starts_with(&prefix) || **known == key);
        if let (Some(inside), Some(entry)) = (inside, entry) {
            let value = shown_value(entry);
            let example = if *inside == key { format!("{key}.name") } else { inside.to_string() };
            return format!("{key} is {value}, but {key} is a section: set its keys, such as {example}");
        }
        match self.suggestion(key, entry.is_none()) {
            Some(suggestion) => format!("{key} is not known: did you mean {suggestion}?"),
            None if entry.is_none() => format!("{key} is no section that is known: remove it"),
            None => format!("{key} is not known: remove it"),
        }
    }

    fn suggestion(&self, key: &str, section: bool) -> Option<String> {
        let mut candidates: Vec<&str> = self.known.iter().copied().collect();
        if section {
            candidates = candidates.iter().filter_map(|known| Some(known.rsplit_once('.')?.0)).collect();
            candidates.extend(&self.tables);
        }
        let near = candidates.iter().map(|known| (distance(key, known), *known)).min()?;
        if near.0 <= (key.len() / 4).clamp(1, 4) {
            return Some(near.1.to_string());
        }
        // The right name in the wrong section.
        let name = key.rsplit('.').next().unwrap_or(key);
        let mut same = candidates.iter().filter(|known| known.rsplit('.').next() == Some(name));
        same.next().map(|first| match same.next() {
            Some(second) => format!("{first} or {second}"),
            None => first.to_string(),
        })
    }

    fn show(&mut self, key: &str, value: String, origin: &Origin) {
        self.shown.push(Shown { key: key.to_string(), value, origin: origin.clone() });
    }

    fn read<T>(&mut self, key: &'static str, read: impl FnOnce(&Entry) -> Result<T, String>) -> Setting<Option<T>> {
        self.known.insert(key);
        let Some(entry) = self.entries.remove(key) else {
            return Setting { key, value: None, origin: Origin::Default, valid: true };
        };
        match read(&entry) {
            Ok(value) => {
                self.show(key, shown_value(&entry), &entry.origin);
                Setting { key, value: Some(value), origin: entry.origin, valid: true }
            }
            Err(rule) => {
                self.problem(&entry.origin, format!("{key} is {}, {}", shown_value(&entry), rule));
                Setting { key, value: None, origin: entry.origin, valid: false }
            }
        }
    }
}

impl<T> Setting<T> {
    /// Whether nobody set it.
    pub fn is_default(&self) -> bool {
        self.origin == Origin::Default
    }
}

impl<T> Setting<Option<T>> {
    /// The same with a default for none.
    pub fn or(self, default: T) -> Setting<T> {
        Setting { key: self.key, value: self.value.unwrap_or(default), origin: self.origin, valid: self.valid }
    }
}

fn sorted(mut problems: Vec<Problem>) -> Problems {
    problems.sort();
    Problems(problems)
}

/// The text of a string. On the command line everything is text already.
fn string_of(entry: &Entry) -> Result<String, String> {
    match (&entry.value, &entry.origin) {
        (Value::String(text), _) => Ok(text.clone()),
        (Value::Array(_), _) | (_, Origin::File { .. }) => Err(mismatch(&entry.value, "a string: put it in quotes")),
        _ => Ok(entry.raw.clone()),
    }
}
