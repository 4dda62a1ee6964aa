//! The words that both halves share: why a session ended, how a command ended.

use std::fmt;

/// Why a session ended that nobody asked to end, or why it did not begin. The names are fixed: they stand in events,
/// metrics and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    HeartbeatTimeout,
    ConnectionRefused,
    ConnectionTimeout,
    ConnectionReset,
    StreamClosed,
    Unreachable,
    Dns,
    Tls,
    Unauthorized,
    UnknownAgent,
    Superseded,
    DuplicateId,
    NameTaken,
    MasterGoodbye,
    NetworkChanged,
    Protocol,
}

impl LossReason {
    pub const ALL: [Self; 16] = [
        Self::HeartbeatTimeout,
        Self::ConnectionRefused,
        Self::ConnectionTimeout,
        Self::ConnectionReset,
        Self::StreamClosed,
        Self::Unreachable,
        Self::Dns,
        Self::Tls,
        Self::Unauthorized,
        Self::UnknownAgent,
        Self::Superseded,
        Self::DuplicateId,
        Self::NameTaken,
        Self::MasterGoodbye,
        Self::NetworkChanged,
        Self::Protocol,
    ];

    /// The fixed name.
    pub fn word(self) -> &'static str {
        match self {
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionReset => "connection_reset",
            Self::StreamClosed => "stream_closed",
            Self::Unreachable => "unreachable",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Unauthorized => "unauthorized",
            Self::UnknownAgent => "unknown_agent",
            Self::Superseded => "superseded",
            Self::DuplicateId => "duplicate_id",
            Self::NameTaken => "name_taken",
            Self::MasterGoodbye => "master_goodbye",
            Self::NetworkChanged => "network_changed",
            Self::Protocol => "protocol",
        }
    }

    /// By its fixed name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }

    /// A person has to mend it: trying again soon is of no use.
    pub fn needs_a_person(self) -> bool {
        matches!(self, Self::Unauthorized | Self::DuplicateId | Self::NameTaken)
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a command ended. Every accepted command gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended by itself with this exit code, 0 to 255.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    TimedOut,
    Cancelled,
    /// The agent died while it ran, or may have run: it is never run a second time.
    Interrupted(String),
    /// It was not started, for this reason.
    Refused(String),
    /// It was not started before its time was over.
    Expired,
}

impl Outcome {
    /// The bare word, as it stands in JSON, events and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Signaled(_) => "signaled",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Interrupted(_) => "interrupted",
            Self::Refused(_) => "refused",
            Self::Expired => "expired",
        }
    }
}
