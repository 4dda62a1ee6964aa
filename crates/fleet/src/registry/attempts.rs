//! Who asked for a session and was turned away. In memory: refusals are events, too, but not each of a hundred a minute,
//! and those who are asked to come back later are none. After a restart the events are what is left.

use super::Register;
use crate::{AgentId, AgentRecord, Event, Now};
use link::LossReason;
use std::{collections::HashMap, time::Duration};

/// So many are remembered, then the one that is the longest ago is forgotten for the next: some 300 KB.
const REMEMBERED_MAX: usize = 1_024;

/// What became of a registration that led to no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turned {
    Rejected(LossReason),
    /// Asked for a certificate with a token of this master's, and was given none. Who that was is not proven.
    NotJoined,
    /// The same, with nothing that was made here.
    Stranger,
    /// Asked to come back after a while: no failure.
    RetryLater,
}

impl Turned {
    /// Fixed: a reason, `not_joined` or `retry_later`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rejected(reason) => reason.word(),
            Self::NotJoined | Self::Stranger => "not_joined",
            Self::RetryLater => "retry_later",
        }
    }

    /// As an event tells it. It does not tell who showed a token of this master's: nobody is taken to have.
    fn from_word(word: &str) -> Option<Self> {
        let others = [Self::Stranger, Self::RetryLater].into_iter().find(|turned| turned.word() == word);
        others.or_else(|| LossReason::from_word(word).map(Self::Rejected))
    }
}

/// Registrations of one agent that were turned away for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub name: String,
    pub id: AgentId,
    pub turned: Turned,
    pub count: u64,
    pub first_unix_ms: u64,
    pub last_unix_ms: u64,
    /// As the last of them said. Both empty where it is known from events only, which need not count each of them.
    pub host: String,
    pub address: String,
    /// What the last of them was told.
    pub message: String,
}

#[derive(Debug, Default)]
pub(super) struct Attempts {
    known: HashMap<(String, AgentId, Turned), (Duration, Attempt)>,
}

impl Attempts {
    pub(super) fn note(&mut self, now: Now, register: &Register, turned: Turned, message: &str) {
        self.add(now, (&register.name, register.id, turned), &register.host, &register.address, message);
    }

    /// Of an agent that is known.
    pub(super) fn note_of(&mut self, now: Now, record: &AgentRecord, turned: Turned, message: &str) {
        self.add(now, (&record.name, record.id, turned), &record.host, &record.address, message);
    }

    fn add(&mut self, now: Now, key: (&str, AgentId, Turned), host: &str, address: &str, message: &str) {
        let key = (key.0.to_owned(), key.1, key.2);
        if self.known.len() >= REMEMBERED_MAX && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, (last, _))| *last).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        let (name, id, turned) = key.clone();
        let (last, attempt) = self.known.entry(key).or_insert_with(|| {
            let (host, address, message) = Default::default();
            let (first_unix_ms, last_unix_ms) = (now.unix_ms, now.unix_ms);
            (now.monotonic, Attempt { name, id, turned, count: 0, first_unix_ms, last_unix_ms, host, address, message })
        });
        *last = now.monotonic;
        attempt.count += 1;
        attempt.last_unix_ms = now.unix_ms;
        host.clone_into(&mut attempt.host);
        address.clone_into(&mut attempt.address);
        message.clone_into(&mut attempt.message);
    }

    /// All that were refused since then, latest first; not those who were asked to come back.
    pub(super) fn refused_since(&self, since: Duration) -> Vec<&Attempt> {
        let refused = |(last, one): &&(Duration, Attempt)| *last >= since && one.turned != Turned::RetryLater;
        let mut found: Vec<_> = self.known.values().filter(refused).collect();
        found.sort_by_key(|(last, attempt)| (std::cmp::Reverse(*last), &attempt.name, attempt.id));
        found.into_iter().map(|(_, attempt)| attempt).collect()
    }

    /// All under this name, or with this id.
    pub(super) fn forget(&mut self, name: &str, id: AgentId) {
        self.known.retain(|(its_name, its_id, _), _| its_name != name && *its_id != id);
    }

    /// Under this name, or with this id; latest first.
    pub(super) fn of(&self, name: &str, id: Option<AgentId>) -> Vec<Attempt> {
        let theirs = |attempt: &&(Duration, Attempt)| attempt.1.name == name || Some(attempt.1.id) == id;
        let mut found: Vec<_> = self.known.values().filter(theirs).collect();
        found.sort_by_key(|(last, attempt)| (std::cmp::Reverse(*last), attempt.turned.word()));
        found.into_iter().map(|(_, attempt)| attempt.clone()).collect()
    }
}

/// What is remembered, and what `refusals` (events of that kind, in any order) tell beside it; latest first.
pub fn with_recorded(remembered: Vec<Attempt>, refusals: &[Event]) -> Vec<Attempt> {
    let mut all = remembered;
    // Since when each is counted in memory: what came before is in events only.
    let since: Vec<u64> = all.iter().map(|attempt| attempt.first_unix_ms).collect();
    for event in refusals {
        let Some(turned) = Turned::from_word(&event.reason) else { continue };
        let nobody = event.agent_id == AgentId::default();
        // Of who has proven nothing the event has no id.
        let same = |one: &Attempt| {
            one.name == event.agent && one.turned.word() == turned.word() && (nobody || one.id == event.agent_id)
        };
        match all.iter().position(same) {
            Some(at) if since.get(at).is_some_and(|since| event.time_unix_ms >= *since) => {}
            Some(at) => all[at].count_in(event),
            None => all.push(Attempt::recorded(turned, event)),
        }
    }
    all.sort_by_key(|attempt| std::cmp::Reverse(attempt.last_unix_ms));
    all
}

