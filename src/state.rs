//! The state directory: who this agent is, that it runs once, and what it remembers.

mod identity;
mod look;
mod process;
mod refuge;

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub use self::{
    identity::{hex, parse as parse_hex, random},
    look::Holder,
    process::{Process, boot_id, is_stopped, start_time},
};
use self::{
    look::read_process,
    refuge::{Place, Refuge, Taken},
};
use crate::{
    config::{describe, temporary_folder},
    history,
    logging::lock,
};

const LOCK: &str = "lock";
const AGENT_ID: &str = "agent-id";
const EPOCH: &str = "epoch";
pub const HEARD: &str = "heard";
const PID: &str = "agent.pid";
const STATUS: &str = "status.json";
const HISTORY: &str = "history";
/// A time that was heard is written when it is so far from the one before, seconds.
const HEARD_STEP: u64 = 3600;
/// What is of use only while the agent runs.
const RUNTIME: [&str; 6] = [PID, STATUS, HISTORY, "agent.pid.new", "status.json.new", "history.new"];

/// The state directory of one agent, held against a second one for as long as this lives and, after a fork, for as
/// long as any copy of it lives.
///
/// Where the directory cannot be written, state lives in memory: the agent goes on, and [`StateDir::announce`] says so.
/// What says that it runs stands elsewhere then, where those who ask for the directory find it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    name: String,
    /// Held, never read.
    lock: Option<File>,
    /// State lives in memory alone.
    memory: bool,
    epoch: u64,
    /// As it is on the disk.
    heard: u64,
    agent_id: [u8; 16],
    /// Not yet logged: the log opens after the state directory.
    notices: Vec<String>,
    logging: bool,
    /// Failed writes were spoken of.
    complained: bool,
    /// Where the lock, the pid file and the status can go instead.
    places: Vec<Place>,
    refuge: Option<Refuge>,
    /// What stands in the pid file.
    pid: String,
}

/// Why an agent must not start on a state directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// Of the one that must not start.
    pub newcomer: String,
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
        write!(f, ": it holds the state directory {}; stop it first, or ", self.path.display())?;
        if self.newcomer == self.name {
            f.write_str("start this one with another --name")
        } else {
            write!(f, "give agent {} a state_dir of its own", self.newcomer)
        }
    }
}

/// Holds a state directory like its [`StateDir`] does.
#[derive(Debug)]
pub struct Guard {
    path: PathBuf,
    places: Vec<Place>,
    _lock: Option<File>,
}

impl Guard {
    /// Removes pid file and status, at a planned end.
    pub fn leave(&self) {
        if is_trusted(&self.path).is_ok() {
            let _ = fs::remove_file(self.path.join(PID));
            let _ = fs::remove_file(self.path.join(STATUS));
        }
        refuge::clear(&self.places, &RUNTIME);
    }
}

impl StateDir {
    /// Creates the directory where it is missing, takes hold of it, and reads or makes what belongs into it.
    ///
    /// # Errors
    /// When another agent holds it. A directory that cannot be written is no error.
    pub fn open(path: &Path, name: &str) -> Result<Self, Held> {
        Self::open_with(path, name, Place::all(path))
    }

    fn open_with(path: &Path, name: &str, places: Vec<Place>) -> Result<Self, Held> {
        let mut state = Self {
            path: path.to_path_buf(),
            name: name.to_string(),
            lock: None,
            memory: false,
            epoch: 0,
            heard: 0,
            agent_id: [0; 16],
            notices: Vec::new(),
            logging: false,
            complained: false,
            places,
            refuge: None,
            pid: String::new(),
        };
        if let Err(error) = make_trusted(path) {
            state.fall_back("be trusted", &error);
            state.agent_id = derived_agent_id(name);
            return state.settled();
        }
        match take_lock(path) {
            Ok(Some(lock)) => state.lock = Some(lock),
            Ok(None) => return Err(state.held()),
            Err((lock, error)) => {
                state.lock = lock;
                state.fall_back("be written", &error);
            }
        }
        if fs::metadata(path).is_ok_and(|found| found.mode() & 0o002 != 0) {
            state.notice(format!(
                "every user of this machine can write {}, and so have this agent run what he likes: chmod o-w it",
                path.display()
            ));
        }
        if is_temporary(path) {
            state.notice(format!(
                "the state directory is {}, for neither HOME nor XDG_STATE_HOME says where else: the system may clear \
                 it, and this agent's id with it; set state_dir",
                path.display()
            ));
        }
        state.epoch = read_number(&path.join(EPOCH)).unwrap_or(0);
        state.heard = read_number(&path.join(HEARD)).unwrap_or(0);
        state.agent_id = state.read_or_make_agent_id();
        // What an earlier run left says nothing of this one.
        let _ = fs::remove_file(path.join(STATUS));
        state.settled()
    }

    /// Held also against an agent that could not write the directory, or as one.
    fn settled(mut self) -> Result<Self, Held> {
        if refuge::held(&self.places).is_some() {
            return Err(self.held());
        }
        if self.memory { self.seek_refuge().map(|()| self) } else { Ok(self) }
    }

