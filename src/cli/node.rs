//! `stop`, `status` and `reconnect`: an agent that runs, or does not, on this machine.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    DONE, FAILED, NOT_RUNNING, complain,
    live::{self, Shown},
    print,
};
use link::LossReason;

use crate::{
    config::{
        Loaded, Problems, Sources, Surroundings, Whereabouts, check_name, describe, units::ShowDuration, whereabouts,
    },
    doctor::Running,
    state::{Holder, Process, StateDir, is_stopped, start_time},
    status::{self, Field},
};

/// How often a stopping agent is looked at.
const POLL: Duration = Duration::from_millis(50);
/// After so long a person wants to know what is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Over the agent's own limits, for its last words to the master.
const MARGIN: Duration = Duration::from_secs(10);

/// One agent, found by its state directory.
pub(super) struct Node {
    /// What messages call it while it has not said its name.
    agent: String,
    /// The name that was asked for.
    wanted: Option<String>,
    path: PathBuf,
    /// How long it may take to stop.
    stops_within: Duration,
}

/// Finds the agent that the command line means.
///
/// A configuration that does not hold is in nobody's way, as long as something says where the agent's state is.
///
/// # Errors
/// Nothing does: what is wrong, and the way out.
pub(super) fn find(loaded: Result<Loaded, Problems>, sources: &Sources) -> Result<Node, String> {
    let flag = |flag| sources.flags.iter().rev().find(|(name, ..)| *name == flag).map(|(.., value)| value.clone());
    let wanted = flag("--name");
    let agent = |name: &str, path: &Path| match (&wanted, flag("--state-dir")) {
        (None, Some(_)) => format!("the agent of {}", path.display()),
        _ => format!("agent {name}"),
    };
    let problems = match loaded {
        Ok(Loaded { config, .. }) => {
            return Ok(Node {
                agent: agent(&config.name, &config.state_dir),
                wanted,
                stops_within: config.shutdown_grace + config.commands.kill_grace + MARGIN,
                path: config.state_dir,
            });
        }
        Err(problems) => problems,
    };
    if wanted.as_ref().is_some_and(|name| check_name(name).is_err()) {
        return Err(problems.to_string());
    }
    let Some(Whereabouts { state_dir, unread }) = whereabouts(sources, &Surroundings::of_process(), wanted.as_deref())
    else {
        return Err(format!("{problems}\nto find the agent all the same, name its state directory: --state-dir DIR"));
    };
    if wanted.is_none() && flag("--state-dir").is_none() {
        complain(&format!("{problems}\ngoing on all the same, with the state directory {}", state_dir.display()));
        return Ok(Node {
            agent: format!("the agent of {}", state_dir.display()),
            wanted,
            stops_within: 60 * PATIENCE,
            path: state_dir,
        });
    }
    if unread {
        complain(&format!("{problems}\nlooking in the default place all the same: {}", state_dir.display()));
    }
    let agent = agent(wanted.as_deref().unwrap_or_default(), &state_dir);
    Ok(Node { agent, wanted, stops_within: 60 * PATIENCE, path: state_dir })
}

impl Node {
    /// Asks the agent to end and waits until nothing of it is left; the exit code.
    pub(super) fn stop(&self) -> i32 {
        let agent = self.called();
        match self.process(FAILED, "end it") {
            Ok(process) => match self.signal(process, libc::SIGTERM, "end") {
                DONE => {
                    if let Some(pid) = stopped(&self.fields(), Some(process.pid)) {
                        complain(&format!(
                            "process {pid} of {agent} is stopped and does nothing: `kill -CONT {pid}` lets it end"
                        ));
                    }
                    self.wait_for_end(&agent, process)
                }
                failed => failed,
            },
            Err(code) => code,
        }
    }

