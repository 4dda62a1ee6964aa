//! What a change of the network means for the connection to the master: pure. It looks at one thing only, the way that
//! the kernel would take to the master; so containers and bridges that come and go change nothing.

use super::netlink::Message;
use crate::config::MasterAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// For a name that was never reached: addresses that lie behind the default route (reserved for documentation, RFC 5737
/// and 3849: nothing is ever sent there).
const STAND_INS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The kernel's answers.
pub trait Kernel {
    /// How it would send there; `None`: not at all.
    fn way_to(&mut self, to: IpAddr) -> Option<Way>;
    /// The address is one of this machine's.
    fn has(&mut self, address: IpAddr) -> bool;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub interface: u32,
    /// The interface has a carrier.
    pub running: bool,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
}

/// What the link has to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The session's own address is gone.
    AddressGone,
    /// The session's packets take another way.
    RouteChanged,
    /// There is a way to a master that was not there before.
    Came,
}

#[derive(Debug, Default)]
pub struct Judge {
    masters: Vec<Master>,
}

#[derive(Debug)]
struct Master {
    name: String,
    ways: Vec<(IpAddr, Option<Way>)>,
}

impl Judge {
    /// Watches the ways to these masters, as they are now.
    pub fn new(masters: &[MasterAddress], kernel: &mut impl Kernel) -> Self {
        let mut judge = Self::default();
        judge.set(masters, kernel);
        judge
    }

    /// Other masters from now on. What is known of one that stays is kept: where its name was met, and the way to it
    /// at the last look.
    pub fn set(&mut self, masters: &[MasterAddress], kernel: &mut impl Kernel) {
        let mut known = std::mem::take(&mut self.masters);
        let mut watched = |master: &MasterAddress| {
            let name = master.to_string();
            if let Some(index) = known.iter().position(|known| known.name == name) {
                return known.swap_remove(index);
            }
            let to = master.host.parse().map_or(STAND_INS.to_vec(), |ip: IpAddr| vec![ip.to_canonical()]);
            let ways = to.into_iter().map(|to| (to, kernel.way_to(to))).collect();
            Master { name, ways }
        };
        self.masters = masters.iter().map(&mut watched).collect();
    }

    /// The master was reached there: from now on that is what its name means.
    pub fn met(&mut self, name: &str, peer: SocketAddr, kernel: &mut impl Kernel) {
        let to = peer.ip().to_canonical();
        let known = self.masters.iter_mut().find(|master| master.name == name);
        if let Some(master) =
            known.filter(|master| master.ways.iter().all(|(ip, _)| *ip != to) || master.ways.len() > 1)
        {
            master.ways = vec![(to, kernel.way_to(to))];
        }
    }

    /// Whether a message can be about a way to a master: interfaces alone matter only where one leads over them.
    pub fn concerns(&self, message: Message) -> bool {
        let mut ways = self.masters.iter().flat_map(|master| &master.ways);
        match message {
            Message::Address { .. } | Message::Route(_) => true,
            Message::Link { interface, .. } => ways.any(|(_, way)| way.is_some_and(|way| way.interface == interface)),
            Message::Error => false,
        }
    }

