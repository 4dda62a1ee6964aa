//! Counts the system calls of a running process: strace attached to it for a while.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// An strace that counts. It makes its process slower and wakes it: nothing else is measured at the same time.
pub struct Strace {
    child: Child,
    summary: PathBuf,
    _folder: TempDir,
}

/// System calls by name.
pub type Calls = BTreeMap<String, u64>;

impl Strace {
    /// Attaches to all threads of a process.
    pub fn attach(pid: u32) -> io::Result<Self> {
        let folder = TempDir::new()?;
        let summary = folder.path().join("summary");
        let child = Command::new("strace")
            .args(["-f", "-qq", "-c", "-U", "calls,name", "-p", &pid.to_string(), "-o"])
            .arg(&summary)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, summary, _folder: folder })
    }

    /// Detaches; what was counted.
    pub fn detach(mut self) -> io::Result<Calls> {
        let pid = libc::pid_t::try_from(self.child.id()).expect("the kernel's own pids fit");
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
        self.child.wait()?;
        Ok(parse(&fs::read_to_string(&self.summary)?))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // After `detach` there is nothing left of it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(summary: &str) -> Calls {
    let row = |line: &str| {
        let (calls, name) = line.trim().split_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), calls.parse().ok()?))
    };
    summary.lines().filter_map(row).filter(|(name, _)| name != "total").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read_without_its_total() {
        let summary = "    calls syscall\n--------- -----------------\n        7 epoll_wait\n        3 read\n\
            --------- -----------------\n       10 total\n";
        assert_eq!(parse(summary), [("epoll_wait".to_owned(), 7), ("read".to_owned(), 3)].into());
    }
}
