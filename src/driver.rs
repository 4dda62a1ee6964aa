//! The only `select!` and the only clock: carries out what the link decides, and tells it what happened.

mod candidate;
mod registration;
mod reload;
mod tell;

use crate::{
    clock::{Clock, unix_ms},
    commands::{Commands, Uplink},
    config::{self, Config, Loaded, Spool},
    credentials::Credentials,
    history::History,
    metrics::Board,
    node::{Disk, Node},
    notify::Notifier,
    reload::Reload,
    report::{Line, Lines},
    session::{self, Session},
    transport::{Resolver, tls},
    watch::{Verdict, Watch},
};
use candidate::Candidate;
use link::{Close, Input, Link, LossReason, Output, Phase, Reply, Report, WakeReason};
use proto::agent_message::Kind as Up;
use registration::params;
pub use registration::{registration_of, reported};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{Mutex, mpsc, watch};

/// Every so many heartbeats one carries the node's status.
const STATUS_EVERY: u64 = 12;

/// A timer that is later than this by more than its own process's doing: the machine slept, or the process was stopped.
const PAUSE: Duration = Duration::from_millis(200);

/// After a pause, so long for sockets to be read before deadlines are judged.
const READ_FIRST: Duration = Duration::from_millis(100);

/// Two signals to shut down within this time are one.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// A kept epoch above this is taken for this, as the master does with a reported one: whoever gave it, and whatever
/// became of the file, there is always a next one.
const EPOCH_MAX: u64 = 1 << 62;

/// Who this agent is, for the registration.
#[derive(Clone, Debug)]
pub struct Identity {
    pub agent_id: [u8; 16],
    /// Of this process.
    pub instance_id: [u8; 16],
    pub boot_id: String,
    pub host: String,
}

/// Where the state directory and the log are.
pub trait Keeper: Send {
    /// The highest epoch that was kept.
    fn highest_epoch(&self) -> u64;
    fn keep_epoch(&mut self, epoch: u64);
    fn keep_status(&mut self, status: &Status);
    /// What became of the link, for the next start and for whoever asks.
    fn keep_history(&mut self, _text: String) {}
    /// Room where the state directory is, at the last look; has it looked at anew for the next time.
    fn disk(&mut self) -> Disk;
    fn line(&mut self, line: Line);
    /// The log's level and limits are others from now on.
    fn set_log(&mut self, _log: &config::Log) {}
}

/// What `status` shows.
#[derive(Clone, Debug)]
pub struct Status {
    pub phase: Phase,
    pub since_unix_ms: u64,
    pub master: String,
    pub report_address: String,
    pub attempt: u32,
    /// Of the next attempt; 0: none is waited for.
    pub next_attempt_unix_ms: u64,
    /// Of a session.
    pub last_loss: Option<(LossReason, String, u64)>,
    /// The latest failed attempt since then.
    pub last_failure: Option<(LossReason, String, u64)>,
    /// What a master has said that wants it to come back later, and when, if that was its last word.
    pub deferred: Option<(String, u64)>,
    /// It was told to end, and takes no commands any more.
    pub shutting_down: bool,
    /// Masters that are not tried at present, and until when.
    pub skipped: Vec<(String, u64)>,
    /// When the certificate that was used last ends, seconds since 1970. 0: none is known.
    pub certificate_ends: u64,
    /// What changes all the time: only where somebody asked.
    pub live: Option<Live>,
}

/// How it is at this moment.
#[derive(Clone, Debug)]
pub struct Live {
    /// On the clock since the machine's start: the asker knows by it that this is the answer.
    pub asked_at: Duration,
    pub in_state: Duration,
    pub next_attempt_in: Option<Duration>,
    /// Of the latest heartbeat that was answered.
    pub round_trip: Option<Duration>,
    pub heartbeats: u64,
    pub sessions: u64,
    pub commands_held: usize,
    pub spool_bytes: u64,
    /// Nothing of the commands is on the disk: so configured, or the disk does not take it.
    pub spool_in_memory: bool,
}

/// From outside the link.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// SIGTERM, SIGINT.
    Shutdown,
    /// SIGHUP: read the configuration again, and connect now.
    Reload,
    /// SIGUSR1: write down how it is at this moment.
    Show,
}

