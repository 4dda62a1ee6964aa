//! The link: the agent's state machine that keeps a session with its master.
//!
//! ```text
//!         ┌────────────────────────── wait over, or woken ──────────────────────────┐
//!         ▼                                                                         │
//! [Start]→[Connecting: dial, register]──registered→[Registered]──first ack→[Active] │
//!         │ failed, refused, timed out                 │ lost             │ lost     │
//!         ▼                                            ▼                  ▼          │
//!         └───────────────→[Disconnected: close, say why]──────────→[Reconnecting]──┘
//! ```
//!
//! The driver calls [`Link::handle`] with what happened and [`Input::Timeout`] at [`Link::poll_timeout`], and carries
//! out [`Link::poll_output`] until it is empty. It decides nothing itself.

mod beats;
#[cfg(test)]
mod tests;
mod types;

pub use types::*;

use crate::{Backoff, LossReason};
use beats::{Beats, Verdict};
use std::{collections::VecDeque, time::Duration};

/// Shortest and longest wait that a master can ask for: what a master sends is clamped, never trusted.
const MASTERS_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(600));

/// A wake-up (network, operator) starts at most one attempt in this time: a flapping interface must not hammer.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);

/// After the grace and the kill: so long for the last outcomes to reach the master.
const DELIVERY_GRACE: Duration = Duration::from_secs(5);

/// The state machine. See the module's diagram.
#[derive(Clone, Debug)]
pub struct Link {
    params: Params,
    backoff: Backoff,
    state: State,
    outputs: VecDeque<Output>,
    session: Session,
    /// Dials in this outage: since the start, or since a session was lost.
    attempt: u32,
    /// When the last session was lost, until the next is registered.
    lost_at: Option<Duration>,
    unknown_at: Option<Duration>,
    woken_at: Option<Duration>,
    shutdown: Shutdown,
}

/// Each state holds what is valid in it and nothing else.
#[derive(Clone, Debug)]
enum State {
    Start,
    Connecting { deadline: Duration, dialled: bool },
    Registered(Beats),
    Active { beats: Beats, stable_at: Option<Duration> },
    Disconnected { at: Duration, wait: Duration },
    Reconnecting { until: Duration },
    Stopped,
}

#[derive(Clone, Copy, Debug)]
enum Shutdown {
    No,
    /// Running commands may finish until then.
    Grace(Duration),
    /// They are being ended; stop then, whatever is left.
    Ending(Duration),
}

/// What follows the end of a session or an attempt.
enum Next {
    /// The next wait of the table.
    Backoff,
    /// The longest wait: a person has to mend something.
    Longest,
    /// The master's own wish.
    Masters(Duration),
    /// Dial on the next turn.
    AtOnce,
}

impl Link {
    /// A link that does nothing before [`Input::Start`]. The seed spreads the waits.
    ///
    /// # Panics
    /// If a rule of [`Params`] is broken: the configuration has checked them.
    pub fn new(params: Params, seed: u64) -> Self {
        params.assert_valid();
        let backoff = Backoff::new(params.delay_initial, params.delay_max, params.multiplier, params.jitter, seed);
        Self {
            params,
            backoff,
            state: State::Start,
            outputs: VecDeque::new(),
            session: Session(0),
            attempt: 0,
            lost_at: None,
            unknown_at: None,
            woken_at: None,
            shutdown: Shutdown::No,
        }
    }

    /// Other parameters from now on. Waits and deadlines that have begun stay as they are; a session that rests on
    /// parameters that the master was told needs [`Input::Renew`].
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn set_params(&mut self, params: Params) {
        params.assert_valid();
        self.backoff.set(params.delay_initial, params.delay_max, params.multiplier, params.jitter);
        self.params = params;
    }

    /// Where the link stands.
    pub fn state(&self) -> Phase {
        match self.state {
            State::Start => Phase::Start,
            State::Connecting { .. } => Phase::Connecting,
            State::Registered(_) => Phase::Registered,
            State::Active { .. } => Phase::Active,
            State::Disconnected { .. } => Phase::Disconnected,
            State::Reconnecting { .. } => Phase::Reconnecting,
            State::Stopped => Phase::Stopped,
        }
    }

