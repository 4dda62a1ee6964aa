//! Why is this agent as it is? From all that is known of it.

use super::{unknown, unreadable};
use crate::master::{
    core::Core,
    reads::{Lane, Reader},
    rows,
};
use fleet::{AgentId, AgentRecord, AgentView, Attempt, Now, advice::Why};
use proto::{AgentRow, ExplainReply};
use std::sync::Arc;
use tonic::Status;

/// More than are kept at the default.
const SESSIONS_MAX: usize = 500;
const TOLD_MAX: usize = 100;
const COMMANDS_MAX: usize = 100;

/// Events about refusals that are looked at: one a minute for each reason, so of most of a day.
const REFUSALS_MAX: usize = 1_000;
/// Of an agent that is on record older ones are told only if they are younger than its status: what it was refused for
/// three weeks ago, and is not, says nothing of it.
const REFUSALS_AGE_MS: u64 = 24 * 3_600_000;

/// What is said of a name that somebody was turned away under, and that no agent has.
const UNKNOWN: &str = "Unknown";

/// # Errors
/// Nobody has this name and nobody was turned away under it, or the store cannot be read.
pub async fn explain(core: &Arc<Core>, reader: &Reader, name: &str) -> Result<ExplainReply, Status> {
    let now = core.now();
    let seen = core.read(|fleet| {
        let id = fleet.registry().find(name).or_else(|| fleet::id_from_hex(name));
        let view = id.and_then(|id| fleet.registry().view(id));
        let known_as = view.as_ref().map_or(name, |view| &view.record.name).to_owned();
        let (commands, commands_in_all) = match &view {
            Some(view) => fleet.dispatch().unfinished_of(view.record.id, COMMANDS_MAX),
            None => (Vec::new(), 0),
        };
        (fleet.registry().attempts(&known_as, id), view, commands, commands_in_all)
    });
    let (remembered, view, commands, commands_in_all) = seen;
    let known = view.as_ref().map(|view| &view.record);
    let attempts = attempts(core, reader, name, known, remembered, now).await?;
    let Some(view) = view else {
        return match never_registered(core, attempts, now) {
            Some(reply) => Ok(reply),
            None => Err(unknown(core, reader, Lane::History, name).await),
        };
    };
    let (sessions, told) = history(core, reader, view.record.id).await?;
    let closed_by = sessions.iter().find_map(|session| session.end.as_ref()).map(|end| end.closed_by);
    let (next_beat_unix_ms, lost_at_unix_ms) = expected(&view, now);
    let certificate_expires_unix_ms = certificate_ends(core, &view.record.id);
    // TLS ends before it says who it is: of its attempts nothing is known.
    let certificate_ended =
        view.record.status != fleet::Status::Active && (1..=now.unix_ms).contains(&certificate_expires_unix_ms);
    let why = match certificate_ended {
        true => Why::CertificateEnded,
        false => Why::of(&view.record, &attempts, closed_by, now.unix_ms).on(view.node.as_ref()),
    };
    Ok(ExplainReply {
        sessions: sessions.into_iter().map(rows::session).collect(),
        attempts: attempts.into_iter().map(rows::attempt).collect(),
        advice: not_recorded(core).unwrap_or_else(|| why.advice(&view.record.name)),
        clock_known: view.clock_skew_ms.is_some(),
        clock_skew_ms: view.clock_skew_ms.unwrap_or(0),
        next_beat_unix_ms,
        lost_at_unix_ms,
        commands,
        commands_in_all: u32::try_from(commands_in_all).unwrap_or(u32::MAX),
        certificate_expires_unix_ms,
        time_unix_ms: now.unix_ms,
        told: told.into_iter().map(rows::told).collect(),
        agent: Some(rows::agent(view)),
    })
}

/// The advice to mend the store, with what it said last, while it fails.
fn not_recorded(core: &Core) -> Option<String> {
    let said = core.meters.counts().store_failure?;
    Some(format!("{} It said: {said}", Why::NotRecorded.advice("")))
}

