//! Registry and dispatch as one: a session that begins or ends matters to both.

use crate::{
    AgentId, AgentRecord, Beat, Cancelled, Change, ClosedBy, CommandRecord, ConnId, DeleteRefused, Down, Effect,
    Finish, Heard, Held, Now, Out, Refusal, Register, Run, SessionId, Submit, Submitted, Ticket, Token, Turned,
    dispatch::Dispatch, effect::Then, pace::Stretch, registry::Registry,
};
use link::LossReason;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// The master's state and its decisions. After each call: carry out what [`poll_effect`](Self::poll_effect) gives, in
/// order, and come back at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Fleet<S> {
    registry: Registry,
    dispatch: Dispatch<S>,
    /// What registering agents hold, until they are registered.
    held: HashMap<ConnId, Vec<Held<S>>>,
    /// None before it was said to have started, and once it goes.
    run: Option<Running>,
    out: Out<S>,
}

/// The master's own run, which is on record with who was heard of.
#[derive(Debug)]
struct Running {
    run: Run,
    /// When that is written next.
    write_at: Duration,
}

/// Between two writes of who was heard of, in one transaction for all: after a crash no figure is older than this. Ten
/// thousand agents at their default interval would otherwise be 2,000 writes a second.
pub const RECORD_EVERY: Duration = Duration::from_secs(15);

impl<S: Clone + Eq> Fleet<S> {
    /// The fleet as the store knew it. Commands whose agent it does not know, because the master ended right after that
    /// was forgotten, are interrupted.
    pub fn new(now: Now, agents: Vec<AgentRecord>, commands: Vec<CommandRecord<S>>, next_event_seq: u64) -> Self {
        let mut registry = Registry::default();
        let forgotten = registry.load(now, agents);
        let mut dispatch = Dispatch::default();
        let owners: BTreeSet<AgentId> = commands.iter().map(|record| record.agent_id).collect();
        dispatch.load(now, commands);
        let mut out = Out::new(next_event_seq);
        if !forgotten.is_empty() {
            out.store(forgotten.into_iter().map(Change::DeleteAgent).collect(), Then::Nothing);
        }
        for owner in owners.into_iter().filter(|owner| registry.view(*owner).is_none()) {
            dispatch.forget_agent(now, owner, "its agent was deleted, or lost its name to another", &mut out);
        }
        Self { registry, dispatch, held: HashMap::new(), run: None, out }
    }

    /// See [`Registry::stretch`].
    pub fn stretch(&mut self, stretch: Stretch) {
        self.registry.stretch(stretch);
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn dispatch(&self) -> &Dispatch<S> {
        &self.dispatch
    }

    /// What is to be done next, in order.
    pub fn poll_effect(&mut self) -> Option<Effect<S>> {
        self.out.pop()
    }

    /// When to call [`timeout`](Self::timeout); perhaps earlier than necessary.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let write_at = self.run.as_ref().map(|running| running.write_at);
        [self.registry.poll_timeout(), self.dispatch.poll_timeout(), write_at].into_iter().flatten().min()
    }

    /// Judges everything that is due.
    pub fn timeout(&mut self, now: Now) {
        self.registry.timeout(now, &mut self.out);
        self.dispatch.timeout(now, &mut self.out);
        if let Some(running) = self.run.as_mut().filter(|running| running.write_at <= now.monotonic) {
            running.write_at = now.monotonic + RECORD_EVERY;
            running.run.written_unix_ms = now.unix_ms;
            let changes = vec![Change::PutHeard(self.registry.heard_since_recorded()), Change::PutRun(running.run)];
            self.out.store(changes, Then::Heard);
        }
    }

    /// The master begins to serve: an event that says so, and from now on its run is on record, with who was heard of.
    /// `reason`: a fixed word, may be empty; `message`: for people.
    pub fn begin_run(&mut self, now: Now, reason: &str, message: String) {
        let run = Run { started_unix_ms: now.unix_ms, written_unix_ms: now.unix_ms, ended: false };
        self.run = Some(Running { run, write_at: now.monotonic + RECORD_EVERY });
        let nobody = crate::effect::Whom { agent: "", agent_id: AgentId::default(), epoch: 0 };
        let event = self.out.event_about(now, "master.started", nobody, reason, message);
        self.out.store(vec![event, Change::PutRun(run)], Then::Nothing);
    }

    /// See [`Registry::register`].
    pub fn register(&mut self, now: Now, conn: ConnId, register: Register, held: Vec<Held<S>>) {
        if !held.is_empty() {
            self.held.insert(conn, held);
        }
        self.registry.register(now, conn, register, &mut self.out);
    }

    /// A registration that may not come so far, for what its agent has shown: told as those that are refused here.
    pub fn refuse(&mut self, now: Now, conn: ConnId, register: Register, reason: LossReason, message: String) {
        self.registry.refuse_unchecked(now, conn, register, reason, message, &mut self.out);
    }

