//! What must survive a restart of the master.

use crate::registry::Downlink;
use link::Outcome;
use std::{collections::BTreeMap, time::Duration};

/// Random, made on an agent's first start. Shown in hex.
pub type AgentId = [u8; 16];

/// Both clocks at one moment: intervals are judged by the first, people are told the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment; never steps back.
    pub monotonic: Duration,
    /// Unix milliseconds; may step.
    pub unix_ms: u64,
}

/// What the master says of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// A command would get through.
    Active,
    /// Lost.
    Inactive,
    /// Said goodbye.
    Stopped,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Inactive => "Inactive",
            Self::Stopped => "Stopped",
        }
    }
}

/// An agent, as the store keeps it. Heartbeats are not written: a loaded agent that was Active is Inactive until it
/// registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    pub id: AgentId,
    pub name: String,
    pub host: String,
    pub version: String,
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub spool_id: [u8; 16],
    /// Of its latest session.
    pub epoch: u64,
    pub status: Status,
    /// Fixed word; empty while Active.
    pub reason: String,
    /// For people.
    pub detail: String,
    pub since_unix_ms: u64,
    pub last_heartbeat_unix_ms: u64,
}

/// The reason of an agent that was Active when the master ended, until it registers.
pub const REASON_MASTER_RESTARTED: &str = "master_restarted";

impl AgentRecord {
    /// As a master that has just started sees it: nobody is Active before it registers. True if that changes anything.
    pub fn after_restart(&mut self, unix_ms: u64) -> bool {
        if self.status != Status::Active {
            return false;
        }
        self.status = Status::Inactive;
        self.reason = REASON_MASTER_RESTARTED.to_owned();
        self.detail = "the master was restarted, and it has not registered since".to_owned();
        self.since_unix_ms = unix_ms;
        true
    }
}

/// Where a command stands on the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandState {
    /// Its agent is away.
    Queued,
    /// Committed here and sent, perhaps received.
    Sent,
    /// The agent holds it, it has started or will.
    Accepted,
    /// It has its outcome, and its output is here.
    Finished,
}

impl CommandState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Accepted => "accepted",
            Self::Finished => "finished",
        }
    }
}

/// A command, as the store keeps it. `S` is what is to be run; nothing here looks into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRecord<S> {
    pub id: String,
    pub agent_id: AgentId,
    pub agent: String,
    pub spec: S,
    pub state: CommandState,
    /// The spool that it was sent to: sent again only there.
    pub spool_id: Option<[u8; 16]>,
    pub outcome: Option<Outcome>,
    pub cancel_asked: bool,
    /// Where its standard input ended, once that was heard from whoever feeds it.
    pub stdin_end: Option<u64>,
    pub created_unix_ms: u64,
    pub started_unix_ms: u64,
    pub finished_unix_ms: u64,
    /// Known once it has finished.
    pub output_bytes: u64,
    /// (offset, bytes) of output that was dropped.
    pub gaps: Vec<(u64, u64)>,
    /// Given up if it was not sent by then, by the master's clock.
    pub expires_unix_ms: Option<u64>,
}

impl<S> CommandRecord<S> {
    /// Of a command that goes, or went, to the agent over this session: neither started nor ended, as far as is known.
    pub(crate) fn sent(now: Now, id: String, agent: String, spec: S, state: CommandState, link: Downlink) -> Self {
        let record = Self::new(now, id, agent, spec, state, link.session.agent);
        Self { spool_id: Some(link.spool_id), ..record }
    }

    pub(crate) fn new(now: Now, id: String, agent: String, spec: S, state: CommandState, agent_id: AgentId) -> Self {
        Self {
            id,
            agent_id,
            agent,
            spec,
            state,
            spool_id: None,
            outcome: None,
            cancel_asked: false,
            stdin_end: None,
            created_unix_ms: now.unix_ms,
            started_unix_ms: 0,
            finished_unix_ms: 0,
            output_bytes: 0,
            gaps: Vec::new(),
            expires_unix_ms: None,
        }
    }
}

/// Something that happened in the fleet, for people and for those who follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// 1, 2, 3 … over the life of the store.
    pub seq: u64,
    pub time_unix_ms: u64,
    /// `agent.connected`, `agent.lost`, `agent.stopped`, `agent.replaced`, `agent.deleted`, `command.finished`,
    /// `command.output_failed`, …
    pub kind: String,
    pub agent: String,
    pub agent_id: AgentId,
    /// Of the agent's session; 0 where there is none.
    pub epoch: u64,
    /// Fixed word; may be empty.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// One write. The store takes them in order; a group of them is one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<S> {
    PutAgent(AgentRecord),
    DeleteAgent(AgentId),
    PutCommand(CommandRecord<S>),
    AddEvent(Event),
}
