//! The heartbeats of one session: when the next is due, which are unanswered, when it is too many.

use super::Params;
use std::{collections::VecDeque, time::Duration};

/// So many sent heartbeats are remembered to tell how late an acknowledgement was. More can be under way only if the
/// route changed again and again; the oldest are then forgotten, which costs a number in a log line.
const SENT_MAX: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct Beats {
    interval: Duration,
    seq: u64,
    last_ack: u64,
    failures: u32,
    /// Sent and not acknowledged, oldest first.
    sent: VecDeque<(u64, Duration)>,
    /// Until then some acknowledgement must come.
    answer_by: Option<Duration>,
    next_at: Duration,
    /// The way to the master is another since the last answer.
    rerouted: bool,
}

pub(super) enum Verdict {
    Quiet,
    Beat,
    /// One more went unanswered: so many in a row.
    Failed(u32),
}

pub(super) struct Acked {
    /// Unanswered heartbeats that it clears.
    pub failures: u32,
    pub round_trip: Duration,
}

impl Beats {
    pub fn new(params: &Params, now: Duration, interval: Option<Duration>) -> Self {
        Self {
            interval: clamp(params, interval.unwrap_or(params.heartbeat_interval)),
            seq: 0,
            last_ack: 0,
            failures: 0,
            sent: VecDeque::new(),
            answer_by: None,
            next_at: now,
            rerouted: false,
        }
    }

    /// When [`Self::judge`] has something to say.
    pub fn due(&self) -> Duration {
        self.answer_by.map_or(self.next_at, |at| at.min(self.next_at))
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The way to the master is another.
    pub fn rerouted(&mut self) {
        self.rerouted = true;
    }

    /// … and nothing has come over it yet.
    pub fn is_rerouted(&self) -> bool {
        self.rerouted
    }

    /// A missing answer is judged before the next beat is due: at interval = timeout both fall on the same moment, and
    /// one beat goes out.
    pub fn judge(&mut self, now: Duration) -> Verdict {
        if self.answer_by.is_some_and(|at| now >= at) {
            self.answer_by = None;
            self.failures += 1;
            Verdict::Failed(self.failures)
        } else if now >= self.next_at {
            Verdict::Beat
        } else {
            Verdict::Quiet
        }
    }

    /// The master says that it heard nothing for too long. Where the last heartbeat of `max` is under way, that settles
    /// it, and true is returned: the answer's time and the master's patience end at the same moment.
    pub fn settled_by_master(&mut self, max: u32) -> bool {
        let settled = self.answer_by.is_some() && self.failures + 1 == max;
        if settled {
            self.answer_by = None;
            self.failures = max;
        }
        settled
    }

    /// A heartbeat goes out now: its number, and the highest acknowledged one.
    pub fn sent(&mut self, params: &Params, now: Duration) -> (u64, u64) {
        self.seq += 1;
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.seq, now));
        self.answer_by.get_or_insert(now.saturating_add(params.heartbeat_timeout));
        self.next_at = now.saturating_add(self.interval);
        (self.seq, self.last_ack)
    }

    /// `None` for one that is no news: repeated, or of a heartbeat never sent.
    pub fn ack(&mut self, params: &Params, now: Duration, seq: u64, interval: Option<Duration>) -> Option<Acked> {
        if seq <= self.last_ack || seq > self.seq {
            return None;
        }
        self.last_ack = seq;
        let mut round_trip = Duration::ZERO;
        while let Some(&(number, at)) = self.sent.front().filter(|(number, _)| *number <= seq) {
            if number == seq {
                round_trip = now.saturating_sub(at);
            }
            self.sent.pop_front();
        }
        if let Some(interval) = interval {
            // Counted from the last beat, so that a stretched fleet slows down at once.
            self.next_at = self.next_at.saturating_sub(self.interval);
            self.interval = clamp(params, interval);
            self.next_at = self.next_at.saturating_add(self.interval);
        }
        self.answer_by = None;
        self.rerouted = false;
        Some(Acked { failures: std::mem::take(&mut self.failures), round_trip })
    }
}

/// A master may stretch the interval, and only so far.
fn clamp(params: &Params, interval: Duration) -> Duration {
    interval.clamp(params.heartbeat_interval, params.interval_max)
}
