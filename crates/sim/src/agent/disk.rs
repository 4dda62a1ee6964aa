//! What survives a crash of the agent.

use super::{Out, Process};
use crate::{
    Spec,
    random::{Random, mix},
};
use link::{
    Outcome,
    ledger::{Ending, Exit, Finish, Input, Ledger, Params, Record, Restored},
};
use std::{collections::BTreeMap, time::Duration};

/// An agent's state directory.
#[derive(Clone, Debug)]
pub struct Disk {
    pub agent_id: [u8; 16],
    pub spool_id: [u8; 16],
    pub highest_epoch: u64,
    /// In memory (`commands.spool = "memory"`) nothing of the spool outlives the process.
    pub keeps_spool: bool,
    pub commands: BTreeMap<String, Stored>,
    arrivals: u64,
}

/// A command, as far as it was recorded.
#[derive(Clone, Debug)]
pub struct Stored {
    pub arrival: u64,
    pub spec: Spec,
    /// It may have started.
    pub starting: bool,
    pub finish: Option<Finish>,
    pub acknowledged: bool,
    /// Output that is here and not yet let go.
    pub output: (u64, u64),
}

impl Disk {
    pub fn new(random: &mut Random) -> Self {
        Self {
            agent_id: random.bytes(),
            spool_id: random.bytes(),
            highest_epoch: 0,
            keeps_spool: true,
            commands: BTreeMap::new(),
            arrivals: 0,
        }
    }

    /// A record is on the disk.
    pub fn write(&mut self, id: &str, record: Record<Spec>, spec: Spec) {
        match record {
            Record::Accepted(spec) => {
                self.arrivals += 1;
                let stored = Stored {
                    arrival: self.arrivals,
                    spec,
                    starting: false,
                    finish: None,
                    acknowledged: false,
                    output: (0, 0),
                };
                self.commands.insert(id.to_owned(), stored);
            }
            Record::Starting => self.change(id, |stored| stored.starting = true),
            Record::Finished(finish) => {
                // One that was refused at once is recorded by its end alone.
                if !self.commands.contains_key(id) {
                    self.write(id, Record::Accepted(spec), spec);
                }
                self.change(id, |stored| stored.finish = Some(finish));
            }
            Record::Acknowledged => self.change(id, |stored| stored.acknowledged = true),
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Stored)) {
        if let Some(stored) = self.commands.get_mut(id) {
            change(stored);
        }
    }

    /// The process is gone: of what was handed to the disk some is there, in order, and never less than was answered
    /// for. Of unfinished output some is there, too. `torn` draws how much; `u64::MAX`: all.
    pub fn crash(&mut self, process: Process, torn: u64) {
        let written = if torn == u64::MAX { process.writes.len() } else { torn as usize % (process.writes.len() + 1) };
        for (id, record) in process.writes.into_iter().take(written) {
            self.write(&id, record, Spec::of(&id));
        }
        for (id, out) in &process.outs {
            if let Some(stored) = self.commands.get_mut(id) {
                let whole = stored.finish.is_some() || torn == u64::MAX;
                let unsaved = if whole { 0 } else { mix(torn ^ out.end) % (out.end - out.base + 1) };
                stored.output = (out.base, out.end - unsaved);
            }
        }
    }

    /// A ledger as the disk has it, and the output that is still to be delivered.
    pub fn restore(&self, params: Params, now: Duration, unix_ms: u64) -> (Ledger<Spec>, BTreeMap<String, Out>) {
        let mut stored: Vec<_> = self.commands.iter().collect();
        stored.sort_by_key(|(_, stored)| stored.arrival);
        let mut outs = BTreeMap::new();
        let mut ledger = Ledger::new(params);
        let mut ends = Vec::new();
        for (id, stored) in stored {
            // The end of what was let go may be all that is known of it.
            let total = stored.finish.as_ref().map_or(stored.output.1, |finish| finish.total_bytes);
            let (base, end) = (stored.output.0.min(total), total);
            let restored = match &stored.finish {
                Some(finish) if stored.acknowledged => Restored::Acknowledged(finish.clone(), Duration::ZERO),
                Some(finish) => Restored::Finished(finish.clone()),
                // Its end could not be written, and that the master has it could.
                None if stored.acknowledged => Restored::Acknowledged(lost(), Duration::ZERO),
                None if stored.starting => {
                    ends.push((id.clone(), end));
                    Restored::MayRun { started_unix_ms: 0 }
                }
                None => Restored::Waiting,
            };
            if !stored.acknowledged && (stored.starting || stored.finish.is_some()) {
                outs.insert(id.clone(), Out { base, end, ended: true, next: None, call: false });
            }
            ledger.restore(now, id.clone(), stored.spec, timeout(stored.spec), restored);
        }
        // A process dies with its agent here: what may have run is found to be gone at once.
        for (id, total_bytes) in ends {
            let exit = Exit::Killed(Ending::Signal(9));
            ledger.handle(now, unix_ms, Input::Exited { id, exit, total_bytes });
        }
        ledger.handle(now, unix_ms, Input::Wake);
        (ledger, outs)
    }

    /// The spool is gone, or was never meant to last: another one is made.
    pub fn lose_spool(&mut self, random: &mut Random) {
        self.commands.clear();
        self.spool_id = random.bytes();
    }
}

/// An end of which only the acknowledgement is known.
fn lost() -> Finish {
    let outcome = Outcome::Interrupted("its end is not on record".to_owned());
    Finish { outcome, total_bytes: 0, started_unix_ms: 0, finished_unix_ms: 0 }
}

/// Part of what a specification says.
pub fn timeout(spec: Spec) -> Option<Duration> {
    spec.0.is_multiple_of(5).then(|| Duration::from_secs(10 + spec.0 % 20))
}