    /// Somebody was not even heard, and told so elsewhere. With [`Turned::NotJoined`] nothing of `register` is proven.
    pub fn turned_away(&mut self, now: Now, register: Register, turned: Turned, message: &str) {
        self.registry.turned_away(now, register, turned, message, true, &mut self.out);
    }

    /// The same, without an event: of too many just now.
    pub fn turned_away_too(&mut self, now: Now, register: Register, turned: Turned, message: &str) {
        self.registry.turned_away(now, register, turned, message, false, &mut self.out);
    }

    /// Any message of a session that has no call of its own.
    pub fn heard(&mut self, now: Now, session: SessionId) -> Heard {
        self.registry.heard(now, session, &mut self.out)
    }

    pub fn heartbeat(&mut self, now: Now, session: SessionId, beat: Beat) -> Heard {
        let heard = self.registry.heartbeat(now, session, beat, &mut self.out);
        // It may be of use again only since this.
        if heard == Heard::Live && self.dispatch.queued(session.agent) > 0 {
            self.deliver(now, session.agent);
        }
        heard
    }

    pub fn goodbye(&mut self, now: Now, session: SessionId, reason: String) -> Heard {
        self.registry.goodbye(now, session, reason, &mut self.out)
    }

    /// The stream of a connection is over, whatever it was.
    pub fn closed(&mut self, now: Now, conn: ConnId, reason: LossReason, closed_by: ClosedBy, detail: String) {
        self.held.remove(&conn);
        self.registry.closed(now, conn, reason, closed_by, detail, &mut self.out);
    }

    pub fn accepted(&mut self, now: Now, session: SessionId, id: &str) -> Heard {
        let heard = self.heard(now, session);
        if heard == Heard::Live {
            self.dispatch.accepted(session, id, &mut self.out);
        }
        heard
    }

    /// [`Self::accepted`], and since when it runs.
    pub fn started(&mut self, now: Now, session: SessionId, id: &str, unix_ms: u64) -> Heard {
        let heard = self.accepted(now, session, id);
        if heard == Heard::Live {
            self.dispatch.started(session, id, unix_ms, &mut self.out);
        }
        heard
    }

    pub fn finished(&mut self, now: Now, session: SessionId, id: &str, finish: Finish) -> Heard {
        let heard = self.heard(now, session);
        if heard == Heard::Live {
            self.dispatch.finished(now, session, id, finish, &mut self.out);
        }
        heard
    }

    /// So much of a command's output would survive a crash.
    pub fn durable(&mut self, now: Now, id: &str, durable: u64, gaps: Vec<(u64, u64)>) {
        self.dispatch.durable(now, id, durable, gaps, &mut self.out);
    }

    /// `stored`: what the store knows of this id, asked after dispatch did not know it.
    ///
    /// # Errors
    /// [`Refusal::LookAgain`] asks for another look into the store; all others are final for now.
    pub fn submit(
        &mut self,
        now: Now,
        submit: Submit<S>,
        stored: Option<CommandRecord<S>>,
    ) -> Result<Submitted<S>, Refusal> {
        self.submit_or_queue(now, submit, stored, None)
    }

    /// As [`submit`](Self::submit), but for an agent that is away the command waits here: see [`Dispatch::enqueue`].
    ///
    /// # Errors
    /// As there, and [`Refusal::QueueFull`] in place of [`Refusal::Away`].
    pub fn enqueue(
        &mut self,
        now: Now,
        submit: Submit<S>,
        stored: Option<CommandRecord<S>>,
        expires: Option<Duration>,
    ) -> Result<Submitted<S>, Refusal> {
        self.submit_or_queue(now, submit, stored, Some(expires))
    }

    fn submit_or_queue(
        &mut self,
        now: Now,
        submit: Submit<S>,
        stored: Option<CommandRecord<S>>,
        queue: Option<Option<Duration>>,
    ) -> Result<Submitted<S>, Refusal> {
        let agent = self.registry.find(&submit.agent);
        if let Some(known) = self.dispatch.attach(&submit, agent, stored) {
            return known;
        }
        let view = agent.and_then(|id| self.registry.view(id)).ok_or(Refusal::UnknownAgent)?;
        match (self.registry.downlink(view.record.id).filter(|link| link.active), queue) {
            (Some(link), _) => self.dispatch.submit(now, submit, view.record.name, link, &mut self.out),
            (None, Some(expires)) => self.dispatch.enqueue(now, submit, &view.record, expires, &mut self.out)?,
            (None, None) => return Err(Refusal::Away { record: Box::new(view.record) }),
        }
        Ok(Submitted::New)
    }

    fn deliver(&mut self, now: Now, agent: AgentId) {
        if let Some(link) = self.registry.downlink(agent) {
            self.dispatch.deliver(now, link, &mut self.out);
        }
    }

    pub fn cancel(&mut self, id: &str) -> Cancelled {
        let link = self.dispatch.agent_of(id).and_then(|agent| self.registry.downlink(agent));
        self.dispatch.cancel(id, link, &mut self.out)
    }

