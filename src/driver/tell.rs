//! What the driver tells people: lines for the log, the status, the service manager.

use super::{Driver, Live, candidate, millis};
use crate::{
    clock::{Clock, boottime, unix_ms},
    config::MasterAddress,
    history::{self, Moment},
    notify,
    report::Context,
};
use link::{LossReason, Phase, Report};
use std::sync::atomic::Ordering;

/// By both clocks, for the history.
pub(super) fn moment() -> Moment {
    Moment { unix_ms: unix_ms(), boot_ms: millis(boottime()) }
}

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
            commands_running: self.commands.unsettled(),
        };
        for line in self.lines.of(now, report, &context) {
            self.keeper.line(line);
        }
        self.note(report);
        self.board.update(|link| link.note(report));
        self.remember(report);
    }

    /// What a report adds to the history.
    fn remember(&mut self, report: &Report) {
        let (now, master) = (moment(), &self.status.master);
        let history = &mut self.history;
        match report {
            Report::Registered { attempt, outage } => {
                history.registered(now, master, self.keeper.highest_epoch(), *attempt, *outage);
            }
            Report::Lost { reason, detail, .. } => history.ended(now, reason.word(), detail),
            Report::AttemptFailed { reason, detail, .. } => history.failed(now, master, reason.word(), detail),
            Report::Deferred { reason, .. } => history.failed(now, master, history::RETRY_LATER, reason),
            Report::Renewed => history.ended(now, history::RENEWED, ""),
            Report::Stopped => history.ended(now, history::SHUTDOWN, ""),
            _ => return,
        }
        self.keep_history();
    }

    pub(super) fn keep_history(&mut self) {
        if let Some(text) = self.history.take_changed() {
            self.keeper.keep_history(text);
        }
    }

    /// The answer to a heartbeat has come.
    pub(super) fn acknowledged(&mut self, seq: u64) {
        let (latest, sent) = self.beat;
        if seq == latest {
            let round_trip = self.clock.now().saturating_sub(sent);
            self.board.update(|link| link.round_trip = Some(round_trip));
        }
    }

    /// Somebody wants to know how it is at this moment.
    pub(super) fn show_status(&mut self) {
        let (now, link) = (boottime(), self.board.look());
        self.status.live = Some(Live {
            asked_at: now,
            in_state: self.clock.now().saturating_sub(self.phase_since),
            next_attempt_in: link.next_attempt.map(|at| at.saturating_sub(now)),
            round_trip: link.round_trip,
            heartbeats: link.heartbeats,
            sessions: link.sessions,
            commands_held: self.commands.count(),
            spool_bytes: self.board.spool_bytes(),
            spool_in_memory: self.commands.in_memory(),
        });
        self.status.certificate_ends = self.credentials.ends().load(Ordering::Relaxed);
        self.keeper.keep_status(&self.status);
        self.status.live = None;
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
            // What kept it out does so no more.
            Report::Registered { .. } | Report::Deferred { .. } => status.last_failure = None,
            _ => {}
        }
        match report {
            Report::Deferred { reason, .. } => status.deferred = Some((reason.clone(), unix_ms())),
            Report::Lost { .. } | Report::AttemptFailed { .. } | Report::Registered { .. } => status.deferred = None,
            _ => {}
        }
    }

    /// Written when the state is another, and then only.
    pub(super) fn keep_status(&mut self) {
        let phase = self.link.state();
        if self.status.phase == phase {
            return;
        }
        let ready = phase == Phase::Active && !self.status.shutting_down;
        self.active.send_if_modified(|active| std::mem::replace(active, ready) != *active);
        self.phase_since = self.clock.now();
        self.board.update(|link| link.phase = phase);
        let status = &mut self.status;
        status.certificate_ends = self.credentials.ends().load(Ordering::Relaxed);
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
