//! Signals that end the tool, and what they mean for what it waits for.

use std::io;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// What somebody wants of the tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, or SIGHUP as when the terminal goes away.
    Leave,
}

/// Listens to SIGINT, SIGTERM and SIGHUP; not to a SIGHUP that whoever started us had ignored, as `nohup` does.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on these signals end nothing by themselves.
    ///
    /// # Errors
    /// When the system gives no handler.
    pub fn new() -> io::Result<Self> {
        let hangup = if is_ignored(SignalKind::hangup()) { None } else { Some(signal(SignalKind::hangup())?) };
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup })
    }

    /// The next one.
    ///
    /// # Cancel safety
    /// Safe: no signal is lost when the future is dropped.
    pub async fn next(&mut self) -> Wish {
        select! {
            Some(()) = self.interrupt.recv() => Wish::Interrupt,
            Some(()) = self.terminate.recv() => Wish::Leave,
            () = arrived(&mut self.hangup) => Wish::Leave,
            else => std::future::pending().await,
        }
    }
}

/// From now on these signals end this process at once: what is still to be written may have no reader.
pub fn end_at_once() {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        if !is_ignored(kind) {
            // SAFETY: the default action runs no code of ours.
            unsafe { libc::signal(kind.as_raw_value(), libc::SIG_DFL) };
        }
    }
}

/// That somebody leaves, for those who have something to say before. Clones hear of it, too.
#[derive(Clone)]
pub struct Leaving(watch::Receiver<Option<Wish>>);

impl Leaving {
    /// With what tells it.
    pub fn new() -> (watch::Sender<Option<Wish>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// What somebody wanted, if it is so already.
    pub fn wish(&self) -> Option<Wish> {
        *self.0.borrow()
    }

    /// Until somebody leaves.
    ///
    /// # Cancel safety
    /// Safe: it is told again.
    pub async fn wished(&mut self) -> Wish {
        match self.0.wait_for(Option::is_some).await.map(|wish| *wish) {
            Ok(Some(wish)) => wish,
            _ => std::future::pending().await,
        }
    }
}

async fn arrived(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

fn is_ignored(kind: SignalKind) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; the old one is written to memory of its type, for which zeroes are valid.
    let action = unsafe {
        libc::sigaction(kind.as_raw_value(), std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}