    /// Asks the kernel again; at most one verdict, the gravest.
    pub fn judge(&mut self, session: Option<(SocketAddr, SocketAddr)>, kernel: &mut impl Kernel) -> Option<Verdict> {
        let (mut rerouted, mut came) = (false, false);
        let peer = session.map(|(_, peer)| peer.ip().to_canonical());
        for (to, way) in self.masters.iter_mut().flat_map(|master| &mut master.ways) {
            let now = kernel.way_to(*to);
            if *way != now {
                came |= now.is_some_and(|now| now.running);
                rerouted |= Some(*to) == peer;
                *way = now;
            }
        }
        match session {
            Some((local, _)) if !kernel.has(local.ip().to_canonical()) => Some(Verdict::AddressGone),
            Some(_) => rerouted.then_some(Verdict::RouteChanged),
            None => came.then_some(Verdict::Came),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these ways and addresses.
    #[derive(Default)]
    struct Machine {
        ways: Vec<(IpAddr, Way)>,
        addresses: Vec<IpAddr>,
    }

    impl Kernel for Machine {
        fn way_to(&mut self, to: IpAddr) -> Option<Way> {
            self.ways.iter().find(|(ip, _)| *ip == to).map(|(_, way)| *way)
        }

        fn has(&mut self, address: IpAddr) -> bool {
            self.addresses.contains(&address)
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn way(interface: u32, source: &str) -> Way {
        Way { interface, running: true, gateway: Some(ip("10.1.2.1")), source: Some(ip(source)) }
    }

    fn masters(texts: &[&str]) -> Vec<MasterAddress> {
        texts.iter().map(|text| MasterAddress::parse(text).unwrap()).collect()
    }

    fn session(local: &str, peer: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((SocketAddr::new(ip(local), 5), SocketAddr::new(ip(peer), 50050)))
    }

    /// Reached over interface 3 from 10.1.2.3.
    fn machine(to: &str) -> Machine {
        Machine { ways: vec![(ip(to), way(3, "10.1.2.3"))], addresses: vec![ip("10.1.2.3")] }
    }

    #[test]
    fn what_leaves_the_way_as_it_is_says_nothing() {
        let mut machine = machine("10.9.9.9");
        let mut judge = Judge::new(&masters(&["10.9.9.9"]), &mut machine);
        // A container: an interface, an address, a route beside ours.
        machine.ways.push((ip("172.17.0.2"), way(8, "172.17.0.1")));
        machine.addresses.push(ip("172.17.0.1"));
        assert_eq!(judge.judge(session("10.1.2.3", "10.9.9.9"), &mut machine), None);
        assert_eq!(judge.judge(None, &mut machine), None);
    }

    #[test]
    fn only_links_on_the_way_are_looked_at() {
        let judge = Judge::new(&masters(&["10.9.9.9"]), &mut machine("10.9.9.9"));
        let link = |interface| Message::Link { interface, running: false };
        assert_eq!((judge.concerns(link(3)), judge.concerns(link(8))), (true, false));
        assert!(judge.concerns(Message::Address { interface: 8 }));
        assert!(!judge.concerns(Message::Error));
    }

    #[test]
    fn a_lost_address_is_graver_than_another_way() {
        let mut machine = machine("10.9.9.9");
        let mut judge = Judge::new(&masters(&["10.9.9.9"]), &mut machine);
        machine.ways[0].1 = way(4, "10.7.7.7");
        let mapped = session("::ffff:10.1.2.3", "::ffff:10.9.9.9");
        assert_eq!(judge.judge(mapped, &mut machine), Some(Verdict::RouteChanged));
        assert_eq!(judge.judge(mapped, &mut machine), None, "told once");
        machine.addresses.clear();
        machine.ways.clear();
        assert_eq!(judge.judge(mapped, &mut machine), Some(Verdict::AddressGone));
    }

    #[test]
    fn without_a_session_only_a_way_that_leads_somewhere_counts() {
        let mut machine = machine("10.9.9.9");
        let mut judge = Judge::new(&masters(&["10.9.9.9"]), &mut machine);
        machine.ways[0].1.running = false;
        assert_eq!(judge.judge(None, &mut machine), None, "the cable is out");
        machine.ways[0].1.running = true;
        assert_eq!(judge.judge(None, &mut machine), Some(Verdict::Came), "it is in again");
        let there = std::mem::take(&mut machine.ways);
        assert_eq!(judge.judge(None, &mut machine), None, "no route");
        machine.ways = there;
        assert_eq!(judge.judge(None, &mut machine), Some(Verdict::Came));
        machine.ways[0].1.gateway = None;
        assert_eq!(judge.judge(None, &mut machine), Some(Verdict::Came), "another way is a new chance");
        assert_eq!(judge.judge(None, &mut machine), None);
    }

    #[test]
    fn a_way_to_any_of_several_masters_is_a_chance_and_one_sessions_way_is_its_own() {
        let mut machine = machine("10.9.9.9");
        let mut judge = Judge::new(&masters(&["10.9.9.9", "10.8.8.8"]), &mut machine);
        machine.ways.push((ip("10.8.8.8"), way(4, "10.7.7.7")));
        assert_eq!(judge.judge(session("10.1.2.3", "10.9.9.9"), &mut machine), None);
        machine.ways[1].1.gateway = None;
        assert_eq!(judge.judge(None, &mut machine), Some(Verdict::Came));
    }

    #[test]
    fn a_name_stands_for_the_default_route_until_it_was_reached() {
        let mut machine = machine("192.0.2.1");
        let mut judge = Judge::new(&masters(&["master.example"]), &mut machine);
        machine.ways[0].1 = way(4, "10.7.7.7");
        assert_eq!(judge.judge(None, &mut machine), Some(Verdict::Came));
        machine.ways.push((ip("10.9.9.9"), way(3, "10.1.2.3")));
        judge.met("master.example:50050", "10.9.9.9:50050".parse().unwrap(), &mut machine);
        machine.ways[0].1 = way(5, "10.7.7.8");
        assert_eq!(judge.judge(None, &mut machine), None, "the default route is no longer its way");
        machine.ways[1].1 = way(5, "10.7.7.8");
        assert_eq!(judge.judge(None, &mut machine), Some(Verdict::Came));
    }

    #[test]
    fn another_list_keeps_what_is_known_of_a_master_that_stays() {
        let mut machine = machine("10.9.9.9");
        let mut judge = Judge::new(&masters(&["master.example"]), &mut machine);
        judge.met("master.example:50050", "10.9.9.9:50050".parse().unwrap(), &mut machine);
        machine.ways[0].1 = way(4, "10.7.7.7");
        judge.set(&masters(&["other.example", "master.example"]), &mut machine);
        let session = session("10.1.2.3", "10.9.9.9");
        assert_eq!(judge.judge(session, &mut machine), Some(Verdict::RouteChanged), "its way, and what it was before");
        judge.set(&masters(&["other.example"]), &mut machine);
        machine.ways[0].1 = way(5, "10.7.7.8");
        assert_eq!(judge.judge(session, &mut machine), None, "nobody's way any more");
    }
}
