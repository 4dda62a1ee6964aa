//! What a person should do about an agent, in one sentence. Pure.

use crate::{
    AgentRecord, Attempt, ClosedBy, NodeStatus, REASON_DOWNLINK_DEAD, REASON_MASTER_RESTARTED, REASON_MOVED,
    REASON_NOT_READY, Status, Turned, registry::is_name,
};
use link::LossReason;

/// Why an agent is as it is shown: every reason there is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// A command would get through.
    Active,
    /// Active, and a crash of it would lose commands.
    InMemory,
    /// Active, and somebody else claims to be it.
    Claimed(LossReason),
    /// The session ended so, or the last attempt to begin one was refused so.
    Lost(LossReason),
    /// It asks to join, or somebody does who says that he is it, and is not let in.
    NotJoined,
    /// It asks for a session, and is told to come back: too many do.
    SentAway,
    MasterRestarted,
    /// It is away, and the certificate that it would come back with has ended.
    CertificateEnded,
    /// Whatever else is so: the master cannot write down what happens.
    NotRecorded,
    DownlinkDead,
    NotReady,
    /// It left by itself.
    Left,
    /// It left for another master, as its configuration says now.
    Moved,
    /// It left because an operator asked it to.
    Stopped,
    /// A reason that this version does not know.
    Other,
}

/// Stands for the agent's name in a sentence.
const PLACE: &str = "NAME";

/// An Active agent that was claimed longer ago is well: who is refused tries again every minute or so.
const CLAIMED_MS: u64 = 10 * 60_000;

impl Why {
    /// `attempts`: who was turned away under its name or with its id, latest first. `closed_by`: who ended its last
    /// session.
    pub fn of(record: &AgentRecord, attempts: &[Attempt], closed_by: Option<ClosedBy>, now_unix_ms: u64) -> Self {
        // What was refused before the agent came to be as it is says nothing about now.
        let mut later = attempts.iter().filter(|attempt| attempt.last_unix_ms >= record.since_unix_ms);
        if record.status != Status::Active {
            // That another one was refused its name keeps it from nothing.
            let own = later.find(|attempt| attempt.id == record.id || attempt.turned == Turned::NotJoined);
            return Self::away(record, own.map(|attempt| attempt.turned), closed_by);
        }
        match later.next() {
            Some(Attempt { turned, last_unix_ms, .. }) if last_unix_ms + CLAIMED_MS >= now_unix_ms => match turned {
                Turned::Rejected(reason) => Self::Claimed(*reason),
                Turned::NotJoined | Turned::Stranger => Self::Claimed(LossReason::Unauthorized),
                Turned::RetryLater => Self::Active,
            },
            _ => Self::Active,
        }
    }

    fn away(record: &AgentRecord, turned: Option<Turned>, closed_by: Option<ClosedBy>) -> Self {
        match (record.status, turned) {
            (_, Some(turned)) => Self::turned(turned),
            (Status::Stopped, None) if closed_by == Some(ClosedBy::Operator) => Self::Stopped,
            (Status::Stopped, None) if record.reason == REASON_MOVED => Self::Moved,
            (Status::Stopped, None) => Self::Left,
            (Status::Active | Status::Inactive, None) => match record.reason.as_str() {
                REASON_MASTER_RESTARTED => Self::MasterRestarted,
                REASON_DOWNLINK_DEAD => Self::DownlinkDead,
                REASON_NOT_READY => Self::NotReady,
                word => LossReason::from_word(word).map_or(Self::Other, Self::Lost),
            },
        }
    }

    /// Of an agent whose last attempt was turned away.
    pub fn turned(turned: Turned) -> Self {
        match turned {
            Turned::Rejected(reason) => Self::Lost(reason),
            Turned::NotJoined | Turned::Stranger => Self::NotJoined,
            Turned::RetryLater => Self::SentAway,
        }
    }

    /// The same with what the agent last said of its node: of one that is well that way only.
    pub fn on(self, node: Option<&NodeStatus>) -> Self {
        match self {
            Self::Active if node.is_some_and(|node| node.in_memory) => Self::InMemory,
            why => why,
        }
    }

