//! What the agent says of itself over HTTP: the metrics, and whether it is ready. The driver writes, others only read.

use crate::{clock::boottime, commands::Meter};
use link::{LossReason, Outcome, Phase, Report, Seconds};
use std::{
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Outcomes that a command can have, by word.
pub const OUTCOMES: [&str; 7] = ["exited", "signaled", "timed_out", "cancelled", "interrupted", "refused", "expired"];

/// Shared by the driver and those who are asked. Its lock is held for no longer than it takes to copy some numbers.
#[derive(Debug)]
pub struct Board {
    meter: Meter,
    link: Mutex<LinkState>,
    certificate_ends: OnceLock<Arc<AtomicU64>>,
}

/// How the link stands, and what it has counted since the process began.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkState {
    pub phase: Phase,
    /// From now on no command is taken, whatever the link does.
    pub shutting_down: bool,
    pub sessions: u64,
    losses: [u64; LossReason::ALL.len()],
    /// Sent.
    pub heartbeats: u64,
    /// Of the latest heartbeat that was answered.
    pub round_trip: Option<Duration>,
    /// Attempts to connect.
    pub dials: u64,
    /// On the clock since the machine's start.
    pub next_attempt: Option<Duration>,
    /// Why it is not Active, as far as that is known.
    pub why: String,
}

impl Board {
    pub fn new(meter: Meter) -> Self {
        let link = LinkState {
            phase: Phase::Start,
            shutting_down: false,
            sessions: 0,
            losses: [0; LossReason::ALL.len()],
            heartbeats: 0,
            round_trip: None,
            dials: 0,
            next_attempt: None,
            why: String::new(),
        };
        Self { meter, link: Mutex::new(link), certificate_ends: OnceLock::new() }
    }

    /// Writes on it.
    pub fn update(&self, change: impl FnOnce(&mut LinkState)) {
        change(&mut self.link());
    }

    /// From here on it says when the agent's certificate ends: seconds since 1970; 0 while there is none.
    pub fn show_certificate(&self, ends: Arc<AtomicU64>) {
        let _ = self.certificate_ends.set(ends); // there is one agent in a process
    }

    /// How the link stands now.
    pub fn look(&self) -> LinkState {
        self.link().clone()
    }

    pub fn spool_bytes(&self) -> u64 {
        self.meter.spool_bytes()
    }

    /// Why a command would not get through; none: it would.
    pub fn unready(&self) -> Option<String> {
        let link = self.look();
        if link.shutting_down {
            return Some("shutting down".to_owned());
        }
        if link.phase == Phase::Active {
            return None;
        }
        let mut text = link.phase.word().to_owned();
        if !link.why.is_empty() {
            let _ = write!(text, ": {}", link.why);
        }
        if let Some(at) = link.next_attempt {
            let _ = write!(text, "; next attempt in {}", Seconds(at.saturating_sub(boottime())));
        }
        Some(text)
    }

    /// All metrics, in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        let link = self.look();
        let mut page = Page(String::with_capacity(4096));
        page.head("build_info", "gauge", "A constant 1; the label says which version runs");
        page.labeled("build_info", "version", env!("CARGO_PKG_VERSION"), 1);
        page.head("connected", "gauge", "1 while the agent is Active: a command would get through");
        page.value("connected", u64::from(link.phase == Phase::Active && !link.shutting_down));
        page.head("sessions_total", "counter", "Registrations with a master");
        page.value("sessions_total", link.sessions);
        page.head("losses_total", "counter", "Sessions that were lost, by reason");
        for (reason, losses) in LossReason::ALL.into_iter().zip(link.losses) {
            page.labeled("losses_total", "reason", reason.word(), losses);
        }
        page.head("heartbeats_total", "counter", "Heartbeats sent");
        page.value("heartbeats_total", link.heartbeats);
        page.head("heartbeat_rtt_seconds", "gauge", "From the latest answered heartbeat to its answer; absent before");
        if let Some(round_trip) = link.round_trip {
            page.seconds("heartbeat_rtt_seconds", round_trip);
        }
        page.head("reconnect_attempts_total", "counter", "Attempts to connect, after the first of the process");
        page.value("reconnect_attempts_total", link.dials.saturating_sub(1));
        page.head("next_attempt_seconds", "gauge", "Until the next attempt to connect; 0 while none is waited for");
        page.seconds(
            "next_attempt_seconds",
            link.next_attempt.map_or(Duration::ZERO, |at| at.saturating_sub(boottime())),
        );
        page.head("commands_total", "counter", "Commands that have ended, by outcome");
        for (outcome, ended) in OUTCOMES.into_iter().zip(self.meter.ended()) {
            page.labeled("commands_total", "outcome", outcome, ended);
        }
        page.head("spool_bytes", "gauge", "Output of commands that no master has acknowledged");
        page.value("spool_bytes", self.meter.spool_bytes());
        let certificate = "certificate_expires_timestamp_seconds";
        page.head(certificate, "gauge", "When the agent's certificate ends, Unix time; absent without one");
        let ends = self.certificate_ends.get().map_or(0, |ends| ends.load(Ordering::Relaxed));
        if ends > 0 {
            page.value(certificate, ends);
        }
        page.0
    }

    fn link(&self) -> MutexGuard<'_, LinkState> {
        self.link.lock().expect("no holder of this lock panics")
    }
}

impl LinkState {
    /// Counts what a report tells.
    pub fn note(&mut self, report: &Report) {
        let wait = match report {
            Report::Lost { wait, .. } | Report::AttemptFailed { wait, .. } | Report::Deferred { wait, .. } => {
                Some(*wait)
            }
            Report::Connecting { .. } | Report::Registered { .. } | Report::Stopped => None,
            _ => return self.count(report),
        };
        self.next_attempt = wait.map(|wait| boottime().saturating_add(wait));
        self.count(report);
    }

