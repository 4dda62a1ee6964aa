//! What goes into the link and what comes out of it.

use crate::{BreakerChange, LossReason};
use std::{fmt, time::Duration};

/// The parameters of the configuration that the link needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// For dialling and registering together.
    pub connection_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// Never above the interval.
    pub heartbeat_timeout: Duration,
    /// Unanswered heartbeats until the session is lost; 1 or more.
    pub failures_max: u32,
    /// How far a master may stretch the interval; never below it.
    pub interval_max: Duration,
    pub delay_initial: Duration,
    pub delay_max: Duration,
    pub multiplier: f64,
    pub jitter: f64,
    /// A session that was Active for so long is stable: the next wait is the first again.
    pub reset_after: Duration,
    /// How long running commands may go on after a shutdown was asked for.
    pub shutdown_grace: Duration,
    /// How long they then take to be ended.
    pub kill_grace: Duration,
    /// The masters in the order in which they are tried; one or more. The link only tells them apart by these names.
    pub masters: Vec<String>,
    /// Failed attempts in a row after which a master is skipped; 1 or more. With one master it never is.
    pub breaker_failures_max: u32,
    /// How long it is skipped.
    pub breaker_open_for: Duration,
}

impl Params {
    /// The documented defaults, for these masters.
    pub fn documented(masters: Vec<String>) -> Self {
        let s = Duration::from_secs;
        Self {
            connection_timeout: s(10),
            heartbeat_interval: s(5),
            heartbeat_timeout: s(5),
            failures_max: 3,
            interval_max: s(60),
            delay_initial: s(5),
            delay_max: s(60),
            multiplier: 2.0,
            jitter: 0.2,
            reset_after: s(30),
            shutdown_grace: s(30),
            kill_grace: s(10),
            masters,
            breaker_failures_max: 5,
            breaker_open_for: s(300),
        }
    }

    pub(super) fn assert_valid(&self) {
        assert!(!self.heartbeat_timeout.is_zero() && self.heartbeat_timeout <= self.heartbeat_interval, "{self:?}");
        assert!(self.interval_max >= self.heartbeat_interval && self.failures_max >= 1, "{self:?}");
        assert!(!self.delay_initial.is_zero() && self.delay_initial <= self.delay_max, "{self:?}");
        assert!(self.multiplier >= 1.0 && (0.0..=1.0).contains(&self.jitter), "{self:?}");
        assert!(!self.masters.is_empty(), "{self:?}");
        assert!(self.breaker_failures_max >= 1 && !self.breaker_open_for.is_zero(), "{self:?}");
    }
}

/// Numbers the attempts of this process. Not the master's epoch: that one is known only after the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    Start,
    /// The moment of [`super::Link::poll_timeout`] has come.
    Timeout,
    Reply {
        session: Session,
        reply: Reply,
    },
    /// There is reason to try at once.
    Woken(WakeReason),
    /// What the session rests on was configured otherwise: close it and begin another at once. No loss.
    Renew,
    /// The route to the master is another, the session's own address is still there.
    RouteChanged,
    /// The address that the session's connection comes from is gone.
    SourceAddressGone,
    /// SIGTERM, or the master's wish. A second one skips the wait for running commands: they are ended at once. A third
    /// skips the wait for their end.
    Shutdown,
    /// No command would get through any more, which the master is to learn at once.
    Unready,
    /// After [`Input::Shutdown`]: nothing runs any more, and what is not delivered yet is where the next start finds it.
    /// May be said again and again.
    Settled,
    /// After [`Input::Shutdown`]: nothing runs any more and every outcome was delivered.
    Drained,
}

/// What came of an attempt or within a session.
#[derive(Clone, Debug)]
pub enum Reply {
    Dialled,
    Registered {
        /// The master's wish, if it has one.
        interval: Option<Duration>,
    },
    Ack {
        seq: u64,
        interval: Option<Duration>,
    },
    RetryLater {
        after: Duration,
        reason: String,
    },
    Goodbye {
        after: Duration,
        reason: String,
    },
    /// The attempt failed, the master rejected, or the stream ended.
    Failed {
        reason: LossReason,
        /// For people.
        detail: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// An address or the route to the master came.
    Network,
    /// SIGHUP or `sloth-agent reconnect`.
    Operator,
}

/// What the driver does.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Connect to the n-th master of the configuration.
    Dial {
        session: Session,
        master: usize,
    },
    Register {
        session: Session,
        /// How long the answer will be waited for.
        will_wait: Duration,
    },
    Heartbeat {
        session: Session,
        seq: u64,
        /// Highest acknowledged heartbeat.
        last_ack: u64,
    },
    /// Say that the agent leaves on purpose.
    Goodbye {
        session: Session,
    },
    Close {
        session: Session,
        how: Close,
    },
    Report(Report),
    /// The grace of a shutdown is over, or skipped: end what runs.
    Interrupt,
    /// The process may exit.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Leave nothing in the kernel (SO_LINGER 0).
    Abort,
    /// After everything was sent.
    Graceful,
}

/// A transition, for log lines, counters and the status file.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    Connecting {
        master: usize,
        attempt: u32,
    },
    Registered {
        attempt: u32,
        /// Since the loss of the session before, if there was one.
        outage: Option<Duration>,
    },
    Active {
        round_trip: Duration,
    },
    /// Active for `reset_after`.
    Stable,
    HeartbeatFailed {
        failures: u32,
        max: u32,
    },
    HeartbeatRecovered {
        failures: u32,
        /// From sending the heartbeat to its acknowledgement.
        round_trip: Duration,
    },
    Lost {
        reason: LossReason,
        detail: String,
        failures: u32,
        /// Until the next attempt; zero: at once.
        wait: Duration,
        /// The master that is then dialled.
        next: usize,
    },
    AttemptFailed {
        master: usize,
        attempt: u32,
        reason: LossReason,
        detail: String,
        /// Until the next attempt; zero: at once, at another master.
        wait: Duration,
        /// The master that is then dialled.
        next: usize,
        /// The waits have reached `delay_max`.
        longest: bool,
    },
    /// The master asked to come back later: no failure.
    Deferred {
        master: usize,
        /// What it asked for, within bounds.
        after: Duration,
        /// Until the next attempt; zero: at once, at another master.
        wait: Duration,
        /// The master that is then dialled.
        next: usize,
        reason: String,
    },
    /// Whether a master is worth trying; only where there are several.
    Breaker {
        master: usize,
        change: BreakerChange,
    },
    Woken(WakeReason),
    /// The session was closed to begin another with other parameters.
    Renewed,
    ShuttingDown,
    Stopped,
}

/// The documented states, and before and after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Start,
    Connecting,
    Registered,
    Active,
    Disconnected,
    Reconnecting,
    Stopped,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Connecting => "Connecting",
            Self::Registered => "Registered",
            Self::Active => "Active",
            Self::Disconnected => "Disconnected",
            Self::Reconnecting => "Reconnecting",
            Self::Stopped => "Stopped",
        }
    }
}

/// Shows a duration in seconds with at most one decimal: `5s`, `2.5s`; below a tenth of a second in milliseconds.
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_millis() + 50) / 100;
        if tenths == 0 && !self.0.is_zero() {
            return write!(f, "{}ms", self.0.as_millis().max(1));
        }
        match tenths % 10 {
            0 => write!(f, "{}s", tenths / 10),
            rest => write!(f, "{}.{rest}s", tenths / 10),
        }
    }
}
