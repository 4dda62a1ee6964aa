//! The agent's record of its commands on disk, so that a crash neither runs one twice nor loses what it said.
//! `docs/spool.md` describes the files.
//!
//! [`Spool`] takes what is to be written and tells when it is done. All of it is written on one helper thread, in
//! batches: what comes while one is under way goes into the next, and is synced with it. So no sync ever delays
//! anything but the promises that need it.

pub mod disk;
pub mod format;
pub mod frame;
pub mod node_log;
pub mod replay;
pub mod store;

use crate::{clock::unix_ms, config::describe};
use format::Record;
use node_log::NodeLog;
use std::{io, mem, time::Duration};
use store::{Batch, Store, Written};
use tokio::{task::JoinHandle, time::Instant};

/// A write that takes so long: the disk hangs, and no command could be accepted.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// See the module.
pub struct Spool {
    id: [u8; 16],
    state: State,
    /// What comes next.
    batch: Batch,
    /// Commands that wait for it.
    waiting: Vec<String>,
    log_lines: String,
    log: Option<NodeLog>,
    running: Option<Running>,
    /// The log of commands could not be written, and that was said.
    complained: bool,
}

enum State {
    /// Nothing is written, everything is promised as well as memory can.
    Memory,
    /// Not here while a batch is under way.
    Disk(Option<Store>),
}

struct Running {
    task: JoinHandle<Outcome>,
    waiting: Vec<String>,
    since: Instant,
}

/// What comes back from the helper thread.
struct Outcome {
    store: Option<(Store, io::Result<()>)>,
    log: Option<NodeLog>,
    logged: io::Result<()>,
}

/// What a batch brought.
#[derive(Debug, Default)]
pub struct Done {
    /// These are recorded …
    pub recorded: Vec<String>,
    /// … or these are not, for this reason, and the spool is in memory from now on, under another id.
    pub failed: Option<(Vec<String>, String)>,
}

impl Spool {
    /// Everything lives in memory.
    pub fn in_memory() -> Self {
        Self::new(random_id(), State::Memory)
    }

    pub fn on_disk(store: Store) -> Self {
        Self::new(store.spool_id(), State::Disk(Some(store)))
    }

    fn new(id: [u8; 16], state: State) -> Self {
        Self {
            id,
            state,
            batch: Batch::default(),
            waiting: Vec::new(),
            log_lines: String::new(),
            log: None,
            running: None,
            complained: false,
        }
    }

    /// Keeps a log of what ran.
    pub fn with_log(self, log: NodeLog) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Of this spool: another one means that commands may have been forgotten.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    pub fn is_on_disk(&self) -> bool {
        matches!(self.state, State::Disk(_))
    }

    /// Records it durably; [`Self::done`] answers with its id.
    pub fn promise(&mut self, record: Record) {
        self.batch.durable = true;
        self.waiting.push(record.id.clone());
        self.batch.records.push(record);
    }

    /// Records it without a sync, and without an answer.
    pub fn note(&mut self, record: Record) {
        if self.is_on_disk() {
            self.batch.records.push(record);
        }
    }

    /// Writes output, before the records that came or come in the same batch.
    pub fn write(&mut self, output: Written) {
        if self.is_on_disk() {
            self.batch.outputs.push(output);
        }
    }

    /// The output file is not needed any more, after the records of the same batch.
    pub fn remove(&mut self, id: &str) {
        if self.is_on_disk() {
            self.batch.removed.push(id.to_owned());
        }
    }

    /// A line for the log of commands.
    pub fn log(&mut self, line: &str) {
        const WAITING_MAX: usize = 64 * 1024;
        if (self.log.is_some() || self.running.is_some()) && self.log_lines.len() < WAITING_MAX {
            self.log_lines.push_str(line);
        }
    }

    /// Everything is written.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.batch.is_empty() && self.log_lines.is_empty()
    }

    /// The disk is slower than what it is given: output waits for a batch that is under way.
    pub fn is_behind(&self) -> bool {
        self.running.is_some() && !self.batch.outputs.is_empty()
    }

    /// The disk hangs.
    pub fn is_stuck(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.since.elapsed() >= STUCK_AFTER)
    }

    /// Has what waits written; returns when a batch is done, and never while there is nothing to do.
    ///
    /// # Cancel safety
    /// Safe: a batch under way goes on, and the next call tells of it.
    pub async fn done(&mut self) -> Done {
        if self.running.is_none() && !self.start() {
            std::future::pending::<()>().await;
        }
        let running = self.running.as_mut().expect("it was just started");
        let outcome = (&mut running.task).await;
        let waiting = self.running.take().map(|running| running.waiting).unwrap_or_default();
        let failure = match outcome {
            Ok(outcome) => self.take(outcome),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            None => Done { recorded: waiting, failed: None },
            Some(reason) => {
                let mut failed = waiting;
                failed.append(&mut self.waiting);
                self.batch = Batch::default();
                self.state = State::Memory;
                self.id = random_id();
                Done { recorded: Vec::new(), failed: Some((failed, reason)) }
            }
        }
    }

    fn start(&mut self) -> bool {
        let rewrite = matches!(&self.state, State::Disk(Some(store)) if store.wants_rewrite());
        if self.batch.is_empty() && self.log_lines.is_empty() && !rewrite {
            return false;
        }
        let store = match &mut self.state {
            State::Disk(store) => store.take(),
            State::Memory => None,
        };
        let (batch, lines, mut log) = (mem::take(&mut self.batch), mem::take(&mut self.log_lines), self.log.take());
        let write = move || {
            let store = store.map(|mut store| {
                // Rewriting waits until nobody waits for an answer.
                let written = if batch.is_empty() && rewrite { store.compact(unix_ms()) } else { store.apply(&batch) };
                (store, written)
            });
            let logged = log.as_mut().filter(|_| !lines.is_empty()).map_or(Ok(()), |log| log.write(&lines));
            Outcome { store, log, logged }
        };
        let task = crate::helper::spawn(write);
        self.running = Some(Running { task, waiting: mem::take(&mut self.waiting), since: Instant::now() });
        true
    }

    /// Why the store cannot be used any more.
    fn take(&mut self, outcome: Outcome) -> Option<String> {
        self.log = outcome.log;
        if let Err(error) = outcome.logged
            && !mem::replace(&mut self.complained, true)
        {
            log::warn!("the log of commands, commands.log, cannot be written: {}", describe(&error));
        }
        match outcome.store {
            Some((store, Ok(()))) => {
                self.state = State::Disk(Some(store));
                None
            }
            Some((_, Err(error))) => Some(describe(&error)),
            None => None,
        }
    }
}

/// 16 bytes from the kernel.
pub fn random_id() -> [u8; 16] {
    crate::state::random().expect("the kernel gives so few random bytes at once, and waits only early in the boot")
}
