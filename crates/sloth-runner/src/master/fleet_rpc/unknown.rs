//! What is said of an agent that there is not.

use crate::master::{
    core::Core,
    reads::{Lane, Reader},
};
use sloth_agent::logging::utc::Utc;
use std::{sync::Arc, time::Duration};
use tonic::Status;

/// Names that are looked at for one that was mistyped: some milliseconds' worth.
const COMPARED_MAX: usize = 5_000;
/// Events of a name, the newest ones, in which its deletion is looked for.
const EVENTS_MAX: usize = 100;

/// As [`no_agent`], and of one that was deleted when that was.
pub async fn unknown(core: &Arc<Core>, reader: &Reader, lane: Lane, name: &str) -> Status {
    let status = no_agent(core, name);
    let turned_away = core.read(|fleet| !fleet.registry().attempts(name, None).is_empty());
    if turned_away || name.is_empty() {
        return status;
    }
    let key = name.to_owned();
    let read = move |core: &Core| core.store.events(None, Some(&key), 0, EVENTS_MAX);
    let events = core.reading(reader, lane, read).await;
    // Where the store cannot be read the rest is true all the same.
    let deleted = events.ok().and_then(|events| events.into_iter().rev().find(|event| event.kind == "agent.deleted"));
    deleted.map_or(status, |event| {
        let when = Utc(Duration::from_millis(event.time_unix_ms));
        Status::not_found(format!(
            "no agent {name:?}: it was deleted at {when}, `sloth-runner agent events {name}` has what was before; \
             `sloth-runner agent list` shows all that there are"
        ))
    })
}

/// Of a name that no agent has.
pub fn no_agent(core: &Core, name: &str) -> Status {
    let nearest = core.read(|fleet| {
        let names = fleet.registry().each().map(|(record, _)| record.name.as_str());
        nearest(name, names.take(COMPARED_MAX)).map(str::to_owned)
    });
    // Who was turned away is on no list, but known.
    if core.read(|fleet| !fleet.registry().attempts(name, None).is_empty()) {
        return Status::not_found(format!(
            "no agent {name:?}, but somebody of that name was turned away: `sloth-runner agent explain {name}` says why"
        ));
    }
    let meant = nearest.map(|nearest| format!(" did you mean {nearest:?}?")).unwrap_or_default();
    Status::not_found(format!("no agent {name:?}:{meant} `sloth-runner agent list` shows all"))
}

/// The name that somebody may have meant: a slip of the finger away, or two in a long one.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = wanted.chars().count();
    let slips = if length < 3 { 0 } else { (length / 4).clamp(1, 2) };
    let near = names.filter(|name| name.len().abs_diff(wanted.len()) <= 4 * slips);
    let far = near.map(|name| (strsim::osa_distance(wanted, name), name)).filter(|(far, _)| (1..=slips).contains(far));
    far.min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_taken_for_one_and_another_name_is_not() {
        let names = ["lady", "node1", "node12", "berlin-gateway"];
        let meant = |wanted: &str| nearest(wanted, names.into_iter());
        assert_eq!(meant("lday"), Some("lady"), "two letters in the wrong order");
        assert_eq!(meant("nodel"), Some("node1"));
        assert_eq!(meant("berlin-gatway"), Some("berlin-gateway"));
        assert_eq!(meant("gateway"), None);
        assert_eq!(meant("la"), None, "of a short name nothing is left");
        assert_eq!(meant(&"x".repeat(100_000)), None);
    }
}
