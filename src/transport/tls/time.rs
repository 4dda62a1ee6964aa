//! At which time certificates are judged.

use crate::clock::unix_ms;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// When this program was built, if its builder said so: seconds since 1970 in `SOURCE_DATE_EPOCH`. Else 1970.
const BUILT: Duration = Duration::from_secs(match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("SOURCE_DATE_EPOCH is no number of seconds since 1970"),
    },
    None => 0,
});

/// The time that a master has told last over TLS, since 1970 in seconds. Not the latest of all: a master that was wrong
/// once would be believed for ever.
static HEARD: AtomicU64 = AtomicU64::new(0);

/// See [`HEARD`].
pub fn heard() -> u64 {
    HEARD.load(Ordering::Relaxed)
}

/// A master whose certificate was checked says what time it is. A master's clock may be wrong, too: its word counts up
/// to the end of each certificate that is in use, so that it makes none of them look ended.
pub fn hear(seconds: u64, ends: &[u64]) {
    HEARD.store(believed(seconds, ends), Ordering::Relaxed);
}

fn believed(seconds: u64, ends: &[u64]) -> u64 {
    ends.iter().fold(seconds, |least, end| least.min(end.saturating_sub(1)))
}

/// Judges at the latest time that is known to have been: boxes without a battery begin in 1970.
#[derive(Debug)]
pub(super) struct Judge;

impl TimeProvider for Judge {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now())))
    }
}

/// Seconds since 1970, as [`Judge`] has it.
pub(super) fn now() -> u64 {
    latest(Duration::from_millis(unix_ms()), &[BUILT, Duration::from_secs(heard())]).as_secs()
}

/// The later of a moment and another that has passed.
pub(super) fn latest_of(now: UnixTime, passed: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(latest(Duration::from_secs(now.as_secs()), &[passed]))
}

/// The system's clock, unless one of the `passed` moments is later: then that clock is behind.
fn latest(system: Duration, passed: &[Duration]) -> Duration {
    passed.iter().copied().fold(system, Duration::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_what_has_passed_does_not_count() {
        let [early, later, last] = [1, 2, 3].map(Duration::from_secs);
        assert_eq!(latest(last, &[early, later]), last);
        assert_eq!(latest(early, &[later, last, Duration::ZERO]), last);
        assert_eq!(latest(early, &[]), early);
    }

    #[test]
    fn a_master_is_believed_up_to_the_end_of_every_certificate() {
        assert_eq!(believed(1_000, &[]), 1_000);
        assert_eq!(believed(1_000, &[2_000, 3_000]), 1_000);
        assert_eq!(believed(4_102_444_800, &[2_000, 3_000]), 1_999);
    }
}