    /// One sentence, about the agent of this name. What can be typed from it has the name in its place.
    pub fn advice(self, name: &str) -> String {
        // Who was only turned away calls himself as he likes, and nobody should type that.
        let name = if is_name(name) { name } else { PLACE };
        self.sentence().replace(PLACE, name)
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Active => "Nothing is to be done: a command would get through.",
            Self::InMemory => {
                "A command would get through, but the agent's disk does not take it (its state directory is full, \
                 read-only or not its own), so that a crash of the agent would lose it: `sloth-agent doctor` on the node \
                 says which, and the agent is to be restarted once that is mended."
            }
            Self::Claimed(LossReason::NameTaken) => {
                "It is well, but another machine claims its name: give that one a name of its own (attempts say which \
                 host it is)."
            }
            Self::Claimed(LossReason::DuplicateId) => {
                "It is well, but a copy of its state directory runs elsewhere: remove the directory there, and that \
                 agent gets an id of its own (attempts say which host it is)."
            }
            Self::Claimed(_) => "It is well, but somebody was refused under its name or id: see the attempts.",
            Self::Lost(reason) => lost(reason),
            Self::NotJoined => {
                "It asks to join and is not let in, or somebody is who claims its name: what he was told stands below, \
                 and a token that admits the node is made by `sloth-runner token create --name NAME`."
            }
            Self::SentAway => {
                "It is on its way back and waits for its turn: if that lasts, raise registrations.max_per_second, or \
                 the master's limit of open files."
            }
            Self::MasterRestarted => {
                "It has not come back since the master was restarted: if that was more than a minute ago, look on the \
                 node with `sloth-agent status`."
            }
            Self::CertificateEnded => {
                "Its certificate has ended while it was away, and nothing else lets it in: start it with a token made by \
                 `sloth-runner token create --name NAME`."
            }
            Self::NotRecorded => {
                "The master cannot write its database, so what is shown may be old, no agent is registered and no \
                 command is taken: mend that first, on the master's machine."
            }
            Self::DownlinkDead => {
                "Its heartbeats arrive and nothing comes down to it: look for a firewall or proxy that lets one \
                 direction through only."
            }
            Self::NotReady => {
                "It is there but takes no commands: it is shutting down, or cannot write its state directory (full or \
                 read-only disk): its log says which."
            }
            Self::Left => {
                "It was shut down on its node: start it there again (`systemctl start sloth-agent`, or as it was started before) when it is wanted."
            }
            Self::Moved => {
                "Its configuration names another master now, and it went there: `sloth-runner agent delete NAME` if it \
                 is not to come back."
            }
            Self::Stopped => {
                "An operator had it shut down: start it on its node (`systemctl start sloth-agent`, or as it was started before) when it is wanted."
            }
            Self::Other => {
                "The reason is one that this version of the tool does not know: look at `sloth-runner agent events` \
                 and at the agent's log."
            }
        }
    }
}

