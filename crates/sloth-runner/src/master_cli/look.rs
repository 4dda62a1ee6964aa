//! `master check` and `master backup`: what they found and did, for people or for programs.

use super::{BackupArgs, CheckArgs, FAILED};
use crate::{cli::Format, store, tool::json};
use serde::Serialize;
use sloth_agent::config::{reader::Shown, units::ShowSize};
use std::{borrow::Cow, path::Path};

#[derive(Serialize)]
struct Checked<'a> {
    /// The configuration file; none where the defaults hold.
    file: Option<Cow<'a, str>>,
    settings: Vec<Setting>,
    without_effect: &'a [&'static str],
    listen: String,
    state_dir: Cow<'a, str>,
    store: Cow<'a, str>,
}

/// What somebody set.
#[derive(Serialize)]
struct Setting {
    key: String,
    value: String,
    origin: String,
}

#[derive(Serialize)]
struct BackedUp<'a> {
    store: Cow<'a, str>,
    file: Cow<'a, str>,
    bytes: u64,
    agents: u64,
    commands: u64,
    events: u64,
}

/// Says whether the configuration holds: 2 if not.
pub fn check(args: CheckArgs, format: Format) -> Result<(), i32> {
    let loaded = args.config.load(None, args.insecure)?;
    let config = &loaded.config;
    if format == Format::Json {
        let setting = |shown: &Shown| Setting {
            key: shown.key.clone(),
            value: shown.value.clone(),
            origin: shown.origin.to_string(),
        };
        return print(&json::document(&Checked {
            file: loaded.file.as_deref().map(Path::to_string_lossy),
            settings: loaded.shown.iter().map(setting).collect(),
            without_effect: &loaded.idle,
            listen: config.listen.to_string(),
            state_dir: config.state_dir.to_string_lossy(),
            store: config.store.to_string_lossy(),
        }));
    }
    let mut text = match &loaded.file {
        Some(file) => format!("{}: valid\n", file.display()),
        None => "no configuration file: defaults\n".to_owned(),
    };
    for setting in &loaded.shown {
        text += &format!("{} = {} ({})\n", setting.key, setting.value, setting.origin);
    }
    if !loaded.idle.is_empty() {
        text += &format!("without an effect in this version: {}\n", loaded.idle.join(", "));
    }
    let (state_dir, store) = (config.state_dir.display(), config.store.display());
    text += &format!("listens on {}, state in {state_dir}, database {store}\n", config.listen);
    print(&text)
}

/// Copies the database.
pub fn backup(args: BackupArgs, format: Format) -> Result<(), i32> {
    // Where it listens does not matter here.
    let config = args.config.load(None, true)?.config;
    let summary = store::backup(&config.store, &args.file, args.force).map_err(|error| {
        crate::tool::say(&format!("cannot back up: {error}"));
        FAILED
    })?;
    let store::Summary { bytes, agents, commands, events } = summary;
    let (store, file) = (config.store.to_string_lossy(), args.file.to_string_lossy());
    print(&match format {
        Format::Json => json::document(&BackedUp { store, file, bytes, agents, commands, events }),
        Format::Table => format!(
            "{store} backed up to {file} ({}, checked): {agents} agents, {commands} commands, {events} events; outputs \
             are not part of it\n",
            ShowSize(bytes),
        ),
    })
}

fn print(text: &str) -> Result<(), i32> {
    match crate::tool::print(text) {
        0 => Ok(()),
        code => Err(code),
    }
}
