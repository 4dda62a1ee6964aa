//! How commands begin, and how they are cancelled.

use super::{Command, Dispatch};
use crate::{
    AgentId, AgentRecord, CommandRecord, CommandState, Down, Effect, Now, Out, View, effect::Then, registry::Downlink,
};
use link::Outcome;

/// A command that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submit<S> {
    /// Made by whoever asks; the key to asking again.
    pub id: String,
    /// Name of the agent, or its id in hex.
    pub agent: String,
    pub spec: S,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "made once a command and taken apart at once")]
pub enum Submitted<S> {
    /// It is being recorded; [`Effect::Show`] follows.
    New,
    /// Known with the same content; [`Effect::Show`] follows if this is `None`.
    Attached(Option<CommandRecord<S>>),
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    InvalidId,
    /// The id belongs to a command with other content, or for another agent.
    OtherContent,
    UnknownAgent,
    /// Perhaps later.
    Away {
        record: Box<AgentRecord>,
    },
    /// Too many commands wait for this agent already.
    QueueFull {
        agent: String,
        waiting: usize,
    },
    /// It finished a moment ago: look into the store again.
    LookAgain,
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Its outcome follows.
    Asked,
    /// Not among the unfinished.
    Unknown,
}

impl<S: Clone + Eq> Dispatch<S> {
    /// What is known of the id already. `None`: nothing, so [`submit`](Self::submit) may make it.
    pub fn attach(
        &self,
        submit: &Submit<S>,
        agent: Option<AgentId>,
        stored: Option<CommandRecord<S>>,
    ) -> Option<Result<Submitted<S>, Refusal>> {
        if !link::valid_command_id(&submit.id) {
            return Some(Err(Refusal::InvalidId));
        }
        let same = |record: &CommandRecord<S>| {
            record.spec == submit.spec && (record.agent == submit.agent || Some(record.agent_id) == agent)
        };
        if let Some(command) = self.commands.get(&submit.id) {
            return Some(match same(&command.record) {
                true => Ok(Submitted::Attached(command.committed.then(|| command.record.clone()))),
                false => Err(Refusal::OtherContent),
            });
        }
        match stored {
            Some(record) if same(&record) => Some(Ok(Submitted::Attached(Some(record)))),
            Some(_) => Some(Err(Refusal::OtherContent)),
            None if self.recent.contains(&submit.id) => Some(Err(Refusal::LookAgain)),
            None => None,
        }
    }

    /// A new command for an agent that is there. It is sent, and shown, once it is durable.
    pub fn submit(&mut self, now: Now, submit: Submit<S>, name: String, link: Downlink, out: &mut Out<S>) {
        let record = CommandRecord::sent(now, submit.id.clone(), name, submit.spec, CommandState::Sent, link);
        let command = Command::new(now, record, false);
        command.put(Then::Submitted { id: submit.id }, out);
        self.insert(command);
    }

    /// The agent should end it. Asking again changes nothing. While the agent is away the wish is kept.
    pub fn cancel(&mut self, id: &str, link: Option<Downlink>, out: &mut Out<S>) -> Cancelled {
        let Some(command) = self.commands.get_mut(id) else { return Cancelled::Unknown };
        let first = !command.record.cancel_asked;
        command.record.cancel_asked = true;
        if let Some(link) = link
            && command.sent == Some(link.session)
        {
            out.send(link.session, Down::Cancel { id: id.to_owned() });
        }
        if first && command.committed && command.record.outcome.is_none() {
            command.put(Then::Changed { id: id.to_owned() }, out);
        }
        Cancelled::Asked
    }

    /// Its standard input has ended there. Remembered, so that after a restart a command whose agent has all of it is
    /// told from one that waits for more.
    pub fn stdin_ended(&mut self, id: &str, end: u64, out: &mut Out<S>) {
        let Some(command) = self.commands.get_mut(id) else { return };
        if command.record.stdin_end.is_none() {
            command.record.stdin_end = Some(end);
            command.put(Then::Changed { id: id.to_owned() }, out);
        }
    }

    /// A new command is durable: it may be sent, if the agent is still there.
    pub(crate) fn submitted(&mut self, now: Now, id: &str, link: Option<Downlink>, out: &mut Out<S>) {
        let Some(command) = self.commands.get_mut(id) else { return };
        command.committed = true;
        command.shown = true;
        if command.finish.is_some() {
            return;
        }
        command.show(out);
        if command.record.cancel_asked {
            return self.conclude(now, id, Outcome::Cancelled, out);
        }
        match link {
            _ if command.is_queued() && command.is_expired(now) => self.conclude(now, id, Outcome::Expired, out),
            Some(link) if command.is_queued() => self.deliver(now, link, out),
            Some(link) => self.send_first(now, id, link, out),
            None => {}
        }
    }

    /// Sends a recorded command that was never sent: any spool is as good as the one first thought of, once that is
    /// recorded.
    pub(super) fn send_first(&mut self, now: Now, id: &str, link: Downlink, out: &mut Out<S>) {
        let Some(command) = self.commands.get_mut(id) else { return };
        if command.record.cancel_asked {
            self.conclude(now, id, Outcome::Cancelled, out);
        } else if command.is_expired(now) {
            self.conclude(now, id, Outcome::Expired, out);
        } else if command.record.spool_id == Some(link.spool_id) {
            command.send(link.session, out);
        } else {
            command.record.spool_id = Some(link.spool_id);
            command.committed = false;
            self.leave_queue(id, CommandState::Sent);
            let command = self.commands.get(id).expect("just looked at");
            command.put(Then::Submitted { id: id.to_owned() }, out);
        }
    }

    pub(crate) fn not_submitted(&mut self, now: Now, id: &str, error: &str, out: &mut Out<S>) {
        // One that was shown before only got no new spool: that is tried again, or in the next session.
        if let Some(command) = self.commands.get_mut(id).filter(|command| command.shown) {
            command.committed = true;
            self.return_to_queue(id);
            self.retry_later(now, id);
        } else if self.remove(id).is_some() {
            let view = View::Failed(format!("the master cannot record the command: {error}"));
            out.push(Effect::Show { id: id.to_owned(), view });
        }
    }

    /// Records the spool of a command that was never sent once more, so that it can be.
    pub(super) fn submit_again(&mut self, id: &str, out: &mut Out<S>) {
        if let Some(command) = self.commands.get_mut(id).filter(|command| command.fresh && command.committed)
            && command.finish.is_none()
        {
            command.committed = false;
            command.put(Then::Submitted { id: id.to_owned() }, out);
        }
    }
}
