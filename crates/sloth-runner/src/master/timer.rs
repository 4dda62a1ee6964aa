//! The only timer of the fleet: looks when something is due.

use super::{
    core::{Core, rejected},
    wires::REGISTER_TIMEOUT,
};
use link::LossReason;
use std::{sync::Arc, time::Duration};

/// It looks at least this often, to notice that the process was paused.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Woken later than this, the process itself was away: what lies in the sockets is read before anyone is judged.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const READ_FIRST: Duration = Duration::from_millis(250);

/// Judges what is due until the task is aborted.
pub async fn run(core: Arc<Core>) {
    loop {
        let now = core.now().monotonic;
        let wait = core.arm().map_or(LOOK_EVERY, |at| at.saturating_sub(now)).min(LOOK_EVERY);
        tokio::select! {
            () = crate::clock::sleep(wait) => {}
            () = core.rearm.notified() => {}
        }
        if core.now().monotonic > now + wait + PAUSE_MIN {
            log::warn!("this process was paused: reading what came meanwhile before judging any agent");
            crate::clock::sleep(READ_FIRST).await;
        }
        for outbox in core.wires.overdue(core.now().monotonic) {
            let message = format!("not registered within {} s", REGISTER_TIMEOUT.as_secs());
            outbox.push(rejected(LossReason::Protocol, message));
            outbox.close();
        }
        let due = core.now().monotonic;
        if core.read(|fleet| fleet.poll_timeout()).is_some_and(|at| at <= due) {
            core.decide(|fleet, now| fleet.timeout(now));
        }
    }
}
