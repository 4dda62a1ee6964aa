//! How fast a fleet may come back. Pure: takes `now`, says who is let in, who is held for a moment, and who is asked to
//! come again and when.
//!
//! Places are given out at a fixed rate, one behind the other. Whoever's place comes within half of the time that it
//! still waits is held for it; the others are sent away until about the time when the queue has passed, each at a moment
//! of its own, so that they do not come back all at once.

use std::time::Duration;

/// Places that nobody took within this are there for whoever comes next, at once.
const BURST: Duration = Duration::from_secs(1);

/// Nobody is held for longer, whatever it says that it waits: the master gives up connections that are not registered
/// after 30 s, and so each second holds no more than the pace times this.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// Who is sent away comes back no sooner, …
const RETRY_MIN: Duration = Duration::from_secs(1);
/// … and no later: an agent takes no longer wait from a master.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// A master that goes has its agents come back no sooner than this: it, or its successor, needs a moment.
const GOODBYE_MIN: Duration = Duration::from_secs(1);

/// Over at least so long agents come back after a goodbye, however few they are: what each of them costs beside its
/// place, a handshake and a look into the store, is not done all at once.
const GOODBYE_SPREAD_MIN: Duration = Duration::from_secs(3);

/// An interval is stretched by no less than this much: agents are told rarely.
const STRETCH_STEPS: u32 = 4;

/// What becomes of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    Now,
    /// At this moment at the latest, which the pace has promised; if it leaves before, see [`Pace::give_back`].
    Hold(Duration),
    /// Not on this connection: it should come again after so long.
    Later(Duration),
}

/// The pace of registrations. Default: see [`Pace::new`].
#[derive(Clone, Debug)]
pub struct Pace {
    /// Between two places.
    gap: Duration,
    /// When the next place is free; in the past, if some were not taken.
    next: Duration,
    /// Agents that were sent away and are expected back: up to when, in places behind `next`.
    expected_until: Duration,
    spread: Spread,
}

impl Pace {
    /// `max_per_second`: registrations a second, at least 1.
    ///
    /// # Panics
    /// If it is 0: the configuration has checked it.
    pub fn new(max_per_second: u32) -> Self {
        assert!(max_per_second > 0, "a master that lets nobody in");
        let gap = Duration::from_secs(1) / max_per_second;
        Self { gap, next: Duration::ZERO, expected_until: Duration::ZERO, spread: Spread(0) }
    }

    /// A registration arrives. `still_waits`: how long the agent will wait for an answer, as it says.
    pub fn admit(&mut self, now: Duration, still_waits: Duration) -> Admit {
        let place = self.next.max(now.saturating_sub(BURST));
        if place <= now {
            self.next = place + self.gap;
            return Admit::Now;
        }
        if place - now <= (still_waits / 2).min(HOLD_MAX) {
            self.next = place + self.gap;
            return Admit::Hold(place);
        }
        Admit::Later(self.later(now, place))
    }

    /// Somebody who was held has left: those behind move up. Only for one who still waits.
    pub fn give_back(&mut self) {
        self.next = self.next.saturating_sub(self.gap);
    }

    /// The place of the first of so many who are held: theirs are the last places given out.
    pub fn first_place(&self, held: usize) -> Duration {
        self.next.saturating_sub(self.gap.saturating_mul(u32::try_from(held).unwrap_or(u32::MAX)))
    }

    /// After those who are held and those who were sent away before, each gets a place of its own in a second queue that
    /// is promised to nobody: by the time that it comes, others may have.
    fn later(&mut self, now: Duration, place: Duration) -> Duration {
        self.expected_until = self.expected_until.max(place) + self.gap;
        let queue = self.expected_until - now;
        // Beyond the longest wait there is no order to keep, only an even spread.
        if queue > RETRY_MAX {
            let span = RETRY_MAX / 2;
            self.expected_until = now + RETRY_MAX;
            return RETRY_MAX - span.mul_f64(self.spread.unit());
        }
        queue.max(RETRY_MIN)
    }

    /// For each of `n` agents that the master says goodbye to: when it should come back, so that they come no faster
    /// than at the pace, and not all at once. An only one comes after a second; of a large fleet the first waits until
    /// goodbyes were said at twice the pace, and so until the master may have ended: who finds nobody waits longer.
    pub fn goodbyes(&self, n: usize) -> impl ExactSizeIterator<Item = Duration> + use<> {
        let count = u32::try_from(n).unwrap_or(u32::MAX).max(1);
        let gap = self.gap.max(GOODBYE_SPREAD_MIN / count);
        let first = GOODBYE_MIN + self.gap.saturating_mul(count - 1) / 2;
        (0..n).map(move |place| {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            first.saturating_add(gap.saturating_mul(place)).min(RETRY_MAX)
        })
    }
}

/// The heartbeats of a whole fleet, kept under a rate.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    beats_per_second: u32,
}

impl Stretch {
    /// `max_per_second`: heartbeats a second that the master wants at most, at least 1.
    ///
    /// # Panics
    /// If it is 0: the configuration has checked it.
    pub fn new(max_per_second: u32) -> Self {
        assert!(max_per_second > 0, "a master that wants no heartbeats");
        Self { beats_per_second: max_per_second }
    }

