//! Names to addresses, on a helper thread: a resolver can hang for half a minute.

use super::Failure;
use crate::{clock::boottime, config::MasterAddress};
use link::LossReason;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};

/// How long an attempt waits for a resolver. Longer than a first server that does not answer (5 s in every libc) and a
/// second one that does; below the default of `connection.timeout`, so that the resolver is named as the cause.
const WAIT: Duration = Duration::from_secs(8);

/// An answer that came after its attempt is good for so long. Without it a resolver that is slower than an attempt
/// would never lead anywhere.
const FRESH: Duration = Duration::from_secs(60);

/// So many masters are remembered; of a longer list the oldest are forgotten, which costs them an attempt.
const MET_MAX: usize = 16;

type LookUp = JoinHandle<Answer>;

/// And when it came.
type Answer = (io::Result<Vec<SocketAddr>>, Duration);

/// At most one look-up is under way: one that outlived its attempt is waited for by the next attempt for the same
/// name, so that a hung resolver never holds more than its one thread.
#[derive(Default)]
pub struct Resolver {
    pending: Option<(MasterAddress, LookUp)>,
    /// One entry a master.
    met: Vec<Met>,
}

/// Where the latest connection to a master led.
struct Met {
    master: MasterAddress,
    peer: SocketAddr,
    /// A session that works came of it.
    served: bool,
}

impl Resolver {
    /// All addresses, IPv6 and IPv4 in turns, in the order of the system (RFC 8305, section 4), from the one that
    /// served last. One that took a connection and made nothing of it is the last of them: who wins the race is not
    /// yet a master, and would win the next one, too.
    ///
    /// # Errors
    /// `dns` when there is none, or the resolver does not answer within 8 s.
    ///
    /// # Cancel safety
    /// Safe: the look-up goes on and is taken up by the next call.
    pub async fn resolve(&mut self, master: &MasterAddress) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(ip) = master.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, master.port)]);
        }
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(LossReason::Dns, format!("cannot resolve {}: {why}", master.host))
        };
        let Ok(found) = timeout(WAIT, self.look_up(master)).await else {
            return Err(failed(&format!("no answer from the resolver within {}s", WAIT.as_secs())));
        };
        let found = found.map_err(|error| failed(&error))?;
        if found.is_empty() { Err(failed(&"no address")) } else { Ok(self.best_first(master, in_turns(found))) }
    }

    /// There is a connection to this address. Whether it is of use is seen later.
    pub fn connected(&mut self, master: &MasterAddress, peer: SocketAddr) {
        self.met.retain(|met| met.master != *master);
        if self.met.len() == MET_MAX {
            self.met.remove(0);
        }
        self.met.push(Met { master: master.clone(), peer, served: false });
    }

    /// It was: a heartbeat was answered.
    pub fn served(&mut self, peer: SocketAddr) {
        self.met.iter_mut().filter(|met| met.peer == peer).for_each(|met| met.served = true);
    }

    fn best_first(&self, master: &MasterAddress, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        if let Some(met) = self.met.iter().find(|met| met.master == *master)
            && let Some(place) = addresses.iter().position(|address| *address == met.peer)
        {
            addresses.rotate_left(if met.served { place } else { place + 1 });
        }
        addresses
    }

    async fn look_up(&mut self, master: &MasterAddress) -> io::Result<Vec<SocketAddr>> {
        if self.pending.as_ref().is_some_and(|(_, task)| task.is_finished())
            && let Some((name, task)) = self.pending.take()
            && name == *master
            && let Ok((Ok(found), at)) = task.await
            && boottime().saturating_sub(at) < FRESH
        {
            return Ok(found);
        }
        if let Some((other, task)) = &mut self.pending
            && other != master
        {
            let _ = task.await;
            self.pending = None;
        }
        let (_, task) = self.pending.get_or_insert_with(|| {
            let name = (master.host.clone(), master.port);
            let look_up = move || (std::net::ToSocketAddrs::to_socket_addrs(&name).map(Iterator::collect), boottime());
            (master.clone(), crate::helper::spawn(look_up))
        });
        let found = task.await;
        self.pending = None;
        found.map_err(io::Error::other)?.0
    }
}

