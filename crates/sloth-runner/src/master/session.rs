//! A session: one stream that reads what the agent says and writes what it is told, without a task or a channel of its
//! own.

use super::join::Standing;
use super::{
    adoptions::not_adopted,
    core::{Core, rejected},
    ports::Spec,
    rows,
    wires::Outbox,
};
use crate::{
    access::{Caller, Credential, REVOKED, WITHDRAWN},
    listen::Shown,
    open_files,
};
use fleet::{
    Beat, ClosedBy, ConnId, Finish, Fleet, Heard, Held, HeldState, NodeStatus, Now, Register, SessionId, Timing, Told,
    ToldKind,
    gate::{Entry, Place},
};
use link::{LossReason, Outcome};
use proto::{AgentMessage, CommandFinished, Heartbeat, MasterMessage, agent_message::Kind, held_command, past_event};
use sloth_agent::commands::HELD_MAX;
use std::{
    error::Error,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

/// Of the name that somebody is refused with: one more than a name has at most.
const NAME_SHOWN: usize = 64;

/// Messages that one turn reads; then others have theirs.
const TURN_MAX: usize = 64;

/// An agent whose commands cannot be looked up comes again after this.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// At the limit of open files agents are sent away for this long at least, …
const FULL_RETRY: Duration = Duration::from_secs(10);
/// … and up to so much longer, one unlike the other.
const FULL_SPREAD_MS: u64 = 10_000;

/// The answer to one call of `Connect`. Dropping it is the end of the session.
pub struct Session {
    core: Arc<Core>,
    conn: ConnId,
    outbox: Arc<Outbox>,
    inbound: Streaming<AgentMessage>,
    remote: Option<SocketAddr>,
    /// None in plain mode.
    standing: Option<Standing>,
    asked: bool,
    /// What it asked, while it waits for its turn.
    held: Option<(Place, Box<proto::Register>)>,
    /// Comes when a list revokes its certificate; none where there are no lists.
    withdrawn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Why it ended, once that is known.
    end: Option<(LossReason, ClosedBy, String)>,
}

impl Session {
    pub fn new(
        core: Arc<Core>,
        inbound: Streaming<AgentMessage>,
        caller: Option<&Caller>,
        shown: Option<Arc<Shown>>,
    ) -> Self {
        let (conn, outbox) = core.wires.open(core.now().monotonic);
        if let Some(shown) = &shown {
            outbox.belongs_to(shown);
        }
        let standing = Standing::of(&core, caller);
        if let (Some(security), Some(record)) = (&core.security, standing.as_ref().and_then(|s| s.record.as_ref()))
            && security.authority.is_some()
        {
            outbox.renew_in_ms.store(record.renew_in_ms(security.admission.now_ms()), Ordering::Relaxed);
        }
        let remote = caller.and_then(|caller| caller.address);
        let withdrawn = match (&core.security, caller.and_then(|caller| caller.credential.clone())) {
            (Some(security), Some(Credential::Revocable(chain))) => {
                Some(Box::pin(security.acceptor.clone().revoked(chain)) as Pin<Box<_>>)
            }
            _ => None,
        };
        Self { core, conn, outbox, inbound, remote, standing, asked: false, held: None, withdrawn, end: None }
    }

    /// Handles one message. `false`: it was the last.
    fn receive(&mut self, message: AgentMessage) -> bool {
        let Some(session) = self.outbox.session() else {
            return match message.kind {
                Some(Kind::Register(register)) if !self.asked => {
                    self.asked = true;
                    self.queue_up(register)
                }
                _ => self.refuse("the first message must be one Register, and nothing else before the answer"),
            };
        };
        let core = &self.core;
        let heard = match message.kind {
            Some(Kind::Register(_)) => return self.refuse("a second Register in one session"),
            Some(Kind::Heartbeat(heartbeat)) => {
                core.decide(|fleet, now| fleet.heartbeat(now, session, beat(&heartbeat, now)))
            }
            Some(Kind::CommandAccepted(accepted)) => {
                core.decide(|fleet, now| fleet.started(now, session, &accepted.id, accepted.started_unix_ms))
            }
            Some(Kind::CommandFinished(finished)) => self.finished(session, finished),
            Some(Kind::Goodbye(goodbye)) => {
                let heard = core.decide(|fleet, now| fleet.goodbye(now, session, goodbye.reason));
                if heard == Heard::Live {
                    self.core.wires.end(session);
                    return false;
                }
                heard
            }
            Some(Kind::ProbeAnswer(_)) | None => core.decide(|fleet, now| fleet.heard(now, session)),
        };
        let reason = match heard {
            Heard::Live => return true,
            Heard::Unknown => LossReason::UnknownAgent,
            Heard::Stale => LossReason::Superseded,
        };
        self.outbox.push(rejected(reason, "this session is over".to_owned()));
        self.outbox.close();
        true
    }

    fn refuse(&self, rule: &str) -> bool {
        self.outbox.push(rejected(LossReason::Protocol, rule.to_owned()));
        self.outbox.close();
        true
    }

    /// At its turn: now, later on this connection, or on another one.
    fn queue_up(&mut self, message: proto::Register) -> bool {
        // First of all: nobody is written down as somebody else.
        if let Some(mut register) = self.claimed(&message)
            && !self.stands_for(&mut register)
        {
            return true;
        }
        if message.held.len() > HELD_MAX {
            return self.refuse(&format!("Register names more than {HELD_MAX} commands: no agent holds so many"));
        }
        let conn = self.conn;
        if self.core.wires.connections() > open_files::sessions_max() {
            let after = FULL_RETRY + Duration::from_millis(conn.0 % FULL_SPREAD_MS);
            return self.send_away(&message, after, "too many open files");
        }
        let still_waits = Duration::from_millis(message.will_wait_ms);
        match self.core.entrance.arrive(self.core.now().monotonic, conn, still_waits) {
            Entry::Now => return self.register(message),
            Entry::Held(place) => self.held = Some((place, Box::new(message))),
            Entry::Later(after) => return self.send_away(&message, after, "too many agents register at once"),
        }
        true
    }

    /// As whom it registers, and no more of it. None: as nobody.
    fn claimed(&self, message: &proto::Register) -> Option<Register> {
        Some(Register {
            id: rows::id(&message.agent_id)?,
            // One that is longer is no name, and need not be said in full.
            name: message.name.chars().take(NAME_SHOWN).collect(),
            host: message.host.clone(),
            address: address(&message.report_address, self.remote),
            ..Register::default()
        })
    }

    /// Whether its certificate, if it has to have one, is for what it asks. It is refused otherwise.
    fn stands_for(&self, register: &mut Register) -> bool {
        let Some(standing) = &self.standing else { return true };
        let holder = self.core.read(|fleet| fleet.registry().find(&register.name));
        let refused = standing.apply(register, holder).err();
        if let Some((reason, message)) = &refused {
            standing.refuse(&self.core, self.conn, register, *reason, message);
        }
        refused.is_none()
    }

    fn send_away(&self, message: &proto::Register, after: Duration, why: &str) -> bool {
        self.core.meters.sent_away();
        self.outbox.retry_later(after, why.to_owned());
        if let Some(register) = self.claimed(message) {
            self.core.decide(|fleet, now| fleet.sent_away(now, &register, why));
        }
        true
    }

    fn register(&self, message: proto::Register) -> bool {
        let ids = (rows::id(&message.agent_id), rows::id(&message.instance_id), rows::id(&message.spool_id));
        let (Some(id), Some(instance), Some(spool_id)) = ids else {
            return self.refuse("agent_id, instance_id and spool_id must be 16 bytes each");
        };
        let conn = self.conn;
        let (mut register, held) = split(message, id, instance, spool_id, self.remote, self.core.now());
        // Once more: others may have come while it waited.
        if !self.stands_for(&mut register) {
            return true;
        }
        let unknown: Vec<String> = self.core.read(|fleet| {
            let unknown = held.iter().filter(|held| !fleet.dispatch().knows(&held.id));
            unknown.map(|held| held.id.clone()).collect()
        });
        let standing = self.standing.clone();
        if unknown.is_empty() {
            enter(&self.core, standing.as_ref(), conn, register, held);
            return true;
        }
        // Commands that only the store may know: looked up first. The stream may be dropped meanwhile, so the
        // connection is asked for again.
        let (core, outbox) = (self.core.clone(), self.outbox.clone());
        tokio::task::spawn_blocking(move || {
            let mut held = match look_up(&core, held) {
                Ok(held) => held,
                Err(error) => {
                    log::error!("Cannot look up what agent {} holds: {error}", register.name);
                    return outbox.retry_later(STORE_RETRY, format!("the master cannot look up its commands: {error}"));
                }
            };
            if core.wires.connection(conn).is_some() {
                let now = core.now().monotonic;
                let left_out = core.read(|fleet| core.adoptions.choose(now, fleet, register.id, &mut held));
                if left_out > 0 {
                    let (kind, name, message) = ("command.not_adopted", &register.name, not_adopted(left_out));
                    core.decide(|fleet, now| fleet.note(now, kind, name, register.id, message));
                }
                enter(&core, standing.as_ref(), conn, register, held);
                if core.wires.connection(conn).is_none() {
                    core.decide(|fleet, now| {
                        fleet.closed(now, conn, LossReason::StreamClosed, ClosedBy::Network, gone());
                    });
                }
            }
        });
        true
    }

    fn finished(&self, session: SessionId, message: CommandFinished) -> Heard {
        let unknown = || Outcome::Interrupted("its agent told an outcome that this master does not know".to_owned());
        let outcome = message.outcome.as_ref().and_then(proto::outcome_from).unwrap_or_else(unknown);
        let finish = Finish {
            outcome,
            total_bytes: message.total_bytes,
            started_unix_ms: message.started_unix_ms,
            finished_unix_ms: message.finished_unix_ms,
        };
        let id = message.id;
        let heard = self.core.decide(|fleet, now| fleet.finished(now, session, &id, finish));
        // Output that arrives later is made durable as soon as it is complete; what is here already is, now.
        if heard == Heard::Live
            && message.total_bytes > 0
            && self.core.read(|fleet| fleet.dispatch().agent_of(&id)) == Some(session.agent)
            && let Some(hub) = self.core.hub(&id)
        {
            hub.total.send_replace(message.total_bytes);
            if hub.log().is_none_or(|log| log.received() >= message.total_bytes) {
                let core = self.core.clone();
                tokio::task::spawn_blocking(move || super::output::measure(&core, &hub));
            }
        }
        heard
    }

    fn ended(&mut self, result: Option<Status>) {
        self.end = Some(match result {
            None => {
                let detail = "the agent closed the stream without a goodbye".to_owned();
                (LossReason::StreamClosed, ClosedBy::Agent, detail)
            }
            Some(status) if was_reset(&status) => {
                (LossReason::ConnectionReset, ClosedBy::Agent, "the agent's side reset the connection".to_owned())
            }
            Some(status) => {
                let detail = format!("the connection broke: {}", status.message());
                (LossReason::StreamClosed, ClosedBy::Network, detail)
            }
        });
    }
}

impl Stream for Session {
    type Item = Result<MasterMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.withdrawn.as_mut().is_some_and(|withdrawn| withdrawn.as_mut().poll(context).is_ready()) {
            self.withdrawn = None;
            let (core, conn) = (self.core.clone(), self.conn);
            self.core.decide(|fleet, now| shut_out(&core, fleet, now, conn, WITHDRAWN, WITHDRAWN));
        }
        for _ in 0..TURN_MAX {
            if let Poll::Ready(message) = self.outbox.poll_next(context) {
                return Poll::Ready(message.map(Ok));
            }
            if self.held.is_some() && self.outbox.is_let_in() {
                let (_, message) = self.held.take().expect("it was just there");
                self.register(*message);
                continue;
            }
            match Pin::new(&mut self.inbound).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => {
                    if !self.receive(message) {
                        return Poll::Ready(None);
                    }
                }
                Poll::Ready(Some(Err(status))) => {
                    self.ended(Some(status));
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => {
                    self.ended(None);
                    return Poll::Ready(None);
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let unknown = || (LossReason::ConnectionReset, ClosedBy::Network, gone());
        let (reason, closed_by, detail) = self.end.take().unwrap_or_else(unknown);
        if let Some((place, _)) = self.held.take() {
            self.core.entrance.leave(place);
        }
        self.core.wires.drop_connection(self.conn);
        let conn = self.conn;
        self.core.decide(|fleet, now| fleet.closed(now, conn, reason, closed_by, detail));
    }
}

/// Registers the agent, unless it was deleted while it waited.
pub(super) fn enter(
    core: &Arc<Core>,
    standing: Option<&Standing>,
    conn: ConnId,
    register: Register,
    held: Vec<Held<Spec>>,
) {
    let refused = core.decide(|fleet, now| {
        // A deletion refuses its certificates before it ends its session: no registration comes between.
        let revoked = standing.filter(|standing| standing.is_revoked(core));
        if let Some(standing) = revoked {
            return Some((standing, register));
        }
        if let Some(standing) = standing {
            standing.supersede(core, &register.name);
            // Whoever joined in its place is out at once, and not only when he comes again.
            for theirs in fleet.registry().connections_of_others(standing.agent_id, &register.instance) {
                if core.wires.connection(theirs).is_some_and(|outbox| standing.is_out(core, outbox.certificate())) {
                    shut_out(core, fleet, now, theirs, REVOKED, "somebody has joined again with its id");
                }
            }
            if let Some(outbox) = core.wires.connection(conn) {
                outbox.comes_with(standing.fingerprint);
            }
        }
        fleet.register(now, conn, register, held);
        None
    });
    if let Some((standing, register)) = refused {
        standing.refuse(core, conn, &register, LossReason::Unauthorized, REVOKED);
    }
}

/// Ends a connection whose certificate is good no more, with its session, if it has one: `told` is what its agent hears,
/// and `why` what stands on record.
pub(super) fn shut_out(core: &Core, fleet: &mut Fleet<Spec>, now: Now, conn: ConnId, told: &str, why: &str) {
    let Some(outbox) = core.wires.connection(conn) else { return };
    if let Some(session) = outbox.session() {
        core.wires.end(session);
    }
    outbox.push(rejected(LossReason::Unauthorized, told.to_owned()));
    outbox.close();
    fleet.closed(now, conn, LossReason::Unauthorized, ClosedBy::Master, why.to_owned());
}

/// Where it says that it is, or else from where it came.
fn address(reported: &str, remote: Option<SocketAddr>) -> String {
    match remote {
        Some(remote) if reported.is_empty() => remote.ip().to_string(),
        _ => reported.to_owned(),
    }
}

fn gone() -> String {
    "the connection broke".to_owned()
}

fn was_reset(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::ConnectionReset;
        }
        source = error.source();
    }
    false
}

/// Which of them the store has as finished: taken for unknown, such a command would get a second outcome.
fn look_up(core: &Core, held: Vec<Held<Spec>>) -> Result<Vec<Held<Spec>>, String> {
    let look = |mut held: Held<Spec>| {
        let record = core.store.command(&held.id)?;
        held.finished_here = record.is_some_and(|record| record.state == fleet::CommandState::Finished);
        // Of many commands an agent tells only of some what they run. Their outcomes are worth as much.
        if !held.finished_here {
            held.spec.get_or_insert_default();
        }
        Ok(held)
    };
    held.into_iter().map(look).collect()
}

fn beat(message: &Heartbeat, now: Now) -> Beat {
    let node = message.status.map(|status| NodeStatus {
        load_1m_milli: status.load_1m_milli,
        memory_total_kib: status.memory_total_kib,
        memory_available_kib: status.memory_available_kib,
        disk_total_kib: status.disk_total_kib,
        disk_free_kib: status.disk_free_kib,
        uptime_s: status.uptime_s,
        commands_held: status.commands_held,
        in_memory: status.in_memory,
        clock_skew_ms: skew(status.time_unix_ms, now),
    });
    Beat { seq: message.seq, last_ack: message.last_ack, ready: message.ready, node }
}

/// The agent's wall clock less ours, the way here included. None where it was not told.
fn skew(time_unix_ms: u64, now: Now) -> Option<i64> {
    let difference = i128::from(time_unix_ms) - i128::from(now.unix_ms);
    (time_unix_ms > 0).then(|| i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX }))
}

