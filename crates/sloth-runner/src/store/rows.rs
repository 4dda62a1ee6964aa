//! Records to rows and back.
//!
//! Unsigned numbers keep their bits in SQLite's signed ones: nothing that a peer reports can fail to be stored.

use crate::master::ports::{Change, Spec};
use fleet::{
    AgentId, AgentRecord, ClosedBy, CommandRecord, CommandState, Event, Run, SessionEnd, SessionId, SessionRecord,
    Status, Told, ToldKind,
};
use prost::Message;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params, types::Type};

/// Of `agents LEFT JOIN heard`.
pub const AGENT: &str = "id, name, host, version, address, labels, spool_id, epoch, status, reason, detail, since_ms, \
                         coalesce(heard.unix_ms, last_heartbeat_ms)";
pub const COMMAND: &str = "id, agent_id, agent, spec, state, spool_id, outcome, cancel_asked, created_ms, started_ms, \
                           finished_ms, output_bytes, gaps, stdin_end, expires_ms";
pub const EVENT: &str = "seq, time_ms, kind, agent, agent_id, epoch, reason, message";

pub const TOLD: &str = "agent_id, time_ms, kind, reason, detail, duration_ms, attempts, master, epoch";
pub const SESSION: &str = "agent_id, epoch, started_ms, address, ended_ms, reason, detail, closed_by";

/// Writes one change. `now_ms` is the master's clock.
pub fn apply(connection: &Connection, change: &Change, now_ms: u64) -> rusqlite::Result<()> {
    match change {
        Change::PutAgent(agent) => put_agent(connection, agent),
        Change::DeleteAgent(id) => {
            connection.prepare_cached("DELETE FROM sessions WHERE agent_id = ?1")?.execute([&id[..]])?;
            forget_heard(connection, id)?;
            connection.prepare_cached("DELETE FROM told WHERE agent_id = ?1")?.execute([&id[..]])?;
            connection.prepare_cached("DELETE FROM agents WHERE id = ?1")?.execute([&id[..]]).map(drop)
        }
        Change::PutHeard(heard) => put_heard(connection, heard),
        Change::PutRun(run) => connection
            .prepare_cached("INSERT OR REPLACE INTO run (one, started_ms, written_ms, ended) VALUES (1, ?1, ?2, ?3)")?
            .execute(params![run.started_unix_ms as i64, run.written_unix_ms as i64, run.ended])
            .map(drop),
        Change::BeginSession(record) => begin_session(connection, record),
        Change::EndSession(session, end) => end_session(connection, *session, end),
        Change::AddTold(told) => add_told(connection, told),
        Change::EndSessions(end) => end_sessions(connection, end),
        Change::PutMark { reader, seq } => connection
            .prepare_cached("INSERT OR REPLACE INTO marks (reader, seq) VALUES (?1, ?2)")?
            .execute(params![reader, *seq as i64])
            .map(drop),
        Change::PutCommand(command) => put_command(connection, command, now_ms),
        Change::AddEvent(event) => add_event(connection, event),
    }
}

fn put_heard(connection: &Connection, heard: &[(AgentId, u64)]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO heard (agent_id, unix_ms) VALUES (?1, ?2)")?;
    heard.iter().try_for_each(|(id, at)| put.execute(params![&id[..], *at as i64]).map(drop))
}

fn forget_heard(connection: &Connection, id: &AgentId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM heard WHERE agent_id = ?1")?.execute([&id[..]]).map(drop)
}

/// From now on its own row says when it was last heard of.
fn put_agent(connection: &Connection, agent: &AgentRecord) -> rusqlite::Result<()> {
    forget_heard(connection, &agent.id)?;
    let labels = serde_json::to_string(&agent.labels).expect("a map of strings is JSON");
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO agents (id, name, host, version, address, labels, spool_id, epoch, status, reason, \
             detail, since_ms, last_heartbeat_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            &agent.id[..],
            agent.name,
            agent.host,
            agent.version,
            agent.address,
            labels,
            &agent.spool_id[..],
            agent.epoch as i64,
            agent.status.word(),
            agent.reason,
            agent.detail,
            agent.since_unix_ms as i64,
            agent.last_heartbeat_unix_ms as i64,
        ])
        .map(drop)
}

