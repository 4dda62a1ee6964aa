//! Conversions between what the master knows and what operators are told.

use super::ports::{Piece, Record, Spec};
use crate::{
    access::{Caller, Who},
    tool::table::printable,
};
use fleet::{AgentView, Attempt, CommandState, Event, SessionRecord, Status as AgentStatus, Told};
use proto::{
    AgentRow, AttemptRow, CommandRow, EventRow, Gap, NodeStatus, OutputChunk, SessionRow, ToldRow, run_reply::Kind,
};

/// 16 bytes, or not an id.
pub fn id(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

pub fn agent(view: AgentView) -> AgentRow {
    let record = view.record;
    AgentRow {
        name: record.name,
        id: fleet::hex(&record.id),
        status: record.status.word().to_owned(),
        reason: record.reason,
        since_unix_ms: record.since_unix_ms,
        address: record.address,
        version: record.version,
        labels: record.labels.into_iter().collect(),
        last_heartbeat_unix_ms: record.last_heartbeat_unix_ms,
        host: record.host,
        epoch: record.epoch,
        detail: record.detail,
        node: view.node.map(|node| NodeStatus {
            load_1m_milli: node.load_1m_milli,
            memory_total_kib: node.memory_total_kib,
            memory_available_kib: node.memory_available_kib,
            disk_total_kib: node.disk_total_kib,
            disk_free_kib: node.disk_free_kib,
            uptime_s: node.uptime_s,
            commands_held: node.commands_held,
            time_unix_ms: 0,
            in_memory: node.in_memory,
        }),
    }
}

pub fn session(record: SessionRecord) -> SessionRow {
    let row = SessionRow {
        epoch: record.session.epoch,
        started_unix_ms: record.started_unix_ms,
        address: record.address,
        ..SessionRow::default()
    };
    match record.end {
        None => row,
        Some(end) => SessionRow {
            ended_unix_ms: end.unix_ms,
            reason: end.reason,
            closed_by: end.closed_by.word().to_owned(),
            detail: end.detail,
            ..row
        },
    }
}

pub fn attempt(attempt: Attempt) -> AttemptRow {
    AttemptRow {
        name: attempt.name,
        agent_id: fleet::hex(&attempt.id),
        reason: attempt.turned.word().to_owned(),
        count: attempt.count,
        first_unix_ms: attempt.first_unix_ms,
        last_unix_ms: attempt.last_unix_ms,
        host: attempt.host,
        address: attempt.address,
        message: attempt.message,
    }
}

pub fn told(told: Told) -> ToldRow {
    ToldRow {
        time_unix_ms: told.unix_ms,
        kind: told.kind.word().to_owned(),
        reason: told.reason,
        detail: told.detail,
        duration_ms: told.duration_ms,
        attempts: told.attempts,
        master: told.master,
        epoch: told.epoch,
    }
}

/// Whose eyes a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// May see all of it.
    Operator,
    /// Of environments only the names: what they hold may be a password.
    Viewer,
}

impl Eyes {
    /// An operator's where everybody is one, as in the clear.
    pub fn of(caller: Option<&Caller>) -> Self {
        match caller.map(|caller| caller.who) {
            Some(None | Some(Who::Operator)) => Self::Operator,
            _ => Self::Viewer,
        }
    }
}

fn spec(spec: &Spec, eyes: Eyes) -> Spec {
    let mut spec = spec.clone();
    if eyes == Eyes::Viewer {
        for variable in &mut spec.env {
            let name = variable.iter().position(|&byte| byte == b'=').unwrap_or(0);
            variable.truncate(name);
        }
    }
    spec
}

/// `received`: output that is here of an unfinished command.
pub fn command(record: &Record, received: u64, eyes: Eyes) -> CommandRow {
    let finished = record.state == CommandState::Finished;
    CommandRow {
        id: record.id.clone(),
        agent: record.agent.clone(),
        agent_id: fleet::hex(&record.agent_id),
        state: record.state.word().to_owned(),
        outcome: record.outcome.as_ref().map(Into::into),
        spec: Some(spec(&record.spec, eyes)),
        created_unix_ms: record.created_unix_ms,
        started_unix_ms: record.started_unix_ms,
        finished_unix_ms: record.finished_unix_ms,
        output_bytes: if finished { record.output_bytes } else { received },
        gaps: record.gaps.iter().map(|(offset, bytes)| Gap { offset: *offset, bytes: *bytes }).collect(),
        expires_unix_ms: record.expires_unix_ms.unwrap_or(0),
        agent_away: String::new(),
        output_stalls: String::new(),
        cancel_asked: record.cancel_asked,
    }
}

