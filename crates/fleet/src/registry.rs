//! The fleet in memory: by name, by id, by epoch, and when each agent must have been heard of.
//!
//! An agent has at most one session. A session is `live` once its registration is durable; Active means that a command
//! would get through.

mod attempts;
mod deadlines;
mod forecast;
mod register;
mod rejections;
mod rhythm;
mod sessions;
#[cfg(test)]
mod tests;

use crate::{
    AgentId, AgentRecord, ConnId, MASTER_RESTARTED, Now, REASON_DOWNLINK_DEAD, REASON_MASTER_RESTARTED,
    REASON_NOT_READY, SessionId, Status, pace::Stretch,
};
use attempts::Attempts;
use deadlines::Deadlines;
use register::RETURN_TIME;
use rejections::Rejections;
use rhythm::Rhythm;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    time::Duration,
};

pub use attempts::{Attempt, Turned, with_recorded};
pub use forecast::Forecast;
pub use register::{Register, Timing, is_name};
pub use sessions::{Beat, DeleteRefused, Heard};

/// What an agent last said of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    pub load_1m_milli: u32,
    pub memory_total_kib: u64,
    pub memory_available_kib: u64,
    pub disk_total_kib: u64,
    pub disk_free_kib: u64,
    pub uptime_s: u64,
    pub commands_held: u32,
    /// Its disk does not take the commands that it holds.
    pub in_memory: bool,
    /// Its wall clock less the master's, when this came in; None where it did not say.
    pub clock_skew_ms: Option<i64>,
}

/// One agent, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentView {
    pub record: AgentRecord,
    pub node: Option<NodeStatus>,
    /// Its wall clock less the master's, as it was last told; None where it never was.
    pub clock_skew_ms: Option<i64>,
    /// When it is lost unless it is heard of before, by the master's monotonic clock; of a live session.
    pub deadline: Option<Duration>,
    /// How often it beats, of a live session.
    pub interval: Option<Duration>,
}

/// The way down to an agent, while there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downlink {
    pub session: SessionId,
    pub spool_id: [u8; 16],
    /// A command would get through.
    pub active: bool,
}

#[derive(Debug, Default)]
pub struct Registry {
    agents: HashMap<AgentId, Agent>,
    names: BTreeMap<String, AgentId>,
    /// Of sessions and of newcomers.
    connections: HashMap<ConnId, AgentId>,
    deadlines: Deadlines,
    rejections: Rejections,
    attempts: Attempts,
    /// None: everybody beats as it likes.
    stretch: Option<Stretch>,
    /// The master is going: its sessions' ends are no news.
    retired: bool,
    /// Until then those who were connected when the master ended are awaited, and keep their names.
    awaits_until: Duration,
    /// They are away since this restart, so no longer than since then by the wall clock.
    awaits_since_unix_ms: u64,
}

#[derive(Debug)]
struct Agent {
    record: AgentRecord,
    /// The store has it. A new agent is shown only then.
    stored: bool,
    session: Option<Session>,
    /// Another process with this id, held while the session is probed.
    newcomer: Option<Box<Newcomer>>,
    node: Option<Box<NodeStatus>>,
    clock_skew_ms: Option<i64>,
    /// What was last written of when it was heard of, beside its record.
    heard_recorded_unix_ms: u64,
    /// Its deletions that are being stored: each may fail for itself.
    deleting: Vec<crate::Ticket>,
    /// Had the name before, and the store may still have it: until a registration is durable.
    replaces: Option<Box<AgentRecord>>,
    /// Registrations that are being stored.
    pending: u32,
}

#[derive(Debug)]
struct Session {
    conn: ConnId,
    epoch: u64,
    instance: [u8; 16],
    /// Its registration is durable.
    live: bool,
    /// Without an answer for so long the agent gives the session up.
    gives_up_after: Duration,
    /// The last beat that told of an answer: it, or none, is the first of those that went unanswered.
    progressed: Duration,
    rhythm: Rhythm,
    deadline: Duration,
    /// Highest acknowledgement that the agent has reported.
    acked: u64,
    /// Beats in a row without progress of that.
    stalled: u32,
    /// An acknowledgement was sent, so that there can be progress.
    answered: bool,
    ready: bool,
    /// An operator asked it to shut down.
    stopping: bool,
}

#[derive(Debug)]
struct Newcomer {
    conn: ConnId,
    register: Register,
}

/// From when a starting master has written down who is away, to when it has its fleet in memory, at the longest.
const START_MAX_MS: u64 = 60_000;

