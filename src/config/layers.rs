//! The layers that a configuration is made of, each value with its place.

use std::{collections::BTreeMap, fmt, io::Read, path::Path, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::reader::Reader;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    File {
        path: Arc<str>,
        line: usize,
    },
    /// The variable's name.
    Environment(String),
    /// The flag as it was written, such as `--name` or `--set log.level`.
    Flag(String),
}

impl Origin {
    /// A layer of a higher rank overrides one of a lower rank.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(text) | Self::Flag(text) => f.write_str(text),
        }
    }
}

/// Something wrong with a configuration: where, and a sentence with key, value, rule and remedy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub origin: Origin,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Default => f.write_str(&self.text),
            _ => write!(f, "{}: {}", self.origin, self.text),
        }
    }
}

/// Everything that is wrong with a configuration, one line each, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Values by dotted key, lower layers overridden by higher ones.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    entries: BTreeMap<String, Entry>,
    /// Tables that a file opens, empty ones included.
    sections: Vec<(String, Origin)>,
    problems: Vec<Problem>,
    /// A file could not be read: judging the rest would blame what it may well set.
    broken: bool,
}

impl Layers {
    /// Adds the file at `path`, TOML in UTF-8. What is wrong with it is kept for [`Reader::finish`].
    pub fn add_file(&mut self, path: &Path) {
        match read_text(path) {
            Ok(text) => self.add_text(&path.display().to_string(), &text),
            Err(rule) => {
                self.broken = true;
                let text = format!("cannot read the configuration file {}: {rule}", path.display());
                self.problems.push(Problem { origin: Origin::Default, text });
            }
        }
    }

    /// Adds a file's text; `name` is what messages call it.
    pub fn add_text(&mut self, name: &str, text: &str) {
        let name: Arc<str> = name.into();
        let (table, errors) = DeTable::parse_recoverable(text);
        let place = |offset: usize| Origin::File { path: name.clone(), line: line_of(text, offset) };
        let text_at = |span| text.get::<std::ops::Range<usize>>(span).unwrap_or_default();
        for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
            self.broken = true;
            let span = error.span().unwrap_or_default();
            let offset = span.start;
            let mut text = format!("is not TOML: {}", error.message());
            if error.message() == "duplicate key" {
                // Where the second one stands.
                let key = text_at(span);
                text = format!("is not TOML: duplicate key {key}: it stands above already, remove one of them");
            }
            self.problems.push(Problem { origin: place(offset), text });
        }
        if errors.is_empty() {
            self.flatten("", table.get_ref(), text, &place);
        }
    }

    fn flatten(&mut self, section: &str, table: &DeTable<'_>, text: &str, place: &dyn Fn(usize) -> Origin) {
        for (name, value) in table.iter() {
            let key =
                if section.is_empty() { name.get_ref().to_string() } else { format!("{section}.{}", name.get_ref()) };
            let origin = place(name.span().start);
            if let DeValue::Table(inner) = value.get_ref() {
                self.sections.push((key.clone(), origin));
                self.flatten(&key, inner, text, place);
                continue;
            }
            let raw = text.get(value.span()).unwrap_or_default().to_string();
            let entry = Entry { value: Value::of(value.get_ref()), raw, origin };
            if let Some(other) = self.entries.get(&key)
                && matches!(other.origin, Origin::File { .. })
                && other.origin.rank() == entry.origin.rank()
            {
                let text = format!("{key} is given twice, here and at {}: leave one out", other.origin);
                self.problems.push(Problem { origin: entry.origin.clone(), text });
            }
            self.entries.insert(key, entry);
        }
    }

    /// Adds the value of an environment variable.
    pub fn add_environment(&mut self, variable: &str, key: &str, value: &str) {
        self.insert_text(key, value, Origin::Environment(variable.to_string()));
    }

    /// Adds the value of a flag.
    pub fn add_flag(&mut self, flag: &str, key: &str, value: &str) {
        self.insert_text(key, value, Origin::Flag(flag.to_string()));
    }

    /// Adds the values of a flag that may stand several times; together they are one list.
    pub fn add_flag_list(&mut self, flag: &str, key: &str, values: &[String]) {
        let value = Value::Array(values.iter().map(|text| Value::String(text.clone())).collect());
        let origin = Origin::Flag(flag.to_string());
        self.entries.insert(key.to_string(), Entry { value, raw: values.join(", "), origin });
    }

    /// Adds a `section.key=value` as `--set` takes it: the value is TOML, and what does not parse is a string.
    pub fn add_assignment(&mut self, assignment: &str) {
        let Some((key, text)) = assignment.split_once('=') else {
            let text = format!("{assignment:?} has no '=': write it like --set heartbeat.interval=5s");
            return self.problems.push(Problem { origin: Origin::Flag("--set".into()), text });
        };
        let (key, text) = (key.trim(), text.trim());
        if key.is_empty() || key.split('.').any(str::is_empty) {
            let text = format!("{assignment:?} has no key before the '=': write it like --set heartbeat.interval=5s");
            return self.problems.push(Problem { origin: Origin::Flag("--set".into()), text });
        }
        let origin = Origin::Flag(format!("--set {key}"));
        match DeValue::parse(text) {
            Ok(value) => match value.get_ref() {
                DeValue::Table(table) => self.flatten(key, table, text, &|_| origin.clone()),
                value => {
                    self.entries.insert(key.into(), Entry { value: Value::of(value), raw: text.into(), origin });
                }
            },
            Err(_) => {
                self.entries.insert(key.into(), Entry { value: Value::String(text.into()), raw: text.into(), origin });
            }
        }
    }

    fn insert_text(&mut self, key: &str, text: &str, origin: Origin) {
        // Typed getters read numbers and booleans from the text themselves.
        self.entries.insert(key.into(), Entry { value: Value::String(text.into()), raw: text.into(), origin });
    }

    /// The text that a key has so far, if it has one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.entries.get(key)?.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A file could not be read, or not as TOML.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ends the adding.
    pub fn reader(self) -> Reader {
        Reader::new(self.entries, self.sections, self.problems, self.broken)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Array(Vec<Value>),
    /// What no setting takes, with its name for messages.
    Other(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    /// As it was written.
    pub(super) raw: String,
    pub(super) origin: Origin,
}

/// Largest configuration file that is read, in bytes: far above any real one, far below what would hurt.
const FILE_SIZE_MAX: u64 = 1 << 20;
/// How many syntax errors of one file are shown: later ones mostly follow from earlier ones.
const SYNTAX_ERRORS_MAX: usize = 5;

impl Value {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::String(text.to_string()),
            // What does not fit is far above every bound, and is refused for that.
            DeValue::Integer(number) => {
                Self::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
            }
            DeValue::Float(number) => Self::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Array(items) => Self::Array(items.iter().map(|item| Self::of(item.get_ref())).collect()),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}

/// The line of a byte, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A whole configuration file as text, or a fragment that says why not and what to do.
fn read_text(path: &Path) -> Result<String, String> {
    if path.is_dir() {
        return Err("it is a directory: name the file in it".into());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: {}", describe(&error), remedy(&error)))?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(format!("it is larger than {FILE_SIZE_MAX} bytes: is it the right file?"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let bytes = error.as_bytes();
        let line = bytes[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("it is not UTF-8 (line {line}): save it as UTF-8")
    })
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "check the path",
        std::io::ErrorKind::PermissionDenied => "make it readable for the user that starts this program",
        _ => "check the file system",
    }
}

/// What happened, without the `(os error 2)` that says nothing to people.
pub fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
