//! Commands that wait for standard input which nobody will bring: the master was restarted, and the tool that fed them
//! did not outlive that.

use super::{core::Core, hub::Hub, stdin::Outlook};
use std::sync::Arc;

/// A tool that lost the master tries again every 5 s at the latest; but a master may be back before the network is. So
/// it gets this many times the usual grace: a minute, counted from the agent's return.
pub const STDIN_RETURN: u32 = 6;

/// The agent brings this command in a run of the master in which no tool has fed it yet. Should none come in time, it is
/// cancelled: it would wait for ever, and is never given a false end of its input.
pub fn watch(core: &Arc<Core>, hub: &Arc<Hub>) {
    let has_stdin =
        core.read(|fleet| fleet.dispatch().unfinished(&hub.id).is_some_and(|(record, _)| record.spec.stdin));
    if !has_stdin || !hub.stdin.await_tool() {
        return;
    }
    let (core, hub) = (core.clone(), hub.clone());
    tokio::spawn(async move {
        let (mut changed, mut view) = (hub.stdin.subscribe(), hub.view.subscribe());
        crate::clock::sleep(core.stdin_grace * STDIN_RETURN).await;
        loop {
            // An answer that is still to come is not waited for without an end: the core goes with the master, and a
            // command that is over is looked at once more and left.
            let over = core.hub(&hub.id).is_none_or(|now| !Arc::ptr_eq(&now, &hub));
            match hub.stdin.outlook() {
                _ if over || *core.ending.borrow() => return,
                Outlook::Settled => return,
                Outlook::Unknown => {}
                Outlook::Orphaned if is_over(&core, &hub) => return,
                Outlook::Orphaned => {
                    log::info!("command {}: nobody came back to feed its standard input, so it is cancelled", hub.id);
                    core.decide(|fleet, _| fleet.cancel(&hub.id));
                    return;
                }
            }
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                // Also the command's end, with which no more is heard of its input.
                changed = view.changed() => if changed.is_err() { return },
                () = core.ended() => return,
            }
        }
    });
}

/// It has ended on its agent, whether all of its output is here or not: there is nothing left to cancel, and it left its
/// input unread as any program may.
pub fn is_over(core: &Core, hub: &Hub) -> bool {
    let runs =
        core.read(|fleet| fleet.dispatch().unfinished(&hub.id).is_some_and(|(record, _)| record.outcome.is_none()));
    !runs || *hub.total.borrow() != u64::MAX
}