pub fn event(event: Event) -> EventRow {
    EventRow {
        seq: event.seq,
        time_unix_ms: event.time_unix_ms,
        kind: event.kind,
        agent: event.agent,
        agent_id: fleet::hex(&event.agent_id),
        reason: event.reason,
        message: event.message,
        epoch: event.epoch,
    }
}

/// An event in the log. What agents say of themselves stays on its line.
pub fn log_line(event: &Event) -> (log::Level, String) {
    let level = match event.kind.as_str() {
        "master.started" if !event.reason.is_empty() => log::Level::Warn,
        "command.output_failed" => log::Level::Error,
        "agent.lost" | "agent.replaced" | "agent.rejected" | "command.not_adopted" => log::Level::Warn,
        _ => log::Level::Info,
    };
    let reason = if event.reason.is_empty() { String::new() } else { format!(" ({})", event.reason) };
    // Not all that happens is about an agent.
    let about = format!("{}{reason}", event.agent);
    let between = if about.is_empty() { "" } else { " " };
    (level, printable(&format!("{}{between}{}: {}", event.kind, about.trim_start(), event.message)))
}

/// The piece as a reply, and the offset after it.
pub fn output(piece: Piece) -> (Kind, u64) {
    let (chunk, end) = match piece {
        Piece::Data { offset, stream, data } => {
            let end = offset + data.len() as u64;
            (OutputChunk { offset, stream: stream.into(), data, gap: 0 }, end)
        }
        Piece::Gap { offset, bytes } => {
            (OutputChunk { offset, stream: 0, data: bytes::Bytes::new(), gap: bytes }, offset + bytes)
        }
    };
    (Kind::Output(chunk), end)
}

/// The word of a status, in any case; `None` if there is none like it.
pub fn status_from(word: &str) -> Option<AgentStatus> {
    let all = [AgentStatus::Active, AgentStatus::Inactive, AgentStatus::Stopped];
    all.into_iter().find(|status| status.word().eq_ignore_ascii_case(word))
}

/// The word of a command's state, in any case; `None` if there is none like it.
pub fn state_from(word: &str) -> Option<CommandState> {
    let all = [CommandState::Queued, CommandState::Sent, CommandState::Accepted, CommandState::Finished];
    all.into_iter().find(|state| state.word().eq_ignore_ascii_case(word))
}

/// The kind of an outcome by its word, in any case; `None` if there is none like it.
pub fn outcome_from(word: &str) -> Option<proto::outcome::Kind> {
    use proto::outcome::Kind;
    let known = |kind: &Kind| {
        let outcome = proto::Outcome { kind: (*kind).into(), ..proto::Outcome::default() };
        proto::outcome_from(&outcome).is_some_and(|outcome| outcome.word().eq_ignore_ascii_case(word))
    };
    (1..).map_while(|number| Kind::try_from(number).ok()).find(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_the_log_whatever_an_agent_says() {
        let event = |kind: &str, reason: &str, message: &str| Event {
            seq: 1,
            time_unix_ms: 1,
            kind: kind.to_owned(),
            agent: "lady".to_owned(),
            agent_id: [1; 16],
            epoch: 1,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let lost = log_line(&event("agent.lost", "stream_closed", "closed\n\x1b[2J"));
        assert_eq!(lost, (log::Level::Warn, "agent.lost lady (stream_closed): closed\\n\\u{1b}[2J".to_owned()));
        let connected = log_line(&event("agent.connected", "", "lady on host x"));
        assert_eq!(connected, (log::Level::Info, "agent.connected lady: lady on host x".to_owned()));
    }

    #[test]
    fn an_event_about_no_agent_has_no_empty_place_for_one_in_the_log() {
        let event = |reason: &str| Event {
            seq: 1,
            time_unix_ms: 1,
            kind: "master.started".to_owned(),
            agent: String::new(),
            agent_id: [0; 16],
            epoch: 0,
            reason: reason.to_owned(),
            message: "up".to_owned(),
        };
        assert_eq!(log_line(&event("")), (log::Level::Info, "master.started: up".to_owned()));
        let died = (log::Level::Warn, "master.started (master_died): up".to_owned());
        assert_eq!(log_line(&event("master_died")), died);
    }

    #[test]
    fn words_are_found_in_any_case_and_others_are_not() {
        assert_eq!(status_from("inactive"), Some(AgentStatus::Inactive));
        assert_eq!(status_from("asleep"), None);
        assert_eq!(state_from("FINISHED"), Some(CommandState::Finished));
        assert_eq!(state_from(""), None);
        assert_eq!(outcome_from("timed_out"), Some(proto::outcome::Kind::TimedOut));
        assert_eq!(outcome_from("EXPIRED"), Some(proto::outcome::Kind::Expired));
        assert_eq!(outcome_from("unspecified"), None);
    }
}
