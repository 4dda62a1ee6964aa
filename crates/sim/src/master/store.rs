//! What survives a crash of the master: its database and the files of output.

use super::Log;
use crate::Spec;
use fleet::{AgentId, AgentRecord, Change, CommandRecord, CommandState};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Store {
    pub agents: BTreeMap<AgentId, AgentRecord>,
    pub commands: BTreeMap<String, CommandRecord<Spec>>,
    pub last_event: u64,
    pub logs: BTreeMap<String, Log>,
}

impl Store {
    /// One transaction.
    ///
    /// # Errors
    /// It breaks a promise.
    pub fn write(&mut self, changes: Vec<Change<Spec>>) -> Result<(), String> {
        for change in changes {
            match change {
                Change::PutAgent(record) => drop(self.agents.insert(record.id, record)),
                Change::DeleteAgent(id) => drop(self.agents.remove(&id)),
                Change::PutCommand(record) => self.put(record)?,
                Change::PutHeard(_)
                | Change::PutRun(_)
                | Change::PutMark { .. }
                | Change::AddTold(_)
                | Change::BeginSession(_)
                | Change::EndSession(..)
                | Change::EndSessions(_) => {}
                Change::AddEvent(event) => {
                    if event.seq <= self.last_event {
                        return Err(format!("event {} is recorded after event {}", event.seq, self.last_event));
                    }
                    self.last_event = event.seq;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, record: CommandRecord<Spec>) -> Result<(), String> {
        if let Some(before) = self.commands.get(&record.id).filter(|before| before.outcome.is_some()) {
            return Err(format!("{} is recorded again after its end: {before:?}, then {record:?}", record.id));
        }
        if let Some(outcome) = &record.outcome {
            let durable = self.logs.get(&record.id).map_or(0, |log| log.durable);
            if record.output_bytes > durable {
                let (id, bytes) = (&record.id, record.output_bytes);
                return Err(format!("{id} is {} with {bytes} bytes of output, and {durable} are here", outcome.word()));
            }
        }
        self.commands.insert(record.id.clone(), record);
        Ok(())
    }

    /// What a starting master reads.
    pub fn load(&self) -> (Vec<AgentRecord>, Vec<CommandRecord<Spec>>, u64) {
        let unfinished = self.commands.values().filter(|record| record.state != CommandState::Finished);
        (self.agents.values().cloned().collect(), unfinished.cloned().collect(), self.last_event + 1)
    }
}
