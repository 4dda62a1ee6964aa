//! What stands in the frames of the journal and of the output files. Pure.
//!
//! A body of the journal: kind (1 byte), length of the id (1 byte), the id, then
//!
//! | kind | what follows |
//! |---|---|
//! | 1 accepted | when (8), the rest: the `CommandSpec` in protobuf |
//! | 2 starting | – |
//! | 3 started | when (8), pid (4), its start in clock ticks (8), boot id (16) |
//! | 4 finished | outcome (1), code or signal (4), reason (4 + n), total bytes (8), started (8), finished (8), flags (1), offset of the first byte that the master may not have (8), pieces |
//! | 5 acknowledged | when (8) |
//!
//! Outcomes: 1 exited, 2 signaled, 3 timed out, 4 cancelled, 5 interrupted, 6 refused, 7 expired. Flag 1: the output is
//! in the command's file, not here. A piece: stream (1: 1 standard output, 2 standard error, 3 gap), length (4), data;
//! of a gap its size (8) in their place. A body of an output file: offset (8), one piece. Times are Unix milliseconds.

#[cfg(test)]
mod tests;

use link::{Outcome, ledger::Finish};

/// One change in the life of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Accepted {
        at_unix_ms: u64,
        /// Encoded `CommandSpec`.
        spec: Vec<u8>,
    },
    /// From here on it may run.
    Starting,
    Started {
        at_unix_ms: u64,
        mark: Mark,
    },
    Finished {
        finish: Finish,
        output: Rest,
    },
    Acknowledged {
        at_unix_ms: u64,
    },
}

/// A process, told from every other that ever had its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub pid: u32,
    /// In clock ticks since the machine started.
    pub started: u64,
    /// Of that run of the machine.
    pub boot_id: [u8; 16],
}

/// Output that the master may not have when a command finishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Everything below is durable there.
    pub from: u64,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Little enough to stand in the journal.
    Here(Vec<Content>),
    File,
}

/// Part of a command's output, where it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub offset: u64,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// So many bytes were dropped.
    Gap(u64),
}

impl Content {
    /// What it stands for, bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Stdout(data) | Self::Stderr(data) => data.len() as u64,
            Self::Gap(gap) => *gap,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encode(&self, to: &mut Vec<u8>) {
        let (kind, data): (u8, &[u8]) = match self {
            Self::Stdout(data) => (1, data),
            Self::Stderr(data) => (2, data),
            Self::Gap(gap) => {
                to.push(3);
                return to.extend_from_slice(&gap.to_le_bytes());
            }
        };
        to.push(kind);
        put_bytes(to, data);
    }

    fn decode(from: &mut Bytes<'_>) -> Option<Self> {
        Some(match from.byte()? {
            1 => Self::Stdout(from.counted()?.to_vec()),
            2 => Self::Stderr(from.counted()?.to_vec()),
            3 => Self::Gap(from.u64()?),
            _ => return None,
        })
    }
}

impl Chunk {
    /// Length of what [`Self::encode`] gives for so many bytes of output; `None`: for a gap.
    pub fn encoded_len(data: Option<usize>) -> usize {
        size_of::<u64>() + 1 + data.map_or(size_of::<u64>(), |data| size_of::<u32>() + data)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.offset.to_le_bytes().to_vec();
        self.content.encode(&mut body);
        body
    }

    /// `None`: not of this version.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut from = Bytes(body);
        let chunk = Self { offset: from.u64()?, content: Content::decode(&mut from)? };
        (from.0.is_empty() && chunk.offset.checked_add(chunk.content.len()).is_some()).then_some(chunk)
    }
}

impl Record {
    /// # Panics
    /// If the id is no command's.
    pub fn encode(&self) -> Vec<u8> {
        assert!(link::valid_command_id(&self.id), "not an id: {:?}", self.id);
        let mut body = vec![self.change.kind(), self.id.len() as u8];
        body.extend_from_slice(self.id.as_bytes());
        match &self.change {
            Change::Accepted { at_unix_ms, spec } => {
                body.extend_from_slice(&at_unix_ms.to_le_bytes());
                body.extend_from_slice(spec);
            }
            Change::Starting => {}
            Change::Started { at_unix_ms, mark } => {
                body.extend_from_slice(&at_unix_ms.to_le_bytes());
                body.extend_from_slice(&mark.pid.to_le_bytes());
                body.extend_from_slice(&mark.started.to_le_bytes());
                body.extend_from_slice(&mark.boot_id);
            }
            Change::Finished { finish, output } => put_finished(&mut body, finish, output),
            Change::Acknowledged { at_unix_ms } => body.extend_from_slice(&at_unix_ms.to_le_bytes()),
        }
        body
    }

