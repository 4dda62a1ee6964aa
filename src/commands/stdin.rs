//! The standard input of one command on its way from the master. Pure.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// Most bytes that wait for the command. What comes beyond is not taken; the call is made again and says where to go
/// on from.
const WAITING_MAX: usize = 256 * 1024;

/// Takes chunks by offset, once each, and hands them out in order.
#[derive(Debug, Default)]
pub struct Stdin {
    chunks: VecDeque<Bytes>,
    waiting: usize,
    /// Written to the command, or swallowed for it.
    taken: u64,
    /// Nothing follows what waits.
    eof: bool,
    /// The command reads no more.
    closed: bool,
}

/// A chunk that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Something before it is missing.
    Hole,
    /// Too much waits already.
    Full,
}

impl Stdin {
    /// # Errors
    /// The call should be made again: its first message says where to go on from.
    pub fn offer(&mut self, offset: u64, mut data: Bytes, eof: bool) -> Result<(), Refused> {
        let known = self.known();
        if offset > known {
            return Err(Refused::Hole);
        }
        let repeated = (known - offset).min(data.len() as u64);
        data.advance(repeated as usize);
        let ends_here = offset + repeated == known;
        if self.eof || !ends_here {
            return Ok(());
        }
        if self.closed {
            self.taken += data.len() as u64;
        } else if self.waiting + data.len() > WAITING_MAX {
            return Err(Refused::Full);
        } else if !data.is_empty() {
            self.waiting += data.len();
            self.chunks.push_back(data);
        }
        self.eof = eof;
        Ok(())
    }

    /// What to write next.
    pub fn front(&self) -> Option<&[u8]> {
        self.chunks.front().map(|chunk| &chunk[..])
    }

    /// So many bytes of [`Self::front`] were written.
    pub fn wrote(&mut self, bytes: usize) {
        let Some(chunk) = self.chunks.front_mut() else { return };
        chunk.advance(bytes);
        self.waiting -= bytes;
        self.taken += bytes as u64;
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
    }

    /// The command reads no more: the rest is swallowed.
    pub fn close(&mut self) {
        self.taken = self.known();
        self.waiting = 0;
        self.closed = true;
        self.chunks = VecDeque::new();
    }

    /// For `stdin_received`.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Everything is written and nothing follows, or nobody reads: the pipe can be closed.
    pub fn is_over(&self) -> bool {
        self.closed || (self.eof && self.chunks.is_empty())
    }

    /// More may follow from the master.
    pub fn is_open(&self) -> bool {
        !self.eof
    }

    fn known(&self) -> u64 {
        self.taken + self.waiting as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(data: &'static [u8]) -> Bytes {
        Bytes::from_static(data)
    }

    fn read(stdin: &mut Stdin) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(front) = stdin.front().map(<[u8]>::to_vec) {
            stdin.wrote(front.len());
            all.extend(front);
        }
        all
    }

    #[test]
    fn a_chunk_that_comes_twice_or_overlaps_is_written_once() {
        let mut stdin = Stdin::default();
        assert_eq!(stdin.offer(0, chunk(b"abc"), false), Ok(()));
        assert_eq!(stdin.offer(0, chunk(b"abc"), false), Ok(()));
        assert_eq!(stdin.offer(1, chunk(b"bcde"), false), Ok(()));
        assert_eq!(stdin.taken(), 0, "acknowledged when it is written");
        stdin.wrote(1);
        assert_eq!(stdin.taken(), 1);
        assert_eq!(stdin.offer(1, chunk(b"bcde"), true), Ok(()));
        assert!(!stdin.is_over());
        assert_eq!(read(&mut stdin), b"bcde");
        assert!(stdin.is_over());
        assert_eq!(stdin.taken(), 5);
    }

    #[test]
    fn an_end_inside_what_is_known_is_not_believed() {
        let mut stdin = Stdin::default();
        stdin.offer(0, chunk(b"abc"), false).unwrap();
        stdin.offer(0, chunk(b"a"), true).unwrap();
        assert!(stdin.is_open());
    }

    #[test]
    fn a_hole_and_a_flood_are_refused() {
        let mut stdin = Stdin::default();
        assert_eq!(stdin.offer(1, chunk(b"b"), false), Err(Refused::Hole));
        assert_eq!(stdin.offer(u64::MAX, chunk(b"b"), true), Err(Refused::Hole));
        assert_eq!(stdin.offer(0, vec![0; WAITING_MAX].into(), false), Ok(()));
        assert_eq!(stdin.offer(WAITING_MAX as u64, chunk(b"b"), false), Err(Refused::Full));
        read(&mut stdin);
        assert_eq!(stdin.offer(WAITING_MAX as u64, chunk(b"b"), false), Ok(()));
    }

    #[test]
    fn what_a_command_does_not_read_is_swallowed_and_acknowledged() {
        let mut stdin = Stdin::default();
        stdin.offer(0, chunk(b"abc"), false).unwrap();
        stdin.close();
        assert_eq!(stdin.taken(), 3);
        stdin.offer(3, chunk(b"de"), false).unwrap();
        assert_eq!((stdin.taken(), stdin.front(), stdin.is_over()), (5, None, true));
    }
}
