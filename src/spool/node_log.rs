//! A log of what ran on this node, for its owner: `commands.log` in the state directory.

use crate::logging::utc::Utc;
use link::{Outcome, ledger::Finish};
use proto::CommandSpec;
use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// A file that grew beyond this is set aside as `commands.log.1`, and what was there goes.
const SIZE_MAX: u64 = 256 * 1024;

/// Of what a command ran so much stands in its line, characters.
const SHOWN_MAX: usize = 200;

/// Blocking. Never synced: it is for people, and promises nothing.
#[derive(Debug)]
pub struct NodeLog {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl NodeLog {
    /// In this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("commands.log"), open: None }
    }

    /// Writes lines that [`line`] has made.
    ///
    /// # Errors
    /// They are not there, or not all of them.
    pub fn write(&mut self, lines: &str) -> io::Result<()> {
        let (mut file, size) = match self.open.take() {
            Some(open) => open,
            None => {
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
                let size = file.metadata()?.len();
                (file, size)
            }
        };
        file.write_all(lines.as_bytes())?;
        let size = size + lines.len() as u64;
        if size < SIZE_MAX {
            self.open = Some((file, size));
            return Ok(());
        }
        fs::rename(&self.path, self.path.with_extension("log.1"))
    }
}

/// When a command ended, its id, what it was, how it ended and after how long: one line, whatever it holds.
pub fn line(id: &str, spec: &CommandSpec, finish: &Finish) -> String {
    let at = Utc(Duration::from_millis(finish.finished_unix_ms));
    let mut line = format!("{at} {id} {}", finish.outcome.word());
    let detail = match &finish.outcome {
        Outcome::Exited(code) => write!(line, " {code}"),
        Outcome::Signaled(signal) => write!(line, " {signal}"),
        _ => Ok(()),
    };
    detail.expect("a string takes everything");
    if finish.started_unix_ms > 0 {
        let ran = finish.finished_unix_ms.saturating_sub(finish.started_unix_ms);
        let _ = write!(line, " after {}.{:03}s", ran / 1000, ran % 1000);
    }
    if !spec.user.is_empty() {
        let _ = write!(line, " as {}", spec.user.escape_debug());
    }
    let what = if spec.shell.is_empty() {
        let arguments = spec.argv.iter().map(|argument| String::from_utf8_lossy(argument).into_owned());
        arguments.collect::<Vec<_>>().join(" ")
    } else {
        format!("sh: {}", spec.shell)
    };
    line.push_str(": ");
    line.extend(what.chars().take(SHOWN_MAX).flat_map(char::escape_debug));
    if what.chars().nth(SHOWN_MAX).is_some() {
        line.push('…');
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(outcome: Outcome, started_unix_ms: u64) -> Finish {
        Finish { outcome, total_bytes: 0, started_unix_ms, finished_unix_ms: 1_700_000_001_500 }
    }

    #[test]
    fn each_command_is_one_line_that_says_what_ran_and_how_it_ended() {
        let spec = CommandSpec { argv: vec!["ls".into(), "a\nb".into()], user: "web".into(), ..Default::default() };
        let ran = finish(Outcome::Exited(3), 1_700_000_000_000);
        assert_eq!(line("x-1", &spec, &ran), "2023-11-14T22:13:21.500Z x-1 exited 3 after 1.500s as web: ls a\\nb\n");
        let spec = CommandSpec { shell: "é".repeat(300), ..Default::default() };
        let refused = line("y", &spec, &finish(Outcome::Refused("no".to_owned()), 0));
        assert!(refused.starts_with("2023-11-14T22:13:21.500Z y refused: sh: é") && refused.ends_with("é…\n"));
    }

    #[test]
    fn the_log_goes_on_after_a_restart_and_stays_below_twice_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(9_999) + "\n";
        for _ in 0..3 {
            let mut log = NodeLog::new(folder.path());
            for _ in 0..40 {
                log.write(&long).unwrap();
            }
        }
        let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size("commands.log") < SIZE_MAX && size("commands.log.1") < SIZE_MAX + 10_000);
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 2);
    }
}
