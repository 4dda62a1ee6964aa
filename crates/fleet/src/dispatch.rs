//! The commands that are not finished, and what each of them waits for.
//!
//! ```text
//! submit → (stored) → Sent → RunCommand → Accepted → CommandFinished, output durable → (stored) → Finished → FinishedAck
//! enqueue → (stored) → Queued, until the agent is there → (stored) → Sent → …
//! ```
//! A command starts at most once, and gets exactly one outcome: it is sent again only to the spool that it was sent to
//! before, and only if that spool does not hold it; what may have started and is held no more is `interrupted`.

mod finish;
mod queue;
mod submit;
#[cfg(test)]
mod tests;

use crate::{
    AgentId, Change, CommandRecord, CommandState, Down, Effect, Now, Out, SessionId, View, effect::Then,
    registry::Downlink,
};
use link::Outcome;
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

pub use finish::Finish;
pub use queue::{AHEAD_MAX, QUEUE_MAX};
pub use submit::{Cancelled, Refusal, Submit, Submitted};

/// A command that a registering agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<S> {
    pub id: String,
    pub state: HeldState,
    /// By the agent's clock; 0: it has not, or when is not known.
    pub started_unix_ms: u64,
    /// Without it an unknown command is not adopted: nothing of it is acknowledged, so that its agent keeps it and comes
    /// with it again.
    pub spec: Option<S>,
    /// The store knows it as finished.
    pub finished_here: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    Accepted,
    Running,
    Finished,
}

#[derive(Debug)]
pub struct Dispatch<S> {
    /// Unfinished ones only.
    commands: HashMap<String, Command<S>>,
    by_agent: HashMap<AgentId, BTreeSet<String>>,
    queues: queue::Queues,
    /// Of the newest command: they are numbered as they come.
    last_number: u64,
    recent: Recent,
    /// What agents hold in their present session and is not adopted.
    left_out: HashMap<AgentId, HashSet<String>>,
    /// Commands whose end or spool could not be recorded: (when to try again, id).
    retries: VecDeque<(Duration, String)>,
}

#[derive(Debug)]
struct Command<S> {
    record: CommandRecord<S>,
    /// Its place among the commands of this run of the master.
    number: u64,
    /// When it is given up if it was not sent.
    expires_at: Option<Duration>,
    /// It waited for its agent.
    was_queued: bool,
    /// The store has it: it may be sent and shown.
    committed: bool,
    /// The store had it at some time: it exists.
    shown: bool,
    /// It was sent in no session yet, and in none of an earlier run of the master.
    fresh: bool,
    /// The session in which `RunCommand` was sent.
    sent: Option<SessionId>,
    /// Its end, once known.
    finish: Option<Finish>,
    /// Its end was decided here, so the output that is here is all of it.
    concluded: bool,
    /// The end is being stored.
    finishing: bool,
    /// How much output is here is known: after a restart of the master not at once.
    measured: bool,
    /// Output that would survive a crash.
    durable: u64,
    gaps: Vec<(u64, u64)>,
}

impl<S> Default for Dispatch<S> {
    fn default() -> Self {
        Self {
            commands: HashMap::new(),
            by_agent: HashMap::new(),
            queues: queue::Queues::default(),
            last_number: 0,
            recent: Recent::default(),
            left_out: HashMap::new(),
            retries: VecDeque::new(),
        }
    }
}

impl<S: Clone + Eq> Dispatch<S> {
    /// The unfinished commands as the store knew them, in the order in which they came.
    pub fn load(&mut self, now: Now, records: Vec<CommandRecord<S>>) {
        for record in records.into_iter().filter(|record| record.state != CommandState::Finished) {
            // One that waits was never sent: of its output is nothing here.
            let queued = record.state == CommandState::Queued;
            self.insert(Command { measured: queued, fresh: queued, ..Command::new(now, record, true) });
        }
    }

    /// An unfinished command, and whether it is durable.
    pub fn unfinished(&self, id: &str) -> Option<(&CommandRecord<S>, bool)> {
        self.commands.get(id).map(|command| (&command.record, command.committed))
    }

    /// Ids of an agent's unfinished commands, oldest first, at most `limit`; and how many there are.
    pub fn unfinished_of(&self, agent: AgentId, limit: usize) -> (Vec<String>, usize) {
        let Some(ids) = self.by_agent.get(&agent) else { return (Vec::new(), 0) };
        let mut ids: Vec<&String> = ids.iter().collect();
        ids.sort_by_key(|id| self.commands.get(*id).map(|command| command.number));
        let count = ids.len();
        (ids.into_iter().take(limit).cloned().collect(), count)
    }

