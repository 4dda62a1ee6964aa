//! Conversions between messages and the words of the pure crates.

use crate::agent::{Outcome as Message, outcome::Kind, rejected::Reason};
use link::{LossReason, Outcome};

impl From<&Outcome> for Message {
    fn from(outcome: &Outcome) -> Self {
        let (kind, code, signal, reason) = match outcome {
            Outcome::Exited(code) => (Kind::Exited, *code, 0, ""),
            Outcome::Signaled(signal) => (Kind::Signaled, 0, *signal, ""),
            Outcome::TimedOut => (Kind::TimedOut, 0, 0, ""),
            Outcome::Cancelled => (Kind::Cancelled, 0, 0, ""),
            Outcome::Interrupted(reason) => (Kind::Interrupted, 0, 0, reason.as_str()),
            Outcome::Refused(reason) => (Kind::Refused, 0, 0, reason.as_str()),
            Outcome::Expired => (Kind::Expired, 0, 0, ""),
        };
        Self { kind: kind.into(), code, signal, reason: reason.to_owned() }
    }
}

/// `None` for a kind that this version does not know.
pub fn outcome_from(message: &Message) -> Option<Outcome> {
    Some(match message.kind() {
        Kind::Unspecified => return None,
        Kind::Exited => Outcome::Exited(message.code),
        Kind::Signaled => Outcome::Signaled(message.signal),
        Kind::TimedOut => Outcome::TimedOut,
        Kind::Cancelled => Outcome::Cancelled,
        Kind::Interrupted => Outcome::Interrupted(message.reason.clone()),
        Kind::Refused => Outcome::Refused(message.reason.clone()),
        Kind::Expired => Outcome::Expired,
    })
}

/// What a master's rejection means to the link.
pub fn loss_reason_from(reason: Reason) -> LossReason {
    match reason {
        Reason::Unauthorized => LossReason::Unauthorized,
        Reason::DuplicateId => LossReason::DuplicateId,
        Reason::NameTaken => LossReason::NameTaken,
        Reason::UnknownAgent => LossReason::UnknownAgent,
        Reason::Superseded => LossReason::Superseded,
        Reason::Deadline => LossReason::HeartbeatTimeout,
        Reason::Invalid | Reason::Unspecified => LossReason::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_the_wire() {
        for outcome in [
            Outcome::Exited(7),
            Outcome::Signaled(9),
            Outcome::TimedOut,
            Outcome::Cancelled,
            Outcome::Interrupted("agent died".into()),
            Outcome::Refused("disabled".into()),
            Outcome::Expired,
        ] {
            assert_eq!(outcome_from(&Message::from(&outcome)), Some(outcome));
        }
        assert_eq!(outcome_from(&Message::default()), None);
    }
}
