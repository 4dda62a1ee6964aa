//! Random histories of a small fleet, with agents that crash, lose their spool, are copied and deleted, a store that
//! fails, and a master that restarts. A failure prints its seed.

use crate::{testing::*, *};
use link::{LossReason, Outcome};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What the test knows, independently of the code under test.
#[derive(Default)]
struct Model {
    /// The open connections and who they registered as.
    connections: BTreeMap<u64, u8>,
    sessions: HashMap<u64, SessionId>,
    /// Last sign of life of a session.
    heard: HashMap<SessionId, Duration>,
    epochs: HashMap<AgentId, u64>,
    /// (spool, command) → in which state the agent holds it.
    spools: HashMap<u8, BTreeMap<String, HeldState>>,
    spool_ids: HashMap<u8, u8>,
    /// Commands that an agent's spool ever accepted.
    started: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    outcomes: HashMap<String, Outcome>,
    /// Whose output a restarted master has not looked at yet.
    unmeasured: Vec<String>,
    commands: u64,
    /// Outcomes that say so.
    never_ran: u64,
}

struct History {
    bench: Bench,
    model: Model,
    rng: Rng,
    next_conn: u64,
}

const AGENTS: u64 = 4;

impl History {
    fn new(seed: u64) -> Self {
        Self { bench: Bench::new(), model: Model::default(), rng: Rng(seed), next_conn: 1 }
    }

    fn agent(&mut self) -> u8 {
        self.rng.below(AGENTS) as u8 + 1
    }

    fn any_session(&mut self) -> Option<(u64, SessionId)> {
        let sessions: Vec<_> = self.model.sessions.iter().map(|(conn, session)| (*conn, *session)).collect();
        let n = sessions.len() as u64;
        (n > 0).then(|| {
            let mut sessions = sessions;
            sessions.sort();
            sessions[self.rng.below(n) as usize]
        })
    }

    fn step(&mut self) {
        let now = self.bench.now;
        self.measure_one();
        match self.rng.below(13) {
            0 | 1 => self.connect(),
            2 => {
                if let Some((conn, _)) = self.any_session() {
                    self.disconnect(conn);
                }
            }
            3 | 4 => {
                if let Some((_, session)) = self.any_session() {
                    let live = self.bench.fleet.registry().is_live(session);
                    let beat = Beat { seq: 1, last_ack: self.rng.below(3), ready: self.rng.below(8) > 0, node: None };
                    let heard = self.bench.fleet.heartbeat(now, session, beat);
                    assert_eq!(heard == Heard::Live, live);
                    if live {
                        self.model.heard.insert(session, now.monotonic);
                    }
                }
            }
            5 => self.submit(),
            6 | 7 => self.finish_one(),
            8 => {
                let ms = self.rng.below(6_000);
                self.bench.advance(Duration::from_millis(ms));
                self.bench.fleet.timeout(self.bench.now);
            }
            9 => {
                if self.model.commands > 0 {
                    let n = self.rng.below(self.model.commands);
                    self.bench.fleet.cancel(&format!("c{n}"));
                }
            }
            10 => {
                let n = self.agent();
                let force = self.rng.below(2) == 0;
                if self.rng.below(4) == 0 {
                    let _ = self.bench.fleet.delete(now, id(n), force, 1);
                }
            }
            11 => {
                if self.rng.below(10) == 0 {
                    self.restart_master();
                }
            }
            _ => {
                let result = if self.rng.below(10) == 0 { Err("disk full".to_owned()) } else { Ok(()) };
                self.answer_writes(1, result);
            }
        }
        if self.rng.below(3) > 0 {
            self.answer_writes(3, Ok(()));
        }
        self.carry_out();
        self.check();
    }

    fn connect(&mut self) {
        let n = self.agent();
        let conn = self.next_conn;
        self.next_conn += 1;
        if self.rng.below(10) == 0 {
            self.model.spools.remove(&n); // the agent lost its disk
            let spool = self.model.spool_ids.entry(n).or_insert(n);
            *spool = spool.wrapping_add(50);
        }
        let spool = *self.model.spool_ids.entry(n).or_insert(n);
        let name = if self.rng.below(6) == 0 { "shared".to_owned() } else { format!("agent{n}") };
        let instance = self.rng.below(2) as u8;
        let held = self.model.spools.entry(n).or_default().iter();
        let held = held.map(|(id, state)| Held {
            id: id.clone(),
            state: *state,
            started_unix_ms: 0,
            spec: Some(7),
            finished_here: self.model.outcomes.contains_key(id),
        });
        let held = held.collect();
        let highest_epoch = self.model.epochs.get(&id(n)).copied().unwrap_or(0);
        let register = Register { spool_id: [spool; 16], highest_epoch, ..register(n, instance, &name) };
        self.model.connections.insert(conn, n);
        self.bench.fleet.register(self.bench.now, ConnId(conn), register, held);
    }

    fn disconnect(&mut self, conn: u64) {
        self.model.connections.remove(&conn);
        self.model.sessions.remove(&conn);
        self.bench.fleet.closed(
            self.bench.now,
            ConnId(conn),
            LossReason::StreamClosed,
            crate::ClosedBy::Agent,
            String::new(),
        );
    }

