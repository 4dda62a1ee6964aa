//! The pure half behind one lock, and the hands that carry out what it decides.
//!
//! Decisions are made under the lock, effects are carried out after it is released: by one thread at a time, so that
//! they keep their order; whoever finds another one at it leaves its own effects to that one.

use super::{
    Connections, Options,
    adoptions::Adoptions,
    clock::Clock,
    entrance::Entrance,
    hub::Hub,
    meters::{self, Meters},
    ports::{Change, Outputs, Record, Spec, Store},
    reads::{Lane, Reader, Reads},
    rows,
    wires::Wires,
};
use crate::{
    access::Caller,
    audit::{self, Audit},
    bucket::{Bucket, Lines},
    listen::Open,
    security::Security,
};
use fleet::{
    AgentId, Answer, ConnId, Down, Effect, Fleet, Now, Refusal, SessionId, Submit, Submitted, Ticket, Token, View,
};
use proto::{
    CancelCommand, FinishedAck, HeartbeatAck, Probe, Registered, Rejected, RunCommand, Shutdown, master_message::Kind,
    rejected::Reason,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{Notify, oneshot, watch};

/// Everything that the master's services share.
pub struct Core {
    state: Mutex<State>,
    pub wires: Wires,
    pub entrance: Entrance,
    pub adoptions: Adoptions,
    pub store: Arc<dyn Store>,
    pub outputs: Arc<dyn Outputs>,
    pub reads: Reads,
    clock: Box<dyn Clock>,
    name: String,
    /// What one address, and one call, may take of the port.
    pub connections: Connections,
    /// None in plain mode.
    pub security: Option<Arc<Security>>,
    audit: Option<Arc<Audit>>,
    /// The unfinished commands that somebody deals with.
    hubs: Mutex<HashMap<String, Arc<Hub>>>,
    /// Requests that wait for the store.
    tickets: Mutex<Tickets>,
    /// Those who wait for an agent to become Active.
    arrivals: Mutex<HashMap<AgentId, Arc<Notify>>>,
    /// The newest durable event.
    pub events: watch::Sender<u64>,
    /// The next deadline has moved nearer.
    pub rearm: Notify,
    /// How long unfinished standard input waits for a tool to come back; [`STDIN_RETURN`] times as long after a restart.
    ///
    /// [`STDIN_RETURN`]: super::orphans::STDIN_RETURN
    pub stdin_grace: Duration,
    pub meters: Meters,
    /// Lines of the log about agents that do not join.
    pub refusals: Mutex<Lines>,
    /// … of those who have shown a token that was made here.
    pub refusals_of_known: Mutex<Lines>,
    /// Of these so many more are remembered without a line and an event: who has one of many nodes' old token gives
    /// names as he likes.
    pub remembered_of_known: Mutex<Bucket>,
    /// Connections to the port.
    open: Open,
    /// The master is going.
    pub ending: watch::Sender<bool>,
}

/// A command waits here for an agent that is away.
#[derive(Clone, Copy, Debug)]
pub struct Queueing {
    /// Given up if it was not sent after so long; `None`: never.
    pub expires: Option<Duration>,
}

struct State {
    fleet: Fleet<Spec>,
    carrying: bool,
    /// What the timer sleeps until.
    armed: Option<Duration>,
}

#[derive(Default)]
struct Tickets {
    last: Ticket,
    waiting: HashMap<Ticket, oneshot::Sender<Result<(), String>>>,
}

impl Core {
    pub fn new(
        fleet: Fleet<Spec>,
        next_event_seq: u64,
        store: Arc<dyn Store>,
        outputs: Arc<dyn Outputs>,
        clock: Box<dyn Clock>,
        options: Options,
        stdin_grace: Duration,
    ) -> Self {
        Self {
            state: Mutex::new(State { fleet, carrying: false, armed: None }),
            wires: Wires::default(),
            entrance: Entrance::new(options.registrations_per_second),
            adoptions: Adoptions::default(),
            store,
            outputs,
            reads: Reads::default(),
            clock,
            name: options.name,
            connections: options.connections,
            security: options.security,
            audit: options.audit,
            stdin_grace,
            hubs: Mutex::default(),
            tickets: Mutex::default(),
            arrivals: Mutex::default(),
            events: watch::Sender::new(next_event_seq.saturating_sub(1)),
            rearm: Notify::new(),
            meters: Meters::default(),
            refusals: Mutex::new(Lines::of_log(Duration::ZERO)),
            refusals_of_known: Mutex::new(Lines::of_log(Duration::ZERO)),
            remembered_of_known: Mutex::new(Bucket::new(Duration::ZERO, 512, Duration::from_secs(1))),
            open: Open::default(),
            ending: watch::Sender::new(false),
        }
    }

    /// Records who did what, as an event and in the audit file. In plain mode nobody can be told from anybody: then in
    /// the file alone, with the address.
    pub fn audit(self: &Arc<Self>, caller: Option<&Caller>, kind: &str, agent: (&str, AgentId), what: &str) {
        if let Some(audit) = &self.audit {
            audit.done(caller, action(kind), agent, what);
        }
        self.audit_event(caller, kind, agent, what);
    }

    /// The same of somebody who came or went, and changed nothing: of many such only some, as events, too. Returns whether
    /// this is one of them.
    pub fn audit_coming(self: &Arc<Self>, caller: &Caller, kind: &str, what: &str) -> bool {
        let whose = (audit::Kind::SignedIn, caller.name.as_str());
        let nobody = ("", AgentId::default());
        let told = self.audit.as_ref().is_none_or(|audit| audit.came(whose, Some(caller), action(kind), nobody, what));
        if told {
            self.audit_event(Some(caller), kind, nobody, what);
        }
        told
    }

    fn audit_event(self: &Arc<Self>, caller: Option<&Caller>, kind: &str, agent: (&str, AgentId), what: &str) {
        if let Some(caller) = caller.filter(|caller| caller.who.is_some()) {
            let message = format!("{what}, by {caller}");
            self.decide(|fleet, now| fleet.note(now, kind, agent.0, agent.1, message));
        }
    }

    /// Records in the audit file alone that an agent was given a certificate, or that one was replaced: of many only some.
    pub fn file_audit(
        &self,
        whose: (audit::Kind, &str),
        caller: Option<&Caller>,
        action: &str,
        agent: (&str, AgentId),
        what: &str,
    ) {
        if let Some(audit) = &self.audit {
            audit.came(whose, caller, action, agent, what);
        }
    }

    /// Lines of the audit file that could not be written, since the start.
    pub fn audit_lost(&self) -> u64 {
        self.audit.as_ref().map_or(0, |audit| audit.lost())
    }

    /// Puts among the events what the audit file lacks, once it is written again.
    pub fn tell_audit_lost(self: &Arc<Self>) {
        if let Some(lost) = self.audit.as_ref().and_then(|audit| audit.lost_before()) {
            let what = format!("{lost} lines of the audit file could not be written, and are not in it");
            self.decide(|fleet, now| fleet.note(now, "audit.lost", "", AgentId::default(), what));
        }
    }

    /// How this master calls itself towards agents.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Returns when the master goes.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn ended(&self) {
        let mut ending = self.ending.subscribe();
        let _ = ending.wait_for(|ending| *ending).await.map(drop); // the sender lives as long as this
    }

    /// Connections to the port, and what was done about them.
    pub fn open_connections(&self) -> Open {
        self.open.clone()
    }

    /// Looks at the state, and changes nothing.
    pub fn read<R>(&self, look: impl FnOnce(&Fleet<Spec>) -> R) -> R {
        look(&self.state().fleet)
    }

    /// Lets the pure half decide, then carries out what it decided.
    pub fn decide<R>(self: &Arc<Self>, decision: impl FnOnce(&mut Fleet<Spec>, Now) -> R) -> R {
        let (result, rearm) = {
            let mut state = self.state();
            let now = self.clock.now();
            let result = decision(&mut state.fleet, now);
            let next = state.fleet.poll_timeout();
            let rearm = next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed));
            if rearm {
                state.armed = next;
            }
            (result, rearm)
        };
        if rearm {
            self.rearm.notify_one();
        }
        self.carry_out();
        result
    }

    /// When the timer should look again.
    pub fn arm(&self) -> Option<Duration> {
        let mut state = self.state();
        state.armed = state.fleet.poll_timeout();
        state.armed
    }

    /// Takes a new command, or attaches to a known one; with the meeting place of an unfinished one, which is there
    /// before anything happens to it.
    ///
    /// # Errors
    /// See [`Fleet::submit`].
    pub fn submit(
        self: &Arc<Self>,
        submit: Submit<Spec>,
        stored: Option<Record>,
        queue: Option<Queueing>,
    ) -> Result<(Submitted<Spec>, Option<Arc<Hub>>), Refusal> {
        self.decide(|fleet, now| {
            let id = submit.id.clone();
            let submitted = match queue {
                Some(queue) => fleet.enqueue(now, submit, stored, queue.expires)?,
                None => fleet.submit(now, submit, stored)?,
            };
            let fresh = submitted == Submitted::New;
            Ok((submitted, self.hub_in(fleet, &id, fresh)))
        })
    }

    /// The meeting place of an unfinished command; `None` for all others.
    pub fn hub(&self, id: &str) -> Option<Arc<Hub>> {
        self.read(|fleet| self.hub_in(fleet, id, false))
    }

    /// The same, with the agent that the command is for.
    pub fn hub_and_owner(&self, id: &str) -> Option<(Arc<Hub>, AgentId)> {
        // As one: a command that closed in between would be anybody's.
        self.read(|fleet| Some((self.hub_in(fleet, id, false)?, fleet.dispatch().agent_of(id)?)))
    }

    /// Under the lock of the state, so that no end of the command is missed.
    fn hub_in(&self, fleet: &Fleet<Spec>, id: &str, fresh: bool) -> Option<Arc<Hub>> {
        let (record, committed) = fleet.dispatch().unfinished(id)?;
        let mut hubs = self.hubs.lock().expect("no holder of this lock panics");
        let hub = hubs.entry(id.to_owned()).or_insert_with(|| {
            let view = committed.then(|| View::Record(record.clone()));
            Arc::new(Hub::new(id.to_owned(), view, fresh, record.stdin_end))
        });
        Some(hub.clone())
    }

    /// A number for a request, and its answer.
    pub fn ticket(&self) -> (Ticket, oneshot::Receiver<Result<(), String>>) {
        let (sender, receiver) = oneshot::channel();
        let mut tickets = self.tickets.lock().expect("no holder of this lock panics");
        tickets.last += 1;
        let ticket = tickets.last;
        tickets.waiting.insert(ticket, sender);
        (ticket, receiver)
    }

    pub fn drop_ticket(&self, ticket: Ticket) {
        self.tickets.lock().expect("no holder of this lock panics").waiting.remove(&ticket);
    }

    /// Notified when this agent becomes Active, or is no more.
    pub fn arrival(&self, agent: AgentId) -> Arc<Notify> {
        self.arrivals.lock().expect("no holder of this lock panics").entry(agent).or_default().clone()
    }

    /// Those who wait for this agent see again how it is.
    pub fn look_again(&self, agent: AgentId) {
        let waiting = self.arrivals.lock().expect("no holder of this lock panics").remove(&agent);
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }

    /// Reads the store, or output, for somebody: when his turn has come, and not at all if this is dropped before.
    ///
    /// # Errors
    /// What `work` returned, as an error that people can read.
    pub async fn reading<R: Send + 'static>(
        self: &Arc<Self>,
        reader: &Reader,
        lane: Lane,
        work: impl FnOnce(&Self) -> Result<R, String> + Send + 'static,
    ) -> Result<R, String> {
        let turn = reader.turn(lane).await;
        let read = move |core: &Self| {
            // Until it is done, also where nobody waits for it any more.
            let _turn = turn;
            work(core)
        };
        self.blocking(read).await
    }

    /// Runs something that reads or writes a disk where it may block. What is read for who asks is
    /// [`reading`](Self::reading).
    ///
    /// # Errors
    /// What `work` returned, as an error that people can read.
    pub async fn blocking<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<R, String> + Send + 'static,
    ) -> Result<R, String> {
        let core = self.clone();
        match tokio::task::spawn_blocking(move || work(&core)).await {
            Ok(result) => result,
            Err(error) => Err(format!("a task of the master ended early: {error}")),
        }
    }

    fn carry_out(self: &Arc<Self>) {
        loop {
            let mut effects = Vec::new();
            {
                let mut state = self.state();
                if state.carrying {
                    return;
                }
                while let Some(effect) = state.fleet.poll_effect() {
                    effects.push(effect);
                }
                if effects.is_empty() {
                    return;
                }
                state.carrying = true;
            }
            let carrying = WholeOrNothing;
            for effect in effects {
                self.carry(effect);
            }
            drop(carrying);
            self.state().carrying = false;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|_| end_at_once())
    }

    fn carry(self: &Arc<Self>, effect: Effect<Spec>) {
        match effect {
            Effect::Store { changes, token } => self.write(changes, token),
            Effect::Answer { conn, answer } => self.answer(conn, answer),
            Effect::Send { session, message } => {
                if let Some(outbox) = self.wires.session(session) {
                    outbox.push(down(message));
                }
            }
            Effect::Close { session, reason, message } => {
                log::debug!("session {} of agent {} closed: {reason}: {message}", session.epoch, hex(session));
                if let Some(outbox) = self.wires.end(session) {
                    outbox.push(rejected(reason, message));
                    outbox.close();
                }
            }
            Effect::Active { agent } => self.look_again(agent),
            Effect::Show { id, view } => self.show(&id, view),
            Effect::Done { ticket, result } => {
                let waiting = self.tickets.lock().expect("no holder of this lock panics").waiting.remove(&ticket);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(result); // who asked may be gone
                }
            }
        }
    }

    fn write(self: &Arc<Self>, changes: Vec<Change>, token: Token) {
        let lines: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Change::AddEvent(event) => Some(rows::log_line(event)),
                _ => None,
            })
            .collect();
        let newest = changes.iter().filter_map(|change| match change {
            Change::AddEvent(event) => Some(event.seq),
            _ => None,
        });
        let newest = newest.max();
        let happened = meters::happened(&changes);
        let began = self.clock.now().monotonic;
        self.meters.write_begins();
        let core = self.clone();
        let done = move |result: Result<(), String>| {
            core.meters.write_ended(core.clock.now().monotonic.saturating_sub(began), &result, &happened);
            for (level, line) in &lines {
                match &result {
                    Ok(()) => log::log!(*level, "{line}"),
                    // What went wrong has happened all the same, and is told nowhere else.
                    Err(_) if *level <= log::Level::Warn => log::log!(*level, "{line} (not on record)"),
                    // What somebody asked for has not, and he is told so.
                    Err(_) => log::debug!("not recorded: {line}"),
                }
            }
            match (&result, newest) {
                (Ok(()), Some(seq)) => {
                    core.events.send_if_modified(|newest| {
                        let grows = seq > *newest;
                        *newest = seq.max(*newest);
                        grows
                    });
                }
                (Err(error), _) => log::error!("the store failed: {error}"),
                _ => {}
            }
            core.decide(|fleet, now| fleet.stored(now, token, result));
        };
        self.store.write(changes, Box::new(done));
    }

    fn answer(&self, conn: ConnId, answer: Answer) {
        match answer {
            Answer::Registered { session, interval } => {
                if let Some(outbox) = self.wires.register(conn, session) {
                    self.meters.registered();
                    outbox.push(Kind::Registered(Registered {
                        epoch: session.epoch,
                        master_name: self.name.clone(),
                        master_version: env!("CARGO_PKG_VERSION").to_owned(),
                        interval_ms: millis(interval),
                        time_unix_ms: self.clock.now().unix_ms,
                        certificate_renew_in_ms: outbox.renew_in_ms.load(Ordering::Relaxed),
                    }));
                }
            }
            Answer::Rejected { reason, message } => {
                self.meters.rejected(reason);
                self.dismiss(conn, rejected(reason, message));
            }
            Answer::RetryLater { after, reason } => {
                self.meters.sent_away();
                if let Some(outbox) = self.wires.connection(conn) {
                    outbox.retry_later(after, reason);
                }
            }
        }
    }

    fn dismiss(&self, conn: ConnId, last: Kind) {
        if let Some(outbox) = self.wires.connection(conn) {
            outbox.push(last);
            outbox.close();
        }
    }

    fn show(&self, id: &str, view: View<Spec>) {
        let over = match &view {
            View::Record(record) => record.outcome.is_some(),
            View::Failed(_) => true,
        };
        let mut hubs = self.hubs.lock().expect("no holder of this lock panics");
        let hub = if over { hubs.remove(id) } else { hubs.get(id).cloned() };
        drop(hubs);
        if let Some(hub) = hub {
            hub.view.send_replace(Some(view));
        }
    }
}

