//! How commands end.

use super::{Command, Dispatch};
use crate::{
    AgentId, Change, CommandState, Down, Now, Out, SessionId,
    effect::{Then, Whom},
    registry::Downlink,
};
use link::Outcome;
use std::time::Duration;

/// The end of a command, as the agent tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    pub outcome: Outcome,
    /// Output and dropped bytes: the record is closed once all of it is durable here.
    pub total_bytes: u64,
    /// 0: never started.
    pub started_unix_ms: u64,
    pub finished_unix_ms: u64,
}

/// What could not be recorded is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

impl<S: Clone + Eq> Dispatch<S> {
    /// The agent tells how a command ended.
    pub fn finished(&mut self, now: Now, session: SessionId, id: &str, finish: Finish, out: &mut Out<S>) {
        let left_out = self.is_left_out(session.agent, id);
        match self.commands.get_mut(id) {
            Some(command) if command.record.agent_id == session.agent => {
                if command.finish.is_none() {
                    command.finish = Some(finish);
                }
                self.close_if_complete(now, id, out);
            }
            Some(_) => {} // another agent's: not for this one to end
            None if left_out => {}
            // Finished before, or never to be known here: every unfinished one is in memory. Told so, it forgets it.
            None => out.send(session, Down::FinishedAck { id: id.to_owned() }),
        }
    }

    /// So much output would survive a crash. Also tells that there is no more after a restart of the master: until it
    /// was told, no command is given up with the output that is here.
    pub fn durable(&mut self, now: Now, id: &str, durable: u64, gaps: Vec<(u64, u64)>, out: &mut Out<S>) {
        let Some(command) = self.commands.get_mut(id) else { return };
        command.measured = true;
        if durable >= command.durable {
            command.durable = durable;
            command.gaps = gaps;
        }
        self.close_if_complete(now, id, out);
    }

    /// Its output cannot be kept here. Nothing is lost by that: it stays with the agent until it can.
    pub fn output_failed(&mut self, now: Now, id: &str, why: &str, out: &mut Out<S>) {
        let Some(command) = self.commands.get(id) else { return };
        let record = &command.record;
        let whom = Whom { agent: &record.agent, agent_id: record.agent_id, epoch: 0 };
        let message = format!("command {id}: {why}; its output stays with the agent, which tries again");
        let event = out.event_about(now, "command.output_failed", whom, "disk", message);
        out.store(vec![event], Then::Nothing);
    }

    /// Nobody will ever say how these ended.
    pub fn forget_agent(&mut self, now: Now, agent: AgentId, why: &str, out: &mut Out<S>) {
        self.left_out.remove(&agent);
        let ids: Vec<String> = self.by_agent.get(&agent).into_iter().flatten().cloned().collect();
        for id in ids {
            let outcome = match self.commands.get(&id).is_some_and(never_sent) {
                true => Outcome::Refused(format!("it was never sent: {why}")),
                false => Outcome::Interrupted(why.to_owned()),
            };
            self.conclude(now, &id, outcome, out);
        }
    }

    /// What [`Dispatch::forget_agent`] would do: how many were never sent, and how many may run or have run.
    pub fn would_forget(&self, agent: AgentId) -> (usize, usize) {
        let ids = self.by_agent.get(&agent).into_iter().flatten();
        let open = ids.filter_map(|id| self.commands.get(id)).filter(|command| !command.finishing);
        open.fold((0, 0), |(waiting, others), command| match never_sent(command) {
            true => (waiting + 1, others),
            false => (waiting, others + 1),
        })
    }

    pub fn poll_timeout(&self) -> Option<Duration> {
        let retry = self.retries.front().map(|(at, _)| *at);
        retry.into_iter().chain(self.queues.next_expiry()).min()
    }

    /// Gives up what waited for too long, and tries again to record what could not be recorded.
    pub fn timeout(&mut self, now: Now, out: &mut Out<S>) {
        self.expire(now, out);
        while self.retries.front().is_some_and(|(at, _)| *at <= now.monotonic) {
            let (_, id) = self.retries.pop_front().expect("there is a first one");
            self.close_if_complete(now, &id, out);
            self.submit_again(&id, out);
        }
    }

