//! Commands on the agent: the ledger decides, this runs it. The driver of the link owns one [`Commands`].

mod account;
pub(crate) mod allow;
mod group;
mod held;
mod launch;
mod memory;
mod meter;
mod orphan;
mod output;
mod process;
mod recorded;
mod settings;
mod stdin;
#[cfg(test)]
mod tests;
mod uplink;
mod window;

use crate::{
    clock::unix_ms,
    config,
    spool::{Spool, node_log},
    transport::Client,
};
use held::{Held, Pool};
use launch::{Launcher, Process};
use link::{
    COMMAND_ID_MAX, Outcome,
    ledger::{Exit, Finish, HeldState, Input, Ledger, Output},
};
pub use meter::Meter;
use process::Signal;
use prost::Message;
use proto::{
    CommandAccepted, CommandFinished, CommandSpec, HeldCommand, RunCommand, agent_message::Kind, held_command,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use uplink::Session;

/// Commands held at the same time, waiting and finished ones counted.
pub const HELD_MAX: usize = 10_000;

/// Outcomes that are remembered after the master has acknowledged them.
const TOMBSTONES_MAX: usize = 10_000;

/// Bytes of all held specifications together.
const SPECS_MAX: usize = 16 * 1024 * 1024;

/// Bytes of specifications in one `Register`: messages above 4 MiB break.
const REGISTERED_SPECS_MAX: usize = 1024 * 1024;

/// Messages that wait for the session. Beyond, a master that does not read is asking for answers: it gets them in the
/// next session.
const OUTBOX_MAX: usize = 2 * HELD_MAX;

/// Starts and ends of processes that wait to be looked at. More wait in their threads and tasks.
const EVENTS_MAX: usize = 16;

/// What a registered session gives to the commands.
pub struct Uplink {
    /// For `SendOutput`, on the session's own connection.
    pub client: Client,
    /// For the calls' metadata.
    pub agent_id: [u8; 16],
    pub epoch: u64,
}

/// Everything about commands: what is held, what runs, what output is still to be delivered.
pub struct Commands {
    ledger: Ledger<CommandSpec>,
    launcher: Arc<Launcher>,
    timeout: Option<Duration>,
    pool: Arc<Pool>,
    meter: Meter,
    entries: HashMap<String, Entry>,
    /// Bytes of all held specifications.
    specs: usize,
    session: Option<Arc<Session>>,
    outbox: VecDeque<Kind>,
    told: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    /// The ledger's time is since this.
    clock: Instant,
    spool: Spool,
    /// The spool that the master was told of last.
    told_spool: Option<[u8; 16]>,
    /// It is not this one any more, and the session does not know yet.
    renew: bool,
    agent: String,
    /// When to look what output has waited too long for the master.
    spill_at: Option<Instant>,
    /// Started without a session, and maybe after the registration that the next one begins with was written.
    started: Vec<String>,
}

/// What is kept beside the ledger for a held command.
#[derive(Default)]
struct Entry {
    spec_bytes: usize,
    /// From its start on.
    held: Option<Arc<Held>>,
    signals: Option<mpsc::Sender<Signal>>,
    /// Its delivery in this session.
    delivery: Option<AbortHandle>,
    /// Its acceptance is on the disk.
    on_disk: bool,
}

/// What a process's thread or task tells.
enum Event {
    Launched { id: String, process: Result<Box<Process>, String> },
    Exited { id: String, exit: Exit, total_bytes: u64 },
}

impl Commands {
    /// Nothing is held yet, and nothing will be on the disk. `agent` is the agent's name, for the environment of
    /// commands.
    pub fn new(config: &config::Commands, agent: &str) -> Self {
        Self::on(config, agent, Spool::in_memory())
    }

    /// Nothing is held yet.
    fn on(config: &config::Commands, agent: &str, spool: Spool) -> Self {
        let (told, events) = mpsc::channel(EVENTS_MAX);
        process::keep_children();
        let spool_limit = memory::bounded(config.spool_limit);
        let pool = Arc::new(Pool::new(config.output_limit, spool_limit, config.when_full));
        Self {
            ledger: Ledger::new(settings::params(config)),
            launcher: Arc::new(Launcher::new(config, agent)),
            timeout: config.timeout,
            meter: Meter::new(pool.clone()),
            pool,
            entries: HashMap::new(),
            specs: 0,
            session: None,
            outbox: VecDeque::new(),
            told,
            events,
            clock: Instant::now(),
            spool,
            told_spool: None,
            renew: false,
            agent: agent.to_owned(),
            spill_at: None,
            started: Vec::new(),
        }
    }

    /// Random, made with the spool. To be told to the master: what comes after it is meant for this spool.
    pub fn spool_id(&mut self) -> [u8; 16] {
        self.told_spool = Some(self.spool.id());
        self.renew = false;
        self.spool.id()
    }

    /// The same where it is not known yet whether that session takes the place of the present one: once it does, it is
    /// for [`Self::told_spool`] to say.
    pub fn spool_id_to_tell(&self) -> [u8; 16] {
        self.spool.id()
    }

    /// The master of the session that comes up now was told of this spool.
    pub fn told_spool(&mut self, id: [u8; 16]) {
        self.told_spool = Some(id);
        self.renew = false;
    }

    /// The master has to hear of another spool: the session should be renewed. Says so once.
    pub fn takes_renewal(&mut self) -> bool {
        std::mem::take(&mut self.renew)
    }

    /// A command could be accepted now: on the disk, or in memory where the disk does not take it, but not while it
    /// hangs.
    pub fn ready(&self) -> bool {
        !self.ledger.is_draining() && !self.spool.is_stuck()
    }

    pub fn in_memory(&self) -> bool {
        !self.spool.is_on_disk()
    }

    /// Commands held, for `Register`: whatever the master has not acknowledged as finished. Where there are many, the
    /// later ones come without what they run.
    pub fn held(&self) -> Vec<HeldCommand> {
        let mut specs = 0;
        let state = |state| match state {
            HeldState::Accepted => held_command::State::Accepted,
            HeldState::Running => held_command::State::Running,
            HeldState::Finished => held_command::State::Finished,
        };
        let held = self.ledger.held().into_iter().map(|command| {
            let entry = self.entries.get(command.id);
            specs += entry.map_or(0, |entry| entry.spec_bytes);
            let output = entry.and_then(|entry| entry.held.as_ref());
            HeldCommand {
                id: command.id.to_owned(),
                state: state(command.state).into(),
                spooled_bytes: output.map_or(0, |output| output.output_end()),
                spec: (specs <= REGISTERED_SPECS_MAX).then(|| command.spec.clone()),
                started_unix_ms: command.started_unix_ms,
            }
        });
        held.collect()
    }

    /// A session is registered: outcomes without an acknowledgement are sent again, output calls are opened. A session
    /// that was up is over.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn session_up(&mut self, uplink: Uplink) {
        self.session_down();
        self.session = Some(Arc::new(Session::new(uplink)));
        // It may have changed between the registration and its answer.
        self.renew = self.told_spool.is_some_and(|told| told != self.spool.id());
        self.pool.set_link(true);
        let ids: Vec<_> = self.entries.keys().cloned().collect();
        for id in ids {
            self.deliver(&id);
        }
        self.handle(Input::SessionUp);
        let mut started = std::mem::take(&mut self.started);
        started.sort_unstable();
        let said = self.ledger.held().into_iter().filter(|held| {
            held.state == HeldState::Running && started.binary_search_by(|id| id.as_str().cmp(held.id)).is_ok()
        });
        let said: Vec<_> = said.map(|held| (held.id.to_owned(), held.started_unix_ms)).collect();
        for (id, started_unix_ms) in said {
            self.send(Kind::CommandAccepted(CommandAccepted { id, started_unix_ms }));
        }
    }

    /// The session is over: commands go on, output is kept.
    pub fn session_down(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        self.pool.set_link(false);
        self.outbox = VecDeque::new();
        for entry in self.entries.values_mut() {
            entry.end_delivery();
        }
        // Those that were asked for again after their acknowledgement.
        self.entries.retain(|id, _| self.ledger.holds(id));
        self.handle(Input::SessionDown);
    }

    /// # Panics
    /// Outside of a runtime.
    pub fn run(&mut self, message: RunCommand) {
        let RunCommand { id, spec } = message;
        let Some(spec) = spec else {
            return self.refuse(id, "the request does not say what to run".to_owned());
        };
        if !link::valid_command_id(&id) {
            let rule =
                format!("a command's id is 1 to {COMMAND_ID_MAX} letters, digits, '.', '_' or '-', the first no '.'");
            return self.refuse(id, rule);
        }
        if self.told_spool.is_some_and(|told| told != self.spool.id()) {
            return self.refuse(id, "the agent's spool has just failed".to_owned());
        }
        let spec_bytes = spec.encoded_len();
        let known = self.ledger.holds(&id);
        if !known && self.specs + spec_bytes > SPECS_MAX {
            return self.refuse(id, format!("the commands on the agent take {} bytes already", self.specs));
        }
        let timeout = self.timeout_of(&spec);
        if !known && self.ledger.remembered(&id).is_none() {
            self.specs += spec_bytes;
            self.entries.insert(id.clone(), Entry { spec_bytes, ..Entry::default() });
        }
        self.handle(Input::Run { id: id.clone(), spec, timeout });
        if !self.ledger.holds(&id) && self.ledger.remembered(&id).is_none() {
            self.remove(&id);
        }
    }

    pub fn cancel(&mut self, id: &str) {
        self.handle(Input::Cancel { id: id.to_owned() });
    }

    pub fn finished_ack(&mut self, id: &str) {
        self.handle(Input::FinishedAck { id: id.to_owned() });
        if !self.ledger.holds(id) {
            self.remove(id);
        }
    }

    /// From now on new commands are refused, and waiting ones are not started.
    pub fn drain(&mut self) {
        self.handle(Input::Drain);
    }

    /// The grace is over: what runs is ended (TERM, then KILL) with the outcome `interrupted`.
    pub fn interrupt(&mut self) {
        self.handle(Input::Interrupt);
    }

    /// Number of commands held, for the status.
    pub fn count(&self) -> usize {
        self.ledger.len()
    }

    /// For those who only look.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Number of commands whose outcome is not on record yet.
    pub fn unsettled(&self) -> usize {
        self.ledger.unsettled()
    }

    /// Nothing runs, and the next start finds what was not delivered.
    pub fn is_settled(&self) -> bool {
        self.ledger.unsettled() == 0 && self.spool.is_on_disk() && self.spool.is_idle()
    }

    /// Nothing runs, nothing waits for an acknowledgement, and what is on record is written.
    pub fn is_idle(&self) -> bool {
        self.ledger.is_empty() && self.spool.is_idle()
    }

    /// The next message for the session; `None`: the driver should look at what is asked for between messages
    /// ([`Self::takes_renewal`], [`Self::is_idle`], [`Self::is_settled`]). While there is no session, or `has_room` says that it takes none,
    /// processes and their output are served all the same, and no message is returned.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self, has_room: bool) -> Option<Kind> {
        loop {
            if has_room
                && self.session.is_some()
                && let Some(kind) = self.outbox.pop_front()
            {
                return Some(kind);
            }
            if self.renew {
                return None;
            }
            let due = self.ledger.poll_timeout().map(|due| self.clock + due);
            tokio::select! {
                event = self.events.recv() => match event.expect("this holds a sender itself") {
                    Event::Launched { id, process } => self.launched(id, process),
                    Event::Exited { id, exit, total_bytes } => self.handle(Input::Exited { id, exit, total_bytes }),
                },
                () = sleep_until(due.unwrap_or(self.clock)), if due.is_some() => self.handle(Input::Wake),
                done = self.spool.done() => {
                    self.recorded(done);
                    if self.is_idle() || self.ledger.is_draining() && self.is_settled() {
                        return None;
                    }
                }
                () = dirtied(&self.pool), if self.spill_at.is_none() && self.spool.is_on_disk() => {
                    self.spill_at = Some(Instant::now() + recorded::SPILL_AFTER);
                }
                () = sleep_until(self.spill_at.unwrap_or(self.clock)), if self.spill_at.is_some() => self.spill(),
            }
        }
    }

    fn handle(&mut self, input: Input<CommandSpec>) {
        self.tell(input);
        self.perform_all();
    }

    fn perform_all(&mut self) {
        while let Some(output) = self.ledger.poll_output() {
            self.perform(output);
        }
    }

    fn tell(&mut self, input: Input<CommandSpec>) {
        self.ledger.handle(self.clock.elapsed(), unix_ms(), input);
    }

    fn perform(&mut self, output: Output<CommandSpec>) {
        match output {
            Output::Persist { id, record } => self.persist(id, record),
            Output::Start { id, spec } => self.start(id, spec),
            Output::Terminate { id } => self.signal(&id, Signal::Terminate),
            Output::Kill { id } => self.signal(&id, Signal::Kill),
            Output::Accepted { id } => self.send(Kind::CommandAccepted(CommandAccepted { id, started_unix_ms: 0 })),
            Output::Finished { id, finish } => {
                if !self.ledger.holds(&id) {
                    self.deliver_again(&id, finish.total_bytes);
                }
                self.send(Kind::CommandFinished(finished(id, finish)));
            }
            Output::Refuse { id, reason } => self.refuse(id, reason),
        }
    }

    /// In a thread, which ends with it: a program or directory on a file system that hangs must not hold the link up.
    /// Never more of them than commands may run.
    fn start(&mut self, id: String, spec: CommandSpec) {
        let (launcher, told, runtime) = (self.launcher.clone(), self.told.clone(), Handle::current());
        let launch = {
            let id = id.clone();
            move || {
                let _entered = runtime.enter();
                let process = launcher.start(&id, &spec).map(Box::new);
                // Without a receiver nobody stays with the process, and dropping it kills it.
                let _ = told.blocking_send(Event::Launched { id, process });
            }
        };
        if let Err(error) = thread::Builder::new().name("launch".to_owned()).spawn(launch) {
            self.tell(Input::StartFailed { id, reason: format!("cannot start a thread: {error}") });
        }
    }

    fn launched(&mut self, id: String, process: Result<Box<Process>, String>) {
        let process = match process {
            Ok(process) => process,
            Err(reason) => return self.handle(Input::StartFailed { id, reason }),
        };
        self.note_start(&id, &process);
        let entry = self.entries.get_mut(&id).expect("it is held until it has finished");
        let held = Arc::new(Held::new(id.clone(), self.pool.clone(), process.stdin.is_some()));
        let (signals, received) = mpsc::channel(2);
        entry.held = Some(held.clone());
        entry.signals = Some(signals);
        self.deliver(&id);
        let (told, told_id) = (self.told.clone(), id.clone());
        // Ends with the process, which is killed when this is dropped.
        tokio::spawn(async move {
            let exit = process::supervise(*process, held.clone(), received).await;
            let total_bytes = held.end();
            // Without a receiver nobody wants to know.
            let _ = told.send(Event::Exited { id: told_id, exit, total_bytes }).await;
        });
        let started_unix_ms = unix_ms();
        self.ledger.handle(self.clock.elapsed(), started_unix_ms, Input::Started { id: id.clone() });
        self.perform_all();
        if self.session.is_none() {
            self.started.push(id);
            return;
        }
        // How it waits or runs is for people to see: where it is lost, nothing is.
        self.send(Kind::CommandAccepted(CommandAccepted { id, started_unix_ms }));
    }

    fn signal(&mut self, id: &str, signal: Signal) {
        if let Some(signals) = self.entries.get(id).and_then(|entry| entry.signals.as_ref()) {
            // Full never: a command gets each signal once. Closed when it has ended already.
            let _ = signals.try_send(signal);
        }
    }

    /// Has its output delivered in this session, if it has started and there is one.
    fn deliver(&mut self, id: &str) {
        let (Some(session), Some(entry)) = (&self.session, self.entries.get_mut(id)) else { return };
        entry.end_delivery();
        let Some(held) = &mut entry.held else { return };
        if held.is_complete() {
            let total_bytes = held.output_end();
            if total_bytes == 0 {
                return;
            }
            // A master that has lost what an earlier one let go waits for it: it is a gap.
            *held = Arc::new(Held::released(id.to_owned(), self.pool.clone(), total_bytes));
        }
        // Ends with the session, or when everything is delivered.
        entry.delivery = Some(tokio::spawn(uplink::deliver(session.clone(), held.clone())).abort_handle());
    }

    /// A master asks for a command that it has acknowledged: what it has lost of the output is a gap now.
    fn deliver_again(&mut self, id: &str, total_bytes: u64) {
        let held = Held::released(id.to_owned(), self.pool.clone(), total_bytes);
        self.remove(id);
        self.entries.insert(id.to_owned(), Entry { held: Some(Arc::new(held)), ..Entry::default() });
        self.deliver(id);
    }

    fn remove(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            self.specs -= entry.spec_bytes;
            if let Some(held) = &entry.held {
                // Its delivery, if there is one, ends by itself.
                held.forget();
            }
        }
    }

    fn refuse(&mut self, id: String, reason: String) {
        let outcome = Outcome::Refused(reason);
        self.meter.count(&outcome);
        let finish = Finish { outcome, total_bytes: 0, started_unix_ms: 0, finished_unix_ms: unix_ms() };
        self.send(Kind::CommandFinished(finished(id, finish)));
    }

    fn send(&mut self, kind: Kind) {
        if self.session.is_some() && self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(kind);
        }
    }
}

impl Entry {
    /// Its process has ended.
    fn is_over(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.has_ended())
    }

    fn end_delivery(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            delivery.abort();
        }
    }
}

fn finished(id: String, finish: Finish) -> CommandFinished {
    CommandFinished {
        id,
        outcome: Some((&finish.outcome).into()),
        total_bytes: finish.total_bytes,
        started_unix_ms: finish.started_unix_ms,
        finished_unix_ms: finish.finished_unix_ms,
    }
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited(code) => format!("exited with code {code}"),
        Outcome::Signaled(signal) => format!("was ended by signal {signal}"),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::Cancelled => "was cancelled".to_owned(),
        Outcome::Interrupted(reason) => format!("was interrupted: {reason}"),
        Outcome::Refused(reason) => format!("was refused: {reason}"),
        Outcome::Expired => "expired".to_owned(),
    }
}

/// There is output that nobody has been told of yet.
async fn dirtied(pool: &Pool) {
    pool.dirtied.notified().await;
}
