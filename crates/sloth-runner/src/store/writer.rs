//! The one thread that writes.

use super::{
    Environment,
    error::{Why, explain},
    prune::{History, SESSIONS_SLACK, prune, remove_outputs},
    queue::{Call, Next, Queue},
    rows,
};
use crate::{
    clock::boottime,
    master::ports::{Change, Done},
};
use rusqlite::{Connection, TransactionBehavior};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// Between two looks for what is old.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// While there is more of it: writers get their turn.
const PRUNE_AGAIN: Duration = Duration::from_millis(20);

pub struct Writer {
    pub connection: Connection,
    pub path: PathBuf,
    pub queue: Arc<Queue>,
    pub history: History,
    pub environment: Environment,
    /// Told in order once the group's fate is known; what is left when the thread dies is told that.
    pub waiting: VecDeque<Done>,
}

impl Writer {
    /// Ends when the queue is closed and empty. Should it panic, everybody who waits, and everybody who comes, is told
    /// so: a master that only pretends to store is worse than one that says it cannot.
    pub fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.work())).is_ok() {
            return;
        }
        const WHY: &str = "the thread that writes the database has died: restart the master";
        log::error!("Nothing is stored any more: {WHY}");
        self.queue.close(WHY);
        let left = self.queue.drain().into_iter().map(|call| call.done);
        for done in self.waiting.drain(..).chain(left) {
            let _ = catch_unwind(AssertUnwindSafe(|| done(Err(WHY.to_owned()))));
        }
    }

    fn work(&mut self) {
        let mut prune_at = boottime();
        loop {
            let now = boottime();
            if now >= prune_at {
                prune_at = now + if self.prune() { PRUNE_AGAIN } else { PRUNE_EVERY };
            }
            match self.queue.next(prune_at.saturating_sub(now)) {
                Next::Write(calls) => self.write(calls),
                Next::Idle => {}
                Next::End => return self.fold_wal(),
            }
        }
    }

    /// Everything into the one file, so that whoever copies that has all of it. Closing the last connection would do it,
    /// too, but says nothing where that fails.
    fn fold_wal(&self) {
        let folded = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match folded {
            Ok(0) => {}
            Ok(_) => log::info!("Somebody else reads the database: what was written last stays in its -wal file"),
            Err(error) => log::warn!("What was written last stays in the -wal file: {}", explain(&self.path, &error)),
        }
    }

    fn write(&mut self, calls: VecDeque<Call>) {
        let (changes, done): (Vec<_>, VecDeque<_>) = calls.into_iter().map(|call| (call.changes, call.done)).unzip();
        self.waiting = done;
        let fates = match self.commit(changes.iter().flatten()) {
            Ok(()) => vec![Ok(()); changes.len()],
            // One call may have spoilt it for all.
            Err(error) if changes.len() > 1 && !concerns_all(&error) => changes
                .iter()
                .map(|changes| self.commit(changes.iter()).map_err(|error| explain(&self.path, &error)))
                .collect(),
            Err(error) => vec![Err(explain(&self.path, &error)); changes.len()],
        };
        for fate in fates {
            let done = self.waiting.pop_front().expect("one for each call");
            done(fate);
        }
    }

    fn commit<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) -> rusqlite::Result<()> {
        let now_ms = (self.environment.clock)();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            rows::apply(&transaction, change, now_ms)?;
            if let Change::BeginSession(record) = change
                && record.session.epoch.is_multiple_of(SESSIONS_SLACK)
            {
                rows::trim_sessions(&transaction, &record.session.agent, self.history.sessions_keep)?;
            }
        }
        transaction.commit()
    }

    /// True if there may be more. What fails is tried again later; nobody waits for it.
    fn prune(&mut self) -> bool {
        let now_ms = (self.environment.clock)();
        let pruned = prune(&mut self.connection, &self.history, now_ms).and_then(|more| {
            remove_outputs(&self.connection, &mut *self.environment.remove_output)?;
            Ok(more)
        });
        pruned.unwrap_or_else(|error| {
            log::warn!("Cannot forget old commands and events: {}", explain(&self.path, &error));
            false
        })
    }
}

/// The disk or the file, not what one call wanted.
fn concerns_all(error: &rusqlite::Error) -> bool {
    !matches!(Why::of(error), Why::Other(_)) || error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
}
