//! Who is who: what a `Register` leads to.

use super::Turned;
use super::{Agent, Newcomer, Registry, Rhythm, Session, deadlines::Due, hex};
use crate::{
    AgentId, AgentRecord, Answer, Change, ClosedBy, ConnId, Down, Effect, Now, Out, SessionEnd, SessionId,
    SessionRecord, Status, Told,
    effect::{Then, Whom},
};
use link::LossReason;
use std::{collections::BTreeMap, time::Duration};

/// What an agent says of itself. Clamped here, never trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    pub id: AgentId,
    pub instance: [u8; 16],
    pub spool_id: [u8; 16],
    pub highest_epoch: u64,
    pub name: String,
    pub host: String,
    pub version: String,
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub timing: Timing,
    /// Its wall clock less the master's; None where it does not say.
    pub clock_skew_ms: Option<i64>,
    /// What happened on its side, oldest first. Only the latest [`TOLD_MAX`] count.
    pub told: Vec<Told>,
    /// Its process goes over to this session on purpose, from one that it still has.
    pub renews: bool,
}

/// What one registration tells of the past at most.
pub const TOLD_MAX: usize = 16;

/// What an agent's link is set to, as it says. Zero stands for the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// 100 ms to 1 h. Default 5 s.
    pub interval: Duration,
    /// 100 ms to the interval. Default: the smaller of the interval and 5 s.
    pub timeout: Duration,
    /// 1 to 100. Default 3.
    pub max_failures: u32,
    /// How far the interval may be stretched. Never below it, at most 1 h. Default: not at all.
    pub interval_max: Duration,
}

impl Timing {
    const INTERVAL_MIN: Duration = Duration::from_millis(100);
    const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
    const DEFAULT: Duration = Duration::from_secs(5);

    /// How long the agent may be silent: interval + max_failures * timeout, 20 s by default.
    pub fn patience(self) -> Duration {
        let (interval, timeout) = self.clamped();
        interval + timeout * self.failures()
    }

    /// How long after its first heartbeat without an answer the agent gives up, less what the way may take.
    pub(super) fn gives_up_after(self) -> Duration {
        let (_, timeout) = self.clamped();
        timeout * self.failures() - timeout / 10
    }

    fn clamped(self) -> (Duration, Duration) {
        let interval = self.interval();
        let timeout = match self.timeout {
            Duration::ZERO => interval.min(Self::DEFAULT),
            timeout => timeout.clamp(Self::INTERVAL_MIN, interval),
        };
        (interval, timeout)
    }

    fn failures(self) -> u32 {
        if self.max_failures == 0 { 3 } else { self.max_failures.min(100) }
    }

    pub(super) fn interval(self) -> Duration {
        match self.interval {
            Duration::ZERO => Self::DEFAULT,
            interval => interval.clamp(Self::INTERVAL_MIN, Self::INTERVAL_MAX),
        }
    }

    pub(super) fn interval_max(self) -> Duration {
        self.interval_max.clamp(self.interval(), Self::INTERVAL_MAX)
    }
}

/// How long an old session may take to answer for its life, before a newcomer with its id takes over.
pub const PROBE_TIME: Duration = Duration::from_secs(2);

/// So long after its start a master awaits those who were connected when the one before it ended: their longest wait
/// between two attempts at its default, 60 s, the attempt itself, and their turn. Else whoever was refused their name
/// until then would have it, and their commands would be given up.
pub(super) const RETURN_TIME: Duration = Duration::from_secs(90);

/// Registrations that could not be recorded should come again after this.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// A reported epoch above this is taken for this: there is always a next one, also in a signed 64-bit column.
const EPOCH_REPORTED_MAX: u64 = 1 << 62;

const NAME_MAX: usize = 63;
/// Of versions, addresses, host names, label keys and values, bytes.
const TEXT_MAX: usize = 255;
const LABELS_MAX: usize = 64;

