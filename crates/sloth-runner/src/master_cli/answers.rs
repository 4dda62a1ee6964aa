//! What `master check` and `master backup` print with `-o json`. The field names are an interface.

use crate::{master_config::Loaded, store::Summary, tool::json::document};
use serde::Serialize;
use sloth_agent::config::reader::Problems;
use std::path::Path;

#[derive(Serialize)]
struct Checked<'a> {
    valid: bool,
    /// None: no file was found.
    file: Option<String>,
    settings: Vec<Setting<'a>>,
    /// Set, and without an effect in this version.
    idle: &'a [&'static str],
    listen: String,
    state_dir: String,
    store: String,
}

#[derive(Serialize)]
struct Setting<'a> {
    key: &'a str,
    value: &'a str,
    origin: String,
}

#[derive(Serialize)]
struct Invalid {
    valid: bool,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct BackedUp {
    store: String,
    file: String,
    bytes: u64,
    agents: u64,
    commands: u64,
    events: u64,
}

/// A configuration that holds.
pub fn checked(loaded: &Loaded) -> String {
    let settings = loaded.shown.iter();
    let settings =
        settings.map(|one| Setting { key: &one.key, value: &one.value, origin: one.origin.to_string() }).collect();
    let config = &loaded.config;
    document(&Checked {
        valid: true,
        file: loaded.file.as_deref().map(text),
        settings,
        idle: &loaded.idle,
        listen: config.listen.to_string(),
        state_dir: text(&config.state_dir),
        store: text(&config.store),
    })
}

/// Everything that is wrong with one, a sentence each.
pub fn problems(problems: &Problems) -> String {
    let problems = problems.to_string().lines().map(str::to_owned).collect();
    document(&Invalid { valid: false, problems })
}

pub fn backed_up(store: &Path, file: &Path, summary: &Summary) -> String {
    let Summary { bytes, agents, commands, events } = *summary;
    document(&BackedUp { store: text(store), file: text(file), bytes, agents, commands, events })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