fn lost(reason: LossReason) -> &'static str {
    match reason {
        LossReason::HeartbeatTimeout => {
            "It fell silent: the machine is off or hangs, or the network between drops everything; look whether the \
             node is up, and it comes back by itself once it is reached."
        }
        LossReason::ConnectionRefused => {
            "Nothing took its connections: see that the master listens where the agent looks for it, and that no \
             firewall refuses the port."
        }
        LossReason::ConnectionTimeout => {
            "Its connections are not answered: look for a firewall between it and the master that drops them."
        }
        LossReason::ConnectionReset => {
            "The connection was reset: its process was killed, its machine restarted, or a box between forgot the \
             connection; if it does not come back within two minutes, look on the node with `sloth-agent status`."
        }
        LossReason::StreamClosed => {
            "The connection ended without a goodbye: its process ended or was killed; if it does not come back within \
             two minutes, look on the node whether something starts it again."
        }
        LossReason::Unreachable => {
            "Its node has no way to the master: look at the node's address, link and default route."
        }
        LossReason::Dns => "Its node cannot find the master's name: mend the name server there, or give an IP address.",
        LossReason::Tls => {
            "TLS between it and the master fails: `sloth-agent doctor` on the node says whether it is the certificate, \
             its dates, its name, or the clock."
        }
        LossReason::Unauthorized => {
            "The master refuses what it proves itself with: give the node a new token (`sloth-runner token create --name NAME`), or \
             see whether it was deleted here on purpose."
        }
        LossReason::UnknownAgent => {
            "It was forgotten here while it was connected, and registers anew by itself: if it does not, look on the \
             node with `sloth-agent status`."
        }
        LossReason::Superseded => {
            "A newer session of the same agent took over: if that goes on and on, two processes share one state \
             directory, so end one of them."
        }
        LossReason::DuplicateId => {
            "Two machines have the same agent id, as copied disks do: remove the state directory on one of them, and \
             that one gets an id of its own."
        }
        LossReason::NameTaken => {
            "Another agent that is connected has this name: give one of the two another name, or stop the other one."
        }
        LossReason::MasterGoodbye => {
            "The master it was with sent it away, and it comes back by itself: wait until the time it was told is over."
        }
        LossReason::NetworkChanged => {
            "Its node lost the address that it was connected from, and it comes back over the next one: if it does \
             not, look at the node's network."
        }
        LossReason::Protocol => {
            "Its messages break the protocol's rules, or something other than an agent has its place: bring agent and \
             master to versions that go together."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn record(status: Status, reason: &str) -> AgentRecord {
        AgentRecord {
            id: [1; 16],
            name: "a".into(),
            host: String::new(),
            version: String::new(),
            address: String::new(),
            labels: BTreeMap::new(),
            spool_id: [1; 16],
            epoch: 1,
            status,
            reason: reason.into(),
            detail: String::new(),
            since_unix_ms: 100,
            last_heartbeat_unix_ms: 90,
        }
    }

    fn attempt(turned: Turned, last_unix_ms: u64) -> Attempt {
        let (host, address, message) = Default::default();
        Attempt {
            name: "a".into(),
            id: [1; 16],
            turned,
            count: 1,
            first_unix_ms: 1,
            last_unix_ms,
            host,
            address,
            message,
        }
    }

    #[test]
    fn an_agent_that_is_away_is_not_told_to_be_refused_because_another_one_was_under_its_name() {
        let others = Attempt { id: [2; 16], ..attempt(Turned::Rejected(LossReason::Unauthorized), 120) };
        let why = |status, attempts: &[Attempt]| Why::of(&record(status, "stream_closed"), attempts, None, 130);
        assert_eq!(why(Status::Inactive, std::slice::from_ref(&others)), Why::Lost(LossReason::StreamClosed));
        assert_eq!(why(Status::Active, std::slice::from_ref(&others)), Why::Claimed(LossReason::Unauthorized));
        let stranger = Attempt { id: [0; 16], ..attempt(Turned::Stranger, 125) };
        let lost = Why::Lost(LossReason::StreamClosed);
        assert_eq!(why(Status::Inactive, &[stranger]), lost, "anybody can say that he is it");
        let own = attempt(Turned::Rejected(LossReason::Protocol), 110);
        assert_eq!(why(Status::Inactive, &[others, own]), Why::Lost(LossReason::Protocol));
    }

    /// One example of each reason, with what must stand in its sentence.
    #[test]
    fn every_reason_has_a_sentence_of_its_own() {
        let rejected = |reason| vec![attempt(Turned::Rejected(reason), 100)];
        let (inactive, stopped, active) = (Status::Inactive, Status::Stopped, Status::Active);
        let mut examples = vec![
            (record(active, ""), vec![], None, Why::Active, "Nothing is to be done"),
            (
                record(active, ""),
                rejected(LossReason::NameTaken),
                None,
                Why::Claimed(LossReason::NameTaken),
                "claims its name",
            ),
            (
                record(active, ""),
                rejected(LossReason::DuplicateId),
                None,
                Why::Claimed(LossReason::DuplicateId),
                "a copy of its state",
            ),
            (
                record(active, ""),
                rejected(LossReason::Protocol),
                None,
                Why::Claimed(LossReason::Protocol),
                "was refused",
            ),
            (
                record(inactive, "stream_closed"),
                vec![Attempt { id: [2; 16], ..attempt(Turned::NotJoined, 101) }],
                None,
                Why::NotJoined,
                "asks to join",
            ),
            (
                record(inactive, "stream_closed"),
                vec![attempt(Turned::RetryLater, 101)],
                None,
                Why::SentAway,
                "waits for its turn",
            ),
            (
                record(inactive, REASON_MASTER_RESTARTED),
                vec![],
                None,
                Why::MasterRestarted,
                "since the master was restarted",
            ),
            (record(inactive, REASON_DOWNLINK_DEAD), vec![], None, Why::DownlinkDead, "one direction"),
            (record(inactive, REASON_NOT_READY), vec![], None, Why::NotReady, "takes no commands"),
            (record(stopped, "shutdown"), vec![], Some(ClosedBy::Agent), Why::Left, "shut down on its node"),
            (record(stopped, "moved"), vec![], Some(ClosedBy::Agent), Why::Moved, "another master"),
            (record(stopped, "shutdown"), vec![], Some(ClosedBy::Operator), Why::Stopped, "An operator"),
            (record(inactive, "of_a_later_version"), vec![], None, Why::Other, "does not know"),
        ];
        assert!(Why::NotRecorded.advice("a").contains("on the master's machine"), "not of a record either");
        assert!(Why::CertificateEnded.advice("a").contains("`sloth-runner token create --name a`"), "not of a record");
        let words = [
            (LossReason::HeartbeatTimeout, "fell silent"),
            (LossReason::ConnectionRefused, "listens where"),
            (LossReason::ConnectionTimeout, "drops them"),
            (LossReason::ConnectionReset, "was reset"),
            (LossReason::StreamClosed, "without a goodbye"),
            (LossReason::Unreachable, "default route"),
            (LossReason::Dns, "name server"),
            (LossReason::Tls, "certificate"),
            (LossReason::Unauthorized, "new token"),
            (LossReason::UnknownAgent, "forgotten here"),
            (LossReason::Superseded, "newer session"),
            (LossReason::DuplicateId, "same agent id"),
            (LossReason::NameTaken, "has this name"),
            (LossReason::MasterGoodbye, "sent it away"),
            (LossReason::NetworkChanged, "lost the address"),
            (LossReason::Protocol, "protocol's rules"),
        ];
        assert_eq!(words.map(|(reason, _)| reason), LossReason::ALL);
        examples.extend(
            words.map(|(reason, part)| (record(inactive, reason.word()), vec![], None, Why::Lost(reason), part)),
        );
        let mut sentences = BTreeSet::new();
        for (record, attempts, closed_by, why, part) in examples {
            assert_eq!(Why::of(&record, &attempts, closed_by, 200), why, "{record:?}");
            let advice = why.advice("mari");
            assert!(advice.contains(part) && advice.ends_with('.'), "{why:?}: {advice}");
            assert!(!advice.trim_end_matches('.').contains(". "), "one sentence: {advice}");
            assert!(!advice.contains(PLACE), "{advice}");
            assert!(sentences.insert(advice.clone()), "twice: {advice}");
        }
    }

    #[test]
    fn an_agent_that_could_lose_commands_is_well_no_further_than_that() {
        let on = |why: Why, in_memory| why.on(Some(&NodeStatus { in_memory, ..NodeStatus::default() }));
        assert_eq!((on(Why::Active, true), on(Why::Active, false)), (Why::InMemory, Why::Active));
        assert_eq!(Why::Active.on(None), Why::Active);
        assert_eq!(on(Why::NotReady, true), Why::NotReady, "the last word of one that is away is old");
        let advice = Why::InMemory.advice("mari");
        assert!(advice.contains("a crash of the agent would lose it") && advice.ends_with('.'), "{advice}");
    }

    #[test]
    fn what_is_to_be_typed_has_the_agents_name_if_that_can_be_one() {
        for why in [Why::NotJoined, Why::Lost(LossReason::Unauthorized)] {
            assert!(why.advice("mari").contains("`sloth-runner token create --name mari`"), "{why:?}");
            for claimed in ["$(reboot)", "-a b", "", "a`b"] {
                assert!(why.advice(claimed).contains("`sloth-runner token create --name NAME`"), "{why:?}");
            }
        }
    }

    #[test]
    fn who_does_not_use_systemd_is_told_how_it_is_started_too() {
        for why in [Why::Left, Why::Stopped] {
            assert!(why.advice("mari").contains("(`systemctl start sloth-agent`, or as it was started before)"));
        }
    }

    #[test]
    fn a_refusal_counts_only_if_it_is_later_than_the_status() {
        let lost = record(Status::Inactive, "heartbeat_timeout");
        let refused = |at| [attempt(Turned::Rejected(LossReason::Unauthorized), at)];
        assert_eq!(Why::of(&lost, &refused(99), None, 200), Why::Lost(LossReason::HeartbeatTimeout));
        assert_eq!(Why::of(&lost, &refused(100), None, u64::MAX), Why::Lost(LossReason::Unauthorized));
        let active = record(Status::Active, "");
        assert_eq!(Why::of(&active, &refused(100), None, 600_100), Why::Claimed(LossReason::Unauthorized));
        assert_eq!(Why::of(&active, &refused(100), None, 600_101), Why::Active);
        let not_joined = [attempt(Turned::NotJoined, 100)];
        assert_eq!(Why::of(&active, &not_joined, None, 200), Why::Claimed(LossReason::Unauthorized));
    }
}
