//! The demo's master and agents: real processes, none of which outlives it.

use crate::clock::sleep;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

/// Lines that wait to be looked at.
const QUEUE: usize = 256;
/// For a process to end after it was asked to; then it is killed.
const GRACE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 3 });

/// Something that a process did.
#[derive(Debug)]
pub struct Said {
    pub who: usize,
    pub at: Instant,
    /// `None`: it says no more, so it has ended.
    pub line: Option<String>,
}

/// Processes, numbered in the order in which they were started.
pub struct Processes {
    program: PathBuf,
    folder: PathBuf,
    running: Vec<(String, Child)>,
    to: mpsc::Sender<Said>,
}

impl Processes {
    /// They will run in `folder` and leave their logs there.
    ///
    /// # Errors
    /// When the own program cannot be found.
    pub fn new(folder: &Path) -> io::Result<(Self, mpsc::Receiver<Said>)> {
        Ok(Self::of(std::env::current_exe()?, folder))
    }

    fn of(program: PathBuf, folder: &Path) -> (Self, mpsc::Receiver<Said>) {
        let (to, said) = mpsc::channel(QUEUE);
        (Self { program, folder: folder.to_owned(), running: Vec::new(), to }, said)
    }

    /// Starts the own program once more. What it says goes to `<name>.log` and to the receiver.
    ///
    /// # Errors
    /// When it or its log cannot be made.
    pub fn start(&mut self, name: &str, args: &[String]) -> io::Result<usize> {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join(format!("{name}.log")))?;
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(&self.folder).kill_on_drop(true).process_group(0);
        for variable in ["SLOTH_RUNNER_MASTER_ADDR", "SLOTH_RUNNER_TOKEN", "SLOTH_RUNNER_CA"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let parent = std::process::id();
        // SAFETY: prctl and getppid are system calls without memory of ours, allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have ended before that took effect.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let who = self.running.len();
        let out = child.stdout.take().expect("it was asked for");
        let err = child.stderr.take().expect("it was asked for");
        let log_too = log.try_clone()?;
        let from_out = tokio::spawn(listen(out, who, log_too, self.to.clone()));
        let to = self.to.clone();
        tokio::spawn(async move {
            listen(err, who, log, to.clone()).await;
            let _ = from_out.await;
            let _ = to.send(Said { who, at: Instant::now(), line: None }).await;
        });
        self.running.push((name.to_owned(), child));
        Ok(who)
    }

    /// Kills it with SIGKILL and returns when it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self, who: usize) -> io::Result<()> {
        self.running[who].1.kill().await
    }

    /// Ends all of them, the newest first; true if all did so when asked.
    pub async fn end_all(&mut self) -> bool {
        let ask = |child: &Child| {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                // SAFETY: a signal to an own child that has not been waited for, so its number is still its own.
                unsafe { libc::kill(pid, libc::SIGTERM) };
            }
        };
        self.running.iter().for_each(|(_, child)| ask(child));
        // A second signal skips the wait for running commands.
        sleep(Duration::from_millis(200)).await;
        self.running.iter_mut().for_each(|(_, child)| {
            if matches!(child.try_wait(), Ok(None)) {
                ask(child);
            }
        });
        let deadline = Instant::now() + GRACE;
        let mut well = true;
        for (_, child) in &mut self.running {
            if timeout_at(deadline, child.wait()).await.is_err() {
                well = false;
                let _ = timeout(GRACE, child.kill()).await;
            }
        }
        well
    }

    pub fn name(&self, who: usize) -> &str {
        &self.running[who].0
    }

    /// How it ended, in words: its status and what it said last.
    pub fn how_it_ended(&mut self, who: usize) -> String {
        let (name, child) = &mut self.running[who];
        let how = match child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            _ => "it closed its output".to_owned(),
        };
        let log = std::fs::read(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        match String::from_utf8_lossy(&log).lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => format!("{how}; it said last: {last}"),
            None => how,
        }
    }
}

/// Until the process closes it. Nothing is kept but the present line.
async fn listen(from: impl AsyncRead + Unpin, who: usize, mut log: File, to: mpsc::Sender<Said>) {
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while let Ok(1..) = lines.read_until(b'\n', &mut line).await {
        let at = Instant::now();
        let _ = log.write_all(&line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        // Read on when nobody looks any more: a closed pipe would disturb the end of the process.
        let _ = to.send(Said { who, at, line: Some(text) }).await;
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn started(script: &str) -> (Processes, mpsc::Receiver<Said>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (mut processes, said) = Processes::of("/bin/sh".into(), folder.path());
        processes.start("x", &["-c".to_owned(), script.to_owned()]).unwrap();
        (processes, said, folder)
    }

    #[tokio::test]
    async fn what_it_says_is_told_and_logged_to_the_last_line() {
        let (mut processes, mut said, folder) = started("echo one; echo two >&2; printf three; exit 4").await;
        let mut lines = Vec::new();
        while let Some(Said { line: Some(line), .. }) = said.recv().await {
            lines.push(line);
        }
        lines.sort();
        assert_eq!(lines, ["one", "three", "two"]);
        let mut log: Vec<u8> = std::fs::read(folder.path().join("x.log")).unwrap();
        log.sort();
        assert_eq!(log.len(), "one\ntwo\nthree".len());
        assert!(processes.end_all().await);
        let how = processes.how_it_ended(0);
        assert!(how.starts_with("exit status: 4; it said last: "), "{how}");
    }

    #[tokio::test]
    async fn who_does_not_end_when_asked_is_killed() {
        let (mut processes, mut said, _folder) = started("trap '' TERM; echo ready; while :; do sleep 1; done").await;
        assert_eq!(said.recv().await.unwrap().line.as_deref(), Some("ready"));
        assert!(!processes.end_all().await);
        assert!(processes.how_it_ended(0).contains("signal: 9"));

        let (mut processes, mut said, _folder) = started("echo ready; read -r line < /dev/zero").await;
        assert_eq!(said.recv().await.unwrap().line.as_deref(), Some("ready"));
        assert!(processes.end_all().await);
    }
}
