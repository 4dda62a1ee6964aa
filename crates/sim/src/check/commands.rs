//! What became of the commands, against what the programs did.

use super::Check;
use crate::{Spec, master::Store};
use fleet::{AgentId, Change, CommandRecord, CommandState, SessionId, View};
use link::{Outcome, ledger::Ending};

/// What is true of a command.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub agent: AgentId,
    pub starts: u32,
    /// How its program ended, how much it printed, and whether a signal of the agent's ended it.
    pub exit: Option<(Ending, u64, bool)>,
    /// Something happened to it or around it that can change its outcome.
    pub excused: bool,
    /// The master said that it exists, has it on record, and has not been rolled back since.
    pub promised: bool,
    told: Option<Outcome>,
}

impl Check {
    /// `to`: the session that it is meant for. If that is over, or the agent is going, nobody knows what comes of it.
    pub fn submitted(&mut self, id: &str, to: SessionId) {
        let agent = to.agent;
        let excused = !self.hosts.values().any(|truth| truth.session == Some(to) && !truth.draining);
        let truth = self.commands.entry(id.to_owned()).or_default();
        truth.agent = agent;
        truth.excused |= excused;
    }

    pub fn excuse(&mut self, id: &str) {
        if let Some(truth) = self.commands.get_mut(id) {
            truth.excused = true;
        }
    }

    pub fn excuse_agent(&mut self, agent: AgentId) {
        for truth in self.commands.values_mut().filter(|truth| truth.agent == agent) {
            truth.excused = true;
        }
    }

    pub fn excuse_host(&mut self, host: usize) {
        if let Some(truth) = self.hosts.get_mut(&host) {
            truth.draining = true;
            let agent = truth.id;
            self.excuse_agent(agent);
        }
    }

    /// # Errors
    /// It was started before.
    pub fn started(&mut self, host: usize, id: &str) -> Result<(), String> {
        let truth = self.commands.entry(id.to_owned()).or_default();
        truth.starts += 1;
        if truth.starts > 1 {
            return Err(format!("{id} is started again, on host {host}"));
        }
        Ok(())
    }

    pub fn exited(&mut self, id: &str, ending: Ending, total_bytes: u64, signalled: bool) {
        if let Some(truth) = self.commands.get_mut(id) {
            truth.exit = Some((ending, total_bytes, signalled));
        }
    }

    pub(super) fn commands_rolled_back(&mut self, store: &Store) {
        for (id, truth) in &mut self.commands {
            truth.excused = true;
            truth.told = store.commands.get(id).and_then(|record| record.outcome.clone());
            truth.promised &= store.commands.contains_key(id);
        }
    }

    /// # Errors
    /// It is sent before it is durable, or after its end.
    pub fn sent(&self, id: &str, store: &Store) -> Result<(), String> {
        match store.commands.get(id) {
            None => Err(format!("{id} is sent and not on record")),
            Some(record) if record.outcome.is_some() => Err(format!("{id} is sent after its end: {record:?}")),
            Some(_) => Ok(()),
        }
    }

    /// # Errors
    /// What is shown is not on record, or an outcome changes.
    pub fn shown(&mut self, id: &str, view: &View<Spec>, store: &Store) -> Result<(), String> {
        let View::Record(record) = view else { return Ok(()) };
        let on_record = store.commands.get(id);
        // One that was adopted may be shown though it could not be recorded: its agent has it on record.
        let adopted = on_record.is_none() && record.state == CommandState::Accepted && record.outcome.is_none();
        let agrees = on_record.is_some_and(|stored| record.outcome.is_none() || stored.outcome == record.outcome);
        if !adopted && !agrees {
            return Err(format!("{id} is shown as {record:?} and recorded as {on_record:?}"));
        }
        let truth = self.commands.entry(id.to_owned()).or_default();
        truth.promised |= on_record.is_some();
        if truth.told.is_some() && truth.told != record.outcome {
            return Err(format!("{id} had the outcome {:?}, and has {:?}", truth.told, record.outcome));
        }
        truth.told.clone_from(&record.outcome);
        Ok(())
    }

    /// A change is about to be durable.
    ///
    /// # Errors
    /// An outcome is not what happened.
    pub fn recorded(&mut self, change: &Change<Spec>) -> Result<(), String> {
        match change {
            Change::DeleteAgent(agent) => self.forget_agent(*agent),
            Change::PutCommand(record) => return self.command_recorded(record),
            Change::PutAgent(_)
            | Change::AddEvent(_)
            | Change::PutHeard(_)
            | Change::PutRun(_)
            | Change::PutMark { .. }
            | Change::AddTold(_)
            | Change::BeginSession(_)
            | Change::EndSession(..)
            | Change::EndSessions(_) => {}
        }
        Ok(())
    }

    fn command_recorded(&self, record: &CommandRecord<Spec>) -> Result<(), String> {
        let (Some(outcome), Some(truth)) = (&record.outcome, self.commands.get(&record.id)) else { return Ok(()) };
        if let Outcome::Exited(_) | Outcome::Signaled(_) | Outcome::TimedOut = outcome
            && truth.starts == 0
        {
            return Err(format!("{} never started, and has the outcome {outcome:?}", record.id));
        }
        if truth.excused {
            return Ok(());
        }
        let happened = match truth.exit {
            Some((Ending::Code(code), bytes, false)) => (Outcome::Exited(code), bytes),
            Some((_, bytes, true)) => (Outcome::TimedOut, bytes),
            _ => return Err(format!("{} did not end, and has the outcome {outcome:?}", record.id)),
        };
        if happened != (outcome.clone(), record.output_bytes) {
            let bytes = record.output_bytes;
            return Err(format!("{}: {happened:?} happened, {outcome:?}, {bytes} bytes recorded", record.id));
        }
        Ok(())
    }
}
