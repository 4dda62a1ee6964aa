//! What this machine knows: the tool's own settings, and those of a master that is configured here.

use crate::{
    master_cli::control::lock_file,
    master_config::{Loaded, MasterConfig, Sources, load},
    store::{FileLock, Holder},
    tool::{
        Tool,
        address::VARIABLE,
        context, contexts,
        credential::{CA_VARIABLE, TOKEN_VARIABLE},
        json,
    },
};
use serde::Serialize;
use sloth_agent::config::{Surroundings, describe};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Of a master in the background whose configuration names none.
const DAEMON_LOG: &str = "master.log";
/// Of the master's log.
const LOG_END: u64 = 512 << 10;
/// Part of an address that is a secret at some receivers: host and port are shown.
const WEBHOOK: &str = "events.webhook.url";

#[derive(Serialize)]
struct Own {
    version: &'static str,
    master: String,
    /// Variables that are set; of a token no more than that.
    environment: Vec<(&'static str, String)>,
    contexts: serde_json::Value,
}

pub(super) fn tool(tool: &Tool) -> Result<String, String> {
    let variable =
        |name: &'static str| std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| (name, text));
    let token = variable(TOKEN_VARIABLE).map(|(name, _)| (name, "is set".to_owned()));
    let contexts = match contexts::own_path() {
        Some(file) => context::as_json(&contexts::read(&file)?),
        None => serde_json::Value::Null,
    };
    Ok(json::document(&Own {
        version: env!("CARGO_PKG_VERSION"),
        master: tool.master.address().to_string(),
        environment: [variable(VARIABLE), variable(CA_VARIABLE), token].into_iter().flatten().collect(),
        contexts,
    }))
}

#[derive(Serialize)]
struct Configured {
    version: &'static str,
    file: Option<String>,
    settings: Vec<Setting>,
    listen: String,
    state_dir: String,
    store: String,
    store_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Setting {
    key: String,
    value: String,
    origin: String,
}

/// Of the master whose configuration this machine has; nothing where it has none and none was named.
pub(super) fn master(file: Option<PathBuf>) -> Vec<(&'static str, Result<String, String>)> {
    const CONFIG: &str = "master/config.json";
    const LOG: &str = "master/log.txt";
    let named = file.is_some();
    // Whether it may listen there is not asked here.
    let sources = Sources { file, flags: Vec::new(), assignments: Vec::new(), insecure: true };
    match load(&sources, &Surroundings::of_process()) {
        Ok(loaded) if loaded.file.is_none() && !named && is_nobody_s(&loaded.config.state_dir) => {
            let here = "no master is configured on this machine, nor named with --master-config: make the bundle where \
                        the master is, and it holds that, too";
            vec![(CONFIG, Err(here.to_owned()))]
        }
        Ok(loaded) => {
            let log = log_file(&loaded.config)
                .and_then(|file| end_of(&file).map_err(|error| format!("{}: {}", file.display(), describe(&error))));
            vec![(CONFIG, Ok(json::document(&configured(&loaded)))), (LOG, log)]
        }
        Err(problems) => vec![(CONFIG, Err(problems.to_string()))],
    }
}

/// The file that the configuration names, or the one that the running master's standard error goes to.
///
/// # Errors
/// Where its log is.
fn log_file(config: &MasterConfig) -> Result<PathBuf, String> {
    if let Some(file) = &config.log.file {
        return Ok(file.clone());
    }
    let journal = "with systemd `journalctl -u sloth-master` shows it";
    let shown = config.state_dir.display();
    let pid = match FileLock::holder(&lock_file(&config.state_dir)) {
        Ok(Holder::Running(Some(pid))) => pid,
        Ok(Holder::Running(None)) => {
            return Err(format!("which process the master on {shown} is, is not known: {journal}"));
        }
        // Where `--daemon` leaves it, if it was started here.
        Ok(Holder::Nobody) if Path::new(DAEMON_LOG).is_file() => return Ok(DAEMON_LOG.into()),
        Ok(Holder::Nobody) => {
            return Err(format!(
                "no master runs on {shown}, and its log was on its standard error: {journal}; with --daemon it is \
                 {DAEMON_LOG} where it was started: make the bundle there"
            ));
        }
        Err(error) => {
            let why = describe(&error);
            return Err(format!("cannot look into {shown}: {why}; make the bundle as the user of the master"));
        }
    };
    let link = format!("/proc/{pid}/fd/2");
    let target = fs::read_link(&link).map_err(|error| format!("{link}: {}", describe(&error)))?;
    if target.is_file() {
        return Ok(target);
    }
    Err(format!("the master's log is on its standard error, which is {}: {journal}", target.display()))
}

/// Whether no master runs with this state directory, as far as can be seen.
fn is_nobody_s(state_dir: &Path) -> bool {
    matches!(FileLock::holder(&lock_file(state_dir)), Ok(Holder::Nobody))
}

fn configured(loaded: &Loaded) -> Configured {
    let setting = |shown: &sloth_agent::config::Shown| Setting {
        key: shown.key.clone(),
        value: if shown.key == WEBHOOK { without_path(&shown.value) } else { shown.value.clone() },
        origin: shown.origin.to_string(),
    };
    let config = &loaded.config;
    Configured {
        version: env!("CARGO_PKG_VERSION"),
        file: loaded.file.as_ref().map(|file| file.display().to_string()),
        settings: loaded.shown.iter().map(setting).collect(),
        listen: config.listen.to_string(),
        state_dir: config.state_dir.display().to_string(),
        store: config.store.display().to_string(),
        store_bytes: config.store.metadata().ok().map(|found| found.len()),
    }
}

fn without_path(url: &str) -> String {
    let from = url.find("://").map_or(0, |at| at + 3);
    match url[from..].find(['/', '?', '#']) {
        Some(at) => {
            let quote = if url.starts_with('"') { "\"" } else { "" };
            format!("{}/***{quote}", &url[..from + at])
        }
        None => url.to_owned(),
    }
}

fn end_of(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END)))?;
    let mut end = Vec::new();
    file.take(LOG_END).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_webhook_its_host_is_shown() {
        assert_eq!(without_path("https://example.com:1/hooks/T0/secret?x"), "https://example.com:1/***");
        assert_eq!(without_path("\"http://example.com/x\""), "\"http://example.com/***\"");
        assert_eq!(without_path("http://example.com"), "http://example.com");
    }
}
