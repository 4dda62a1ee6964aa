//! The whole fleet at one moment, and what happens next.

use crate::{
    agent::Host,
    check::Check,
    master::Master,
    net::{Conn, Lane, Packet, Path, Way},
    random::Random,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    fmt::Display,
    time::Duration,
};

/// The world's time begins here, so that nothing depends on its being near zero.
const BEGINNING: Duration = Duration::from_secs(1_000);

/// Unix milliseconds at the beginning, on every host: they may be set differently later.
pub const UNIX_MS: u64 = 1_800_000_000_000;

/// Of a trace so many lines are kept, the last ones.
const TRACE_MAX: usize = 20_000;

/// When a way opens again, TCP tries again within this.
const RETRANSMIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub enum Event {
    Deliver {
        conn: u64,
        way: Way,
        lane: Lane,
    },
    /// Reaches the other end if the way is open then.
    Reset {
        conn: u64,
        way: Way,
    },
    AgentTimer {
        host: usize,
        run: u64,
    },
    AgentDisk {
        host: usize,
        run: u64,
    },
    Task {
        host: usize,
        run: u64,
        id: String,
    },
    StartAgent {
        host: usize,
    },
    MasterTimer {
        run: u64,
    },
    MasterDisk {
        run: u64,
    },
    Measure {
        run: u64,
        id: String,
    },
    /// The stream of a session that the master has ended is over.
    EndWire {
        run: u64,
        conn: u64,
    },
    StartMaster,
    /// The next fault, or the next wish of a user.
    Step,
    /// Everything that can be seen of the fleet is compared with what is true.
    Look,
}

/// Everything.
pub struct World {
    pub now: Duration,
    pub random: Random,
    pub hosts: Vec<Host>,
    pub master: Master,
    pub conns: BTreeMap<u64, Conn>,
    pub paths: Vec<Path>,
    pub check: Check,
    /// Latency of new writes and refusals of disks, until faults are over.
    pub steps_left: u64,
    /// Faults are over since.
    pub calm_since: Option<Duration>,
    pub commands: u64,
    queue: BinaryHeap<Reverse<(Duration, u64, Slot)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    next_conn: u64,
    trace: Option<VecDeque<String>>,
    pub violation: Option<String>,
}

/// Orders equal moments by their sequence alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot;

impl World {
    pub fn new(seed: u64, trace: bool) -> Self {
        Self {
            now: BEGINNING,
            random: Random::new(seed),
            hosts: Vec::new(),
            master: Master::default(),
            conns: BTreeMap::new(),
            paths: Vec::new(),
            check: Check::default(),
            steps_left: 0,
            calm_since: None,
            commands: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            next_conn: 1,
            trace: trace.then(VecDeque::new),
            violation: None,
        }
    }

