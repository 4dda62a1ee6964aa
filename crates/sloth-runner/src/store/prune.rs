//! Forgetting what is old, a little at a time.

use rusqlite::{Connection, TransactionBehavior, params};
use std::time::Duration;

/// How much of the past is kept. Commands without an outcome are never forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Finished commands, with their output. Default 30 d.
    pub commands_keep: Duration,
    /// So many finished commands at most. Default 100,000.
    pub commands_keep_max: u64,
    /// Default 30 d.
    pub events_keep: Duration,
    /// So many sessions of each agent, and up to [`SESSIONS_SLACK`] more. Default 200.
    pub sessions_keep: u32,
}

/// Old sessions are looked for only so often, by the epoch: not at each of a fleet that comes back.
pub const SESSIONS_SLACK: u64 = 16;

impl Default for History {
    fn default() -> Self {
        const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
        Self { commands_keep: MONTH, commands_keep_max: 100_000, events_keep: MONTH, sessions_keep: 200 }
    }
}

/// Rows that one transaction deletes: some milliseconds, for which writers wait.
pub const BATCH: u64 = 500;

/// Events that are kept at most, however young: a fleet that flaps must not fill the disk. Some 1.5 GB.
const EVENTS_MAX: u64 = 5_000_000;

/// Deletes at most one batch of each table. True if there may be more.
pub fn prune(connection: &mut Connection, history: &History, now_ms: u64) -> rusqlite::Result<bool> {
    let before = |keep: Duration| now_ms.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)) as i64;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;

    let ended = "SELECT count(*) FROM commands WHERE ended_ms IS NOT NULL";
    let ended: i64 = transaction.prepare_cached(ended)?.query_row([], |row| row.get(0))?;
    let above = (ended as u64).saturating_sub(history.commands_keep_max).min(BATCH);
    let victims = "ended_ms IS NOT NULL ORDER BY ended_ms, seq LIMIT";
    let (condition, limit) = if above > 0 { ("1", above) } else { ("ended_ms < ?2", BATCH) };
    let chosen = format!("SELECT seq FROM commands WHERE {condition} AND {victims} ?1");
    let parameters = [limit as i64, before(history.commands_keep)];
    let parameters = &parameters[..if above > 0 { 1 } else { 2 }];
    transaction
        .prepare_cached(&format!(
            "INSERT OR IGNORE INTO outputs_to_remove (id) SELECT id FROM commands WHERE seq IN ({chosen})"
        ))?
        .execute(rusqlite::params_from_iter(parameters))?;
    let commands = transaction
        .prepare_cached(&format!("DELETE FROM commands WHERE seq IN ({chosen})"))?
        .execute(rusqlite::params_from_iter(parameters))?;

    let events = transaction
        .prepare_cached(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE time_ms < ?1 ORDER BY time_ms LIMIT ?2)",
        )?
        .execute(params![before(history.events_keep), BATCH as i64])?;
    let surplus = transaction
        .prepare_cached(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1 \
             ORDER BY seq LIMIT ?2)",
        )?
        .execute(params![EVENTS_MAX as i64, BATCH as i64])?;
    transaction.commit()?;
    Ok([commands, events, surplus].into_iter().any(|deleted| deleted as u64 >= BATCH) || above > 0)
}

/// Removes outputs of commands that are forgotten, at most a batch; what cannot be removed is tried again another time.
pub fn remove_outputs(connection: &Connection, remove: &mut dyn FnMut(&str) -> bool) -> rusqlite::Result<()> {
    // The same id may have been given anew since.
    let forgotten = "SELECT id, EXISTS (SELECT 1 FROM commands WHERE commands.id = outputs_to_remove.id) \
                     FROM outputs_to_remove LIMIT ?1";
    let rows: Vec<(String, bool)> = connection
        .prepare_cached(forgotten)?
        .query_map([BATCH as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let gone: Vec<String> = rows.into_iter().filter(|(id, known)| *known || remove(id)).map(|(id, _)| id).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let gone = serde_json::to_string(&gone).expect("a list of strings is JSON");
    let delete = "DELETE FROM outputs_to_remove WHERE id IN (SELECT value FROM json_each(?1))";
    connection.prepare_cached(delete)?.execute([gone]).map(drop)
}
