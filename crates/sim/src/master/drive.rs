//! The master's driver: carries out what registry and dispatch decide, and tells them what happened.

use super::{Process, Store, Wire};
use crate::{
    Spec,
    net::{Down, Lane, Packet, Up, Way},
    world::{Event, UNIX_MS, World},
};
use fleet::{Answer, Beat, Change, CommandState, ConnId, Effect, Finish, Fleet, Heard, Held, Now, Register, SessionId};
use link::LossReason;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// After a pause sockets are read for so long before deadlines are judged.
const READ_FIRST: Duration = Duration::from_millis(100);

/// The last word of a session that the master ends takes up to so long.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What becomes of the store between two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    /// Put back as it was at the last backup.
    Restored,
    Lost,
}

impl World {
    pub fn start_master(&mut self) {
        if self.master.process.is_some() {
            return;
        }
        self.master.run += 1;
        self.master.powered = true;
        let (agents, commands, next_event) = self.master.store.load();
        let unmeasured: Vec<String> = commands.iter().map(|record| record.id.clone()).collect();
        let now = self.fleet_now();
        self.note(|| format!("master: starts with {} agents, {} commands", agents.len(), unmeasured.len()));
        self.master.process = Some(Process {
            fleet: Fleet::new(now, agents, commands, next_event),
            wires: BTreeMap::new(),
            sessions: BTreeMap::new(),
            writes: VecDeque::new(),
            armed: None,
        });
        self.check.master_started();
        let run = self.master.run;
        for id in unmeasured {
            let wait = self.random.between(Duration::from_millis(1), Duration::from_secs(3));
            self.after(wait, Event::Measure { run, id });
        }
        self.decide(|_, _| ());
    }

    /// The process dies: of the writes under way some are done. `power`: with its machine.
    pub fn kill_master(&mut self, power: bool, fate: Fate) {
        let Some(process) = self.master.process.take() else { return };
        self.note(|| format!("master: dies (power: {power}, store: {fate:?})"));
        self.master.frozen_until = Duration::ZERO;
        self.master.powered = !power;
        let done = self.random.index(process.writes.len() + 1);
        for (changes, _) in process.writes.into_iter().take(done) {
            self.record(changes);
        }
        let torn = self.random.draw();
        for log in self.master.store.logs.values_mut() {
            log.received -= if power { torn % (log.received - log.durable + 1) } else { 0 };
            log.durable = log.received;
        }
        match fate {
            Fate::Kept => {}
            Fate::Restored => {
                if let Some(backup) = self.master.backup.clone() {
                    self.check.rolled_back(&backup);
                    self.master.store = backup;
                }
            }
            Fate::Lost => {
                self.master.store = Store::default();
                self.master.backup = None;
                self.check.rolled_back(&Store::default());
            }
        }
        let open: Vec<u64> = self.conns.iter().filter(|(_, conn)| conn.master_open).map(|(id, _)| *id).collect();
        for conn in open {
            self.cut_off_master(conn, !power);
        }
    }