impl Registry {
    /// A connection asks to be a session. Answered by [`Effect::Answer`], at once or after the old session of that
    /// agent was probed; `Registered` only once it is durable.
    pub fn register<S>(&mut self, now: Now, conn: ConnId, mut register: Register, out: &mut Out<S>) {
        if let Err(message) = check(&mut register) {
            return self.refuse(now, conn, &register, LossReason::Protocol, message, out);
        }
        let Some(agent) = self.agents.get_mut(&register.id) else {
            return self.admit(now, conn, register, out);
        };
        if let Some(newcomer) = &agent.newcomer {
            if newcomer.register.instance != register.instance {
                let message = format!(
                    "another process with the agent id {} is being told apart from {:?}: only one can have it",
                    hex(&register.id),
                    newcomer.register.host
                );
                return self.refuse(now, conn, &register, LossReason::DuplicateId, message, out);
            }
            // The same newcomer on a new connection: it goes on waiting there.
            let old = newcomer.conn;
            self.connections.remove(&old);
            out.reject(old, LossReason::Superseded, "a newer connection of this agent took over".to_owned());
            self.connections.insert(conn, register.id);
            self.deadlines.push(now.monotonic + PROBE_TIME, Due::Probe { agent: register.id, newcomer: conn });
            agent.newcomer = Some(Box::new(Newcomer { conn, register }));
            return;
        }
        match &agent.session {
            Some(session) if session.instance != register.instance => {
                // Before its own registration is durable the old one can't be asked: it is, right after.
                if session.live {
                    out.send(SessionId { agent: register.id, epoch: session.epoch }, Down::Probe);
                }
                self.connections.insert(conn, register.id);
                self.deadlines.push(now.monotonic + PROBE_TIME, Due::Probe { agent: register.id, newcomer: conn });
                agent.newcomer = Some(Box::new(Newcomer { conn, register }));
            }
            _ => self.admit(now, conn, register, out),
        }
    }

    /// The agent with this id may have a session; an old one is superseded. Its name may still be another's.
    pub(super) fn admit<S>(&mut self, now: Now, conn: ConnId, register: Register, out: &mut Out<S>) {
        let mut changes = Vec::new();
        let mut replaced = None;
        if let Some(holder) = self.names.get(&register.name).copied().filter(|holder| *holder != register.id) {
            let holder = self.agents.get(&holder).expect("every name belongs to a known agent");
            if self.keeps_name(now, holder) {
                let message = name_taken(&register, holder);
                return self.refuse(now, conn, &register, LossReason::NameTaken, message, out);
            }
            changes.push(Change::DeleteAgent(holder.record.id));
            changes.push(replaced_event(now, &register, &holder.record, out));
            replaced = Some(Box::new(holder.record.clone()));
        } else if let Some(earlier) = self.agents.get(&register.id).and_then(|agent| agent.replaces.as_ref())
            && !self.agents.contains_key(&earlier.id)
        {
            // The write that forgets it is under way, and may fail where this one succeeds.
            changes.push(Change::DeleteAgent(earlier.id));
            replaced = Some(earlier.clone());
        }
        if let Some(old) = &replaced {
            self.agents.remove(&old.id);
        }
        let old = self.agents.get(&register.id).and_then(|agent| agent.session.as_ref());
        let renews = register.renews && old.is_some_and(|old| old.live && old.instance == register.instance);
        let register = Register { renews, ..register };
        let session = self.begin_session(now, conn, register, &mut changes, out);
        let agent = self.agents.get_mut(&session.agent).expect("just begun");
        if replaced.is_some() {
            agent.replaces.clone_from(&replaced);
        }
        agent.pending += 1;
        changes.push(Change::PutAgent(active(now, &agent.record)));
        let how = if renews { RENEWED } else { "" };
        changes.push(out.event(now, "agent.connected", &agent.record, how, connected(&agent.record)));
        changes.push(Change::BeginSession(SessionRecord {
            session,
            started_unix_ms: now.unix_ms,
            address: agent.record.address.clone(),
            end: None,
        }));
        out.store(changes, Then::Registered { session, conn, replaced });
    }

