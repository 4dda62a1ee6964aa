//! The only timer of the fleet: looks when something is due.

use super::{
    core::{Core, rejected},
    wires::REGISTER_TIMEOUT,
};
use link::LossReason;
use std::{sync::Arc, time::Duration};

/// It looks at least this often, to notice that the process was paused.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Woken later than this, the process itself was away, or had no turn: what lies in the sockets is read before anyone is
/// judged.
const LATE: Duration = Duration::from_millis(200);
/// … and this is worth a line.
const PAUSE: Duration = Duration::from_secs(1);
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
        let late = core.now().monotonic.saturating_sub(now + wait);
        if late > PAUSE {
            log::warn!("this process was paused: reading what came meanwhile before judging any agent");
        }
        if late > LATE {
            crate::clock::sleep(READ_FIRST).await;
        }
        core.tell_audit_lost();
        for outbox in core.wires.overdue(core.now().monotonic) {
            let message = format!("not registered within {} s", REGISTER_TIMEOUT.as_secs());
            outbox.push(rejected(LossReason::Protocol, message));
            outbox.close();
        }
        if let Some(security) = &core.security {
            security.acceptor.look();
        }
        let due = core.now().monotonic;
        if core.read(|fleet| fleet.poll_timeout()).is_some_and(|at| at <= due) {
            core.decide(|fleet, now| fleet.timeout(now));
        }
    }
}