impl Registry {
    /// The fleet as the store knew it. Nobody is Active before it registers. Returns those that the store should forget:
    /// where writes failed in between, it may have two agents of one name, and the later one has it.
    pub fn load(&mut self, now: Now, mut records: Vec<AgentRecord>) -> Vec<AgentId> {
        self.awaits_until = now.monotonic + RETURN_TIME;
        self.awaits_since_unix_ms = now.unix_ms.saturating_sub(START_MAX_MS);
        records.sort_by_key(|record| record.since_unix_ms);
        let mut forgotten = Vec::new();
        for mut record in records {
            record.after_restart(now.unix_ms, MASTER_RESTARTED);
            if let Some(earlier) = self.names.insert(record.name.clone(), record.id) {
                self.agents.remove(&earlier);
                forgotten.push(earlier);
            }
            self.agents.insert(record.id, Agent::known(record));
        }
        forgotten
    }

    /// From now on intervals are stretched so that the fleet's heartbeats stay under a rate.
    pub fn stretch(&mut self, stretch: Stretch) {
        self.stretch = Some(stretch);
    }

    /// The interval for each agent that proposes its own, in the fleet as it is.
    fn stretched(&self) -> impl Fn(Duration) -> Duration + use<> {
        // Newcomers that are being told apart count, too: they are few.
        let (stretch, agents) = (self.stretch, self.connections.len());
        move |own| stretch.map_or(own, |stretch| stretch.interval(agents, own))
    }

    /// By name, else by id in hex.
    pub fn find(&self, name: &str) -> Option<AgentId> {
        let id = self.names.get(name).copied().or_else(|| id_from_hex(name))?;
        self.agents.get(&id).filter(|agent| agent.stored).map(|_| id)
    }

    /// Also one whose first registration is not durable yet.
    pub(crate) fn knows(&self, id: AgentId) -> bool {
        self.agents.contains_key(&id)
    }

    pub fn view(&self, id: AgentId) -> Option<AgentView> {
        self.agents.get(&id).filter(|agent| agent.stored).map(Agent::view)
    }

    /// Looks at up to `scan` agents by name, from the one after `after` on; returns those that `matches` and the name
    /// to go on after, if there are more.
    pub fn page(
        &self,
        after: Option<&str>,
        scan: usize,
        matches: impl Fn(&AgentRecord) -> bool,
    ) -> (Vec<AgentView>, Option<String>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = Vec::new();
        let mut last = None;
        for (name, id) in self.names.range::<str, _>((from, Bound::Unbounded)).take(scan) {
            last = Some(name);
            if let Some(agent) = self.agents.get(id)
                && agent.stored
                && matches(&agent.record)
            {
                rows.push(agent.view());
            }
        }
        let more = last.filter(|last| {
            self.names.range::<str, _>((Bound::Excluded(last.as_str()), Bound::Unbounded)).next().is_some()
        });
        (rows, more.cloned())
    }

    /// The live session of an agent.
    pub fn downlink(&self, id: AgentId) -> Option<Downlink> {
        let agent = self.agents.get(&id)?;
        let session = agent.session.as_ref().filter(|session| session.live)?;
        Some(Downlink {
            session: SessionId { agent: id, epoch: session.epoch },
            spool_id: agent.record.spool_id,
            active: agent.record.status == Status::Active,
        })
    }

    /// The connections of other processes with the id of this agent: who waits for its session, and who has it, or is
    /// being given it.
    pub fn connections_of_others(&self, id: AgentId, instance: &[u8; 16]) -> Vec<ConnId> {
        let Some(agent) = self.agents.get(&id) else { return Vec::new() };
        let waits = agent.newcomer.as_ref().map(|newcomer| (newcomer.register.instance, newcomer.conn));
        let has = agent.session.as_ref().map(|session| (session.instance, session.conn));
        let others = [waits, has].into_iter().flatten().filter(|(other, _)| other != instance);
        others.map(|(_, conn)| conn).collect()
    }

    /// The connection that waits for the session of this agent.
    pub fn newcomer(&self, id: AgentId) -> Option<ConnId> {
        self.agents.get(&id)?.newcomer.as_ref().map(|newcomer| newcomer.conn)
    }

    /// Is this the live session of its agent?
    pub fn is_live(&self, session: SessionId) -> bool {
        self.downlink(session.agent).is_some_and(|downlink| downlink.session == session)
    }

