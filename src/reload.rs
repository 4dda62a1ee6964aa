//! What a reload changes: which settings take effect at once, which wait for the next start, and whether the master
//! has to hear of it.

use crate::config::{Config, Shown};
use std::collections::BTreeMap;

/// Settings that are used once, at the start.
const AT_START: [&str; 14] = [
    "name",
    "state_dir",
    "listen.port",
    "listen.bind_address",
    "http.listen",
    "log.file",
    "log.max_size",
    "log.max_files",
    "log.timestamps",
    "commands.output_limit",
    "commands.when_full",
    "commands.spool_limit",
    "commands.spool",
    "commands.remember",
];

/// One setting that is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// For the log.
    pub text: String,
    /// It takes effect at the next start only.
    pub waits: bool,
}

/// What is set otherwise than before, by key.
pub fn changes(old: &[Shown], new: &[Shown]) -> Vec<Change> {
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
        Change { text: format!("{key} is now {new}, it was {old}"), waits: AT_START.contains(&key) }
    };
    changed.map(change).collect()
}

/// The new configuration, but for what waits for the next start.
pub fn merged(running: &Config, mut new: Config) -> Config {
    let old = running.clone();
    new.name = old.name;
    new.state_dir = old.state_dir;
    new.listen.port = old.listen.port;
    new.listen.bind_address = old.listen.bind_address;
    new.http_listen = old.http_listen;
    new.log = crate::config::Log { level: new.log.level, ..old.log };
    new.commands.output_limit = old.commands.output_limit;
    new.commands.when_full = old.commands.when_full;
    new.commands.spool_limit = old.commands.spool_limit;
    new.commands.spool = old.commands.spool;
    new.commands.remember = old.commands.remember;
    new
}

/// Whether the session rests on what has changed: the master was told it, or it is another master.
pub fn needs_a_new_session(old: &Config, new: &Config) -> bool {
    old.masters != new.masters
        || old.tls != new.tls
        || old.labels != new.labels
        || old.heartbeat != new.heartbeat
        || old.listen.report_address != new.listen.report_address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, Surroundings, load};

    fn loaded(settings: &[&str]) -> crate::config::Loaded {
        let sources =
            Sources { assignments: settings.iter().map(ToString::to_string).collect(), ..Sources::default() };
        load(&sources, &Surroundings { host_name: "n".into(), ..Surroundings::default() }).unwrap()
    }

    #[test]
    fn changes_are_named_with_both_values_and_when_they_count() {
        let old = loaded(&["heartbeat.interval=5s", "labels.a=1", "log.level=debug"]);
        let new = loaded(&["heartbeat.interval=7s", "labels.a=1", "listen.port=5"]);
        let changes = changes(&old.shown, &new.shown);
        let said: Vec<_> = changes.iter().map(|change| (change.text.as_str(), change.waits)).collect();
        assert_eq!(
            said,
            [
                ("heartbeat.interval is now 7s, it was 5s", false),
                ("listen.port is now 5, it was the default", true),
                ("log.level is now the default, it was debug", false),
            ]
        );
        let merged = merged(&old.config, new.config.clone());
        assert_eq!((merged.listen.port, merged.heartbeat.clone()), (None, new.config.heartbeat));
        assert!(needs_a_new_session(&old.config, &merged));
    }

    #[test]
    fn every_setting_that_waits_is_kept_as_it_was() {
        let old = loaded(&[]);
        let new = loaded(&[
            "name=b",
            "state_dir=/s",
            "listen.port=5",
            "listen.bind_address=127.0.0.1",
            "http.listen=127.0.0.1:1",
            "log.file=/l",
            "log.max_size=2MiB",
            "log.max_files=9",
            "log.timestamps=false",
            "commands.output_limit=1MiB",
            "commands.when_full=drop",
            "commands.spool_limit=2MiB",
            "commands.spool=memory",
            "commands.remember=1d",
        ]);
        let changes = changes(&old.shown, &new.shown);
        assert_eq!(changes.iter().filter(|change| change.waits).count(), AT_START.len(), "{changes:?}");
        assert_eq!(merged(&old.config, new.config), old.config);
    }
}
