//! An allowance that comes back with time. Pure.

use std::time::Duration;

/// So much at once, and then so much more with time.
#[derive(Clone, Debug)]
pub struct Bucket {
    max: u64,
    /// One more after each of these.
    every: Duration,
    left: u64,
    /// Up to when `left` is counted.
    counted: Duration,
}

impl Bucket {
    /// A full one.
    pub fn new(now: Duration, max: u64, every: Duration) -> Self {
        Self { max, every, left: max, counted: now }
    }

    /// Takes so much, if it is there.
    pub fn take(&mut self, now: Duration, wanted: u64) -> bool {
        self.fill(now);
        let enough = self.left >= wanted;
        if enough {
            self.left -= wanted;
        }
        enough
    }

    /// Whether nothing is missing of it.
    pub fn is_full(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.left == self.max
    }

    fn fill(&mut self, now: Duration) {
        let more = now.saturating_sub(self.counted).as_nanos() / self.every.as_nanos().max(1);
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(more).min(self.max);
        // What has begun of the next one is not lost, unless there is no room for it.
        let passed = u64::try_from(self.every.as_nanos()).unwrap_or(u64::MAX).saturating_mul(more);
        self.counted = if self.left == self.max { now } else { self.counted + Duration::from_nanos(passed) };
    }
}

/// Lines that somebody can cause without end: of many only some are written, and the others are counted.
#[derive(Debug)]
pub struct Lines {
    bucket: Bucket,
    unwritten: u64,
}

impl Lines {
    /// Of the log so many at once: more than one agent or person that is wrong makes.
    const LOG_MAX: u64 = 30;
    /// Then one in so long.
    const LOG_EVERY: Duration = Duration::from_secs(10);

    /// Those of the log.
    pub fn of_log(now: Duration) -> Self {
        Self::new(now, Self::LOG_MAX, Self::LOG_EVERY)
    }

    /// So many at once, and then one in so long.
    pub fn new(now: Duration, max: u64, every: Duration) -> Self {
        Self { bucket: Bucket::new(now, max, every), unwritten: 0 }
    }

    /// Whether one of now is written, with how many before it were not.
    pub fn count(&mut self, now: Duration) -> Option<u64> {
        if !self.bucket.take(now, 1) {
            self.unwritten += 1;
            return None;
        }
        Some(std::mem::take(&mut self.unwritten))
    }

    /// The same, with what to say of those at its end.
    pub fn written(&mut self, now: Duration) -> Option<String> {
        Some(match self.count(now)? {
            0 => String::new(),
            unwritten => format!(" ({unwritten} such lines before were not written)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn what_is_taken_comes_back_with_time_and_never_more_than_there_was() {
        let mut bucket = Bucket::new(MS(0), 5, MS(100));
        assert!(bucket.take(MS(0), 5) && !bucket.take(MS(99), 1));
        assert!(bucket.take(MS(150), 1) && !bucket.take(MS(199), 1));
        assert!(bucket.take(MS(200), 1), "the half before was not lost");
        assert!(!bucket.take(MS(90_000), 6) && bucket.take(MS(90_000), 5) && !bucket.take(MS(90_000), 1));
        assert!(bucket.take(MS(u64::MAX), 5));
    }

    #[test]
    fn who_knocks_without_end_writes_little_and_is_counted() {
        let mut lines = Lines::of_log(MS(0));
        let written = (0..1_000).filter(|_| lines.written(MS(0)) == Some(String::new())).count();
        assert_eq!(written, 30);
        let told = lines.written(MS(10_000)).expect("one more");
        assert_eq!(told, " (970 such lines before were not written)");
        assert_eq!(lines.written(MS(10_001)), None);
    }
}
