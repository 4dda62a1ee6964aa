//! The command that lasts through the outage, and the proof that none of its output is lost, doubled or out of order.
//! Pure.

/// How often it writes a line, and how many: 22 s in all, more than the longest way back.
const PAUSE_S: &str = "0.5";
pub const LINES: u32 = 44;

/// For the agent's shell.
pub fn shell_line() -> String {
    format!("i=1; while [ $i -le {LINES} ]; do echo \"line $i, process $$\"; i=$((i+1)); sleep {PAUSE_S}; done")
}

/// Checks the output as it comes.
#[derive(Debug, Default)]
pub struct Counting {
    rest: Vec<u8>,
    seen: u32,
    /// All lines are of one process: it was not started a second time.
    process: Option<String>,
}

impl Counting {
    /// Takes output in pieces as they come.
    ///
    /// # Errors
    /// At the first line that is not the expected one.
    pub fn take(&mut self, data: &[u8]) -> Result<(), String> {
        self.rest.extend(data);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&String::from_utf8_lossy(&line[..end]))?;
        }
        if self.rest.len() > 100 { Err("a line without an end".to_owned()) } else { Ok(()) }
    }

    /// Lines so far.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// Every line has come, and nothing else.
    ///
    /// # Errors
    /// What is missing or too much.
    pub fn is_whole(&self) -> Result<(), String> {
        match (self.seen, self.rest.len()) {
            (LINES, 0) => Ok(()),
            (LINES, more) => Err(format!("{more} bytes came after the last line")),
            (seen, _) => Err(format!("{seen} of {LINES} lines came")),
        }
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let expected = self.seen + 1;
        let process = line
            .strip_prefix(&format!("line {expected}, process "))
            .filter(|process| !process.is_empty())
            .ok_or_else(|| format!("line {expected} was expected, {line:?} came"))?;
        let first = self.process.get_or_insert_with(|| process.to_owned());
        if first != process {
            return Err(format!("process {first} began it, process {process} goes on"));
        }
        self.seen = expected;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> String {
        (1..=LINES).map(|line| format!("line {line}, process 7\n")).collect()
    }

    #[test]
    fn every_line_once_and_in_order_is_whole_however_it_was_cut() {
        let mut counting = Counting::default();
        for piece in output().as_bytes().chunks(5) {
            assert!(counting.is_whole().is_err());
            counting.take(piece).unwrap();
        }
        assert_eq!((counting.seen(), counting.is_whole()), (LINES, Ok(())));
    }

    #[test]
    fn a_line_that_is_missing_doubled_or_of_another_process_is_found() {
        for (from, to) in [
            ("line 3, process 7\n", ""),
            ("line 3, process 7\n", "line 3, process 7\nline 3, process 7\n"),
            ("line 3, process 7\n", "line 3, process 8\n"),
            ("line 3, process 7\n", "line 3, pro\u{0}cess 7\n"),
        ] {
            let broken = output().replacen(from, to, 1);
            assert!(Counting::default().take(broken.as_bytes()).is_err(), "{to:?}");
        }
        let mut counting = Counting::default();
        counting.take(&output().as_bytes()[..600]).unwrap();
        assert!(counting.is_whole().unwrap_err().ends_with("of 44 lines came"));
    }

    #[test]
    fn the_shell_writes_what_is_checked() {
        let quick = shell_line().replace("sleep 0.5", ":");
        let output = std::process::Command::new("/bin/sh").args(["-c", &quick]).output().unwrap();
        let mut counting = Counting::default();
        counting.take(&output.stdout).unwrap();
        assert_eq!(counting.is_whole(), Ok(()));
    }
}
