//! The network between the hosts: a switch that the test itself is, so that it loses, delays, forgets and forges as the
//! test wants. Packets come and go through TUN devices, which every kernel has; netem and packet filters it need not
//! have.

use super::{
    packet::{self, SYN, Segment},
    space::Space,
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddrV4},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// It looks at least so often for new ports, and for its end.
const LOOK: Duration = Duration::from_millis(100);
/// A slow way drops what would have to wait behind more than this, bytes.
const QUEUE_MAX: u64 = 16 * 1024;
const PACKET_MAX: usize = 2048;
/// `_IOW('T', 226, int)`, which the libc crate does not have.
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2_u32 as libc::Ioctl;

/// One direction of a port.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Probability that a packet is lost.
    pub loss: f64,
    pub delay: Duration,
    /// Bytes a second.
    pub rate: Option<u64>,
}

impl Way {
    pub const OPEN: Self = Self { loss: 0.0, delay: Duration::ZERO, rate: None };
    pub const DEAD: Self = Self { loss: 1.0, ..Self::OPEN };
}

/// What a middlebox at a port does with a connection that was idle for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgets {
    Silently,
    /// Who sends on it gets a reset.
    WithReset,
}

pub struct Switch {
    shared: Arc<Shared>,
}

/// A host's interface at the switch.
#[derive(Clone)]
pub struct Port {
    shared: Arc<Shared>,
    number: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: AtomicBool,
}

#[derive(Default)]
struct State {
    ports: Vec<Plug>,
    flows: HashMap<[SocketAddrV4; 2], Flow>,
    under_way: BinaryHeap<Reverse<Flight>>,
    serial: u64,
    random: u64,
}

/// A packet on its way. Of two that are due at once the one that was sent first is first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Instant,
    serial: u64,
    to: usize,
    packet: Vec<u8>,
}

struct Plug {
    tun: File,
    addresses: Vec<IpAddr>,
    up: Lane,
    down: Lane,
    forgets: Option<(Duration, Forgets)>,
}

struct Lane {
    way: Way,
    busy_until: Instant,
}

struct Flow {
    seen: Instant,
    /// The last packet from either side.
    last: [Option<Segment>; 2],
}

impl Switch {
    /// `seed` decides which packets are lost.
    pub fn new(seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        shared.state().random = seed | 1;
        let works = shared.clone();
        std::thread::spawn(move || works.run());
        Self { shared }
    }

    /// A new interface of that host, with these addresses; it routes the net `10.9.0.0/16` and `fd09::/16`.
    pub fn plug(&self, space: &Space, device: &str, addresses: &[&str]) -> Port {
        let tun = space.inside(|| open(device)).unwrap();
        let mut lines = String::new();
        for address in addresses {
            let length = if address.contains(':') { "16 nodad" } else { "16" };
            lines += &format!("addr add {address}/{length} dev {device}\n");
        }
        space.ip(&(lines + &format!("link set {device} up")));
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let lane = || Lane { way: Way::OPEN, busy_until: Instant::now() };
        let mut state = self.shared.state();
        state.ports.push(Plug { tun, addresses, up: lane(), down: lane(), forgets: None });
        Port { shared: self.shared.clone(), number: state.ports.len() - 1 }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Port {
    /// What the host sends.
    pub fn up(&self, way: Way) {
        self.with(|port| port.up.way = way);
    }

    /// What the host is sent.
    pub fn down(&self, way: Way) {
        self.with(|port| port.down.way = way);
    }

    pub fn both(&self, way: Way) {
        self.up(way);
        self.down(way);
    }

    pub fn forgets(&self, after: Duration, how: Forgets) {
        self.with(|port| port.forgets = Some((after, how)));
    }

    /// Takes this address from one port to here, or adds it.
    pub fn takes(&self, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let mut state = self.shared.state();
        for port in &mut state.ports {
            port.addresses.retain(|its| *its != address);
        }
        state.ports[self.number].addresses.push(address);
    }

    /// Pulls the cable, or puts it back.
    pub fn carrier(&self, is_there: bool) {
        let value = libc::c_int::from(is_there);
        // SAFETY: the pointer is to a local of the kind that this call takes.
        let done = self.with(|port| unsafe { libc::ioctl(port.tun.as_raw_fd(), TUNSETCARRIER, &raw const value) });
        assert_eq!(done, 0, "TUNSETCARRIER: {}", io::Error::last_os_error());
    }

    /// Tells both ends of every connection over this port that the other one said so: `RST` or `FIN`.
    pub fn forge(&self, flags: u8) {
        let mut state = self.shared.state();
        let addresses = state.ports[self.number].addresses.clone();
        let ours = |segment: &Segment| {
            addresses.contains(&(*segment.from.ip()).into()) || addresses.contains(&(*segment.to.ip()).into())
        };
        let flows: Vec<[Segment; 2]> = state
            .flows
            .values()
            .filter_map(|flow| Some([flow.last[0]?, flow.last[1]?]))
            .filter(|[one, _]| ours(one))
            .collect();
        for [one, other] in flows {
            // One that has not acknowledged everything yet would take its own acknowledgement for an old story.
            state.deliver_forged(&Segment { ack: other.next, ..one }, flags);
            state.deliver_forged(&Segment { ack: one.next, ..other }, flags);
        }
    }

    fn with<R>(&self, look: impl FnOnce(&mut Plug) -> R) -> R {
        look(&mut self.shared.state().ports[self.number])
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn run(&self) {
        let mut buffer = [0; PACKET_MAX];
        while !self.ended.load(Ordering::Relaxed) {
            let (fds, due) = {
                let state = self.state();
                let fds: Vec<RawFd> = state.ports.iter().map(|port| port.tun.as_raw_fd()).collect();
                (fds, state.under_way.peek().map(|Reverse(flight)| flight.due))
            };
            let wait = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now())).min(LOOK);
            poll(&fds, wait);
            let mut state = self.state();
            for number in 0..state.ports.len() {
                while let Ok(length @ 1..) = state.ports[number].tun.read(&mut buffer) {
                    state.comes(number, &buffer[..length]);
                }
            }
            state.deliver(Instant::now());
        }
    }
}

impl State {
    /// A packet of that host.
    fn comes(&mut self, from: usize, packet: &[u8]) {
        let now = Instant::now();
        let Some(to) = packet::destination(packet)
            .and_then(|address| self.ports.iter().position(|port| port.addresses.contains(&address)))
        else {
            return;
        };
        if let Some(segment) = Segment::of(packet)
            && !self.remembers(now, [from, to], &segment)
        {
            return;
        }
        let (lost_up, lost_down) = (self.draw(), self.draw());
        if lost_up < self.ports[from].up.way.loss || lost_down < self.ports[to].down.way.loss {
            return;
        }
        let Some(at) = self.ports[from].up.pass(now, packet.len()) else { return };
        let Some(at) = self.ports[to].down.pass(at, packet.len()) else { return };
        self.serial += 1;
        let flight = Flight { due: at, serial: self.serial, to, packet: packet.to_vec() };
        self.under_way.push(Reverse(flight));
    }

