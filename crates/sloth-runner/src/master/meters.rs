//! What the master counts of its own work, from its start on.

use fleet::{Change, REASON_DOWNLINK_DEAD, REASON_NOT_READY};
use link::LossReason;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

/// Upper bounds of the store's latencies, seconds: an fsync of a good disk takes less than the second, of an SD card
/// under load as long as the last ones.
pub const STORE_BOUNDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Why a master loses agents, …
const LOSSES: [LossReason; 4] =
    [LossReason::HeartbeatTimeout, LossReason::ConnectionReset, LossReason::StreamClosed, LossReason::Superseded];
/// … and refuses them.
const REJECTIONS: [LossReason; 6] = [
    LossReason::Unauthorized,
    LossReason::DuplicateId,
    LossReason::NameTaken,
    LossReason::UnknownAgent,
    LossReason::Superseded,
    LossReason::Protocol,
];

/// Every outcome that a command can have.
const OUTCOMES: [&str; 7] = ["exited", "signaled", "timed_out", "cancelled", "interrupted", "refused", "expired"];

/// Behind a lock that is held for a few additions.
#[derive(Debug)]
pub struct Meters(Mutex<Counts>);

/// What was counted.
#[derive(Clone, Debug)]
pub struct Counts {
    pub registrations: u64,
    /// Registrations that were asked to come back later.
    pub sent_away: u64,
    /// By reason; those that a master has are there from the start.
    pub rejections: BTreeMap<String, u64>,
    pub losses: BTreeMap<String, u64>,
    /// By outcome; every outcome is there.
    pub commands: BTreeMap<String, u64>,
    pub store: Histogram,
    /// Writes that the store has not answered.
    pub store_waiting: u64,
    pub store_failures: u64,
    /// Why the last write failed, if it did.
    pub store_failure: Option<String>,
    /// Of the webhook, if there is one.
    pub webhook: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// One for each of [`STORE_BOUNDS`], each with all that is below it.
    pub below: [u64; STORE_BOUNDS.len()],
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    fn add(&mut self, value: f64) {
        for (below, bound) in self.below.iter_mut().zip(STORE_BOUNDS) {
            *below += u64::from(value <= bound);
        }
        self.count += 1;
        self.sum += value;
    }
}

impl Default for Meters {
    fn default() -> Self {
        let zeros = |words: &[&str]| words.iter().map(|word| ((*word).to_owned(), 0)).collect::<BTreeMap<_, _>>();
        // From the start on, so that the first of a kind is seen as a change.
        let losses = [&LOSSES.map(LossReason::word)[..], &[REASON_DOWNLINK_DEAD, REASON_NOT_READY]].concat();
        Self(Mutex::new(Counts {
            registrations: 0,
            sent_away: 0,
            rejections: zeros(&REJECTIONS.map(LossReason::word)),
            losses: zeros(&losses),
            commands: zeros(&OUTCOMES),
            store: Histogram::default(),
            store_waiting: 0,
            store_failures: 0,
            store_failure: None,
            webhook: zeros(&["delivered", "failed", "dropped"]),
        }))
    }
}

impl Meters {
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    pub fn registered(&self) {
        self.lock().registrations += 1;
    }

    pub fn sent_away(&self) {
        self.lock().sent_away += 1;
    }

    pub fn rejected(&self, reason: LossReason) {
        add(&mut self.lock().rejections, reason.word());
    }

    pub fn write_begins(&self) {
        self.lock().store_waiting += 1;
    }

    /// The store has answered. `happened`: kind and reason of each event that was to be made durable.
    pub fn write_ended(&self, took: Duration, result: &Result<(), String>, happened: &[(String, String)]) {
        let mut counts = self.lock();
        counts.store_waiting = counts.store_waiting.saturating_sub(1);
        counts.store.add(took.as_secs_f64());
        counts.store_failure = result.as_ref().err().cloned();
        if result.is_err() {
            counts.store_failures += 1;
            return;
        }
        for (kind, reason) in happened {
            match kind.as_str() {
                "agent.lost" => add(&mut counts.losses, reason),
                "command.finished" => add(&mut counts.commands, reason),
                _ => {}
            }
        }
    }

    /// `what`: delivered, failed, dropped.
    pub fn webhook(&self, what: &str) {
        add(&mut self.lock().webhook, what);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

fn add(counts: &mut BTreeMap<String, u64>, word: &str) {
    match counts.get_mut(word) {
        Some(count) => *count += 1,
        None => drop(counts.insert(word.to_owned(), 1)),
    }
}

/// Kind and reason of each event among the changes that is counted.
pub fn happened<S>(changes: &[Change<S>]) -> Vec<(String, String)> {
    let counted = |change: &Change<S>| match change {
        Change::AddEvent(event) if ["agent.lost", "command.finished"].contains(&event.kind.as_str()) => {
            Some((event.kind.clone(), event.reason.clone()))
        }
        _ => None,
    };
    changes.iter().filter_map(counted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_durable_is_counted_and_every_word_is_there_from_the_start() {
        let meters = Meters::default();
        let happened =
            [("agent.lost".to_owned(), "dns".to_owned()), ("command.finished".to_owned(), "exited".to_owned())];
        for result in [Ok(()), Err("full".to_owned()), Ok(())] {
            meters.write_begins();
            meters.write_ended(Duration::from_micros(700), &result, &happened);
        }
        meters.write_begins();
        let counts = meters.counts();
        assert_eq!((counts.losses["dns"], counts.losses["downlink_dead"], counts.commands["exited"]), (2, 0, 2));
        assert_eq!((counts.store.count, counts.store_waiting, counts.store_failures), (3, 1, 1));
        assert_eq!(counts.store.below[..3], [0, 3, 3]);
        assert_eq!(counts.store_failure, None, "the last one succeeded");
        for outcome in OUTCOMES {
            assert!(crate::master::rows::outcome_from(outcome).is_some() && counts.commands.contains_key(outcome));
        }
    }
}