/// An upsert keeps `seq`, the order in which commands were first seen, and the first `ended_ms`.
fn put_command(connection: &Connection, command: &CommandRecord<Spec>, now_ms: u64) -> rusqlite::Result<()> {
    let gaps = serde_json::to_string(&command.gaps).expect("a list of numbers is JSON");
    let outcome = command.outcome.as_ref().map(|outcome| proto::Outcome::from(outcome).encode_to_vec());
    let ended = (command.state == CommandState::Finished).then_some(now_ms as i64);
    connection
        .prepare_cached(
            "INSERT INTO commands (id, agent_id, agent, spec, state, spool_id, outcome, cancel_asked, created_ms, \
             started_ms, finished_ms, output_bytes, gaps, ended_ms, stdin_end, expires_ms) \
             VALUES (:id, :agent_id, :agent, :spec, :state, :spool_id, :outcome, :cancel_asked, :created, :started, \
             :finished, :output_bytes, :gaps, :ended, :stdin_end, :expires) \
             ON CONFLICT (id) DO UPDATE SET agent_id = :agent_id, agent = :agent, spec = :spec, state = :state, \
             spool_id = :spool_id, outcome = :outcome, cancel_asked = :cancel_asked, created_ms = :created, \
             started_ms = :started, finished_ms = :finished, output_bytes = :output_bytes, gaps = :gaps, \
             ended_ms = coalesce(ended_ms, :ended), stdin_end = :stdin_end, expires_ms = :expires",
        )?
        .execute(named_params! {
            ":id": command.id,
            ":agent_id": &command.agent_id[..],
            ":agent": command.agent,
            ":spec": command.spec.encode_to_vec(),
            ":state": command.state.word(),
            ":spool_id": command.spool_id.as_ref().map(|id| &id[..]),
            ":outcome": outcome,
            ":cancel_asked": command.cancel_asked,
            ":created": command.created_unix_ms as i64,
            ":started": command.started_unix_ms as i64,
            ":finished": command.finished_unix_ms as i64,
            ":output_bytes": command.output_bytes as i64,
            ":gaps": gaps,
            ":ended": ended,
            ":stdin_end": command.stdin_end.map(|end| end as i64),
            ":expires": command.expires_unix_ms.map(|at| at as i64),
        })
        .map(drop)
}

fn begin_session(connection: &Connection, record: &SessionRecord) -> rusqlite::Result<()> {
    let SessionId { agent, epoch } = record.session;
    let started = record.started_unix_ms as i64;
    // The end of an earlier one was not recorded: a write failed, or the master died.
    connection
        .prepare_cached(
            "UPDATE sessions SET ended_ms = ?2, reason = 'superseded', detail = 'its end was not recorded', \
             closed_by = 'master' WHERE agent_id = ?1 AND ended_ms IS NULL",
        )?
        .execute(params![&agent[..], started])?;
    let end = record.end.as_ref();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO sessions (agent_id, epoch, started_ms, address, ended_ms, reason, detail, closed_by) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            &agent[..],
            epoch as i64,
            started,
            record.address,
            end.map(|end| end.unix_ms as i64),
            end.map_or("", |end| &end.reason),
            end.map_or("", |end| &end.detail),
            end.map_or("", |end| end.closed_by.word()),
        ])
        .map(drop)
}

fn end_session(connection: &Connection, session: SessionId, end: &SessionEnd) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sessions SET ended_ms = ?3, reason = ?4, detail = ?5, closed_by = ?6 \
             WHERE agent_id = ?1 AND epoch = ?2 AND ended_ms IS NULL",
        )?
        .execute(params![
            &session.agent[..],
            session.epoch as i64,
            end.unix_ms as i64,
            end.reason,
            end.detail,
            end.closed_by.word(),
        ])
        .map(drop)
}

fn end_sessions(connection: &Connection, end: &SessionEnd) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sessions SET ended_ms = ?1, reason = ?2, detail = ?3, closed_by = ?4 WHERE ended_ms IS NULL",
        )?
        .execute(params![end.unix_ms as i64, end.reason, end.detail, end.closed_by.word()])
        .map(drop)
}

/// Told twice it is placed by two clocks and two ways here: so close it is the same.
const TOLD_SAME_MS: i64 = 15_000;

fn add_told(connection: &Connection, told: &Told) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO told (agent_id, time_ms, kind, reason, detail, duration_ms, attempts, master, epoch) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 WHERE NOT EXISTS (SELECT 1 FROM told WHERE agent_id = ?1 \
             AND time_ms BETWEEN ?2 - ?10 AND ?2 + ?10 AND kind = ?3 AND reason = ?4 AND duration_ms = ?6 \
             AND attempts = ?7 AND master = ?8 AND epoch = ?9)",
        )?
        .execute(params![
            &told.agent[..],
            told.unix_ms as i64,
            told.kind.word(),
            told.reason,
            told.detail,
            told.duration_ms as i64,
            told.attempts,
            told.master,
            told.epoch as i64,
            TOLD_SAME_MS,
        ])
        .map(drop)
}

/// Forgets all but the newest `keep` sessions of an agent, and all but as many of the things that it told.
pub fn trim_sessions(connection: &Connection, agent: &AgentId, keep: u32) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM told WHERE agent_id = ?1 AND time_ms <= (SELECT time_ms FROM told WHERE agent_id = ?1 \
             ORDER BY time_ms DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![&agent[..], keep])?;
    connection
        .prepare_cached(
            "DELETE FROM sessions WHERE agent_id = ?1 AND epoch <= (SELECT epoch FROM sessions WHERE agent_id = ?1 \
             ORDER BY epoch DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![&agent[..], keep])
        .map(drop)
}

fn add_event(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO events (seq, time_ms, kind, agent, agent_id, epoch, reason, message) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            event.seq as i64,
            event.time_unix_ms as i64,
            event.kind,
            event.agent,
            &event.agent_id[..],
            event.epoch as i64,
            event.reason,
            event.message,
        ])
        .map(drop)
}

