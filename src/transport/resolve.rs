//! Names to addresses, on a helper thread: a resolver can hang for half a minute.

use super::Failure;
use crate::config::MasterAddress;
use link::LossReason;
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::task::JoinHandle;

/// At most one look-up is under way: one that outlived its attempt is waited for by the next attempt for the same
/// name, so that a hung resolver never holds more than its one thread.
#[derive(Default)]
pub struct Resolver {
    pending: Option<(MasterAddress, JoinHandle<io::Result<Vec<SocketAddr>>>)>,
}

impl Resolver {
    /// All addresses, IPv6 and IPv4 in turns, in the order of the system (RFC 8305, section 4).
    ///
    /// # Errors
    /// `dns` when there is none.
    ///
    /// # Cancel safety
    /// Safe: the look-up goes on and is taken up by the next call.
    pub async fn resolve(&mut self, master: &MasterAddress) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(ip) = master.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, master.port)]);
        }
        if self.pending.as_ref().is_some_and(|(_, task)| task.is_finished()) {
            self.pending = None; // of an earlier attempt: the answer may be old
        }
        if let Some((other, task)) = &mut self.pending
            && other != master
        {
            let _ = task.await;
            self.pending = None;
        }
        let (_, task) = self.pending.get_or_insert_with(|| {
            let name = (master.host.clone(), master.port);
            let look_up = move || std::net::ToSocketAddrs::to_socket_addrs(&name).map(Iterator::collect);
            (master.clone(), tokio::task::spawn_blocking(look_up))
        });
        let found = task.await.map_err(|error| Failure::new(LossReason::Dns, error.to_string()))?;
        self.pending = None;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(LossReason::Dns, format!("cannot resolve {}: {error}", master.host))
        };
        let found = found.map_err(|error| failed(&error))?;
        if found.is_empty() { Err(failed(&"no address")) } else { Ok(in_turns(found)) }
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

    #[test]
    fn families_take_turns_beginning_with_the_systems_choice() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect("literal");
        let [a, b, c, d] = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1"].map(parse);
        assert_eq!(in_turns(vec![a, b, c, d, a]), [a, c, b, d]);
        assert_eq!(in_turns(vec![c, a]), [c, a]);
        assert_eq!(in_turns(vec![]), []);
    }
}