    /// Dials since the start or the last loss, the current one counted.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What to do next; call until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Timeout`]; may be in the past. `None`: nothing is due by time.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let own = match &self.state {
            State::Start | State::Stopped => None,
            State::Connecting { deadline, .. } => Some(*deadline),
            State::Registered(beats) => Some(beats.due()),
            State::Active { beats, stable_at } => Some(stable_at.map_or(beats.due(), |at| at.min(beats.due()))),
            State::Disconnected { at, .. } => Some(*at),
            State::Reconnecting { until } => Some(*until),
        };
        let shutdown = match self.shutdown {
            Shutdown::Grace(until) | Shutdown::Ending(until) if !matches!(self.state, State::Stopped) => Some(until),
            _ => None,
        };
        [own, shutdown].into_iter().flatten().min()
    }

    /// Takes what happened at `now`. Replies of an earlier session change nothing.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Start => {
                if matches!(self.state, State::Start) {
                    self.dial(now);
                }
            }
            Input::Timeout => self.timeout(now),
            Input::Shutdown => self.shut_down(now),
            Input::Drained => {
                if !matches!(self.shutdown, Shutdown::No) {
                    self.stop();
                }
            }
            Input::Woken(reason) => self.woken(now, reason),
            Input::Renew => self.renew(now),
            Input::RouteChanged => self.beat_at_once(now),
            Input::SourceAddressGone => {
                if matches!(self.state, State::Registered(_) | State::Active { .. }) {
                    self.end(now, LossReason::NetworkChanged, String::new(), Next::AtOnce);
                }
            }
            Input::Reply { session, reply } => {
                if session == self.session {
                    self.reply(now, reply);
                }
            }
        }
    }

    fn reply(&mut self, now: Duration, reply: Reply) {
        match (reply, &mut self.state) {
            (_, State::Start | State::Disconnected { .. } | State::Reconnecting { .. } | State::Stopped) => {}
            (Reply::Dialled, State::Connecting { deadline, dialled }) => {
                if !*dialled {
                    *dialled = true;
                    let will_wait = deadline.saturating_sub(now);
                    self.outputs.push_back(Output::Register { session: self.session, will_wait });
                }
            }
            (Reply::Registered { interval }, State::Connecting { dialled: true, .. }) => self.registered(now, interval),
            (Reply::Ack { seq, interval }, State::Registered(_) | State::Active { .. }) => self.ack(now, seq, interval),
            (Reply::RetryLater { after, reason } | Reply::Goodbye { after, reason }, State::Connecting { .. }) => {
                let wait = after.clamp(MASTERS_WAIT.0, MASTERS_WAIT.1);
                self.close();
                self.report(Report::Deferred { wait, reason });
                self.state = State::Disconnected { at: now, wait };
            }
            (Reply::Goodbye { after, reason } | Reply::RetryLater { after, reason }, _) => {
                self.end(now, LossReason::MasterGoodbye, reason, Next::Masters(after));
            }
            (
                Reply::Failed { reason: LossReason::UnknownAgent, detail },
                State::Registered(_) | State::Active { .. },
            ) => {
                self.unknown_agent(now, detail);
            }
            (Reply::Failed { reason, detail }, _) => {
                if reason == LossReason::HeartbeatTimeout {
                    self.heed_masters_verdict();
                }
                let next = if reason.needs_a_person() { Next::Longest } else { Next::Backoff };
                self.end(now, reason, detail, next);
            }
            // A master that answers out of turn: nothing it could say here is of use.
            (Reply::Dialled, _) => {}
            (Reply::Registered { .. } | Reply::Ack { .. }, _) => {
                self.end(now, LossReason::Protocol, "answer out of turn".to_owned(), Next::Backoff);
            }
        }
    }

    fn registered(&mut self, now: Duration, interval: Option<Duration>) {
        let beats = Beats::new(&self.params, now, interval);
        let outage = self.lost_at.take().map(|at| now.saturating_sub(at));
        self.state = State::Registered(beats);
        self.report(Report::Registered { attempt: self.attempt, outage });
        self.beat(now);
    }

    fn ack(&mut self, now: Duration, seq: u64, interval: Option<Duration>) {
        let (State::Registered(beats) | State::Active { beats, .. }) = &mut self.state else { return };
        let Some(acked) = beats.ack(&self.params, now, seq, interval) else { return };
        if let State::Registered(beats) = &self.state {
            let stable_at = Some(now.saturating_add(self.params.reset_after));
            self.state = State::Active { beats: beats.clone(), stable_at };
            self.report(Report::Active { round_trip: acked.round_trip });
        }
        if acked.failures > 0 {
            self.report(Report::HeartbeatRecovered { failures: acked.failures, round_trip: acked.round_trip });
        }
    }

    fn timeout(&mut self, now: Duration) {
        match self.shutdown {
            Shutdown::Grace(until) if now >= until => {
                let stop_at = now.saturating_add(self.params.kill_grace).saturating_add(DELIVERY_GRACE);
                self.shutdown = Shutdown::Ending(stop_at);
                self.outputs.push_back(Output::Interrupt);
            }
            Shutdown::Ending(until) if now >= until => return self.stop(),
            _ => {}
        }
        match &mut self.state {
            State::Start | State::Stopped => {}
            State::Connecting { deadline, dialled } => {
                if now >= *deadline {
                    let detail = if *dialled { "no answer to the registration" } else { "no answer" };
                    let detail = format!("{detail} within {}", Seconds(self.params.connection_timeout));
                    self.end(now, LossReason::ConnectionTimeout, detail, Next::Backoff);
                }
            }
            State::Registered(_) => self.judge_beats(now),
            State::Active { stable_at, .. } => {
                if stable_at.is_some_and(|at| now >= at) {
                    *stable_at = None;
                    self.backoff.reset();
                    self.report(Report::Stable);
                }
                self.judge_beats(now);
            }
            State::Disconnected { wait, .. } => {
                if wait.is_zero() {
                    self.dial(now);
                } else {
                    let until = now.saturating_add(*wait);
                    self.state = State::Reconnecting { until };
                }
            }
            State::Reconnecting { until } => {
                if now >= *until {
                    self.dial(now);
                }
            }
        }
    }

    fn judge_beats(&mut self, now: Duration) {
        let (State::Registered(beats) | State::Active { beats, .. }) = &mut self.state else { return };
        match beats.judge(now) {
            Verdict::Quiet => {}
            Verdict::Beat => self.beat(now),
            Verdict::Failed(failures) => {
                self.report(Report::HeartbeatFailed { failures, max: self.params.failures_max });
                if failures < self.params.failures_max {
                    self.beat(now);
                } else {
                    self.end(now, LossReason::HeartbeatTimeout, String::new(), Next::Backoff);
                }
            }
        }
    }

    /// The same silence, judged on both sides: whose verdict comes first is no difference that anybody should see.
    fn heed_masters_verdict(&mut self) {
        let max = self.params.failures_max;
        if let State::Registered(beats) | State::Active { beats, .. } = &mut self.state
            && beats.settled_by_master(max)
        {
            self.report(Report::HeartbeatFailed { failures: max, max });
        }
    }

    fn beat(&mut self, now: Duration) {
        let (State::Registered(beats) | State::Active { beats, .. }) = &mut self.state else { return };
        let (seq, last_ack) = beats.sent(&self.params, now);
        self.outputs.push_back(Output::Heartbeat { session: self.session, seq, last_ack });
    }

    /// The way to the master is another: see at once whether it leads there.
    fn beat_at_once(&mut self, now: Duration) {
        if matches!(self.state, State::Active { .. }) && self.may_wake(now) {
            self.beat(now);
        }
    }

    fn dial(&mut self, now: Duration) {
        self.session = Session(self.session.0 + 1);
        self.attempt = self.attempt.saturating_add(1);
        self.state = State::Connecting { deadline: now.saturating_add(self.params.connection_timeout), dialled: false };
        self.report(Report::Connecting { master: 0, attempt: self.attempt });
        self.outputs.push_back(Output::Dial { session: self.session, master: 0 });
    }

    fn unknown_agent(&mut self, now: Duration, detail: String) {
        let again = self.unknown_at.is_some_and(|at| now < at.saturating_add(self.params.reset_after));
        self.unknown_at = Some(now);
        if again {
            self.end(now, LossReason::UnknownAgent, detail, Next::Backoff);
        } else {
            self.end(now, LossReason::UnknownAgent, detail, Next::AtOnce);
            self.dial(now);
        }
    }

    /// Closes the session or the attempt, says why, and settles how long to wait.
    fn end(&mut self, now: Duration, reason: LossReason, detail: String, next: Next) {
        let wait = match next {
            Next::Backoff => self.backoff.next_wait(),
            Next::Longest => self.backoff.longest_wait(),
            Next::Masters(after) => after.clamp(MASTERS_WAIT.0, MASTERS_WAIT.1),
            Next::AtOnce => Duration::ZERO,
        };
        let failures = match &self.state {
            State::Registered(beats) | State::Active { beats, .. } => Some(beats.failures()),
            _ => None,
        };
        self.close();
        self.state = State::Disconnected { at: now, wait };
        if let Some(failures) = failures {
            self.lost_at = Some(now);
            self.attempt = 0;
            self.report(Report::Lost { reason, detail, failures, wait });
        } else {
            let longest = self.backoff.is_longest();
            self.report(Report::AttemptFailed { attempt: self.attempt, reason, detail, wait, longest });
        }
    }

    fn renew(&mut self, now: Duration) {
        if matches!(self.state, State::Connecting { .. } | State::Registered(_) | State::Active { .. }) {
            self.close();
            self.attempt = 0;
            self.report(Report::Renewed);
            self.dial(now);
        }
    }

    fn woken(&mut self, now: Duration, reason: WakeReason) {
        let (State::Reconnecting { .. } | State::Disconnected { .. }) = self.state else { return };
        if self.may_wake(now) {
            self.report(Report::Woken(reason));
            self.dial(now);
        } else if let (State::Reconnecting { until }, Some(at)) = (&mut self.state, self.woken_at) {
            *until = (*until).min(at.saturating_add(WAKE_INTERVAL));
        }
    }

    fn may_wake(&mut self, now: Duration) -> bool {
        let may = self.woken_at.is_none_or(|at| now >= at.saturating_add(WAKE_INTERVAL));
        if may {
            self.woken_at = Some(now);
        }
        may
    }

    fn shut_down(&mut self, now: Duration) {
        if matches!(self.state, State::Stopped) {
            return;
        }
        if matches!(self.shutdown, Shutdown::No) {
            self.shutdown = Shutdown::Grace(now.saturating_add(self.params.shutdown_grace));
            self.report(Report::ShuttingDown);
        } else {
            self.stop();
        }
    }

    fn stop(&mut self) {
        match self.state {
            State::Stopped => return,
            State::Registered(_) | State::Active { .. } => {
                self.outputs.push_back(Output::Goodbye { session: self.session });
                self.outputs.push_back(Output::Close { session: self.session, how: Close::Graceful });
            }
            State::Connecting { .. } => self.close(),
            State::Start | State::Disconnected { .. } | State::Reconnecting { .. } => {}
        }
        self.state = State::Stopped;
        self.report(Report::Stopped);
        self.outputs.push_back(Output::Stop);
    }

    fn close(&mut self) {
        self.outputs.push_back(Output::Close { session: self.session, how: Close::Abort });
    }

    fn report(&mut self, report: Report) {
        self.outputs.push_back(Output::Report(report));
    }
}
