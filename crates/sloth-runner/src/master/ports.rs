//! What the master needs from the outside: a store for what must survive, and files for the output of commands.

#[cfg(test)]
pub mod memory;

use bytes::Bytes;
use std::{io, sync::Arc};

/// What is to be run.
pub type Spec = proto::CommandSpec;
/// One write.
pub type Change = fleet::Change<Spec>;
/// A command, as the store keeps it.
pub type Record = fleet::CommandRecord<Spec>;
/// Told once how a write went.
pub type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What the store knew when the master started.
pub struct Snapshot {
    pub agents: Vec<fleet::AgentRecord>,
    /// Unfinished ones only.
    pub commands: Vec<Record>,
    pub next_event_seq: u64,
    /// None: none is on record, as before the first start.
    pub last_run: Option<fleet::Run>,
}

/// Which commands: those that fit all that is said.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The agent's name.
    pub agent: Option<String>,
    pub state: Option<fleet::CommandState>,
    pub outcome: Option<proto::outcome::Kind>,
    /// Asked for at that time, in Unix milliseconds, or later.
    pub since_unix_ms: u64,
}

/// Keeps agents, commands and events. Reading may block: call it from a thread that may.
pub trait Store: Send + Sync + 'static {
    /// Queues changes; they are committed in order, many calls in one transaction; `done` runs on the writer's thread
    /// once they are durable, or have failed.
    fn write(&self, changes: Vec<Change>, done: Done);

    /// After which one the newest `limit` begin of those after `after_seq`. With an agent or a name those that concern
    /// either, with none of them all.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn events_begin(
        &self,
        agent: Option<fleet::AgentId>,
        name: Option<&str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<u64, String>;

    /// Ascending; the oldest `limit` of those after `after_seq`, of the same.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn events_from(
        &self,
        agent: Option<fleet::AgentId>,
        name: Option<&str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<fleet::Event>, String>;

    /// Ascending; the newest `limit` of those after `after_seq`, of the same.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn events(
        &self,
        agent: Option<fleet::AgentId>,
        name: Option<&str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<fleet::Event>, String> {
        self.events_from(agent, name, self.events_begin(agent, name, after_seq, limit)?, limit)
    }

    /// The newest refusals of agents (`agent.rejected`) since `since_unix_ms` that concern either, newest first.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn refusals(
        &self,
        agent: Option<fleet::AgentId>,
        name: &str,
        since_unix_ms: u64,
        limit: usize,
    ) -> Result<Vec<fleet::Event>, String>;

    /// The newest sessions of an agent, newest first.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn sessions(&self, agent: fleet::AgentId, limit: usize) -> Result<Vec<fleet::SessionRecord>, String>;

    /// The latest of what an agent told of its own side, latest first.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn told(&self, agent: fleet::AgentId, limit: usize) -> Result<Vec<fleet::Told>, String>;

    /// How far a reader of all events has come, if it was here before.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn mark(&self, reader: &str) -> Result<Option<u64>, String>;

    /// # Errors
    /// For people: why the store could not be read.
    fn command(&self, id: &str) -> Result<Option<Record>, String>;

    /// Ids of commands that begin so, ascending, at most `limit`.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn ids_beginning(&self, prefix: &str, limit: usize) -> Result<Vec<String>, String>;

    /// Newest first; none: there is no command `before_id`.
    ///
    /// # Errors
    /// For people: why the store could not be read.
    fn commands(&self, wanted: &Wanted, before_id: Option<&str>, limit: usize) -> Result<Option<Vec<Record>>, String>;
}

/// A part of a command's output. Offsets count both streams and the gaps together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Data { offset: u64, stream: proto::OutputStream, data: Bytes },
    Gap { offset: u64, bytes: u64 },
}

/// The output of all commands.
pub trait Outputs: Send + Sync + 'static {
    /// Opens or creates, scans, cuts a torn tail. The same log while somebody holds it. Blocking.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    fn open(&self, id: &str) -> io::Result<Arc<dyn OutputLog>>;

    /// # Errors
    /// The file cannot be removed. One that is not there is removed already.
    fn remove(&self, id: &str) -> io::Result<()>;
}

/// The output of one command.
pub trait OutputLog: Send + Sync + 'static {
    /// Logical offset: bytes of both streams, and gaps. Waits for nobody, as [`durable`](Self::durable).
    fn received(&self) -> u64;

    fn durable(&self) -> u64;

    /// What is below `received` is cut or ignored. Returns `received`. Blocking.
    ///
    /// # Errors
    /// There would be a hole, or the file cannot be written.
    fn append(&self, piece: Piece) -> io::Result<u64>;

    /// Makes everything durable and returns up to where. Blocking.
    ///
    /// # Errors
    /// The disk.
    fn sync(&self) -> io::Result<u64>;

    /// From that offset on; empty at the end. Blocking.
    ///
    /// # Errors
    /// The disk.
    fn read(&self, offset: u64, max_bytes: usize) -> io::Result<Vec<Piece>>;

    /// (offset, bytes)
    fn gaps(&self) -> Vec<(u64, u64)>;
}
