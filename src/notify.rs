//! What a service manager is told (sd_notify(3)): ready, how it stands, and that it still makes progress.

use crate::{driver::Status, logging::utc::Utc};
use link::Phase;
use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

/// The link's next moment may be over by this and the link still counts as making progress: after a pause of the
/// process sockets are read before deadlines are judged.
const OVERDUE: Duration = Duration::from_secs(1);

/// The way to the service manager; does nothing where there is none.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// For so long the manager waits for a sign of life. `None`: it does not.
    patience: Option<Duration>,
    fed: Duration,
}

impl Notifier {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        let text = |name| env::var(name).ok();
        let ours = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = text("WATCHDOG_USEC").filter(|_| ours);
        Self::new(text("NOTIFY_SOCKET").as_deref(), watchdog.as_deref())
    }

    /// `path` is a socket's, or an abstract name after an `@`; `watchdog_usec` the watchdog's time in microseconds.
    pub fn new(path: Option<&str>, watchdog_usec: Option<&str>) -> Self {
        let socket = path.and_then(|path| {
            let found = open(path);
            found.map_err(|error| log::warn!("NOTIFY_SOCKET is {path}, which cannot be used: {error}")).ok()
        });
        let patience = watchdog_usec.and_then(|usec| usec.parse().ok()).filter(|usec| *usec > 0);
        let patience = patience.filter(|_| socket.is_some()).map(Duration::from_micros);
        Self { socket, patience, fed: Duration::ZERO }
    }

    /// Started, or done with a reload.
    pub fn ready(&self) {
        self.say(|| "READY=1".to_owned());
    }

    /// [`Self::ready`] must follow.
    pub fn reloading(&self) {
        self.say(|| format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().as_micros()));
    }

    pub fn stopping(&self) {
        self.say(|| "STOPPING=1".to_owned());
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: impl FnOnce() -> String) {
        self.say(|| format!("STATUS={}", text()));
    }

    /// At the latest then [`Self::feed`] must be called; `None`: there is no watchdog. Half of the manager's patience
    /// lies before the feeding, so that it can fall on a moment that something happens at anyway; a quarter after it.
    pub fn wake_by(&self) -> Option<Duration> {
        self.patience.map(|patience| self.fed.saturating_add(patience / 4 * 3))
    }

    /// Feeds the watchdog if it is time for it, and if the link makes progress: its next moment, `due`, is to come.
    /// `None`: it waits for none. Nobody else may call this but the loop that carries the link.
    pub fn feed(&mut self, now: impl FnOnce() -> Duration, due: Option<Duration>) {
        let Some(patience) = self.patience else { return };
        let now = now();
        let overdue = due.is_some_and(|due| now > due.saturating_add(OVERDUE));
        if !overdue && now >= self.fed.saturating_add(patience / 2) {
            self.fed = now;
            self.say(|| "WATCHDOG=1".to_owned());
        }
    }

    /// A manager that does not read is no reason to wait.
    fn say(&self, text: impl FnOnce() -> String) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(text().as_bytes(), address);
        }
    }
}

/// How the agent stands, for a person.
pub fn in_words(status: &Status) -> String {
    let Status { phase, master, attempt, next_attempt_unix_ms, last_loss, last_failure, .. } = status;
    match phase {
        Phase::Connecting => format!("Connecting to master at {master} (attempt {attempt})"),
        Phase::Registered => format!("Registered with master at {master}"),
        Phase::Active => format!("Active, with master at {master}"),
        Phase::Disconnected | Phase::Reconnecting => {
            let next = Utc(Duration::from_millis(*next_attempt_unix_ms));
            let latest = last_failure.as_ref().or(last_loss.as_ref());
            let why = latest.map(|(reason, ..)| format!(" ({reason})")).unwrap_or_default();
            format!("Reconnecting to master at {master}, next attempt at {next}{why}")
        }
        Phase::Start | Phase::Stopped => phase.word().to_owned(),
    }
}

fn open(path: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// CLOCK_MONOTONIC, by which a manager tells an older reload from a newer one.
fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests;
