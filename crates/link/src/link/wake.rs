//! What ends a wait or tries the way anew: the network, the operator, other parameters.

use super::{Link, Report, State, WakeReason};
use std::time::Duration;

/// A wake-up (network, operator) starts at most one attempt in this time: a flapping interface must not hammer.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);

impl Link {
    /// The way to the master is another: see at once whether it leads there.
    pub(super) fn beat_at_once(&mut self, now: Duration) {
        if let State::Active { beats, .. } = &mut self.state {
            beats.rerouted();
            if self.may_wake(now) {
                self.beat(now);
            }
        }
    }

    pub(super) fn renew(&mut self, now: Duration) {
        if matches!(self.state, State::Connecting { .. } | State::Registered(_) | State::Active { .. }) {
            self.close();
            self.attempt = 0;
            self.report(Report::Renewed);
            self.dial(now);
        }
    }

    pub(super) fn woken(&mut self, now: Duration, reason: WakeReason) {
        match &mut self.state {
            State::Reconnecting { .. } | State::Disconnected { .. } => {}
            // It waits for an answer over the network that was. Not one that a wake-up began: on a network that
            // changes again and again none would ever be let finish. What fails, though, is tried again at once.
            State::Connecting { dialled, woken, changed, .. } if reason == WakeReason::Network => {
                *changed = true;
                if *dialled || *woken {
                    return;
                }
            }
            _ => return,
        }
        if self.may_wake(now) {
            if matches!(self.state, State::Connecting { .. }) {
                self.close();
            }
            self.report(Report::Woken(reason));
            self.masters.wake(now);
            self.dial(now);
            if let State::Connecting { woken, .. } = &mut self.state {
                *woken = true;
            }
        } else if let Some(at) = self.woken_at {
            let soon = at.saturating_add(WAKE_INTERVAL);
            let sooner = match &mut self.state {
                State::Reconnecting { until } => soon < std::mem::replace(until, soon.min(*until)),
                State::Disconnected { at, wait } => {
                    let until = at.saturating_add(*wait);
                    *wait = soon.min(until).saturating_sub(*at);
                    soon < until
                }
                _ => false,
            };
            if sooner {
                // That dial is this wake-up's: the next one keeps its distance from it.
                self.woken_at = Some(soon);
                self.masters.wake(soon);
            }
        }
    }

    fn may_wake(&mut self, now: Duration) -> bool {
        let may = self.woken_at.is_none_or(|at| now >= at.saturating_add(WAKE_INTERVAL));
        if may {
            self.woken_at = Some(now);
        }
        may
    }
}
