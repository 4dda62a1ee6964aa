//! One pure function turns what the link reports into log lines; nothing else logs about the connection. The lines are
//! an interface: people grep for them.

use crate::config::{MasterAddress, units::ShowDuration};
use link::{BreakerChange, LossReason, Report, Seconds, WakeReason};
use log::Level;
use std::time::Duration;

/// While nothing changes in a long outage, one line in this time.
const REMINDER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Log(Level, String),
    /// For the person who watches: standard output.
    Console(String),
}

/// What the lines name beside the report.
pub struct Context<'a> {
    pub master: &'a str,
    /// All of them: reports name them by number.
    pub masters: &'a [MasterAddress],
    pub report_address: &'a str,
    pub heartbeat_timeout: Duration,
    pub shutdown_grace: Duration,
    pub commands_running: usize,
}

/// So often a master's wish to be left alone is logged in one outage before only reminders are.
const DEFERRED_MAX: u32 = 3;

/// Remembers what was said, so that a long outage does not fill the log.
#[derive(Default)]
pub struct Lines {
    /// Of each master.
    told: Vec<Told>,
    deferred: u32,
    /// An attempt, or a wish of the master.
    logged_at: Duration,
}

#[derive(Clone, Default)]
struct Told {
    /// Why attempts failed in this outage, each once: one that comes back is no news.
    reasons: Vec<LossReason>,
    /// Attempts with the longest wait after them.
    longest: u32,
    /// The latest line of an attempt.
    logged_at: Duration,
}

impl Lines {
    pub fn of(&mut self, now: Duration, report: &Report, context: &Context<'_>) -> Vec<Line> {
        let Context { master, report_address, .. } = context;
        match report {
            Report::Connecting { attempt, .. } => {
                vec![Line::Log(Level::Debug, format!("Connecting to master at {master} (attempt {attempt})"))]
            }
            Report::Registered { outage, .. } => {
                *self = Self::default();
                let mut lines = vec![
                    info(format!("Agent registered with master at {master}, reporting address {report_address}")),
                    Line::Console(format!(
                        "✓ Agent registered with master at {master} (reporting address: {report_address})"
                    )),
                ];
                if outage.is_some() {
                    lines.push(Line::Console("✓ Connection to master recovered".into()));
                }
                lines
            }
            Report::Active { round_trip } => {
                vec![Line::Log(Level::Debug, format!("First heartbeat answered after {}", Seconds(*round_trip)))]
            }
            Report::Renewed => vec![info("Registering again with the new parameters".into())],
            Report::Stable => vec![Line::Log(Level::Debug, "Connection is stable".into())],
            Report::HeartbeatFailed { failures, max } => {
                let within = Seconds(context.heartbeat_timeout);
                vec![warn(format!("Heartbeat failed ({failures}/{max}): no answer within {within}"))]
            }
            Report::HeartbeatRecovered { round_trip, .. } => {
                let late = if *round_trip > context.heartbeat_timeout {
                    format!(" (an answer took {})", Seconds(*round_trip))
                } else {
                    String::new()
                };
                vec![info(format!("Heartbeat recovered, connection stable{late}"))]
            }
            Report::Lost { reason, detail, failures, wait, next } => {
                let handed_over = context.other(*next).filter(|_| wait.is_zero());
                lost(*reason, detail, *failures, *wait, handed_over)
            }
            Report::AttemptFailed { master: index, attempt, reason, detail, wait, next, longest } => {
                self.attempt_failed(now, *index, *reason, *longest).map_or_else(Vec::new, |level| {
                    let detail = fragment(*reason, detail);
                    let then = match context.other(*next).filter(|_| wait.is_zero()) {
                        Some(other) => format!("Trying {other} now..."),
                        None => format!("Retrying in {}...", Seconds(*wait)),
                    };
                    let text = format!("Cannot connect to master at {master} (attempt {attempt}): {detail}. {then}");
                    vec![Line::Log(level, text)]
                })
            }
            Report::Deferred { .. } if !self.may_tell_a_wish(now) => vec![],
            Report::Deferred { after, reason, .. } => {
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                vec![info(format!("Master at {master} asks to come back in {}{why}", Seconds(*after)))]
            }
            Report::Breaker { master, change } => vec![breaker(context.named(*master), *change)],
            Report::Woken(WakeReason::Network) => vec![info("Network changed, reconnecting now".into())],
            Report::Woken(WakeReason::Operator) => vec![info("Reconnecting now, as asked".into())],
            Report::ShuttingDown if context.commands_running > 0 => {
                let (running, grace) = (context.commands_running, Seconds(context.shutdown_grace));
                vec![info(format!("Shutting down: waiting up to {grace} for {running} command(s)"))]
            }
            Report::ShuttingDown => vec![info("Shutting down".into())],
            Report::Stopped => vec![info("Agent stopped".into())],
        }
    }

