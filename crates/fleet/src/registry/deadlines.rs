//! Deadlines in a heap. A deadline that moves away costs nothing: its old entry is looked at when it comes up, and put
//! back at the new time.

use crate::{AgentId, ConnId};
use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// What falls due. Whoever takes it checks whether it still means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Nothing was heard in this session for too long.
    Silence { agent: AgentId, epoch: u64 },
    /// The old session did not answer the probe on behalf of this newcomer.
    Probe { agent: AgentId, newcomer: ConnId },
}

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Duration, Due)>>,
}

/// Entries of ended sessions are tolerated up to this many beside those of living ones.
const STALE_MAX: usize = 4_096;

impl Deadlines {
    pub(super) fn push(&mut self, at: Duration, due: Due) {
        self.heap.push(Reverse((at, due)));
    }

    /// The earliest entry that is due at `now`.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Due> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, due))| due)
    }

    /// When to look again; may be earlier than anything is really due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops stale entries once they are many. `keep` says which still mean something.
    pub(super) fn compact(&mut self, living: usize, keep: impl Fn(&Due) -> bool) {
        if self.heap.len() > 2 * living + STALE_MAX {
            self.heap.retain(|Reverse((_, due))| keep(due));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
