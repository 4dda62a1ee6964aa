//! How often somebody may fail to sign in. Pure.

use std::{collections::HashMap, net::IpAddr, time::Duration};

/// Failures in a row that cost no waiting: more than anybody mistypes.
const FREE: u32 = 10;
/// One more after each of these.
pub const EVERY: Duration = Duration::from_secs(6);
/// Addresses that are remembered; with so many failing at once, all wait.
const ADDRESSES_MAX: usize = 1024;

/// For each address, when its failures are forgiven: each adds [`EVERY`].
#[derive(Debug, Default)]
pub struct Failures {
    until: HashMap<IpAddr, Duration>,
}

impl Failures {
    pub fn may_try(&mut self, now: Duration, from: IpAddr) -> bool {
        self.until.retain(|_, until| *until > now);
        match self.until.get(&from) {
            Some(until) => until.saturating_sub(now) <= EVERY * (FREE - 1),
            None => self.until.len() < ADDRESSES_MAX,
        }
    }

    pub fn failed(&mut self, now: Duration, from: IpAddr) {
        let until = self.until.entry(from).or_insert(now);
        *until = (*until).max(now) + EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn ten_failures_are_free_then_one_each_six_seconds_for_each_address_by_itself() {
        let mut failures = Failures::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let s = Duration::from_secs;
        for n in 0..10 {
            assert!(failures.may_try(s(0), one), "{n}");
            failures.failed(s(0), one);
        }
        assert!(!failures.may_try(s(0), one) && !failures.may_try(s(5), one));
        assert!(failures.may_try(s(0), other));
        assert!(failures.may_try(s(6), one));
        failures.failed(s(6), one);
        assert!(!failures.may_try(s(6), one) && failures.may_try(s(12), one));
        assert!(failures.may_try(s(1000), one) && failures.until.is_empty());
    }

    #[test]
    fn a_flood_of_addresses_is_not_remembered_without_bound() {
        let mut failures = Failures::default();
        for n in 0..2 * ADDRESSES_MAX as u32 {
            let from = IpAddr::from(Ipv4Addr::from_bits(n));
            if failures.may_try(Duration::ZERO, from) {
                failures.failed(Duration::ZERO, from);
            }
        }
        assert_eq!(failures.until.len(), ADDRESSES_MAX);
    }
}