    /// Has the agent read its configuration again, and connect now if it waits for its next attempt; the exit code.
    pub(super) fn reconnect(&self) -> i32 {
        let process = match self.process(NOT_RUNNING, "send it SIGHUP") {
            Ok(process) => process,
            Err(code) => return code,
        };
        let (agent, pid, fields) = (self.called(), process.pid, self.fields());
        let field = |wanted: &str| fields.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
        if let Some(stopped) = stopped(&fields, Some(pid)) {
            complain(&format!(
                "{agent} (pid {pid}) cannot be told anything: process {stopped} is stopped and does nothing; `kill -CONT \
                 {stopped}` lets it go on"
            ));
            return FAILED;
        }
        let done = match field("state") {
            Some("Active") => {
                let master = field("master").unwrap_or("its master");
                format!(
                    "{agent} (pid {pid}) is connected already, to {master}; it was told to read its configuration \
                     again: its log says what came of that"
                )
            }
            _ => format!("{agent} (pid {pid}) was told to read its configuration again and to connect now"),
        };
        match self.signal(process, libc::SIGHUP, "reach") {
            DONE => print(&format!("{done}\n")),
            failed => failed,
        }
    }

    /// The running agent's process; the exit code where there is none, or it is not known which.
    fn process(&self, not_running: i32, by_hand: &str) -> Result<Process, i32> {
        match self.holder() {
            Ok(Holder::Running(Some(process))) => match self.other() {
                Some(other) => {
                    complain(&other);
                    Err(not_running)
                }
                None => Ok(process),
            },
            Ok(Holder::Running(None)) => {
                let (agent, path) = (self.called(), self.path.display());
                complain(&format!(
                    "{agent} is running, for it holds {path}, but its pid is not known there: {by_hand} by hand"
                ));
                Err(FAILED)
            }
            Ok(Holder::Nobody) => {
                complain(&self.not_running());
                Err(not_running)
            }
            Err(text) => {
                complain(&text);
                Err(FAILED)
            }
        }
    }

    fn signal(&self, process: Process, signal: i32, what: &str) -> i32 {
        // SAFETY: plain integers are passed; the pid was seen to be the agent's an instant ago.
        if unsafe { libc::kill(process.pid.cast_signed(), signal) } == 0 {
            return DONE;
        }
        let error = std::io::Error::last_os_error();
        complain(&format!("cannot {what} {} (pid {}): {}", self.called(), process.pid, describe(&error)));
        FAILED
    }

    /// What the agent last wrote of itself.
    fn fields(&self) -> Vec<(String, String)> {
        StateDir::read_status(&self.path).and_then(|text| status::read(&text)).unwrap_or_default()
    }

    fn wait_for_end(&self, agent: &str, process: Process) -> i32 {
        let pid = process.pid;
        let mut waited = Duration::ZERO;
        while waited < self.stops_within {
            // Somebody else's may be the next start already.
            match self.holder() {
                Ok(Holder::Nobody) => return print(&format!("{agent} has stopped (pid {pid})\n")),
                Ok(Holder::Running(Some(other))) if other != process => {
                    return print(&format!("{agent} has stopped (pid {pid}), and was started again\n"));
                }
                // Where the state directory may not be looked into, its own end is all that can be seen.
                Err(_) if start_time(pid) != Some(process.started) => {
                    return print(&format!("{agent} has stopped (pid {pid})\n"));
                }
                _ => {}
            }
            thread::sleep(POLL);
            waited += POLL;
            if waited == PATIENCE {
                let limit = ShowDuration(self.stops_within);
                print(&format!("waiting for running commands of {agent} (pid {pid}), at most {limit} …\n"));
            }
        }
        complain(&format!(
            "{agent} (pid {pid}) still runs after {}: `kill -KILL {pid}` ends it at once",
            ShowDuration(self.stops_within)
        ));
        FAILED
    }

    /// Says how the agent is; the exit code.
    pub(super) fn status(&self, json: bool) -> i32 {
        let (code, text) = match self.look(json) {
            Ok(shown) => shown,
            Err(text) => {
                complain(&text);
                return FAILED;
            }
        };
        print(&text);
        code
    }

