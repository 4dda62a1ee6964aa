//! Conversions between what the master knows and what operators are told.

use super::ports::{Piece, Record};
use fleet::{AgentView, CommandState, Event, Status as AgentStatus};
use proto::{AgentRow, CommandRow, EventRow, Gap, NodeStatus, OutputChunk, run_reply::Kind};

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
        }),
    }
}

/// `received`: output that is here of an unfinished command.
pub fn command(record: &Record, received: u64) -> CommandRow {
    let finished = record.state == CommandState::Finished;
    CommandRow {
        id: record.id.clone(),
        agent: record.agent.clone(),
        agent_id: fleet::hex(&record.agent_id),
        state: record.state.word().to_owned(),
        outcome: record.outcome.as_ref().map(Into::into),
        spec: Some(record.spec.clone()),
        created_unix_ms: record.created_unix_ms,
        started_unix_ms: record.started_unix_ms,
        finished_unix_ms: record.finished_unix_ms,
        output_bytes: if finished { record.output_bytes } else { received },
        gaps: record.gaps.iter().map(|(offset, bytes)| Gap { offset: *offset, bytes: *bytes }).collect(),
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

/// RFC 3339 in UTC, seconds.
pub fn time(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years: the leap day is the last of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_735_689_599_999), "2024-12-31T23:59:59Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn words_are_found_in_any_case_and_others_are_not() {
        assert_eq!(status_from("inactive"), Some(AgentStatus::Inactive));
        assert_eq!(status_from("asleep"), None);
        assert_eq!(state_from("FINISHED"), Some(CommandState::Finished));
        assert_eq!(state_from(""), None);
    }
}