    /// The interval for each of `agents` that proposes `own`: its own while the fleet is small, else longer in steps of a
    /// quarter. What the agent's `heartbeat.max_interval` does not allow, it does not do.
    pub fn interval(self, agents: usize, own: Duration) -> Duration {
        let needed = agents as f64 / f64::from(self.beats_per_second);
        let step = own.as_secs_f64() / f64::from(STRETCH_STEPS);
        if needed <= own.as_secs_f64() || step <= 0.0 {
            return own;
        }
        Duration::try_from_secs_f64((needed / step).ceil() * step).unwrap_or(Duration::MAX)
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). Spreads waits; guards
/// nothing.
#[derive(Clone, Debug)]
struct Spread(u64);

impl Spread {
    /// Uniform in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 53 bits: as many as an f64's mantissa holds.
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const NOW: Duration = Duration::from_secs(1_000);

    #[test]
    fn a_small_fleet_is_let_in_at_once_after_a_quiet_second() {
        let mut pace = Pace::new(100);
        for _ in 0..101 {
            assert_eq!(pace.admit(NOW, 10 * S), Admit::Now);
        }
        assert_eq!(pace.admit(NOW, 10 * S), Admit::Hold(NOW + S / 100));
    }

    #[test]
    fn over_any_time_no_more_come_in_than_the_pace_and_one_second_of_it() {
        let mut pace = Pace::new(10);
        let mut entries = Vec::new();
        for tick in 0..3_000_u32 {
            let now = NOW + S / 100 * tick;
            match pace.admit(now, 10 * S) {
                Admit::Now => entries.push(now),
                Admit::Hold(until) => {
                    assert!(until > now && until - now <= 5 * S, "held for more than half of its wait");
                    entries.push(until);
                }
                Admit::Later(after) => assert!((S..=RETRY_MAX).contains(&after), "{after:?}"),
            }
        }
        assert!(entries.is_sorted());
        for (index, from) in entries.iter().enumerate() {
            let within = entries[index..].iter().take_while(|at| **at < *from + 10 * S).count();
            assert!(within <= 110, "{within} in ten seconds");
        }
        assert!(entries.len() >= 300, "places were lost: {}", entries.len());
    }

    #[test]
    fn who_cannot_be_held_comes_back_when_the_queue_has_passed_each_at_its_own_moment() {
        let mut pace = Pace::new(10);
        let mut later = Vec::new();
        for _ in 0..1_000 {
            if let Admit::Later(after) = pace.admit(NOW, 10 * S) {
                later.push(after);
            }
        }
        // 11 at once, 50 within five seconds: the rest over the time that it takes.
        assert_eq!(later.len(), 1_000 - 61);
        assert!(later.is_sorted() && later[0] >= 5 * S, "{:?}", later[0]);
        let second = |after: &&Duration| after.as_secs() == 50;
        assert_eq!(later.iter().filter(second).count(), 10, "at the pace");
        assert!(later[938] <= 100 * S, "{:?}", later[938]);
    }

    #[test]
    fn a_queue_beyond_the_longest_wait_is_spread_over_its_second_half() {
        let mut pace = Pace::new(1);
        let later = (0..5_000).filter_map(|_| match pace.admit(NOW, S) {
            Admit::Later(after) => Some(after),
            _ => None,
        });
        let late: Vec<_> = later.skip(700).collect();
        let (least, most) = (late.iter().min().unwrap(), late.iter().max().unwrap());
        assert!(*least >= 300 * S && *least < 305 * S && *most > 595 * S && *most <= RETRY_MAX, "{least:?} {most:?}");
    }

    #[test]
    fn an_agent_that_will_not_wait_is_never_held() {
        let mut pace = Pace::new(1);
        assert_eq!(pace.admit(NOW, Duration::ZERO), Admit::Now);
        assert_eq!(pace.admit(NOW, Duration::ZERO), Admit::Now);
        assert!(matches!(pace.admit(NOW, Duration::ZERO), Admit::Later(_)));
    }

    #[test]
    fn goodbyes_bring_the_fleet_back_at_the_pace_and_nobody_later_than_agents_take() {
        let waits: Vec<_> = Pace::new(1_000).goodbyes(3_001).collect();
        let first = S * 5 / 2;
        assert_eq!((waits[0], waits[1], waits[3_000]), (first, first + S / 1_000, first + 3 * S));
        assert_eq!(Pace::new(1_000).goodbyes(1).collect::<Vec<_>>(), [S]);
        let few: Vec<_> = Pace::new(1_000).goodbyes(3).map(|wait| wait.as_millis()).collect();
        assert_eq!(few, [1_001, 2_001, 3_001], "few are spread, too");
        assert_eq!(Pace::new(1_000).goodbyes(0).len(), 0);
        assert_eq!(Pace::new(1).goodbyes(5_000).last(), Some(RETRY_MAX));
    }

    #[test]
    fn intervals_are_stretched_only_where_the_fleet_is_too_large_for_them() {
        let stretch = Stretch::new(5_000);
        assert_eq!(stretch.interval(25_000, 5 * S), 5 * S);
        assert_eq!(stretch.interval(25_001, 5 * S), Duration::from_millis(6_250));
        assert_eq!(stretch.interval(100_000, 5 * S), 20 * S);
        assert_eq!(stretch.interval(100_000, 60 * S), 60 * S);
        for agents in (0..1_000_000).step_by(7_919) {
            let interval = stretch.interval(agents, 5 * S);
            assert!(agents as f64 / interval.as_secs_f64() <= 5_000.1, "{agents}: {interval:?}");
        }
    }
}
