//! What goes into a ledger and what comes out.

use crate::Outcome;
use std::time::Duration;

/// What the ledger is set to.
#[derive(Clone, Debug)]
pub struct Params {
    /// Why every new command is refused. Default: none is.
    pub disabled: Option<String>,
    /// Commands that run at the same time. At least 1.
    pub max_running: usize,
    /// Commands held at the same time, waiting and finished ones counted. More are refused.
    pub held_max: usize,
    /// Between TERM and KILL.
    pub kill_grace: Duration,
    /// How long the outcome of an acknowledged command is remembered.
    pub remember: Duration,
    /// How many outcomes of acknowledged commands are remembered; the oldest go first.
    pub tombstones_max: usize,
}

impl Params {
    pub(super) fn assert_valid(&self) {
        assert!(self.max_running > 0 && self.held_max > 0, "a ledger that could hold nothing");
    }
}

/// What happened. `S` is what a command is to run; the ledger only compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<S> {
    SessionUp,
    SessionDown,
    /// The master wants this command run. The timeout counts from its start; `None`: it may take for ever.
    Run {
        id: String,
        spec: S,
        timeout: Option<Duration>,
    },
    Cancel {
        id: String,
    },
    FinishedAck {
        id: String,
    },
    /// What [`Output::Persist`] asked for is done. There is never more than one for an id under way.
    Persisted {
        id: String,
    },
    /// It could not be done. A command that was not accepted yet is refused; a later one goes on in memory.
    PersistFailed {
        id: String,
        reason: String,
    },
    Started {
        id: String,
    },
    StartFailed {
        id: String,
        reason: String,
    },
    Exited {
        id: String,
        exit: Exit,
        total_bytes: u64,
    },
    /// From now on nothing starts.
    Drain,
    /// What runs is ended. Drains, too.
    Interrupt,
    /// A deadline of [`super::Ledger::poll_timeout`] may have passed.
    Wake,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, before any signal of ours reached it.
    Own(Ending),
    /// After a signal of ours.
    Killed(Ending),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Code(i32),
    Signal(i32),
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<S> {
    /// Answered by [`Input::Persisted`] or [`Input::PersistFailed`], [`Record::Acknowledged`] excepted.
    Persist { id: String, record: Record<S> },
    /// Answered by [`Input::Started`] or [`Input::StartFailed`]. At most one for an id.
    Start { id: String, spec: S },
    /// TERM to the command's processes.
    Terminate { id: String },
    /// KILL to the command's processes.
    Kill { id: String },
    /// Send `CommandAccepted`.
    Accepted { id: String },
    /// Send `CommandFinished`.
    Finished { id: String, finish: Finish },
    /// Send `CommandFinished` with the outcome `refused`: this request is not held.
    Refuse { id: String, reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<S> {
    Accepted(S),
    /// It is about to start: after a crash it may have run.
    Starting,
    Finished(Finish),
    /// The master has everything: id and outcome stay, the rest may go. Not answered.
    Acknowledged,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    pub outcome: Outcome,
    /// Of output, dropped ones counted.
    pub total_bytes: u64,
    /// 0: never started.
    pub started_unix_ms: u64,
    pub finished_unix_ms: u64,
}

/// A command that the master has not acknowledged as finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<'a, S> {
    pub id: &'a str,
    pub state: HeldState,
    pub spec: &'a S,
    /// 0: it has not, or when is not known.
    pub started_unix_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// Waits for its turn.
    Accepted,
    Running,
    Finished,
}
