//! Network namespaces. One lives as long as somebody holds it or runs in it, so nothing is left behind, however a test
//! ends, and no name can clash.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

/// A host of the test: interfaces, addresses, routes and sockets of its own.
#[derive(Clone)]
pub struct Space(Arc<OwnedFd>);

impl Space {
    /// An empty one, its loopback up.
    ///
    /// # Errors
    /// Without the right to make one.
    pub fn new() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            // SAFETY: it moves this thread alone, which ends here.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
        });
        let space = Self(Arc::new(made.join().expect("it does not panic")?));
        space.ip("link set lo up");
        Ok(space)
    }

    /// Runs this in there. What it opens stays there.
    pub fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| {
                enter(self.0.as_raw_fd()).unwrap();
                work()
            });
            visit.join().unwrap()
        })
    }

    /// The command will run in there.
    pub fn put(&self, command: &mut Command) {
        let space = self.0.clone();
        // SAFETY: one system call, allowed between fork and exec; the descriptor lives as long as the command.
        unsafe { command.pre_exec(move || enter(space.as_raw_fd())) };
    }

    /// One or more commands of `ip`, a line each.
    #[track_caller]
    pub fn ip(&self, lines: &str) {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.put(&mut command);
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{lines}\n{}", String::from_utf8_lossy(&done.stderr));
    }

    /// TCP connections with this port at the other end (`remote`) or at this one, as the kernel has them: state and
    /// port here. Not those in TIME_WAIT, which bind nobody.
    pub fn sockets(&self, port: u16, remote: bool) -> Vec<String> {
        let text = self.inside(|| {
            let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
            read("/proc/thread-self/net/tcp") + &read("/proc/thread-self/net/tcp6")
        });
        let (suffix, column) = (format!(":{port:04X}"), if remote { 2 } else { 1 });
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = lines.filter(|line| line.get(column).is_some_and(|end| end.ends_with(&suffix)));
        ours.filter(|line| !["06", "0A"].contains(&line[3])).map(|line| format!("{} {}", line[3], line[1])).collect()
    }
}

/// The command sees this file in the place of that one.
pub fn overlay(command: &mut Command, file: &Path, place: &str) {
    let [file, place] = [file.to_str().unwrap(), place].map(|path| CString::new(path).unwrap());
    let no_type = c"none";
    // SAFETY: system calls on strings that live as long as the command.
    unsafe {
        command.pre_exec(move || {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(no_type.as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()))?;
            check(libc::mount(file.as_ptr(), place.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null()))
        });
    }
}

fn enter(space: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::setns(space, libc::CLONE_NEWNET) })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
