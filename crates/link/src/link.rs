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
mod masters;
#[cfg(test)]
mod tests;
mod types;
mod wake;

pub use types::*;

use crate::{Backoff, BreakerChange, LossReason};
use beats::{Beats, Verdict};
use masters::{End, Masters};
use std::{collections::VecDeque, time::Duration};

/// Shortest and longest wait that a master can ask for: what a master sends is clamped, never trusted.
const MASTERS_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(600));

/// Once nothing runs: so long for the last outcomes to reach the master. They are recorded, and told after the next start.
const DELIVERY_GRACE: Duration = Duration::from_secs(5);

/// The state machine. See the module's diagram.
#[derive(Clone, Debug)]
pub struct Link {
    params: Params,
    backoff: Backoff,
    masters: Masters,
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
    /// `woken`: begun by a wake-up. `changed`: the network is another meanwhile, which this attempt may not see.
    Connecting {
        deadline: Duration,
        dialled: bool,
        woken: bool,
        changed: bool,
    },
    Registered(Beats),
    Active {
        beats: Beats,
        stable_at: Option<Duration>,
    },
    Disconnected {
        at: Duration,
        wait: Duration,
    },
    Reconnecting {
        until: Duration,
    },
    Stopped,
}

#[derive(Clone, Copy, Debug)]
enum Shutdown {
    No,
    /// Running commands may finish until then.
    Grace(Duration),
    /// They are being ended, or nothing runs any more; stop then, whatever is left. `hurried`: one more request stops it.
    Ending {
        until: Duration,
        hurried: bool,
    },
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
            masters: Masters::new(&params),
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
    /// parameters that the master was told needs [`Input::Renew`]. Of a master that stays in the list its breaker and
    /// its waits are kept; where the list is another, the next dial goes to its front.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn set_params(&mut self, params: Params) {
        params.assert_valid();
        self.backoff.set(params.delay_initial, params.delay_max, params.multiplier, params.jitter);
        self.masters.set(&params);
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

    /// The master of the attempt or session, else the one to be dialled next.
    pub fn master(&self) -> usize {
        self.masters.next()
    }

    /// A session that this link was to take the place of is lost: an outage, from now until it is registered.
    pub fn without_the_former(&mut self, now: Duration) {
        self.lost_at = Some(now);
    }

    /// When the n-th master may be tried again, if it is skipped.
    pub fn skipped_until(&self, master: usize) -> Option<Duration> {
        self.masters.open_until(master)
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
            Shutdown::Grace(until) | Shutdown::Ending { until, .. } if !matches!(self.state, State::Stopped) => {
                Some(until)
            }
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
            Input::Unready => {
                if matches!(self.state, State::Active { .. }) {
                    self.beat(now);
                }
            }
            Input::Settled => self.settled(now),
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
                    self.end(now, LossReason::NetworkChanged, String::new(), End::Again);
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
            (Reply::Dialled, State::Connecting { deadline, dialled, .. }) => {
                if !*dialled {
                    *dialled = true;
                    let will_wait = deadline.saturating_sub(now);
                    self.outputs.push_back(Output::Register { session: self.session, will_wait });
                }
            }
            (Reply::Registered { interval }, State::Connecting { dialled: true, .. }) => self.registered(now, interval),
            (Reply::Ack { seq, interval }, State::Registered(_) | State::Active { .. }) => self.ack(now, seq, interval),
            (Reply::RetryLater { after, reason } | Reply::Goodbye { after, reason }, State::Connecting { .. }) => {
                self.deferred(now, after.clamp(MASTERS_WAIT.0, MASTERS_WAIT.1), reason);
            }
            (Reply::Goodbye { after, reason } | Reply::RetryLater { after, reason }, _) => {
                let after = after.clamp(MASTERS_WAIT.0, MASTERS_WAIT.1);
                self.end(now, LossReason::MasterGoodbye, reason, End::Deferred(after));
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
                let end = if reason.needs_a_person() { End::Refused } else { End::Failed };
                self.end(now, reason, detail, end);
            }
            // A master that answers out of turn: nothing it could say here is of use.
            (Reply::Dialled, _) => {}
            (Reply::Registered { .. } | Reply::Ack { .. }, _) => {
                self.end(now, LossReason::Protocol, "answer out of turn".to_owned(), End::Failed);
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
            let closed = self.masters.succeeded();
            self.report_breaker(self.masters.current(), closed);
        }
        if acked.failures > 0 {
            self.report(Report::HeartbeatRecovered { failures: acked.failures, round_trip: acked.round_trip });
        }
    }

