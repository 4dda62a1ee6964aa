//! `sloth-runner agent explain`: why an agent is as it is, and what to do.

use super::{
    Tool, json, show_answer,
    table::{Cell, Table, printable},
    time::{ago, ahead, now_unix_ms, rfc3339, span},
};
use crate::cli::Format;
use proto::{AgentRow, AttemptRow, ExplainReply, GetRequest, SessionRow, ToldRow};
use serde::Serialize;
use std::{fmt::Write, time::Duration};

/// Of each list so many are shown to people; programs get them all.
const SHOWN_MAX: usize = 10;

/// A clock that is off by less is not worth a word: a heartbeat may have taken as long.
const SKEW_MIN_MS: u64 = 1_000;

pub(super) async fn show(tool: &Tool, name: String) -> i32 {
    let reply = tool.master.call(async move |mut client| client.explain(GetRequest { name }).await).await;
    show_answer(tool.format, reply, |reply| match tool.format {
        Format::Json => json::document(&document(&reply)),
        Format::Table => text(&reply, now_unix_ms(), tool.colours),
    })
}

/// `-o json`. The field names are an interface.
#[derive(Serialize)]
pub struct Explained<'a> {
    #[serde(flatten)]
    row: json::Agent<'a>,
    host: Option<&'a str>,
    epoch: u64,
    detail: Option<&'a str>,
    sessions: Vec<Session<'a>>,
    advice: &'a str,
    attempts: Vec<Attempt<'a>>,
    /// What the agent told of its own side, latest first.
    told: Vec<Told<'a>>,
    /// The agent's wall clock less the master's, seconds.
    clock_skew: Option<f64>,
    next_beat: Option<String>,
    /// When it is lost unless it is heard of before.
    lost_at: Option<String>,
    /// Ids of its unfinished commands, oldest first, at most 100.
    commands: &'a [String],
    commands_in_all: u32,
    certificate_expires: Option<String>,
}

/// `ended`, `reason` and `closed_by` are null while it lasts.
#[derive(Serialize)]
struct Session<'a> {
    epoch: u64,
    started: Option<String>,
    ended: Option<String>,
    reason: Option<&'a str>,
    closed_by: Option<&'a str>,
}

#[derive(Serialize)]
struct Attempt<'a> {
    name: &'a str,
    agent_id: &'a str,
    reason: &'a str,
    count: u64,
    first: Option<String>,
    last: Option<String>,
    host: &'a str,
    address: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Told<'a> {
    time: Option<String>,
    kind: &'a str,
    reason: &'a str,
    detail: Option<&'a str>,
    /// Seconds.
    duration: f64,
    attempts: u32,
    master: Option<&'a str>,
    epoch: Option<u64>,
}

pub fn document(reply: &ExplainReply) -> Explained<'_> {
    let agent = reply.agent.as_ref().unwrap_or(&NOBODY);
    Explained {
        row: json::agent(agent),
        host: json::present(&agent.host),
        epoch: agent.epoch,
        detail: json::present(&agent.detail),
        sessions: reply.sessions.iter().map(session).collect(),
        advice: &reply.advice,
        attempts: reply.attempts.iter().map(attempt).collect(),
        told: reply.told.iter().map(told).collect(),
        clock_skew: reply.clock_known.then_some(reply.clock_skew_ms as f64 / 1000.0),
        next_beat: rfc3339(reply.next_beat_unix_ms),
        lost_at: rfc3339(reply.lost_at_unix_ms),
        commands: &reply.commands,
        commands_in_all: reply.commands_in_all,
        certificate_expires: rfc3339(reply.certificate_expires_unix_ms),
    }
}

/// What a master that sends no row is taken to say.
static NOBODY: std::sync::LazyLock<AgentRow> = std::sync::LazyLock::new(AgentRow::default);

fn session(row: &SessionRow) -> Session<'_> {
    Session {
        epoch: row.epoch,
        started: rfc3339(row.started_unix_ms),
        ended: rfc3339(row.ended_unix_ms),
        reason: json::present(&row.reason),
        closed_by: json::present(&row.closed_by),
    }
}

fn attempt(row: &AttemptRow) -> Attempt<'_> {
    Attempt {
        name: &row.name,
        agent_id: &row.agent_id,
        reason: &row.reason,
        count: row.count,
        first: rfc3339(row.first_unix_ms),
        last: rfc3339(row.last_unix_ms),
        host: &row.host,
        address: &row.address,
        message: &row.message,
    }
}