/// None of a kind that is not known here.
fn told(past: proto::PastEvent, agent: fleet::AgentId, now: Now) -> Option<Told> {
    let kind = match past.kind() {
        past_event::Kind::Unspecified => return None,
        past_event::Kind::Session => ToldKind::Session,
        past_event::Kind::Attempts => ToldKind::Attempts,
        past_event::Kind::Start => ToldKind::Start,
    };
    Some(Told {
        agent,
        unix_ms: now.unix_ms.saturating_sub(past.ago_ms),
        kind,
        reason: past.reason,
        detail: past.detail,
        duration_ms: past.duration_ms,
        attempts: past.attempts,
        master: past.master,
        epoch: past.epoch,
    })
}

pub(super) fn split(
    message: proto::Register,
    id: [u8; 16],
    instance: [u8; 16],
    spool_id: [u8; 16],
    remote: Option<SocketAddr>,
    now: Now,
) -> (Register, Vec<Held<Spec>>) {
    let held = message.held.into_iter().map(|held| Held {
        state: match held.state() {
            held_command::State::Accepted => HeldState::Accepted,
            held_command::State::Running => HeldState::Running,
            held_command::State::Finished => HeldState::Finished,
        },
        id: held.id,
        started_unix_ms: held.started_unix_ms,
        spec: held.spec,
        finished_here: false,
    });
    let register = Register {
        id,
        instance,
        spool_id,
        highest_epoch: message.highest_epoch,
        name: message.name,
        host: message.host,
        version: message.version,
        address: address(&message.report_address, remote),
        labels: message.labels.into_iter().collect(),
        timing: Timing {
            interval: Duration::from_millis(message.interval_ms),
            timeout: Duration::from_millis(message.timeout_ms),
            max_failures: message.max_failures,
            interval_max: Duration::from_millis(message.max_interval_ms),
        },
        clock_skew_ms: skew(message.time_unix_ms, now),
        told: message.past.into_iter().filter_map(|past| told(past, id, now)).collect(),
        renews: message.renews,
    };
    (register, held.collect())
}
