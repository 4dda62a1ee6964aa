//! Short commands, and what must come of them.

use crate::tool::{ending, follow::Call, id, output::Output, resume::Piece, writer::Gone};
use proto::{CommandSpec, OutputStream, RunStart};

/// A short command, and what must come of it.
pub struct Errand {
    pub shown: &'static str,
    pub argv: Vec<&'static str>,
    code: i32,
    /// `None`: anything but nothing.
    stdout: Option<&'static str>,
    stderr: &'static str,
}

impl Errand {
    pub fn all() -> [Self; 3] {
        [
            Self { shown: "uname -srm", argv: vec!["uname", "-srm"], code: 0, stdout: None, stderr: "" },
            Self {
                shown: "sh -c 'echo fine; echo or not >&2; exit 3'",
                argv: vec!["sh", "-c", "echo fine; echo or not >&2; exit 3"],
                code: 3,
                stdout: Some("fine\n"),
                stderr: "or not\n",
            },
            Self {
                shown: "printf 'the last line has no newline'",
                argv: vec!["printf", "the last line has no newline"],
                code: 0,
                stdout: Some("the last line has no newline"),
                stderr: "",
            },
        ]
    }

    /// # Errors
    /// What is not as it should be.
    pub fn check(&self, outcome: Option<&proto::Outcome>, output: &Kept) -> Result<(), String> {
        let code = outcome.map_or(ending::NO_CODE, ending::exit_code);
        if code != self.code {
            return Err(format!("it should have exited with {}", self.code));
        }
        let stdout_fits = match self.stdout {
            Some(text) => output.stdout == text.as_bytes(),
            None => !output.stdout.is_empty(),
        };
        if stdout_fits && output.stderr == self.stderr.as_bytes() {
            Ok(())
        } else {
            Err("its output is not what it should be".to_owned())
        }
    }
}

/// Its output.
#[derive(Default)]
pub struct Kept {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output for Kept {
    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        match piece {
            Piece::Bytes { stream: OutputStream::Stdout, data, .. } => self.stdout.extend(data),
            Piece::Bytes { stream: OutputStream::Stderr, data, .. } => self.stderr.extend(data),
            Piece::Gap { .. } => return Err(Gone),
        }
        Ok(())
    }

    async fn notice(&mut self, _: String) {}
}

/// Starts `spec` on `agent`, under a new id.
///
/// # Errors
/// When there is no randomness for the id.
pub fn call(agent: &str, spec: CommandSpec) -> Result<Call, String> {
    let id = id::new().map_err(|error| format!("no randomness for an id: {error}"))?;
    let start = RunStart { id, agent: agent.to_owned(), spec: Some(spec), from_offset: 0, ..RunStart::default() };
    Ok(Call::Run(Box::new(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_code_are_both_looked_at() {
        let outcome = |code| proto::Outcome::from(&link::Outcome::Exited(code));
        let kept = |stdout: &str, stderr: &str| Kept { stdout: stdout.into(), stderr: stderr.into() };
        let [uname, failing, _] = Errand::all();
        assert_eq!(uname.check(Some(&outcome(0)), &kept("Linux\n", "")), Ok(()));
        assert!(uname.check(Some(&outcome(0)), &kept("", "")).is_err());
        assert_eq!(failing.check(Some(&outcome(3)), &kept("fine\n", "or not\n")), Ok(()));
        assert!(failing.check(Some(&outcome(3)), &kept("fine\n", "")).is_err());
        assert!(failing.check(Some(&outcome(0)), &kept("fine\n", "or not\n")).is_err());
        assert!(failing.check(None, &kept("fine\n", "or not\n")).is_err());
    }
}
