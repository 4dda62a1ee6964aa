//! Where the output of commands goes.

use super::{
    json,
    lines::Lines,
    resume::Piece,
    writer::{Gone, Writer},
};
use bytes::Bytes;
use proto::OutputStream;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Takes a command's output, piece by piece, in order.
pub trait Output {
    /// # Errors
    /// Nobody can see it any more: the command is to be left alone.
    fn piece(&mut self, piece: Piece) -> impl Future<Output = Result<(), Gone>> + Send;

    /// A line of the tool's own.
    fn notice(&mut self, line: String) -> impl Future<Output = ()> + Send;
}

/// Byte for byte, each stream to its own.
pub struct Raw(pub Writer);

impl Output for Raw {
    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        match piece {
            Piece::Bytes { stream: OutputStream::Stdout, data, .. } => self.0.out(data).await,
            Piece::Bytes { stream: OutputStream::Stderr, data, .. } => self.0.err(data).await,
            Piece::Gap { bytes, .. } => {
                self.0.notice(gap_line(bytes)).await;
                Ok(())
            }
        }
    }

    async fn notice(&mut self, line: String) {
        self.0.notice(line).await;
    }
}

/// Whole lines with the agent's name before them.
pub struct Prefixed {
    name: String,
    lines: Lines,
    writer: Writer,
}

impl Prefixed {
    pub fn new(name: &str, writer: Writer) -> Self {
        Self { name: name.to_owned(), lines: Lines::new(name), writer }
    }

    /// The command has ended: unfinished lines are written.
    ///
    /// # Errors
    /// As [`Output::piece`].
    pub async fn finish(mut self) -> Result<(), Gone> {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let rest = self.lines.rest(stream);
            self.write(stream, rest).await?;
        }
        Ok(())
    }

    async fn write(&self, stream: OutputStream, data: Bytes) -> Result<(), Gone> {
        match stream {
            _ if data.is_empty() => Ok(()),
            OutputStream::Stdout => self.writer.out(data).await,
            OutputStream::Stderr => self.writer.err(data).await,
        }
    }
}

impl Output for Prefixed {
    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        match piece {
            Piece::Bytes { stream, data, .. } => {
                let lines = self.lines.take(stream, &data);
                self.write(stream, lines).await
            }
            Piece::Gap { bytes, .. } => {
                self.notice(format!("{} | {}", self.name, gap_line(bytes))).await;
                Ok(())
            }
        }
    }

    async fn notice(&mut self, line: String) {
        self.writer.notice(line).await;
    }
}

/// Kept in memory, for one JSON document.
pub struct Collected {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// There was more than the budget.
    pub truncated: bool,
    budget: Budget,
    writer: Writer,
}

/// How much output may still be kept, over all commands.
#[derive(Clone)]
pub struct Budget(Arc<AtomicUsize>);

impl Default for Budget {
    /// 64 MiB: a JSON document above that is of use to nobody, and `command logs` has all of it.
    fn default() -> Self {
        Self::new(64 << 20)
    }
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// As much of `wanted` as is left.
    fn take(&self, wanted: usize) -> usize {
        let left = |left: usize| Some(left - wanted.min(left));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).expect("it always says Some");
        wanted.min(before)
    }
}

impl Collected {
    pub fn new(budget: Budget, writer: Writer) -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), truncated: false, budget, writer }
    }
}

impl Output for Collected {
    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        if let Piece::Bytes { stream, data, .. } = piece
            && !self.truncated
        {
            let kept = self.budget.take(data.len());
            self.truncated = kept < data.len();
            match stream {
                OutputStream::Stdout => self.stdout.extend(&data[..kept]),
                OutputStream::Stderr => self.stderr.extend(&data[..kept]),
            }
        }
        Ok(())
    }

    async fn notice(&mut self, line: String) {
        self.writer.notice(line).await;
    }
}

/// A JSON line for each piece.
pub struct JsonLines(pub Writer);

impl Output for JsonLines {
    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        let chunk = match piece {
            Piece::Bytes { offset, stream, data } => json::chunk(offset, stream, &data),
            Piece::Gap { offset, bytes } => json::gap(offset, bytes),
        };
        self.0.out(json::line(&chunk).into()).await
    }

    async fn notice(&mut self, line: String) {
        self.0.notice(line).await;
    }
}

/// Nowhere: nobody waits for it.
pub struct Nowhere(pub Writer);

impl Output for Nowhere {
    async fn piece(&mut self, _: Piece) -> Result<(), Gone> {
        Ok(())
    }

    async fn notice(&mut self, line: String) {
        self.0.notice(line).await;
    }
}

fn gap_line(bytes: u64) -> String {
    format!("[{bytes} bytes of output are missing here]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_is_kept_than_the_budget_and_it_is_said() {
        let (writer, _written) = crate::tool::writer::start(std::io::sink(), std::io::sink(), false).unwrap();
        let mut collected = Collected::new(Budget::new(4), writer);
        for data in ["abc", "def", "g"] {
            let piece = Piece::Bytes { offset: 0, stream: OutputStream::Stdout, data: data.into() };
            collected.piece(piece).await.unwrap();
        }
        assert_eq!((collected.stdout.as_slice(), collected.truncated), (&b"abcd"[..], true));
    }
}