    pub fn at(&mut self, when: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((when.max(self.now), self.sequence, Slot)));
        self.events.insert(self.sequence, event);
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now.saturating_add(wait), event);
    }

    /// The next event, with the time moved on to it; `None` once `until` is reached.
    pub fn next_event(&mut self, until: Duration) -> Option<Event> {
        let Reverse((when, sequence, _)) = *self.queue.peek()?;
        if when > until {
            self.now = until;
            return None;
        }
        self.queue.pop();
        self.now = when;
        self.events.remove(&sequence)
    }

    /// The first thing that went wrong; the run ends with it.
    pub fn fail(&mut self, what: impl Display) {
        let text = format!("at {}: {what}", self.moment());
        self.note(|| format!("VIOLATION {what}"));
        self.violation.get_or_insert(text);
    }

    /// A line of the trace, made only if somebody wants it.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let moment = self.moment();
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_MAX {
                trace.pop_front();
            }
            trace.push_back(format!("{moment} {}", shortened(&line())));
        }
    }

    pub fn trace(&mut self) -> Vec<String> {
        self.trace.take().map(Vec::from).unwrap_or_default()
    }

    fn moment(&self) -> String {
        format!("{:.3}", (self.now - BEGINNING).as_secs_f64())
    }

    // ------------------------------------------------------------------------------------------------- the network

    pub fn open_conn(&mut self, host: usize, session: link::Session) -> u64 {
        let conn = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(conn, Conn::new(host, session));
        conn
    }

    /// When something sent over this way can arrive.
    pub fn cut_until(&self, host: usize, way: Way) -> Duration {
        self.paths[host].cut_until[way as usize].max(self.master.cut_until[way as usize])
    }

    pub fn send(&mut self, conn: u64, way: Way, lane: Lane, packet: Packet) {
        let Some(host) = self.conns.get(&conn).map(|conn| conn.host) else { return };
        let path = self.paths[host];
        let arrives = self.now + path.latency + self.random.between(Duration::ZERO, path.jitter);
        let queue = self.conns.get_mut(&conn).expect("just looked at").queue(way, lane);
        let ready = queue.back().map_or(arrives, |(before, _)| arrives.max(*before));
        queue.push_back((ready, packet));
        if queue.len() == 1 {
            self.at(ready, Event::Deliver { conn, way, lane });
        }
    }

    /// The request for a connection once more: nobody answered.
    pub fn send_later(&mut self, conn: u64, wait: Duration) {
        let now = self.now;
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.queue(Way::Up, Lane::Session).push_front((now + wait, Packet::Syn));
        self.at(now + wait, Event::Deliver { conn, way: Way::Up, lane: Lane::Session });
    }

    /// One end is cut off: what it had under way is gone, and the other end may hear of it.
    pub fn reset(&mut self, conn: u64, way: Way) {
        let Some(host) = self.conns.get(&conn).map(|conn| conn.host) else { return };
        if self.cut_until(host, way) <= self.now {
            let latency = self.paths[host].latency;
            self.after(latency, Event::Reset { conn, way });
        }
    }

    /// Takes the packet that is due out of its queue; `None` if the way is cut, and then it comes later.
    pub fn arriving(&mut self, conn: u64, way: Way, lane: Lane) -> Option<(usize, Packet)> {
        let host = self.conns.get(&conn)?.host;
        let cut_until = self.cut_until(host, way);
        let frozen_until = match way {
            Way::Up => Duration::ZERO,
            Way::Down => self.hosts[host].frozen_until,
        };
        let blocked = if cut_until > self.now {
            cut_until + self.random.between(RETRANSMIT.0, RETRANSMIT.1)
        } else {
            frozen_until
        };
        let now = self.now;
        let master_frozen = self.master.frozen_until;
        let state = self.conns.get_mut(&conn)?;
        if way == Way::Up && state.agent_cut && cut_until > now {
            state.forget(way);
            return None;
        }
        let queue = state.queue(way, lane);
        let (ready, packet) = queue.front()?;
        // The master's kernel answers a request for a connection also while the process is stopped.
        let kernels = matches!(packet, Packet::Syn);
        let blocked = if way == Way::Up && !kernels { blocked.max(master_frozen) } else { blocked };
        let when = (*ready).max(blocked);
        if when > now {
            self.at(when, Event::Deliver { conn, way, lane });
            return None;
        }
        let (_, packet) = queue.pop_front().expect("just looked at");
        if let Some((ready, _)) = queue.front() {
            let ready = *ready;
            self.at(ready, Event::Deliver { conn, way, lane });
        }
        Some((host, packet))
    }

    /// Drops what is known of connections that are over on both sides.
    pub fn sweep(&mut self) {
        self.conns.retain(|_, conn| !conn.is_over());
    }
}

/// Ids of sixteen bytes as their first ones.
fn shortened(line: &str) -> String {
    let mut parts = line.split('[');
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let id = part.split_once(']').filter(|(id, _)| id.split(", ").count() == 16);
        match id {
            Some((id, rest)) => {
                short += "#";
                let bytes = id.split(", ").take(3).filter_map(|byte| byte.parse::<u8>().ok());
                bytes.for_each(|byte| short += &format!("{byte:02x}"));
                short += rest;
            }
            None => short += &format!("[{part}"),
        }
    }
    short
}
