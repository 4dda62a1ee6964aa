//! What must survive a restart of the master, in one SQLite database.
//!
//! One thread writes: it takes whatever waits into one transaction and answers all when that is durable, so that the
//! cost of making durable is shared. Reads go through connections of their own and see everything that was answered.

mod backup;
mod error;
mod lock;
mod prune;
mod queue;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

pub use backup::{Summary, backup};
pub use error::{OpenError, Why};
pub use lock::{FileLock, Holder, LockError};
pub use prune::History;
pub use schema::VERSION as SCHEMA_VERSION;

use crate::master::ports::{Change, Done, Snapshot, Spec, Store, Wanted};
use fleet::{
    AgentId, ClosedBy, CommandRecord, CommandState, Event, MASTER_RESTARTED, REASON_MASTER_RESTARTED, SessionEnd,
    SessionRecord, Told,
};
use queue::{Call, Queue};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, TransactionBehavior, config::DbConfig, params_from_iter, types::Value,
};
use sloth_agent::logging::utc::Utc;
use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    thread::JoinHandle,
    time::Duration,
};

/// How long another program's lock is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What the writer needs of the world.
pub struct Environment {
    /// Unix milliseconds.
    pub clock: Box<dyn Fn() -> u64 + Send>,
    /// Removes the output of a command that is forgotten; false to be asked again later.
    pub remove_output: Box<dyn FnMut(&str) -> bool + Send>,
}

/// The database. Dropping it writes what waits, then closes it.
pub struct SqliteStore {
    path: PathBuf,
    /// Before the writer's, which is to be the last: only a connection that may write removes the files beside the
    /// database when it is closed.
    readers: [Mutex<Connection>; 2],
    /// For single rows by their keys: who wants one does not wait for a list.
    lookups: Mutex<Connection>,
    writer: WriterThread,
    _lock: FileLock,
}

/// The thread that writes. Dropping it has it write what waits, and waits for its end.
struct WriterThread {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the database, or makes it, for this process alone, and starts the writer. Agents that were Active are
    /// Inactive from now on. Blocks.
    ///
    /// # Errors
    /// [`OpenError`], for people; the database is unchanged then.
    pub fn open(path: &Path, history: History, environment: Environment) -> Result<(Self, Snapshot), OpenError> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = FileLock::take(Path::new(&lock_path)).map_err(|error| OpenError::lock(path, &error))?;
        // The WAL takes over these permissions; environments of commands may hold secrets.
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        made.map_err(|error| OpenError::io(path, &error))?;

        let fails = |error: rusqlite::Error| OpenError::sqlite(path, &error);
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(fails)?;
        // Closing after an error must not change the file either.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fails)?;
        schema::check(&connection).map_err(|why| OpenError::new(path, why))?;
        let (connection, snapshot) = prepare(connection, (environment.clock)()).map_err(fails)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(fails)?;
        let reads = || connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map(Mutex::new).map_err(fails);
        let (readers, lookups) = ([reads()?, reads()?], reads()?);

