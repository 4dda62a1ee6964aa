//! A child process whose two outputs are read as they come.

use super::{PATIENCE, until};
use std::{
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

/// It is killed when this is dropped, and when the test's thread ends in whatever way.
pub struct Running {
    child: Child,
    what: String,
    pub input: Option<ChildStdin>,
    pub out: Heard,
    pub err: Heard,
}

/// How a process ended: its code, or 128+n for signal n.
pub struct Done {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Running {
    pub fn start(mut command: Command, input: Stdio) -> Self {
        command.env_remove("SLOTH_RUNNER_MASTER_ADDR").env_remove("SLOTH_RUNNER_TOKEN").env_remove("RUST_LOG");
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: system calls without memory of ours, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Whoever runs the tests may have it ignored, as `nohup` does.
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        let what = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (out, err) = (Heard::of(child.stdout.take().unwrap()), Heard::of(child.stderr.take().unwrap()));
        Self { input: child.stdin.take(), child, what, out, err }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0, "{}", self.what);
    }

    /// Kills it and returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ends.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        until(&format!("the end of {}", self.what), || self.child.try_wait().unwrap().map(code))
    }

    /// How it ends, with all that it has written.
    #[track_caller]
    pub fn done(mut self) -> Done {
        let code = self.wait();
        Done { code, stdout: self.out.all(), stderr: String::from_utf8_lossy(&self.err.all()).into_owned() }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Done {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let text = self.text();
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", &text[..text.len().min(2000)], self.stderr);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.text(), self.stderr))
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).expect("it has ended in one way or the other")
}

/// What came out of a pipe so far.
#[derive(Clone)]
pub struct Heard(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Lines before this were asked for already.
    seen: usize,
    ended: bool,
}

impl Heard {
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let heard = Self(Arc::default());
        let to = heard.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut state = to.0.0.lock().unwrap();
                state.bytes.extend(&buffer[..count]);
                state.ended = count == 0;
                to.0.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        heard
    }

    /// The next line with this text, after the one that was asked for last.
    #[track_caller]
    pub fn line(&self, text: &str) -> String {
        self.line_within(text, PATIENCE)
    }

    /// … that takes no longer than this.
    #[track_caller]
    pub fn line_within(&self, text: &str, patience: Duration) -> String {
        let found = self.look(patience, |state| {
            let line = state.bytes[state.seen..].split_inclusive(|byte| *byte == b'\n').scan(state.seen, |at, line| {
                *at += line.len();
                Some((*at, String::from_utf8_lossy(line).into_owned()))
            });
            let (end, line) = line.filter(|(_, line)| line.ends_with('\n')).find(|(_, line)| line.contains(text))?;
            state.seen = end;
            Some(line.trim_end().to_owned())
        });
        found.unwrap_or_else(|| panic!("no line with {text:?} within {patience:?} in:\n{}", self.text()))
    }

    /// Lines with this text so far.
    pub fn count(&self, text: &str) -> usize {
        self.text().lines().filter(|line| line.contains(text)).count()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.0.lock().unwrap().bytes).into_owned()
    }

    /// Everything, once the pipe is closed.
    #[track_caller]
    pub fn all(&self) -> Vec<u8> {
        let all = self.look(PATIENCE, |state| state.ended.then(|| state.bytes.clone()));
        all.unwrap_or_else(|| panic!("somebody still holds the pipe:\n{}", self.text()))
    }

    /// Looks at each change until there is an answer, or the pipe is closed, or patience ends.
    fn look<T>(&self, patience: Duration, mut answer: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut found = None;
        let state = self.0.0.lock().unwrap();
        let _ = self.0.1.wait_timeout_while(state, patience, |state| {
            found = answer(state);
            found.is_none() && !state.ended
        });
        found
    }
}

/// Writes all of it and closes the pipe; from a thread, because the reader may be slow.
pub fn feed(input: ChildStdin, bytes: Vec<u8>) {
    std::thread::spawn(move || {
        let mut input = input;
        let _ = input.write_all(&bytes);
    });
}

/// How often a condition that nobody announces is looked at.
pub const LOOK: Duration = Duration::from_millis(10);
