//! The network: connections that keep the order of what is sent, over ways that are cut, slow or both.
//!
//! As with TCP, what is sent into a cut way arrives once the way is open again, if both ends still know the connection;
//! a reset is sent once and never again; what arrives at an end that knows nothing of the connection is answered with a
//! reset.

use crate::Spec;
use fleet::{Held, Register};
use link::{LossReason, ledger::Finish};
use std::{collections::VecDeque, time::Duration};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Up,
    Down,
}

/// The session's stream and the calls for output overtake each other, as calls on one connection do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Session,
    Output,
}

pub const LANES: [Lane; 2] = [Lane::Session, Lane::Output];

#[derive(Clone, Debug)]
pub enum Packet {
    /// The request for a connection; answered by the master's kernel.
    Syn,
    SynAck,
    /// Nobody listens.
    Refused,
    /// An orderly end.
    Fin,
    Up(Up),
    Down(Down),
}

#[derive(Clone, Debug)]
pub enum Up {
    Register { register: Box<Register>, held: Vec<Held<Spec>> },
    Heartbeat { seq: u64, last_ack: u64, ready: bool },
    Accepted { id: String },
    Finished { id: String, finish: Finish },
    Goodbye,
    ProbeAnswer,
    OutputOpen { id: String },
    Output { id: String, offset: u64, bytes: u64, gap: bool },
}

#[derive(Clone, Debug)]
pub enum Down {
    Registered { epoch: u64, interval: Option<Duration> },
    Fleet(fleet::Down<Spec>),
    Rejected { reason: LossReason },
    RetryLater { after: Duration },
    Goodbye { after: Duration },
    OutputAck { id: String, received: u64, durable: u64 },
}

/// One connection, as both ends and the way between see it.
#[derive(Debug)]
pub struct Conn {
    pub host: usize,
    /// The agent's own number for it.
    pub session: link::Session,
    pub agent_open: bool,
    pub master_open: bool,
    /// The agent has cut it off: what is not under way by now will never be.
    pub agent_cut: bool,
    queues: [[VecDeque<(Duration, Packet)>; 2]; 2],
}

impl Conn {
    pub fn new(host: usize, session: link::Session) -> Self {
        Self { host, session, agent_open: true, master_open: false, agent_cut: false, queues: Default::default() }
    }

    pub fn queue(&mut self, way: Way, lane: Lane) -> &mut VecDeque<(Duration, Packet)> {
        &mut self.queues[way as usize][lane as usize]
    }

    /// What one side has sent and the other has not received: gone with an end that is cut off.
    pub fn forget(&mut self, way: Way) {
        for queue in &mut self.queues[way as usize] {
            queue.clear();
        }
    }

    /// A registration is under way.
    pub fn registers_yet(&self) -> bool {
        let register = |(_, packet): &(Duration, Packet)| matches!(packet, Packet::Up(Up::Register { .. }));
        self.queues[Way::Up as usize][Lane::Session as usize].iter().any(register)
    }

    /// What is under way takes another way, and so much longer: it may be overtaken by a newer connection.
    pub fn straggle(&mut self, way: Way, longer: Duration) {
        for (ready, _) in self.queues[way as usize].iter_mut().flatten() {
            *ready += longer;
        }
    }

    pub fn is_over(&self) -> bool {
        !self.agent_open && !self.master_open && self.queues.iter().flatten().all(VecDeque::is_empty)
    }
}

/// One host's way to the master.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Nothing gets through before, by [`Way`].
    pub cut_until: [Duration; 2],
    pub latency: Duration,
    /// Up to so much more for each packet.
    pub jitter: Duration,
}

impl Path {
    pub const GOOD: Self =
        Self { cut_until: [Duration::ZERO; 2], latency: Duration::from_millis(2), jitter: Duration::from_millis(3) };
}
