//! Running in the background: a launcher that returns, a small parent that stays, and a worker that it starts again.
//!
//! ```text
//! launcher ──fork──→ supervisor ──fork──→ worker
//!   waits for "ready"   setsid, waits        does the work; goes on when the supervisor dies
//!   and returns         starts the worker again with growing pauses
//! ```
//! All of it happens before any thread exists. What is open and locked in the launcher stays so in the other two.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use log::{error, info};

use crate::config::{describe, units::ShowDuration};

/// Pause before the first restart.
const PAUSE_INITIAL: Duration = Duration::from_secs(1);
/// Longest pause: a worker that can't live is tried once a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What a worker gets when its supervisor has died. Ignored until it listens for it.
pub const ORPHANED: i32 = libc::SIGUSR2;
/// A worker that lived so long counts as healthy: pauses start anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a daemon does at the seams between its processes.
pub trait Daemon {
    /// In the supervisor, before the launcher returns: write the pid file, take over the standard streams.
    ///
    /// # Errors
    /// What the launcher prints before it fails.
    fn settle(&mut self) -> Result<(), String>;

    /// In the supervisor, when the worker has ended: follow a log that it rotated, correct what it said of itself.
    fn bereaved(&mut self);

    /// In the supervisor, before it ends: remove the pid file.
    fn leave(&mut self);

    /// In the worker: the work itself. What it returns is its exit code; 0 and 2 end the supervisor, too, any other one
    /// is a reason to start it again. It gets [`ORPHANED`] when the supervisor has died, unless that was before. `before`
    /// says what became of the worker before this one, as in "was killed by signal 9".
    fn work(self, supervisor: u32, before: Option<String>) -> i32;
}

/// Goes into the background. Returns in the launcher only: the supervisor's pid, once [`Daemon::settle`] was done.
///
/// # Errors
/// What to print where `settle` failed or no process could be made: nothing is left running then.
pub fn run(daemon: impl Daemon) -> Result<u32, String> {
    let (mut from_supervisor, to_launcher) = pipe().map_err(|error| cannot("make a pipe", &error))?;
    // What is buffered would be written twice.
    let _ = io::stdout().flush();
    let supervisor = match fork().map_err(|error| cannot("start a process", &error))? {
        Fork::Child => {
            drop(from_supervisor);
            std::process::exit(supervise(daemon, to_launcher));
        }
        Fork::Parent(pid) => pid,
    };
    drop(to_launcher);
    let mut answer = String::new();
    let _ = from_supervisor.read_to_string(&mut answer);
    match answer.as_str() {
        READY => Ok(supervisor.unsigned_abs()),
        "" => Err("the background process ended before it was ready: see the log".into()),
        _ => Err(answer),
    }
}

/// What the supervisor writes to the launcher when all is well; anything else is what went wrong.
const READY: &str = "ready";

