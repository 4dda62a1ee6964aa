//! A file of checksummed frames behind a header. Pure. Whatever a crash or a bad block made of a file, reading it
//! gives the frames that are whole and says what became of the rest; it never fails and never guesses.
//!
//! | bytes of the header | what |
//! |---|---|
//! | 8 | what the file is: `slothjrn` or `slothout` |
//! | 4 | version of the format, little-endian like every number here: 1 |
//! | 16 | spool id |
//! | 4 | CRC-32 of the 28 bytes before |
//!
//! | bytes of a frame | what |
//! |---|---|
//! | 4 | length of the body, 1 byte to 8 MiB |
//! | 4 | CRC-32 of the spool id, the frame's own offset in the file (8 bytes) and the length |
//! | 4 | CRC-32 of the spool id, the frame's own offset in the file (8 bytes) and the body |
//! | … | the body |
//!
//! The length has a checksum of its own, so that a frame that the file's end cuts (a write that a crash tore, of which
//! nothing was promised) is told from a damaged one (of which something may have been). Id and offset in the checksums
//! keep what only looks like a frame, in another place or in what a command printed, from being taken for one.

#[cfg(test)]
mod tests;

use std::ops::Range;

pub const HEADER_LEN: usize = 32;

/// Before each body.
pub const HEAD_LEN: usize = 12;

/// Longest body: twice what a message of the protocol may have.
pub const BODY_MAX: usize = 8 * 1024 * 1024;

pub const VERSION: u32 = 1;

/// Which of the spool's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Journal,
    Output,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub head: Head,
    /// Where the bodies of all whole frames are, in their order.
    pub bodies: Vec<Range<usize>>,
    /// A write that did not come to its end: so many bytes at the end, of which nothing was promised.
    pub torn: usize,
    /// Bytes that were written and are not what was written.
    pub damaged: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Good {
        spool_id: [u8; 16],
    },
    /// Made by another version of this program. Its frames are not looked for.
    OtherVersion(u32),
    /// Cut or damaged. Nothing in the file can be told from anything else then.
    Bad,
}

impl Scan {
    /// Every byte is accounted for.
    pub fn is_whole(&self) -> bool {
        matches!(self.head, Head::Good { .. }) && self.torn == 0 && self.damaged == 0
    }
}

pub fn header(kind: Kind, spool_id: [u8; 16]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(kind.magic());
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..28].copy_from_slice(&spool_id);
    let check = crc(&[&header[..28]]);
    header[28..].copy_from_slice(&check.to_le_bytes());
    header
}

/// Appends a frame that will stand at offset `at` of its file.
///
/// # Panics
/// If the body is empty or longer than [`BODY_MAX`].
pub fn write(spool_id: &[u8; 16], at: u64, body: &[u8], to: &mut Vec<u8>) {
    assert!((1..=BODY_MAX).contains(&body.len()), "no body of a frame: {} bytes", body.len());
    let length = (body.len() as u32).to_le_bytes();
    to.extend_from_slice(&length);
    to.extend_from_slice(&crc(&[spool_id, &at.to_le_bytes(), &length]).to_le_bytes());
    to.extend_from_slice(&crc(&[spool_id, &at.to_le_bytes(), body]).to_le_bytes());
    to.extend_from_slice(body);
}

pub fn scan(kind: Kind, file: &[u8]) -> Scan {
    let mut scan = Scan { head: head(kind, file), bodies: Vec::new(), torn: 0, damaged: 0 };
    let spool_id = match scan.head {
        Head::Good { spool_id } => spool_id,
        Head::OtherVersion(_) => return scan,
        Head::Bad => {
            scan.damaged = file.len();
            return scan;
        }
    };
    // A file that grew before its content was written ends with zeros.
    let zeros_from = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut at = HEADER_LEN;
    while at < file.len() {
        let frame = if at >= zeros_from { Frame::Torn } else { frame(&spool_id, file, at) };
        match frame {
            Frame::Whole(body) => {
                at = body.end;
                scan.bodies.push(body);
            }
            Frame::Torn => {
                scan.torn = file.len() - at;
                break;
            }
            // Goes on wherever a frame begins: what stands behind the damage was promised, too.
            Frame::Damaged => {
                scan.damaged += 1;
                at += 1;
            }
        }
    }
    scan
}

enum Frame {
    Whole(Range<usize>),
    Torn,
    Damaged,
}

fn frame(spool_id: &[u8; 16], file: &[u8], at: usize) -> Frame {
    let rest = &file[at..];
    if rest.len() < HEAD_LEN {
        return Frame::Torn;
    }
    let number = |from: usize| u32::from_le_bytes(rest[from..from + 4].try_into().expect("four bytes"));
    let length = number(0) as usize;
    let place = (at as u64).to_le_bytes();
    if !(1..=BODY_MAX).contains(&length) || number(4) != crc(&[spool_id, &place, &rest[..4]]) {
        return Frame::Damaged;
    }
    let body = at + HEAD_LEN..at + HEAD_LEN + length;
    match file.get(body.clone()) {
        None => Frame::Torn,
        Some(bytes) if number(8) == crc(&[spool_id, &place, bytes]) => Frame::Whole(body),
        Some(_) => Frame::Damaged,
    }
}

fn head(kind: Kind, file: &[u8]) -> Head {
    let Some(header) = file.get(..HEADER_LEN) else { return Head::Bad };
    if &header[..8] != kind.magic() || crc(&[&header[..28]]).to_le_bytes() != header[28..] {
        return Head::Bad;
    }
    match u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) {
        VERSION => Head::Good { spool_id: header[12..28].try_into().expect("sixteen bytes") },
        other => Head::OtherVersion(other),
    }
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Journal => b"slothjrn",
            Self::Output => b"slothout",
        }
    }
}

/// CRC-32 as in zlib and Ethernet, over the parts one behind the other.
fn crc(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |crc: u32, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};