    fn timeout(&mut self, now: Duration) {
        match self.shutdown {
            Shutdown::Grace(until) if now >= until => self.interrupt(now, false),
            Shutdown::Ending { until, .. } if now >= until => return self.stop(),
            _ => {}
        }
        match &mut self.state {
            State::Start | State::Stopped => {}
            State::Connecting { deadline, dialled, .. } => {
                if now >= *deadline {
                    let detail = if *dialled { "no answer to the registration" } else { "no answer" };
                    let detail = format!("{detail} within {}", Seconds(self.params.connection_timeout));
                    self.end(now, LossReason::ConnectionTimeout, detail, End::Failed);
                }
            }
            State::Registered(_) => self.judge_beats(now),
            State::Active { stable_at, .. } => {
                if stable_at.is_some_and(|at| now >= at) {
                    *stable_at = None;
                    self.backoff.reset();
                    self.masters.forget_pass();
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
                let rerouted = beats.is_rerouted();
                self.report(Report::HeartbeatFailed { failures, max: self.params.failures_max });
                if failures < self.params.failures_max {
                    self.beat(now);
                } else {
                    // Over the way that is there now nothing was tried yet: no reason to wait.
                    let end = if rerouted { End::Again } else { End::Failed };
                    self.end(now, LossReason::HeartbeatTimeout, String::new(), end);
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

    fn dial(&mut self, now: Duration) {
        self.session = Session(self.session.0 + 1);
        self.attempt = self.attempt.saturating_add(1);
        let deadline = now.saturating_add(self.params.connection_timeout);
        self.state = State::Connecting { deadline, dialled: false, woken: false, changed: false };
        let master = self.masters.next();
        let half_open = self.masters.dial();
        self.report_breaker(master, half_open);
        self.report(Report::Connecting { master, attempt: self.attempt });
        self.outputs.push_back(Output::Dial { session: self.session, master });
    }

    fn unknown_agent(&mut self, now: Duration, detail: String) {
        let again = self.unknown_at.is_some_and(|at| now < at.saturating_add(self.params.reset_after));
        if again {
            self.end(now, LossReason::UnknownAgent, detail, End::Failed);
        } else {
            self.unknown_at = Some(now);
            self.end(now, LossReason::UnknownAgent, detail, End::Again);
            self.dial(now);
        }
    }

    /// Closes the session or the attempt, says why, and settles which master is next and how long to wait for it.
    fn end(&mut self, now: Duration, reason: LossReason, detail: String, end: End) {
        let failures = match &self.state {
            State::Registered(beats) | State::Active { beats, .. } => Some(beats.failures()),
            _ => None,
        };
        let counts = !matches!(self.state, State::Active { .. });
        let changed = end == End::Failed && matches!(self.state, State::Connecting { changed: true, .. });
        let master = self.masters.current();
        let opened = self.masters.ended(now, end, counts, &self.params);
        let wait = if end == End::Again {
            Duration::ZERO
        } else {
            self.masters.plan(now, failures.is_some(), &mut self.backoff)
        };
        let next = self.masters.next();
        self.close();
        self.state = State::Disconnected { at: now, wait };
        if let Some(failures) = failures {
            self.lost_at = Some(now);
            self.attempt = 0;
            self.report(Report::Lost { reason, detail, failures, wait, next });
        } else {
            let longest = end == End::Refused || self.backoff.is_longest();
            self.report(Report::AttemptFailed { master, attempt: self.attempt, reason, detail, wait, next, longest });
        }
        self.report_breaker(master, opened);
        // Within a pass the next master is dialled at once anyway.
        if changed && !wait.is_zero() {
            self.woken(now, WakeReason::Network);
        }
    }

    /// The master lives and asks to come back later: no failure.
    fn deferred(&mut self, now: Duration, after: Duration, reason: String) {
        let master = self.masters.current();
        self.masters.ended(now, End::Deferred(after), false, &self.params);
        let wait = self.masters.plan(now, false, &mut self.backoff);
        self.close();
        self.report(Report::Deferred { master, after, wait, next: self.masters.next(), reason });
        self.state = State::Disconnected { at: now, wait };
    }

    fn shut_down(&mut self, now: Duration) {
        if matches!(self.state, State::Stopped) {
            return;
        }
        match self.shutdown {
            Shutdown::No => {
                self.shutdown = Shutdown::Grace(now.saturating_add(self.params.shutdown_grace));
                self.report(Report::ShuttingDown);
            }
            // Commands are ended as they would be after the grace: whoever waits for one is to hear what became of it.
            Shutdown::Grace(_) => self.interrupt(now, true),
            Shutdown::Ending { until, hurried: false } => self.shutdown = Shutdown::Ending { until, hurried: true },
            Shutdown::Ending { hurried: true, .. } => self.stop(),
        }
    }

    fn interrupt(&mut self, now: Duration, hurried: bool) {
        let until = now.saturating_add(self.params.kill_grace).saturating_add(DELIVERY_GRACE);
        self.shutdown = Shutdown::Ending { until, hurried };
        self.outputs.push_back(Output::Interrupt);
    }

    /// While a session is there, outcomes and output may use the rest of the grace.
    fn settled(&mut self, now: Duration) {
        let connected = matches!(self.state, State::Registered(_) | State::Active { .. });
        if let Shutdown::Ending { until, .. } | Shutdown::Grace(until) = self.shutdown
            && !(connected && matches!(self.shutdown, Shutdown::Grace(_)))
        {
            let until = until.min(now.saturating_add(DELIVERY_GRACE));
            self.shutdown = Shutdown::Ending { until, hurried: true };
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

    fn report_breaker(&mut self, master: usize, change: Option<BreakerChange>) {
        if let Some(change) = change {
            self.report(Report::Breaker { master, change });
        }
    }

    fn report(&mut self, report: Report) {
        self.outputs.push_back(Output::Report(report));
    }
}