fn supervise(mut daemon: impl Daemon, mut to_launcher: File) -> i32 {
    let prepared = detach().map_err(|error| cannot("leave the terminal", &error)).and_then(|()| daemon.settle());
    if let Err(text) = prepared {
        let _ = to_launcher.write_all(text.as_bytes());
        return 1;
    }
    let signals = Signals::block();
    let mut pause = PAUSE_INITIAL;
    let _ = to_launcher.write_all(READY.as_bytes());
    drop(to_launcher);
    let supervisor = std::process::id();
    let mut before = None;
    loop {
        let started = uptime();
        let ended = match fork() {
            Ok(Fork::Child) => {
                signals.release();
                hear_of_orphaning();
                std::process::exit(daemon.work(supervisor, before));
            }
            Ok(Fork::Parent(worker)) => signals.wait_for(worker),
            Err(error) => Ended { cause: Cause::NotStarted(error), stopping: false },
        };
        daemon.bereaved();
        if let Some(code) = ended.final_code() {
            daemon.leave();
            return code;
        }
        let lived = uptime().saturating_sub(started);
        if lived >= HEALTHY_AFTER {
            pause = PAUSE_INITIAL;
        }
        let (lived, shown) = (ShowDuration(Duration::from_secs(lived.as_secs())), ShowDuration(pause));
        error!("The worker process {} after {lived}: starting it again in {shown}", ended.cause);
        if signals.asked_to_stop_within(pause) {
            info!("Stopped while the worker process was down");
            daemon.leave();
            return 0;
        }
        // A worker that never was has told nothing, so it is the one before that its successor tells of.
        if !matches!(ended.cause, Cause::NotStarted(_)) {
            before = Some(ended.cause.to_string());
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// How a worker ended, and whether it had been asked to.
struct Ended {
    cause: Cause,
    stopping: bool,
}

enum Cause {
    Exited(i32),
    Signaled(i32),
    NotStarted(io::Error),
}

impl Ended {
    /// With which code the supervisor ends as well; none: the worker is to be started again.
    fn final_code(&self) -> Option<i32> {
        match self.cause {
            Cause::Exited(code) if self.stopping || code == 0 || code == 2 => Some(code),
            Cause::Signaled(signal) if self.stopping => Some(128 + signal),
            _ => None,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with code {code}"),
            Self::Signaled(signal) => {
                let name = match *signal {
                    libc::SIGABRT => " (SIGABRT)",
                    libc::SIGBUS => " (SIGBUS)",
                    libc::SIGKILL => " (SIGKILL: by hand, or for want of memory)",
                    libc::SIGSEGV => " (SIGSEGV)",
                    libc::SIGTERM => " (SIGTERM)",
                    _ => "",
                };
                write!(f, "was killed by signal {signal}{name}")
            }
            Self::NotStarted(error) => write!(f, "could not be started ({})", describe(error)),
        }
    }
}

/// The signals that a supervisor takes one by one instead of being interrupted by them.
struct Signals {
    set: libc::sigset_t,
    before: libc::sigset_t,
}

impl Signals {
    fn block() -> Self {
        // Inherited as "ignored", it would make ends of children vanish.
        // SAFETY: the default action is set, no handler.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let mut set = empty_set();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD] {
            // SAFETY: the set was initialised, the signal's number is a constant that exists.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        let mut before = empty_set();
        // SAFETY: both sets are initialised locals.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
        Self { set, before }
    }

    /// Undoes the blocking, in the worker.
    fn release(&self) {
        // SAFETY: the set is the one that was in force before.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }

    /// Waits for a signal, at most so long; none when the time is over.
    fn next(&self, timeout: Option<Duration>) -> Option<i32> {
        let signal = match timeout {
            Some(timeout) => {
                let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                spec.tv_sec = timeout.as_secs().try_into().unwrap_or(i32::MAX.into());
                spec.tv_nsec = timeout.subsec_nanos() as _;
                // SAFETY: set and time are initialised; nothing is asked about the sender.
                unsafe { libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), &raw const spec) }
            }
            // SAFETY: the set is initialised; nothing is asked about the sender.
            None => unsafe { libc::sigwaitinfo(&raw const self.set, std::ptr::null_mut()) },
        };
        (signal > 0).then_some(signal)
    }

    /// Waits for the end of the worker, and hands on what it is asked to do.
    fn wait_for(&self, worker: libc::pid_t) -> Ended {
        let mut stopping = false;
        loop {
            if let Some(cause) = reap(worker) {
                return Ended { cause, stopping };
            }
            // Any other is a child's end, or an interruption: look again.
            if let Some(signal @ (libc::SIGTERM | libc::SIGINT | libc::SIGHUP)) = self.next(None) {
                stopping |= signal != libc::SIGHUP;
                // SAFETY: the worker is a child that was not yet waited for, so the pid is still its own.
                unsafe { libc::kill(worker, signal) };
            }
        }
    }

    /// Waits while no worker is there; true if it shall end.
    fn asked_to_stop_within(&self, pause: Duration) -> bool {
        let end = uptime() + pause;
        loop {
            let rest = end.saturating_sub(uptime());
            match self.next(Some(rest)) {
                Some(libc::SIGTERM | libc::SIGINT) => return true,
                // A reload: the new worker reads everything anew.
                Some(libc::SIGHUP) => return false,
                _ if rest.is_zero() => return false,
                _ => {}
            }
        }
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// The end of a child, if it has ended.
fn reap(child: libc::pid_t) -> Option<Cause> {
    let mut status = 0;
    // SAFETY: the status is a local.
    let pid = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
    match pid {
        0 => None,
        pid if pid == child && libc::WIFSIGNALED(status) => Some(Cause::Signaled(libc::WTERMSIG(status))),
        pid if pid == child => Some(Cause::Exited(libc::WEXITSTATUS(status))),
        _ => {
            let error = io::Error::last_os_error();
            (error.kind() != io::ErrorKind::Interrupted).then_some(Cause::NotStarted(error))
        }
    }
}

enum Fork {
    Parent(libc::pid_t),
    Child,
}

fn fork() -> io::Result<Fork> {
    // SAFETY: there is one thread, as this module demands, so the child may do whatever the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// A session of its own, no terminal, and the root as working directory: no mounted disk is kept busy.
fn detach() -> io::Result<()> {
    // SAFETY: setsid has no preconditions.
    if unsafe { libc::setsid() } < 0 {
        return Err(io::Error::last_os_error());
    }
    let null = File::open("/dev/null")?;
    // SAFETY: the file is open; standard input is nobody's property but the process's.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    std::env::set_current_dir("/")
}

/// In the worker.
fn hear_of_orphaning() {
    // SAFETY: no handler is given, and plain integers are passed.
    unsafe {
        libc::signal(ORPHANED, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_PDEATHSIG, ORPHANED);
    }
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: the array has the two places that are written.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors are new and nobody else's.
    let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    Ok((read.into(), write.into()))
}

fn cannot(what: &str, error: &io::Error) -> String {
    format!("cannot {what}: {}", describe(error))
}

/// Time since the machine started.
fn uptime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is a local.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(cause: Cause, stopping: bool) -> Option<i32> {
        Ended { cause, stopping }.final_code()
    }

    #[test]
    fn a_worker_that_dies_unasked_is_started_again_and_no_other() {
        assert_eq!(code(Cause::Exited(0), false), Some(0));
        assert_eq!(code(Cause::Exited(2), false), Some(2));
        assert_eq!(code(Cause::Exited(1), false), None);
        assert_eq!(code(Cause::Exited(101), false), None);
        assert_eq!(code(Cause::Signaled(9), false), None);
        assert_eq!(code(Cause::Signaled(15), false), None);
        assert_eq!(code(Cause::Exited(1), true), Some(1));
        assert_eq!(code(Cause::Signaled(9), true), Some(137));
        assert_eq!(code(Cause::NotStarted(io::Error::from(io::ErrorKind::OutOfMemory)), false), None);
    }
}
