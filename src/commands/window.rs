//! How much output may be under way to the master, over all commands. Pure.

use std::time::Duration;

/// At first, too. At 10 kbit/s twice as much, and the first heartbeat stands behind it for longer than its 5 s.
pub const SIZE_MIN: u64 = 2 * 1024;
pub const SIZE_MAX: u64 = 1024 * 1024;

/// Most of one message.
const CHUNK_MAX: u64 = 64 * 1024;

/// Acknowledgements faster than this let it grow.
const FAST: Duration = Duration::from_millis(500);

/// Slower ones than this shrink it: a heartbeat behind so much output would come late.
const SLOW: Duration = Duration::from_secs(1);

/// On a slow link the socket's buffer is a queue that heartbeats stand in: so it is kept short. Changes at most once
/// for each round of acknowledgements, and grows only if it was what held the output up.
#[derive(Debug)]
pub struct Window {
    size: u64,
    in_flight: u64,
    /// Since the last change.
    peak: u64,
    sent: u64,
    acked: u64,
    /// `sent` at the last change: what is acknowledged beyond was sent after it.
    round: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { size: SIZE_MIN, in_flight: 0, peak: 0, sent: 0, acked: 0, round: 0 }
    }
}

impl Window {
    /// How many of `pending` bytes may be sent in one message now. 0: wait for an acknowledgement. Waits rather than
    /// breaking the output into crumbs.
    pub fn allowance(&self, pending: u64) -> u64 {
        let free = self.size.saturating_sub(self.in_flight);
        if free < pending.min(self.size / 4).min(CHUNK_MAX) { 0 } else { free.min(pending).min(CHUNK_MAX) }
    }

    pub fn sent(&mut self, bytes: u64) {
        self.in_flight += bytes;
        self.sent += bytes;
        self.peak = self.peak.max(self.in_flight);
    }

    /// `after`: how long the acknowledgement took.
    pub fn acked(&mut self, bytes: u64, after: Duration) {
        self.forget(bytes);
        if self.acked <= self.round {
            return;
        }
        let size = match after {
            after if after > SLOW => self.size / 2,
            after if after < FAST && self.peak >= self.size / 2 => self.size * 2,
            _ => return,
        };
        self.size = size.clamp(SIZE_MIN, SIZE_MAX);
        self.round = self.sent;
        self.peak = self.in_flight;
    }

    /// Will not be acknowledged: its call is over.
    pub fn forget(&mut self, bytes: u64) {
        assert!(bytes <= self.in_flight, "more acknowledged than was sent");
        self.in_flight -= bytes;
        self.acked += bytes;
    }

    #[cfg(test)]
    pub fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends whatever is allowed, then has all of it acknowledged.
    fn round(window: &mut Window, after: Duration) -> u64 {
        let mut sent = Vec::new();
        loop {
            match window.allowance(u64::MAX) {
                0 => break,
                bytes => {
                    window.sent(bytes);
                    sent.push(bytes);
                }
            }
        }
        let total = sent.iter().sum();
        for bytes in sent {
            window.acked(bytes, after);
        }
        total
    }

    #[test]
    fn fast_acknowledgements_double_it_once_a_round_up_to_a_mebibyte() {
        let mut window = Window::default();
        let sizes: Vec<_> = (0..11).map(|_| round(&mut window, 499 * MS) / 1024).collect();
        assert_eq!(sizes, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]);
    }

    #[test]
    fn slow_acknowledgements_halve_it_down_to_two_kibibytes_and_middling_ones_leave_it() {
        let mut window = Window::default();
        for _ in 0..4 {
            round(&mut window, MS);
        }
        assert_eq!(round(&mut window, 1000 * MS), 32 * 1024);
        assert_eq!(round(&mut window, 500 * MS), 32 * 1024);
        let sizes: Vec<_> = (0..7).map(|_| round(&mut window, 1001 * MS) / 1024).collect();
        assert_eq!(sizes, [32, 16, 8, 4, 2, 2, 2]);
    }

    #[test]
    fn a_command_that_writes_little_does_not_open_it() {
        let mut window = Window::default();
        for _ in 0..100 {
            window.sent(80);
            window.acked(80, MS);
        }
        assert_eq!(window.size(), SIZE_MIN);
    }

    #[test]
    fn a_full_window_waits_and_opens_in_no_crumbs() {
        let mut window = Window::default();
        assert_eq!(window.allowance(10), 10);
        window.sent(SIZE_MIN);
        assert_eq!(window.allowance(10), 0);
        window.acked(100, 600 * MS);
        assert_eq!(window.allowance(10_000), 0, "a quarter of the window at least");
        assert_eq!(window.allowance(100), 100, "unless that is all there is");
        window.acked(412, 600 * MS);
        assert_eq!(window.allowance(10_000), 512);
    }

    #[test]
    fn messages_stay_small_in_a_wide_window() {
        let mut window = Window::default();
        for _ in 0..11 {
            round(&mut window, MS);
        }
        assert_eq!(window.allowance(u64::MAX), 64 * 1024);
    }

    #[test]
    fn a_call_that_ends_gives_back_what_it_had_under_way() {
        let mut window = Window::default();
        window.sent(SIZE_MIN);
        window.forget(SIZE_MIN);
        assert_eq!(window.allowance(u64::MAX), SIZE_MIN);
    }
}
