//! What must be remembered so that a lost connection loses and repeats no byte. Pure.

use bytes::Bytes;
use proto::{OutputChunk, OutputStream, StdinChunk};
use std::collections::VecDeque;

/// Standard input that the agent has not yet taken over: at most so much is kept, and sent ahead.
pub const STDIN_WINDOW: usize = 64 << 10;
/// A chunk of it on the wire.
pub const STDIN_CHUNK: usize = 16 << 10;
/// A window of tiny chunks, as a slow typist's pipe gives them, has at most so many.
pub const STDIN_CHUNKS: usize = 256;

/// A piece of a command's output, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Bytes {
        offset: u64,
        stream: OutputStream,
        data: Bytes,
    },
    /// So many bytes are missing here.
    Gap {
        offset: u64,
        bytes: u64,
    },
}

/// How far the output has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(u64);

impl Position {
    /// Where to go on from.
    pub fn offset(self) -> u64 {
        self.0
    }

    /// What of `chunk` is new: at most a gap and bytes after it.
    pub fn take(&mut self, chunk: OutputChunk) -> impl Iterator<Item = Piece> + use<> {
        let stream = chunk.stream();
        let mut gap = None;
        let mut bytes = None;
        let length = if chunk.gap > 0 { chunk.gap } else { chunk.data.len() as u64 };
        let end = chunk.offset.saturating_add(length);
        if end > self.0 {
            // Whoever sends from further on has nothing in between any more.
            let gap_end = if chunk.gap > 0 { end } else { chunk.offset.max(self.0) };
            if gap_end > self.0 {
                gap = Some(Piece::Gap { offset: self.0, bytes: gap_end - self.0 });
                self.0 = gap_end;
            }
            if chunk.gap == 0 {
                let known = usize::try_from(self.0 - chunk.offset).expect("shorter than the chunk in memory");
                bytes = Some(Piece::Bytes { offset: self.0, stream, data: chunk.data.slice(known..) });
                self.0 = end;
            }
        }
        gap.into_iter().chain(bytes)
    }
}

/// Standard input on its way: kept until the agent has taken it over.
#[derive(Debug, Default)]
pub struct StdinWindow {
    /// Taken over by the agent.
    acknowledged: u64,
    /// Sent on the present connection.
    sent: u64,
    /// Read so far.
    end: u64,
    /// What lies between `acknowledged` and `end`, each with its offset.
    kept: VecDeque<(u64, Bytes)>,
    finished: bool,
    finish_sent: bool,
}

impl StdinWindow {
    /// Another chunk may be read.
    pub fn has_room(&self) -> bool {
        !self.finished
            && self.kept.len() < STDIN_CHUNKS
            && self.end - self.acknowledged <= (STDIN_WINDOW - STDIN_CHUNK) as u64
    }

    /// What was read next: at most [`STDIN_CHUNK`], and only while there is room.
    pub fn push(&mut self, data: Bytes) {
        assert!(self.has_room() && data.len() <= STDIN_CHUNK, "the reader keeps to the window");
        if !data.is_empty() {
            let length = data.len() as u64;
            self.kept.push_back((self.end, data));
            self.end += length;
        }
    }

    /// There is no more.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Its end was read.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// How much the agent has taken over.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The agent has taken over everything below `received`. What was never read cannot have been: it is clamped.
    pub fn acknowledge(&mut self, received: u64) {
        self.acknowledged = self.acknowledged.max(received.min(self.end));
        self.sent = self.sent.max(self.acknowledged);
        while let Some((offset, data)) = self.kept.front_mut() {
            let done = self.acknowledged.saturating_sub(*offset);
            if done >= data.len() as u64 {
                self.kept.pop_front();
            } else {
                *data = data.slice(usize::try_from(done).expect("shorter than the chunk")..);
                *offset += done;
                return;
            }
        }
    }

    /// A new connection: everything that is not acknowledged is to be sent again.
    pub fn rewind(&mut self) {
        self.sent = self.acknowledged;
        self.finish_sent = false;
    }

