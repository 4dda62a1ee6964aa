//! The tables, and how a database of an earlier version becomes one of this.

use super::error::Why;
use rusqlite::Connection;

/// Tells our databases from those of other programs: "slth".
const APPLICATION: i64 = 0x736c_7468;

/// Each step leads from its index to the next version. Steps are never changed, only added.
const STEPS: &[&str] = &["
    CREATE TABLE agents (
        id BLOB NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        host TEXT NOT NULL,
        version TEXT NOT NULL,
        address TEXT NOT NULL,
        labels TEXT NOT NULL,            -- JSON object
        spool_id BLOB NOT NULL,
        epoch INTEGER NOT NULL,
        status TEXT NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        since_ms INTEGER NOT NULL,
        last_heartbeat_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE commands (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        agent_id BLOB NOT NULL,
        agent TEXT NOT NULL,
        spec BLOB NOT NULL,              -- protobuf, agent.CommandSpec
        state TEXT NOT NULL,
        spool_id BLOB,
        outcome BLOB,                    -- protobuf, agent.Outcome
        cancel_asked INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,    -- by the agent's clock, which may be wrong
        output_bytes INTEGER NOT NULL,
        gaps TEXT NOT NULL,              -- JSON array of [offset, bytes]
        ended_ms INTEGER                 -- by the master's clock, when it learned of the end
    ) STRICT;
    CREATE INDEX commands_by_agent ON commands (agent, seq);
    CREATE INDEX commands_unfinished ON commands (seq) WHERE state <> 'finished';
    CREATE INDEX commands_ended ON commands (ended_ms, seq) WHERE ended_ms IS NOT NULL;

    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        time_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,
        agent TEXT NOT NULL,
        agent_id BLOB NOT NULL,
        epoch INTEGER NOT NULL,
        reason TEXT NOT NULL,
        message TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_agent ON events (agent_id, seq);
    CREATE INDEX events_by_time ON events (time_ms);

    -- Output of commands that are forgotten already: the file goes after the row, and a crash between them is made up for.
    CREATE TABLE outputs_to_remove (id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
", "
    CREATE INDEX events_by_name ON events (agent, seq);
    ALTER TABLE commands ADD COLUMN stdin_end INTEGER;  -- NULL while it is not known
", "
    ALTER TABLE commands ADD COLUMN expires_ms INTEGER; -- NULL: never
", "
    CREATE TABLE tokens (
        id TEXT NOT NULL PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,       -- SHA-256 of the secret, which is kept nowhere
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        labels TEXT NOT NULL,            -- JSON object
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER,              -- NULL: never
        uses_left INTEGER CHECK (uses_left >= 0),  -- NULL: any number
        revoked_ms INTEGER
    ) STRICT, WITHOUT ROWID;

    -- Who has used which token: the same key again is the same use.
    CREATE TABLE joins (
        token TEXT NOT NULL,
        key_hash BLOB NOT NULL,
        agent_id BLOB NOT NULL,
        PRIMARY KEY (token, key_hash)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE certificates (
        fingerprint BLOB NOT NULL PRIMARY KEY,
        agent_id BLOB NOT NULL,
        name TEXT NOT NULL,
        labels TEXT NOT NULL,            -- JSON object
        issued_ms INTEGER NOT NULL,      -- 0: by another authority
        expires_ms INTEGER NOT NULL,
        revoked_ms INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX certificates_by_agent ON certificates (agent_id);
", "
    CREATE TABLE sessions (
        agent_id BLOB NOT NULL,
        epoch INTEGER NOT NULL,
        started_ms INTEGER NOT NULL,
        address TEXT NOT NULL,
        ended_ms INTEGER,                -- NULL: it lasts
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        closed_by TEXT NOT NULL,         -- agent, master, operator, network
        PRIMARY KEY (agent_id, epoch)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_open ON sessions (agent_id) WHERE ended_ms IS NULL;

    -- What agents told of their own side.
    CREATE TABLE told (
        seq INTEGER PRIMARY KEY,
        agent_id BLOB NOT NULL,
        time_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,              -- session, attempts, start
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        duration_ms INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        master TEXT NOT NULL,
        epoch INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX told_by_agent ON told (agent_id, time_ms);

    -- How far those have come who read all events.
    CREATE TABLE marks (reader TEXT NOT NULL PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
", "
    -- Of these agents only certificates that are on record are good, whatever else a CA has signed.
    CREATE TABLE deleted_agents (
        agent_id BLOB NOT NULL PRIMARY KEY,
        deleted_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO deleted_agents
        SELECT agent_id, max(revoked_ms) FROM certificates WHERE revoked_ms IS NOT NULL GROUP BY agent_id;

    ALTER TABLE certificates ADD COLUMN authority BLOB; -- SHA-256 of the CA; NULL: another one, or not known
    ALTER TABLE joins ADD COLUMN certificate BLOB;      -- what was given, for who did not get the answer
", "
    CREATE INDEX commands_ended_by_agent ON commands (agent_id, ended_ms, seq) WHERE ended_ms IS NOT NULL;
", "
    ALTER TABLE deleted_agents ADD COLUMN name TEXT NOT NULL DEFAULT '';
", "
    -- When an agent was last heard of, where that is later than its own row says. Narrow, as a whole fleet is written at
    -- once: of 10,000 agents 330 kB each time, and not the 1.6 MB of their rows.
    CREATE TABLE heard (
        agent_id BLOB NOT NULL PRIMARY KEY,
        unix_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- The latest run of a master.
    CREATE TABLE run (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        started_ms INTEGER NOT NULL,
        written_ms INTEGER NOT NULL,     -- when it last said here that it goes on
        ended INTEGER NOT NULL           -- 1: it was told to end, and did
    ) STRICT;
", "
    -- Counts those of one agent in the order in which they were given: the clock may have been set back in between.
    ALTER TABLE certificates ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    UPDATE certificates SET number = issued_ms;

    -- Who was refused since he was deleted, among all that was ever told of him.
    CREATE INDEX events_refused_by_name ON events (agent, kind, seq) WHERE kind IN ('agent.rejected', 'agent.deleted');
    CREATE INDEX events_refused_by_agent ON events (agent_id, kind, seq) WHERE kind IN ('agent.rejected', 'agent.deleted');
"];

/// The version that this program writes.
pub const VERSION: i64 = STEPS.len() as i64;

/// Checks without a change that the database is ours, or empty, and not of a later version.
pub fn check(connection: &Connection) -> Result<(), Why> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(|e| Why::of(&e));
    let (application, found) = (pragma("application_id")?, pragma("user_version")?);
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection.query_row(tables, [], |row| row.get(0)).map_err(|e| Why::of(&e))?;
    if application != APPLICATION && (application != 0 || found != 0 || tables != 0) {
        return Err(Why::Foreign);
    }
    if found > VERSION {
        return Err(Why::Newer { found, known: VERSION });
    }
    Ok(())
}

/// Brings a checked database to this version, in one transaction.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found == VERSION {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for step in &STEPS[usize::try_from(found).unwrap_or(0)..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// A database as an earlier version of this program made it.
#[cfg(test)]
pub fn make(connection: &Connection, version: usize) {
    for step in &STEPS[..version] {
        connection.execute_batch(step).unwrap();
    }
    connection.pragma_update(None, "application_id", APPLICATION).unwrap();
    connection.pragma_update(None, "user_version", version).unwrap();
}
