//! How long to wait before the next attempt.

use std::time::Duration;

/// The documented table: initial, doubled, up to the longest; drawn downwards by the jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    pub delay_initial: Duration,
    pub delay_max: Duration,
    pub multiplier: f64,
    /// 0 to 1: the part of a wait that is drawn. 0 gives the table exactly.
    pub jitter: f64,
    waits: u32,
    random: Random,
}

impl Backoff {
    pub fn new(delay_initial: Duration, delay_max: Duration, multiplier: f64, jitter: f64, seed: u64) -> Self {
        Self { delay_initial, delay_max, multiplier, jitter, waits: 0, random: Random(seed) }
    }

    /// Other parameters for the waits to come; how many there were stays.
    pub fn set(&mut self, delay_initial: Duration, delay_max: Duration, multiplier: f64, jitter: f64) {
        (self.delay_initial, self.delay_max) = (delay_initial, delay_max);
        (self.multiplier, self.jitter) = (multiplier, jitter);
    }

    /// `min(delay_initial * multiplier^(k-1), delay_max)`, saturating: the longest that the k-th wait (from 1) can be.
    pub fn delay(&self, k: u32) -> Duration {
        let exponent = i32::try_from(k.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.delay_initial.as_secs_f64() * self.multiplier.powi(exponent);
        if seconds < self.delay_max.as_secs_f64() { Duration::from_secs_f64(seconds) } else { self.delay_max }
    }

    /// The longest that the next wait can be.
    pub fn next_delay(&self) -> Duration {
        self.delay(self.waits.saturating_add(1))
    }

    /// The next wait since the start or the last [`Self::reset`], drawn from `[delay * (1 - jitter), delay]`.
    pub fn next_wait(&mut self) -> Duration {
        self.waits = self.waits.saturating_add(1);
        let delay = self.delay(self.waits);
        self.draw(delay)
    }

    /// A wait of the longest delay, drawn likewise, that is not counted: for what a person has to mend.
    pub fn longest_wait(&mut self) -> Duration {
        self.draw(self.delay_max)
    }

    /// The latest wait was one of the longest.
    pub fn is_longest(&self) -> bool {
        self.delay(self.waits) == self.delay_max
    }

    /// The session was stable: the next wait is the first again.
    pub fn reset(&mut self) {
        self.waits = 0;
    }

    fn draw(&mut self, delay: Duration) -> Duration {
        delay - delay.mul_f64(self.jitter * self.random.unit())
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). Spreads waits; guards
/// nothing.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    /// Uniform in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The upper 53 bits: as many as an f64's mantissa holds.
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn documented(jitter: f64, seed: u64) -> Backoff {
        Backoff::new(5 * SECOND, 60 * SECOND, 2.0, jitter, seed)
    }

    #[test]
    fn without_jitter_the_waits_are_the_documented_table() {
        let mut backoff = documented(0.0, 1);
        let waits: Vec<u64> = (0..6).map(|_| backoff.next_wait().as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn jitter_only_shortens_and_uses_its_whole_range() {
        for jitter in [0.2, 1.0] {
            let (mut least, mut most) = (f64::MAX, 0.0_f64);
            for seed in 0..2_000 {
                let mut backoff = documented(jitter, seed);
                for k in 1..=6 {
                    let (wait, delay) = (backoff.next_wait(), backoff.delay(k));
                    let ratio = wait.as_secs_f64() / delay.as_secs_f64();
                    assert!(wait <= delay && ratio >= 1.0 - jitter - 1e-9, "wait {wait:?} for {delay:?}, seed {seed}");
                    least = least.min(ratio);
                    most = most.max(ratio);
                }
            }
            assert!(least < 1.0 - jitter + 0.01 && most > 0.99, "drawn from {least} to {most}");
        }
    }

    #[test]
    fn a_year_of_attempts_stays_at_the_longest_delay() {
        let backoff = documented(0.0, 1);
        for k in [7, 1_000, 600_000, u32::MAX] {
            assert_eq!(backoff.delay(k), 60 * SECOND);
        }
        let steep = Backoff::new(Duration::MAX / 4, Duration::MAX / 2, 100.0, 0.0, 1);
        assert_eq!(steep.delay(u32::MAX), Duration::MAX / 2);
    }

    #[test]
    fn a_reset_begins_the_table_again() {
        let mut backoff = documented(0.0, 1);
        backoff.next_wait();
        backoff.next_wait();
        backoff.reset();
        assert_eq!(backoff.next_wait(), 5 * SECOND);
    }
}
