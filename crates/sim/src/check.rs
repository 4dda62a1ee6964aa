//! What must hold whatever happens, told apart from the code that makes it hold: this knows the truth, because it sees
//! both ends and the programs themselves.

mod commands;
mod looks;
mod waits;

pub use commands::Truth;

use crate::master::Store;
use fleet::{AgentId, SessionId};
use link::LossReason;
use std::{collections::BTreeMap, time::Duration};

/// interval + max_failures * timeout, at the documented defaults.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub struct Check {
    pub hosts: BTreeMap<usize, HostTruth>,
    pub commands: BTreeMap<String, Truth>,
    /// The newest session of each agent, by the running master.
    newest: BTreeMap<AgentId, u64>,
    /// When the master last heard something in a session.
    heard: BTreeMap<SessionId, Duration>,
    /// When the agent's side of a session ended, or, if it never knew of it, when the master registered it.
    ended: BTreeMap<SessionId, Duration>,
    /// Longest time from the end of faults until an agent was Active.
    pub slowest: Duration,
}

/// What is true of the process on a host.
#[derive(Debug, Default)]
pub struct HostTruth {
    pub id: AgentId,
    pub session: Option<SessionId>,
    /// The last acknowledgement, or the beginning of the session.
    pub acked: Duration,
    /// The master ended this session, in words.
    rejected: bool,
    /// The latest change of the route to the master.
    rerouted: Option<Duration>,
    unknown_at: Option<Duration>,
    active_since: Option<Duration>,
    /// Waits since the start or the last stable session.
    waits: u32,
    draining: bool,
}

impl Check {
    pub fn process_started(&mut self, host: usize, id: AgentId) {
        self.hosts.insert(host, HostTruth { id, ..HostTruth::default() });
    }

    pub fn process_died(&mut self, host: usize, now: Duration) {
        self.session_ended(host, now);
        self.excuse_host(host);
    }

    pub fn session_began(&mut self, host: usize, now: Duration, session: SessionId) {
        self.ended.remove(&session);
        let truth = self.hosts.entry(host).or_default();
        truth.session = Some(session);
        truth.acked = now;
        truth.rejected = false;
    }

    pub fn rejected(&mut self, host: usize) {
        self.hosts.entry(host).or_default().rejected = true;
    }

    pub fn session_ended(&mut self, host: usize, now: Duration) {
        let truth = self.hosts.entry(host).or_default();
        truth.active_since = None;
        if let Some(session) = truth.session.take() {
            self.ended.insert(session, now);
        }
    }

    pub fn acked(&mut self, host: usize, now: Duration) {
        self.hosts.entry(host).or_default().acked = now;
    }

    pub fn rerouted(&mut self, host: usize, now: Duration) {
        self.hosts.entry(host).or_default().rerouted = Some(now);
    }

    /// # Errors
    /// An agent that the master has forgotten must register again at once, once in a while.
    pub fn unknown_agent(
        &mut self,
        host: usize,
        now: Duration,
        dials: bool,
        reset_after: Duration,
    ) -> Result<(), String> {
        let truth = self.hosts.entry(host).or_default();
        let again = truth.unknown_at.replace(now).is_some_and(|before| now < before + reset_after);
        if dials == again {
            return Err(format!("host {host} is unknown to the master, again: {again}, and dials at once: {dials}"));
        }
        Ok(())
    }

    pub fn master_started(&mut self) {
        self.heard.clear();
    }

    /// The master goes on from this: what it knew beyond is lost, and nobody could know.
    pub fn rolled_back(&mut self, store: &Store) {
        self.newest.clear();
        self.commands_rolled_back(store);
    }

    /// # Errors
    /// The registration is not durable, or the epoch was used.
    pub fn registered(&mut self, session: SessionId, now: Duration, store: &Store) -> Result<(), String> {
        let recorded = store.agents.get(&session.agent).map(|record| record.epoch);
        if recorded != Some(session.epoch) {
            return Err(format!("{session:?} was registered, and on record is the epoch {recorded:?}"));
        }
        self.heard.insert(session, now);
        self.ended.insert(session, now);
        match self.newest.insert(session.agent, session.epoch) {
            Some(before) if before >= session.epoch => Err(format!("{session:?} follows the epoch {before}")),
            _ => Ok(()),
        }
    }

    pub fn is_newest(&self, session: SessionId) -> bool {
        self.newest.get(&session.agent) == Some(&session.epoch)
    }

    pub fn heard(&mut self, session: SessionId, now: Duration) {
        self.heard.insert(session, now);
    }

    /// # Errors
    /// A session is ended as silent that was not.
    pub fn closes(&self, session: SessionId, reason: LossReason, now: Duration) -> Result<(), String> {
        let silent = now - self.heard.get(&session).copied().unwrap_or_default();
        if reason == LossReason::HeartbeatTimeout && silent < PATIENCE {
            return Err(format!("{session:?} is closed as silent after {silent:?}"));
        }
        Ok(())
    }

    fn forget_agent(&mut self, agent: AgentId) {
        self.newest.remove(&agent);
        self.excuse_agent(agent);
    }
}