/// A panic while this is alive ends the process.
struct WholeOrNothing;

impl Drop for WholeOrNothing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end_at_once();
        }
    }
}

/// What is half decided or half carried out cannot be gone on from: the next start goes on from what is durable.
fn end_at_once() -> ! {
    log::error!("The master has met a mistake of its own (see above) and ends: start it again");
    std::process::abort()
}

/// As the audit file has it.
fn action(kind: &str) -> &str {
    kind.trim_start_matches("audit.")
}

/// 0 where nothing changes.
fn millis(interval: Option<Duration>) -> u64 {
    interval.map_or(0, |interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX))
}

fn hex(session: SessionId) -> String {
    fleet::hex(&session.agent)
}

/// The last message of a connection that is not wanted.
pub fn rejected(reason: link::LossReason, message: String) -> Kind {
    Kind::Rejected(Rejected { reason: rejection(reason).into(), message })
}

/// The word for an agent that is refused.
pub fn rejection(reason: link::LossReason) -> Reason {
    use link::LossReason;
    match reason {
        LossReason::Unauthorized => Reason::Unauthorized,
        LossReason::DuplicateId => Reason::DuplicateId,
        LossReason::NameTaken => Reason::NameTaken,
        LossReason::UnknownAgent => Reason::UnknownAgent,
        LossReason::Superseded => Reason::Superseded,
        LossReason::HeartbeatTimeout => Reason::Deadline,
        _ => Reason::Invalid,
    }
}

fn down(message: Down<Spec>) -> Kind {
    match message {
        Down::HeartbeatAck { seq, interval } => Kind::HeartbeatAck(HeartbeatAck { seq, interval_ms: millis(interval) }),
        Down::Probe => Kind::Probe(Probe {}),
        Down::Run { id, spec } => Kind::RunCommand(RunCommand { id, spec: Some(spec) }),
        Down::Cancel { id } => Kind::CancelCommand(CancelCommand { id }),
        Down::FinishedAck { id } => Kind::FinishedAck(FinishedAck { id }),
        Down::Shutdown { reason } => Kind::Shutdown(Shutdown { reason }),
    }
}
