//! What the pure half asks its driver to do.

use crate::{AgentId, AgentRecord, Change, CommandRecord, Event, Now};
use link::LossReason;
use std::{collections::VecDeque, time::Duration};

/// A registered session: everything that an agent says or is told belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    pub agent: AgentId,
    pub epoch: u64,
}

/// One call of `Connect`, numbered by the driver and never reused: names a session before it has an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Names a request of the driver that is answered by [`Effect::Done`].
pub type Ticket = u64;

/// To be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<S> {
    /// Make this durable, all or nothing, after everything before it; then hand the token to
    /// [`stored`](crate::Fleet::stored), also if it failed.
    Store {
        changes: Vec<Change<S>>,
        token: Token,
    },
    /// The answer to a `Register`; with anything but `Registered` the connection ends.
    Answer {
        conn: ConnId,
        answer: Answer,
    },
    Send {
        session: SessionId,
        message: Down<S>,
    },
    /// End the session and tell the agent why.
    Close {
        session: SessionId,
        reason: LossReason,
        message: String,
    },
    /// A command would get through to this agent from now on.
    Active {
        agent: AgentId,
    },
    /// A command as it now stands, durably.
    Show {
        id: String,
        view: View<S>,
    },
    /// The request with this ticket is durable, or has failed.
    Done {
        ticket: Ticket,
        result: Result<(), String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `interval`: None for the one that the agent proposed.
    Registered {
        session: SessionId,
        interval: Option<Duration>,
    },
    Rejected {
        reason: LossReason,
        message: String,
    },
    /// No failure of the agent's: it should come back after a while.
    RetryLater {
        after: Duration,
        reason: String,
    },
}

/// A message to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down<S> {
    /// `interval`: None for the one that the agent was last told.
    HeartbeatAck {
        seq: u64,
        interval: Option<Duration>,
    },
    /// Say something: another process claims to be you.
    Probe,
    Run {
        id: String,
        spec: S,
    },
    Cancel {
        id: String,
    },
    FinishedAck {
        id: String,
    },
    Shutdown {
        reason: String,
    },
}

/// What those who wait for a command see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View<S> {
    Record(CommandRecord<S>),
    /// It could not be recorded, so it does not exist.
    Failed(String),
}

/// What goes on after a write. Opaque to the driver, which gives it back once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "what waits for this write goes on only when the token comes back"]
pub struct Token(pub(crate) Then);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// When agents were last heard of.
    Heard,
    /// `replaced` had the name before, and has it again if this fails.
    Registered {
        session: SessionId,
        conn: ConnId,
        replaced: Option<Box<AgentRecord>>,
    },
    Deleted {
        agent: AgentId,
        ticket: Ticket,
    },
    /// A new command, or one with a new spool.
    Submitted {
        id: String,
    },
    /// A command in a later state, still unfinished.
    Changed {
        id: String,
    },
    Finished {
        id: String,
    },
}

/// Where effects gather. Numbers the events, too.
#[derive(Debug)]
pub struct Out<S> {
    effects: VecDeque<Effect<S>>,
    next_event_seq: u64,
}

impl<S> Out<S> {
    pub fn new(next_event_seq: u64) -> Self {
        Self { effects: VecDeque::new(), next_event_seq: next_event_seq.max(1) }
    }

    pub fn pop(&mut self) -> Option<Effect<S>> {
        self.effects.pop_front()
    }

    pub(crate) fn push(&mut self, effect: Effect<S>) {
        self.effects.push_back(effect);
    }

    pub(crate) fn store(&mut self, changes: Vec<Change<S>>, then: Then) {
        self.push(Effect::Store { changes, token: Token(then) });
    }

    pub(crate) fn send(&mut self, session: SessionId, message: Down<S>) {
        self.push(Effect::Send { session, message });
    }

    pub(crate) fn reject(&mut self, conn: ConnId, reason: LossReason, message: String) {
        self.push(Effect::Answer { conn, answer: Answer::Rejected { reason, message } });
    }

    /// An event about an agent as its record stands.
    pub(crate) fn event(
        &mut self,
        now: Now,
        kind: &str,
        record: &AgentRecord,
        reason: &str,
        message: String,
    ) -> Change<S> {
        let whom = Whom { agent: &record.name, agent_id: record.id, epoch: record.epoch };
        self.event_about(now, kind, whom, reason, message)
    }

    pub(crate) fn event_about(
        &mut self,
        now: Now,
        kind: &str,
        whom: Whom<'_>,
        reason: &str,
        message: String,
    ) -> Change<S> {
        let seq = self.next_event_seq;
        self.next_event_seq += 1;
        Change::AddEvent(Event {
            seq,
            time_unix_ms: now.unix_ms,
            kind: kind.to_owned(),
            agent: whom.agent.to_owned(),
            agent_id: whom.agent_id,
            epoch: whom.epoch,
            reason: reason.to_owned(),
            message,
        })
    }
}

/// Whom an event is about.
#[derive(Clone, Copy)]
pub(crate) struct Whom<'a> {
    pub agent: &'a str,
    pub agent_id: AgentId,
    pub epoch: u64,
}
