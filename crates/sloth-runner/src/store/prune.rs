//! Forgetting what is old, a little at a time.

use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior, params};
use std::time::Duration;

/// How much of the past is kept. Commands without an outcome are never forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Finished commands, with their output. Default 30 d.
    pub commands_keep: Duration,
    /// So many finished commands at most; beyond, those of the agents that have most go. Default 100,000.
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
pub const EVENTS_MAX: u64 = 5_000_000;

/// Of the events that are too many so many of what people did stay, the newest: agents that flap bring 5,000,000 in hours.
/// Each look passes over these, some milliseconds.
pub const AUDIT_MAX: u64 = 20_000;

/// Deletes at most one batch of each table. True if there may be more.
pub fn prune(connection: &mut Connection, history: &History, now_ms: u64) -> rusqlite::Result<bool> {
    let before = |keep: Duration| now_ms.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)) as i64;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;

    let ended = "SELECT count(*) FROM commands WHERE ended_ms IS NOT NULL";
    let ended: i64 = transaction.prepare_cached(ended)?.query_row([], |row| row.get(0))?;
    let above = (ended as u64).saturating_sub(history.commands_keep_max).min(BATCH);
    let commands = if above > 0 {
        let mut deleted = 0;
        for (agent, count) in surplus(&transaction, above)? {
            deleted += forget(&transaction, "agent_id = ?2 AND ended_ms IS NOT NULL", count, &agent)?;
        }
        deleted
    } else {
        forget(&transaction, "ended_ms < ?2", BATCH, &before(history.commands_keep))?
    };

    let events = transaction
        .prepare_cached(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE time_ms < ?1 ORDER BY time_ms LIMIT ?2)",
        )?
        .execute(params![before(history.events_keep), BATCH as i64])?;
    const SURPLUS: &str = "FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1 AND kind";
    let surplus = transaction
        .prepare_cached(&format!(
            "DELETE FROM events WHERE seq IN (SELECT seq {SURPLUS} NOT GLOB 'audit.*' ORDER BY seq LIMIT ?2)"
        ))?
        .execute(params![EVENTS_MAX as i64, BATCH as i64])?;
    let audit = transaction
        .prepare_cached(&format!(
            "DELETE FROM events WHERE seq IN (SELECT seq {SURPLUS} GLOB 'audit.*' ORDER BY seq DESC LIMIT ?2 OFFSET ?3)"
        ))?
        .execute(params![EVENTS_MAX as i64, BATCH as i64, AUDIT_MAX as i64])?;
    transaction.commit()?;
    Ok([commands, events, surplus, audit].into_iter().any(|deleted| deleted as u64 >= BATCH) || above > 0)
}

/// Forgets the oldest so many of those that are meant.
fn forget(transaction: &Transaction<'_>, which: &str, count: u64, of: &dyn ToSql) -> rusqlite::Result<usize> {
    let chosen = format!("SELECT seq FROM commands WHERE {which} ORDER BY ended_ms, seq LIMIT ?1");
    let parameters = [&(count as i64) as &dyn ToSql, of];
    transaction
        .prepare_cached(&format!(
            "INSERT OR IGNORE INTO outputs_to_remove (id) SELECT id FROM commands WHERE seq IN ({chosen})"
        ))?
        .execute(&parameters[..])?;
    transaction.prepare_cached(&format!("DELETE FROM commands WHERE seq IN ({chosen})"))?.execute(&parameters[..])
}

/// Whose commands are one too many, and how many of each: of the agents that have most. One that brings a crowd of them
/// pushes its own out of the history, and not those of all others.
fn surplus(transaction: &Transaction<'_>, above: u64) -> rusqlite::Result<Vec<(Vec<u8>, u64)>> {
    let kept = "SELECT agent_id, count(*), min(ended_ms) FROM commands WHERE ended_ms IS NOT NULL GROUP BY agent_id";
    let kept = transaction
        .prepare_cached(kept)?
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    Ok(level(kept, above))
}

/// Takes so many away from those that have most, until these are level; what is odd then from whose oldest is older.
fn level<A>(mut kept: Vec<(A, u64, i64)>, above: u64) -> Vec<(A, u64)> {
    kept.sort_by_key(|(_, count, oldest)| (std::cmp::Reverse(*count), *oldest));
    let mut sum = 0;
    let mut highest = 0;
    while let Some((_, count, _)) = kept.get(highest) {
        if sum - highest as u64 * count >= above {
            break;
        }
        sum += count;
        highest += 1;
    }
    kept.truncate(highest);
    kept.sort_by_key(|(_, _, oldest)| *oldest);
    let (left, of) = (sum.saturating_sub(above), highest.max(1) as u64);
    let lower = highest - (left % of) as usize;
    let taken = |(at, (agent, count, _)): (usize, (A, u64, i64))| (agent, count - left / of - u64::from(at >= lower));
    kept.into_iter().enumerate().map(taken).filter(|(_, count)| *count > 0).collect()
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

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn who_has_most_gives_until_all_that_give_are_level() {
        let of = |counts: &[u64], above| {
            let kept = counts.iter().enumerate().map(|(at, count)| (at, *count, at as i64)).collect();
            level(kept, above)
        };
        assert_eq!(of(&[5, 100, 7], 90), [(1, 90)]);
        assert_eq!(of(&[5, 100, 7], 94), [(1, 94)], "what is odd: whose oldest is older");
        assert_eq!(of(&[5, 100, 7], 95), [(1, 94), (2, 1)]);
        assert_eq!(of(&[5, 100, 7], 98), [(0, 1), (1, 95), (2, 2)]);
        assert_eq!(of(&[3, 3, 3], 1), [(0, 1)]);
        assert_eq!(of(&[3, 3, 3], 9), [(0, 3), (1, 3), (2, 3)]);
        assert_eq!(of(&[3], 9), [(0, 3)], "no more than there are");
        assert_eq!(of(&[], 1), []);
    }
}
