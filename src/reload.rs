//! Reading the configuration again: from where, what that changes, which settings take effect at once, which wait for
//! the next start, and whether the master has to hear of it.

use crate::{
    config::{Config, Loaded, Log, Problems, Shown, Sources, Surroundings, load},
    report::Line,
};
use log::Level;
use std::{collections::BTreeMap, path::Path};
use tokio::task::JoinHandle;

/// Settings that are used once, at the start.
const AT_START: [&str; 10] = [
    "name",
    "state_dir",
    "listen.port",
    "listen.bind_address",
    "log.file",
    "log.timestamps",
    "commands.output_limit",
    "commands.when_full",
    "commands.spool_limit",
    "commands.spool",
];

/// What the configuration was made from at the start, so that it can be made again: wherever the process is by then,
/// and whatever became of the machine's name.
#[derive(Clone, Debug)]
pub struct Given {
    sources: Sources,
    surroundings: Surroundings,
}

impl Given {
    /// The options by which other commands find this agent.
    pub fn finds(&self, config: &Config) -> String {
        self.surroundings.finds(&config.name, &config.state_dir)
    }

    /// Paths are kept as they are meant in the working directory of now. A file that was found counts from now on, as
    /// if it had been named: when it is gone later, that is an error and not a reason to fall back to defaults.
    pub fn new(mut sources: Sources, mut surroundings: Surroundings, found: Option<&Path>) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        sources.file = found.map(absolute);
        surroundings.files = surroundings.files.iter().map(|path| absolute(path)).collect();
        surroundings.directory = std::env::current_dir().ok();
        Self { sources, surroundings }
    }

    /// Reads the configuration as it is now. Blocks for as long as its files do.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, Problems> {
        load(&self.sources, &self.surroundings)
    }
}

/// Reads the configuration again when it is told to, on a helper thread, one reading at a time.
#[derive(Debug)]
pub struct Reload {
    given: Given,
    /// What runs.
    shown: Vec<Shown>,
    reading: Option<JoinHandle<Result<Loaded, Problems>>>,
    /// Asked for while one was under way, which may have read the file before it was changed.
    again: bool,
}

impl Reload {
    /// `shown` is what was set at the start.
    pub fn new(given: Given, shown: Vec<Shown>) -> Self {
        Self { given, shown, reading: None, again: false }
    }

    /// Begins to read; false if one is under way, after which it is done once more.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn begin(&mut self) -> bool {
        if self.reading.is_some() {
            self.again = true;
            return false;
        }
        let given = self.given.clone();
        self.reading = Some(crate::helper::spawn(move || given.load()));
        true
    }

    /// What was read; never, while nothing is.
    ///
    /// # Cancel safety
    /// Safe: the reading goes on.
    pub async fn done(&mut self) -> Result<Box<Loaded>, Vec<String>> {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        if std::mem::take(&mut self.again) {
            self.begin();
        }
        match read {
            Ok(Ok(loaded)) => Ok(Box::new(loaded)),
            Ok(Err(problems)) => Err(problems.0.iter().map(ToString::to_string).collect()),
            Err(error) => Err(vec![format!("reading it failed: {error}")]),
        }
    }

    /// What a configuration changes, against the one that runs, and from now on it is that one that runs. What waits
    /// for the next start is named each time, for as long as it waits.
    pub fn replace(&mut self, running: &Config, loaded: &Loaded) -> Vec<Change> {
        let mut found = changes(&self.shown, &loaded.shown, waits);
        let named = found.iter().any(|change| change.text.starts_with("auth."));
        if running.token != loaded.config.token && !named {
            // Its value shows nowhere.
            found.push(Change { text: "the token changed".to_owned(), waits: false });
        }
        let kept = self.shown.iter().filter(|shown| waits(&shown.key));
        let taken = loaded.shown.iter().filter(|shown| !waits(&shown.key));
        self.shown = kept.chain(taken).cloned().collect();
        if let Some(file) = &loaded.file {
            self.given.sources.file = Some(file.clone());
        }
        found
    }
}

/// One setting that is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// For the log.
    pub text: String,
    /// It takes effect at the next start only.
    pub waits: bool,
}

/// What the log says of them.
pub fn told(changes: &[Change]) -> Vec<Line> {
    let line = |Change { text, waits }: &Change| match waits {
        true => Line::Log(Level::Warn, format!("config: {text}: needs a restart")),
        false => Line::Log(Level::Info, format!("config: {text}")),
    };
    match changes {
        [] => vec![Line::Log(Level::Info, "config: read again, nothing has changed".to_owned())],
        changes => changes.iter().map(line).collect(),
    }
}

/// What the log says of a configuration that does not hold.
pub fn refused(problems: &[String]) -> Vec<Line> {
    let each = problems.iter().map(|problem| Line::Log(Level::Error, format!("config: {problem}")));
    let stays = "config: not taken over, the running configuration stays".to_owned();
    each.chain([Line::Log(Level::Error, stays)]).collect()
}

/// What is set otherwise than before, by key. `waits`: a key that is used once, at the start.
pub fn changes(old: &[Shown], new: &[Shown], waits: impl Fn(&str) -> bool) -> Vec<Change> {
    let mut keys: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for shown in old {
        keys.entry(&shown.key).or_default().0 = Some(&shown.value);
    }
    for shown in new {
        keys.entry(&shown.key).or_default().1 = Some(&shown.value);
    }
    let changed = keys.into_iter().filter(|(_, (old, new))| old != new);
    let change = |(key, (old, new)): (&str, (Option<&str>, Option<&str>))| {
        let [old, new] = [old, new].map(|value| value.unwrap_or("the default"));
        Change { text: format!("{key} changed from {old} to {new}"), waits: waits(key) }
    };
    changed.map(change).collect()
}

fn waits(key: &str) -> bool {
    AT_START.contains(&key)
}

/// The new configuration, but for what waits for the next start.
pub fn merged(running: &Config, mut new: Config) -> Config {
    let old = running.clone();
    new.name = old.name;
    new.state_dir = old.state_dir;
    new.listen.port = old.listen.port;
    new.listen.bind_address = old.listen.bind_address;
    new.log = Log { file: old.log.file, timestamps: old.log.timestamps, ..new.log };
    new.commands.output_limit = old.commands.output_limit;
    new.commands.when_full = old.commands.when_full;
    new.commands.spool_limit = old.commands.spool_limit;
    new.commands.spool = old.commands.spool;
    new
}

/// Whether the session rests on what has changed: the master was told it, or it is with a master, or by means, that
/// are not configured any more. `present` is the master's address. A token that is no longer there has done its work.
pub fn needs_a_new_session(old: &Config, new: &Config, present: &str) -> bool {
    !new.masters.iter().any(|master| master.to_string() == present)
        || old.tls != new.tls
        || (new.token.is_some() && old.token != new.token)
        || old.labels != new.labels
        || old.heartbeat != new.heartbeat
        || old.listen.report_address != new.listen.report_address
}

#[cfg(test)]
mod tests;