/// The family of the first address first, then the other, and so on.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut same, mut other): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for address in addresses {
        let list = if address.is_ipv6() == first_is_v6 { &mut same } else { &mut other };
        if !list.contains(&address) {
            list.push(address);
        }
    }
    let mut turns = Vec::with_capacity(same.len() + other.len());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    loop {
        let pair = (same.next(), other.next());
        turns.extend(pair.0);
        turns.extend(pair.1);
        if pair == (None, None) {
            return turns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(address: &str, ago: Duration) -> LookUp {
        let found = vec![address.parse().expect("literal")];
        let at = boottime().saturating_sub(ago);
        tokio::spawn(async move { (Ok(found), at) })
    }

    /// No system resolves this name (RFC 6761).
    const NAME: &str = "master.invalid:1";

    #[tokio::test]
    async fn an_answer_that_came_after_its_attempt_serves_the_next_one_and_no_other() {
        let master = MasterAddress::parse(NAME).expect("an address");
        let mut resolver = Resolver::default();
        for (name, ago, serves) in
            [(NAME, Duration::ZERO, true), (NAME, FRESH, false), ("other.invalid:1", Duration::ZERO, false)]
        {
            let answer = finished("192.0.2.1:1", ago);
            while !answer.is_finished() {
                tokio::task::yield_now().await;
            }
            resolver.pending = Some((MasterAddress::parse(name).expect("an address"), answer));
            let found = resolver.resolve(&master).await;
            assert_eq!(found.is_ok_and(|found| found == ["192.0.2.1:1".parse().expect("literal")]), serves, "{name}");
            assert!(resolver.pending.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_is_named() {
        let master = MasterAddress::parse(NAME).expect("an address");
        let hangs = tokio::spawn(std::future::pending());
        let mut resolver = Resolver { pending: Some((master.clone(), hangs)), ..Resolver::default() };
        let failure = resolver.resolve(&master).await.expect_err("it hangs");
        assert_eq!(failure.reason, LossReason::Dns);
        assert_eq!(failure.detail, "cannot resolve master.invalid: no answer from the resolver within 8s");
        assert!(resolver.pending.is_some(), "it is waited for again");
    }

    #[test]
    fn who_took_a_connection_for_nothing_is_last_and_who_served_is_first() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect("literal");
        let [a, b, c] = ["[::1]:1", "1.1.1.1:1", "[::2]:1"].map(parse);
        let [master, other] = [NAME, "other.invalid:1"].map(|name| MasterAddress::parse(name).expect("an address"));
        let mut resolver = Resolver::default();
        let order = |resolver: &Resolver| resolver.best_first(&master, vec![a, b, c]);
        assert_eq!(order(&resolver), [a, b, c]);
        // Each of them has its turn, whatever becomes of other masters meanwhile.
        for (peer, next) in [(a, [b, c, a]), (b, [c, a, b]), (c, [a, b, c])] {
            resolver.connected(&master, peer);
            resolver.connected(&other, parse("9.9.9.9:1"));
            assert_eq!(order(&resolver), next);
        }
        resolver.connected(&master, b);
        resolver.served(b);
        assert_eq!(order(&resolver), [b, c, a]);
        resolver.connected(&master, b);
        assert_eq!(order(&resolver), [c, a, b], "it served once, and now it does not");
        resolver.connected(&master, parse("3.3.3.3:1"));
        assert_eq!(order(&resolver), [a, b, c], "it is not among the answers any more");
        for n in 0..100 {
            resolver.connected(&MasterAddress::parse(&format!("m{n}.invalid:1")).expect("an address"), a);
        }
        assert_eq!(resolver.met.len(), MET_MAX);
    }

    #[test]
    fn families_take_turns_beginning_with_the_systems_choice() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect("literal");
        let [a, b, c, d] = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1"].map(parse);
        assert_eq!(in_turns(vec![a, b, c, d, a]), [a, c, b, d]);
        assert_eq!(in_turns(vec![c, a]), [c, a]);
        assert_eq!(in_turns(vec![]), []);
    }
}