pub struct Driver<C> {
    config: Config,
    identity: Identity,
    clock: C,
    keeper: Box<dyn Keeper>,
    active: watch::Sender<bool>,
    link: Link,
    lines: Lines,
    node: Node,
    resolver: Arc<Mutex<Resolver>>,
    session: Option<Session>,
    /// What is to take the session's place after a reload.
    candidate: Option<Box<Candidate>>,
    watch: Watch,
    commands: Commands,
    report_address: String,
    status: Status,
    /// When the state became what it is.
    phase_since: Duration,
    board: Arc<Board>,
    history: History,
    /// The latest heartbeat, and when it was sent.
    beat: (u64, Duration),
    /// Where health and metrics are to be had.
    http: watch::Sender<Option<SocketAddr>>,
    /// Since when.
    draining: Option<Duration>,
    manager: Notifier,
    reload: Option<Reload>,
    credentials: Arc<Credentials>,
}

enum Event {
    Session(session::Event),
    /// Of the candidate's session.
    Candidate(session::Event),
    Command(Option<Up>),
    Signal(Signal),
    /// The configuration was read again.
    Reloaded(Result<Box<Loaded>, Vec<String>>),
    /// The session takes messages of commands again.
    Room,
    /// Addresses, routes or links are others.
    Network,
    Timer,
}

impl<C: Clock> Driver<C> {
    pub fn new(
        config: Config,
        identity: Identity,
        clock: C,
        keeper: Box<dyn Keeper>,
        commands: Commands,
        active: watch::Sender<bool>,
    ) -> Self {
        let seed = u64::from_le_bytes(identity.instance_id[..8].try_into().expect("eight of sixteen bytes"));
        let status = Status {
            phase: Phase::Start,
            since_unix_ms: unix_ms(),
            master: config.masters[0].to_string(),
            report_address: String::new(),
            attempt: 0,
            next_attempt_unix_ms: 0,
            last_loss: None,
            last_failure: None,
            deferred: None,
            shutting_down: false,
            skipped: Vec::new(),
            certificate_ends: 0,
            live: None,
        };
        let watch = watch_for(&config);
        let credentials = Arc::new(Credentials::new(None, identity.agent_id, &config.name));
        Self {
            phase_since: clock.now(),
            board: Arc::new(Board::new(commands.meter())),
            history: History::start(&[], &identity.boot_id, tell::moment(), None),
            beat: (0, Duration::ZERO),
            http: watch::Sender::new(config.http_listen),
            link: Link::new(params(&config), seed),
            node: Node::new(),
            config,
            identity,
            clock,
            keeper,
            active,
            lines: Lines::default(),
            resolver: Arc::default(),
            session: None,
            candidate: None,
            watch,
            commands,
            report_address: String::new(),
            status,
            draining: None,
            manager: Notifier::default(),
            reload: None,
            credentials,
        }
    }

