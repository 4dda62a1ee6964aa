//! The commands of one agent: which are held, which may start, how each one ended. Pure: the driver persists, starts,
//! kills and sends what [`Ledger::poll_output`] says, and tells what came of it.
//!
//! ```text
//!  Run → Accepting ─recorded→ Waiting ─a slot is free→ Preparing ─recorded→ Starting ─Started→ Running
//!            │ cancelled, drained  │                       │      StartFailed │        Exited  │
//!            └─────────────────────┴───────────────────────┴──────────────────┴───────→ Finishing
//!                                                       Finished ←──────────recorded──────────┘
//!                                                          │ FinishedAck
//!                                                      tombstone, for as long as outcomes are remembered
//! ```
//! Nothing is promised, started or reported before it is recorded. In memory the driver answers each
//! [`Output::Persist`] at once; on disk it answers when the record is durable.

mod events;
mod restore;
#[cfg(test)]
mod tests;

pub use events::*;
pub use restore::Restored;

use crate::Outcome;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// See the module.
#[derive(Debug)]
pub struct Ledger<S> {
    params: Params,
    commands: HashMap<String, Command<S>>,
    /// Accepting and waiting ones, in the order in which they came.
    queue: VecDeque<String>,
    /// Those that have a slot: at most `max_running`.
    active: Vec<String>,
    tombstones: HashMap<String, Finish>,
    /// When to forget which tombstone, oldest first.
    expiries: VecDeque<(Duration, String)>,
    outputs: VecDeque<Output<S>>,
    arrivals: u64,
    session: bool,
    draining: bool,
}

#[derive(Debug)]
struct Command<S> {
    /// Orders the commands as they came.
    arrival: u64,
    spec: S,
    timeout: Option<Duration>,
    /// Its acceptance is on record.
    accepted: bool,
    started_unix_ms: u64,
    /// Why it is to be ended; the first reason stays.
    ending: Option<Outcome>,
    /// A request with other content was refused under this id: the next acknowledgement belongs to that refusal.
    refused_other: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Accepting,
    Waiting,
    Preparing,
    Starting,
    Running { deadline: Option<Duration>, kill_at: Option<Duration> },
    Finishing(Finish),
    Finished(Finish),
}

const NEVER_STARTED: &str = "the agent was shut down before it started";
const SHUT_DOWN: &str = "the agent was shut down";
const OTHER_CONTENT: &str = "another command has this id on the agent";

impl<S: Clone + Eq> Ledger<S> {
    /// Nothing is held yet.
    ///
    /// # Panics
    /// If nothing could ever run or be held.
    pub fn new(params: Params) -> Self {
        params.assert_valid();
        Self {
            params,
            commands: HashMap::new(),
            queue: VecDeque::new(),
            active: Vec::new(),
            tombstones: HashMap::new(),
            expiries: VecDeque::new(),
            outputs: VecDeque::new(),
            arrivals: 0,
            session: false,
            draining: false,
        }
    }

