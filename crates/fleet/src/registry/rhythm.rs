//! How often an agent beats: what it proposes, what it was told, and how long its silence is borne meanwhile.

use super::Timing;
use std::time::Duration;

/// The heartbeats of one session. A message with a new interval may still be on its way, so until the agent has
/// acknowledged it the longer one counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    own: Duration,
    /// How far the agent lets it be stretched.
    interval_max: Duration,
    /// What the agent tolerates beside one interval, and so does the master.
    tolerance: Duration,
    /// As the agent was last told, or proposed.
    interval: Duration,
    /// It was told a shorter one with the answer to this heartbeat; this longer one may still be in force.
    fading: Option<(u64, Duration)>,
}

impl Rhythm {
    /// As the agent proposes.
    pub fn new(timing: Timing) -> Self {
        let interval = timing.interval();
        Self {
            own: interval,
            interval_max: timing.interval_max(),
            tolerance: timing.patience() - interval,
            interval,
            fading: None,
        }
    }

    /// As the agent was last told, or proposed.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Longest silence.
    pub fn patience(&self) -> Duration {
        self.tolerance + self.fading.map_or(self.interval, |(_, before)| before.max(self.interval))
    }

    /// The agent is asked for an interval, derived from its own, with its registration.
    ///
    /// Returns what it is to be told; None where that is what it proposed.
    pub fn begin(&mut self, stretched: impl FnOnce(Duration) -> Duration) -> Option<Duration> {
        self.interval = self.allowed(stretched(self.own));
        (self.interval != self.own).then_some(self.interval)
    }

    /// … or with the answer to a heartbeat. `last_ack`: of which answer the agent knows.
    ///
    /// Returns what it is to be told; None where that is as before.
    pub fn go_on(&mut self, seq: u64, last_ack: u64, stretched: impl FnOnce(Duration) -> Duration) -> Option<Duration> {
        self.fading.take_if(|(answer, _)| *answer <= last_ack);
        let interval = self.allowed(stretched(self.own));
        if interval == self.interval {
            return None;
        }
        if interval < self.interval {
            let before = self.fading.map_or(self.interval, |(_, before)| before.max(self.interval));
            self.fading = Some((seq, before));
        }
        self.interval = interval;
        Some(interval)
    }

    fn allowed(&self, interval: Duration) -> Duration {
        interval.clamp(self.own, self.interval_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// 5 s, at most 60 s, three failures of 5 s.
    fn rhythm() -> Rhythm {
        Rhythm::new(Timing { interval_max: 60 * S, ..Timing::default() })
    }

    #[test]
    fn a_stretched_interval_is_told_once_and_extends_the_patience_at_once() {
        let mut rhythm = rhythm();
        assert_eq!(rhythm.begin(|own| own), None);
        assert_eq!(rhythm.patience(), 20 * S);
        assert_eq!(rhythm.go_on(1, 0, |own| 2 * own), Some(10 * S));
        assert_eq!(rhythm.patience(), 25 * S);
        assert_eq!(rhythm.go_on(2, 1, |own| 2 * own), None);
        assert_eq!(rhythm.patience(), 25 * S);
    }

    #[test]
    fn a_shorter_interval_counts_only_when_the_agent_has_heard_of_it() {
        let mut rhythm = rhythm();
        assert_eq!(rhythm.begin(|_| 30 * S), Some(30 * S));
        assert_eq!(rhythm.patience(), 45 * S);
        assert_eq!(rhythm.go_on(7, 6, |_| 10 * S), Some(10 * S));
        assert_eq!(rhythm.patience(), 45 * S, "the answer may be on its way");
        assert_eq!(rhythm.go_on(8, 6, |own| own), Some(5 * S));
        assert_eq!(rhythm.patience(), 45 * S);
        assert_eq!(rhythm.go_on(9, 7, |own| own), None);
        assert_eq!(rhythm.patience(), 45 * S, "it knows of the first change, not of the second");
        assert_eq!(rhythm.go_on(10, 8, |own| own), None);
        assert_eq!(rhythm.patience(), 20 * S);
    }

    #[test]
    fn nobody_is_stretched_further_than_it_allows_or_hurried() {
        let mut rhythm = rhythm();
        assert_eq!(rhythm.begin(|_| 1_000 * S), Some(60 * S));
        assert_eq!(rhythm.go_on(1, 0, |_| S), Some(5 * S));
        let mut firm = Rhythm::new(Timing::default());
        assert_eq!(firm.begin(|_| 60 * S), None, "it names no limit: as it proposed, and no other");
    }
}