    /// Where the certificate is that it is given, if it joins by a token. Default: in memory.
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        self.board.show_certificate(credentials.ends());
        Self { credentials: Arc::new(credentials), ..self }
    }

    /// Tells this service manager how the agent stands. Default: none.
    pub fn with_manager(self, manager: Notifier) -> Self {
        Self { manager, ..self }
    }

    /// Reads the configuration again by this. Default: SIGHUP only ends a wait.
    pub fn with_reload(self, reload: Reload) -> Self {
        Self { reload: Some(reload), ..self }
    }

    /// Goes on from this history. Default: one that begins now.
    pub fn with_history(self, history: History) -> Self {
        Self { history, ..self }
    }

    /// What it tells those who only look.
    pub fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Where the configuration wants health and metrics to be.
    pub fn http(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.http.subscribe()
    }

    /// Runs until a shutdown is over.
    pub async fn run(mut self, mut signals: mpsc::Receiver<Signal>) {
        // Not when the master has answered: what starts after the agent must not wait for a network.
        self.manager.ready();
        self.keep_history();
        self.tell(Input::Start);
        let mut read_first_until = None;
        while self.carry_out().await {
            let due = self.link.poll_timeout().into_iter().chain(self.candidate_due()).min();
            self.manager.feed(|| self.clock.now(), due);
            let event = {
                let wake = due.into_iter().chain(self.manager.wake_by()).min();
                let wake = wake.map(|wake| read_first_until.map_or(wake, |at| wake.max(at)));
                let full = self.session.as_ref().filter(|session| !session.has_room()).map(Session::room);
                let (has_room, room) = (full.is_none() && !self.is_registering(), wait_for(full));
                let session = self.session.as_mut().filter(|_| !candidate::is_full(self.candidate.as_deref()));
                tokio::select! {
                    biased;
                    event = next_of(session) => Event::Session(event),
                    event = candidate::next_of(&mut self.candidate) => Event::Candidate(event),
                    signal = signals.recv() => Event::Signal(signal.unwrap_or(Signal::Shutdown)),
                    kind = self.commands.next(has_room) => Event::Command(kind),
                    read = reload::done(&mut self.reload) => Event::Reloaded(read),
                    () = room => Event::Room,
                    () = self.watch.changed() => Event::Network,
                    () = self.clock.sleep_until(wake) => Event::Timer,
                }
            };
            match event {
                Event::Session(event) => self.session_event(event),
                Event::Candidate(event) => self.candidate_event(event),
                Event::Command(kind) => {
                    if let (Some(kind), Some(session)) = (kind, &mut self.session) {
                        session.send(kind);
                    }
                }
                Event::Signal(Signal::Shutdown) => self.shut_down(),
                Event::Room => {}
                Event::Network => self.network_changed(),
                Event::Signal(Signal::Reload) => self.begin_reload(),
                Event::Signal(Signal::Show) => self.show_status(),
                Event::Reloaded(read) => self.reloaded(read),
                Event::Timer => {
                    let now = self.clock.now();
                    let late = due.is_some_and(|due| now > due.saturating_add(PAUSE));
                    if late && read_first_until.is_none() {
                        read_first_until = Some(now.saturating_add(READ_FIRST));
                    } else {
                        read_first_until = None;
                        self.tell(Input::Timeout);
                        self.tell_candidate(Input::Timeout);
                    }
                }
            }
            if self.commands.takes_renewal() {
                match &mut self.candidate {
                    Some(candidate) => candidate.renew_without = true,
                    None => self.tell(Input::Renew),
                }
            }
            if self.draining.is_some() {
                if self.commands.is_idle() {
                    self.tell(Input::Drained);
                } else if self.commands.is_settled() {
                    self.tell(Input::Settled);
                }
            }
        }
    }

    fn tell(&mut self, input: Input) {
        self.link.handle(self.clock.now(), input);
    }

    fn reply(&mut self, reply: Reply) {
        if let Some(session) = &self.session {
            let session = session.number;
            self.tell(Input::Reply { session, reply });
        }
    }

    fn shut_down(&mut self) {
        let now = self.clock.now();
        match self.draining {
            // A service manager that signals the whole group reaches us twice.
            Some(at) if now < at + SAME_SIGNAL => return,
            _ => self.draining = Some(now),
        }
        self.manager.stopping();
        self.drop_candidate();
        self.commands.drain();
        self.tell(Input::Shutdown);
        // Who has nothing to wait for says goodbye right now.
        if !self.commands.is_idle() {
            self.tell(Input::Unready);
        }
        if !self.status.shutting_down {
            self.status.shutting_down = true;
            self.board.update(|link| link.shutting_down = true);
            self.active.send_if_modified(std::mem::take);
            self.keeper.keep_status(&self.status);
        }
    }

    fn network_changed(&mut self) {
        let registered = matches!(self.link.state(), Phase::Registered | Phase::Active);
        let session = self.session.as_ref().filter(|_| registered).and_then(Session::addresses);
        match self.watch.judge(session) {
            Some(Verdict::AddressGone) => self.tell(Input::SourceAddressGone),
            Some(Verdict::RouteChanged) => self.tell(Input::RouteChanged),
            Some(Verdict::Came) => {
                self.tell(Input::Woken(WakeReason::Network));
                self.tell_candidate(Input::Woken(WakeReason::Network));
            }
            None => {}
        }
    }

    fn session_event(&mut self, event: session::Event) {
        use session::Event;
        let registered = matches!(self.link.state(), Phase::Registered | Phase::Active);
        match event {
            Event::Run(_) | Event::Cancel(_) | Event::FinishedAck(_) | Event::Shutdown(_) if !registered => {
                let detail = "master speaks before it has registered the agent".to_owned();
                self.reply(Reply::Failed { reason: LossReason::Protocol, detail });
            }
            Event::Run(_) | Event::Cancel(_) | Event::FinishedAck(_) if self.is_registering() => {
                self.candidate.as_mut().expect("it is registering").held_back.push_back(event);
            }
            Event::Reply(reply) => {
                let addresses = self.session.as_ref().and_then(Session::addresses);
                if let (Reply::Dialled, Some((local, peer))) = (&reply, addresses) {
                    self.report_address = self.reported(local);
                    self.watch.met(&self.status.master, peer);
                }
                if let Reply::Ack { seq, .. } = reply {
                    self.acknowledged(seq);
                }
                self.reply(reply);
            }
            Event::Registered(registered) => self.registered(&registered),
            Event::Run(run) => self.commands.run(run),
            Event::Cancel(id) => self.commands.cancel(&id),
            Event::FinishedAck(id) => self.commands.finished_ack(&id),
            Event::Probe => {
                // Where there is no room, answers enough are under way.
                if let Some(session) = self.session.as_mut().filter(|session| session.has_room()) {
                    session.send(Up::ProbeAnswer(proto::ProbeAnswer {}));
                }
            }
            Event::Shutdown(reason) => {
                let why = if reason.is_empty() { "asked for by the master" } else { &reason };
                self.keeper.line(Line::Log(log::Level::Info, format!("Shutdown: {why}")));
                self.shut_down();
            }
        }
    }

    fn is_new(&self, epoch: u64) -> bool {
        epoch > self.keeper.highest_epoch().min(EPOCH_MAX)
    }

    fn not_new(&self, epoch: u64) -> Reply {
        let detail = format!("master gave epoch {epoch}, which is not new");
        Reply::Failed { reason: LossReason::Protocol, detail }
    }

    fn registered(&mut self, registered: &proto::Registered) {
        if !self.is_new(registered.epoch) {
            return self.reply(self.not_new(registered.epoch));
        }
        if let Some(master) = self.session.as_ref().and_then(Session::master_ends) {
            let own = Some(self.credentials.ends().load(Ordering::Relaxed)).filter(|ends| *ends > 0);
            tls::hear(registered.time_unix_ms / 1000, &[master, own.unwrap_or(master)]);
        }
        // Goes to the disk with what else is new.
        self.keeper.keep_epoch(registered.epoch);
        let interval = (registered.interval_ms > 0).then(|| Duration::from_millis(registered.interval_ms));
        self.reply(Reply::Registered { interval });
        if registered.certificate_renew_in_ms > 0
            && let Some(session) = &mut self.session
        {
            let after = Duration::from_millis(registered.certificate_renew_in_ms);
            session.renew(self.credentials.clone(), after);
        }
        if self.link.state() == Phase::Registered
            && let Some(client) = self.session.as_ref().and_then(Session::client)
        {
            let (agent_id, epoch) = (self.identity.agent_id, registered.epoch);
            self.commands.session_up(Uplink { client, agent_id, epoch });
        }
    }

    /// Carries out all that the link wants; `false` once the agent may exit.
    async fn carry_out(&mut self) -> bool {
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Dial { session, master } => self.session = Some(self.dial(session, master)),
                Output::Register { will_wait, .. } => {
                    let spool_id = self.commands.spool_id();
                    let register = self.register(will_wait, spool_id, self.report_address.clone());
                    self.send_session(|session| session.register(register));
                }
                Output::Heartbeat { seq, last_ack, .. } => {
                    let status = seq.is_multiple_of(STATUS_EVERY).then(|| proto::NodeStatus {
                        in_memory: self.config.commands.spool == Spool::Disk && self.commands.in_memory(),
                        ..self.node.status(self.commands.count(), self.keeper.disk())
                    });
                    let ready = self.commands.ready();
                    let beat = Up::Heartbeat(proto::Heartbeat { seq, last_ack, ready, status });
                    self.send_session(|session| _ = session.send(beat));
                    self.beat = (seq, self.clock.now());
                    self.board.update(|link| link.heartbeats += 1);
                }
                Output::Goodbye { .. } => self.send_session(|session| _ = session.send(goodbye("shutdown"))),
                Output::Close { how, .. } => {
                    self.commands.session_down();
                    let session = self.session.take();
                    if let (Close::Graceful, Some(session)) = (how, session) {
                        session.close_gracefully().await;
                    }
                }
                Output::Report(Report::Lost { reason, detail, failures, .. }) if self.candidate.is_some() => {
                    self.lost_before_replaced(reason, detail, failures);
                }
                Output::Report(report) => {
                    if matches!(report, Report::Active { .. }) {
                        self.served();
                    }
                    self.report(&report);
                }
                Output::Interrupt => self.commands.interrupt(),
                Output::Stop => {
                    self.keep_status();
                    return false;
                }
            }
        }
        self.carry_out_candidate();
        self.keep_status();
        true
    }

    fn send_session(&mut self, send: impl FnOnce(&mut Session)) {
        if let Some(session) = &mut self.session {
            send(session);
        }
    }
}

/// The session's next event; never, without one.
async fn next_of(session: Option<&mut Session>) -> session::Event {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

/// Never, for none.
async fn wait_for(future: Option<impl Future<Output = ()>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn goodbye(reason: &str) -> Up {
    Up::Goodbye(proto::Goodbye { reason: reason.into(), retry_after_ms: 0 })
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn watch_for(config: &Config) -> Watch {
    if config.reconnect.on_network_change { Watch::new(&config.masters) } else { Watch::off() }
}

#[cfg(test)]
mod tests;