    /// The exit code of [`Self::status`], and nothing said.
    pub(super) fn code(&self) -> i32 {
        match self.look(true) {
            Ok((code, _)) => code,
            Err(text) => {
                complain(&text);
                FAILED
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What `doctor` has to know of it.
    pub(super) fn running(&self) -> Running {
        let Ok(Holder::Running(process)) = self.holder() else { return Running::default() };
        let holder = process.as_ref().map(|process| process.pid);
        let pid = holder.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        let fields = live::fresh(&self.path, self.fields(), holder);
        let value = |wanted: &str| fields.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone());
        let stopped = stopped(&fields, None);
        let is_refusal = |word: String| {
            use LossReason::{DuplicateId, NameTaken, Protocol, Unauthorized};
            matches!(LossReason::from_word(&word), Some(DuplicateId | NameTaken | Protocol | Unauthorized))
        };
        let is_away = value("state").is_some_and(|state| state != "Active");
        let refused = is_away && value("last_failure").is_some_and(is_refusal);
        let said = || Some(format!("{}: {}", value("last_failure_at")?, value("failure_detail")?));
        let deferred = || {
            let why = value("deferred").filter(|_| is_away)?;
            Some(format!("{}: its master wants it to come back later: {why}", value("deferred_at")?))
        };
        let deferred = deferred();
        let refused = if refused && deferred.is_none() { said() } else { None };
        Running {
            agent: Some(format!("{}{pid}", self.called())),
            instance: value("instance"),
            stopped,
            refused,
            deferred,
        }
    }

    /// The exit code of `status`, and what it prints.
    fn look(&self, json: bool) -> Result<(i32, String), String> {
        let agent = self.called();
        let process = match self.holder()? {
            Holder::Running(process) => process,
            Holder::Nobody => return Ok((NOT_RUNNING, self.absent(self.not_running(), json))),
        };
        if let Some(other) = self.other() {
            return Ok((NOT_RUNNING, self.absent(other, json)));
        }
        let fields = live::fresh(&self.path, self.fields(), process.map(|process| process.pid));
        let shown = Shown { agent: &agent, path: &self.path, pid: process.map(|process| process.pid), fields };
        let code = if shown.is_active() { DONE } else { FAILED };
        Ok((code, if json { shown.json() } else { shown.text() }))
    }

    fn absent(&self, text: String, json: bool) -> String {
        if !json {
            return text + "\n";
        }
        let directory = self.path.display().to_string();
        let fields = [
            ("state", Field::Text("NotRunning")),
            ("detail", Field::Text(&text)),
            ("state_directory", Field::Text(&directory)),
        ];
        status::write(&fields)
    }

    fn holder(&self) -> Result<Holder, String> {
        StateDir::holder(&self.path)
            .map_err(|error| format!("cannot look into {}: {}", self.path.display(), describe(&error)))
    }

    /// By the name that it has said, if it has.
    pub(super) fn called(&self) -> String {
        StateDir::holder_name(&self.path).map_or_else(|| self.agent.clone(), |name| format!("agent {name}"))
    }

    /// What to say where the agent that runs is not the one that was asked for.
    fn other(&self) -> Option<String> {
        let (wanted, name) = (self.wanted.as_ref()?, StateDir::holder_name(&self.path)?);
        let path = self.path.display();
        (name != *wanted)
            .then(|| format!("agent {wanted} is not running: its state directory {path} is held by agent {name}"))
    }

    fn not_running(&self) -> String {
        let agent = self.called();
        match StateDir::remove_stale_pid(&self.path) {
            Some(pid) => {
                format!("{agent} is not running; the pid file of process {pid}, which is gone, was removed")
            }
            None => format!("{agent} is not running (state directory {})", self.path.display()),
        }
    }
}

/// Of what the agent wrote of itself: the process that has its connection, or this one, if it was stopped.
fn stopped(fields: &[(String, String)], or: Option<u32>) -> Option<u32> {
    let worker = fields.iter().find(|(key, _)| key == "pid").and_then(|(_, pid)| pid.parse().ok());
    worker.or(or).filter(|pid| is_stopped(*pid))
}
