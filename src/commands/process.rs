//! Stays with a started command until it is over: reads its output, writes its input, ends its processes.

use super::{
    group::Group,
    held::{Held, Room},
    launch::Process,
};
use link::ledger::{Ending, Exit};
use proto::OutputStream;
use std::{
    fs::File,
    io::{self, Read},
    mem,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    ptr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::unix::pipe,
    process::Child,
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// How long output of processes that a command left behind is still taken: what a shell's `>(…)` says last comes after
/// the shell's own end. A daemon that keeps the pipes holds the outcome no longer than this.
const LINGER: Duration = Duration::from_millis(200);

/// How often a group that was told to end is looked at, once its leader is gone: nothing tells when the rest is. Doubles.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(320);

/// How long processes may take to go after KILL.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// Most that is read from a pipe at once.
const READ_MAX: usize = 32 * 1024;

/// Most that is read from a pipe after the command's end: as much as a pipe can be made to hold.
const TAIL_MAX: usize = 1024 * 1024;

/// To all processes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Kill,
}

/// Returns when the command is over: its leader has ended, what its pipes held is read, and if it was told to end, its
/// whole group is gone. All of its output is in `held` then. If the other end of `signals` is dropped, it is killed.
pub async fn supervise(process: Process, held: Arc<Held>, mut signals: mpsc::Receiver<Signal>) -> Exit {
    let Process { mut child, group, mut stdin, stdout, stderr } = process;
    let mut end =
        End { group, signalled: false, exited: None, killed: None, look: LOOK_MIN, next_look: Instant::now() };
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    let mut owned = true;
    loop {
        if let Some((ending, _)) = end.exited
            && end.is_over(stdout.is_none() && stderr.is_none())
        {
            end.group.let_go();
            read_tail(stdout, &held, OutputStream::Stdout);
            read_tail(stderr, &held, OutputStream::Stderr);
            return if end.signalled { Exit::Killed(ending) } else { Exit::Own(ending) };
        }
        if stdin.is_some() && held.stdin_is_over() {
            stdin = None;
        }
        let changed = held.pool.changed.notified();
        let reads = held.room() != Room::Stall;
        let writes = held.stdin_waits();
        tokio::select! {
            status = child.wait(), if end.exited.is_none() => end.exited = Some((ending(status), Instant::now())),
            () = readable(&stdout), if reads && stdout.is_some() => read(&mut stdout, &held, OutputStream::Stdout),
            () = readable(&stderr), if reads && stderr.is_some() => read(&mut stderr, &held, OutputStream::Stderr),
            () = writable(&stdin), if writes && stdin.is_some() => write(&stdin, &held),
            signal = signals.recv(), if owned => {
                owned = signal.is_some();
                end.signal(&mut child, signal.unwrap_or(Signal::Kill));
            }
            () = held.to_process.notified() => {}
            () = changed, if !reads => {}
            () = end.wait(), if end.exited.is_some() => {}
        }
    }
}

/// Children of a process that ignores SIGCHLD are gone before their exit status is read, and who ignores it passes that
/// on: so that is undone.
pub fn keep_children() {
    // SAFETY: the structure is filled by the first call; nobody's handler is replaced.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        if libc::sigaction(libc::SIGCHLD, ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        }
    }
}

/// How far the end of a command has come.
struct End {
    group: Group,
    /// A signal of ours reached it before it had ended by itself.
    signalled: bool,
    exited: Option<(Ending, Instant)>,
    killed: Option<Instant>,
    look: Duration,
    next_look: Instant,
}

impl End {
    fn signal(&mut self, child: &mut Child, signal: Signal) {
        // It may have ended with nobody having looked yet: then it was not this signal.
        if self.exited.is_none()
            && let Ok(Some(status)) = child.try_wait()
        {
            self.exited = Some((ending(Ok(status)), Instant::now()));
        }
        if self.exited.is_some() && !self.signalled {
            return;
        }
        self.signalled = true;
        match signal {
            Signal::Terminate => {
                self.group.send(libc::SIGTERM);
                // A stopped process does not see TERM before it goes on.
                self.group.send(libc::SIGCONT);
            }
            Signal::Kill => {
                self.group.send(libc::SIGKILL);
                self.killed = Some(Instant::now());
                (self.look, self.next_look) = (LOOK_MIN, Instant::now());
            }
        }
    }

    /// Only asked once the leader is gone.
    fn is_over(&mut self, pipes_closed: bool) -> bool {
        let Some((_, exited)) = self.exited else { return false };
        let now = Instant::now();
        if !self.signalled {
            // What it leaves behind by itself may stay.
            self.group.let_go();
        } else if now >= self.next_look {
            self.next_look = now + self.look;
            self.look = (self.look * 2).min(LOOK_MAX);
            if !self.group.lives() {
                self.group.let_go();
            }
        }
        let gone = self.group.is_let_go() || self.killed.is_some_and(|killed| now >= killed + KILL_WAIT);
        gone && (pipes_closed || now >= exited + LINGER)
    }

    async fn wait(&self) {
        let Some((_, exited)) = self.exited else { return };
        sleep_until(if self.group.is_let_go() { exited + LINGER } else { self.next_look }).await;
    }
}

fn ending(status: io::Result<ExitStatus>) -> Ending {
    let status = status.expect("a child of this process that nobody else waits for");
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, signal) => Ending::Signal(signal.expect("what did not exit was ended by a signal")),
    }
}

async fn readable(pipe: &Option<pipe::Receiver>) {
    if let Some(pipe) = pipe {
        // An error shows again when it is read.
        let _ = pipe.readable().await;
    }
}

async fn writable(pipe: &Option<pipe::Sender>) {
    if let Some(pipe) = pipe {
        let _ = pipe.writable().await;
    }
}

fn read(pipe: &mut Option<pipe::Receiver>, held: &Held, stream: OutputStream) {
    let Some(open) = pipe else { return };
    let mut buffer = [0; READ_MAX];
    // Asked again: others may have taken the room meanwhile.
    let (max, discard) = match held.room() {
        Room::Read(max) => (max.min(READ_MAX), false),
        Room::Discard => (READ_MAX, true),
        Room::Stall => return,
    };
    match open.try_read(&mut buffer[..max]) {
        Ok(0) => *pipe = None,
        Ok(bytes) if discard => held.push_gap(bytes as u64),
        Ok(bytes) => held.push(stream, &buffer[..bytes]),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        Err(_) => *pipe = None,
    }
}

/// What a pipe still holds when its command is over, whether there is room for it or not: it is not much.
fn read_tail(pipe: Option<pipe::Receiver>, held: &Held, stream: OutputStream) {
    // Past the runtime's idea of readiness, which may not have heard of the last bytes yet.
    let Some(Ok(pipe)) = pipe.map(pipe::Receiver::into_nonblocking_fd) else { return };
    let mut pipe = File::from(pipe).take(TAIL_MAX as u64);
    let mut buffer = [0; READ_MAX];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(bytes) => held.push(stream, &buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn write(pipe: &Option<pipe::Sender>, held: &Held) {
    if let Some(pipe) = pipe {
        held.write_stdin(|data| pipe.try_write(data));
    }
}
