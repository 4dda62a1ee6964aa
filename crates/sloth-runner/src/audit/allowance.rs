//! How many lines of the audit file those cause who change nothing: each of them some, and all of them together some.
//! What changes something has no allowance: it is written, always.

use crate::bucket::Bucket;
use std::{collections::HashMap, time::Duration};

/// What may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of those who show nothing that was ever good; by address.
    Stranger,
    /// An agent is refused; by its id.
    Agent,
    /// Somebody is refused who shows what a person has, or had; by that.
    Person,
    /// Signing in to the web page and out; by token.
    SignedIn,
    /// By token: of a fleet that joins with one all are there.
    Joined,
    /// Certificates renewed and replaced; by agent.
    Renewed,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Stranger, Self::Agent, Self::Person, Self::SignedIn, Self::Joined, Self::Renewed];

    /// So many at once, of one and of all.
    fn max(self) -> (u64, u64) {
        match self {
            Self::Stranger | Self::Agent => (30, 60),
            Self::Person | Self::SignedIn => (30, 120),
            Self::Joined => (500, 1_000),
            Self::Renewed => (10, 500),
        }
    }
}

/// Then one more of one of them in so long: whoever goes on without end needs a week for the 10,000 lines that are kept
/// with the defaults.
const EACH_EVERY: Duration = Duration::from_secs(60);

/// … and of all: so there is room for others beside one who takes what he can.
const ALL_EVERY: Duration = Duration::from_secs(20);

/// Of each kind so many are told apart, those that were quiet for long forgotten first. All others are one.
const EACH_MAX: usize = 1_000;

/// Of all kinds.
pub struct Allowances([Allowance; Kind::ALL.len()]);

impl Allowances {
    pub fn new(now: Duration) -> Self {
        Self(Kind::ALL.map(|kind| Allowance::new(now, kind)))
    }

    /// Whether one more line of his is written, with how many were not since the last one of that kind that was.
    pub fn count(&mut self, now: Duration, kind: Kind, whose: &str) -> Option<u64> {
        self.0[kind as usize].count(now, whose)
    }
}

struct Allowance {
    each_max: u64,
    each: HashMap<String, Bucket>,
    /// When those that were quiet for long were forgotten last.
    cleared: Option<Duration>,
    all: Bucket,
    unwritten: u64,
}

impl Allowance {
    fn new(now: Duration, kind: Kind) -> Self {
        let (each_max, all_max) = kind.max();
        Self { each_max, each: HashMap::new(), cleared: None, all: Bucket::new(now, all_max, ALL_EVERY), unwritten: 0 }
    }

    fn count(&mut self, now: Duration, whose: &str) -> Option<u64> {
        if self.each.len() >= EACH_MAX
            && !self.each.contains_key(whose)
            && self.cleared.is_none_or(|cleared| now.saturating_sub(cleared) >= EACH_EVERY)
        {
            self.cleared = Some(now);
            self.each.retain(|_, left| !left.is_full(now));
        }
        let whose = if self.each.len() < EACH_MAX || self.each.contains_key(whose) { whose } else { "" };
        let max = self.each_max;
        let left = self.each.entry(whose.to_owned()).or_insert_with(|| Bucket::new(now, max, EACH_EVERY));
        if !left.take(now, 1) || !self.all.take(now, 1) {
            self.unwritten += 1;
            return None;
        }
        Some(std::mem::take(&mut self.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// How many of so many are written.
    fn written(allowances: &mut Allowances, now: Duration, kind: Kind, whose: &str, of: u64) -> u64 {
        (0..of).filter(|_| allowances.count(now, kind, whose).is_some()).count() as u64
    }

    #[test]
    fn who_goes_on_without_end_writes_little_and_is_counted() {
        let mut allowances = Allowances::new(S(0));
        assert_eq!(written(&mut allowances, S(0), Kind::SignedIn, "a", 17_514), 30);
        assert_eq!(allowances.count(S(59), Kind::SignedIn, "a"), None);
        assert_eq!(allowances.count(S(60), Kind::SignedIn, "a"), Some(17_485));
        assert_eq!(allowances.count(S(61), Kind::SignedIn, "a"), None);
        assert_eq!(written(&mut allowances, S(86_400), Kind::SignedIn, "a", 100), 30, "a quiet time fills it again");
        let day: u64 =
            (0..86_400).map(|second| written(&mut allowances, S(100_000 + second), Kind::SignedIn, "a", 5)).sum();
        assert_eq!(day, 30 + 1_440 - 1);
    }

    #[test]
    fn one_takes_nothing_from_another_and_one_kind_nothing_from_another() {
        let mut allowances = Allowances::new(S(0));
        for hour in 0..24 {
            for second in 0..3_600 {
                written(&mut allowances, S(3_600 * hour + second), Kind::Person, "flood", 5);
            }
            assert_eq!(written(&mut allowances, S(3_600 * hour + 3_600), Kind::Person, "eva", 30), 30, "{hour}");
            assert_eq!(written(&mut allowances, S(3_600 * hour + 3_600), Kind::Stranger, "flood", 99), 30, "{hour}");
        }
    }

    #[test]
    fn a_crowd_writes_no_more_than_a_bound_for_all_and_is_not_remembered_without_end() {
        let mut allowances = Allowances::new(S(0));
        let names = || (0..100_000).map(|n| format!("agent {n}"));
        let mut crowd = |now| names().filter(|name| allowances.count(now, Kind::Renewed, name).is_some()).count();
        assert_eq!((crowd(S(0)), crowd(S(10))), (500, 0));
        // Each of them is quiet for so long that the others are no more known.
        assert_eq!(crowd(S(86_400)), 500);
        assert!(allowances.0[Kind::Renewed as usize].each.len() <= EACH_MAX + 1);
    }

    #[test]
    fn each_kind_stands_at_its_own_place() {
        assert!(Kind::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
    }
}
