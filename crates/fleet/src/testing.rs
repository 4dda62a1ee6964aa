//! A fleet with a store that answers when the test says so.

use crate::*;
use std::{collections::VecDeque, time::Duration};

pub(crate) struct Bench {
    pub fleet: Fleet<u32>,
    pub now: Now,
    /// Writes that are not answered yet.
    pub writes: VecDeque<(Vec<Change<u32>>, Token)>,
    /// What was written and answered with success.
    pub durable: Vec<Change<u32>>,
}

pub(crate) fn id(n: u8) -> AgentId {
    [n; 16]
}

pub(crate) fn session(n: u8, epoch: u64) -> SessionId {
    SessionId { agent: id(n), epoch }
}

pub(crate) fn register(n: u8, instance: u8, name: &str) -> Register {
    Register {
        id: id(n),
        instance: [instance; 16],
        spool_id: [n; 16],
        name: name.to_owned(),
        host: format!("host{n}"),
        ..Register::default()
    }
}

impl Bench {
    pub fn new() -> Self {
        let now = Now { monotonic: Duration::from_secs(1_000), unix_ms: 1_000_000 };
        let fleet = Fleet::new(now, Vec::new(), Vec::new(), 1);
        Self { fleet, now, writes: VecDeque::new(), durable: Vec::new() }
    }

    pub fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.unix_ms += by.as_millis() as u64;
    }

    /// Effects up to now; writes are kept back.
    pub fn effects(&mut self) -> Vec<Effect<u32>> {
        let mut effects = Vec::new();
        while let Some(effect) = self.fleet.poll_effect() {
            match effect {
                Effect::Store { changes, token } => self.writes.push_back((changes, token)),
                other => effects.push(other),
            }
        }
        effects
    }

    /// Effects until no write is left, all of them successful.
    pub fn settle(&mut self) -> Vec<Effect<u32>> {
        let mut effects = self.effects();
        while self.answer_write(Ok(())) {
            effects.extend(self.effects());
        }
        effects
    }

    pub fn answer_write(&mut self, result: Result<(), String>) -> bool {
        let Some((changes, token)) = self.writes.pop_front() else { return false };
        if result.is_ok() {
            self.durable.extend(changes);
        }
        self.fleet.stored(self.now, token, result);
        true
    }

    pub fn register(&mut self, conn: u64, register: Register) -> Vec<Effect<u32>> {
        self.fleet.register(self.now, ConnId(conn), register, Vec::new());
        self.settle()
    }

    pub fn register_holding(&mut self, conn: u64, register: Register, held: Vec<Held<u32>>) -> Vec<Effect<u32>> {
        self.fleet.register(self.now, ConnId(conn), register, held);
        self.settle()
    }

    pub fn beat(&mut self, session: SessionId, seq: u64, last_ack: u64) -> Heard {
        self.fleet.heartbeat(self.now, session, Beat { seq, last_ack, ready: true, node: None })
    }

    pub fn close(&mut self, conn: u64) -> Vec<Effect<u32>> {
        self.fleet.closed(
            self.now,
            ConnId(conn),
            link::LossReason::StreamClosed,
            crate::ClosedBy::Agent,
            "closed".to_owned(),
        );
        self.settle()
    }

    pub fn timeout(&mut self) -> Vec<Effect<u32>> {
        self.fleet.timeout(self.now);
        self.settle()
    }

    pub fn status(&self, n: u8) -> (Status, String) {
        let record = self.fleet.registry().view(id(n)).expect("a known agent").record;
        (record.status, record.reason)
    }

    pub fn events(&self) -> Vec<(String, String)> {
        let event = |change: &Change<u32>| match change {
            Change::AddEvent(event) => Some((event.kind.clone(), event.reason.clone())),
            _ => None,
        };
        self.durable.iter().filter_map(event).collect()
    }

    pub fn last_event(&self) -> (String, String) {
        self.events().pop().expect("an event")
    }
}

pub(crate) fn registered(conn: u64, n: u8, epoch: u64) -> Effect<u32> {
    Effect::Answer { conn: ConnId(conn), answer: Answer::Registered { session: session(n, epoch), interval: None } }
}

/// The reason and message with which a connection was rejected.
pub(crate) fn rejection(effects: &[Effect<u32>], conn: u64) -> Option<(link::LossReason, String)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer { conn: c, answer: Answer::Rejected { reason, message } } if *c == ConnId(conn) => {
            Some((*reason, message.clone()))
        }
        _ => None,
    })
}