    /// `None`: not of this version.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut from = Bytes(body);
        let kind = from.byte()?;
        let length = from.byte()?;
        let id = std::str::from_utf8(from.take(length.into())?).ok()?;
        if !link::valid_command_id(id) {
            return None;
        }
        let change = match kind {
            1 => Change::Accepted { at_unix_ms: from.u64()?, spec: from.rest().to_vec() },
            2 => Change::Starting,
            3 => {
                let at_unix_ms = from.u64()?;
                let mark = Mark { pid: from.u32()?, started: from.u64()?, boot_id: from.take(16)?.try_into().ok()? };
                Change::Started { at_unix_ms, mark }
            }
            4 => take_finished(&mut from)?,
            5 => Change::Acknowledged { at_unix_ms: from.u64()? },
            _ => return None,
        };
        from.0.is_empty().then(|| Self { id: id.to_owned(), change })
    }
}

impl Change {
    fn kind(&self) -> u8 {
        match self {
            Self::Accepted { .. } => 1,
            Self::Starting => 2,
            Self::Started { .. } => 3,
            Self::Finished { .. } => 4,
            Self::Acknowledged { .. } => 5,
        }
    }
}

const OUTPUT_IN_FILE: u8 = 1;

fn put_finished(body: &mut Vec<u8>, finish: &Finish, output: &Rest) {
    let (kind, number, reason): (u8, i32, &str) = match &finish.outcome {
        Outcome::Exited(code) => (1, *code, ""),
        Outcome::Signaled(signal) => (2, *signal, ""),
        Outcome::TimedOut => (3, 0, ""),
        Outcome::Cancelled => (4, 0, ""),
        Outcome::Interrupted(reason) => (5, 0, reason),
        Outcome::Refused(reason) => (6, 0, reason),
        Outcome::Expired => (7, 0, ""),
    };
    body.push(kind);
    body.extend_from_slice(&number.to_le_bytes());
    put_bytes(body, reason.as_bytes());
    for number in [finish.total_bytes, finish.started_unix_ms, finish.finished_unix_ms] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.push(if output.place == Place::File { OUTPUT_IN_FILE } else { 0 });
    body.extend_from_slice(&output.from.to_le_bytes());
    if let Place::Here(contents) = &output.place {
        for content in contents {
            content.encode(body);
        }
    }
}

fn take_finished(from: &mut Bytes<'_>) -> Option<Change> {
    let kind = from.byte()?;
    let number = from.u32()?.cast_signed();
    let reason = std::str::from_utf8(from.counted()?).ok()?.to_owned();
    let outcome = match kind {
        1 => Outcome::Exited(number),
        2 => Outcome::Signaled(number),
        3 => Outcome::TimedOut,
        4 => Outcome::Cancelled,
        5 => Outcome::Interrupted(reason),
        6 => Outcome::Refused(reason),
        7 => Outcome::Expired,
        _ => return None,
    };
    let (total_bytes, started_unix_ms, finished_unix_ms) = (from.u64()?, from.u64()?, from.u64()?);
    let flags = from.byte()?;
    let start = from.u64()?;
    let place = match flags {
        0 => {
            let mut contents = Vec::new();
            while !from.0.is_empty() {
                contents.push(Content::decode(from)?);
            }
            Place::Here(contents)
        }
        OUTPUT_IN_FILE => Place::File,
        _ => return None,
    };
    let finish = Finish { outcome, total_bytes, started_unix_ms, finished_unix_ms };
    Some(Change::Finished { finish, output: Rest { from: start, place } })
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u32::try_from(bytes.len()).expect("a body is shorter than that").to_le_bytes());
    to.extend_from_slice(bytes);
}

/// What is still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.take(count as usize)
    }
}
