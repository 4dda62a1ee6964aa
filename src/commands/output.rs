//! The output of one command that the master does not hold durably yet. Pure.

use crate::spool::format::{self, Chunk};
use bytes::Bytes;
use proto::OutputStream;
use std::collections::VecDeque;

/// Most bytes of one piece.
pub const PIECE_MAX: usize = 64 * 1024;

/// What a segment costs beside its bytes, so that many tiny ones count for what they take.
const SEGMENT_COST: u64 = 64;

/// Capacity of the segment list that is kept through a lull.
const SEGMENTS_KEPT: usize = 16;

/// A queue addressed by offset: both streams counted together, in the order in which they were read, gaps included.
#[derive(Debug, Default)]
pub struct OutputQueue {
    segments: VecDeque<Segment>,
    /// The master holds everything below.
    durable: u64,
    end: u64,
    bytes: u64,
}

/// Part of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Data {
        stream: OutputStream,
        data: Bytes,
    },
    /// So many bytes are not there any more.
    Gap(u64),
}

/// A piece where it lies.
enum Span<'a> {
    Gap(u64),
    Data(OutputStream, &'a [u8]),
}

#[derive(Debug)]
struct Segment {
    offset: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Data { stream: OutputStream, data: Vec<u8> },
    Gap(u64),
}

impl OutputQueue {
    /// Of a command whose output was released: all of it is a gap to a master that does not have it.
    pub fn released(total: u64) -> Self {
        Self { end: total, ..Self::default() }
    }

    /// Of an earlier run of the agent: the master holds everything below `from`, or never will have it. What is
    /// missing between the chunks, and up to `total`, is a gap.
    pub fn restored(from: u64, chunks: Vec<Chunk>, total: Option<u64>) -> Self {
        let mut queue = Self { durable: from, end: from, ..Self::default() };
        for Chunk { offset, content } in chunks {
            let end = offset.saturating_add(content.len()).min(total.unwrap_or(u64::MAX));
            if offset > queue.end {
                queue.push_gap(offset.min(end) - queue.end);
            }
            if end <= queue.end {
                continue;
            }
            // Written twice where the end of a command came while it was written.
            let (known, fresh) = ((queue.end - offset) as usize, end - queue.end);
            match content {
                format::Content::Stdout(data) => queue.push(OutputStream::Stdout, &data[known..][..fresh as usize]),
                format::Content::Stderr(data) => queue.push(OutputStream::Stderr, &data[known..][..fresh as usize]),
                format::Content::Gap(_) => queue.push_gap(fresh),
            }
        }
        if let Some(missing) = total.and_then(|total| total.checked_sub(queue.end)).filter(|missing| *missing > 0) {
            queue.push_gap(missing);
        }
        queue
    }

    /// Everything between these offsets that was not released.
    pub fn chunks(&self, from: u64, to: u64) -> Vec<Chunk> {
        let mut offset = from;
        let mut chunks = Vec::new();
        while let Some(chunk) = self.chunk(offset, to) {
            offset = chunk.offset + chunk.content.len();
            chunks.push(chunk);
        }
        chunks
    }

    /// What stands at `from`, or behind it where that was released; `None`: nothing below `to`.
    pub fn chunk(&self, from: u64, to: u64) -> Option<Chunk> {
        let offset = from.max(self.durable);
        let rest = to.checked_sub(offset).filter(|rest| *rest > 0)?;
        let content = match self.span(offset, rest.min(PIECE_MAX as u64) as usize)? {
            Span::Gap(gap) => format::Content::Gap(gap.min(rest)),
            Span::Data(OutputStream::Stdout, data) => format::Content::Stdout(data.to_vec()),
            Span::Data(OutputStream::Stderr, data) => format::Content::Stderr(data.to_vec()),
        };
        Some(Chunk { offset, content })
    }

    /// Bytes that the chunks between these offsets take when they are encoded.
    pub fn encoded(&self, from: u64, to: u64) -> u64 {
        let (mut offset, mut bytes) = (from.max(self.durable), 0);
        while offset < to
            && let Some(span) = self.span(offset, (to - offset).min(PIECE_MAX as u64) as usize)
        {
            let (length, data) = match span {
                Span::Gap(gap) => (gap, None),
                Span::Data(_, data) => (data.len() as u64, Some(data.len())),
            };
            bytes += Chunk::encoded_len(data) as u64;
            offset = offset.saturating_add(length);
        }
        bytes
    }