    /// Every attempt is logged until the wait was the longest twice, and one that fails for a reason that is new in
    /// this outage; then one in ten minutes.
    fn attempt_failed(&mut self, now: Duration, master: usize, reason: LossReason, longest: bool) -> Option<Level> {
        if self.told.len() <= master {
            self.told.resize(master + 1, Told::default());
        }
        let told = &mut self.told[master];
        let is_new = !told.reasons.contains(&reason);
        if is_new {
            told.reasons.push(reason);
        }
        let say = is_new || told.longest < 2 || now.saturating_sub(told.logged_at) >= REMINDER;
        told.longest = told.longest.saturating_add(u32::from(longest));
        if !say {
            return None;
        }
        told.logged_at = now;
        self.logged_at = now;
        Some(if reason.needs_a_person() { Level::Error } else { Level::Warn })
    }

    /// A master's wish to be left alone.
    fn may_tell_a_wish(&mut self, now: Duration) -> bool {
        let say = self.deferred < DEFERRED_MAX || now.saturating_sub(self.logged_at) >= REMINDER;
        if say {
            self.deferred += 1;
            self.logged_at = now;
        }
        say
    }
}

impl<'a> Context<'a> {
    fn named(&self, index: usize) -> Option<&'a MasterAddress> {
        self.masters.get(index)
    }

    /// The n-th master, if it is not the one that is spoken of.
    fn other(&self, index: usize) -> Option<&'a MasterAddress> {
        self.named(index).filter(|address| address.to_string() != self.master)
    }
}

fn breaker(master: Option<&MasterAddress>, change: BreakerChange) -> Line {
    let master = master.map(ToString::to_string).unwrap_or_default();
    match change {
        BreakerChange::Opened { failures, open_for } => {
            let (plural, open_for) = (if failures == 1 { "" } else { "s" }, ShowDuration(open_for));
            warn(format!("Skipping master at {master} for {open_for} after {failures} failed attempt{plural} in a row"))
        }
        BreakerChange::Reopened { open_for } => {
            Line::Log(Level::Debug, format!("Skipping master at {master} for another {}", ShowDuration(open_for)))
        }
        BreakerChange::HalfOpen => Line::Log(Level::Debug, format!("Trying the skipped master at {master} once")),
        BreakerChange::Closed => info(format!("Master at {master} is no longer skipped")),
    }
}

fn lost(
    reason: LossReason,
    detail: &str,
    failures: u32,
    wait: Duration,
    handed_over: Option<&MasterAddress>,
) -> Vec<Line> {
    let text = match reason {
        LossReason::HeartbeatTimeout if failures > 0 => {
            let plural = if failures == 1 { "" } else { "s" };
            format!("Lost connection to master after {failures} failed heartbeat{plural}. Reconnecting...")
        }
        _ => format!("Lost connection to master: {}. Reconnecting...", fragment(reason, detail)),
    };
    let next = match handed_over {
        _ if reason == LossReason::NetworkChanged => "Network changed, reconnecting now".to_owned(),
        Some(other) => format!("🔄 Reconnecting to master at {other} now..."),
        None => format!("🔄 Reconnecting to master in {}...", Seconds(wait)),
    };
    vec![
        Line::Log(Level::Error, text),
        Line::Console("⚠ Connection to master lost. Attempting to reconnect...".into()),
        info(next),
    ]
}

/// The detail, or what the reason means and what a person can do.
fn fragment(reason: LossReason, detail: &str) -> String {
    let meaning = match reason {
        LossReason::HeartbeatTimeout => "no heartbeat got through",
        LossReason::ConnectionRefused => "connection refused",
        LossReason::ConnectionTimeout => "no answer",
        LossReason::ConnectionReset => "connection reset by master",
        LossReason::StreamClosed => "stream closed by master",
        LossReason::Unreachable => "network unreachable",
        LossReason::Dns => "the name cannot be resolved",
        LossReason::Tls => "no TLS session",
        LossReason::Unauthorized => "the master refuses this agent",
        LossReason::UnknownAgent => "the master does not know this agent",
        LossReason::Superseded => "another session of this agent took over",
        LossReason::DuplicateId => "another machine uses this agent's id",
        LossReason::NameTaken => "another agent has this name",
        LossReason::MasterGoodbye => "the master said goodbye",
        LossReason::NetworkChanged => "the network changed",
        LossReason::Protocol => "the master does not keep to the protocol",
    };
    // A master that says more names both machines and the remedy.
    let text = match (reason, detail) {
        (LossReason::DuplicateId, "") => {
            format!("{meaning} (a cloned disk? remove `agent-id` from the state directory of one of them)")
        }
        (LossReason::NameTaken, "") => format!("{meaning} (set another `name`, or stop the other agent)"),
        (_, "") => meaning.to_owned(),
        (LossReason::MasterGoodbye, why) => format!("{meaning} ({why})"),
        (_, detail) => detail.to_owned(),
    };
    // What comes from a peer must not make lines of its own.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn info(text: String) -> Line {
    Line::Log(Level::Info, text)
}

fn warn(text: String) -> Line {
    Line::Log(Level::Warn, text)
}

#[cfg(test)]
mod tests;
