//! The circuit breaker of one master: whether it is worth trying.
//!
//! ```text
//! [Closed]──failures_max failed attempts in a row──→[Open]──open_for over──→ tried once: [HalfOpen]
//!    ▲                                                ▲                            │        │
//!    └────────────────────── success ─────────────────┼────────────────────────────┘        │
//!                                                     └───────────── failure ───────────────┘
//! ```

use std::time::Duration;

/// Counts the failed attempts of one master. Answers that ask for patience are none: they are not told to it.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// In a row.
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Duration,
    },
    HalfOpen,
}

/// What has become of a breaker, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerChange {
    /// Skipped from now on, for so long, after so many failures in a row.
    Opened { failures: u32, open_for: Duration },
    /// The one attempt after that failed: skipped again.
    Reopened { open_for: Duration },
    /// Tried once.
    HalfOpen,
    /// The master is back.
    Closed,
}

impl Breaker {
    /// When the master may be tried again, if it is skipped.
    pub fn open_until(&self) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen => None,
        }
    }

    /// An attempt begins. One on an open breaker is the one that decides, even before its time.
    pub fn tried(&mut self) -> Option<BreakerChange> {
        self.open_until()?;
        self.state = State::HalfOpen;
        Some(BreakerChange::HalfOpen)
    }

    /// The attempt failed.
    pub fn failed(&mut self, now: Duration, failures_max: u32, open_for: Duration) -> Option<BreakerChange> {
        self.failures = self.failures.saturating_add(1);
        let change = match self.state {
            State::HalfOpen => BreakerChange::Reopened { open_for },
            State::Closed if self.failures >= failures_max => {
                BreakerChange::Opened { failures: self.failures, open_for }
            }
            State::Closed | State::Open { .. } => return None,
        };
        self.state = State::Open { until: now.saturating_add(open_for) };
        Some(change)
    }

    /// The attempt succeeded.
    pub fn succeeded(&mut self) -> Option<BreakerChange> {
        let was = std::mem::take(self);
        (was.state != State::Closed).then_some(BreakerChange::Closed)
    }

    /// What the failures came from is another now: an open one may be tried at once.
    pub fn shorten(&mut self, now: Duration) {
        if let State::Open { until } = &mut self.state {
            *until = now.min(*until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fail(breaker: &mut Breaker, now: u64) -> Option<BreakerChange> {
        breaker.failed(s(now), 3, s(300))
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert_eq!((fail(&mut breaker, 1), fail(&mut breaker, 2)), (None, None));
        assert_eq!(fail(&mut breaker, 9), Some(BreakerChange::Opened { failures: 3, open_for: s(300) }));
        assert_eq!(breaker.open_until(), Some(s(309)));
        breaker
    }

    #[test]
    fn so_many_failures_in_a_row_open_it_and_one_success_between_does_not() {
        opened();
        let mut breaker = Breaker::default();
        for now in 0..100 {
            assert_eq!((fail(&mut breaker, now), fail(&mut breaker, now)), (None, None));
            assert_eq!(breaker.succeeded(), None, "it was never open");
        }
    }

    #[test]
    fn half_open_a_success_closes_and_the_count_begins_anew() {
        let mut breaker = opened();
        assert_eq!(breaker.tried(), Some(BreakerChange::HalfOpen));
        assert_eq!((breaker.succeeded(), breaker.open_until()), (Some(BreakerChange::Closed), None));
        assert_eq!((fail(&mut breaker, 400), fail(&mut breaker, 401)), (None, None));
        assert_eq!(breaker.tried(), None);
    }

    #[test]
    fn half_open_a_single_failure_opens_it_again() {
        let mut breaker = opened();
        breaker.tried();
        assert_eq!(fail(&mut breaker, 310), Some(BreakerChange::Reopened { open_for: s(300) }));
        assert_eq!(breaker.open_until(), Some(s(610)));
    }

    #[test]
    fn shortening_never_lengthens() {
        let mut breaker = opened();
        breaker.shorten(s(400));
        assert_eq!(breaker.open_until(), Some(s(309)));
        breaker.shorten(s(20));
        assert_eq!(breaker.open_until(), Some(s(20)));
    }
}