fn told(row: &ToldRow) -> Told<'_> {
    Told {
        time: rfc3339(row.time_unix_ms),
        kind: &row.kind,
        reason: &row.reason,
        detail: json::present(&row.detail),
        duration: row.duration_ms as f64 / 1000.0,
        attempts: row.attempts,
        master: json::present(&row.master),
        epoch: (row.epoch > 0).then_some(row.epoch),
    }
}

/// For people: first what matters.
fn text(reply: &ExplainReply, now_unix_ms: u64, colours: bool) -> String {
    let agent = reply.agent.as_ref().unwrap_or(&NOBODY);
    let mut text = headline(agent, now_unix_ms);
    let _ = writeln!(text, "{}\n", printable(&reply.advice));
    let mut line = |what: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{what:<16}{}", printable(value));
        }
    };
    let when = |unix_ms| rfc3339(unix_ms).map(|time| format!("{} ({time})", ago(now_unix_ms, unix_ms)));
    line("Id", &agent.id);
    line("Host", &agent.host);
    line("Address", &agent.address);
    line("Version", &agent.version);
    line("Last heartbeat", &when(agent.last_heartbeat_unix_ms).unwrap_or_default());
    // By the master's clock, which the tool's need not be.
    let ahead = |unix_ms| ahead(reply.time_unix_ms, unix_ms);
    match (reply.next_beat_unix_ms, reply.lost_at_unix_ms) {
        (0, _) => {}
        (next, lost) if next >= reply.time_unix_ms => {
            line("Next heartbeat", &format!("{}; without one it is lost {}", ahead(next), ahead(lost)));
        }
        (_, lost) => line("Next heartbeat", &format!("late; without one it is lost {}", ahead(lost))),
    }
    line("Clock", &clock(reply));
    line("Certificate", &certificate(reply));
    line("Commands", &commands(reply));
    if !reply.sessions.is_empty() {
        let _ = writeln!(text, "\nSessions{}", of(SHOWN_MAX, reply.sessions.len()));
        text.push_str(&sessions(&reply.sessions, now_unix_ms).render(colours));
    }
    if !reply.attempts.is_empty() {
        let _ = writeln!(text, "\nTurned away{}", of(SHOWN_MAX, reply.attempts.len()));
        for row in reply.attempts.iter().take(SHOWN_MAX) {
            let (last, id) = (ago(now_unix_ms, row.last_unix_ms), row.agent_id.get(..8).unwrap_or_default());
            let on = if row.host.is_empty() { String::new() } else { format!(" on host {:?}", row.host) };
            // Of who joins nothing is proven.
            let claims = if row.reason == "not_joined" { "somebody who calls himself " } else { "" };
            let whom = format!("{claims}{} (id {id}…){on} at {}", row.name, row.address);
            let line = match row.host.is_empty() && row.address.is_empty() {
                false => format!("{last}, {} in all: {whom}: {}: {}", row.count, row.reason, row.message),
                // Events tell of it, one a minute at most, and have the rest in their text.
                true => format!("{last}, at least {} in all: {}: {}: {}", row.count, row.name, row.reason, row.message),
            };
            let _ = writeln!(text, "{}", printable(&line));
        }
    }
    if !reply.told.is_empty() {
        let _ = writeln!(text, "\nAs the agent saw it{}", of(SHOWN_MAX, reply.told.len()));
        for row in reply.told.iter().take(SHOWN_MAX) {
            let _ = writeln!(text, "{}", printable(&format!("{}: {}", ago(now_unix_ms, row.time_unix_ms), saw(row))));
        }
    }
    text
}

fn headline(agent: &AgentRow, now_unix_ms: u64) -> String {
    let reason = if agent.reason.is_empty() { String::new() } else { format!(" ({})", agent.reason) };
    let since =
        rfc3339(agent.since_unix_ms).map(|time| format!(" since {time}, {}", ago(now_unix_ms, agent.since_unix_ms)));
    let detail = if agent.detail.is_empty() { String::new() } else { format!(": {}", agent.detail) };
    let line = format!("{} is {}{}{reason}{detail}", agent.name, agent.status, since.unwrap_or_default());
    printable(&line) + "\n"
}

