//! `master stop` and `master status`: a master that runs, or does not, on this machine, found by its state directory.

use super::FAILED;
use crate::{
    cli::Format,
    clock::boottime,
    store::{FileLock, Holder},
    tool::json,
};
use serde::Serialize;
use sloth_agent::{
    config::describe,
    state::{is_stopped, is_trusted},
};
use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// No master runs on this state directory.
const NOT_RUNNING: i32 = 3;
/// How often an ending master is looked at.
const POLL: Duration = Duration::from_millis(50);
/// A master that was told to end has 10 s for what is open, and then writes what waits.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// The file in a state directory that a running master holds, with its process id in it.
pub fn lock_file(state_dir: &Path) -> PathBuf {
    state_dir.join("master.lock")
}

#[derive(Serialize)]
struct Status<'a> {
    running: bool,
    pid: Option<u32>,
    state_dir: &'a str,
}

/// Says whether a master runs: 0 if it does, 3 if not, 1 if that cannot be seen.
pub fn status(state_dir: &Path, format: Format) -> Result<(), i32> {
    let (running, pid) = match look(state_dir, format)? {
        Holder::Nobody => (false, None),
        Holder::Running(pid) => (true, pid),
    };
    let shown = state_dir.display().to_string();
    let text = match (format, running, pid) {
        (Format::Json, ..) => json::document(&Status { running, pid, state_dir: &shown }),
        (_, false, _) => format!("{}\n", nobody(&shown)),
        (_, true, None) => format!("the master is running (state directory {shown})\n"),
        (_, true, Some(pid)) if is_stopped(pid) => format!(
            "the master is running (pid {pid}, state directory {shown}), but its process is stopped and does nothing: \
             `kill -CONT {pid}` lets it go on\n"
        ),
        (_, true, Some(pid)) => format!("the master is running (pid {pid}, state directory {shown})\n"),
    };
    match (crate::tool::print(&text), running) {
        (0, true) => Ok(()),
        (0, false) => Err(NOT_RUNNING),
        (code, _) => Err(code),
    }
}

/// Asks the master to end, and waits until it has; 1 if none runs, or it does not end.
pub fn stop(state_dir: &Path, format: Format) -> Result<(), i32> {
    let shown = state_dir.display();
    let failed = |text: String| failed(format, &text);
    let pid = match look(state_dir, format)? {
        Holder::Nobody => return Err(failed(nobody(&shown.to_string()))),
        Holder::Running(None) => {
            let text = format!("a master holds {shown}, but its pid does not stand there: end it by hand");
            return Err(failed(text));
        }
        Holder::Running(Some(pid)) => pid,
    };
    // SAFETY: plain integers are passed; an instant ago the process with this pid held the lock.
    if unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(failed(format!("cannot end the master (pid {pid}): {}", describe(&error))));
    }
    let until = boottime() + ENDS_WITHIN;
    while boottime() < until {
        let message = match look(state_dir, format)? {
            Holder::Running(Some(other)) if other == pid => {
                thread::sleep(POLL);
                continue;
            }
            Holder::Nobody => format!("the master has stopped (pid {pid})"),
            Holder::Running(_) => format!("the master has stopped (pid {pid}), and was started again"),
        };
        let text = match format {
            Format::Json => json::document(&json::Message { message: &message }),
            Format::Table => message + "\n",
        };
        return match crate::tool::print(&text) {
            0 => Ok(()),
            code => Err(code),
        };
    }
    let limit = ENDS_WITHIN.as_secs();
    Err(failed(format!("the master (pid {pid}) still runs after {limit}s: `kill -KILL {pid}` ends it at once")))
}

/// There may be one with another state directory.
pub fn nobody(state_dir: &str) -> String {
    format!(
        "no master is running (state directory {state_dir}): one that was started with --config or --state-dir is found \
         with the same option"
    )
}

pub fn look(state_dir: &Path, format: Format) -> Result<Holder, i32> {
    // Whose pid stands in a folder of another user, nobody knows.
    if is_trusted(state_dir).is_err() {
        return Ok(Holder::Nobody);
    }
    FileLock::holder(&lock_file(state_dir))
        .map_err(|error| failed(format, &format!("cannot look into {}: {}", state_dir.display(), describe(&error))))
}

/// Says why: to people, and to programs that wait for a document.
pub fn failed(format: Format, why: &str) -> i32 {
    if format == Format::Json {
        crate::tool::print(&json::error(why));
    }
    crate::tool::say(why);
    FAILED
}