    /// The output of a command cannot be kept here for now, which people should know.
    pub fn output_failed(&mut self, now: Now, id: &str, why: &str) {
        self.dispatch.output_failed(now, id, why, &mut self.out);
    }

    /// The standard input of a command has ended, after so many bytes.
    pub fn stdin_ended(&mut self, id: &str, end: u64) {
        self.dispatch.stdin_ended(id, end, &mut self.out);
    }

    /// Asks a connected agent to shut down. Returns whether it is connected.
    pub fn stop(&mut self, agent: AgentId, reason: String) -> bool {
        let Some(link) = self.registry.downlink(agent) else { return false };
        self.registry.asked_to_stop(link.session);
        self.out.send(link.session, Down::Shutdown { reason });
        true
    }

    /// Forgets an agent and gives up its commands; answered by [`Effect::Done`] once it is durable.
    ///
    /// # Errors
    /// It is unknown, or connected and `force` is not set.
    pub fn delete(&mut self, now: Now, agent: AgentId, force: bool, ticket: Ticket) -> Result<(), DeleteRefused> {
        self.registry.delete(now, agent, force, ticket, &mut self.out)
    }

    /// Records that something happened that changes nothing here: who did what, for people.
    pub fn note(&mut self, now: Now, kind: &str, agent: &str, agent_id: AgentId, message: String) {
        let event = self.out.event_about(now, kind, crate::effect::Whom { agent, agent_id, epoch: 0 }, "", message);
        self.out.store(vec![event], Then::Nothing);
    }

    /// See [`Registry::retire`]. What is on record of the run and of who was heard of is the last.
    pub fn retire(&mut self, now: Now) {
        let mut last = Vec::new();
        if let Some(Running { run, .. }) = self.run.take() {
            last.push(Change::PutHeard(self.registry.heard_since_recorded()));
            last.push(Change::PutRun(Run { written_unix_ms: now.unix_ms, ended: true, ..run }));
        }
        self.registry.retire(now, last, &mut self.out);
    }

    /// A registration was sent away before it came here: see [`Registry::sent_away`].
    pub fn sent_away(&mut self, now: Now, register: &Register, why: &str) {
        self.registry.sent_away(now, register, why);
    }

    /// A write is done, or has failed.
    pub fn stored(&mut self, now: Now, token: Token, result: Result<(), String>) {
        match result {
            Ok(()) => self.go_on(now, token.0),
            Err(error) => self.give_up(now, token.0, error),
        }
    }

    fn go_on(&mut self, now: Now, then: Then) {
        let out = &mut self.out;
        match then {
            Then::Nothing | Then::Heard => {}
            Then::Registered { session, conn, replaced } => {
                if let Some(replaced) = replaced.filter(|replaced| !self.registry.knows(replaced.id)) {
                    self.dispatch.forget_agent(now, replaced.id, "another agent took the name of its agent", out);
                }
                let held = self.held.remove(&conn).unwrap_or_default();
                if self.registry.registered(now, session, conn, out)
                    && let Some(link) = self.registry.downlink(session.agent)
                    && let Some(view) = self.registry.view(session.agent)
                {
                    self.dispatch.connected(now, &view.record.name, link, held, out);
                }
            }
            Then::Deleted { agent, ticket } => {
                if self.registry.deleted(now, agent, ticket, out) {
                    self.dispatch.forget_agent(now, agent, "its agent was deleted", out);
                }
                out.push(Effect::Done { ticket, result: Ok(()) });
            }
            Then::Submitted { id } => {
                let link = self.dispatch.agent_of(&id).and_then(|agent| self.registry.downlink(agent));
                self.dispatch.submitted(now, &id, link, out);
            }
            Then::Changed { id } => self.dispatch.changed(now, &id, out),
            Then::Finished { id } => {
                let link = self.dispatch.agent_of(&id).and_then(|agent| self.registry.downlink(agent));
                self.dispatch.closed(&id, link, out);
                if let Some(link) = link {
                    self.dispatch.deliver(now, link, out);
                }
            }
        }
    }

    fn give_up(&mut self, now: Now, then: Then, error: String) {
        let out = &mut self.out;
        match then {
            Then::Nothing => {}
            Then::Heard => self.registry.heard_not_recorded(),
            Then::Registered { session, conn, replaced } => {
                self.held.remove(&conn);
                self.registry.not_registered(now, session, conn, &error, out);
                if let Some(replaced) = replaced {
                    self.registry.restore(*replaced);
                }
            }
            Then::Deleted { agent, ticket } => {
                self.registry.not_deleted(agent, ticket);
                out.push(Effect::Done { ticket, result: Err(error) });
            }
            Then::Submitted { id } => self.dispatch.not_submitted(now, &id, &error, out),
            Then::Changed { id } => self.dispatch.changed(now, &id, out),
            Then::Finished { id } => self.dispatch.not_closed(now, &id),
        }
    }
}
