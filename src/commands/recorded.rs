//! Commands and their spool: what is recorded when, and what is taken up again after a restart.

use super::{
    Commands, Entry, Event, HELD_MAX, TOMBSTONES_MAX,
    held::{Held, Spill},
    in_words,
    launch::Process,
    node_log,
    orphan::{self, Orphan},
    output::OutputQueue,
};
use crate::{
    clock::unix_ms,
    config,
    spool::{
        Done, Spool,
        format::{Change, Chunk, Place, Record},
        node_log::NodeLog,
        replay::{Life, Stage},
        store::{self, Keep, Opened, Written},
    },
};
use link::ledger::{self, Ending, Exit, Finish, Input, Restored};
use prost::Message;
use proto::CommandSpec;
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Output that has waited so long for the master is written to the disk, so that a crash of the agent does not lose it.
pub const SPILL_AFTER: Duration = Duration::from_secs(1);

impl Commands {
    /// With the spool of this state directory, and the commands in it. What still runs of an earlier agent is ended.
    /// Where the disk cannot be used, or should not be, everything lives in memory. Says in the log what was found.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn open(config: &config::Commands, agent: &str, state_dir: &Path, writable: bool) -> Self {
        let folder = state_dir.join("spool");
        let open = || -> io::Result<Opened> {
            let disk = crate::spool::disk::Folder::open(&folder)?;
            store::Store::open(Box::new(disk), keep(config), crate::spool::random_id(), unix_ms())
        };
        let opened = match (config.spool, writable) {
            (config::Spool::Memory, _) => None,
            // The state directory has said so itself.
            (config::Spool::Disk, false) => None,
            (config::Spool::Disk, true) => match open() {
                Ok(opened) => Some(opened),
                Err(error) => {
                    let error = config::describe(&error);
                    log::error!("the spool {} cannot be used ({error}): {}", folder.display(), IN_MEMORY);
                    None
                }
            },
        };
        let log = NodeLog::new(state_dir);
        match opened {
            None => Self::on(config, agent, Spool::in_memory().with_log(log)),
            Some(opened) => {
                for notice in &opened.notices {
                    log::warn!("the spool {}: {notice}", folder.display());
                }
                Self::restored(config, agent, opened, |spool| spool.with_log(log))
            }
        }
    }

    /// With what is in this store.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn restored(config: &config::Commands, agent: &str, opened: Opened, with: impl FnOnce(Spool) -> Spool) -> Self {
        let Opened { store, lives, mut outputs, .. } = opened;
        let mut commands = Self::on(config, agent, with(Spool::on_disk(store)));
        for life in lives {
            let output = outputs.remove(&life.id).unwrap_or_default();
            commands.restore(life, output);
        }
        commands.handle(Input::Wake);
        commands
    }

    fn restore(&mut self, life: Life, output: Vec<Chunk>) {
        let Life { id, spec, stage, .. } = life;
        // Checked when it was written; without one it is not started.
        let spec = spec.and_then(|spec| CommandSpec::decode(&spec[..]).ok());
        let spec_bytes = spec.as_ref().map_or(0, Message::encoded_len);
        let mut entry = Entry { spec_bytes, on_disk: true, ..Entry::default() };
        let restored = match stage {
            Stage::Accepted => Restored::Waiting,
            Stage::MayRun { started } => {
                let from = output.first().map_or(0, |chunk| chunk.offset);
                let output = OutputQueue::restored(from, output, None);
                let held = Arc::new(Held::restored(id.clone(), self.pool.clone(), output));
                entry.held = Some(held.clone());
                let (signals, received) = mpsc::channel(2);
                entry.signals = Some(signals);
                let orphan = Orphan::new(id.clone(), self.agent.clone(), started.map(|(_, mark)| mark));
                let (told, id) = (self.told.clone(), id.clone());
                // Ends when nothing of it lives, or a while after KILL.
                tokio::spawn(async move {
                    orphan.end(received).await;
                    let exit = Exit::Killed(Ending::Signal(libc::SIGKILL));
                    // Without a receiver nobody wants to know.
                    let _ = told.send(Event::Exited { id, exit, total_bytes: held.output_end() }).await;
                });
                Restored::MayRun { started_unix_ms: started.map_or(0, |(at, _)| at) }
            }
            Stage::Finished { finish, output: rest } => {
                let output = OutputQueue::restored(rest.from, output, Some(finish.total_bytes));
                entry.held = Some(Arc::new(Held::restored(id.clone(), self.pool.clone(), output)));
                Restored::Finished(finish)
            }
            Stage::Acknowledged { finish, at_unix_ms } => {
                let ago = Duration::from_millis(unix_ms().saturating_sub(at_unix_ms));
                let now = self.clock.elapsed();
                return self.ledger.restore(now, id, CommandSpec::default(), None, Restored::Acknowledged(finish, ago));
            }
        };
        let spec = spec.unwrap_or_default();
        let timeout = self.timeout_of(&spec);
        self.specs += spec_bytes;
        self.entries.insert(id.clone(), entry);
        self.ledger.restore(self.clock.elapsed(), id, spec, timeout, restored);
    }

    /// What the ledger wants recorded. In memory everything is as durable as it will be.
    pub(super) fn persist(&mut self, id: String, record: ledger::Record<CommandSpec>) {
        if let ledger::Record::Finished(finish) = &record {
            self.log_end(&id, finish);
        }
        let on_disk = self.spool.is_on_disk();
        let change = match record {
            ledger::Record::Acknowledged => {
                self.spool.note(Record { id: id.clone(), change: Change::Acknowledged { at_unix_ms: unix_ms() } });
                self.spool.remove(&id);
                return self.remove(&id);
            }
            ledger::Record::Finished(finish) if on_disk => {
                let held = self.entries.get(&id).and_then(|entry| entry.held.as_ref());
                let (from, place, spill) = held.map_or((0, Place::Here(Vec::new()), None), |held| held.rest());
                if let Some((held, spill)) = held.zip(spill) {
                    self.spool.write(written(held, spill, true));
                }
                return self.spool.promise(store::finished(id, finish, from, place));
            }
            ledger::Record::Accepted(spec) if on_disk => {
                Change::Accepted { at_unix_ms: unix_ms(), spec: spec.encode_to_vec() }
            }
            ledger::Record::Starting if on_disk => Change::Starting,
            // On the disk it stands as not started yet: the next agent would start it once more.
            ledger::Record::Starting if self.entries.get(&id).is_some_and(|entry| entry.on_disk) => {
                let reason = "the agent cannot record its start: its spool has failed".to_owned();
                return self.tell(Input::PersistFailed { id, reason });
            }
            _ => return self.tell(Input::Persisted { id }),
        };
        self.spool.promise(Record { id, change });
    }

    /// A batch was written, or the disk has failed.
    pub(super) fn recorded(&mut self, done: Done) {
        for id in done.recorded {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.on_disk = true;
            }
            self.handle(Input::Persisted { id });
        }
        let Some((ids, error)) = done.failed else { return };
        log::error!("the spool cannot be written ({error}): {IN_MEMORY}");
        self.spill_at = None;
        self.renew = self.session.is_some();
        for id in ids {
            self.handle(Input::PersistFailed { id, reason: format!("the agent cannot record it: {error}") });
        }
    }

    /// So that this process is found again, should the agent die. Without a sync: a crash of the machine ends it.
    pub(super) fn note_start(&mut self, id: &str, process: &Process) {
        if self.spool.is_on_disk()
            && let Some(mark) = process.child.id().and_then(orphan::mark)
        {
            let change = Change::Started { at_unix_ms: unix_ms(), mark };
            self.spool.note(Record { id: id.to_owned(), change });
        }
    }

    /// Writes down what has waited too long for the master.
    pub(super) fn spill(&mut self) {
        if self.spool.is_behind() {
            // Copies that wait for the disk have no limit of their own.
            self.spill_at = Some(tokio::time::Instant::now() + SPILL_AFTER);
            return;
        }
        self.spill_at = None;
        self.pool.look_again();
        let mut later = false;
        for entry in self.entries.values() {
            // What has finished is on record.
            let Some(held) = entry.held.as_ref().filter(|_| entry.on_disk && !entry.is_over()) else { continue };
            let (spill, more) = held.spill();
            later |= more;
            if let Some(spill) = spill {
                self.spool.write(written(held, spill, false));
            }
        }
        if later && self.spool.is_on_disk() {
            self.spill_at = Some(tokio::time::Instant::now() + SPILL_AFTER);
        }
    }

    pub(super) fn timeout_of(&self, spec: &CommandSpec) -> Option<Duration> {
        let own = (spec.timeout_ms > 0).then(|| Duration::from_millis(spec.timeout_ms));
        own.or(self.timeout)
    }

    fn log_end(&mut self, id: &str, finish: &Finish) {
        self.meter.count(&finish.outcome);
        log::info!("Command {id} {}", in_words(&finish.outcome));
        let spec = self.ledger.spec(id).cloned().unwrap_or_default();
        self.spool.log(&node_log::line(id, &spec, finish));
    }
}

fn written(held: &Arc<Held>, Spill { from, to, fresh }: Spill, durable: bool) -> Written {
    Written { id: held.id.clone(), output: held.clone(), from, to, fresh, durable }
}

const IN_MEMORY: &str = "commands are held in memory from now on, and a crash of the agent loses them";

/// What the store keeps of what is over.
pub fn keep(config: &config::Commands) -> Keep {
    const { assert!(TOMBSTONES_MAX >= HELD_MAX) };
    Keep { remember_ms: config.remember.as_millis().try_into().unwrap_or(u64::MAX), tombstones_max: TOMBSTONES_MAX }
}