    /// Other parameters for what comes from now on.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn set_params(&mut self, params: Params) {
        params.assert_valid();
        self.params = params;
    }

    /// `now` is the time since the start of the process, `unix_ms` the same moment for people.
    pub fn handle(&mut self, now: Duration, unix_ms: u64, input: Input<S>) {
        self.forget_expired(now);
        match input {
            Input::SessionUp => self.session_up(),
            Input::SessionDown => self.session_down(),
            Input::Run { id, spec, timeout } => self.run(unix_ms, id, spec, timeout),
            Input::Cancel { id } => self.end(now, unix_ms, &id, Outcome::Cancelled),
            Input::FinishedAck { id } => self.acknowledged(now, &id),
            Input::Persisted { id } => self.persisted(unix_ms, &id),
            Input::PersistFailed { id, reason } => self.persist_failed(unix_ms, &id, reason),
            Input::Started { id } => self.started(now, unix_ms, &id),
            Input::StartFailed { id, reason } => self.start_failed(unix_ms, &id, reason),
            Input::Exited { id, exit, total_bytes } => self.exited(unix_ms, &id, exit, total_bytes),
            Input::Drain => self.drain(now, unix_ms),
            Input::Interrupt => {
                self.drain(now, unix_ms);
                for id in self.active.clone() {
                    self.end(now, unix_ms, &id, Outcome::Interrupted(SHUT_DOWN.to_owned()));
                }
            }
            Input::Wake => {}
        }
        self.pass_deadlines(now);
        self.fill_slots();
    }

    /// What to do next; to be called until it returns `None`.
    pub fn poll_output(&mut self) -> Option<Output<S>> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Wake`] at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.active.iter().filter_map(|id| self.commands.get(id)?.state.due()).min()
    }

    /// Durably accepted commands, in the order in which they came.
    pub fn held(&self) -> Vec<Held<'_, S>> {
        let mut held: Vec<_> = self.commands.iter().collect();
        held.sort_unstable_by_key(|(_, command)| command.arrival);
        held.into_iter()
            .filter_map(|(id, Command { state, spec, started_unix_ms, .. })| {
                Some(Held { id, state: state.held()?, spec, started_unix_ms: *started_unix_ms })
            })
            .collect()
    }

    /// How many commands are held, in whatever state.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// How many have no outcome on record yet.
    pub fn unsettled(&self) -> usize {
        self.commands.values().filter(|command| command.state.finished().is_none()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// What a held command runs.
    pub fn spec(&self, id: &str) -> Option<&S> {
        self.commands.get(id).map(|command| &command.spec)
    }

    /// The command is held, not only remembered.
    pub fn holds(&self, id: &str) -> bool {
        self.commands.contains_key(id)
    }

    /// The outcome of an acknowledged command, while it is remembered.
    pub fn remembered(&self, id: &str) -> Option<&Finish> {
        self.tombstones.get(id)
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    fn session_up(&mut self) {
        self.session = true;
        let mut finished: Vec<_> = self
            .commands
            .iter()
            .filter_map(|(id, command)| Some((command.arrival, id, command.state.finished()?)))
            .collect();
        finished.sort_unstable_by_key(|(arrival, ..)| *arrival);
        let outputs =
            finished.into_iter().map(|(_, id, finish)| Output::Finished { id: id.clone(), finish: finish.clone() });
        self.outputs.extend(outputs);
    }

    /// What was only sent, perhaps received, is answered for in the next session.
    fn session_down(&mut self) {
        self.session = false;
        for command in self.commands.values_mut() {
            command.refused_other = false;
        }
    }

    fn run(&mut self, unix_ms: u64, id: String, spec: S, timeout: Option<Duration>) {
        if let Some(command) = self.commands.get_mut(&id) {
            if command.spec != spec {
                command.refused_other = true;
                self.outputs.push_back(Output::Refuse { id, reason: OTHER_CONTENT.to_owned() });
            } else {
                self.answer_again(id);
            }
            return;
        }
        if let Some(finish) = self.tombstones.get(&id) {
            self.outputs.push_back(Output::Accepted { id: id.clone() });
            self.outputs.push_back(Output::Finished { id, finish: finish.clone() });
            return;
        }
        if self.commands.len() >= self.params.held_max {
            let reason = format!("the agent holds {} commands already", self.commands.len());
            self.outputs.push_back(Output::Refuse { id, reason });
            return;
        }
        self.arrivals += 1;
        let command = Command {
            arrival: self.arrivals,
            spec: spec.clone(),
            timeout,
            accepted: false,
            started_unix_ms: 0,
            ending: None,
            refused_other: false,
            state: State::Accepting,
        };
        self.commands.insert(id.clone(), command);
        let refusal = if self.draining { Some(SHUT_DOWN.to_owned()) } else { self.params.disabled.clone() };
        match refusal {
            Some(reason) => self.finish(unix_ms, &id, Outcome::Refused(reason), 0),
            None => {
                self.queue.push_back(id.clone());
                self.outputs.push_back(Output::Persist { id, record: Record::Accepted(spec) });
            }
        }
    }

    fn answer_again(&mut self, id: String) {
        let command = &self.commands[&id];
        let finish = command.state.finished().cloned();
        if command.accepted {
            self.outputs.push_back(Output::Accepted { id: id.clone() });
        }
        if let Some(finish) = finish {
            self.outputs.push_back(Output::Finished { id, finish });
        }
    }

    /// Ends a command for a reason from outside, wherever it stands.
    fn end(&mut self, now: Duration, unix_ms: u64, id: &str, outcome: Outcome) {
        let Some(command) = self.commands.get_mut(id) else { return };
        match &mut command.state {
            State::Accepting | State::Preparing | State::Starting => {
                command.ending.get_or_insert(outcome);
            }
            State::Waiting => self.finish(unix_ms, id, outcome, 0),
            State::Running { kill_at, .. } => {
                if command.ending.is_none() {
                    command.ending = Some(outcome);
                    *kill_at = Some(now.saturating_add(self.params.kill_grace));
                    self.outputs.push_back(Output::Terminate { id: id.to_owned() });
                }
            }
            State::Finishing(_) | State::Finished(_) => {}
        }
    }

    fn acknowledged(&mut self, now: Duration, id: &str) {
        let Some(command) = self.commands.get_mut(id) else { return };
        if std::mem::take(&mut command.refused_other) {
            return;
        }
        let State::Finished(finish) = &command.state else { return };
        self.tombstones.insert(id.to_owned(), finish.clone());
        self.expiries.push_back((now.saturating_add(self.params.remember), id.to_owned()));
        self.commands.remove(id);
        self.outputs.push_back(Output::Persist { id: id.to_owned(), record: Record::Acknowledged });
        self.forget_expired(now);
    }

    fn persisted(&mut self, unix_ms: u64, id: &str) {
        let Some(command) = self.commands.get_mut(id) else { return };
        match command.state.clone() {
            State::Accepting => {
                command.state = State::Waiting;
                command.accepted = true;
                let ending = command.ending.take();
                if self.session {
                    self.outputs.push_back(Output::Accepted { id: id.to_owned() });
                }
                if let Some(outcome) = ending {
                    self.finish(unix_ms, id, outcome, 0);
                }
            }
            State::Preparing => match command.ending.take() {
                Some(outcome) => self.finish(unix_ms, id, outcome, 0),
                None => {
                    command.state = State::Starting;
                    self.outputs.push_back(Output::Start { id: id.to_owned(), spec: command.spec.clone() });
                }
            },
            State::Finishing(finish) => {
                command.state = State::Finished(finish.clone());
                if self.session {
                    self.outputs.push_back(Output::Finished { id: id.to_owned(), finish });
                }
            }
            State::Waiting | State::Starting | State::Running { .. } | State::Finished(_) => {}
        }
    }

    fn persist_failed(&mut self, unix_ms: u64, id: &str, reason: String) {
        let Some(command) = self.commands.get_mut(id) else { return };
        match command.state {
            State::Accepting => {
                self.commands.remove(id);
                self.queue.retain(|other| other != id);
                self.outputs.push_back(Output::Refuse { id: id.to_owned(), reason });
            }
            // Without the record a crash could run it twice.
            State::Preparing => {
                let outcome = command.ending.take().unwrap_or(Outcome::Refused(reason));
                self.finish(unix_ms, id, outcome, 0);
            }
            State::Finishing(_) => self.persisted(unix_ms, id),
            State::Waiting | State::Starting | State::Running { .. } | State::Finished(_) => {}
        }
    }

    fn started(&mut self, now: Duration, unix_ms: u64, id: &str) {
        let Some(command) = self.commands.get_mut(id).filter(|command| command.state == State::Starting) else {
            return;
        };
        let deadline = command.timeout.map(|timeout| now.saturating_add(timeout));
        command.started_unix_ms = unix_ms;
        command.state = State::Running { deadline, kill_at: None };
        if let Some(outcome) = command.ending.take() {
            self.end(now, unix_ms, id, outcome);
        }
    }

    fn start_failed(&mut self, unix_ms: u64, id: &str, reason: String) {
        let Some(command) = self.commands.get_mut(id).filter(|command| command.state == State::Starting) else {
            return;
        };
        let outcome = command.ending.take().unwrap_or(Outcome::Refused(reason));
        self.finish(unix_ms, id, outcome, 0);
    }

    /// The reason for killing it is its outcome, unless it was over before a signal reached it.
    fn exited(&mut self, unix_ms: u64, id: &str, exit: Exit, total_bytes: u64) {
        let Some(command) = self.commands.get_mut(id) else { return };
        if !matches!(command.state, State::Running { .. }) {
            return;
        }
        let outcome = match (exit, command.ending.take()) {
            (Exit::Killed(_), Some(outcome)) => outcome,
            (Exit::Own(ending) | Exit::Killed(ending), _) => match ending {
                Ending::Code(code) => Outcome::Exited(code),
                Ending::Signal(signal) => Outcome::Signaled(signal),
            },
        };
        self.finish(unix_ms, id, outcome, total_bytes);
    }

    fn drain(&mut self, now: Duration, unix_ms: u64) {
        self.draining = true;
        // Off the queue first: ending them one by one would search it each time.
        let (accepting, waiting): (VecDeque<_>, VecDeque<_>) =
            self.queue.drain(..).partition(|id| self.commands[id].state == State::Accepting);
        self.queue = accepting;
        let preparing = self.active.iter().filter(|id| self.commands[*id].state == State::Preparing);
        let never_started: Vec<_> = waiting.iter().chain(&self.queue).chain(preparing).cloned().collect();
        for id in never_started {
            self.end(now, unix_ms, &id, Outcome::Refused(NEVER_STARTED.to_owned()));
        }
    }

    /// From any state before `Finishing`; frees its place in the queue or its slot.
    fn finish(&mut self, unix_ms: u64, id: &str, outcome: Outcome, total_bytes: u64) {
        let command = self.commands.get_mut(id).expect("only held commands are finished");
        assert!(!matches!(command.state, State::Finishing(_) | State::Finished(_)), "a second outcome for {id}");
        let finish =
            Finish { outcome, total_bytes, started_unix_ms: command.started_unix_ms, finished_unix_ms: unix_ms };
        command.state = State::Finishing(finish.clone());
        self.queue.retain(|other| other != id);
        self.active.retain(|other| other != id);
        self.outputs.push_back(Output::Persist { id: id.to_owned(), record: Record::Finished(finish) });
    }

    fn pass_deadlines(&mut self, now: Duration) {
        for id in self.active.clone() {
            let command = self.commands.get_mut(&id).expect("active commands are held");
            let State::Running { deadline, kill_at } = &mut command.state else { continue };
            if command.ending.is_none() && deadline.is_some_and(|deadline| deadline <= now) {
                command.ending = Some(Outcome::TimedOut);
                *kill_at = Some(now.saturating_add(self.params.kill_grace));
                self.outputs.push_back(Output::Terminate { id });
            } else if kill_at.is_some_and(|kill_at| kill_at <= now) {
                *kill_at = None;
                self.outputs.push_back(Output::Kill { id });
            }
            if command.ending.is_some() {
                *deadline = None;
            }
        }
    }

    /// Strictly in order: one that is not recorded yet is not overtaken.
    fn fill_slots(&mut self) {
        while self.active.len() < self.params.max_running {
            let Some(id) = self.queue.front() else { return };
            let command = self.commands.get_mut(id).expect("queued commands are held");
            if command.state != State::Waiting {
                return;
            }
            command.state = State::Preparing;
            let id = self.queue.pop_front().expect("its front was just seen");
            self.active.push(id.clone());
            self.outputs.push_back(Output::Persist { id, record: Record::Starting });
        }
    }

    fn forget_expired(&mut self, now: Duration) {
        while let Some((expiry, _)) = self.expiries.front() {
            if *expiry > now && self.expiries.len() <= self.params.tombstones_max {
                return;
            }
            let (_, id) = self.expiries.pop_front().expect("its front was just seen");
            self.tombstones.remove(&id);
        }
    }
}

impl State {
    fn due(&self) -> Option<Duration> {
        match self {
            Self::Running { deadline, kill_at } => [*deadline, *kill_at].into_iter().flatten().min(),
            _ => None,
        }
    }

    fn finished(&self) -> Option<&Finish> {
        match self {
            Self::Finished(finish) => Some(finish),
            _ => None,
        }
    }

    /// `None`: not durable yet, so the master must not count on it.
    fn held(&self) -> Option<HeldState> {
        match self {
            Self::Accepting => None,
            Self::Waiting | Self::Preparing => Some(HeldState::Accepted),
            Self::Starting | Self::Running { .. } => Some(HeldState::Running),
            Self::Finishing(_) | Self::Finished(_) => Some(HeldState::Finished),
        }
    }
}
