//! Finding the configuration and putting its layers together.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    Config,
    address::{check_name, name_from_host},
    reader::{Layers, Origin, Problem, Problems, Shown},
    settings,
};
use crate::transport::tls;

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Flag, key and value, in the order of the command line; the last of a key counts.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Each `--master`.
    pub masters: Vec<String>,
    /// Each `--label`, `key=value`.
    pub labels: Vec<String>,
    /// Each `--set`, `key=value`; they stand above the other flags.
    pub assignments: Vec<String>,
}

/// What of the world around the process decides about defaults and layers.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub host_name: String,
    pub root: bool,
    pub uid: u32,
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// Files to look for where `--config` names none, best first.
    pub files: Vec<PathBuf>,
    /// What relative paths begin at. Default: the working directory of the moment.
    pub directory: Option<PathBuf>,
    /// `SLOTH_RUNNER_MASTER_ADDR`.
    pub master: Option<OsString>,
    /// `SLOTH_RUNNER_TOKEN`.
    pub token: Option<OsString>,
}

impl Surroundings {
    /// As they are, for this process.
    pub fn of_process() -> Self {
        let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
        // SAFETY: geteuid has no preconditions and cannot fail.
        let uid = unsafe { libc::geteuid() };
        Self {
            host_name: host_name(),
            root: uid == 0,
            uid,
            home: set("HOME").map(PathBuf::from).filter(|path| path.is_absolute()),
            state_home: set("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()),
            files: vec!["agent.toml".into(), "/etc/sloth-runner/agent.toml".into()],
            directory: None,
            master: set("SLOTH_RUNNER_MASTER_ADDR"),
            token: set("SLOTH_RUNNER_TOKEN"),
        }
    }

    pub(super) fn default_name(&self) -> String {
        name_from_host(&self.host_name)
    }

    /// The options by which commands find the agent of this name whose state is there.
    pub fn finds(&self, name: &str, state_dir: &Path) -> String {
        if state_dir == self.default_state_dir(name) {
            format!("--name {name}")
        } else {
            let path = state_dir.display().to_string();
            let is_word = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(&byte));
            if is_word {
                format!("--state-dir {path}")
            } else {
                format!("--state-dir '{}'", path.replace('\'', r"'\''"))
            }
        }
    }

    /// Where the state of a program of that name lives unless it is told otherwise.
    pub fn default_state_dir(&self, name: &str) -> PathBuf {
        let base = if self.root {
            PathBuf::from("/var/lib")
        } else if let Some(state_home) = &self.state_home {
            state_home.clone()
        } else if let Some(home) = &self.home {
            home.join(".local/state")
        } else {
            return temporary_folder(self.uid).join("state").join(name);
        };
        base.join("sloth-runner").join(name)
    }
}

/// For a user without a home. Whoever uses it makes sure that it is that user's.
pub fn temporary_folder(uid: u32) -> PathBuf {
    format!("/tmp/sloth-runner-{uid}").into()
}

/// A configuration that holds, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// The file that was read; none was found where this is none.
    pub file: Option<PathBuf>,
    /// What somebody set, sorted by key; secrets are masked.
    pub shown: Vec<Shown>,
}

/// Reads, overlays and checks the whole configuration.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(sources: &Sources, surroundings: &Surroundings) -> Result<Loaded, Problems> {
    let mut layers = Layers::default();
    let file = file(sources, surroundings);
    if let Some(path) = &file {
        layers.add_file(path);
    }
    let mut not_text = Vec::new();
    let variables = [
        ("SLOTH_RUNNER_MASTER_ADDR", "master", &surroundings.master),
        ("SLOTH_RUNNER_TOKEN", "auth.token", &surroundings.token),
    ];
    for (variable, key, value) in variables {
        match value.as_ref().map(|value| value.to_str()) {
            Some(Some(text)) => layers.add_environment(variable, key, text),
            Some(None) => not_text.push(Problem {
                origin: Origin::Environment(variable.into()),
                text: format!("{key} is not UTF-8: set the variable again, or unset it"),
            }),
            None => {}
        }
    }
    for (flag, key, value) in &sources.flags {
        layers.add_flag(flag, key, value);
    }
    if !sources.masters.is_empty() {
        layers.add_flag_list("--master", "masters", &sources.masters);
    }
    for label in &sources.labels {
        match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => layers.add_flag("--label", &format!("labels.{key}"), value),
            _ => not_text.push(Problem {
                origin: Origin::Flag("--label".into()),
                text: format!("{label:?} is not a label: write it like --label site=berlin"),
            }),
        }
    }
    for assignment in &sources.assignments {
        layers.add_assignment(assignment);
    }
    let mut reader = layers.reader();
    reader.begin_paths_at(surroundings.directory.clone());
    for problem in not_text {
        reader.problem(&problem.origin, problem.text);
    }
    let config = settings::read(&mut reader, surroundings);
    if let Some(Err(unusable)) = config.tls.as_ref().map(tls::Connector::load) {
        for tls::Unusable { key, text } in unusable {
            // What is not set itself stands where TLS was turned on.
            let keys = [key, "tls.enabled", "tls.cert_file", "tls.key_file", "tls.server_name"];
            if let Some(origin) = keys.iter().find_map(|key| reader.origin(key)) {
                reader.problem(&origin, format!("{key} {text}"));
            }
        }
    }
    let shown = reader.finish()?;
    Ok(Loaded { config, file, shown })
}

/// Where an agent is, whatever else the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    pub state_dir: PathBuf,
    /// The file cannot be read, so that nobody knows what it says of the state directory.
    pub unread: bool,
}

/// Finds the state directory of an agent whose configuration need not hold. `name` is for the default, before the
/// one that is configured; none where nothing says which agent is meant.
pub fn whereabouts(sources: &Sources, surroundings: &Surroundings, name: Option<&str>) -> Option<Whereabouts> {
    let mut layers = Layers::default();
    if let Some(path) = file(sources, surroundings) {
        layers.add_file(&path);
    }
    for (flag, key, value) in &sources.flags {
        layers.add_flag(flag, key, value);
    }
    for assignment in &sources.assignments {
        layers.add_assignment(assignment);
    }
    let said = layers.text("state_dir").filter(|text| !text.is_empty());
    let unread = said.is_none() && layers.is_broken();
    let state_dir = match said {
        Some(said) => std::path::absolute(said).ok()?,
        None => {
            let own = layers.text("name").filter(|name| check_name(name).is_ok());
            surroundings.default_state_dir(name.or(own)?)
        }
    };
    Some(Whereabouts { state_dir, unread })
}

/// The file to read. One that is there and cannot be read is an error, not a reason to look further.
fn file(sources: &Sources, surroundings: &Surroundings) -> Option<PathBuf> {
    let found = || surroundings.files.iter().find(|path| path.symlink_metadata().is_ok()).cloned();
    sources.file.clone().or_else(found)
}

/// What the kernel calls this machine; may be empty.
pub fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the buffer is writable for the length given, less one byte that stays zero and ends the text.
    let result = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    if result != 0 {
        return String::new();
    }
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}
