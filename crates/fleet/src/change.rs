//! What must survive a restart of the master.

use crate::{effect::SessionId, registry::Downlink};
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

/// An agent, as the store keeps it. Heartbeats are not written one by one (see [`Change::PutHeard`]): a loaded agent that
/// was Active is Inactive until it registers.
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

/// How the master was restarted, where no more is known of it.
pub const MASTER_RESTARTED: &str = "the master was restarted";

/// Heartbeats come, and nothing that the agent is sent arrives there: its session lives, and is of no use.
pub const REASON_DOWNLINK_DEAD: &str = "downlink_dead";
/// The agent says that it takes no commands.
pub const REASON_NOT_READY: &str = "not_ready";

/// What an agent says that leaves for another master.
pub const REASON_MOVED: &str = "moved";

/// The reason of sessions that a master ended when it was told to go itself.
pub const REASON_MASTER_SHUTDOWN: &str = "master_shutdown";

impl AgentRecord {
    /// As a master that has just started sees it: nobody is Active before it registers. True if that changes anything.
    /// `how`: what is known of the restart, for people.
    pub fn after_restart(&mut self, unix_ms: u64, how: &str) -> bool {
        if self.status != Status::Active {
            return false;
        }
        self.status = Status::Inactive;
        self.reason = REASON_MASTER_RESTARTED.to_owned();
        self.detail = format!("{how}, and it has not registered since");
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

/// A session of an agent, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub session: SessionId,
    pub started_unix_ms: u64,
    /// As the agent reported it then.
    pub address: String,
    /// None while it lasts.
    pub end: Option<SessionEnd>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    pub unix_ms: u64,
    /// Fixed word.
    pub reason: String,
    /// For people.
    pub detail: String,
    pub closed_by: ClosedBy,
}

/// Something that happened on an agent's side, as it told when it was back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub agent: AgentId,
    /// By the master's clock.
    pub unix_ms: u64,
    pub kind: ToldKind,
    /// Fixed word.
    pub reason: String,
    /// For people.
    pub detail: String,
    pub duration_ms: u64,
    pub attempts: u32,
    /// With whom, as the agent is configured.
    pub master: String,
    /// Of the session that it is about; 0 where it is about none.
    pub epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToldKind {
    /// A session ended.
    Session,
    /// Attempts failed, one after another, at one master and for one reason.
    Attempts,
    /// The agent's process began.
    Start,
}

impl ToldKind {
    pub const ALL: [Self; 3] = [Self::Session, Self::Attempts, Self::Start];

    pub fn word(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Attempts => "attempts",
            Self::Start => "start",
        }
    }
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    Agent,
    Master,
    /// The agent, because an operator asked it to.
    Operator,
    /// Neither side: what was between them, or a machine that was switched off.
    Network,
}

impl ClosedBy {
    pub const ALL: [Self; 4] = [Self::Agent, Self::Master, Self::Operator, Self::Network];

    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Master => "master",
            Self::Operator => "operator",
            Self::Network => "network",
        }
    }
}

/// A run of the master, as the store keeps the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub started_unix_ms: u64,
    /// When it last wrote that it goes on, or that it ends.
    pub written_unix_ms: u64,
    /// It was told to end, and did.
    pub ended: bool,
}

/// One write. The store takes them in order; a group of them is one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<S> {
    PutAgent(AgentRecord),
    /// When each of these agents was last heard of, in Unix milliseconds: later than its record says, until the next
    /// [`PutAgent`](Self::PutAgent) of it.
    PutHeard(Vec<(AgentId, u64)>),
    /// In place of what was on record of a run.
    PutRun(Run),
    /// The agent is forgotten, and its sessions with it.
    DeleteAgent(AgentId),
    /// It is open: an earlier one of this agent that still is has lost its end, and ends here.
    BeginSession(SessionRecord),
    /// Unless it has an end already.
    EndSession(SessionId, SessionEnd),
    /// Unless it was told before: an agent that does not know whether it was heard tells again.
    AddTold(Told),
    /// Every one that is open.
    EndSessions(SessionEnd),
    PutCommand(CommandRecord<S>),
    /// Somebody who reads all events has come to this one.
    PutMark {
        reader: &'static str,
        seq: u64,
    },
    AddEvent(Event),
}