    fn begin_session<S>(
        &mut self,
        now: Now,
        conn: ConnId,
        mut register: Register,
        changes: &mut Vec<Change<S>>,
        out: &mut Out<S>,
    ) -> SessionId {
        let id = register.id;
        let told = std::mem::take(&mut register.told);
        let latest = told.len().saturating_sub(TOLD_MAX);
        changes.extend(told.into_iter().skip(latest).map(|told| Change::AddTold(told.clipped())));
        let agent = self.agents.entry(id).or_insert_with(|| Agent {
            record: new_record(now, &register),
            stored: false,
            session: None,
            newcomer: None,
            node: None,
            clock_skew_ms: None,
            heard_recorded_unix_ms: 0,
            deleting: Vec::new(),
            replaces: None,
            pending: 0,
        });
        agent.clock_skew_ms = register.clock_skew_ms.or(agent.clock_skew_ms);
        // It may be on a disk again that was mended: what it says next counts.
        if let Some(node) = agent.node.as_mut().filter(|_| agent.record.spool_id != register.spool_id) {
            node.in_memory = false;
        }
        if let Some(old) = agent.session.take() {
            self.connections.remove(&old.conn);
            let end = if register.renews { renewed(now) } else { superseded(now) };
            let message = "a newer session of this agent took over".to_owned();
            if old.live {
                let session = SessionId { agent: id, epoch: old.epoch };
                let reason = LossReason::Superseded;
                agent.record.status = Status::Inactive;
                agent.record.reason = reason.word().to_owned();
                agent.record.detail.clone_from(&message);
                agent.record.since_unix_ms = now.unix_ms;
                if !register.renews {
                    changes.push(out.event(now, "agent.lost", &agent.record, reason.word(), message.clone()));
                }
                changes.push(Change::EndSession(session, end));
                out.push(Effect::Close { session, reason, message });
            } else {
                out.reject(old.conn, LossReason::Superseded, message);
            }
        }
        agent.deleting.clear();
        let record = &mut agent.record;
        if record.name != register.name {
            self.names.remove(&record.name);
        }
        self.names.insert(register.name.clone(), id);
        let epoch = record.epoch.max(register.highest_epoch.min(EPOCH_REPORTED_MAX)) + 1;
        let gives_up_after = register.timing.gives_up_after();
        let rhythm = Rhythm::new(register.timing);
        record.epoch = epoch;
        record.name = register.name;
        record.host = register.host;
        record.version = register.version;
        record.address = register.address;
        record.labels = register.labels;
        record.spool_id = register.spool_id;
        agent.session = Some(Session {
            conn,
            epoch,
            instance: register.instance,
            live: false,
            rhythm,
            gives_up_after,
            progressed: now.monotonic,
            deadline: now.monotonic + rhythm.patience(),
            acked: 0,
            stalled: 0,
            answered: false,
            ready: true,
            stopping: false,
        });
        self.connections.insert(conn, id);
        SessionId { agent: id, epoch }
    }

    /// The registration is durable: the session lives, if its connection still does.
    pub(crate) fn registered<S>(&mut self, now: Now, session: SessionId, conn: ConnId, out: &mut Out<S>) -> bool {
        let stretched = self.stretched();
        let Some(agent) = self.agents.get_mut(&session.agent) else { return false };
        agent.stored = true;
        agent.replaces = None;
        agent.pending = agent.pending.saturating_sub(1);
        let Some(current) = agent.session.as_mut().filter(|current| current.conn == conn) else {
            // The connection broke meanwhile, and the store now says Active: unless a newer one is on its way,
            // that has to be taken back.
            if agent.session.is_none() {
                let detail = "the connection broke while it registered".to_owned();
                let ended = Some((session.epoch, ClosedBy::Network));
                let reason = LossReason::StreamClosed.word();
                self.set_down(now, session.agent, Status::Inactive, reason, detail, ended, out);
            } else {
                out.store(vec![Change::EndSession(session, superseded(now))], Then::Nothing);
            }
            return false;
        };
        current.live = true;
        current.progressed = now.monotonic;
        let interval = current.rhythm.begin(stretched);
        current.deadline = now.monotonic + current.rhythm.patience();
        self.deadlines.push(current.deadline, Due::Silence { agent: session.agent, epoch: session.epoch });
        let probed = agent.newcomer.is_some();
        agent.record = active(now, &agent.record);
        out.push(Effect::Answer { conn, answer: Answer::Registered { session, interval } });
        if probed {
            out.send(session, Down::Probe);
        }
        out.push(Effect::Active { agent: session.agent });
        self.compact();
        true
    }

    /// The registration could not be recorded.
    pub(crate) fn not_registered<S>(
        &mut self,
        now: Now,
        session: SessionId,
        conn: ConnId,
        error: &str,
        out: &mut Out<S>,
    ) {
        let Some(agent) = self.agents.get_mut(&session.agent) else { return };
        agent.pending = agent.pending.saturating_sub(1);
        let waits = agent.session.take_if(|current| current.conn == conn).is_some();
        let newcomer = if waits { agent.newcomer.take() } else { None };
        // Another registration that is under way may still put it on record.
        if !agent.stored && agent.session.is_none() && agent.pending == 0 {
            self.names.remove(&agent.record.name);
            self.agents.remove(&session.agent);
        }
        if !waits {
            return;
        }
        let reason = format!("the master cannot record the registration: {error}");
        if let Some(agent) = self.agents.get(&session.agent) {
            self.attempts.note_of(now, &agent.record, Turned::RetryLater, &reason);
        }
        for conn in [Some(conn), newcomer.map(|newcomer| newcomer.conn)].into_iter().flatten() {
            self.connections.remove(&conn);
            let answer = Answer::RetryLater { after: STORE_RETRY, reason: reason.clone() };
            out.push(Effect::Answer { conn, answer });
        }
    }

