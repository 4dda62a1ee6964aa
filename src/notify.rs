//! What a service manager is told (sd_notify(3)): ready, how it stands, and that it still makes progress.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

/// The way to the service manager; does nothing where there is none.
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often the watchdog is fed: half of what the manager waits for.
    every: Option<Duration>,
    fed: Duration,
}

impl Notifier {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        let text = |name| env::var(name).ok();
        let ours = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = text("WATCHDOG_USEC").filter(|_| ours);
        Self::new(env::var("NOTIFY_SOCKET").ok().as_deref(), watchdog.as_deref())
    }

    fn new(path: Option<&str>, watchdog_usec: Option<&str>) -> Self {
        let socket = path.and_then(|path| {
            let found = open(path);
            found.map_err(|error| log::warn!("NOTIFY_SOCKET is {path}, which cannot be used: {error}")).ok()
        });
        let every = watchdog_usec.and_then(|usec| usec.parse().ok()).filter(|usec| *usec > 0);
        let every = every.filter(|_| socket.is_some()).map(|usec| Duration::from_micros(usec) / 2);
        Self { socket, every, fed: Duration::ZERO }
    }

    pub fn ready(&self) {
        self.say("READY=1");
    }

    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.say(&format!("STATUS={text}"));
    }

    /// When [`Self::feed`] has to be called next; `None`: there is no watchdog.
    pub fn next_feed(&self) -> Option<Duration> {
        self.every.map(|every| self.fed.saturating_add(every))
    }

    /// Feeds the watchdog if it is time. Call it only after something was done.
    pub fn feed(&mut self, now: Duration) {
        if self.next_feed().is_some_and(|at| now >= at) {
            self.fed = now;
            self.say("WATCHDOG=1");
        }
    }

    /// A manager that does not read is no reason to wait.
    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let heard = || {
            let mut text = [0; 64];
            manager.recv(&mut text).ok().map(|n| String::from_utf8_lossy(&text[..n]).into_owned())
        };
        let mut notifier = Notifier::new(path.to_str(), Some("10000000"));
        notifier.ready();
        assert_eq!(heard().as_deref(), Some("READY=1"));
        notifier.status("Active");
        assert_eq!(heard().as_deref(), Some("STATUS=Active"));
        let s = Duration::from_secs;
        for (now, fed) in [(s(4), false), (s(5), true), (s(9), false), (s(10), true), (s(60), true)] {
            notifier.feed(now);
            assert_eq!(heard().is_some(), fed, "at {now:?}");
        }
        assert_eq!(notifier.next_feed(), Some(s(65)));
        drop(manager);
        notifier.stopping();
    }

    #[test]
    fn without_a_manager_nothing_is_due() {
        let mut notifier = Notifier::new(None, Some("10000000"));
        notifier.ready();
        notifier.feed(Duration::from_secs(100));
        assert_eq!(notifier.next_feed(), None);
        assert_eq!(Notifier::new(Some("@sloth-test"), Some("0")).next_feed(), None);
    }
}