    fn count(&mut self, report: &Report) {
        match report {
            Report::Connecting { .. } => self.dials += 1,
            Report::Registered { .. } => {
                self.sessions += 1;
                self.why = "registered, and no heartbeat is answered yet".to_owned();
            }
            Report::Lost { reason, detail, .. } => {
                let index = LossReason::ALL.iter().position(|known| known == reason);
                self.losses[index.expect("ALL has every reason")] += 1;
                self.why = because(reason.word(), detail);
            }
            Report::AttemptFailed { reason, detail, .. } => self.why = because(reason.word(), detail),
            Report::Deferred { reason, .. } => self.why = because("the master asks to come back later", reason),
            Report::Active { round_trip } => self.round_trip = Some(*round_trip),
            _ => {}
        }
    }
}

fn because(reason: &str, detail: &str) -> String {
    let text = if detail.is_empty() { reason.to_owned() } else { format!("{reason}: {detail}") };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Where this outcome is counted.
pub fn outcome_index(outcome: &Outcome) -> usize {
    OUTCOMES.iter().position(|word| *word == outcome.word()).expect("OUTCOMES has every word")
}

/// The text format: names with the agent's prefix. Label values are fixed words and need no escapes.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP sloth_agent_{name} {help}\n# TYPE sloth_agent_{name} {kind}\n");
    }

    fn value(&mut self, name: &str, value: u64) {
        let _ = writeln!(self.0, "sloth_agent_{name} {value}");
    }

    fn labeled(&mut self, name: &str, label: &str, text: &str, value: u64) {
        let _ = writeln!(self.0, "sloth_agent_{name}{{{label}=\"{text}\"}} {value}");
    }

    fn seconds(&mut self, name: &str, value: Duration) {
        let (seconds, micros) = (value.as_secs(), value.subsec_micros());
        let _ = writeln!(self.0, "sloth_agent_{name} {seconds}.{micros:06}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn value<'a>(page: &'a str, name: &str) -> Option<&'a str> {
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }

    #[test]
    fn a_loss_and_a_return_are_counted_with_their_reason() {
        let board = Board::new(Meter::default());
        let tell = |report: Report, phase| {
            board.update(|link| {
                link.note(&report);
                link.phase = phase;
            });
        };
        assert_eq!(board.unready().as_deref(), Some("Start"));
        tell(Report::Connecting { master: 0, attempt: 1 }, Phase::Connecting);
        tell(Report::Registered { attempt: 1, outage: None }, Phase::Registered);
        assert_eq!(board.unready().as_deref(), Some("Registered: registered, and no heartbeat is answered yet"));
        tell(Report::Active { round_trip: Duration::from_micros(1_500) }, Phase::Active);
        assert_eq!(board.unready(), None);
        let page = board.metrics();
        assert_eq!(value(&page, "sloth_agent_connected"), Some("1"));
        assert_eq!(value(&page, "sloth_agent_heartbeat_rtt_seconds"), Some("0.001500"));
        assert_eq!(value(&page, "sloth_agent_next_attempt_seconds"), Some("0.000000"));
        let detail = "no\nanswer".to_owned();
        let lost = Report::Lost { reason: LossReason::HeartbeatTimeout, detail, failures: 3, wait: 500 * S, next: 0 };
        tell(lost, Phase::Reconnecting);
        let unready = board.unready().unwrap();
        assert!(unready.starts_with("Reconnecting: heartbeat_timeout: no answer; next attempt in "), "{unready}");
        tell(Report::Connecting { master: 0, attempt: 1 }, Phase::Connecting);
        let page = board.metrics();
        for (name, expected) in [
            ("sloth_agent_connected", "0"),
            ("sloth_agent_sessions_total", "1"),
            ("sloth_agent_losses_total{reason=\"heartbeat_timeout\"}", "1"),
            ("sloth_agent_losses_total{reason=\"dns\"}", "0"),
            ("sloth_agent_reconnect_attempts_total", "1"),
            ("sloth_agent_commands_total{outcome=\"exited\"}", "0"),
            ("sloth_agent_spool_bytes", "0"),
        ] {
            assert_eq!(value(&page, name), Some(expected), "{name}");
        }
    }

    #[test]
    fn every_metric_of_the_design_is_there_with_its_help_and_type_and_no_other() {
        let board = Board::new(Meter::default());
        board.update(|link| link.round_trip = Some(S));
        board.show_certificate(Arc::new(AtomicU64::new(7)));
        let page = board.metrics();
        assert_eq!(value(&page, "sloth_agent_certificate_expires_timestamp_seconds"), Some("7"));
        let names = [
            "build_info",
            "connected",
            "sessions_total",
            "losses_total",
            "heartbeats_total",
            "heartbeat_rtt_seconds",
            "reconnect_attempts_total",
            "next_attempt_seconds",
            "commands_total",
            "spool_bytes",
            "certificate_expires_timestamp_seconds",
        ]
        .map(|name| format!("sloth_agent_{name}"));
        for name in &names {
            assert!(page.contains(&format!("# HELP {name} ")) && page.contains(&format!("# TYPE {name} ")), "{name}");
        }
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(names.iter().any(|known| known == name), "{line}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn every_outcome_has_its_place() {
        for outcome in [
            Outcome::Exited(0),
            Outcome::Signaled(9),
            Outcome::TimedOut,
            Outcome::Cancelled,
            Outcome::Interrupted(String::new()),
            Outcome::Refused(String::new()),
            Outcome::Expired,
        ] {
            assert_eq!(OUTCOMES[outcome_index(&outcome)], outcome.word());
        }
    }
}