    /// Every agent that is on record, and what its clock is off by, in no order.
    pub fn each(&self) -> impl Iterator<Item = (&AgentRecord, Option<i64>)> {
        self.agents.values().filter(|agent| agent.stored).map(|agent| (&agent.record, agent.clock_skew_ms))
    }

    /// Who was turned away under this name, or with this id, since the master started; latest first.
    pub fn attempts(&self, name: &str, id: Option<AgentId>) -> Vec<Attempt> {
        self.attempts.of(name, id)
    }

    /// Nodes that were refused within so long and have not come in since, by the names that they gave; latest first.
    pub fn shut_out(&self, now: Duration, within: Duration) -> Vec<&str> {
        let mut refused = self.attempts.refused_since(now.saturating_sub(within));
        let mut told = HashSet::new();
        refused.retain(|attempt| !self.came_in_after(attempt) && told.insert((attempt.name.as_str(), attempt.id)));
        refused.into_iter().map(|attempt| attempt.name.as_str()).collect()
    }

    fn came_in_after(&self, attempt: &Attempt) -> bool {
        // Of who has proven nothing the name is all there is.
        let id = match attempt.id == AgentId::default() {
            true => self.names.get(&attempt.name),
            false => Some(&attempt.id),
        };
        // Whatever became of it since: nobody is lost or says goodbye who was not in.
        id.and_then(|id| self.agents.get(id)).is_some_and(|agent| agent.record.since_unix_ms >= attempt.last_unix_ms)
    }

    /// A registration was sent away for a while before it came here.
    pub fn sent_away(&mut self, now: Now, register: &Register, why: &str) {
        let mut register = register.clone();
        let _ = register::check(&mut register); // shortened; what is wrong with it is said when it comes so far
        self.attempts.note(now, &register, Turned::RetryLater, why);
    }

    /// Number of sessions, the registering ones included.
    pub fn sessions(&self) -> usize {
        self.agents.values().filter(|agent| agent.session.is_some()).count()
    }

    /// Next time at which [`timeout`](Self::timeout) may have something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadlines.next()
    }
}

impl Registry {
    /// Nobody else gets its name: it is connected, or on its way back to a master that was restarted.
    fn keeps_name(&self, now: Now, agent: &Agent) -> bool {
        let record = &agent.record;
        let awaited = record.reason == REASON_MASTER_RESTARTED && record.since_unix_ms >= self.awaits_since_unix_ms;
        agent.session.is_some() || awaited && now.monotonic < self.awaits_until
    }
}

impl Agent {
    /// As the store has it.
    fn known(record: AgentRecord) -> Self {
        Self {
            stored: true,
            session: None,
            newcomer: None,
            node: None,
            clock_skew_ms: None,
            heard_recorded_unix_ms: 0,
            deleting: Vec::new(),
            replaces: None,
            pending: 0,
            record,
        }
    }

    fn view(&self) -> AgentView {
        let live = self.session.as_ref().filter(|session| session.live);
        AgentView {
            record: self.record.clone(),
            node: self.node.as_deref().copied(),
            clock_skew_ms: self.clock_skew_ms,
            deadline: live.map(|session| session.deadline),
            interval: live.map(|session| session.rhythm.interval()),
        }
    }
}

impl Session {
    /// Its end now is the agent's verdict that nothing which it was sent has arrived. Counting its beats does not show
    /// that: without acknowledgements its kernel stops to send them.
    fn was_given_up(&self, now: Duration) -> bool {
        now >= self.progressed + self.gives_up_after
    }

    /// Why a command would not get through, though the session lives.
    fn weakness(&self) -> Option<(&'static str, &'static str)> {
        if self.stalled >= STALLED_MAX {
            return Some((REASON_DOWNLINK_DEAD, "its heartbeats arrive, but nothing that it is sent"));
        }
        if !self.ready {
            return Some((REASON_NOT_READY, "it takes no commands: it is shutting down, or cannot record them"));
        }
        None
    }
}

/// So many beats without progress of the acknowledgement, and the way down counts as dead.
const STALLED_MAX: u32 = 3;

/// An agent id in hex.
pub fn hex(id: &AgentId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` for anything but 32 hex digits.
pub fn id_from_hex(text: &str) -> Option<AgentId> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut id = [0; 16];
    for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).expect("hex digits are ASCII");
        *byte = u8::from_str_radix(digits, 16).expect("two hex digits fit a byte");
    }
    Some(id)
}
