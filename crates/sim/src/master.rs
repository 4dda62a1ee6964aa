//! The master: the real registry and dispatch, driven as the master's core drives them, on a simulated store.

mod drive;
mod output;
mod store;

pub use drive::Fate;
pub use output::Log;
pub use store::Store;

use crate::Spec;
use fleet::{Change, Fleet, SessionId, Token};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// The machine that the master runs on.
pub struct Master {
    pub store: Store,
    pub backup: Option<Store>,
    pub process: Option<Process>,
    /// Counts the starts of the process.
    pub run: u64,
    /// The machine answers what the process does not.
    pub powered: bool,
    pub frozen_until: Duration,
    /// Nothing gets through to or from anybody before, by way.
    pub cut_until: [Duration; 2],
    pub write_time: Duration,
    pub writes_fail_until: Duration,
    pub wall_offset_ms: i64,
}

/// What is lost when the process dies.
pub struct Process {
    pub fleet: Fleet<Spec>,
    pub wires: BTreeMap<u64, Wire>,
    pub sessions: BTreeMap<SessionId, u64>,
    pub writes: VecDeque<(Vec<Change<Spec>>, Token)>,
    pub armed: Option<Duration>,
}

/// The master's end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    pub session: Option<SessionId>,
    pub asked: bool,
    /// Its last word is said.
    pub closing: bool,
}

impl Default for Master {
    fn default() -> Self {
        Self {
            store: Store::default(),
            backup: None,
            process: None,
            run: 0,
            powered: true,
            frozen_until: Duration::ZERO,
            cut_until: [Duration::ZERO; 2],
            write_time: Duration::from_millis(2),
            writes_fail_until: Duration::ZERO,
            wall_offset_ms: 0,
        }
    }
}
