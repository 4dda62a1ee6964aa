//! Output as it arrives at the master.

use crate::{
    net::{Down, Lane, Packet, Way},
    world::{Event, World},
};
use std::time::Duration;

/// Output is made durable so long after it came.
const SYNC_AFTER: Duration = Duration::from_millis(200);

/// The file of one command's output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    pub received: u64,
    pub durable: u64,
    pub gap_bytes: u64,
}

impl Log {
    /// # Errors
    /// Something is missing before it.
    fn append(&mut self, offset: u64, bytes: u64, gap: bool) -> Result<(), String> {
        if offset > self.received {
            return Err(format!("output at {offset} follows output up to {}", self.received));
        }
        let end = offset + bytes;
        if end > self.received {
            if gap {
                self.gap_bytes += end - self.received;
            }
            self.received = end;
        }
        Ok(())
    }
}

impl World {
    pub fn output_opened(&mut self, conn: u64, id: &str) {
        let Some(process) = &self.master.process else { return };
        let session = process.wires.get(&conn).and_then(|wire| wire.session);
        let Some(session) = session.filter(|session| process.fleet.registry().is_live(*session)) else { return };
        let owner = process.fleet.dispatch().agent_of(id);
        if owner.is_some_and(|owner| owner != session.agent) {
            return;
        }
        // Of a closed record what still comes is let go.
        self.acknowledge(conn, id);
    }

    pub fn output_arrived(&mut self, conn: u64, id: &str, offset: u64, bytes: u64, gap: bool) {
        let Some(process) = &self.master.process else { return };
        let session = process.wires.get(&conn).and_then(|wire| wire.session);
        let Some(session) = session.filter(|session| process.fleet.registry().is_live(*session)) else { return };
        match process.fleet.dispatch().agent_of(id) {
            Some(owner) if owner == session.agent => {}
            Some(_) => return,
            None => {
                let end = offset + bytes;
                return self.send_acknowledgement(conn, id, end, end);
            }
        }
        let log = self.master.store.logs.entry(id.to_owned()).or_default();
        if let Err(what) = log.append(offset, bytes, gap) {
            return self.fail(format!("{id}: {what}"));
        }
        let run = self.master.run;
        self.after(SYNC_AFTER, Event::Measure { run, id: id.to_owned() });
        self.acknowledge(conn, id);
    }

    /// Makes what is here of a command durable, and tells.
    pub fn measure(&mut self, run: u64, id: &str) {
        if self.master.run != run || self.master.process.is_none() {
            return;
        }
        if self.master.frozen_until > self.now {
            let until = self.master.frozen_until;
            return self.at(until, Event::Measure { run, id: id.to_owned() });
        }
        let mut durable = 0;
        if let Some(log) = self.master.store.logs.get_mut(id) {
            log.durable = log.received;
            durable = log.durable;
        }
        let owned = id.to_owned();
        self.decide(move |fleet, now| fleet.durable(now, &owned, durable, Vec::new()));
        let Some(process) = &self.master.process else { return };
        let agent = process.fleet.dispatch().agent_of(id);
        let session = agent.and_then(|agent| process.fleet.registry().downlink(agent)).map(|link| link.session);
        if let Some(conn) = session.and_then(|session| process.sessions.get(&session).copied()) {
            self.acknowledge(conn, id);
        }
    }

    fn acknowledge(&mut self, conn: u64, id: &str) {
        let log = self.master.store.logs.get(id).copied().unwrap_or_default();
        self.send_acknowledgement(conn, id, log.received, log.durable);
    }

    fn send_acknowledgement(&mut self, conn: u64, id: &str, received: u64, durable: u64) {
        let ack = Down::OutputAck { id: id.to_owned(), received, durable };
        self.send(conn, Way::Down, Lane::Output, Packet::Down(ack));
    }
}