    /// The master holds everything below.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    pub fn push(&mut self, stream: OutputStream, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            let offset = self.end;
            let room = match self.segments.back_mut() {
                Some(Segment { content: Content::Data { stream: last, data }, .. })
                    if *last == stream && data.len() < PIECE_MAX =>
                {
                    let taken = rest.len().min(PIECE_MAX - data.len());
                    data.extend_from_slice(&rest[..taken]);
                    taken
                }
                _ => {
                    let taken = rest.len().min(PIECE_MAX);
                    let content = Content::Data { stream, data: rest[..taken].to_vec() };
                    self.segments.push_back(Segment { offset, content });
                    taken
                }
            };
            self.end += room as u64;
            self.bytes += room as u64;
            rest = &rest[room..];
        }
    }

    /// Bytes were read and thrown away.
    pub fn push_gap(&mut self, bytes: u64) {
        match self.segments.back_mut() {
            Some(Segment { content: Content::Gap(gap), .. }) => *gap += bytes,
            _ => self.segments.push_back(Segment { offset: self.end, content: Content::Gap(bytes) }),
        }
        self.end += bytes;
    }

    /// What stands at `offset`, at most `max` bytes of it; `None` at the end.
    pub fn piece(&self, offset: u64, max: usize) -> Option<Piece> {
        Some(match self.span(offset, max)? {
            Span::Gap(gap) => Piece::Gap(gap),
            Span::Data(stream, data) => Piece::Data { stream, data: Bytes::copy_from_slice(data) },
        })
    }

    fn span(&self, offset: u64, max: usize) -> Option<Span<'_>> {
        if offset >= self.end {
            return None;
        }
        let after = self.segments.partition_point(|segment| segment.offset <= offset);
        let segment = after.checked_sub(1).map(|index| &self.segments[index]);
        let Some(segment) = segment.filter(|segment| offset < segment.end()) else {
            let next = self.segments.front().map_or(self.end, |segment| segment.offset);
            return Some(Span::Gap(next - offset));
        };
        let skipped = offset - segment.offset;
        Some(match &segment.content {
            Content::Gap(gap) => Span::Gap(gap - skipped),
            Content::Data { stream, data } => {
                let rest = &data[skipped as usize..];
                Span::Data(*stream, &rest[..rest.len().min(max).min(PIECE_MAX)])
            }
        })
    }

    /// The master holds everything below `durable`, or says so: clamped to what there is. Never goes back.
    pub fn release(&mut self, durable: u64) {
        self.durable = self.durable.max(durable.min(self.end));
        while self.segments.front().is_some_and(|segment| segment.end() <= self.durable) {
            if let Some(Segment { content: Content::Data { data, .. }, .. }) = self.segments.pop_front() {
                self.bytes -= data.len() as u64;
            }
        }
        if self.segments.is_empty() && self.segments.capacity() > SEGMENTS_KEPT {
            self.segments.shrink_to(SEGMENTS_KEPT);
        }
    }

    /// What the queue takes in memory, about.
    pub fn cost(&self) -> u64 {
        self.bytes + self.segments.len() as u64 * SEGMENT_COST
    }

    /// All output so far, dropped bytes included.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn is_delivered(&self) -> bool {
        self.durable == self.end
    }
}

