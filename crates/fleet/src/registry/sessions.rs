//! What happens within sessions, and how they end.

use super::{NodeStatus, Registry, Session, deadlines::Due, register::clip};
use crate::{
    AgentId, Change, ClosedBy, ConnId, Down, Effect, Now, Out, REASON_MASTER_SHUTDOWN, SessionEnd, SessionId, Status,
    Ticket, effect::Then,
};
use link::LossReason;

/// A heartbeat, as the agent sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    pub seq: u64,
    pub last_ack: u64,
    pub ready: bool,
    pub node: Option<NodeStatus>,
}

/// Whether a message counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a session that is not the live one must be closed"]
pub enum Heard {
    Live,
    /// Nobody knows the agent: it should register again.
    Unknown,
    /// The session is over; perhaps there is a newer one.
    Stale,
}

/// Why an agent was not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteRefused {
    Unknown,
    /// It is connected, and nobody insisted.
    Connected,
}

/// Of reasons that agents give for leaving, bytes.
const REASON_MAX: usize = 64;

impl Registry {
    /// Any message of a session: the agent is there.
    pub fn heard<S>(&mut self, now: Now, session: SessionId, out: &mut Out<S>) -> Heard {
        let Some(agent) = self.agents.get_mut(&session.agent) else { return Heard::Unknown };
        match &mut agent.session {
            Some(current) if current.live && current.epoch == session.epoch => {
                current.deadline = now.monotonic + current.rhythm.patience();
            }
            _ => return Heard::Stale,
        }
        if agent.newcomer.is_some() {
            self.refuse_newcomer(now, session.agent, out);
        }
        Heard::Live
    }

    pub fn heartbeat<S>(&mut self, now: Now, session: SessionId, beat: Beat, out: &mut Out<S>) -> Heard {
        let heard = self.heard(now, session, out);
        if heard != Heard::Live {
            return heard;
        }
        let stretched = self.stretched();
        let agent = self.agents.get_mut(&session.agent).expect("it was just heard");
        let current = agent.session.as_mut().expect("it was just heard");
        if beat.last_ack > current.acked {
            current.acked = beat.last_ack;
            current.stalled = 0;
            current.progressed = now.monotonic;
        } else if current.answered {
            current.stalled = current.stalled.saturating_add(1);
        }
        current.answered = true;
        current.ready = beat.ready;
        agent.record.last_heartbeat_unix_ms = now.unix_ms;
        if let Some(node) = beat.node {
            agent.clock_skew_ms = node.clock_skew_ms.or(agent.clock_skew_ms);
            agent.node = Some(Box::new(node));
        }
        let interval = current.rhythm.go_on(beat.seq, beat.last_ack, stretched);
        current.deadline = now.monotonic + current.rhythm.patience();
        let weakness = current.weakness();
        out.send(session, Down::HeartbeatAck { seq: beat.seq, interval });
        match (agent.record.status, weakness) {
            (Status::Active, Some((reason, detail))) => {
                self.set_down(now, session.agent, Status::Inactive, reason, detail.to_owned(), None, out);
            }
            (Status::Inactive, None) => self.set_up(now, session.agent, out),
            (Status::Inactive, Some((reason, detail))) if agent.record.reason != reason => {
                agent.record.reason = reason.to_owned();
                agent.record.detail = detail.to_owned();
            }
            _ => {}
        }
        Heard::Live
    }

    /// The stream of a connection is over. Does nothing if its session is over already: a reconnection can overtake
    /// this. Returns whether a live session ended.
    pub fn closed<S>(
        &mut self,
        now: Now,
        conn: ConnId,
        reason: LossReason,
        closed_by: ClosedBy,
        detail: String,
        out: &mut Out<S>,
    ) -> bool {
        let Some(id) = self.connections.remove(&conn) else { return false };
        let Some(agent) = self.agents.get_mut(&id) else { return false };
        if agent.newcomer.as_ref().is_some_and(|newcomer| newcomer.conn == conn) {
            agent.newcomer = None;
            return false;
        }
        let Some(session) = agent.session.take_if(|session| session.conn == conn) else { return false };
        if session.live && !self.retired {
            let (reason, closed_by, detail) = if session.was_given_up(now.monotonic) {
                // One fault has one reason, whichever way is dead and whoever finds it first.
                let detail = "it gave up: nothing that it was sent arrived".to_owned();
                (LossReason::HeartbeatTimeout, ClosedBy::Agent, detail)
            } else {
                (reason, closed_by, detail)
            };
            self.set_down(now, id, Status::Inactive, reason.word(), detail, Some((session.epoch, closed_by)), out);
        }
        self.admit_newcomer(now, id, out);
        session.live
    }

