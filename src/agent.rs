//! The agent as a whole: what `start` runs.

use crate::{
    clock::{BootClock, boottime, unix_ms},
    commands::Commands,
    config::{self, Config, describe},
    credentials::{self, Credentials},
    daemon::ORPHANED,
    driver::{Driver, Identity, Keeper, Signal, Status},
    health, helper,
    history::{History, Moment},
    http,
    logging::{self, Console, Rolling, utc::Utc},
    node::Disk,
    notify::Notifier,
    reload::Reload,
    report::Line,
    state::{self, StateDir},
    status::{self, CERTIFICATE_ENDS, Field, SHUTTING_DOWN, SPOOL_IN_MEMORY, STATE_IN_MEMORY},
    transport::tls,
};
use link::LossReason;
use std::{io, net::TcpListener, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// After the goodbye, so long for a helper thread that hangs.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// What an agent is started with, beside its configuration.
#[derive(Debug)]
pub struct StartContext {
    pub state: StateDir,
    pub console: Console,
    /// The agent's own port, bound.
    pub port: Option<TcpListener>,
    /// The log's file, if it has one.
    pub log: Option<Rolling>,
    /// Reads the configuration again.
    pub reload: Reload,
    /// By whom, if somebody does.
    pub supervised: Option<Supervised>,
}

/// Who starts this process again when it dies, and owns the pid file.
#[derive(Debug)]
pub struct Supervised {
    /// The pid.
    pub supervisor: u32,
    /// What became of the process before this one, as in "was killed by signal 9"; none: it is the first.
    pub before: Option<String>,
}

/// Open files of an agent with a session that keeps an epoch: 17 descriptors, the spool's journal among them, and 3 for a
/// moment. Each command needs 3, and 8 on its way.
pub const OPEN_FILES_MIN: u64 = 20;

/// Runs until a shutdown is over; the exit code.
pub fn run(config: Config, context: StartContext) -> i32 {
    // Below, the runtime would end with a panic.
    let open_files = open_files_max();
    if open_files < OPEN_FILES_MIN {
        log::error!(
            "cannot start: too many open files: the limit is {open_files}, an agent needs {OPEN_FILES_MIN}, and 8 more \
             to run commands: raise it (`ulimit -n`, or LimitNOFILE= of the service)"
        );
        return 1;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!("cannot start: {}", describe(&error));
            return 1;
        }
    };
    // On a task of its own: what wakes the future of block_on goes through an eventfd each time.
    let ended = runtime.block_on(async { tokio::spawn(serve(config, context)).await });
    drop(runtime);
    match ended {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            log::error!("cannot start: {}", describe(&error));
            1
        }
        Err(error) => {
            log::error!("ended by itself: {error}");
            1
        }
    }
}

/// Binds the agent's own port, if it has one.
///
/// # Errors
/// What to print: it names the address and the remedy.
pub fn bind(config: &Config) -> Result<Option<TcpListener>, String> {
    let Some(port) = config.listen.port else { return Ok(None) };
    let address = std::net::SocketAddr::new(config.listen.bind_address, port);
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let remedy = |error: &io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there: choose another --port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose another --bind-address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root: choose another --port",
        _ => "choose another --port or --bind-address",
    };
    bound.map(Some).map_err(|error| format!("cannot listen on {address}: {}", remedy(&error)))
}

/// In the clear whoever is between, or answers at that address, can run commands here.
fn warn_of_plain(config: &Config, state_dir: &std::path::Path) {
    let secured = config.tls.is_some() || config.token.is_some() || credentials::has_joined(state_dir);
    if let Some(master) = config.masters.iter().find(|master| !master.is_local())
        && !secured
    {
        log::warn!(
            "The connection to {master} is not secured: whoever is on the way to it, or answers in its place, can run \
             commands on this machine. A token makes it safe (`sloth-runner master init`), and tls.enabled = true keeps \
             this agent from ever speaking in the clear"
        );
    }
}

/// What the system allows this process.
pub fn open_files_max() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    #[allow(clippy::useless_conversion, reason = "narrower on some 32-bit targets")]
    if done == 0 { u64::from(limit.rlim_cur) } else { u64::MAX }
}