        let queue = Arc::new(Queue::default());
        let writer = writer::Writer {
            connection,
            path: path.to_owned(),
            queue: queue.clone(),
            history,
            environment,
            waiting: Default::default(),
        };
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::io(path, &error))?;
        let writer = WriterThread { queue, thread: Some(writer) };
        let store = Self { path: path.to_owned(), readers, lookups, writer, _lock: lock };
        Ok((store, snapshot))
    }

    /// For lists. No more read at once than there are connections: see [`Lane`](crate::master::reads::Lane).
    fn reader(&self) -> MutexGuard<'_, Connection> {
        let free = self.readers.iter().find_map(|reader| match reader.try_lock() {
            Ok(reader) => Some(reader),
            // A connection has no state that a panic in a reader could leave half changed.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        free.unwrap_or_else(|| self.readers[0].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lookup(&self) -> MutexGuard<'_, Connection> {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explained<T>(&self, result: rusqlite::Result<T>) -> Result<T, String> {
        result.map_err(|error| error::explain(&self.path, &error))
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.queue.close("the master is shutting down");
        if let Some(thread) = self.thread.take()
            // The last owner may have been a closure that the writer called.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Store for SqliteStore {
    fn write(&self, changes: Vec<Change>, done: Done) {
        self.writer.queue.push(Call { changes, done });
    }

    fn events_begin(
        &self,
        agent: Option<AgentId>,
        name: Option<&str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<u64, String> {
        let (numbers, parameters) = concerned(agent, name, after_seq, limit, "DESC");
        let sql = format!("SELECT seq FROM ({numbers}) ORDER BY seq DESC LIMIT 1 OFFSET ?2 - 1");
        let reader = self.reader();
        let read = || {
            let mut statement = reader.prepare_cached(&sql)?;
            statement.query_row(params_from_iter(parameters), |row| row.get::<_, i64>(0)).optional()
        };
        Ok(self.explained(read())?.map_or(after_seq, |first| first as u64 - 1))
    }

    fn events_from(
        &self,
        agent: Option<AgentId>,
        name: Option<&str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<Event>, String> {
        let (numbers, parameters) = concerned(agent, name, after_seq, limit, "ASC");
        let sql = format!("SELECT {} FROM events WHERE seq IN ({numbers}) ORDER BY seq LIMIT ?2", rows::EVENT);
        let reader = self.reader();
        let read = || {
            reader.prepare_cached(&sql)?.query_map(params_from_iter(parameters), rows::event)?.collect::<Result<_, _>>()
        };
        self.explained(read())
    }

    fn refusals(
        &self,
        agent: Option<AgentId>,
        name: &str,
        since_unix_ms: u64,
        limit: usize,
    ) -> Result<Vec<Event>, String> {
        // As the indexes have it that are of these alone: of an agent with a million events they are looked up.
        const ONES: &str = "kind IN ('agent.rejected', 'agent.deleted')";
        let sql = format!(
            "SELECT {} FROM events WHERE seq IN (
                 SELECT seq FROM (SELECT seq FROM events WHERE agent = ?1 AND {ONES} AND kind = 'agent.rejected'
                     ORDER BY seq DESC LIMIT ?4)
                 UNION SELECT seq FROM (SELECT seq FROM events WHERE agent_id = ?2 AND {ONES} AND kind = 'agent.rejected'
                     ORDER BY seq DESC LIMIT ?4)
             ) AND time_ms >= ?3 AND seq > max(
                 (SELECT coalesce(max(seq), 0) FROM events WHERE agent = ?1 AND {ONES} AND kind = 'agent.deleted'),
                 (SELECT coalesce(max(seq), 0) FROM events WHERE agent_id = ?2 AND {ONES} AND kind = 'agent.deleted')
             ) ORDER BY seq DESC LIMIT ?4",
            rows::EVENT
        );
        let since = Value::from(i64::try_from(since_unix_ms).unwrap_or(i64::MAX));
        // Nothing equals NULL.
        let agent = agent.map_or(Value::Null, |id| Value::Blob(id.to_vec()));
        let parameters = [Value::from(name.to_owned()), agent, since, limit_value(limit)];
        let reader = self.reader();
        let read = || {
            reader.prepare_cached(&sql)?.query_map(params_from_iter(parameters), rows::event)?.collect::<Result<_, _>>()
        };
        self.explained(read())
    }

    fn sessions(&self, agent: AgentId, limit: usize) -> Result<Vec<SessionRecord>, String> {
        let sql = format!("SELECT {} FROM sessions WHERE agent_id = ?1 ORDER BY epoch DESC LIMIT ?2", rows::SESSION);
        let parameters = [Value::Blob(agent.to_vec()), limit_value(limit)];
        let reader = self.reader();
        let read = || {
            reader
                .prepare_cached(&sql)?
                .query_map(params_from_iter(parameters), rows::session)?
                .collect::<Result<_, _>>()
        };
        self.explained(read())
    }

    fn told(&self, agent: AgentId, limit: usize) -> Result<Vec<Told>, String> {
        let sql =
            format!("SELECT {} FROM told WHERE agent_id = ?1 ORDER BY time_ms DESC, seq DESC LIMIT ?2", rows::TOLD);
        let parameters = [Value::Blob(agent.to_vec()), limit_value(limit)];
        let reader = self.reader();
        let read = || {
            reader.prepare_cached(&sql)?.query_map(params_from_iter(parameters), rows::told)?.collect::<Result<_, _>>()
        };
        self.explained(read())
    }

    fn mark(&self, reader: &str) -> Result<Option<u64>, String> {
        let connection = self.lookup();
        let read = || {
            let mut statement = connection.prepare_cached("SELECT seq FROM marks WHERE reader = ?1")?;
            statement.query_row([reader], |row| row.get::<_, i64>(0)).optional()
        };
        self.explained(read()).map(|seq| seq.map(|seq| seq as u64))
    }

    fn command(&self, id: &str) -> Result<Option<CommandRecord<Spec>>, String> {
        let sql = format!("SELECT {} FROM commands WHERE id = ?1", rows::COMMAND);
        let reader = self.lookup();
        let read = || reader.prepare_cached(&sql)?.query_row([id], rows::command).optional();
        self.explained(read())
    }

    fn ids_beginning(&self, prefix: &str, limit: usize) -> Result<Vec<String>, String> {
        // Ids are of printable ASCII, all of it below DEL; so the index does the search.
        let sql = "SELECT id FROM commands WHERE id >= ?1 AND id < ?1 || char(127) ORDER BY id LIMIT ?2";
        let reader = self.lookup();
        let read = || reader.prepare_cached(sql)?.query_map((prefix, limit as i64), |row| row.get(0))?.collect();
        self.explained(read())
    }

    fn commands(
        &self,
        wanted: &Wanted,
        before_id: Option<&str>,
        limit: usize,
    ) -> Result<Option<Vec<CommandRecord<Spec>>>, String> {
        let reader = self.reader();
        let mut sql = format!("SELECT {} FROM commands WHERE 1", rows::COMMAND);
        let mut parameters = Vec::new();
        let mut add = |condition: &str, value: Value| {
            parameters.push(value);
            sql.push_str(&format!(" AND {condition} ?{}", parameters.len()));
        };
        if let Some(id) = before_id {
            let find = || {
                let mut statement = reader.prepare_cached("SELECT seq FROM commands WHERE id = ?1")?;
                statement.query_row([id], |row| row.get::<_, i64>(0)).optional()
            };
            let Some(seq) = self.explained(find())? else { return Ok(None) };
            add("seq <", seq.into());
        }
        if let Some(agent) = &wanted.agent {
            add("agent =", agent.clone().into());
        }
        if let Some(kind) = wanted.outcome {
            add("substr(outcome, 1, 2) =", Value::Blob(rows::outcome_prefix(kind)));
        }
        if wanted.since_unix_ms > 0 {
            add("created_ms >=", i64::try_from(wanted.since_unix_ms).unwrap_or(i64::MAX).into());
        }
        if let Some(state) = wanted.state {
            add("state =", state.word().to_owned().into());
            if state != CommandState::Finished {
                // Few among very many: for these there is an index.
                sql.push_str(" AND state <> 'finished'");
            }
        }
        parameters.push(limit_value(limit));
        sql.push_str(&format!(" ORDER BY seq DESC LIMIT ?{}", parameters.len()));
        let read = || {
            let mut statement = reader.prepare_cached(&sql)?;
            statement.query_map(params_from_iter(parameters), rows::command)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        self.explained(read()).map(Some)
    }
}

/// A query for the numbers of the first (`ASC`) or last (`DESC`) events after one, ?1, at most ?2 of each kind: of those
/// that concern an agent or a name, or of all. As the indexes have them, so that a page of a long list costs a page.
fn concerned(
    agent: Option<AgentId>,
    name: Option<&str>,
    after_seq: u64,
    limit: usize,
    order: &str,
) -> (String, Vec<Value>) {
    // Sequence numbers fit into SQLite's: nothing is after one that does not.
    let mut parameters = vec![Value::from(i64::try_from(after_seq).unwrap_or(i64::MAX)), limit_value(limit)];
    let mut of = Vec::new();
    for (column, value) in [
        ("agent_id", agent.map(|id| Value::Blob(id.to_vec()))),
        ("agent", name.map(|name| Value::from(name.to_owned()))),
    ] {
        if let Some(value) = value {
            parameters.push(value);
            of.push(format!("{column} = ?{} AND", parameters.len()));
        }
    }
    if of.is_empty() {
        of.push(String::new());
    }
    let each = |of: String| {
        format!("SELECT seq FROM (SELECT seq FROM events WHERE {of} seq > ?1 ORDER BY seq {order} LIMIT ?2)")
    };
    (of.into_iter().map(each).collect::<Vec<_>>().join(" UNION "), parameters)
}

fn limit_value(limit: usize) -> Value {
    i64::try_from(limit).unwrap_or(i64::MAX).into()
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Sets up a checked connection for writing, and loads what is there. Only once all of it could be read, something is
/// changed.
fn prepare(mut connection: Connection, now_ms: u64) -> rusqlite::Result<(Connection, Snapshot)> {
    // Answers with the mode that it is in: the change of a database that others hold open is refused.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // After a burst the WAL is cut to this, in bytes.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    schema::migrate(&mut connection)?;
    let mut snapshot = load(&connection)?;
    // Recorded, so that the next restart does not take them for lost only then.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let died = snapshot.last_run.filter(|run| !run.ended).map(|run| Utc(Duration::from_millis(run.written_unix_ms)));
    let how = died.as_ref().map_or(MASTER_RESTARTED.to_owned(), |last| {
        format!("the master was not stopped cleanly (last written at {last}) and was started again")
    });
    for agent in &mut snapshot.agents {
        if agent.after_restart(now_ms, &how) {
            rows::apply(&transaction, &Change::PutAgent(agent.clone()), now_ms)?;
        }
    }
    let end = SessionEnd {
        unix_ms: now_ms,
        reason: REASON_MASTER_RESTARTED.to_owned(),
        detail: died.map_or("it was open when the master died, at this time or before".to_owned(), |last| {
            format!("it was open when the master died, at this time or before, and not before {last}")
        }),
        closed_by: ClosedBy::Master,
    };
    rows::apply(&transaction, &Change::EndSessions(end), now_ms)?;
    transaction.commit()?;
    Ok((connection, snapshot))
}

fn load(connection: &Connection) -> rusqlite::Result<Snapshot> {
    let agents = format!("SELECT {} FROM agents LEFT JOIN heard ON agent_id = id ORDER BY name", rows::AGENT);
    let agents = connection.prepare(&agents)?.query_map([], rows::agent)?.collect::<Result<_, _>>()?;
    let commands = format!("SELECT {} FROM commands WHERE state <> 'finished' ORDER BY seq", rows::COMMAND);
    let commands = connection.prepare(&commands)?.query_map([], rows::command)?.collect::<Result<_, _>>()?;
    // Numbers go on even where all events are forgotten.
    let last = "SELECT max((SELECT coalesce(max(seq), 0) FROM events), \
                coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0))";
    let last: i64 = connection.query_row(last, [], |row| row.get(0))?;
    let last_run = rows::last_run(connection)?;
    Ok(Snapshot { agents, commands, next_event_seq: last as u64 + 1, last_run })
}