    fn seek_refuge(&mut self) -> Result<(), Held> {
        match refuge::take(&self.places, &RUNTIME) {
            Taken::Ours(refuge) => self.refuge = Some(refuge),
            Taken::Held => return Err(self.held()),
            Taken::Nowhere(why) => self.notice(format!(
                "nor can its pid and status be written elsewhere: {why}; `stop` and `status` will not find it"
            )),
        }
        Ok(())
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

    /// The time that a master has told this agent last, seconds since 1970; 0: none.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Keeps such a time. Without an fsync: one that is lost is heard again.
    pub fn keep_heard(&mut self, seconds: u64) {
        if seconds.abs_diff(self.heard) >= HEARD_STEP {
            self.heard = seconds;
            self.keep(HEARD, format!("{seconds}\n").as_bytes(), false);
        }
    }

    /// Writes what `status` shows. Without an fsync: after a crash of the machine nobody asks for it.
    pub fn write_status(&mut self, text: &str) {
        // Where it cannot be written, that was said of the pid already.
        let _ = self.show(STATUS, text.as_bytes());
    }

    /// What became of the link so far, as [`Self::write_history`] wrote it; empty where nothing can be read.
    pub fn read_history(&self) -> Vec<u8> {
        read_history(&self.path)
    }

    /// Writes what became of the link. Without an fsync: what a crash of the machine loses of it, it says itself.
    pub fn write_history(&mut self, text: &str) {
        let _ = self.show(HISTORY, text.as_bytes());
    }

    /// Writes this process and the agent's name into the pid file.
    ///
    /// # Errors
    /// Where else it cannot be written than in the state directory, and why: nobody will find this agent.
    pub fn write_pid(&mut self) -> Result<(), String> {
        // Without /proc there is nothing to write, and the lock says enough.
        let Some(Process { pid, started }) = Process::own() else { return Ok(()) };
        self.pid = format!("{pid} {started} {}\n", self.name);
        self.show(PID, self.pid.clone().as_bytes())
    }

    /// Writes what others read while the agent runs: into the state directory, else where it has its refuge.
    fn show(&mut self, file: &str, bytes: &[u8]) -> Result<(), String> {
        if self.keep(file, bytes, false) {
            return Ok(());
        }
        if self.refuge.is_none() {
            match refuge::take(&self.places, &RUNTIME) {
                Taken::Ours(refuge) => {
                    // A directory that was lost on the way has lost the pid, too.
                    if !self.pid.is_empty() {
                        let _ = write_atomically(&refuge.path, PID, self.pid.as_bytes(), false);
                    }
                    self.refuge = Some(refuge);
                }
                Taken::Nowhere(why) => return Err(why),
                Taken::Held => {}
            }
        }
        let Some(Refuge { path, .. }) = &self.refuge else { return Err("another agent is there".into()) };
        write_atomically(path, file, bytes, false).map_err(|error| format!("{} ({})", path.display(), describe(&error)))
    }

    /// Something that holds the directory as well, to outlive this.
    pub fn guard(&self) -> Guard {
        let lock = self.lock.as_ref().and_then(|lock| lock.try_clone().ok());
        Guard { path: self.path.clone(), places: self.places.clone(), _lock: lock }
    }

    fn held(&self) -> Held {
        let places = [self.path.clone()].into_iter().chain(refuge::held(&self.places));
        let pid = places.into_iter().find_map(|place| read_process(&place)).map(|process| process.pid);
        let name = Self::holder_name(&self.path).unwrap_or_else(|| self.name.clone());
        Held { newcomer: self.name.clone(), name, path: self.path.clone(), pid }
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
        derived_agent_id(&self.name)
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

fn is_temporary(path: &Path) -> bool {
    path.starts_with(temporary_folder(refuge::own_uid()))
}

/// Makes sure, where the state directory is the one for a user without a home, that nobody else has made its folder.
///
/// # Errors
/// It is another user's, or cannot be made.
pub fn make_trusted(path: &Path) -> io::Result<()> {
    trusted(path, refuge::make_private)
}

/// Whether a state directory can be believed: as [`make_trusted`], but nothing is made.
///
/// # Errors
/// Its folder is another user's, or is not there.
pub fn is_trusted(path: &Path) -> io::Result<()> {
    trusted(path, refuge::is_ours)
}

/// Where everybody may make folders, only one that `check` finds ours is looked into.
fn trusted<T>(path: &Path, check: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<()> {
    if !is_temporary(path) {
        return Ok(());
    }
    check(&temporary_folder(refuge::own_uid())).map(|_| ())
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

/// Whether an agent of this directory would have its state in memory alone: looks as [`StateDir::open`] does, and makes
/// nothing.
pub fn would_be_in_memory(path: &Path) -> bool {
    let lock = OpenOptions::new().read(true).write(true).open(path.join(LOCK));
    let unwritable = match lock {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.ancestors().find(|folder| folder.exists()).is_none_or(|folder| may_write(folder).is_err())
        }
        Err(_) => true,
    };
    unwritable || is_trusted(path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
}

/// Whether this process may make files there.
///
/// # Errors
/// Why not.
pub fn may_write(folder: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes())?;
    // SAFETY: the path ends with a zero byte.
    let done = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK | libc::X_OK, libc::AT_EACCESS) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Empty where there is none.
fn read_history(folder: &Path) -> Vec<u8> {
    let mut kept = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(folder.join(HISTORY));
    if let Ok(file) = file {
        let _ = file.take(history::FILE_MAX).read_to_end(&mut kept);
    }
    kept
}

/// The id of an agent that can keep none.
pub fn derived_agent_id(name: &str) -> [u8; 16] {
    identity::derive(Path::new("/"), name)
}

/// The id that an agent of this directory has; none before its first start.
pub fn agent_id_at(folder: &Path) -> Option<[u8; 16]> {
    identity::parse(&fs::read(folder.join(AGENT_ID)).ok()?)
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// 0600. After it, and after a crash in its middle, the file is the old one or the new one.
pub(crate) fn write_atomically(folder: &Path, file: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
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