async fn serve(config: Config, context: StartContext) -> io::Result<()> {
    let StartContext { state, console, port, log, reload, supervised } = context;
    let supervisor = supervised.as_ref().map(|supervised| supervised.supervisor);
    let before = supervised.and_then(|supervised| supervised.before);
    let (signals_in, signals) = mpsc::channel(4);
    watch_signals(&signals_in)?;
    let (active, is_active) = watch::channel(false);
    if let Some(port) = port {
        tokio::spawn(health::serve(tokio::net::TcpListener::from_std(port)?, is_active));
    }
    let identity = Identity {
        agent_id: state.agent_id(),
        instance_id: state::random()?,
        boot_id: state::boot_id(),
        host: crate::config::host_name(),
    };
    tls::hear(state.heard(), &[]);
    warn_of_plain(&config, state.path());
    let commands = Commands::open(&config.commands, &config.name, state.path(), !state.is_memory());
    let directory = credentials::kept_in(state.path(), state.is_memory());
    let credentials = Credentials::new(directory, state.agent_id(), &config.name);
    let boot_ms = boottime().as_millis().try_into().unwrap_or(u64::MAX);
    let now = Moment { unix_ms: unix_ms(), boot_ms };
    let history = History::start(&state.read_history(), &identity.boot_id, now, before.as_deref());
    let (keeper, writer) = Files::new(&config.name, state, console);
    let orphaned = tokio::spawn(outlive(supervisor, signal(SignalKind::from_raw(ORPHANED))?, keeper.kept.clone()));
    let keeper = Box::new(Files { log, instance: state::hex(&identity.instance_id), ..keeper });
    let driver = Driver::new(config, identity, BootClock::new()?, keeper, commands, active);
    let driver = driver.with_credentials(credentials).with_history(history);
    tokio::spawn(http::serve(driver.http(), driver.board()));
    driver.with_manager(Notifier::from_environment()).with_reload(reload).run(signals).await;
    orphaned.abort();
    // It ends once the newest is written.
    let _ = tokio::time::timeout(EXIT_GRACE, writer).await;
    Ok(())
}

/// The supervisor is gone. Asked for by who the parent is: pids are used again, but not for one's own parent.
pub fn is_orphan_of(supervisor: u32) -> bool {
    std::os::unix::process::parent_id() != supervisor
}

/// Goes on when the supervisor dies: a node that nobody can walk to is better off unsupervised than gone.
async fn outlive(supervisor: Option<u32>, mut signals: Signals, kept: watch::Sender<Kept>) {
    let Some(supervisor) = supervisor else { return };
    while !is_orphan_of(supervisor) {
        if signals.recv().await.is_none() {
            return;
        }
    }
    let pid = std::process::id();
    log::warn!(
        "The parent process {supervisor}, which would start this agent again, is gone: going on without it as pid \
         {pid}; stop and start it to have one again"
    );
    kept.send_modify(|kept| kept.takes_pid = true);
}

