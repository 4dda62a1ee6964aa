//! An agent's host: the real link and ledger, driven as the agent's driver drives them, with a simulated disk and
//! simulated programs.

mod commands;
mod disk;
mod drive;

pub use commands::{Out, Program, Task, room};
pub use disk::{Disk, Stored};
pub use drive::wakes;

use crate::{Spec, random::Random};
use link::{
    Link, Params,
    ledger::{Ledger, Params as LedgerParams, Record},
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// A machine that an agent runs on.
pub struct Host {
    pub name: String,
    pub disk: Disk,
    pub process: Option<Process>,
    /// Counts the starts of the process: events of an earlier one mean nothing.
    pub run: u64,
    /// It is to be started at some time.
    pub start_planned: bool,
    /// The process is stopped (SIGSTOP), or the machine sleeps.
    pub frozen_until: Duration,
    pub write_time: Duration,
    pub writes_fail_until: Duration,
    /// It says that it could not take a command.
    pub unready_until: Duration,
    /// What people set the clock on the wall to, beside the truth, in milliseconds.
    pub wall_offset_ms: i64,
    /// Another host of the same name, or a copy of another's disk.
    pub twin: Option<Twin>,
    pub params: Params,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The same name as that host.
    Name(usize),
    /// A copy of the disk of that host.
    Disk(usize),
}

/// What is lost when the agent's process dies.
pub struct Process {
    pub instance: [u8; 16],
    pub link: Link,
    pub ledger: Ledger<Spec>,
    pub conn: Option<u64>,
    /// Of the session, once registered.
    pub epoch: u64,
    pub session_up: bool,
    /// The master has ended the session: what it says after that is not read.
    pub dismissed: bool,
    pub draining: bool,
    /// Handed to the disk and not yet there, in order.
    pub writes: VecDeque<(String, Record<Spec>)>,
    pub tasks: BTreeMap<String, Task>,
    pub outs: BTreeMap<String, Out>,
    /// When the timer rings.
    pub armed: Option<Duration>,
}

impl Host {
    pub fn new(name: String, random: &mut Random) -> Self {
        Self {
            name,
            disk: Disk::new(random),
            process: None,
            run: 0,
            start_planned: false,
            frozen_until: Duration::ZERO,
            write_time: Duration::from_millis(1),
            writes_fail_until: Duration::ZERO,
            unready_until: Duration::ZERO,
            wall_offset_ms: 0,
            twin: None,
            params: params(),
        }
    }
}

/// The documented defaults.
pub fn params() -> Params {
    Params::documented(vec!["master".to_owned()])
}

pub fn ledger_params() -> LedgerParams {
    LedgerParams {
        disabled: None,
        max_running: 4,
        held_max: 64,
        kill_grace: Duration::from_secs(10),
        remember: Duration::from_secs(7 * 86_400),
        tombstones_max: 10_000,
    }
}