    /// Whether the middleboxes on the way let it pass.
    fn remembers(&mut self, now: Instant, ways: [usize; 2], segment: &Segment) -> bool {
        let mut key = [segment.from, segment.to];
        key.sort();
        let side = usize::from(key[0] != segment.from);
        let forgets = ways.iter().filter_map(|port| self.ports[*port].forgets).min_by_key(|(after, _)| *after);
        let idle = self.flows.get(&key).map(|flow| now.duration_since(flow.seen));
        if let Some((after, how)) = forgets
            && segment.flags & SYN == 0
            && idle.is_none_or(|idle| idle > after)
        {
            self.flows.remove(&key);
            if how == Forgets::WithReset && segment.flags & packet::RST == 0 {
                self.deliver_forged(segment, packet::RST);
            }
            return false;
        }
        let flow = self.flows.entry(key).or_insert(Flow { seen: now, last: [None; 2] });
        flow.seen = now;
        flow.last[side] = Some(*segment);
        true
    }

    /// To the sender of that segment.
    fn deliver_forged(&mut self, segment: &Segment, flags: u8) {
        let sender = IpAddr::from(*segment.from.ip());
        if let Some(port) = self.ports.iter_mut().find(|port| port.addresses.contains(&sender)) {
            let _ = port.tun.write(&segment.answer(flags));
        }
    }

    fn deliver(&mut self, now: Instant) {
        while self.under_way.peek().is_some_and(|Reverse(flight)| flight.due <= now) {
            let Some(Reverse(Flight { to, packet, .. })) = self.under_way.pop() else { return };
            // An interface that is down takes nothing.
            let _ = self.ports[to].tun.write(&packet);
        }
    }

    /// In 0..1.
    fn draw(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Lane {
    /// When a packet that comes now is at the end of it; `None` if there is no room for it.
    fn pass(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let mut leaves = now;
        if let Some(rate) = self.way.rate {
            let start = self.busy_until.max(now);
            let waiting = start.duration_since(now).as_secs_f64() * rate as f64;
            if waiting as u64 > QUEUE_MAX {
                return None;
            }
            leaves = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
            self.busy_until = leaves;
        }
        Some(leaves + self.way.delay)
    }
}

fn open(device: &str) -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the pointer is to a local of the kind that this call takes.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw const request) } {
        0 => Ok(tun),
        _ => Err(io::Error::last_os_error()),
    }
}

fn poll(fds: &[RawFd], wait: Duration) {
    let mut fds: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    let wait = libc::timespec { tv_sec: 0, tv_nsec: wait.as_nanos().min(999_999_999) as libc::c_long };
    // SAFETY: the pointers are to locals, the length is theirs.
    unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &raw const wait, std::ptr::null()) };
}
