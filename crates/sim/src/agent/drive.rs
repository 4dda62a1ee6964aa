//! The agent's driver: carries out what link and ledger decide, and tells them what happened.

use super::{Host, Process, ledger_params};
use crate::{
    Spec,
    net::{Down, Lane, Packet, Up, Way},
    world::{Event, UNIX_MS, World},
};
use fleet::{HeldState, Register, SessionId, Timing};
use link::{Close, Input, Link, LossReason, Output, Phase, Reply, Report, WakeReason, ledger};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// After a pause sockets are read for so long before deadlines are judged.
const READ_FIRST: Duration = Duration::from_millis(100);

/// What is under way when its sender cuts the connection off arrives later by up to this.
const STRAGGLES: Duration = Duration::from_secs(3);

impl Host {
    /// Milliseconds on the wall, by this host's clock.
    pub fn unix_ms(&self, now: Duration) -> u64 {
        (UNIX_MS + now.as_millis() as u64).saturating_add_signed(self.wall_offset_ms)
    }
}

impl World {
    pub fn start_agent(&mut self, host: usize) {
        self.hosts[host].start_planned = false;
        if self.hosts[host].process.is_some() {
            return;
        }
        let seed = self.random.draw();
        let instance = self.random.bytes();
        if !self.hosts[host].disk.keeps_spool {
            self.hosts[host].disk.lose_spool(&mut self.random);
        }
        let now = self.now;
        let this = &mut self.hosts[host];
        this.run += 1;
        let (ledger, outs) = this.disk.restore(ledger_params(), now, this.unix_ms(now));
        this.process = Some(Process {
            instance,
            link: Link::new(this.params.clone(), seed),
            ledger,
            conn: None,
            epoch: 0,
            session_up: false,
            dismissed: false,
            draining: false,
            writes: VecDeque::new(),
            tasks: BTreeMap::new(),
            outs,
            armed: None,
        });
        self.note(|| format!("host {host}: the agent starts"));
        let id = self.hosts[host].disk.agent_id;
        self.check.process_started(host, id);
        self.carry_ledger(host);
        self.tell_link(host, Input::Start);
    }

