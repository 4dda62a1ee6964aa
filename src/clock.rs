//! The agent's only clock. The pure core is given its `now`; the tests have a clock of their own.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Time since the start of the process, and waiting for a moment of it.
pub trait Clock: Send + 'static {
    fn now(&self) -> Duration;

    /// Returns at that moment, at once if it has passed, never for `None`.
    ///
    /// # Cancel safety
    /// Safe: the next call sets the moment anew.
    fn sleep_until(&mut self, at: Option<Duration>) -> impl Future<Output = ()> + Send;
}

/// CLOCK_BOOTTIME, which goes on while the machine is suspended, with one timerfd: it wakes once for a moment, where
/// tokio's timer wheel would wake on the way.
pub struct BootClock {
    start: Duration,
    timer: AsyncFd<OwnedFd>,
    /// The moment that the timer is set to and has not been read for: set again, it would be a system call for nothing.
    armed: Option<Duration>,
}

impl BootClock {
    /// A clock that starts now. Needs a runtime with I/O.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is checked.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the AsyncFd owns the descriptor and is the only one to use it.
        let timer = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { start: boottime(), timer, armed: None })
    }

    fn set(&self, at: Duration) {
        let at = self.start.saturating_add(at);
        // The constructor of a C struct that may have padding on some targets.
        // SAFETY: all-zero is a valid itimerspec.
        let mut spec: libc::itimerspec = unsafe { std::mem::zeroed() };
        spec.it_value.tv_sec = at.as_secs().try_into().unwrap_or(i32::MAX.into());
        // Zero would disarm it.
        spec.it_value.tv_nsec = at.subsec_nanos().max(1) as _;
        // SAFETY: the descriptor is open, the pointer is to a local.
        let done = unsafe {
            let fd = self.timer.as_raw_fd();
            libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &raw const spec, std::ptr::null_mut())
        };
        assert!(done == 0, "timerfd_settime: {}", io::Error::last_os_error());
    }
}

impl Clock for BootClock {
    fn now(&self) -> Duration {
        boottime().saturating_sub(self.start)
    }

    async fn sleep_until(&mut self, at: Option<Duration>) {
        let Some(at) = at else { return std::future::pending().await };
        if self.armed != Some(at) {
            self.set(at);
            self.armed = Some(at);
        }
        loop {
            let Ok(mut ready) = self.timer.readable().await else { return std::future::pending().await };
            let mut count = [0_u8; 8];
            // A timerfd that is not read never fires again.
            let read = ready.try_io(|timer| {
                // SAFETY: the buffer is as long as said.
                let n = unsafe { libc::read(timer.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
                if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
            if let Ok(Ok(())) = read {
                // It has fired once and is not set: without this the next wait would begin with a read in vain.
                ready.clear_ready();
                self.armed = None;
                return;
            }
        }
    }
}

/// Since the machine's start, suspended time included.
pub fn boottime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local; this clock exists since Linux 2.6.39.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert!(done == 0, "clock_gettime: {}", io::Error::last_os_error());
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Unix milliseconds, for people: never for deadlines.
#[expect(clippy::disallowed_methods, reason = "the wall clock's one reader on the agent")]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(30);
    const MS: Duration = Duration::from_millis(1);

    async fn waits(clock: &mut BootClock, at: Duration) {
        timeout(PATIENCE, clock.sleep_until(Some(at))).await.expect("the moment comes");
        assert!(clock.now() >= at, "{:?} is before {at:?}", clock.now());
    }

    #[tokio::test]
    async fn a_moment_that_is_waited_for_again_still_comes() {
        let mut clock = BootClock::new().unwrap();
        let at = clock.now() + 20 * MS;
        for _ in 0..3 {
            let began = timeout(Duration::ZERO, clock.sleep_until(Some(at))).await;
            assert!(began.is_err() || clock.now() >= at, "too early");
        }
        waits(&mut clock, at).await;
        // The same moment, now past, comes at once, and so does one that was always past.
        waits(&mut clock, at).await;
        waits(&mut clock, Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_moment_that_is_moved_comes_when_it_was_moved_to() {
        let mut clock = BootClock::new().unwrap();
        let (near, far) = (clock.now() + 10 * MS, clock.now() + 3_600_000 * MS);
        for first in [near, far] {
            let began = timeout(Duration::ZERO, clock.sleep_until(Some(first))).await;
            assert!(began.is_err() || clock.now() >= first, "too early");
        }
        // It fired for nobody: the one that is set now is waited for, not that one.
        assert!(timeout(30 * MS, clock.sleep_until(Some(far))).await.is_err(), "the old moment counts");
        for _ in 0..3 {
            let next = clock.now() + 5 * MS;
            waits(&mut clock, next).await;
        }
    }

    #[tokio::test]
    async fn without_a_moment_it_waits_for_ever() {
        let mut clock = BootClock::new().unwrap();
        let at = clock.now() + 10 * MS;
        let began = timeout(Duration::ZERO, clock.sleep_until(Some(at))).await;
        assert!(began.is_err() || clock.now() >= at, "too early");
        assert!(timeout(30 * MS, clock.sleep_until(None)).await.is_err());
        waits(&mut clock, at).await;
    }
}
