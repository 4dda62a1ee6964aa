//! What an agent's link reports, against the documented table.

use super::Check;
use link::{LossReason, Params, Report};
use std::time::Duration;

/// What a master may ask for.
const MASTERS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(600));

impl Check {
    /// # Errors
    /// A wait is not the documented one, or a loss is none.
    pub fn report(&mut self, host: usize, now: Duration, report: &Report, params: &Params) -> Result<(), String> {
        let truth = self.hosts.entry(host).or_default();
        match report {
            Report::Active { .. } => truth.active_since = Some(now),
            Report::Stable => {
                if truth.active_since.is_none_or(|since| now < since + params.reset_after) {
                    return Err(format!("host {host} is stable, and Active since {:?}", truth.active_since));
                }
                truth.waits = 0;
            }
            // With fewer failures it is the master that found it silent.
            Report::Lost { reason: LossReason::HeartbeatTimeout, failures, .. } if *failures >= params.failures_max => {
                let silent = now - truth.acked;
                // The master's verdict stands for the last missing answer, and may come before that was due.
                let own = if truth.rejected { *failures - 1 } else { *failures };
                if silent < params.heartbeat_timeout * own {
                    return Err(format!("host {host} gave its session up {silent:?} after an acknowledgement"));
                }
            }
            _ => {}
        }
        let (reason, wait) = match report {
            Report::Lost { reason, wait, .. } | Report::AttemptFailed { reason, wait, .. } => (*reason, *wait),
            Report::Deferred { wait, .. } => (LossReason::MasterGoodbye, *wait),
            _ => return Ok(()),
        };
        let allowed = match reason {
            LossReason::MasterGoodbye => MASTERS,
            LossReason::NetworkChanged => (Duration::ZERO, Duration::ZERO),
            // The way that is there now was not tried yet.
            LossReason::HeartbeatTimeout if wait.is_zero() && truth.rerouted.is_some_and(|at| at >= truth.acked) => {
                (Duration::ZERO, Duration::ZERO)
            }
            LossReason::UnknownAgent if wait.is_zero() => (Duration::ZERO, Duration::ZERO),
            _ => {
                truth.waits += 1;
                let doubled = params.delay_initial.saturating_mul(1 << (truth.waits - 1).min(20));
                let longest = if reason.needs_a_person() { params.delay_max } else { doubled.min(params.delay_max) };
                (longest.mul_f64(1.0 - params.jitter - 1e-9), longest)
            }
        };
        if wait < allowed.0 || wait > allowed.1 {
            let (least, most) = allowed;
            let waits = truth.waits;
            return Err(format!("host {host}: wait {waits} after {reason} is {wait:?}, not {least:?} to {most:?}"));
        }
        Ok(())
    }
}