/// 0: it has none that was made here.
fn certificate_ends(core: &Core, id: &AgentId) -> u64 {
    core.security.as_ref().and_then(|security| security.admission.agent_expires_ms(id)).unwrap_or(0)
}

async fn history(
    core: &Arc<Core>,
    reader: &Reader,
    id: AgentId,
) -> Result<(Vec<fleet::SessionRecord>, Vec<fleet::Told>), Status> {
    let read = move |core: &Core| Ok((core.store.sessions(id, SESSIONS_MAX)?, core.store.told(id, TOLD_MAX)?));
    core.reading(reader, Lane::History, read).await.map_err(|error| unreadable(&error))
}

/// Who was turned away: as it is remembered, and as events tell it, since memory does not outlive the master.
async fn attempts(
    core: &Arc<Core>,
    reader: &Reader,
    name: &str,
    known: Option<&AgentRecord>,
    remembered: Vec<Attempt>,
    now: Now,
) -> Result<Vec<Attempt>, Status> {
    let id = known.map(|record| record.id).or_else(|| fleet::id_from_hex(name));
    let since = known.map_or(0, |record| refusals_since(record.status, record.since_unix_ms, now.unix_ms));
    let name = known.map_or(name, |record| &record.name).to_owned();
    let read = move |core: &Core| core.store.refusals(id, &name, since, REFUSALS_MAX);
    let refusals = core.reading(reader, Lane::History, read).await.map_err(|error| unreadable(&error))?;
    Ok(fleet::registry::with_recorded(remembered, &refusals))
}

/// From when on refusals of an agent that is on record are told.
fn refusals_since(status: fleet::Status, since_unix_ms: u64, now_unix_ms: u64) -> u64 {
    let lately = now_unix_ms.saturating_sub(REFUSALS_AGE_MS);
    match status {
        fleet::Status::Active => lately,
        fleet::Status::Inactive | fleet::Status::Stopped => lately.min(since_unix_ms),
    }
}

/// When the next beat is due, and when the agent is lost without one. 0 without a session.
fn expected(view: &AgentView, now: Now) -> (u64, u64) {
    let (Some(deadline), Some(interval)) = (view.deadline, view.interval) else { return (0, 0) };
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let lost_at = now.unix_ms + millis(deadline.saturating_sub(now.monotonic));
    (view.record.last_heartbeat_unix_ms + millis(interval), lost_at)
}

/// Of somebody who is only known for having been turned away.
fn never_registered(core: &Core, attempts: Vec<Attempt>, now: Now) -> Option<ExplainReply> {
    let last = attempts.first()?;
    let agent = AgentRow {
        name: last.name.clone(),
        id: fleet::hex(&last.id),
        status: UNKNOWN.to_owned(),
        reason: last.turned.word().to_owned(),
        detail: last.message.clone(),
        since_unix_ms: last.last_unix_ms,
        address: last.address.clone(),
        host: last.host.clone(),
        ..AgentRow::default()
    };
    Some(ExplainReply {
        advice: not_recorded(core).unwrap_or_else(|| Why::turned(last.turned).advice(&last.name)),
        attempts: attempts.into_iter().map(rows::attempt).collect(),
        agent: Some(agent),
        time_unix_ms: now.unix_ms,
        ..ExplainReply::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_refusals_count_only_for_who_has_been_away_since() {
        let (day, now) = (REFUSALS_AGE_MS, 30 * REFUSALS_AGE_MS);
        let since = |status, since| refusals_since(status, since, now);
        assert_eq!(since(fleet::Status::Active, 2 * day), 29 * day);
        assert_eq!(since(fleet::Status::Inactive, 2 * day), 2 * day);
        assert_eq!(since(fleet::Status::Stopped, now - 1), 29 * day);
        assert_eq!(refusals_since(fleet::Status::Active, 5, 9), 0);
    }
}
