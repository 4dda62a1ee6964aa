//! `--daemon`: the master in the background, as a child in a session of its own.
//!
//! The program starts itself again with the same command line. The child has the terminal for its messages until it
//! listens; then its one line on standard output tells the parent so, which passes it on and ends.

use sloth_agent::{descriptors::close_on_exec, logging::Rolling};
use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

/// Set for the child.
const CHILD: &str = "SLOTH_RUNNER_MASTER_DAEMON";

/// What a child that says nothing and is killed counts as.
const DIED: i32 = 1;

/// Whether this process is the one that goes to the background.
pub fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Lets go of the terminal: what is still printed, such as the message of a panic, goes to the log.
pub fn detach(log: &Rolling) {
    log.capture_stdio();
}

/// Starts the child, waits until it listens or has ended, and returns the exit code for this process. The child's log is
/// named where it listens.
///
/// # Errors
/// It cannot be started.
pub fn start_child(log: &Path) -> io::Result<i32> {
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1)).env(CHILD, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            close_on_exec();
            match libc::setsid() {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    let mut child = command.spawn()?;
    let output = child.stdout.take().expect("piped above");
    for line in BufReader::new(output).lines() {
        let line = line?;
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        if line.starts_with(super::STARTED) {
            let _ = writeln!(stdout, "Log: {}\nIn the background as process {}", log.display(), child.id());
            return Ok(0);
        }
    }
    // It closed its output without that line: it ends, or has.
    Ok(child.wait()?.code().unwrap_or(DIED))
}