    /// The process dies. `power`: with its machine, so that nobody says goodbye to its connections.
    pub fn kill_agent(&mut self, host: usize, power: bool) {
        let torn = self.random.draw();
        let now = self.now;
        let this = &mut self.hosts[host];
        let Some(process) = this.process.take() else { return };
        this.frozen_until = Duration::ZERO;
        this.disk.crash(process, torn);
        self.note(|| format!("host {host}: the agent dies (power: {power})"));
        self.check.process_died(host, now);
        let open: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.host == host && c.agent_open).map(|(id, _)| *id).collect();
        for conn in open {
            self.cut_off_agent(conn, !power);
        }
    }

    /// The agent's end of a connection is gone at once.
    fn cut_off_agent(&mut self, id: u64, tell: bool) {
        let longer = self.random.between(Duration::ZERO, STRAGGLES);
        let Some(host) = self.conns.get(&id).map(|conn| conn.host) else { return };
        let cut = self.cut_until(host, Way::Up) > self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::take(&mut conn.agent_open) {
            conn.agent_cut = true;
            // A registration that outlives its process would take the place of a later one that is slow to answer for
            // itself: known, and said in docs/specification.md.
            if cut || conn.registers_yet() {
                conn.forget(Way::Up);
            } else {
                conn.straggle(Way::Up, longer);
            }
            if tell {
                self.reset(id, Way::Up);
            }
        }
    }

    pub fn agent_timer(&mut self, host: usize, run: u64) {
        let now = self.now;
        let this = &mut self.hosts[host];
        if this.run != run {
            return;
        }
        let read_first = this.frozen_until.saturating_add(READ_FIRST);
        let Some(process) = &mut this.process else { return };
        if process.armed.is_none_or(|armed| armed > now) {
            return; // one that was set before another, earlier one
        }
        if this.frozen_until > Duration::ZERO && now < read_first {
            process.armed = Some(read_first);
            self.at(read_first, Event::AgentTimer { host, run });
            return;
        }
        process.armed = None;
        self.tell_ledger(host, ledger::Input::Wake);
        self.tell_link(host, Input::Timeout);
    }

    /// Sets the timer to whatever is due next.
    fn arm_agent(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        let run = this.run;
        let Some(process) = &mut this.process else { return };
        let due = [process.link.poll_timeout(), process.ledger.poll_timeout()].into_iter().flatten().min();
        let Some(due) = due else { return };
        if process.armed.is_none_or(|armed| due < armed) {
            process.armed = Some(due);
            self.at(due, Event::AgentTimer { host, run });
        }
    }

    pub fn tell_link(&mut self, host: usize, input: Input) {
        let now = self.now;
        let Some(process) = &mut self.hosts[host].process else { return };
        let before = process.link.state();
        let unknown =
            matches!(&input, Input::Reply { reply: Reply::Failed { reason: LossReason::UnknownAgent, .. }, .. });
        process.link.handle(now, input);
        if unknown && matches!(before, Phase::Registered | Phase::Active) {
            let dials = process.link.state() == Phase::Connecting;
            let reset_after = self.hosts[host].params.reset_after;
            if let Err(what) = self.check.unknown_agent(host, now, dials, reset_after) {
                self.fail(what);
            }
        }
        self.carry_link(host);
    }

    /// A reply within the current session.
    fn reply(&mut self, host: usize, conn: u64, reply: Reply) {
        let Some(session) = self.conns.get(&conn).map(|conn| conn.session) else { return };
        self.tell_link(host, Input::Reply { session, reply });
    }

    fn carry_link(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].process.as_mut().and_then(|process| process.link.poll_output()) {
            match output {
                Output::Dial { session, .. } => {
                    let conn = self.open_conn(host, session);
                    let process = self.process(host);
                    process.conn = Some(conn);
                    process.dismissed = false;
                    self.send(conn, Way::Up, Lane::Session, Packet::Syn);
                }
                Output::Register { .. } => self.send_register(host),
                Output::Heartbeat { seq, last_ack, .. } => {
                    let ready = self.hosts[host].unready_until <= self.now && !self.process(host).ledger.is_draining();
                    self.send_up(host, Up::Heartbeat { seq, last_ack, ready });
                }
                Output::Goodbye { .. } => self.send_up(host, Up::Goodbye),
                Output::Close { how, .. } => self.close_session(host, how),
                Output::Report(report) => self.report(host, &report),
                Output::Interrupt => self.tell_ledger(host, ledger::Input::Interrupt),
                Output::Stop => {
                    self.note(|| format!("host {host}: the agent ends"));
                    let now = self.now;
                    if let Some(process) = self.hosts[host].process.take() {
                        self.hosts[host].disk.crash(process, u64::MAX);
                    }
                    self.check.process_died(host, now);
                    return;
                }
            }
        }
        self.arm_agent(host);
    }

    fn process(&mut self, host: usize) -> &mut Process {
        self.hosts[host].process.as_mut().expect("its output is being carried out")
    }

    fn report(&mut self, host: usize, report: &Report) {
        self.note(|| format!("host {host}: {report:?}"));
        let now = self.now;
        let params = &self.hosts[host].params;
        if let Err(what) = self.check.report(host, now, report, params) {
            self.fail(what);
        }
    }

    fn send_register(&mut self, host: usize) {
        let this = &self.hosts[host];
        let Some(process) = &this.process else { return };
        let held = process.ledger.held().into_iter().map(|held| fleet::Held {
            id: held.id.to_owned(),
            state: match held.state {
                ledger::HeldState::Accepted => HeldState::Accepted,
                ledger::HeldState::Running => HeldState::Running,
                ledger::HeldState::Finished => HeldState::Finished,
            },
            spec: Some(*held.spec),
            started_unix_ms: 0,
            finished_here: false,
        });
        let held: Vec<fleet::Held<Spec>> = held.collect();
        let register = Box::new(Register {
            id: this.disk.agent_id,
            instance: process.instance,
            spool_id: this.disk.spool_id,
            highest_epoch: this.disk.highest_epoch,
            name: this.name.clone(),
            host: format!("host{host}"),
            timing: Timing {
                interval: this.params.heartbeat_interval,
                timeout: this.params.heartbeat_timeout,
                max_failures: this.params.failures_max,
                interval_max: this.params.interval_max,
            },
            ..Register::default()
        });
        self.send_up(host, Up::Register { register, held });
    }

    pub fn send_up(&mut self, host: usize, message: Up) {
        let Some(conn) = self.hosts[host].process.as_ref().and_then(|process| process.conn) else { return };
        let lane = match message {
            Up::OutputOpen { .. } | Up::Output { .. } => Lane::Output,
            _ => Lane::Session,
        };
        self.send(conn, Way::Up, lane, Packet::Up(message));
    }

    fn close_session(&mut self, host: usize, how: Close) {
        let now = self.now;
        let process = self.process(host);
        let conn = process.conn.take();
        process.epoch = 0;
        let was_up = std::mem::take(&mut process.session_up);
        self.check.session_ended(host, now);
        if was_up {
            self.end_calls(host);
            self.tell_ledger(host, ledger::Input::SessionDown);
        }
        let Some(conn) = conn else { return };
        match how {
            Close::Abort => self.cut_off_agent(conn, true),
            Close::Graceful => {
                self.send(conn, Way::Up, Lane::Session, Packet::Fin);
                if let Some(conn) = self.conns.get_mut(&conn) {
                    conn.agent_open = false;
                }
            }
        }
    }

    /// A packet reaches the agent's host.
    pub fn arrive_down(&mut self, host: usize, conn: u64, packet: Packet) {
        let ours = self.hosts[host].process.as_ref().is_some_and(|process| process.conn == Some(conn));
        if !ours {
            self.reset(conn, Way::Up);
            return;
        }
        if self.process(host).dismissed {
            return;
        }
        self.note(|| format!("host {host} ← {packet:?}"));
        match packet {
            Packet::SynAck => self.reply(host, conn, Reply::Dialled),
            Packet::Refused => self.failed(host, conn, LossReason::ConnectionRefused),
            Packet::Fin => self.failed(host, conn, LossReason::StreamClosed),
            Packet::Down(message) => self.hear(host, conn, message),
            Packet::Syn | Packet::Up(_) => unreachable!("sent by agents only"),
        }
    }

    pub fn agent_reset(&mut self, host: usize, conn: u64) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.forget(Way::Up);
        }
        if self.hosts[host].process.as_ref().is_some_and(|process| process.conn == Some(conn)) {
            self.failed(host, conn, LossReason::ConnectionReset);
        }
    }

    fn failed(&mut self, host: usize, conn: u64, reason: LossReason) {
        self.process(host).dismissed = true;
        self.reply(host, conn, Reply::Failed { reason, detail: String::new() });
    }

    fn hear(&mut self, host: usize, conn: u64, message: Down) {
        match message {
            Down::Registered { epoch, interval } => self.registered(host, conn, epoch, interval),
            Down::Rejected { reason } => {
                self.check.rejected(host);
                self.failed(host, conn, reason);
            }
            Down::RetryLater { after } => self.reply(host, conn, Reply::RetryLater { after, reason: String::new() }),
            Down::Goodbye { after } => self.reply(host, conn, Reply::Goodbye { after, reason: String::new() }),
            Down::OutputAck { id, received, durable } => self.output_acked(host, &id, received, durable),
            Down::Fleet(fleet::Down::HeartbeatAck { seq, interval }) => {
                let now = self.now;
                self.check.acked(host, now);
                self.reply(host, conn, Reply::Ack { seq, interval });
            }
            Down::Fleet(fleet::Down::Probe) => self.send_up(host, Up::ProbeAnswer),
            Down::Fleet(fleet::Down::Run { id, spec }) => self.run_command(host, id, spec),
            Down::Fleet(fleet::Down::Cancel { id }) => self.tell_ledger(host, ledger::Input::Cancel { id }),
            Down::Fleet(fleet::Down::FinishedAck { id }) => {
                self.tell_ledger(host, ledger::Input::FinishedAck { id: id.clone() });
                self.forget_output(host, &id);
            }
            // Once everything is to come back, nobody wants anybody to go any more.
            Down::Fleet(fleet::Down::Shutdown { .. }) if self.calm_since.is_some() => {}
            Down::Fleet(fleet::Down::Shutdown { .. }) => self.shut_down(host),
        }
        self.drained(host);
    }

    fn registered(&mut self, host: usize, conn: u64, epoch: u64, interval: Option<Duration>) {
        let now = self.now;
        let this = &mut self.hosts[host];
        if epoch <= this.disk.highest_epoch {
            return self.failed(host, conn, LossReason::Protocol);
        }
        this.disk.highest_epoch = epoch;
        self.reply(host, conn, Reply::Registered { interval });
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.link.state() == Phase::Registered {
            process.epoch = epoch;
            process.session_up = true;
            let id = self.hosts[host].disk.agent_id;
            self.check.session_began(host, now, SessionId { agent: id, epoch });
            self.tell_ledger(host, ledger::Input::SessionUp);
            self.open_calls(host);
        }
    }

    /// SIGTERM, or the master's wish.
    pub fn shut_down(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        if std::mem::replace(&mut process.draining, true) {
            return;
        }
        self.check.excuse_host(host);
        self.tell_ledger(host, ledger::Input::Drain);
        self.tell_link(host, Input::Shutdown);
        self.drained(host);
    }

    /// A shutdown is over once nothing is held any more.
    pub fn drained(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        if process.draining && process.ledger.is_empty() {
            self.tell_link(host, Input::Drained);
        } else if process.draining && process.ledger.unsettled() == 0 {
            self.tell_link(host, Input::Settled);
        }
    }

    pub fn wake(&mut self, host: usize, input: Input) {
        self.note(|| format!("host {host}: {input:?}"));
        if matches!(input, Input::RouteChanged) {
            self.check.rerouted(host, self.now);
        }
        self.tell_link(host, input);
    }

    pub fn tell_ledger(&mut self, host: usize, input: ledger::Input<Spec>) {
        let now = self.now;
        let this = &mut self.hosts[host];
        let unix_ms = this.unix_ms(now);
        let Some(process) = &mut this.process else { return };
        process.ledger.handle(now, unix_ms, input);
        self.carry_ledger(host);
    }

    fn carry_ledger(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].process.as_mut().and_then(|process| process.ledger.poll_output()) {
            self.perform(host, output);
        }
        self.arm_agent(host);
    }
}

/// What may wake a link from outside.
pub fn wakes() -> [Input; 4] {
    [
        Input::Woken(WakeReason::Network),
        Input::Woken(WakeReason::Operator),
        Input::RouteChanged,
        Input::SourceAddressGone,
    ]
}
