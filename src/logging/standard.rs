//! Lines on standard output or error whose reader may stand still: a terminal after Ctrl-S, a pipe into a pager. That
//! must not hold the agent, which has one thread.

use std::{
    io::{self, Write},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

/// How long a line waits for a reader that was not late before.
const PATIENCE: Duration = Duration::from_millis(100);

/// Longest line that is written, bytes: a pipe that is ready takes so much at once (PIPE_BUF).
pub(super) const LINE_MAX: usize = 4096;

/// Writes whole lines. What the reader does not take is counted, and said once it takes lines again.
pub(super) struct Standard<W> {
    out: W,
    /// Lines since the last one that was written.
    lost: u64,
}

impl<W: Write + AsRawFd> Standard<W> {
    pub fn new(out: W) -> Self {
        Self { out, lost: 0 }
    }

    /// Writes one line, its end included, of at most [`LINE_MAX`] bytes. A reader that is gone is no failure.
    pub fn write_line(&mut self, line: &[u8]) {
        let wait = if self.lost == 0 { PATIENCE } else { Duration::ZERO };
        if !takes_a_line(self.out.as_raw_fd(), wait) {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        if self.lost > 0 {
            let note = format!("({} lines were left out: they were not read in time)\n", self.lost);
            self.lost = 0;
            self.write_line(note.as_bytes());
            return self.write_line(line);
        }
        let _ = self.out.write_all(line).and_then(|()| self.out.flush());
    }
}

impl<W: Write + AsRawFd> Write for Standard<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_line(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn takes_a_line(descriptor: RawFd, wait: Duration) -> bool {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    let wait = wait.as_millis().try_into().unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer is to one local structure, as is said.
    let ready = unsafe { libc::poll(&raw mut poll, 1, wait) };
    // Where it cannot be asked the write says what is wrong.
    ready != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};

    fn read(pipe: &mut PipeReader, bytes: usize) -> String {
        let mut text = vec![0; bytes];
        pipe.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_reader_that_stands_still_loses_lines_and_holds_nobody() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut out = Standard::new(writer);
        let line = format!("{}\n", "x".repeat(LINE_MAX - 1));
        let mut written = 0;
        while out.lost == 0 {
            out.write_line(line.as_bytes());
            written += 1;
        }
        out.write_line(b"lost as well\n");
        read(&mut reader, (written - 1) * LINE_MAX);
        out.write_line(b"found\n");
        let expected = "(2 lines were left out: they were not read in time)\nfound\n";
        assert_eq!(read(&mut reader, expected.len()), expected);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        Standard::new(writer).write_line(b"nobody reads this\n");
    }
}