impl Attempt {
    fn recorded(turned: Turned, event: &Event) -> Self {
        Self {
            name: event.agent.clone(),
            id: event.agent_id,
            turned,
            count: 1,
            first_unix_ms: event.time_unix_ms,
            last_unix_ms: event.time_unix_ms,
            host: String::new(),
            address: String::new(),
            message: event.message.clone(),
        }
    }

    fn count_in(&mut self, event: &Event) {
        self.count += 1;
        self.first_unix_ms = self.first_unix_ms.min(event.time_unix_ms);
        if event.time_unix_ms >= self.last_unix_ms {
            self.last_unix_ms = event.time_unix_ms;
            self.message.clone_from(&event.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), unix_ms: seconds * 1_000 }
    }

    fn of(name: &str, id: u8) -> Register {
        Register { name: name.to_owned(), id: [id; 16], host: format!("host{id}"), ..Register::default() }
    }

    #[test]
    fn of_who_is_forgotten_nothing_is_left() {
        let mut attempts = Attempts::default();
        attempts.note(at(1), &of("a", 1), Turned::NotJoined, "");
        attempts.note(at(2), &of("a", 0), Turned::Stranger, "");
        attempts.note(at(3), &of("b", 2), Turned::NotJoined, "");
        attempts.forget("a", [1; 16]);
        assert_eq!((attempts.of("a", Some([1; 16])), attempts.of("b", None).len()), (Vec::new(), 1));
    }

    #[test]
    fn attempts_are_counted_by_name_id_and_reason_and_found_by_name_or_id() {
        let mut attempts = Attempts::default();
        let taken = Turned::Rejected(LossReason::NameTaken);
        attempts.note(at(1), &of("a", 1), taken, "one");
        attempts.note(at(5), &of("a", 1), taken, "two");
        attempts.note(at(3), &of("a", 2), Turned::RetryLater, "busy");
        attempts.note(at(4), &of("b", 1), Turned::Rejected(LossReason::DuplicateId), "copy");
        let told = |found: Vec<Attempt>| -> Vec<_> {
            let told = |one: Attempt| (one.name, one.id[0], one.turned.word(), one.count, one.message);
            found.into_iter().map(told).collect()
        };
        let a1 = ("a".to_owned(), 1, "name_taken", 2, "two".to_owned());
        let a2 = ("a".to_owned(), 2, "retry_later", 1, "busy".to_owned());
        let b1 = ("b".to_owned(), 1, "duplicate_id", 1, "copy".to_owned());
        assert_eq!(told(attempts.of("a", None)), [a1.clone(), a2.clone()]);
        assert_eq!(told(attempts.of("a", Some([1; 16]))), [a1, b1, a2]);
        assert_eq!(told(attempts.of("x", None)), []);
        let first = &attempts.of("a", None)[0];
        assert_eq!((first.first_unix_ms, first.last_unix_ms), (1_000, 5_000));
    }

    #[test]
    fn events_tell_what_is_not_remembered() {
        let mut attempts = Attempts::default();
        attempts.note(at(50), &of("a", 1), Turned::Rejected(LossReason::NameTaken), "now");
        attempts.note(at(40), &of("a", 3), Turned::NotJoined, "a token");
        let event = |seconds, agent: &str, id, reason: &str, message: &str| Event {
            seq: seconds,
            time_unix_ms: seconds * 1_000,
            kind: "agent.rejected".to_owned(),
            agent: agent.to_owned(),
            agent_id: [id; 16],
            epoch: 0,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let events = [
            event(9, "a", 1, "name_taken", "before what is remembered"),
            event(50, "a", 1, "name_taken", "remembered"),
            event(8, "a", 0, "not_joined", "remembered, with its id"),
            event(7, "a", 2, "name_taken", "late"),
            event(5, "a", 2, "name_taken", "early"),
            event(6, "b", 0, "not_joined", "somebody"),
            event(10, "b", 1, "of_a_later_version", "?"),
        ];
        let told: Vec<_> = with_recorded(attempts.of("a", None), &events)
            .into_iter()
            .map(|one| (one.name, one.id[0], one.turned, one.count, one.first_unix_ms, one.last_unix_ms, one.message))
            .collect();
        let taken = Turned::Rejected(LossReason::NameTaken);
        assert_eq!(
            told,
            [
                ("a".to_owned(), 1, taken, 2, 9_000, 50_000, "now".to_owned()),
                ("a".to_owned(), 3, Turned::NotJoined, 2, 8_000, 40_000, "a token".to_owned()),
                ("a".to_owned(), 2, taken, 2, 5_000, 7_000, "late".to_owned()),
                ("b".to_owned(), 0, Turned::Stranger, 1, 6_000, 6_000, "somebody".to_owned()),
            ]
        );
    }

    #[test]
    fn a_flood_of_names_takes_no_more_than_stated_and_the_latest_stay() {
        let mut attempts = Attempts::default();
        for n in 0..3_000 {
            attempts.note(at(n), &of(&n.to_string(), 1), Turned::RetryLater, "");
        }
        assert_eq!(attempts.known.len(), REMEMBERED_MAX);
        assert_eq!(attempts.of("2999", None).len(), 1);
        assert_eq!(attempts.of("1975", None).len(), 0);
        assert_eq!(attempts.of("1976", None).len(), 1);
    }
}
