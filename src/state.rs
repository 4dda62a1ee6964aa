//! The state directory: who this agent is, that it runs once, and what it remembers.

mod identity;
mod process;

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub use self::process::{Process, boot_id, start_time};
use crate::{config::describe, logging::lock};

const LOCK: &str = "lock";
const AGENT_ID: &str = "agent-id";
const EPOCH: &str = "epoch";
const PID: &str = "agent.pid";
const STATUS: &str = "status.json";

/// The state directory of one agent, held against a second one for as long as this lives and, after a fork, for as
/// long as any copy of it lives.
///
/// Where the directory cannot be written, state lives in memory: the agent goes on, and [`StateDir::announce`] says so.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    name: String,
    /// Held, never read.
    lock: Option<File>,
    /// State lives in memory alone.
    memory: bool,
    epoch: u64,
    agent_id: [u8; 16],
    /// Not yet logged: the log opens after the state directory.
    notices: Vec<String>,
    logging: bool,
    /// Failed writes were spoken of.
    complained: bool,
}

/// Why an agent must not start on a state directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub name: String,
    pub path: PathBuf,
    /// Of the process that holds it, if that can be known.
    pub pid: Option<u32>,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {} is running already", self.name)?;
        if let Some(pid) = self.pid {
            write!(f, " (pid {pid})")?;
        }
        write!(
            f,
            ": it holds the state directory {}; stop it first, or start this one with another --name",
            self.path.display()
        )
    }
}

/// Whether an agent runs on a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// None. A pid file that is left is stale.
    Nobody,
    /// The process of the pid file, if there is one and it is that process.
    Running(Option<Process>),
}

impl StateDir {
    /// Creates the directory where it is missing, takes hold of it, and reads or makes what belongs into it.
    ///
    /// # Errors
    /// When another agent holds it. A directory that cannot be written is no error.
    pub fn open(path: &Path, name: &str) -> Result<Self, Held> {
        let mut state = Self {
            path: path.to_path_buf(),
            name: name.to_string(),
            lock: None,
            memory: false,
            epoch: 0,
            agent_id: [0; 16],
            notices: Vec::new(),
            logging: false,
            complained: false,
        };
        match take_lock(path) {
            Ok(Some(lock)) => state.lock = Some(lock),
            Ok(None) => return Err(state.held()),
            Err((lock, error)) => {
                state.lock = lock;
                state.fall_back("be written", &error);
            }
        }
        state.epoch = read_number(&path.join(EPOCH)).unwrap_or(0);
        state.agent_id = state.read_or_make_agent_id();
        // What an earlier run left says nothing of this one.
        let _ = fs::remove_file(path.join(STATUS));
        Ok(state)
    }