fn clock(reply: &ExplainReply) -> String {
    let off = reply.clock_skew_ms.unsigned_abs();
    let shown = span(Duration::from_millis(off));
    match reply.clock_skew_ms {
        _ if !reply.clock_known => String::new(),
        _ if off < SKEW_MIN_MS => "as the master's, within a second".to_owned(),
        skew if skew > 0 => format!("{shown} ahead of the master's"),
        _ => format!("{shown} behind the master's"),
    }
}

fn certificate(reply: &ExplainReply) -> String {
    let expires = reply.certificate_expires_unix_ms;
    let days = |from: u64, to: u64| (to - from) / 86_400_000;
    match rfc3339(expires) {
        None => String::new(),
        Some(time) if expires <= reply.time_unix_ms => format!("expired at {time}"),
        Some(time) => format!("{} days left, until {time}", days(reply.time_unix_ms, expires)),
    }
}

fn commands(reply: &ExplainReply) -> String {
    let first = reply.commands.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match reply.commands_in_all as usize {
        0 => "none unfinished".to_owned(),
        all if all <= 3 => format!("{all} unfinished: {first}"),
        all => format!("{all} unfinished: {first}, …"),
    }
}

fn sessions(rows: &[SessionRow], now_unix_ms: u64) -> Table {
    let mut table = Table::new(&["EPOCH", "STARTED", "LASTED", "ENDED BY", "REASON"]);
    for row in rows.iter().take(SHOWN_MAX) {
        let lasted = |end: u64| span(Duration::from_secs(end.saturating_sub(row.started_unix_ms) / 1000));
        let (lasted, by) = match row.ended_unix_ms {
            0 => (format!("{}, and goes on", lasted(now_unix_ms)), String::new()),
            end => (lasted(end).to_string(), row.closed_by.clone()),
        };
        table.row(vec![
            row.epoch.to_string().into(),
            rfc3339(row.started_unix_ms).unwrap_or_default().into(),
            lasted.into(),
            by.into(),
            Cell::new(&row.reason),
        ]);
    }
    table
}

/// One thing that the agent told, for people.
fn saw(row: &ToldRow) -> String {
    let lasted = span(Duration::from_millis(row.duration_ms));
    let detail = if row.detail.is_empty() { String::new() } else { format!(" ({})", row.detail) };
    let ToldRow { reason, master, attempts, epoch, .. } = row;
    match row.kind.as_str() {
        // The agent finds it at its next start, and tells that as the end.
        "session" if reason == "agent_died" => {
            format!("session {epoch} with {master} had ended, within {lasted}: {reason}{detail}")
        }
        "session" => format!("session {epoch} with {master} ended after {lasted}: {reason}{detail}"),
        "attempts" if *attempts == 1 => format!("an attempt at {master} failed: {reason}{detail}"),
        "attempts" => format!("{attempts} attempts at {master} failed over {lasted}: {reason}{detail}"),
        "start" if reason == "rebooted" => format!("it started with its machine{detail}"),
        "start" => format!("it started{detail}"),
        kind => format!("{kind}: {reason}{detail}"),
    }
}

