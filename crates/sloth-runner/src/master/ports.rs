//! What the master's serving half needs of its store and of the files that hold output. Nothing here knows SQLite.

use std::{io, sync::Arc};

/// What a command runs.
pub type Spec = proto::CommandSpec;
pub type Change = fleet::Change<Spec>;
/// Told once, when the changes are durable or have failed.
pub type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What the store held when it was opened.
pub struct Snapshot {
    pub agents: Vec<fleet::AgentRecord>,
    /// Unfinished ones only.
    pub commands: Vec<fleet::CommandRecord<Spec>>,
    pub next_event_seq: u64,
}

/// Agents, commands and events, kept over restarts. Reading blocks: call it from `spawn_blocking`.
pub trait Store: Send + Sync + 'static {
    /// Queues changes; they are committed in order, many calls in one transaction. `done` runs on the writer's thread
    /// once they are durable, or have failed. Never blocks: with the writer gone or its queue full, `done` is told so
    /// at once, on the caller's thread.
    fn write(&self, changes: Vec<Change>, done: Done);

    /// Ascending: the newest `limit` of those after `after_seq`.
    fn events(&self, agent: Option<fleet::AgentId>, after_seq: u64, limit: usize) -> Result<Vec<fleet::Event>, String>;

    fn command(&self, id: &str) -> Result<Option<fleet::CommandRecord<Spec>>, String>;

    /// Newest first, of one agent's name, in one state, older than `before_id`.
    fn commands(
        &self,
        agent: Option<&str>,
        state: Option<fleet::CommandState>,
        before_id: Option<&str>,
        limit: usize,
    ) -> Result<Vec<fleet::CommandRecord<Spec>>, String>;
}

/// A stretch of a command's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Data {
        offset: u64,
        stream: proto::OutputStream,
        data: bytes::Bytes,
    },
    /// So many bytes were dropped here.
    Gap {
        offset: u64,
        bytes: u64,
    },
}

/// The outputs of all commands.
pub trait Outputs: Send + Sync + 'static {
    /// Opens or creates, scans, cuts a torn tail; the same `Arc` while somebody holds it. Blocks.
    fn open(&self, id: &str) -> io::Result<Arc<dyn OutputLog>>;

    /// It is no error if there is none.
    fn remove(&self, id: &str) -> io::Result<()>;
}

/// One command's output. Offsets count the bytes of both streams and of gaps, in the order of arrival.
pub trait OutputLog: Send + Sync + 'static {
    /// The offset that is expected next.
    fn received(&self) -> u64;

    /// Everything below would still be here after a crash.
    fn durable(&self) -> u64;

    /// Adds a piece and returns `received`. What lies below `received` is cut off or ignored, so that the same piece
    /// may come twice; a hole is an error.
    fn append(&self, piece: Piece) -> io::Result<u64>;

    /// Makes durable what was received, and returns `durable`. Blocks: call it from `spawn_blocking`.
    fn sync(&self) -> io::Result<u64>;

    /// From that offset on, about `max_bytes` at most; empty at the end.
    fn read(&self, offset: u64, max_bytes: usize) -> io::Result<Vec<Piece>>;

    /// (offset, bytes) of what is missing.
    fn gaps(&self) -> Vec<(u64, u64)>;
}
