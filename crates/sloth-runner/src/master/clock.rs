//! The clock as the fleet is told it.

use fleet::Now;

pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
}

/// CLOCK_BOOTTIME, which goes on while the machine sleeps, and the system's time for people.
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Now {
        Now { monotonic: crate::clock::boottime(), unix_ms: crate::clock::unix_ms() }
    }
}