impl Segment {
    fn end(&self) -> u64 {
        self.offset
            + match &self.content {
                Content::Data { data, .. } => data.len() as u64,
                Content::Gap(gap) => *gap,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::OutputStream::{Stderr, Stdout};

    fn data(stream: OutputStream, data: &'static [u8]) -> Option<Piece> {
        Some(Piece::Data { stream, data: Bytes::from_static(data) })
    }

    #[test]
    fn pieces_are_found_by_offset_in_the_order_in_which_they_were_read() {
        let mut queue = OutputQueue::default();
        queue.push(Stdout, b"abc");
        queue.push(Stdout, b"def");
        queue.push(Stderr, b"x");
        queue.push(Stdout, b"g");
        assert_eq!(queue.piece(0, 100), data(Stdout, b"abcdef"));
        assert_eq!(queue.piece(4, 100), data(Stdout, b"ef"));
        assert_eq!(queue.piece(1, 2), data(Stdout, b"bc"));
        assert_eq!(queue.piece(6, 100), data(Stderr, b"x"));
        assert_eq!(queue.piece(7, 100), data(Stdout, b"g"));
        assert_eq!(queue.piece(8, 100), None);
        assert_eq!(queue.piece(u64::MAX, 100), None);
    }

    #[test]
    fn a_gap_takes_the_place_of_what_was_dropped() {
        let mut queue = OutputQueue::default();
        queue.push(Stdout, b"abc");
        queue.push_gap(10);
        queue.push_gap(5);
        queue.push(Stdout, b"z");
        assert_eq!(queue.piece(3, 2), Some(Piece::Gap(15)));
        assert_eq!(queue.piece(10, 2), Some(Piece::Gap(8)));
        assert_eq!(queue.piece(18, 2), data(Stdout, b"z"));
        assert_eq!(queue.end(), 19);
    }

    #[test]
    fn released_output_is_a_gap_to_a_master_that_asks_for_it_again() {
        let mut queue = OutputQueue::default();
        queue.push(Stdout, b"abc");
        queue.push(Stderr, b"def");
        queue.release(3);
        assert_eq!(queue.piece(0, 100), Some(Piece::Gap(3)));
        assert_eq!(queue.piece(3, 100), data(Stderr, b"def"));
        let queue = OutputQueue::released(9);
        assert!(!queue.is_delivered());
        assert_eq!(queue.piece(2, 100), Some(Piece::Gap(7)));
    }

    #[test]
    fn what_a_master_says_it_holds_is_clamped() {
        let mut queue = OutputQueue::default();
        queue.push(Stdout, b"abc");
        queue.release(2);
        assert!(!queue.is_delivered());
        queue.release(1);
        queue.release(u64::MAX);
        assert!(queue.is_delivered());
        queue.push(Stdout, b"d");
        assert_eq!(queue.piece(3, 100), data(Stdout, b"d"), "a claim does not hold for what comes later");
        assert!(!queue.is_delivered());
    }

    #[test]
    fn memory_is_given_back_after_a_burst_and_tiny_pieces_are_paid_for() {
        let mut queue = OutputQueue::default();
        for _ in 0..10_000 {
            queue.push(Stdout, b"a");
            queue.push(Stderr, b"b");
        }
        assert!(queue.cost() > 20_000 * SEGMENT_COST);
        queue.release(20_000);
        assert_eq!(queue.cost(), 0);
        assert!(queue.segments.capacity() <= SEGMENTS_KEPT);
    }

    #[test]
    fn what_was_written_down_is_what_is_sent_after_a_restart() {
        let mut queue = OutputQueue::default();
        queue.push(Stdout, b"abc");
        queue.push(Stderr, b"de");
        queue.push_gap(4);
        queue.push(Stdout, &vec![7; PIECE_MAX + 10]);
        queue.release(1);
        let mut chunks = queue.chunks(0, 7);
        chunks.append(&mut queue.chunks(7, queue.end()));
        let restored = OutputQueue::restored(1, chunks, Some(queue.end()));
        assert_eq!((restored.end(), restored.durable()), (queue.end(), 1));
        for offset in 1..queue.end() {
            let piece = |queue: &OutputQueue| queue.piece(offset, 1);
            match (piece(&queue), piece(&restored)) {
                (Some(Piece::Gap(_)), Some(Piece::Gap(_))) => {}
                (before, after) => assert_eq!(before, after, "at {offset}"),
            }
        }
    }

    #[test]
    fn what_is_missing_on_the_disk_is_a_gap_and_what_is_there_twice_is_sent_once() {
        let chunk = |offset, text: &str| Chunk { offset, content: format::Content::Stdout(text.as_bytes().to_vec()) };
        let chunks = vec![chunk(0, "abcd"), chunk(2, "cdef"), chunk(8, "ijkl"), chunk(9, "jk")];
        let queue = OutputQueue::restored(1, chunks.clone(), Some(20));
        assert_eq!(queue.piece(1, 100), data(Stdout, b"bcdef"));
        assert_eq!(queue.piece(6, 100), Some(Piece::Gap(2)));
        assert_eq!(queue.piece(8, 100), data(Stdout, b"ijkl"));
        assert_eq!(queue.piece(12, 100), Some(Piece::Gap(8)));
        assert_eq!((queue.end(), OutputQueue::restored(1, chunks, None).end()), (20, 12));
        // More than the outcome says there is, is not.
        let queue = OutputQueue::restored(0, vec![chunk(0, "abcd"), chunk(6, "x")], Some(3));
        assert_eq!((queue.piece(0, 100), queue.end()), (data(Stdout, b"abc"), 3));
    }

    #[test]
    fn no_piece_is_larger_than_a_message_may_be() {
        let mut queue = OutputQueue::default();
        queue.push(Stdout, &vec![7; 3 * PIECE_MAX + 1]);
        let mut offset = 0;
        let mut sizes = Vec::new();
        while let Some(Piece::Data { data, .. }) = queue.piece(offset, usize::MAX) {
            offset += data.len() as u64;
            sizes.push(data.len());
        }
        assert_eq!(sizes, [PIECE_MAX, PIECE_MAX, PIECE_MAX, 1]);
    }
}