    fn cut_off_master(&mut self, id: u64, tell: bool) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::take(&mut conn.master_open) {
            conn.forget(Way::Down);
            if tell {
                self.reset(id, Way::Down);
            }
        }
    }

    pub fn fleet_now(&self) -> Now {
        let unix_ms = (UNIX_MS + self.now.as_millis() as u64).saturating_add_signed(self.master.wall_offset_ms);
        Now { monotonic: self.now, unix_ms }
    }

    /// Lets the pure half decide, then carries out what it decided.
    pub fn decide<R>(&mut self, decision: impl FnOnce(&mut Fleet<Spec>, Now) -> R) -> Option<R> {
        let now = self.fleet_now();
        let process = self.master.process.as_mut()?;
        let result = decision(&mut process.fleet, now);
        while let Some(effect) = self.master.process.as_mut().and_then(|process| process.fleet.poll_effect()) {
            self.carry(effect);
        }
        self.arm_master();
        Some(result)
    }

    fn arm_master(&mut self) {
        let run = self.master.run;
        let Some(process) = &mut self.master.process else { return };
        let Some(due) = process.fleet.poll_timeout() else { return };
        if process.armed.is_none_or(|armed| due < armed) {
            process.armed = Some(due);
            self.at(due, Event::MasterTimer { run });
        }
    }

    pub fn master_timer(&mut self, run: u64) {
        let now = self.now;
        let frozen_until = self.master.frozen_until;
        let Some(process) = self.master.process.as_mut().filter(|_| self.master.run == run) else { return };
        if process.armed.is_none_or(|armed| armed > now) {
            return;
        }
        let read_first = frozen_until.saturating_add(READ_FIRST);
        if frozen_until > Duration::ZERO && now < read_first {
            process.armed = Some(read_first);
            return self.at(read_first, Event::MasterTimer { run });
        }
        process.armed = None;
        self.decide(|fleet, now| fleet.timeout(now));
    }

    fn carry(&mut self, effect: Effect<Spec>) {
        self.note(|| format!("master: {effect:?}"));
        match effect {
            Effect::Store { changes, token } => {
                let (run, wait) = (self.master.run, self.master.write_time);
                let Some(process) = &mut self.master.process else { return };
                process.writes.push_back((changes, token));
                if process.writes.len() == 1 {
                    self.after(wait, Event::MasterDisk { run });
                }
            }
            Effect::Answer { conn, answer } => self.answer(conn.0, answer),
            Effect::Send { session, message } => {
                if let fleet::Down::Run { id, .. } = &message
                    && let Err(what) = self.check.sent(id, &self.master.store)
                {
                    self.fail(what);
                }
                let conn = self.master.process.as_ref().and_then(|process| process.sessions.get(&session)).copied();
                if let Some(conn) = conn {
                    self.send(conn, Way::Down, Lane::Session, Packet::Down(Down::Fleet(message)));
                }
            }
            Effect::Close { session, reason, .. } => {
                if let Err(what) = self.check.closes(session, reason, self.now) {
                    self.fail(what);
                }
                let ended = self.master.process.as_mut().and_then(|process| process.sessions.remove(&session));
                if let Some(conn) = ended {
                    self.dismiss(conn, Down::Rejected { reason });
                }
            }
            Effect::Active { .. } | Effect::Done { .. } => {}
            Effect::Show { id, view } => {
                if let Err(what) = self.check.shown(&id, &view, &self.master.store) {
                    self.fail(what);
                }
            }
        }
    }

    fn answer(&mut self, conn: u64, answer: Answer) {
        match answer {
            Answer::Registered { session, interval } => {
                if let Err(what) = self.check.registered(session, self.now, &self.master.store) {
                    self.fail(what);
                }
                let Some(process) = &mut self.master.process else { return };
                let Some(wire) = process.wires.get_mut(&conn) else { return };
                wire.session = Some(session);
                process.sessions.insert(session, conn);
                let registered = Down::Registered { epoch: session.epoch, interval };
                self.send(conn, Way::Down, Lane::Session, Packet::Down(registered));
            }
            Answer::Rejected { reason, .. } => self.dismiss(conn, Down::Rejected { reason }),
            Answer::RetryLater { after, .. } => self.dismiss(conn, Down::RetryLater { after }),
        }
    }

    /// Says its last word. Until that is written, what the agent sends is still read.
    fn dismiss(&mut self, conn: u64, last: Down) {
        let run = self.master.run;
        let wait = self.random.between(Duration::ZERO, LAST_WORD);
        let wires = self.master.process.as_mut().map(|process| &mut process.wires);
        let Some(wire) = wires.and_then(|wires| wires.get_mut(&conn)) else { return };
        if std::mem::replace(&mut wire.closing, true) {
            return;
        }
        let wait = if wire.session.is_some() { wait } else { Duration::ZERO };
        self.send(conn, Way::Down, Lane::Session, Packet::Down(last));
        if wait.is_zero() {
            self.end_wire(run, conn);
        } else {
            self.after(wait, Event::EndWire { run, conn });
        }
    }

    pub fn end_wire(&mut self, run: u64, conn: u64) {
        let known = self.master.process.as_ref().is_some_and(|process| process.wires.contains_key(&conn));
        if self.master.run != run || !known {
            return;
        }
        self.send(conn, Way::Down, Lane::Session, Packet::Fin);
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.master_open = false;
            conn.forget(Way::Up);
        }
        self.drop_wire(conn, LossReason::StreamClosed);
    }

    fn drop_wire(&mut self, conn: u64, reason: LossReason) {
        let Some(process) = &mut self.master.process else { return };
        let Some(wire) = process.wires.remove(&conn) else { return };
        if let Some(session) = wire.session {
            process.sessions.remove(&session);
        }
        let current = wire.session.is_none_or(|session| self.check.is_newest(session));
        let before = self.shown_of(wire.session);
        self.decide(|fleet, now| fleet.closed(now, ConnId(conn), reason, fleet::ClosedBy::Network, String::new()));
        if !current && before != self.shown_of(wire.session) {
            self.fail(format!("the end of connection {conn} of an old session {:?} changed its agent", wire.session));
        }
    }

    fn shown_of(&self, session: Option<SessionId>) -> Option<fleet::AgentView> {
        self.master.process.as_ref()?.fleet.registry().view(session?.agent)
    }

    /// A write is done, or has failed.
    pub fn master_disk(&mut self, run: u64) {
        if self.master.run != run {
            return;
        }
        let (fails, wait) = (self.master.writes_fail_until > self.now, self.master.write_time);
        let Some(process) = &mut self.master.process else { return };
        if self.master.frozen_until > self.now {
            let until = self.master.frozen_until;
            return self.at(until, Event::MasterDisk { run });
        }
        let Some((changes, token)) = process.writes.pop_front() else { return };
        if !process.writes.is_empty() {
            self.after(wait, Event::MasterDisk { run });
        }
        let result = if fails {
            Err("disk full".to_owned())
        } else {
            self.record(changes);
            Ok(())
        };
        self.decide(|fleet, now| fleet.stored(now, token, result));
    }

    /// One transaction is on the disk.
    fn record(&mut self, changes: Vec<Change<Spec>>) {
        for change in &changes {
            if let Err(what) = self.check.recorded(change) {
                self.fail(what);
            }
        }
        if let Err(what) = self.master.store.write(changes) {
            self.fail(what);
        }
    }

    // ------------------------------------------------------------------------------------------- what agents send

    pub fn arrive_up(&mut self, host: usize, conn: u64, packet: Packet) {
        let up = self.master.process.is_some();
        if let Packet::Syn = packet {
            return match (up, self.master.powered) {
                (true, _) => {
                    if let Some(conn) = self.conns.get_mut(&conn) {
                        conn.master_open = true;
                    }
                    if let Some(process) = &mut self.master.process {
                        process.wires.insert(conn, Wire::default());
                    }
                    self.send(conn, Way::Down, Lane::Session, Packet::SynAck);
                }
                (false, true) => self.send(conn, Way::Down, Lane::Session, Packet::Refused),
                // Asked again, as TCP does.
                (false, false) => {
                    if self.conns.get(&conn).is_some_and(|conn| conn.agent_open) {
                        let paused = self.random.between(Duration::from_secs(1), Duration::from_secs(3));
                        self.send_later(conn, paused);
                    }
                }
            };
        }
        if !self.conns.get(&conn).is_some_and(|conn| conn.master_open) {
            if self.master.powered {
                self.reset(conn, Way::Down);
            }
            return;
        }
        self.note(|| format!("master ← host {host}: {packet:?}"));
        match packet {
            Packet::Up(message) => self.receive(conn, message),
            Packet::Fin => {
                if let Some(conn) = self.conns.get_mut(&conn) {
                    conn.master_open = false;
                }
                self.drop_wire(conn, LossReason::StreamClosed);
            }
            Packet::Syn | Packet::SynAck | Packet::Refused | Packet::Down(_) => unreachable!("sent by masters only"),
        }
    }

    pub fn master_reset(&mut self, conn: u64) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.master_open = false;
            conn.forget(Way::Down);
        }
        self.drop_wire(conn, LossReason::ConnectionReset);
    }

    fn receive(&mut self, conn: u64, message: Up) {
        let Some(wire) = self.master.process.as_mut().and_then(|process| process.wires.get_mut(&conn)) else { return };
        let Some(session) = wire.session else {
            return match message {
                Up::Register { register, held } if !wire.asked => {
                    wire.asked = true;
                    self.register(conn, *register, held);
                }
                _ => self.dismiss(conn, Down::Rejected { reason: LossReason::Protocol }),
            };
        };
        let newest = self.check.is_newest(session);
        let before = if newest { None } else { self.shown_of(Some(session)) };
        let heard = self.hear_session(conn, session, message);
        if !newest && (heard == Some(Heard::Live) || before != self.shown_of(Some(session))) {
            return self.fail(format!("a message of the old session {session:?} counted"));
        }
        match heard {
            Some(Heard::Live) => self.check.heard(session, self.now),
            Some(Heard::Unknown) => self.dismiss(conn, Down::Rejected { reason: LossReason::UnknownAgent }),
            Some(Heard::Stale) => self.dismiss(conn, Down::Rejected { reason: LossReason::Superseded }),
            None => {}
        }
    }

    fn register(&mut self, conn: u64, register: Register, held: Vec<Held<Spec>>) {
        let Some(process) = &self.master.process else { return };
        let knows = |id: &str| process.fleet.dispatch().knows(id);
        let look = |held: Held<Spec>| {
            let finished = |record: &fleet::CommandRecord<Spec>| record.state == CommandState::Finished;
            let finished_here = !knows(&held.id) && self.master.store.commands.get(&held.id).is_some_and(finished);
            Held { finished_here, ..held }
        };
        let held = held.into_iter().map(look).collect();
        self.decide(|fleet, now| fleet.register(now, ConnId(conn), register, held));
    }

    fn hear_session(&mut self, conn: u64, session: SessionId, message: Up) -> Option<Heard> {
        match message {
            Up::Register { .. } => {
                self.fail("an agent registers twice in one session");
                None
            }
            Up::Heartbeat { seq, last_ack, ready } => {
                let beat = Beat { seq, last_ack, ready, node: None };
                self.decide(|fleet, now| fleet.heartbeat(now, session, beat))
            }
            Up::Accepted { id } => self.decide(|fleet, now| fleet.accepted(now, session, &id)),
            Up::Finished { id, finish } => {
                let total = finish.total_bytes;
                let finish = Finish {
                    outcome: finish.outcome,
                    total_bytes: total,
                    started_unix_ms: finish.started_unix_ms,
                    finished_unix_ms: finish.finished_unix_ms,
                };
                let heard = self.decide(|fleet, now| fleet.finished(now, session, &id, finish));
                let run = self.master.run;
                if self.master.store.logs.get(&id).map_or(0, |log| log.received) >= total {
                    self.after(Duration::ZERO, Event::Measure { run, id });
                }
                heard
            }
            Up::Goodbye => {
                let heard = self.decide(|fleet, now| fleet.goodbye(now, session, "shutdown".to_owned()));
                if heard == Some(Heard::Live) {
                    let status = self.shown_of(Some(session)).map(|view| view.record.status);
                    if status.is_some_and(|status| status != fleet::Status::Stopped) {
                        self.fail(format!("{session:?} said goodbye, and is shown as {status:?}"));
                    }
                    if let Some(process) = &mut self.master.process {
                        process.sessions.remove(&session);
                    }
                    self.drop_wire(conn, LossReason::StreamClosed);
                    return None;
                }
                heard
            }
            Up::ProbeAnswer => self.decide(|fleet, now| fleet.heard(now, session)),
            Up::OutputOpen { id } => {
                self.output_opened(conn, &id);
                None
            }
            Up::Output { id, offset, bytes, gap } => {
                self.output_arrived(conn, &id, offset, bytes, gap);
                None
            }
        }
    }
}