    /// Who holds a state directory.
    ///
    /// # Errors
    /// When its lock cannot be examined.
    pub fn holder(path: &Path) -> io::Result<Holder> {
        let file = match File::open(path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path),
            other => other,
        };
        match file {
            Ok(file) if lock(&file)? => Ok(Holder::Nobody),
            Ok(_) => Ok(Holder::Running(read_process(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Holder::Nobody),
            Err(error) => Err(error),
        }
    }

    /// Removes a pid file that no agent stands behind, and returns the pid in it.
    pub fn remove_stale_pid(path: &Path) -> Option<u32> {
        // Under the lock: the file of an agent that is starting is not stale.
        let file = File::open(path.join(LOCK)).ok()?;
        if !lock(&file).ok()? {
            return None;
        }
        let text = fs::read_to_string(path.join(PID)).ok()?;
        fs::remove_file(path.join(PID)).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    /// What the running agent last wrote by [`StateDir::write_status`].
    pub fn read_status(path: &Path) -> Option<String> {
        fs::read_to_string(path.join(STATUS)).ok()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether state lives in memory alone, because the directory cannot be written.
    pub fn is_memory(&self) -> bool {
        self.memory
    }

    /// Logs what was found wrong so far; from now on such things are logged as they happen.
    pub fn announce(&mut self) {
        self.logging = true;
        for text in std::mem::take(&mut self.notices) {
            log::warn!("{text}");
        }
    }

    /// Random and kept in the directory; where that cannot be written, derived from the machine and the name.
    pub fn agent_id(&self) -> [u8; 16] {
        self.agent_id
    }

    /// Highest epoch that a master has ever given this agent; 0 before the first.
    pub fn highest_epoch(&self) -> u64 {
        self.epoch
    }

    /// Keeps an epoch, durably before it returns (two fsyncs). A lower one than the highest changes nothing.
    pub fn keep_epoch(&mut self, epoch: u64) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        self.keep(EPOCH, format!("{epoch}\n").as_bytes(), true);
    }

    /// Writes what `status` shows. Without an fsync: after a crash of the machine nobody asks for it.
    pub fn write_status(&mut self, text: &str) {
        self.keep(STATUS, text.as_bytes(), false);
    }

    /// Writes this process into the pid file.
    pub fn write_pid(&mut self) {
        if let Some(process) = Process::own() {
            self.keep(PID, format!("{} {}\n", process.pid, process.started).as_bytes(), false);
        }
    }

    /// Removes pid file and status, at a planned end.
    pub fn clear_pid(&self) {
        let _ = fs::remove_file(self.path.join(PID));
        let _ = fs::remove_file(self.path.join(STATUS));
    }

    fn held(&self) -> Held {
        let pid = read_process(&self.path).map(|process| process.pid);
        Held { name: self.name.clone(), path: self.path.clone(), pid }
    }

    fn read_or_make_agent_id(&mut self) -> [u8; 16] {
        let path = self.path.join(AGENT_ID);
        match fs::read(&path) {
            Ok(bytes) => {
                if let Some(id) = identity::parse(&bytes) {
                    return id;
                }
                let aside = self.path.join("agent-id.bad");
                let _ = fs::rename(&path, &aside);
                self.notice(format!(
                    "{} does not hold an agent id: it is kept as {}, and this agent gets a new id",
                    path.display(),
                    aside.display()
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.fall_back("be read", &error),
        }
        if !self.memory {
            match identity::random() {
                Ok(id) if self.keep(AGENT_ID, format!("{}\n", identity::hex(&id)).as_bytes(), true) => return id,
                Ok(_) => {}
                Err(error) => self.fall_back("be given an agent id", &error),
            }
        }
        identity::derive(Path::new("/"), &self.name)
    }

    /// Writes a file whole or not at all. False: it lives in memory only.
    fn keep(&mut self, file: &str, bytes: &[u8], durable: bool) -> bool {
        if self.memory {
            return false;
        }
        match write_atomically(&self.path, file, bytes, durable) {
            Ok(()) => true,
            Err(error) => {
                // Later writes are tried again, for a full disk may become empty; this is said once.
                if !std::mem::replace(&mut self.complained, true) {
                    self.notice(self.memory_sentence("be written", &error));
                }
                false
            }
        }
    }

    fn fall_back(&mut self, what: &str, error: &io::Error) {
        self.memory = true;
        if !std::mem::replace(&mut self.complained, true) {
            self.notice(self.memory_sentence(what, error));
        }
    }

    fn memory_sentence(&self, what: &str, error: &io::Error) -> String {
        format!(
            "the state directory {} cannot {what} ({}): going on with state in memory, which a restart forgets",
            self.path.display(),
            describe(error)
        )
    }

    fn notice(&mut self, text: String) {
        if self.logging {
            log::warn!("{text}");
        } else {
            self.notices.push(text);
        }
    }
}

/// Makes the directory and takes its lock; none if another process has it.
///
/// # Errors
/// When the directory cannot be made or written: also then it is locked, if it is there.
fn take_lock(path: &Path) -> Result<Option<File>, (Option<File>, io::Error)> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    let opened = made.and_then(|()| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK))
    });
    match opened {
        Ok(file) => match patient_lock(&file) {
            Ok(true) => Ok(Some(file)),
            Ok(false) => Ok(None),
            Err(error) => Err((None, error)),
        },
        Err(error) => {
            let fallback = File::open(path.join(LOCK)).or_else(|_| File::open(path));
            match fallback {
                Ok(file) => match patient_lock(&file) {
                    Ok(false) => Ok(None),
                    _ => Err((Some(file), error)),
                },
                Err(_) => Err((None, error)),
            }
        }
    }
}

/// Takes a lock that somebody who only looks may hold for a moment.
fn patient_lock(file: &File) -> io::Result<bool> {
    const TRIES: u32 = 5;
    for _ in 1..TRIES {
        if lock(file)? {
            return Ok(true);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    lock(file)
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The process of the pid file, if it is alive and the one that wrote it.
fn read_process(path: &Path) -> Option<Process> {
    let text = fs::read_to_string(path.join(PID)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let process = Process { pid: pid.parse().ok()?, started: started.parse().ok()? };
    (start_time(process.pid) == Some(process.started)).then_some(process)
}

/// After it, and after a crash in its middle, the file is the old one or the new one.
fn write_atomically(folder: &Path, file: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let fresh = folder.join(format!("{file}.new"));
    let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    opened.write_all(bytes)?;
    if durable {
        opened.sync_all()?;
    }
    fs::rename(&fresh, folder.join(file))?;
    if durable {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