    /// Commands that wait for their agents.
    pub fn queued_in_all(&self) -> usize {
        self.commands.values().filter(|command| command.record.state == CommandState::Queued).count()
    }

    /// It is unfinished, or finished a short while ago: the store need not be asked.
    pub fn knows(&self, id: &str) -> bool {
        self.commands.contains_key(id) || self.recent.contains(id)
    }

    pub fn len(&self) -> usize {
        self.commands.len()
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The agent holds it, and it is not adopted in this session.
    pub fn is_left_out(&self, agent: AgentId, id: &str) -> bool {
        self.left_out.get(&agent).is_some_and(|ids| ids.contains(id))
    }

    /// A session is live: what its agent holds is compared with what is known.
    pub fn connected(&mut self, now: Now, name: &str, link: Downlink, held: Vec<Held<S>>, out: &mut Out<S>) {
        self.left_out.remove(&link.session.agent);
        let mut held: HashMap<String, Held<S>> = held.into_iter().map(|one| (one.id.clone(), one)).collect();
        let mut known: Vec<String> = self.by_agent.get(&link.session.agent).into_iter().flatten().cloned().collect();
        known.sort_by_key(|id| self.commands.get(id).map(|command| command.number));
        for id in known {
            match held.remove(&id) {
                Some(held) => {
                    self.still_held(&id, held.state, link, out);
                    self.started(link.session, &id, held.started_unix_ms, out);
                }
                None => self.not_held(now, &id, link, out),
            }
        }
        self.deliver(now, link, out);
        let mut unknown: Vec<Held<S>> = held.into_values().collect();
        unknown.sort_by(|a, b| a.id.cmp(&b.id));
        for held in unknown {
            if held.finished_here || self.recent.contains(&held.id) {
                if held.state != HeldState::Finished {
                    out.send(link.session, Down::Cancel { id: held.id });
                }
            } else if !self.commands.contains_key(&held.id) {
                self.adopt(now, name, link, held, out);
            }
        }
    }

    /// The agent holds the command.
    pub fn accepted(&mut self, session: SessionId, id: &str, out: &mut Out<S>) {
        if self.owned(session.agent, id).is_some_and(|command| command.committed) {
            self.accept(id, out);
        }
    }

    /// The agent has started it, by its clock. Shown, and not written for itself: the agent says it with each registration.
    pub fn started(&mut self, session: SessionId, id: &str, unix_ms: u64, out: &mut Out<S>) {
        let Some(command) = self.owned(session.agent, id) else { return };
        if unix_ms > 0 && command.record.started_unix_ms == 0 && command.finish.is_none() && command.committed {
            command.record.started_unix_ms = unix_ms;
            command.show(out);
        }
    }

    fn accept(&mut self, id: &str, out: &mut Out<S>) {
        let command = self.commands.get(id).expect("just looked at");
        if matches!(command.record.state, CommandState::Sent | CommandState::Queued) {
            self.leave_queue(id, CommandState::Accepted);
            let command = self.commands.get(id).expect("just looked at");
            command.put(Then::Changed { id: id.to_owned() }, out);
        }
    }

    fn still_held(&mut self, id: &str, state: HeldState, link: Downlink, out: &mut Out<S>) {
        let command = self.commands.get_mut(id).expect("the index names known commands");
        command.sent = Some(link.session);
        command.fresh = false;
        self.accept(id, out);
        let command = self.commands.get_mut(id).expect("just looked at");
        if command.record.cancel_asked && state != HeldState::Finished {
            out.send(link.session, Down::Cancel { id: id.to_owned() });
        }
    }

    fn not_held(&mut self, now: Now, id: &str, link: Downlink, out: &mut Out<S>) {
        let command = self.commands.get_mut(id).expect("the index names known commands");
        if command.finishing || !command.committed {
            return; // goes on when the store answers
        }
        if command.is_queued() && command.finish.is_none() {
            return; // in its turn
        }
        if command.fresh && command.finish.is_none() {
            return self.send_first(now, id, link, out);
        }
        let sent_to = command.record.spool_id;
        match command.record.state {
            CommandState::Sent | CommandState::Queued if command.finish.is_none() => {
                if sent_to.is_some_and(|spool| spool != link.spool_id) {
                    let reason = "it was sent, and the agent came back with another spool: it may have run";
                    self.conclude(now, id, Outcome::Interrupted(reason.to_owned()), out);
                } else if command.record.cancel_asked {
                    self.conclude(now, id, Outcome::Cancelled, out);
                } else if command.is_expired(now) {
                    self.conclude(now, id, Outcome::Expired, out);
                } else {
                    command.send(link.session, out);
                }
            }
            _ => {
                let reason = "the agent came back and holds it no more";
                self.conclude(now, id, Outcome::Interrupted(reason.to_owned()), out);
            }
        }
    }

    fn adopt(&mut self, now: Now, name: &str, link: Downlink, held: Held<S>, out: &mut Out<S>) {
        if !link::valid_command_id(&held.id) {
            return;
        }
        let Some(spec) = held.spec else {
            self.left_out.entry(link.session.agent).or_default().insert(held.id);
            return;
        };
        let mut record = CommandRecord::sent(now, held.id, name.to_owned(), spec, CommandState::Accepted, link);
        record.started_unix_ms = held.started_unix_ms;
        let mut command = Command::new(now, record, true);
        command.sent = Some(link.session);
        command.put(Then::Changed { id: command.record.id.clone() }, out);
        self.insert(command);
    }

    /// A record in a later state is durable, or could not be written: then it is as it was on disk, and true here.
    pub(crate) fn changed(&mut self, now: Now, id: &str, out: &mut Out<S>) {
        let Some(command) = self.commands.get(id) else { return };
        command.show(out);
        // Nobody but this master has it: with the wish its end is certain.
        if command.is_queued() && command.record.cancel_asked {
            self.conclude(now, id, Outcome::Cancelled, out);
        }
    }

    fn insert(&mut self, mut command: Command<S>) {
        self.last_number += 1;
        command.number = self.last_number;
        if command.is_queued() {
            self.queues.add(&command);
        }
        let id = command.record.id.clone();
        self.by_agent.entry(command.record.agent_id).or_default().insert(id.clone());
        self.commands.insert(id, command);
    }

    fn remove(&mut self, id: &str) -> Option<Command<S>> {
        let command = self.commands.remove(id)?;
        if command.is_queued() {
            self.queues.remove(&command);
        }
        if let Some(ids) = self.by_agent.get_mut(&command.record.agent_id) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_agent.remove(&command.record.agent_id);
            }
        }
        Some(command)
    }

    /// The command, if it is this agent's.
    fn owned(&mut self, agent: AgentId, id: &str) -> Option<&mut Command<S>> {
        self.commands.get_mut(id).filter(|command| command.record.agent_id == agent)
    }
}

