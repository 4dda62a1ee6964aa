//! What others may read of the commands at any time, without asking the one that owns them.

use super::held::Pool;
use crate::metrics::{OUTCOMES, outcome_index};
use link::Outcome;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts the commands that have ended, and shows how much output is held. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    pool: Option<Arc<Pool>>,
    ended: Arc<[AtomicU64; OUTCOMES.len()]>,
}

impl Meter {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool: Some(pool), ..Self::default() }
    }

    pub(super) fn count(&self, outcome: &Outcome) {
        self.ended[outcome_index(outcome)].fetch_add(1, Relaxed);
    }

    /// By outcome, in the order of [`OUTCOMES`].
    pub fn ended(&self) -> [u64; OUTCOMES.len()] {
        std::array::from_fn(|index| self.ended[index].load(Relaxed))
    }

    /// Output that is held for the master: what `commands.spool_limit` bounds.
    pub fn spool_bytes(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.held_bytes())
    }
}
