//! `/metrics`: what is to be watched of a master and its fleet.

use super::text::{CONTENT_TYPE, Text};
use crate::master::{Core, Counts, STORE_BOUNDS};
use axum::{
    extract::State,
    http::header::CONTENT_TYPE as HEADER,
    response::{IntoResponse, Response},
};
use fleet::Status;
use std::{collections::BTreeMap, sync::Arc};

/// So many agents that are away have series of their own: those that were lost last. All are counted.
const AWAY_MAX: usize = 100;

/// A clock that is off by more misleads whoever compares logs, and endangers certificates.
const SKEW_MS: u64 = 30_000;

pub async fn serve(State(core): State<Arc<Core>>) -> Response {
    let text = render(&Scrape::of(&core));
    ([(HEADER, CONTENT_TYPE)], text).into_response()
}

/// Everything that one answer says.
struct Scrape {
    counts: Counts,
    active: usize,
    inactive: usize,
    stopped: usize,
    sessions: usize,
    away: Vec<Away>,
    clocks_off: usize,
    skew_max_ms: u64,
    pace_queue: usize,
    unfinished: usize,
    queued: usize,
    connections: usize,
    unknown: usize,
    handshakes: (usize, usize),
    closed: BTreeMap<String, u64>,
    agents_connections: usize,
    certificates: Vec<(&'static str, u64)>,
    audit_lost: u64,
    files: Option<(u64, u64)>,
    cpu_s: Option<f64>,
    resident: Option<u64>,
}

struct Away {
    name: String,
    reason: String,
    since_unix_ms: u64,
}

impl Scrape {
    fn of(core: &Core) -> Self {
        let (open, agents_connections) = (core.open_connections(), core.wires.connections());
        let mut scrape = core.read(|fleet| {
            let mut scrape = Self {
                counts: core.meters.counts(),
                active: 0,
                inactive: 0,
                stopped: 0,
                sessions: fleet.registry().sessions(),
                away: Vec::new(),
                clocks_off: 0,
                skew_max_ms: 0,
                pace_queue: core.entrance.held(),
                unfinished: fleet.dispatch().len(),
                queued: fleet.dispatch().queued_in_all(),
                connections: open.count(),
                unknown: open.unknown(),
                handshakes: open.handshakes(),
                closed: open.closed().map(|(why, count)| (why.to_owned(), count as u64)).into(),
                agents_connections,
                certificates: Vec::new(),
                audit_lost: core.audit_lost(),
                files: None,
                cpu_s: None,
                resident: None,
            };
            for (record, skew) in fleet.registry().each() {
                match record.status {
                    Status::Active => {
                        scrape.active += 1;
                        // Of one that is away nobody knows how its clock is now.
                        let off = skew.unwrap_or(0).unsigned_abs();
                        scrape.clocks_off += usize::from(off > SKEW_MS);
                        scrape.skew_max_ms = scrape.skew_max_ms.max(off);
                    }
                    Status::Inactive => {
                        scrape.inactive += 1;
                        scrape.away.push(Away {
                            name: record.name.clone(),
                            reason: record.reason.clone(),
                            since_unix_ms: record.since_unix_ms,
                        });
                    }
                    Status::Stopped => scrape.stopped += 1,
                }
            }
            scrape
        });
        scrape.away.sort_by(|a, b| (b.since_unix_ms, &a.name).cmp(&(a.since_unix_ms, &b.name)));
        scrape.away.truncate(AWAY_MAX);
        scrape.certificates = core.security.as_ref().map_or(Vec::new(), |security| security.acceptor.ends());
        scrape.files = open_files();
        (scrape.cpu_s, scrape.resident) = (cpu_seconds(), resident_bytes());
        scrape
    }
}

fn render(scrape: &Scrape) -> String {
    let mut text = Text::default();
    let counts = &scrape.counts;
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    text.family("sloth_master_build_info", "gauge", "The master's version; always 1.").sample(
        "sloth_master_build_info",
        &version,
        1,
    );
    text.family("sloth_master_agents", "gauge", "Agents that the master knows, by status.");
    for (status, count) in [("active", scrape.active), ("inactive", scrape.inactive), ("stopped", scrape.stopped)] {
        text.sample("sloth_master_agents", &[("status", status)], count);
    }
    let away = "sloth_master_agent_inactive_since_seconds";
    text.family(away, "gauge", "Since when an agent is lost, Unix time; of the 100 that were lost last.");
    for one in &scrape.away {
        let since = one.since_unix_ms as f64 / 1000.0;
        text.sample(away, &[("agent", &one.name), ("reason", &one.reason)], format!("{since:.3}"));
    }
    text.single("sloth_master_sessions", "gauge", "Sessions, the ones that are registering included.", scrape.sessions);
    let help = "Active agents whose clock is more than 30 s off the master's.";
    text.single("sloth_master_agents_clock_off", "gauge", help, scrape.clocks_off);
    let help = "How far the worst clock of an Active agent is off the master's.";
    text.single("sloth_master_clock_skew_max_seconds", "gauge", help, scrape.skew_max_ms as f64 / 1000.0);
    let help = "Registrations that led to a session.";
    text.single("sloth_master_registrations_total", "counter", help, counts.registrations);
    let help = "Registrations that were asked to come back later.";
    text.single("sloth_master_registrations_sent_away_total", "counter", help, counts.sent_away);
    by_word(
        &mut text,
        "sloth_master_rejections_total",
        "Registrations and sessions refused.",
        "reason",
        &counts.rejections,
    );
    by_word(&mut text, "sloth_master_losses_total", "Agents lost, by reason.", "reason", &counts.losses);
    text.family(
        "sloth_master_queue_length",
        "gauge",
        "What waits: registrations for their turn, commands for their agents, writes for the disk.",
    );
    let queues = [
        ("registrations", scrape.pace_queue as u64),
        ("commands", scrape.queued as u64),
        ("store", counts.store_waiting),
    ];
    for (queue, length) in queues {
        text.sample("sloth_master_queue_length", &[("queue", queue)], length);
    }
    let help = "Commands without an outcome, the ones that wait for their agents included.";
    text.single("sloth_master_commands_unfinished", "gauge", help, scrape.unfinished);
    by_word(
        &mut text,
        "sloth_master_commands_total",
        "Commands that have ended, by outcome.",
        "outcome",
        &counts.commands,
    );
    latencies(&mut text, counts);
    let help = "Writes that the store could not make durable.";
    text.single("sloth_master_store_failures_total", "counter", help, counts.store_failures);
    let help = "Lines that could not be written to the audit file.";
    text.single("sloth_master_audit_failures_total", "counter", help, scrape.audit_lost);
    let help = "Connections to the master's port.";
    text.single("sloth_master_connections", "gauge", help, scrape.connections);
    let help = "Connections without an agent's session: operators, and agents before they ask for one.";
    let operators = scrape.connections.saturating_sub(scrape.agents_connections);
    text.single("sloth_master_operator_connections", "gauge", help, operators);
    let help = "Connections that have shown no credential yet.";
    text.single("sloth_master_unknown_connections", "gauge", help, scrape.unknown);
    let help = "TLS handshakes under way.";
    text.single("sloth_master_handshakes", "gauge", help, scrape.handshakes.0);
    let help = "The most TLS handshakes at once since the start.";
    text.single("sloth_master_handshakes_peak", "gauge", help, scrape.handshakes.1);
    let help = "Connections that the master closed for what they did not do: see the documentation for the reasons.";
    by_word(&mut text, "sloth_master_connections_closed_total", help, "reason", &scrape.closed);
    let help = "Events for the webhook: delivered, attempts that failed, and given up.";
    by_word(&mut text, "sloth_master_webhook_total", help, "result", &counts.webhook);
    if !scrape.certificates.is_empty() {
        let name = "sloth_master_certificate_expires_timestamp_seconds";
        text.family(name, "gauge", "When a certificate in use ends, Unix time: the master's own, its authority's.");
        for (kind, ends) in &scrape.certificates {
            text.sample(name, &[("kind", kind)], ends);
        }
    }
    process(&mut text, scrape);
    text.finish()
}

fn by_word(text: &mut Text, name: &str, help: &str, label: &str, counts: &BTreeMap<String, u64>) {
    text.family(name, "counter", help);
    for (word, count) in counts {
        text.sample(name, &[(label, word)], count);
    }
}

fn latencies(text: &mut Text, counts: &Counts) {
    const NAME: &str = "sloth_master_store_write_seconds";
    const BUCKET: &str = "sloth_master_store_write_seconds_bucket";
    text.family(NAME, "histogram", "How long writes took until they were durable, or failed.");
    for (bound, below) in STORE_BOUNDS.iter().zip(counts.store.below) {
        text.sample(BUCKET, &[("le", &bound.to_string())], below);
    }
    text.sample(BUCKET, &[("le", "+Inf")], counts.store.count);
    text.sample("sloth_master_store_write_seconds_sum", &[], counts.store.sum);
    text.sample("sloth_master_store_write_seconds_count", &[], counts.store.count);
}

/// Under the names that dashboards for processes know.
fn process(text: &mut Text, scrape: &Scrape) {
    if let Some((open, max)) = scrape.files {
        text.single("process_open_fds", "gauge", "Open files.", open);
        text.single("process_max_fds", "gauge", "Limit of open files.", max);
    }
    if let Some(cpu_s) = scrape.cpu_s {
        text.single("process_cpu_seconds_total", "counter", "Processor time.", cpu_s);
    }
    if let Some(resident) = scrape.resident {
        text.single("process_resident_memory_bytes", "gauge", "Memory that is resident.", resident);
    }
}

fn open_files() -> Option<(u64, u64)> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (done == 0).then_some((open, limit.rlim_cur))
}

fn cpu_seconds() -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    (done == 0).then_some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