    /// The agent leaves on purpose.
    pub fn goodbye<S>(&mut self, now: Now, session: SessionId, mut reason: String, out: &mut Out<S>) -> Heard {
        let heard = self.heard(now, session, out);
        if heard != Heard::Live {
            return heard;
        }
        clip(&mut reason, REASON_MAX);
        if reason.is_empty() {
            reason.push_str("goodbye");
        }
        let asked = self.end_session(session.agent).is_some_and(|ended| ended.stopping);
        let (closed_by, detail) = match asked {
            true => (ClosedBy::Operator, "an operator asked it to shut down, and it said goodbye"),
            false => (ClosedBy::Agent, "it said goodbye"),
        };
        let ended = Some((session.epoch, closed_by));
        self.set_down(now, session.agent, Status::Stopped, &reason, detail.to_owned(), ended, out);
        Heard::Live
    }

    /// Whether an agent would be forgotten.
    ///
    /// # Errors
    /// It is unknown, or connected and `force` is not set.
    pub fn may_delete(&self, id: AgentId, force: bool) -> Result<(), DeleteRefused> {
        let agent = self.agents.get(&id).filter(|agent| agent.stored).ok_or(DeleteRefused::Unknown)?;
        if agent.session.is_some() && !force { Err(DeleteRefused::Connected) } else { Ok(()) }
    }

    /// Forgets an agent; answered by [`Effect::Done`] once it is durable.
    pub fn delete<S>(
        &mut self,
        now: Now,
        id: AgentId,
        force: bool,
        ticket: Ticket,
        out: &mut Out<S>,
    ) -> Result<(), DeleteRefused> {
        self.may_delete(id, force)?;
        let agent = self.agents.get_mut(&id).ok_or(DeleteRefused::Unknown)?;
        agent.deleting.push(ticket);
        let message = format!("{} was forgotten; it was {}", agent.record.name, agent.record.status.word());
        let event = out.event(now, "agent.deleted", &agent.record, "", message);
        out.store(vec![Change::DeleteAgent(id), event], Then::Deleted { agent: id, ticket });
        Ok(())
    }

    /// The deletion is durable. Returns whether the agent is gone: it may have registered again meanwhile.
    pub(crate) fn deleted<S>(&mut self, now: Now, id: AgentId, ticket: Ticket, out: &mut Out<S>) -> bool {
        if self.agents.get(&id).is_none_or(|agent| !agent.deleting.contains(&ticket)) {
            return false;
        }
        let agent = self.agents.remove(&id).expect("it was just there");
        self.names.remove(&agent.record.name);
        // Nor is known who was turned away in its name before.
        self.attempts.forget(&agent.record.name, id);
        if let Some(session) = agent.session {
            self.connections.remove(&session.conn);
            let message = "an operator has deleted this agent".to_owned();
            if session.live {
                let session = SessionId { agent: id, epoch: session.epoch };
                out.push(Effect::Close { session, reason: LossReason::UnknownAgent, message });
            } else {
                out.reject(session.conn, LossReason::UnknownAgent, message);
            }
        }
        if let Some(mut newcomer) = agent.newcomer {
            self.connections.remove(&newcomer.conn);
            // Stays above the session that just ended, which it may not have known of.
            newcomer.register.highest_epoch = newcomer.register.highest_epoch.max(agent.record.epoch);
            self.admit(now, newcomer.conn, newcomer.register, out);
        }
        true
    }

    pub(crate) fn not_deleted(&mut self, id: AgentId, ticket: Ticket) {
        if let Some(agent) = self.agents.get_mut(&id)
            && let Some(index) = agent.deleting.iter().position(|deleting| *deleting == ticket)
        {
            agent.deleting.remove(index);
        }
    }

    /// Judges what is due. Returns the agents whose sessions ended.
    pub fn timeout<S>(&mut self, now: Now, out: &mut Out<S>) -> Vec<AgentId> {
        let mut lost = Vec::new();
        while let Some(due) = self.deadlines.pop(now.monotonic) {
            match due {
                Due::Silence { agent, epoch } => {
                    if self.judge_silence(now, agent, epoch, out) {
                        lost.push(agent);
                    }
                }
                Due::Probe { agent, newcomer } => {
                    let waits = self.agents.get(&agent).and_then(|agent| agent.newcomer.as_ref());
                    if waits.is_some_and(|waiting| waiting.conn == newcomer) {
                        self.admit_newcomer(now, agent, out);
                    }
                }
            }
        }
        lost
    }

    /// An operator asks the agent to shut down.
    pub(crate) fn asked_to_stop(&mut self, session: SessionId) {
        let current = self.agents.get_mut(&session.agent).and_then(|agent| agent.session.as_mut());
        if let Some(current) = current.filter(|current| current.epoch == session.epoch) {
            current.stopping = true;
        }
    }