impl<S: Clone> Command<S> {
    /// `now`: what the time until its expiry counts from.
    fn new(now: Now, record: CommandRecord<S>, committed: bool) -> Self {
        let gaps = record.gaps.clone();
        let durable = record.output_bytes;
        let left = |at: u64| now.monotonic + Duration::from_millis(at.saturating_sub(now.unix_ms));
        Self {
            number: 0,
            expires_at: record.expires_unix_ms.map(left),
            was_queued: record.state == CommandState::Queued,
            record,
            committed,
            shown: committed,
            fresh: !committed,
            sent: None,
            finish: None,
            concluded: false,
            finishing: false,
            measured: true,
            durable,
            gaps,
        }
    }

    /// Records it as it stands; not any more once its end is on the way, which would be undone by that.
    fn put(&self, then: Then, out: &mut Out<S>) {
        if self.finishing {
            return;
        }
        out.store(vec![Change::PutCommand(self.record.clone())], then);
    }

    fn show(&self, out: &mut Out<S>) {
        out.push(Effect::Show { id: self.record.id.clone(), view: View::Record(self.record.clone()) });
    }

    fn send(&mut self, session: SessionId, out: &mut Out<S>) {
        self.sent = Some(session);
        self.fresh = false;
        out.send(session, Down::Run { id: self.record.id.clone(), spec: self.record.spec.clone() });
    }
}

/// Ids of the last commands that finished: an agent that repeats itself is answered without a look into the store.
#[derive(Debug, Default)]
struct Recent {
    ids: BTreeSet<String>,
    order: VecDeque<String>,
}

impl Recent {
    const MAX: usize = 4_096;

    fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    fn insert(&mut self, id: String) {
        if self.ids.insert(id.clone()) {
            self.order.push_back(id);
        }
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}