    /// The agent is still in the store, and its name is free again: unless somebody else has come meanwhile.
    pub(crate) fn restore(&mut self, record: AgentRecord) {
        if !self.names.contains_key(&record.name) && !self.agents.contains_key(&record.id) {
            self.names.insert(record.name.clone(), record.id);
            self.agents.insert(record.id, Agent::known(record));
        }
    }

    /// The old session has spoken: whoever claims to be it is somebody else.
    pub(super) fn refuse_newcomer<S>(&mut self, now: Now, id: AgentId, out: &mut Out<S>) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let Some(newcomer) = agent.newcomer.take() else { return };
        self.connections.remove(&newcomer.conn);
        let message = duplicate_id(&agent.record, &newcomer.register);
        self.refuse(now, newcomer.conn, &newcomer.register, LossReason::DuplicateId, message, out);
    }

    /// The old session is gone, or silent: whoever waits for its place gets it.
    pub(super) fn admit_newcomer<S>(&mut self, now: Now, id: AgentId, out: &mut Out<S>) {
        let Some(newcomer) = self.agents.get_mut(&id).and_then(|agent| agent.newcomer.take()) else { return };
        self.connections.remove(&newcomer.conn);
        self.admit(now, newcomer.conn, newcomer.register, out);
    }

    /// Refuses one that was looked at elsewhere, for what its agent has shown.
    pub(crate) fn refuse_unchecked<S>(
        &mut self,
        now: Now,
        conn: ConnId,
        mut register: Register,
        reason: LossReason,
        message: String,
        out: &mut Out<S>,
    ) {
        let _ = check(&mut register); // shortened; what else is wrong with it is not worth saying
        self.refuse(now, conn, &register, reason, message, out);
    }

    /// Tells of somebody who was not let in. An event about who has proven nothing has no id: whoever knows an agent's
    /// would fill its history.
    pub(crate) fn turned_away<S>(
        &mut self,
        now: Now,
        mut register: Register,
        turned: Turned,
        message: &str,
        tells: bool,
        out: &mut Out<S>,
    ) {
        let _ = check(&mut register); // shortened; what else is wrong with it is not worth saying
        let Register { name, address, .. } = &register;
        if tells && self.rejections.worth_an_event(now.monotonic, name, LossReason::Unauthorized) {
            let (agent_id, text) = match turned {
                Turned::NotJoined | Turned::Stranger => {
                    ([0; 16], format!("somebody at {address} who calls himself {name} asked to join: {message}"))
                }
                Turned::Rejected(_) | Turned::RetryLater => (register.id, message.to_owned()),
            };
            let whom = Whom { agent: name, agent_id, epoch: 0 };
            let event = out.event_about(now, "agent.rejected", whom, turned.word(), text);
            out.store(vec![event], Then::Nothing);
        }
        self.attempts.note(now, &register, turned, message);
    }

    /// Answers a registration with a refusal, and tells of it.
    fn refuse<S>(
        &mut self,
        now: Now,
        conn: ConnId,
        register: &Register,
        reason: LossReason,
        message: String,
        out: &mut Out<S>,
    ) {
        if self.rejections.worth_an_event(now.monotonic, &register.name, reason) {
            let whom = Whom { agent: &register.name, agent_id: register.id, epoch: 0 };
            let event = out.event_about(now, "agent.rejected", whom, reason.word(), message.clone());
            out.store(vec![event], Then::Nothing);
        }
        self.attempts.note(now, register, Turned::Rejected(reason), &message);
        out.reject(conn, reason, message);
    }

    pub(super) fn compact(&mut self) {
        let agents = &self.agents;
        self.deadlines.compact(agents.len(), |due| match due {
            Due::Silence { agent, epoch } => agents
                .get(agent)
                .and_then(|agent| agent.session.as_ref())
                .is_some_and(|session| session.epoch == *epoch),
            Due::Probe { agent, newcomer } => agents
                .get(agent)
                .and_then(|agent| agent.newcomer.as_ref())
                .is_some_and(|waiting| waiting.conn == *newcomer),
        });
    }
}

/// Whether an agent can be called so.
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(allowed)
}

