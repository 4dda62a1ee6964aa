//! What the driver tells people: lines for the log, the status, the service manager.

use super::{Driver, candidate, millis};
use crate::{
    clock::{Clock, unix_ms},
    config::MasterAddress,
    notify,
    report::Context,
};
use link::{LossReason, Phase, Report};

impl<C: Clock> Driver<C> {
    pub(super) fn report(&mut self, report: &Report) {
        let now = self.clock.now();
        if let Report::Connecting { master, .. } = report {
            self.status.master = self.config.masters[*master].to_string();
        }
        let context = Context {
            master: &self.status.master,
            masters: candidate::masters(&self.candidate, &self.config),
            report_address: &self.report_address,
            heartbeat_timeout: self.config.heartbeat.timeout,
            shutdown_grace: self.config.shutdown_grace,
            commands_held: self.commands.count(),
        };
        for line in self.lines.of(now, report, &context) {
            self.keeper.line(line);
        }
        self.note(report);
    }

    /// What a report says beyond the state, for the status.
    fn note(&mut self, report: &Report) {
        let status = &mut self.status;
        match report {
            Report::Lost { wait, .. } | Report::AttemptFailed { wait, .. } | Report::Deferred { wait, .. } => {
                status.next_attempt_unix_ms = unix_ms().saturating_add(millis(*wait));
            }
            Report::Connecting { .. } => status.next_attempt_unix_ms = 0,
            _ => {}
        }
        let of = |reason: &LossReason, detail: &String| Some((*reason, detail.clone(), unix_ms()));
        match report {
            Report::Lost { reason, detail, .. } => {
                (status.last_loss, status.last_failure) = (of(reason, detail), None);
            }
            Report::AttemptFailed { reason, detail, .. } => status.last_failure = of(reason, detail),
            _ => {}
        }
    }

    /// Written when the state is another, and then only.
    pub(super) fn keep_status(&mut self) {
        let phase = self.link.state();
        if self.status.phase == phase {
            return;
        }
        self.active.send_if_modified(|active| std::mem::replace(active, phase == Phase::Active) != *active);
        let status = &mut self.status;
        status.phase = phase;
        status.since_unix_ms = unix_ms();
        status.attempt = self.link.attempt();
        status.report_address.clone_from(&self.report_address);
        let (now, masters) = (self.clock.now(), candidate::masters(&self.candidate, &self.config).iter().enumerate());
        let skipped = |(index, master): (usize, &MasterAddress)| {
            let left = self.link.skipped_until(index)?.saturating_sub(now);
            (!left.is_zero()).then(|| (master.to_string(), unix_ms().saturating_add(millis(left))))
        };
        status.skipped = masters.filter_map(skipped).collect();
        self.keeper.keep_status(status);
        self.manager.status(|| notify::in_words(status));
    }
}