/// What a stored outcome of this kind begins with: the message's first field, which is never left out.
pub fn outcome_prefix(kind: proto::outcome::Kind) -> Vec<u8> {
    proto::Outcome { kind: kind.into(), ..Default::default() }.encode_to_vec()
}

/// A row of [`AGENT`].
pub fn agent(row: &Row<'_>) -> rusqlite::Result<AgentRecord> {
    Ok(AgentRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        host: row.get(2)?,
        version: row.get(3)?,
        address: row.get(4)?,
        labels: json(row, 5)?,
        spool_id: row.get(6)?,
        epoch: unsigned(row, 7)?,
        status: word(row, 8, [Status::Active, Status::Inactive, Status::Stopped], Status::word)?,
        reason: row.get(9)?,
        detail: row.get(10)?,
        since_unix_ms: unsigned(row, 11)?,
        last_heartbeat_unix_ms: unsigned(row, 12)?,
    })
}

/// The latest run of a master, if one is on record. With its events, so that `written_unix_ms` is when it was last seen
/// to write.
pub fn last_run(connection: &Connection) -> rusqlite::Result<Option<Run>> {
    let last = "SELECT started_ms, max(written_ms, coalesce((SELECT time_ms FROM events ORDER BY seq DESC LIMIT 1), 0)), \
                ended FROM run";
    let run = |row: &Row<'_>| {
        Ok(Run { started_unix_ms: unsigned(row, 0)?, written_unix_ms: unsigned(row, 1)?, ended: row.get(2)? })
    };
    connection.query_row(last, [], run).optional()
}

/// A row of [`COMMAND`].
pub fn command(row: &Row<'_>) -> rusqlite::Result<CommandRecord<Spec>> {
    let states = [CommandState::Queued, CommandState::Sent, CommandState::Accepted, CommandState::Finished];
    let outcome = match row.get_ref(6)?.as_blob_or_null()? {
        None => None,
        Some(bytes) => {
            let message = proto::Outcome::decode(bytes).map_err(|error| unreadable(6, Type::Blob, error))?;
            let unknown = || unreadable(6, Type::Blob, "unknown kind of outcome");
            Some(proto::outcome_from(&message).ok_or_else(unknown)?)
        }
    };
    Ok(CommandRecord {
        id: row.get(0)?,
        agent_id: row.get(1)?,
        agent: row.get(2)?,
        spec: Spec::decode(row.get_ref(3)?.as_blob()?).map_err(|error| unreadable(3, Type::Blob, error))?,
        state: word(row, 4, states, CommandState::word)?,
        spool_id: row.get(5)?,
        outcome,
        cancel_asked: row.get(7)?,
        created_unix_ms: unsigned(row, 8)?,
        started_unix_ms: unsigned(row, 9)?,
        finished_unix_ms: unsigned(row, 10)?,
        output_bytes: unsigned(row, 11)?,
        gaps: json(row, 12)?,
        stdin_end: row.get::<_, Option<i64>>(13)?.map(|value| value as u64),
        expires_unix_ms: row.get::<_, Option<i64>>(14)?.map(|value| value as u64),
    })
}

/// A row of [`EVENT`].
pub fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        seq: unsigned(row, 0)?,
        time_unix_ms: unsigned(row, 1)?,
        kind: row.get(2)?,
        agent: row.get(3)?,
        agent_id: row.get(4)?,
        epoch: unsigned(row, 5)?,
        reason: row.get(6)?,
        message: row.get(7)?,
    })
}

/// A row of [`SESSION`].
pub fn session(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    let end = match row.get::<_, Option<i64>>(4)? {
        None => None,
        Some(at) => Some(SessionEnd {
            unix_ms: at as u64,
            reason: row.get(5)?,
            detail: row.get(6)?,
            closed_by: word(row, 7, ClosedBy::ALL, ClosedBy::word)?,
        }),
    };
    Ok(SessionRecord {
        session: SessionId { agent: row.get(0)?, epoch: unsigned(row, 1)? },
        started_unix_ms: unsigned(row, 2)?,
        address: row.get(3)?,
        end,
    })
}

/// A row of [`TOLD`].
pub fn told(row: &Row<'_>) -> rusqlite::Result<Told> {
    Ok(Told {
        agent: row.get(0)?,
        unix_ms: unsigned(row, 1)?,
        kind: word(row, 2, ToldKind::ALL, ToldKind::word)?,
        reason: row.get(3)?,
        detail: row.get(4)?,
        duration_ms: unsigned(row, 5)?,
        attempts: row.get(6)?,
        master: row.get(7)?,
        epoch: unsigned(row, 8)?,
    })
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| value as u64)
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, Type::Text, error))
}

fn word<T: Copy, const N: usize>(
    row: &Row<'_>,
    column: usize,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    let found = all.into_iter().find(|value| name(*value) == text);
    found.ok_or_else(|| unreadable(column, Type::Text, format!("unknown word {text:?}")))
}

fn unreadable(
    column: usize,
    kind: Type,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, error.into())
}