fn watch_signals(to: &mpsc::Sender<Signal>) -> io::Result<()> {
    let wanted = [
        (SignalKind::terminate(), Signal::Shutdown),
        (SignalKind::interrupt(), Signal::Shutdown),
        (SignalKind::hangup(), Signal::Reload),
        (SignalKind::user_defined1(), Signal::Show),
    ];
    for (kind, meaning) in wanted {
        let mut signal = signal(kind)?;
        let to = to.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                // One of each kind at the most waits here: the system makes one of those that come meanwhile.
                if to.send(meaning).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// The state directory, the log and the console.
struct Files {
    name: String,
    /// Of this process, in hex.
    instance: String,
    /// The state directory cannot be written.
    in_memory: bool,
    console: Console,
    log: Option<Rolling>,
    kept: watch::Sender<Kept>,
    disk: watch::Receiver<Disk>,
}

/// What goes to the state directory: the newest of each. Written by a task, on a helper thread, because an fsync can
/// take seconds and no heartbeat may wait for it. Each time the disk is looked at as well: that can hang with it.
#[derive(Clone)]
struct Kept {
    epoch: u64,
    status: Option<String>,
    history: Option<Arc<str>>,
    /// The pid file is this process's from now on.
    takes_pid: bool,
}

impl Files {
    /// With the task that writes, until everything else of this is dropped.
    fn new(name: &str, mut state: StateDir, console: Console) -> (Self, JoinHandle<()>) {
        let (kept, mut changed) =
            watch::channel(Kept { epoch: state.highest_epoch(), status: None, history: None, takes_pid: false });
        let (looked, disk) = watch::channel(Disk::default());
        let in_memory = state.is_memory();
        let writer = tokio::spawn(async move {
            let (mut written, mut written_history, mut has_pid) = (None, None::<Arc<str>>, false);
            while changed.changed().await.is_ok() {
                let Kept { epoch, status, history, takes_pid } = changed.borrow_and_update().clone();
                let new_history = history.clone().filter(|_| history != written_history);
                written_history = history;
                let pid_is_due = takes_pid && !std::mem::replace(&mut has_pid, takes_pid);
                let writing = helper::spawn(move || {
                    if pid_is_due && let Err(why) = state.write_pid() {
                        log::warn!("cannot write the pid file: {why}: `stop` will not find this agent");
                    }
                    if let Some(text) = status.as_ref().filter(|_| status != written) {
                        state.write_status(text);
                    }
                    state.keep_epoch(epoch);
                    state.keep_heard(tls::heard());
                    if let Some(text) = new_history {
                        state.write_history(&text);
                    }
                    let disk = Disk::of(state.path());
                    (state, status, disk)
                });
                let Ok((same, status, disk)) = writing.await else { return };
                (state, written) = (same, status);
                looked.send_replace(disk);
            }
        });
        (Self { name: name.to_owned(), instance: String::new(), in_memory, console, log: None, kept, disk }, writer)
    }
}

impl Keeper for Files {
    fn highest_epoch(&self) -> u64 {
        self.kept.borrow().epoch
    }

    fn keep_epoch(&mut self, epoch: u64) {
        self.kept.send_modify(|kept| kept.epoch = epoch);
    }

    fn keep_status(&mut self, status: &Status) {
        let at = |unix_ms| Utc(Duration::from_millis(unix_ms)).to_string();
        let since = at(status.since_unix_ms);
        let next_attempt = at(status.next_attempt_unix_ms);
        let mut fields = vec![
            ("name", Field::Text(&self.name)),
            ("pid", Field::Number(std::process::id().into())),
            ("instance", Field::Text(&self.instance)),
            ("state", Field::Text(status.phase.word())),
            ("since", Field::Text(&since)),
            ("master", Field::Text(&status.master)),
            ("report_address", Field::Text(&status.report_address)),
            ("attempt", Field::Number(status.attempt.into())),
        ];
        if self.in_memory {
            fields.push((STATE_IN_MEMORY, Field::Boolean(true)));
        }
        if status.shutting_down {
            fields.push((SHUTTING_DOWN, Field::Boolean(true)));
        }
        if status.next_attempt_unix_ms > 0 {
            fields.push(("next_attempt", Field::Text(&next_attempt)));
        }
        let said_at = |what: &Option<(LossReason, String, u64)>| {
            what.as_ref().map(|(.., unix_ms)| at(*unix_ms)).unwrap_or_default()
        };
        let (loss_at, failure_at) = (said_at(&status.last_loss), said_at(&status.last_failure));
        if let Some((reason, detail, _)) = &status.last_loss {
            fields.push(("last_loss", Field::Text(reason.word())));
            fields.push(("last_loss_at", Field::Text(&loss_at)));
            fields.push(("last_loss_detail", Field::Text(detail)));
        }
        if let Some((reason, detail, _)) = &status.last_failure {
            fields.push(("last_failure", Field::Text(reason.word())));
            fields.push(("last_failure_at", Field::Text(&failure_at)));
            fields.push(("failure_detail", Field::Text(detail)));
        }
        let deferred_at = status.deferred.as_ref().map(|(_, unix_ms)| at(*unix_ms)).unwrap_or_default();
        if let Some((reason, _)) = &status.deferred {
            fields.push(("deferred", Field::Text(reason)));
            fields.push(("deferred_at", Field::Text(&deferred_at)));
        }
        let skipped: Vec<String> =
            status.skipped.iter().map(|(master, until)| format!("{master} until {}", at(*until))).collect();
        let skipped = skipped.join(", ");
        if !skipped.is_empty() {
            fields.push(("skipped", Field::Text(&skipped)));
        }
        let ends = at(status.certificate_ends.saturating_mul(1000));
        if status.certificate_ends > 0 {
            fields.push((CERTIFICATE_ENDS, Field::Text(&ends)));
        }
        if let Some(live) = &status.live {
            fields.push(("asked_at", Field::Seconds(live.asked_at)));
            fields.push(("in_state", Field::Seconds(live.in_state)));
            fields.extend(live.next_attempt_in.map(|wait| ("next_attempt_in", Field::Seconds(wait))));
            fields.extend(live.round_trip.map(|round_trip| ("round_trip", Field::Seconds(round_trip))));
            fields.push(("heartbeats", Field::Number(live.heartbeats)));
            fields.push(("sessions", Field::Number(live.sessions)));
            fields.push(("commands_held", Field::Number(live.commands_held as u64)));
            fields.push(("spool_bytes", Field::Number(live.spool_bytes)));
            fields.push((SPOOL_IN_MEMORY, Field::Boolean(live.spool_in_memory)));
        }
        let text = status::write(&fields);
        self.kept.send_modify(|kept| kept.status = Some(text));
    }

    fn keep_history(&mut self, text: String) {
        self.kept.send_modify(|kept| kept.history = Some(text.into()));
    }

    fn disk(&mut self) -> Disk {
        self.kept.send_modify(|_| {});
        *self.disk.borrow()
    }

    fn line(&mut self, line: Line) {
        match line {
            Line::Log(level, text) => log::log!(level, "{text}"),
            Line::Console(text) => self.console.line(&text),
        }
    }

    fn set_log(&mut self, log: &config::Log) {
        logging::set_level(log.level);
        if let Some(file) = &self.log {
            file.set_limits(log.max_size, log.max_files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_disk_is_looked_at_where_it_may_hang() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path(), "lady").unwrap();
        let (mut files, _writer) = Files::new("lady", state, Console::Stdout);
        assert_eq!(files.disk(), Disk::default(), "asked, not waited for");
        let looked = tokio::time::timeout(Duration::from_secs(30), files.disk.changed()).await;
        looked.expect("the look ends").expect("the writer goes on");
        assert!(files.disk().total_kib > 0);
    }
}
