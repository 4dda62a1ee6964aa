//! Signals that end the tool, and what they mean for what it waits for.

use std::io;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
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