/// What a list is cut to, if it is.
fn of(shown: usize, all: usize) -> String {
    if all > shown { format!(", the latest {shown} of {all}:") } else { ":".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_attempt_is_not_counted() {
        let row = |attempts| ToldRow {
            kind: "attempts".into(),
            reason: "dns".into(),
            master: "m:1".into(),
            attempts,
            duration_ms: 2_000,
            ..ToldRow::default()
        };
        assert_eq!(saw(&row(1)), "an attempt at m:1 failed: dns");
        assert_eq!(saw(&row(2)), "2 attempts at m:1 failed over 2s: dns");
    }

    fn reply() -> ExplainReply {
        let session = |epoch, ended_unix_ms, reason: &str, by: &str| SessionRow {
            epoch,
            started_unix_ms: 1_000,
            ended_unix_ms,
            reason: reason.into(),
            closed_by: by.into(),
            ..SessionRow::default()
        };
        ExplainReply {
            agent: Some(AgentRow {
                name: "mari".into(),
                id: "01".repeat(16),
                status: "Inactive".into(),
                reason: "heartbeat_timeout".into(),
                detail: "nothing was heard of it for 20.0 s".into(),
                since_unix_ms: 61_000,
                host: "pi".into(),
                ..AgentRow::default()
            }),
            sessions: vec![session(2, 0, "", ""), session(1, 61_000, "heartbeat_timeout", "master")],
            attempts: vec![AttemptRow {
                name: "mari".into(),
                agent_id: "02".repeat(16),
                reason: "name_taken".into(),
                count: 3,
                last_unix_ms: 60_000,
                host: "twin".into(),
                address: "10.0.0.2".into(),
                message: "no\nway".into(),
                ..AttemptRow::default()
            }],
            advice: "Do this.".into(),
            clock_known: true,
            clock_skew_ms: -90_000,
            next_beat_unix_ms: 64_000,
            lost_at_unix_ms: 81_000,
            commands: vec!["c1".into()],
            commands_in_all: 1,
            time_unix_ms: 62_000,
            told: vec![ToldRow {
                time_unix_ms: 60_000,
                kind: "attempts".into(),
                reason: "dns".into(),
                duration_ms: 30_000,
                attempts: 4,
                master: "m:1".into(),
                ..ToldRow::default()
            }],
            certificate_expires_unix_ms: 62_000 + 3 * 86_400_000,
        }
    }

    #[test]
    fn people_read_what_matters_first() {
        assert_eq!(
            text(&reply(), 62_000, false),
            "mari is Inactive since 1970-01-01T00:01:01.000Z, 1s ago (heartbeat_timeout): nothing was heard of it for \
             20.0 s\n\
             Do this.\n\n\
             Id              01010101010101010101010101010101\n\
             Host            pi\n\
             Next heartbeat  in 2s; without one it is lost in 19s\n\
             Clock           1m30s behind the master's\n\
             Certificate     3 days left, until 1970-01-04T00:01:02.000Z\n\
             Commands        1 unfinished: c1\n\n\
             Sessions:\n\
             EPOCH  STARTED                   LASTED             ENDED BY  REASON\n\
             2      1970-01-01T00:00:01.000Z  1m1s, and goes on\n\
             1      1970-01-01T00:00:01.000Z  1m                 master    heartbeat_timeout\n\n\
             Turned away:\n\
             2s ago, 3 in all: mari (id 02020202…) on host \"twin\" at 10.0.0.2: name_taken: no\\nway\n\n\
             As the agent saw it:\n\
             2s ago: 4 attempts at m:1 failed over 30s: dns\n"
        );
    }

    #[test]
    fn what_only_events_tell_of_a_refusal_has_no_empty_places() {
        let row = AttemptRow {
            name: "mari".into(),
            agent_id: "00".repeat(16),
            reason: "not_joined".into(),
            count: 2,
            last_unix_ms: 60_000,
            message: "somebody at 10.0.0.2 who calls himself mari asked to join: no".into(),
            ..AttemptRow::default()
        };
        let shown = text(&ExplainReply { attempts: vec![row], ..reply() }, 62_000, false);
        let line = "Turned away:\n2s ago, at least 2 in all: mari: not_joined: somebody at 10.0.0.2 who calls himself mari \
                    asked to join: no\n";
        assert!(shown.contains(line), "{shown}");
    }

    #[test]
    fn programs_get_a_row_of_the_list_with_sessions_and_advice() {
        let document: serde_json::Value = serde_json::from_str(&json::document(&document(&reply()))).unwrap();
        let row: serde_json::Value =
            serde_json::from_str(&json::document(&json::agent(reply().agent.as_ref().unwrap()))).unwrap();
        for (key, value) in row.as_object().unwrap() {
            assert_eq!(&document[key], value, "{key}");
        }
        assert_eq!(
            document["sessions"],
            serde_json::json!([
                {"epoch": 2, "started": "1970-01-01T00:00:01.000Z", "ended": null, "reason": null, "closed_by": null},
                {"epoch": 1, "started": "1970-01-01T00:00:01.000Z", "ended": "1970-01-01T00:01:01.000Z",
                 "reason": "heartbeat_timeout", "closed_by": "master"},
            ])
        );
        assert_eq!((&document["advice"], &document["clock_skew"]), (&"Do this.".into(), &(-90.0).into()));
        assert_eq!(document["told"][0]["attempts"], 4);
    }
}