    pub(super) fn retry_later(&mut self, now: Now, id: &str) {
        self.retries.push_back((now.monotonic + RETRY, id.to_owned()));
    }

    /// Ends a command from this side, with the output that is here.
    pub(super) fn conclude(&mut self, now: Now, id: &str, outcome: Outcome, out: &mut Out<S>) {
        let Some(command) = self.commands.get_mut(id) else { return };
        if command.finishing {
            return;
        }
        command.concluded = true;
        command.finish = Some(Finish {
            outcome,
            total_bytes: 0,
            started_unix_ms: command.record.started_unix_ms,
            finished_unix_ms: now.unix_ms,
        });
        self.close_if_complete(now, id, out);
    }

    fn close_if_complete(&mut self, now: Now, id: &str, out: &mut Out<S>) {
        let Some(command) = self.commands.get_mut(id) else { return };
        let Some(finish) = &mut command.finish else { return };
        if command.concluded {
            finish.total_bytes = command.durable;
        } else if matches!(finish.outcome, Outcome::Interrupted(_)) {
            // An agent that died knows only what it had written down: there may be more of it here.
            finish.total_bytes = finish.total_bytes.max(command.durable);
        }
        let complete = command.durable >= finish.total_bytes && (command.measured || !command.concluded);
        if command.finishing || !complete {
            return;
        }
        command.finishing = true;
        let record = &command.record;
        let mut closed = record.clone();
        closed.state = CommandState::Finished;
        closed.outcome = Some(finish.outcome.clone());
        closed.started_unix_ms = finish.started_unix_ms;
        closed.finished_unix_ms = finish.finished_unix_ms;
        closed.output_bytes = finish.total_bytes;
        closed.gaps.clone_from(&command.gaps);
        let whom = Whom { agent: &record.agent, agent_id: record.agent_id, epoch: 0 };
        let word = finish.outcome.word();
        let message = format!("command {id}: {}", in_short(&finish.outcome));
        let event = out.event_about(now, "command.finished", whom, word, message);
        out.store(vec![Change::PutCommand(closed), event], Then::Finished { id: id.to_owned() });
    }

    /// The end is durable: everybody may know.
    pub(crate) fn closed(&mut self, id: &str, link: Option<Downlink>, out: &mut Out<S>) {
        // One that could not be recorded is gone, and its id may belong to another by now.
        if !self.commands.get(id).is_some_and(|command| command.finishing) {
            return;
        }
        let mut command = self.remove(id).expect("just looked at");
        let finish = command.finish.take().expect("only a finished command is closed");
        command.record.state = CommandState::Finished;
        command.record.outcome = Some(finish.outcome);
        command.record.started_unix_ms = finish.started_unix_ms;
        command.record.finished_unix_ms = finish.finished_unix_ms;
        command.record.output_bytes = finish.total_bytes;
        command.record.gaps.clone_from(&command.gaps);
        self.recent.insert(id.to_owned());
        command.show(out);
        if let Some(link) = link
            && command.sent == Some(link.session)
        {
            out.send(link.session, Down::FinishedAck { id: id.to_owned() });
        }
    }

    pub(crate) fn not_closed(&mut self, now: Now, id: &str) {
        if let Some(command) = self.commands.get_mut(id) {
            command.finishing = false;
            self.retry_later(now, id);
        }
    }

    /// The agent of an unfinished command.
    pub fn agent_of(&self, id: &str) -> Option<AgentId> {
        self.commands.get(id).map(|command| command.record.agent_id)
    }
}

/// Whether its agent cannot have heard of it.
fn never_sent<S>(command: &Command<S>) -> bool {
    command.is_queued() && command.committed
}

/// The word of an outcome, with its number if it has one.
fn in_short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited(number) | Outcome::Signaled(number) => format!("{} {number}", outcome.word()),
        _ => outcome.word().to_owned(),
    }
}
