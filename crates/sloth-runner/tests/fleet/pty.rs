//! A program in a terminal of its own, and what a person sees there.

use super::{Done, until};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

/// It is killed when this is dropped.
pub struct Terminal {
    child: Child,
    ours: File,
    written: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    /// Runs the command as the foreground of a new terminal of this size.
    pub fn start(mut command: Command, columns: u16, lines: u16) -> Self {
        let (mut ours, mut theirs) = (-1, -1);
        let (null, size) = (std::ptr::null_mut(), window(columns, lines));
        // SAFETY: the two numbers and the size are locals, and the rest may be null.
        let made =
            unsafe { libc::openpty(&raw mut ours, &raw mut theirs, null, null.cast(), (&raw const size).cast_mut()) };
        assert_eq!(made, 0);
        // SAFETY: openpty has just made both, and nobody else has them.
        let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let copy = || theirs.try_clone().unwrap();
        command.stdin(copy()).stdout(copy()).stderr(copy());
        for variable in ["SLOTH_RUNNER_MASTER_ADDR", "SLOTH_RUNNER_TOKEN", "RUST_LOG"] {
            command.env_remove(variable);
        }
        // SAFETY: system calls without memory of ours, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                // Whoever leads a session and takes a terminal is its foreground: what is typed there is for it.
                match (libc::setsid(), libc::ioctl(0, libc::TIOCSCTTY, 0)) {
                    (-1, _) | (_, -1) => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
        }
        let child = command.spawn().unwrap();
        let ours = File::from(ours);
        let (mut from, written) = (ours.try_clone().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let to = written.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with an error when nobody has the other end any more.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend(&buffer[..count]);
            }
        });
        Self { child, ours, written, reader }
    }

    /// All that was written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    pub fn types(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    pub fn resize(&self, columns: u16, lines: u16) {
        let size = window(columns, lines);
        // SAFETY: the request reads a structure of this type.
        assert_eq!(unsafe { libc::ioctl(self.ours.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), signal) }, 0);
    }

    /// How it ends, with all that was written.
    #[track_caller]
    pub fn done(mut self) -> Done {
        let status = until("the end", || self.child.try_wait().unwrap());
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
        // What is on its way stays until it is read, and the reader ends after that.
        until("the last of it", || self.reader.is_finished().then_some(()));
        Done { code, stdout: self.text().into_bytes(), stderr: String::new() }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn window(columns: u16, lines: u16) -> libc::winsize {
    libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