/// Shortens what is too long to be kept, and says what is wrong.
pub(super) fn check(register: &mut Register) -> Result<(), String> {
    for text in [&mut register.host, &mut register.version, &mut register.address] {
        clip(text, TEXT_MAX);
    }
    let name = &register.name;
    if !is_name(name) {
        let shown = name.chars().take(NAME_MAX).collect::<String>();
        register.name = shown.escape_debug().to_string();
        return Err(format!(
            "the name {shown:?} is not 1 to {NAME_MAX} of letters, digits, '.', '_' and '-': give the agent another"
        ));
    }
    if register.labels.len() > LABELS_MAX {
        return Err(format!("{} labels, more than {LABELS_MAX}", register.labels.len()));
    }
    if let Some((key, _)) = register.labels.iter().find(|(key, value)| key.len().max(value.len()) > TEXT_MAX) {
        let shown = key.chars().take(NAME_MAX).collect::<String>();
        return Err(format!("the label {shown:?} is longer than {TEXT_MAX} bytes"));
    }
    Ok(())
}

/// Shortens to `max` bytes at most, at a character's end, and says so.
pub(crate) fn clip(text: &mut String, max: usize) {
    const MORE: char = '…';
    if text.len() <= max {
        return;
    }
    let max = max.saturating_sub(MORE.len_utf8());
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text.push(MORE);
}

fn new_record(now: Now, register: &Register) -> AgentRecord {
    AgentRecord {
        id: register.id,
        name: register.name.clone(),
        host: String::new(),
        version: String::new(),
        address: String::new(),
        labels: BTreeMap::new(),
        spool_id: register.spool_id,
        epoch: 0,
        status: Status::Inactive,
        reason: String::new(),
        detail: String::new(),
        since_unix_ms: now.unix_ms,
        last_heartbeat_unix_ms: 0,
    }
}

impl Told {
    fn clipped(mut self) -> Self {
        for text in [&mut self.reason, &mut self.detail, &mut self.master] {
            clip(text, TEXT_MAX);
        }
        self
    }
}

/// The word for a session that its agent ended for another, and for that one's beginning.
const RENEWED: &str = "renewed";

fn renewed(now: Now) -> SessionEnd {
    SessionEnd {
        unix_ms: now.unix_ms,
        reason: RENEWED.to_owned(),
        detail: "its configuration has changed, and it registered anew".to_owned(),
        closed_by: ClosedBy::Agent,
    }
}

fn superseded(now: Now) -> SessionEnd {
    SessionEnd {
        unix_ms: now.unix_ms,
        reason: LossReason::Superseded.word().to_owned(),
        detail: "a newer session of this agent took over".to_owned(),
        closed_by: ClosedBy::Master,
    }
}

fn active(now: Now, record: &AgentRecord) -> AgentRecord {
    AgentRecord {
        status: Status::Active,
        reason: String::new(),
        detail: String::new(),
        since_unix_ms: now.unix_ms,
        last_heartbeat_unix_ms: now.unix_ms,
        ..record.clone()
    }
}

fn connected(record: &AgentRecord) -> String {
    format!("{} on host {:?} at {}, version {}", record.name, record.host, record.address, record.version)
}

pub(super) fn duplicate_id(holder: &AgentRecord, claimed: &Register) -> String {
    format!(
        "the agent id {} is in use by {:?} (host {:?}, {}), and was claimed by {:?} (host {:?}, {}): \
         a copied state directory? Remove it on one of them, and that one gets an id of its own",
        hex(&holder.id),
        holder.name,
        holder.host,
        holder.address,
        claimed.name,
        claimed.host,
        claimed.address,
    )
}

pub(super) fn name_taken(register: &Register, holder: &Agent) -> String {
    let which = match &holder.session {
        Some(_) => "connected agent",
        None => "agent that was connected when the master ended, and may be on its way back,",
    };
    let holder = &holder.record;
    format!(
        "the name {:?} belongs to the {which} {} on host {:?} ({}), and was claimed by {} on host {:?} ({}): give one of \
         them another name, or stop the other one",
        register.name,
        hex(&holder.id),
        holder.host,
        holder.address,
        hex(&register.id),
        register.host,
        register.address,
    )
}

fn replaced_event<S>(now: Now, register: &Register, holder: &AgentRecord, out: &mut Out<S>) -> Change<S> {
    let message = format!(
        "the {} agent {} on host {:?} lost its name to {} on host {:?}",
        holder.status.word(),
        hex(&holder.id),
        holder.host,
        hex(&register.id),
        register.host
    );
    out.event(now, "agent.replaced", holder, "name_taken", message)
}
