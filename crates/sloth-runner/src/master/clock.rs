//! The only clock of the master.

use fleet::Now;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
}

/// CLOCK_BOOTTIME, which goes on while the machine sleeps, and the system's time for people.
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Now {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec of this frame, which the call only writes.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
        assert_eq!(result, 0, "CLOCK_BOOTTIME is there since Linux 2.6.39");
        let nanos = u32::try_from(time.tv_nsec).expect("nanoseconds are below 10^9");
        let monotonic = Duration::new(u64::try_from(time.tv_sec).expect("never negative"), nanos);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic, unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }
}