    fn submit(&mut self) {
        let id = format!("c{}", self.model.commands);
        let agent = format!("agent{}", self.agent());
        let submit = Submit { id, agent, spec: 7 };
        let now = self.bench.now;
        let submitted = match self.rng.below(3) {
            0 => self.bench.fleet.submit(now, submit, None),
            1 => self.bench.fleet.enqueue(now, submit, None, None),
            _ => {
                let expires = Duration::from_millis(self.rng.below(10_000));
                self.bench.fleet.enqueue(now, submit, None, Some(expires))
            }
        };
        if submitted.is_ok() {
            self.model.commands += 1;
        }
    }

    /// An agent with a session moves one of its commands on, and tells.
    fn finish_one(&mut self) {
        let Some((_, session)) = self.any_session() else { return };
        if !self.bench.fleet.registry().is_live(session) {
            return;
        }
        let n = session.agent[0];
        let Some((id, state)) = self.model.spools.get_mut(&n).and_then(|spool| spool.iter_mut().next()) else { return };
        let id = id.clone();
        let now = self.bench.now;
        let heard = if *state == HeldState::Accepted {
            *state = HeldState::Running;
            self.bench.fleet.accepted(now, session, &id)
        } else {
            *state = HeldState::Finished;
            let finish =
                Finish { outcome: Outcome::Exited(0), total_bytes: 10, started_unix_ms: 1, finished_unix_ms: 2 };
            self.bench.fleet.durable(now, &id, 10, vec![]);
            self.bench.fleet.finished(now, session, &id, finish)
        };
        assert_eq!(heard, Heard::Live);
        self.model.heard.insert(session, now.monotonic);
    }

    /// What was durable is all that is left.
    fn restart_master(&mut self) {
        let mut agents = BTreeMap::new();
        let mut commands = BTreeMap::new();
        let mut seq = 0;
        for change in &self.bench.durable {
            match change {
                Change::PutAgent(record) => drop(agents.insert(record.id, record.clone())),
                Change::DeleteAgent(id) => drop(agents.remove(id)),
                Change::PutCommand(record) => drop(commands.insert(record.id.clone(), record.clone())),
                Change::AddEvent(event) => seq = event.seq,
                Change::PutHeard(_)
                | Change::PutRun(_)
                | Change::PutMark { .. }
                | Change::AddTold(_)
                | Change::BeginSession(_)
                | Change::EndSession(..)
                | Change::EndSessions(_) => {}
            }
        }
        let names: BTreeSet<_> = agents.values().map(|record| &record.name).collect();
        assert_eq!(names.len(), agents.len(), "two agents of one name in the store");
        commands.retain(|_, record| record.state != CommandState::Finished);
        self.model.unmeasured = commands.keys().cloned().collect();
        let (agents, commands) = (agents.into_values().collect(), commands.into_values().collect());
        self.bench.fleet = Fleet::new(self.bench.now, agents, commands, seq + 1);
        self.bench.writes.clear();
        self.model.connections.clear();
        self.model.sessions.clear();
    }

    fn measure_one(&mut self) {
        if let Some(id) = self.model.unmeasured.pop() {
            self.bench.fleet.durable(self.bench.now, &id, 0, vec![]);
        }
    }