    /// The master itself ends all sessions: the end of each is no news from now on. `last`: written together with that.
    pub(crate) fn retire<S>(&mut self, now: Now, mut last: Vec<Change<S>>, out: &mut Out<S>) {
        self.retired = true;
        let end = SessionEnd {
            unix_ms: now.unix_ms,
            reason: REASON_MASTER_SHUTDOWN.to_owned(),
            detail: "the master was told to end".to_owned(),
            closed_by: ClosedBy::Master,
        };
        last.push(Change::EndSessions(end));
        out.store(last, Then::Nothing);
    }

    /// When each agent was heard of, of those that were since that was last recorded, by id. The record of one without
    /// a session says it.
    pub(crate) fn heard_since_recorded(&mut self) -> Vec<(AgentId, u64)> {
        let mut heard = Vec::new();
        for (id, agent) in &mut self.agents {
            let there = agent.stored && agent.deleting.is_empty() && agent.session.as_ref().is_some_and(|one| one.live);
            let at = agent.record.last_heartbeat_unix_ms;
            if there && agent.heard_recorded_unix_ms != at {
                agent.heard_recorded_unix_ms = at;
                heard.push((*id, at));
            }
        }
        // The order of the store's keys: neighbours are written together.
        heard.sort_unstable();
        heard
    }

    /// Of none it is known to be on record: the next time all of them are recorded.
    pub(crate) fn heard_not_recorded(&mut self) {
        self.agents.values_mut().for_each(|agent| agent.heard_recorded_unix_ms = 0);
    }

    /// Every live session.
    pub fn live_sessions(&self) -> Vec<SessionId> {
        let live = |(id, agent): (&AgentId, &super::Agent)| {
            let session = agent.session.as_ref().filter(|session| session.live)?;
            Some(SessionId { agent: *id, epoch: session.epoch })
        };
        self.agents.iter().filter_map(live).collect()
    }

    fn judge_silence<S>(&mut self, now: Now, id: AgentId, epoch: u64, out: &mut Out<S>) -> bool {
        let Some(agent) = self.agents.get(&id) else { return false };
        let Some(session) = agent.session.as_ref().filter(|session| session.epoch == epoch) else { return false };
        if session.deadline > now.monotonic {
            self.deadlines.push(session.deadline, Due::Silence { agent: id, epoch });
            return false;
        }
        let patience = session.rhythm.patience().as_secs_f64();
        let silence = format!("nothing was heard of it for {patience:.1} s");
        let told = format!("the master has heard nothing of this agent for {patience:.1} s");
        self.end_session(id);
        let session = SessionId { agent: id, epoch };
        let reason = LossReason::HeartbeatTimeout;
        out.push(Effect::Close { session, reason, message: told });
        self.set_down(now, id, Status::Inactive, reason.word(), silence, Some((epoch, ClosedBy::Master)), out);
        self.admit_newcomer(now, id, out);
        true
    }

    fn end_session(&mut self, id: AgentId) -> Option<Session> {
        let session = self.agents.get_mut(&id).and_then(|agent| agent.session.take())?;
        self.connections.remove(&session.conn);
        Some(session)
    }

    /// The agent is not Active any more, or not for the same reason: recorded and told. `ended`: the epoch of the
    /// session that ended with it, and by whom.
    #[expect(clippy::too_many_arguments, reason = "a status has as many parts")]
    pub(super) fn set_down<S>(
        &mut self,
        now: Now,
        id: AgentId,
        status: Status,
        reason: &str,
        detail: String,
        ended: Option<(u64, ClosedBy)>,
        out: &mut Out<S>,
    ) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let record = &mut agent.record;
        record.status = status;
        record.reason = reason.to_owned();
        record.detail = detail;
        record.since_unix_ms = now.unix_ms;
        if !agent.deleting.is_empty() {
            return;
        }
        let kind = if status == Status::Stopped { "agent.stopped" } else { "agent.lost" };
        let event = out.event(now, kind, record, reason, record.detail.clone());
        let mut changes = vec![Change::PutAgent(agent.record.clone()), event];
        changes.extend(ended.map(|(epoch, closed_by)| {
            let (reason, detail) = (agent.record.reason.clone(), agent.record.detail.clone());
            let end = SessionEnd { unix_ms: now.unix_ms, reason, detail, closed_by };
            Change::EndSession(SessionId { agent: id, epoch }, end)
        }));
        out.store(changes, Then::Nothing);
    }

    /// A session that was alive but of no use is of use again.
    fn set_up<S>(&mut self, now: Now, id: AgentId, out: &mut Out<S>) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let record = &mut agent.record;
        let message = format!("commands get through again after {}", record.reason);
        record.status = Status::Active;
        record.reason.clear();
        record.detail.clear();
        record.since_unix_ms = now.unix_ms;
        out.push(Effect::Active { agent: id });
        if !agent.deleting.is_empty() {
            return;
        }
        let event = out.event(now, "agent.connected", record, "recovered", message);
        out.store(vec![Change::PutAgent(agent.record.clone()), event], Then::Nothing);
    }
}
