//! What the event says that tells of the master's own start.

use fleet::Run;
use sloth_agent::logging::utc::Utc;
use std::time::Duration;

/// The reason of `master.started` where the run before it was cut off.
const DIED: &str = "master_died";

/// Reason and text. `last`: the run before, as far as it is on record.
pub fn told(last: Option<Run>) -> (&'static str, String) {
    const STARTED: &str = concat!("sloth-runner ", env!("CARGO_PKG_VERSION"), " started");
    let Some(Run { written_unix_ms, ended, .. }) = last else { return ("", STARTED.to_owned()) };
    let at = Utc(Duration::from_millis(written_unix_ms));
    match ended {
        true => ("", format!("{STARTED}; it was stopped at {at}")),
        false => (DIED, format!("{STARTED}; the master was not stopped cleanly; last written at {at}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_the_run_before_it_ended() {
        let last = |ended| Some(Run { started_unix_ms: 1_000, written_unix_ms: 61_000, ended });
        let version = env!("CARGO_PKG_VERSION");
        let (reason, text) = told(last(false));
        let died = "the master was not stopped cleanly; last written at 1970-01-01T00:01:01.000Z";
        assert_eq!((reason, text), ("master_died", format!("sloth-runner {version} started; {died}")));
        let (reason, text) = told(last(true));
        let stopped = format!("sloth-runner {version} started; it was stopped at 1970-01-01T00:01:01.000Z");
        assert_eq!((reason, text), ("", stopped));
        assert_eq!(told(None), ("", format!("sloth-runner {version} started")));
    }
}