    fn answer_writes(&mut self, n: usize, result: Result<(), String>) {
        self.carry_out();
        for _ in 0..n {
            let before = self.bench.durable.len();
            self.bench.answer_write(result.clone());
            for change in &self.bench.durable[before..] {
                if let Change::PutCommand(record) = change {
                    let ended = self.model.outcomes.get(&record.id);
                    assert!(ended.is_none(), "{} was recorded again after its end: {record:?}", record.id);
                    if let Some(outcome) = &record.outcome {
                        if matches!(outcome, Outcome::Expired | Outcome::Refused(_)) {
                            assert!(!self.model.started.contains(&record.id), "{} ran: {outcome:?}", record.id);
                            self.model.never_ran += 1;
                        }
                        self.model.outcomes.insert(record.id.clone(), outcome.clone());
                    }
                }
            }
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        for effect in self.bench.effects() {
            match effect {
                Effect::Answer { conn, answer: Answer::Registered { session, .. } } => {
                    assert!(self.model.connections.contains_key(&conn.0), "a closed connection was registered");
                    let recorded = |change: &Change<u32>| matches!(change, Change::PutAgent(r) if r.id == session.agent && r.epoch == session.epoch);
                    assert!(self.bench.durable.iter().any(recorded), "registered before it was durable");
                    let last = self.model.epochs.insert(session.agent, session.epoch);
                    assert!(last.is_none_or(|last| last < session.epoch), "an epoch was used again");
                    self.model.sessions.insert(conn.0, session);
                    self.model.heard.insert(session, self.bench.now.monotonic);
                }
                Effect::Answer { conn, .. } => {
                    self.model.connections.remove(&conn.0);
                    self.bench.fleet.closed(
                        self.bench.now,
                        conn,
                        LossReason::StreamClosed,
                        crate::ClosedBy::Agent,
                        String::new(),
                    );
                }
                Effect::Close { session, .. } => {
                    let conn = self.model.sessions.iter().find(|(_, s)| **s == session).map(|(conn, _)| *conn);
                    if let Some(conn) = conn {
                        self.disconnect(conn);
                    }
                }
                Effect::Send { session, message } => self.receive(session, message),
                Effect::Show { id, view: View::Record(record) } => {
                    assert_eq!(record.outcome.is_some(), self.model.outcomes.contains_key(&id), "{id}");
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self, session: SessionId, message: Down<u32>) {
        if !self.model.sessions.values().any(|s| *s == session) {
            return;
        }
        let n = session.agent[0];
        // Who dials anew has given up its session, and takes nothing from it.
        let given_up = self.model.connections.iter().any(|(conn, agent)| {
            *agent == n && self.model.sessions.iter().any(|(of, open)| *open == session && of < conn)
        });
        let lost = self.rng.below(5) == 0 || given_up;
        match message {
            Down::Run { id, .. } => {
                let recorded = |change: &Change<u32>| matches!(change, Change::PutCommand(r) if r.id == id);
                assert!(self.bench.durable.iter().any(recorded), "sent before it was durable");
                assert!(!self.model.outcomes.contains_key(&id), "{id} was sent after its end");
                if !lost {
                    // The agent itself attaches a repeated id; in its spool it is there only once.
                    let spool = self.model.spools.entry(n).or_default();
                    spool.entry(id).or_insert_with_key(|id| {
                        assert!(self.model.started.insert(id.clone()), "{id} started twice");
                        HeldState::Accepted
                    });
                }
            }
            Down::FinishedAck { id } => {
                assert!(self.model.outcomes.contains_key(&id), "{id} was acknowledged before it was durable");
                self.model.spools.entry(n).or_default().remove(&id);
                self.model.acknowledged.insert(id);
            }
            _ => {}
        }
    }

    fn check(&self) {
        let registry = self.bench.fleet.registry();
        for n in 1..=AGENTS as u8 {
            let Some(view) = registry.view(id(n)) else { continue };
            let link = registry.downlink(id(n));
            if view.record.status == Status::Active {
                let link = link.expect("Active without a session");
                let silent = self.bench.now.monotonic - self.model.heard[&link.session];
                assert!(silent < Duration::from_secs(20) + Duration::from_secs(6), "Active after {silent:?}");
            }
            assert_eq!(registry.find(&view.record.name), Some(id(n)), "the name leads elsewhere");
        }
    }

    /// With faults over, everything that was recorded gets its outcome.
    fn end_well(&mut self) {
        self.answer_writes(10_000, Ok(()));
        for conn in self.model.connections.keys().copied().collect::<Vec<_>>() {
            self.disconnect(conn);
        }
        self.bench.advance(Duration::from_secs(30));
        self.bench.fleet.timeout(self.bench.now);
        self.answer_writes(100, Ok(()));
        for round in 0..40 {
            for n in 1..=AGENTS as u8 {
                let live = self.model.sessions.values().any(|session| session.agent == id(n));
                if !live {
                    let conn = self.next_conn;
                    self.next_conn += 1;
                    let held = self.model.spools.entry(n).or_default().iter();
                    let held = held.map(|(id, state)| Held {
                        id: id.clone(),
                        state: *state,
                        started_unix_ms: 0,
                        spec: Some(7),
                        finished_here: self.model.outcomes.contains_key(id),
                    });
                    let held = held.collect();
                    let spool = *self.model.spool_ids.entry(n).or_insert(n);
                    let highest_epoch = self.model.epochs.get(&id(n)).copied().unwrap_or(0);
                    let register =
                        Register { spool_id: [spool; 16], highest_epoch, ..register(n, 0, &format!("agent{n}")) };
                    self.model.connections.insert(conn, n);
                    self.bench.fleet.register(self.bench.now, ConnId(conn), register, held);
                }
                self.answer_writes(20, Ok(()));
            }
            for _ in 0..60 {
                self.measure_one();
                self.finish_one();
                self.answer_writes(5, Ok(()));
            }
            if round % 8 == 7 {
                // What was lost on the way down is found in the next session.
                for conn in self.model.sessions.keys().copied().collect::<Vec<_>>() {
                    self.disconnect(conn);
                }
                self.answer_writes(20, Ok(()));
            }
        }
        assert!(self.bench.fleet.dispatch().is_empty(), "unfinished: {:?}", self.bench.fleet.dispatch());
        for id in &self.model.started {
            assert!(self.model.outcomes.contains_key(id), "{id} has no outcome");
        }
    }
}

#[test]
fn random_histories_keep_the_promises() {
    let mut never_ran = 0;
    for seed in 1..=300_u64 {
        let guard = PrintSeed(seed);
        let mut history = History::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..400 {
            history.step();
        }
        history.end_well();
        assert!(history.model.commands > 0);
        never_ran += history.model.never_ran;
        drop(guard);
    }
    assert!(never_ran > 100, "the histories hardly ever come to a queue that expires: {never_ran}");
}

struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}
