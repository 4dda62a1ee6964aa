//! From the records of a journal to what became of each command. Pure.

#[cfg(test)]
mod tests;

use super::format::{Change, Mark, Record, Rest};
use link::{Outcome, ledger::Finish};
use std::collections::HashMap;

/// One command as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub id: String,
    pub accepted_unix_ms: u64,
    /// Encoded `CommandSpec`; `None`: refused at once, or its acceptance was lost to damage.
    pub spec: Option<Vec<u8>>,
    pub stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Certainly not started.
    Accepted,
    /// It was about to start: it may run, or have run. The process, once it was known.
    MayRun {
        started: Option<(u64, Mark)>,
    },
    Finished {
        finish: Finish,
        output: Rest,
    },
    Acknowledged {
        finish: Finish,
        at_unix_ms: u64,
    },
}

const END_LOST: &str = "the agent's record of its end was damaged";

/// In the order in which they came.
pub fn replay(records: impl IntoIterator<Item = Record>) -> Vec<Life> {
    let mut lives = Lives::default();
    for record in records {
        lives.change(record);
    }
    lives.ordered.into_iter().flatten().collect()
}

/// Leaves out what need not be remembered any more: acknowledged longer than `remember_ms` ago, or more than
/// `tombstones_max` of them, the earliest first.
pub fn forget(lives: &mut Vec<Life>, now_unix_ms: u64, remember_ms: u64, tombstones_max: usize) {
    let acknowledged = |life: &Life| match life.stage {
        Stage::Acknowledged { at_unix_ms, .. } => Some(at_unix_ms),
        _ => None,
    };
    // A clock that was set back makes nothing older, one that was set forward is believed.
    lives.retain(|life| acknowledged(life).is_none_or(|at| now_unix_ms.saturating_sub(at) < remember_ms));
    let mut excess = lives.iter().filter_map(acknowledged).count().saturating_sub(tombstones_max);
    lives.retain(|life| {
        let goes = excess > 0 && acknowledged(life).is_some();
        excess -= usize::from(goes);
        !goes
    });
}

impl Life {
    /// Nobody knows what became of it after its last record.
    pub fn doubt(&mut self) {
        if self.stage == Stage::Accepted {
            self.stage = Stage::MayRun { started: None };
        }
    }

    /// The fewest records that say the same.
    pub fn records(&self) -> Vec<Record> {
        let record = |change| Record { id: self.id.clone(), change };
        let mut records = Vec::new();
        if let (Some(spec), false) = (&self.spec, matches!(self.stage, Stage::Acknowledged { .. })) {
            let accepted = Change::Accepted { at_unix_ms: self.accepted_unix_ms, spec: spec.clone() };
            records.push(record(accepted));
        }
        match self.stage.clone() {
            Stage::Accepted => {}
            Stage::MayRun { started } => {
                records.push(record(Change::Starting));
                if let Some((at_unix_ms, mark)) = started {
                    records.push(record(Change::Started { at_unix_ms, mark }));
                }
            }
            Stage::Finished { finish, output } => records.push(record(Change::Finished { finish, output })),
            Stage::Acknowledged { finish, at_unix_ms } => {
                let output = Rest { from: finish.total_bytes, place: super::format::Place::Here(Vec::new()) };
                records.push(record(Change::Finished { finish, output }));
                records.push(record(Change::Acknowledged { at_unix_ms }));
            }
        }
        records
    }
}

#[derive(Default)]
struct Lives {
    ordered: Vec<Option<Life>>,
    by_id: HashMap<String, usize>,
}

impl Lives {
    fn change(&mut self, Record { id, change }: Record) {
        let known = self.by_id.get(&id).copied();
        let stage = known.and_then(|index| self.ordered[index].as_mut()).map(|life| &mut life.stage);
        match (change, stage) {
            // Acknowledged and forgotten by the time of its record, an id may come again.
            (Change::Accepted { at_unix_ms, spec }, None | Some(Stage::Acknowledged { .. })) => {
                self.begin(id, at_unix_ms, Some(spec), Stage::Accepted);
            }
            (Change::Starting, Some(stage @ Stage::Accepted)) => *stage = Stage::MayRun { started: None },
            (Change::Started { at_unix_ms, mark }, Some(stage @ (Stage::Accepted | Stage::MayRun { .. }))) => {
                *stage = Stage::MayRun { started: Some((at_unix_ms, mark)) };
            }
            (Change::Finished { finish, output }, Some(stage @ (Stage::Accepted | Stage::MayRun { .. }))) => {
                *stage = Stage::Finished { finish, output };
            }
            (Change::Acknowledged { at_unix_ms }, Some(stage)) => {
                let finish = match stage {
                    Stage::Finished { finish, .. } => finish.clone(),
                    Stage::Acknowledged { .. } => return,
                    Stage::Accepted | Stage::MayRun { .. } => lost(at_unix_ms),
                };
                *stage = Stage::Acknowledged { finish, at_unix_ms };
            }
            // Without an acceptance: refused at once, or damage took it.
            (Change::Starting, None) => self.begin(id, 0, None, Stage::MayRun { started: None }),
            (Change::Started { at_unix_ms, mark }, None) => {
                self.begin(id, 0, None, Stage::MayRun { started: Some((at_unix_ms, mark)) });
            }
            (Change::Finished { finish, output }, None | Some(Stage::Acknowledged { .. })) => {
                self.begin(id, 0, None, Stage::Finished { finish, output });
            }
            (Change::Acknowledged { at_unix_ms }, None) => {
                self.begin(id, 0, None, Stage::Acknowledged { finish: lost(at_unix_ms), at_unix_ms });
            }
            // What was said first stays.
            (
                Change::Accepted { .. } | Change::Starting | Change::Started { .. } | Change::Finished { .. },
                Some(_),
            ) => {}
        }
    }

    fn begin(&mut self, id: String, accepted_unix_ms: u64, spec: Option<Vec<u8>>, stage: Stage) {
        if let Some(earlier) = self.by_id.insert(id.clone(), self.ordered.len()) {
            self.ordered[earlier] = None;
        }
        self.ordered.push(Some(Life { id, accepted_unix_ms, spec, stage }));
    }
}

fn lost(at_unix_ms: u64) -> Finish {
    let outcome = Outcome::Interrupted(END_LOST.to_owned());
    Finish { outcome, total_bytes: 0, started_unix_ms: 0, finished_unix_ms: at_unix_ms }
}