    /// What to send next.
    pub fn next_chunk(&mut self) -> Option<StdinChunk> {
        if let Some((offset, data)) = self.kept.iter().find(|(offset, _)| *offset >= self.sent) {
            self.sent = offset + data.len() as u64;
            return Some(StdinChunk { offset: *offset, data: data.clone(), eof: false });
        }
        if self.finished && !self.finish_sent {
            self.finish_sent = true;
            return Some(StdinChunk { offset: self.end, data: Bytes::new(), eof: true });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, data: &'static str) -> OutputChunk {
        OutputChunk { offset, data: Bytes::from_static(data.as_bytes()), ..OutputChunk::default() }
    }

    fn bytes(offset: u64, data: &'static str) -> Piece {
        Piece::Bytes { offset, stream: OutputStream::Stdout, data: Bytes::from_static(data.as_bytes()) }
    }

    #[test]
    fn output_that_comes_again_is_written_once() {
        let mut position = Position::default();
        let mut take = |chunk| position.take(chunk).collect::<Vec<_>>();
        assert_eq!(take(chunk(0, "abc")), [bytes(0, "abc")]);
        assert_eq!(take(chunk(0, "abc")), []);
        assert_eq!(take(chunk(1, "bcde")), [bytes(3, "de")]);
        assert_eq!(take(chunk(5, "")), []);
        assert_eq!(position.offset(), 5);
    }

    #[test]
    fn what_is_missing_is_said_once() {
        let mut position = Position::default();
        let mut take = |chunk| position.take(chunk).collect::<Vec<_>>();
        let gap = |offset, gap| OutputChunk { offset, gap, ..OutputChunk::default() };
        assert_eq!(take(gap(0, 10)), [Piece::Gap { offset: 0, bytes: 10 }]);
        assert_eq!(take(gap(0, 10)), []);
        assert_eq!(take(gap(5, 10)), [Piece::Gap { offset: 10, bytes: 5 }]);
        assert_eq!(take(chunk(20, "x")), [Piece::Gap { offset: 15, bytes: 5 }, bytes(20, "x")]);
        assert_eq!(take(gap(u64::MAX, 9)), [Piece::Gap { offset: 21, bytes: u64::MAX - 21 }]);
    }

    fn sent(window: &mut StdinWindow) -> Vec<(u64, String, bool)> {
        std::iter::from_fn(|| window.next_chunk())
            .map(|chunk| (chunk.offset, String::from_utf8(chunk.data.to_vec()).unwrap(), chunk.eof))
            .collect()
    }

    #[test]
    fn stdin_is_sent_again_from_what_was_taken_over() {
        let mut window = StdinWindow::default();
        window.push("abc".into());
        window.push("defg".into());
        assert_eq!(sent(&mut window), [(0, "abc".into(), false), (3, "defg".into(), false)]);
        assert_eq!(sent(&mut window), []);
        window.finish();
        assert_eq!(sent(&mut window), [(7, String::new(), true)]);
        window.acknowledge(5);
        window.rewind();
        assert_eq!(sent(&mut window), [(5, "fg".into(), false), (7, String::new(), true)]);
        window.acknowledge(2);
        window.acknowledge(100);
        window.rewind();
        assert_eq!(sent(&mut window), [(7, String::new(), true)]);
        assert_eq!(window.acknowledged(), 7);
    }

    #[test]
    fn an_acknowledgement_of_another_attachment_moves_what_is_sent_next() {
        let mut window = StdinWindow::default();
        window.push("abcdef".into());
        window.acknowledge(4);
        assert_eq!(sent(&mut window), [(4, "ef".into(), false)]);
    }

    #[test]
    fn no_more_is_kept_than_the_window() {
        let mut window = StdinWindow::default();
        let mut read = 0;
        while window.has_room() {
            window.push(vec![0; STDIN_CHUNK].into());
            read += STDIN_CHUNK;
        }
        assert_eq!(read, STDIN_WINDOW);
        window.acknowledge(1);
        assert!(!window.has_room());
        window.acknowledge(STDIN_CHUNK as u64);
        assert!(window.has_room());

        let mut window = StdinWindow::default();
        let tiny = std::iter::from_fn(|| window.has_room().then(|| window.push("x".into()))).count();
        assert_eq!(tiny, STDIN_CHUNKS);
    }
}
