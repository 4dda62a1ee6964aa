//! How many connections an address has, and how many of them have shown nothing yet. Pure.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

/// What one address may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub each: usize,
    /// … that have shown nothing yet.
    pub unknown_each: usize,
}

impl Limits {
    /// None.
    pub const NONE: Self = Self { each: usize::MAX, unknown_each: usize::MAX };
}

/// Why there is no place for another connection of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    All,
    Unknown,
}

/// Whom connections are counted for: an IPv4 address, or the 64 bits of an IPv6 address that one customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// Everybody's. As large as there are connections open: an address without one has no entry.
#[derive(Debug, Default)]
pub struct Places {
    open: usize,
    unknown: usize,
    of: HashMap<Source, Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    open: usize,
    unknown: usize,
}

impl Places {
    /// Of all addresses.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Of all addresses, those that have shown nothing yet.
    pub fn unknown(&self) -> usize {
        self.unknown
    }

    /// One more connection, of which nothing is known yet.
    ///
    /// # Errors
    /// Its address has as many as it may have: close it.
    pub fn take(&mut self, source: Source, limits: Limits) -> Result<(), Full> {
        let Count { open, unknown } = self.of.get(&source).copied().unwrap_or_default();
        if open >= limits.each {
            return Err(Full::All);
        }
        if unknown >= limits.unknown_each {
            return Err(Full::Unknown);
        }
        self.of.insert(source, Count { open: open + 1, unknown: unknown + 1 });
        self.open += 1;
        self.unknown += 1;
        Ok(())
    }

    /// One of its connections has shown who it is.
    pub fn known(&mut self, source: Source) {
        let count = self.of.get_mut(&source).expect("it has a connection");
        count.unknown -= 1;
        self.unknown -= 1;
    }

    /// One of its connections is closed; `unknown`: it has never shown who it is.
    pub fn leave(&mut self, source: Source, unknown: bool) {
        let count = self.of.get_mut(&source).expect("it has a connection");
        count.open -= 1;
        count.unknown -= usize::from(unknown);
        if count.open == 0 {
            self.of.remove(&source);
        }
        self.open -= 1;
        self.unknown -= usize::from(unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { each: 3, unknown_each: 2 };

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn an_address_has_so_many_places_and_fewer_until_it_has_shown_something() {
        let mut places = Places::default();
        let one = source("192.0.2.1");
        assert_eq!(places.take(one, LIMITS), Ok(()));
        assert_eq!(places.take(one, LIMITS), Ok(()));
        assert_eq!(places.take(one, LIMITS), Err(Full::Unknown));
        places.known(one);
        assert_eq!((places.open(), places.unknown()), (2, 1));
        assert_eq!(places.take(one, LIMITS), Ok(()));
        places.known(one);
        assert_eq!(places.take(one, LIMITS), Err(Full::All), "three, of which one has shown nothing");
        places.leave(one, true);
        assert_eq!((places.open(), places.unknown()), (2, 0));
        assert_eq!(places.take(one, LIMITS), Ok(()));
    }

    #[test]
    fn one_address_takes_nothing_from_another() {
        let mut places = Places::default();
        let (hostile, honest) = (source("127.0.0.2"), source("127.0.0.1"));
        while places.take(hostile, LIMITS).is_ok() {}
        assert_eq!(places.take(honest, LIMITS), Ok(()));
        assert_eq!((places.open(), places.unknown()), (3, 3));
    }

    #[test]
    fn an_address_without_connections_takes_no_memory() {
        let mut places = Places::default();
        for n in 0..1_000 {
            let one = Source::of(std::net::Ipv4Addr::from_bits(n).into());
            places.take(one, LIMITS).unwrap();
            if n % 2 == 0 {
                places.known(one);
            }
            places.leave(one, n % 2 == 1);
        }
        assert_eq!((places.open(), places.unknown(), places.of.len()), (0, 0, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_ipv4_is_the_same_in_both() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:1:2:3::4").to_string(), "2001:db8:1:2::/64");
        assert_eq!(source("::ffff:192.0.2.1").to_string(), "192.0.2.1");
    }
}
