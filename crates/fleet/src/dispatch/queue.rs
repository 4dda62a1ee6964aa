//! Commands for agents that are away: they wait here, in order, until their agent is back or their time has passed.

use super::{Command, Dispatch, Submit};
use crate::{AgentId, AgentRecord, CommandRecord, CommandState, Now, Out, Refusal, effect::Then, registry::Downlink};
use link::Outcome;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// So many commands wait for one agent at most.
pub const QUEUE_MAX: usize = 1_000;

/// Commands leave the queue while their agent has fewer unfinished ones than this: what still waits here can be
/// cancelled, and expires, for certain.
pub const AHEAD_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// By agent, in the order in which they came.
    waiting: HashMap<AgentId, BTreeMap<u64, String>>,
    /// When which of them is given up. Also of some that have left: those mean nothing any more.
    expiries: BTreeSet<(Duration, String)>,
}

impl Queues {
    pub fn count(&self, agent: AgentId) -> usize {
        self.waiting.get(&agent).map_or(0, BTreeMap::len)
    }

    pub fn next_expiry(&self) -> Option<Duration> {
        self.expiries.first().map(|(at, _)| *at)
    }

    pub fn add<S>(&mut self, command: &Command<S>) {
        let id = &command.record.id;
        self.waiting.entry(command.record.agent_id).or_default().insert(command.number, id.clone());
        if let Some(at) = command.expires_at {
            self.expiries.insert((at, id.clone()));
        }
    }

    pub fn remove<S>(&mut self, command: &Command<S>) {
        let agent = command.record.agent_id;
        if let Some(waiting) = self.waiting.get_mut(&agent) {
            waiting.remove(&command.number);
            if waiting.is_empty() {
                self.waiting.remove(&agent);
            }
        }
        if let Some(at) = command.expires_at {
            self.expiries.remove(&(at, command.record.id.clone()));
        }
    }

    fn first(&self, agent: AgentId) -> Option<&String> {
        self.waiting.get(&agent)?.values().next()
    }

    fn pop_expired(&mut self, now: Duration) -> Option<String> {
        self.expiries.first().filter(|(at, _)| *at <= now)?;
        self.expiries.pop_first().map(|(_, id)| id)
    }
}

impl<S: Clone + Eq> Dispatch<S> {
    /// A new command for an agent that is away. It is shown once it is durable, and sent when the agent is back.
    /// `expires`: given up if it was not sent by then; `None`: it waits for ever.
    ///
    /// # Errors
    /// [`Refusal::QueueFull`].
    pub fn enqueue(
        &mut self,
        now: Now,
        submit: Submit<S>,
        agent: &AgentRecord,
        expires: Option<Duration>,
        out: &mut Out<S>,
    ) -> Result<(), Refusal> {
        if self.queues.count(agent.id) >= QUEUE_MAX {
            return Err(Refusal::QueueFull { agent: agent.name.clone(), waiting: QUEUE_MAX });
        }
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let record = CommandRecord {
            expires_unix_ms: expires.map(|expires| now.unix_ms.saturating_add(millis(expires))),
            ..CommandRecord::new(
                now,
                submit.id.clone(),
                agent.name.clone(),
                submit.spec,
                CommandState::Queued,
                agent.id,
            )
        };
        let command = Command::new(now, record, false);
        command.put(Then::Submitted { id: submit.id }, out);
        self.insert(command);
        Ok(())
    }

    /// The agent is there, or has one command less to do: it gets what waits for it.
    pub fn deliver(&mut self, now: Now, link: Downlink, out: &mut Out<S>) {
        let agent = link.session.agent;
        while link.active
            && let Some(id) = self.queues.first(agent).cloned()
            && self.ahead(agent) < AHEAD_MAX
            && self.commands.get(&id).is_some_and(|command| command.committed && command.finish.is_none())
        {
            // Either it leaves the queue, or it is about to end.
            self.send_first(now, &id, link, out);
        }
    }

    /// How many commands wait for this agent.
    pub fn queued(&self, agent: AgentId) -> usize {
        self.queues.count(agent)
    }

    /// Unfinished commands of an agent that do not wait here.
    fn ahead(&self, agent: AgentId) -> usize {
        self.by_agent.get(&agent).map_or(0, BTreeSet::len) - self.queues.count(agent)
    }

    /// Gives up what was not sent in time.
    pub(super) fn expire(&mut self, now: Now, out: &mut Out<S>) {
        while let Some(id) = self.queues.pop_expired(now.monotonic) {
            // One that is just being recorded is looked at after that.
            if self.commands.get(&id).is_some_and(|command| command.is_queued() && command.committed) {
                self.conclude(now, &id, Outcome::Expired, out);
            }
        }
    }

    /// It waits no longer: it is sent, or the agent has it.
    pub(super) fn leave_queue(&mut self, id: &str, state: CommandState) {
        if let Some(command) = self.commands.get_mut(id) {
            if command.is_queued() {
                self.queues.remove(command);
            }
            command.record.state = state;
        }
    }

    /// That it leaves could not be recorded: it waits again, at its old place.
    pub(super) fn return_to_queue(&mut self, id: &str) {
        if let Some(command) = self.commands.get_mut(id)
            && command.fresh
            && command.was_queued
        {
            command.record.state = CommandState::Queued;
            command.record.spool_id = None;
            self.queues.add(command);
        }
    }
}

impl<S> Command<S> {
    pub(super) fn is_queued(&self) -> bool {
        self.record.state == CommandState::Queued
    }

    /// Its time has passed. Only asked of one that did not start.
    pub(super) fn is_expired(&self, now: Now) -> bool {
        self.expires_at.is_some_and(|at| at <= now.monotonic)
    }
}
