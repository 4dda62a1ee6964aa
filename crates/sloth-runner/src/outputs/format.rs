//! Frames in a file, and finding one's way among them.

use std::{fs::File, io, os::unix::fs::FileExt};

pub const MAGIC: &[u8; 8] = b"slothout";
pub const VERSION: u32 = 1;
/// Magic and version.
pub const HEADER: u64 = 12;
/// Kind and length, before each frame's content.
pub const HEAD: u64 = 5;
/// Longest data of one frame, so that a broken length is recognised.
pub const DATA_MAX: usize = 1 << 20;
const GAP_LENGTH: u64 = 8;

/// Entries of an [`Index`]: 16 bytes each.
const INDEX_MAX: usize = 4096;
/// Distance of its entries at first, in bytes of output.
const INDEX_SPACING: u64 = 64 << 10;

/// Gaps that are listed; the file holds all of them.
const GAPS_MAX: usize = 1000;

pub fn header() -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..].copy_from_slice(&VERSION.to_le_bytes());
    header
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stdout = 1,
    Stderr = 2,
    Gap = 3,
}

/// A frame as it is written.
pub fn encode(kind: Kind, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("content is cut to DATA_MAX");
    let mut frame = Vec::with_capacity(HEAD as usize + content.len());
    frame.push(kind as u8);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(content);
    frame
}

/// A frame that was found in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    /// Of its content, in the file.
    pub position: u64,
    /// What it stands for in the output.
    pub bytes: u64,
    /// Where the next one begins, in the file.
    pub end: u64,
}

/// A buffered look into a file.
pub struct Window<'a> {
    file: &'a File,
    size: usize,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    const SIZE_MIN: usize = 4 << 10;
    pub const SIZE_MAX: usize = 64 << 10;

    /// As wide as what is about to be read, within reason.
    pub fn new(file: &'a File, wanted: usize) -> Self {
        let size = wanted.saturating_add(HEAD as usize).clamp(Self::SIZE_MIN, Self::SIZE_MAX);
        Self { file, size, start: 0, buffer: Vec::new() }
    }

    /// What stands at a position: `wanted` bytes (at most the window's width), fewer only at the file's end.
    pub fn peek(&mut self, position: u64, wanted: usize) -> io::Result<&[u8]> {
        let wanted = wanted.min(self.size);
        let held = |window: &Self| {
            let skip = position.checked_sub(window.start).and_then(|skip| usize::try_from(skip).ok())?;
            (skip + wanted <= window.buffer.len()).then_some(skip)
        };
        if held(self).is_none() {
            self.fill(position)?;
        }
        let skip = held(self).unwrap_or(0);
        Ok(&self.buffer[skip..self.buffer.len().min(skip + wanted)])
    }

    fn fill(&mut self, position: u64) -> io::Result<()> {
        self.start = position;
        self.buffer.resize(self.size, 0);
        let mut filled = 0;
        while filled < self.size {
            match self.file.read_at(&mut self.buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }

    /// The frame that begins at a position, if a whole one stands there before `end`.
    pub fn frame(&mut self, position: u64, end: u64) -> io::Result<Option<Frame>> {
        let head = self.peek(position, HEAD as usize)?;
        let &[kind, a, b, c, d] = head else { return Ok(None) };
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        let kind = match kind {
            1 => Kind::Stdout,
            2 => Kind::Stderr,
            3 => Kind::Gap,
            _ => return Ok(None),
        };
        let content = position + HEAD;
        let whole = content + length <= end;
        let plausible = if kind == Kind::Gap { length == GAP_LENGTH } else { (1..=DATA_MAX as u64).contains(&length) };
        if !whole || !plausible {
            return Ok(None);
        }
        let bytes = match kind {
            Kind::Gap => match self.peek(content, GAP_LENGTH as usize)?.try_into() {
                Ok(bytes) => u64::from_le_bytes(bytes),
                Err(_) => return Ok(None),
            },
            Kind::Stdout | Kind::Stderr => length,
        };
        Ok(Some(Frame { kind, position: content, bytes, end: content + length }))
    }
}

/// Where in the file some offsets of the output are. Its size is bounded: when it is full, every second entry goes.
#[derive(Debug)]
pub struct Index {
    /// (offset in the output, position in the file) of frames, ascending.
    entries: Vec<(u64, u64)>,
    spacing: u64,
}

impl Index {
    pub fn new() -> Self {
        Self { entries: vec![(0, HEADER)], spacing: INDEX_SPACING }
    }

    /// A frame begins there. Frames are noted in order.
    pub fn note(&mut self, offset: u64, position: u64) {
        let last = self.entries.last().map_or(0, |entry| entry.0);
        if offset < last.saturating_add(self.spacing) {
            return;
        }
        if self.entries.len() == INDEX_MAX {
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
            self.spacing *= 2;
        }
        self.entries.push((offset, position));
    }

    /// The last entry that is not after an offset.
    pub fn find(&self, offset: u64) -> (u64, u64) {
        self.entries[self.entries.partition_point(|entry| entry.0 <= offset) - 1]
    }
}

/// (offset, bytes) of what is missing, neighbours joined.
#[derive(Debug, Default)]
pub struct Gaps(pub Vec<(u64, u64)>);

impl Gaps {
    pub fn add(&mut self, offset: u64, bytes: u64) {
        let room = self.0.len() < GAPS_MAX;
        match self.0.last_mut() {
            Some(last) if last.0 + last.1 == offset => last.1 += bytes,
            _ if room => self.0.push((offset, bytes)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_stays_small_and_still_finds_a_frame_at_or_before_every_offset() {
        let mut index = Index::new();
        let frames = 3 * INDEX_MAX as u64;
        for frame in 0..frames {
            index.note(frame * INDEX_SPACING, HEADER + frame * 70_000);
        }
        assert!(index.entries.len() <= INDEX_MAX, "{}", index.entries.len());
        for offset in [0, 1, INDEX_SPACING * 5000, frames * INDEX_SPACING, u64::MAX] {
            let (found, position) = index.find(offset);
            assert!(found <= offset);
            assert_eq!(position, HEADER + found / INDEX_SPACING * 70_000);
            let near = offset.min((frames - 1) * INDEX_SPACING) - found;
            assert!(near <= 4 * INDEX_SPACING, "{near} bytes to walk to {offset}");
        }
    }

    #[test]
    fn the_list_of_gaps_is_bounded() {
        let mut gaps = Gaps::default();
        for gap in 0..2 * GAPS_MAX as u64 {
            gaps.add(gap * 10, 3);
            gaps.add(gap * 10 + 3, 2);
        }
        assert_eq!(gaps.0.len(), GAPS_MAX);
        assert_eq!(gaps.0[1], (10, 5));
    }
}
