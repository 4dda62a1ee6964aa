//! `status --history`: what became of the link.

use std::time::Duration;

use super::{node::Node, print};
use crate::{
    config::units::ShowDuration,
    history::{AGENT_DIED, Entry, Kind, REBOOTED, read},
    logging::utc::Utc,
    state::StateDir,
    status::{self, Field},
};

/// Prints it, oldest first; the exit code is that of `status`.
pub(super) fn show(node: &Node, json: bool) -> i32 {
    let history = read(&StateDir::read_history_of(node.path()));
    let entries = history.entries();
    if json {
        print(&(status::list(entries.map(fields_of)) + "\n"));
        return node.code();
    }
    if entries.len() == 0 {
        print(&format!("nothing is known yet of {} (state directory {})\n", node.called(), node.path().display()));
    }
    let mut text = String::new();
    for entry in entries {
        text.push_str(&format!("{}  {}\n", when(entry), in_words(entry)));
    }
    print(&text);
    node.code()
}

fn when(entry: &Entry) -> Utc {
    Utc(Duration::from_millis(entry.at.unix_ms))
}

/// One line for a person.
fn in_words(entry: &Entry) -> String {
    let Entry { reason, detail, master, epoch, attempts, .. } = entry;
    let lasted = lasted(entry.lasted_ms);
    let why = if detail.is_empty() || detail == reason { reason.clone() } else { format!("{reason}: {detail}") };
    match entry.kind {
        Kind::Started if reason == REBOOTED => "agent started, for the first time since the machine was".to_owned(),
        Kind::Started => "agent started".to_owned(),
        Kind::Registered => {
            let after = if entry.lasted_ms > 0 { format!(", after {lasted} without") } else { String::new() };
            format!("registered with {master}: session {epoch}, attempt {attempts}{after}")
        }
        // Found at the next start.
        Kind::Ended if reason == AGENT_DIED => format!("session {epoch} with {master} ended within {lasted}: {why}"),
        Kind::Ended => format!("session {epoch} with {master} ended after {lasted}: {why}"),
        Kind::Failed if *attempts == 1 => format!("attempt at {master} failed: {why}"),
        Kind::Failed => format!("{attempts} attempts at {master} failed within {lasted}, the last then: {why}"),
    }
}

fn lasted(ms: u64) -> ShowDuration {
    // Of long ones nobody wants to know the milliseconds.
    ShowDuration(Duration::from_millis(if ms >= 10_000 { ms / 1000 * 1000 } else { ms }))
}

fn fields_of(entry: &Entry) -> Vec<(&str, Field<'_>)> {
    let mut fields = vec![
        ("number", Field::Number(entry.number)),
        ("kind", Field::Text(entry.kind.word())),
        ("time", Field::Time(Duration::from_millis(entry.at.unix_ms))),
        ("since_boot", Field::Seconds(Duration::from_millis(entry.at.boot_ms))),
        ("boot", Field::Text(&entry.boot)),
    ];
    let text = [("reason", &entry.reason), ("detail", &entry.detail), ("master", &entry.master)];
    fields.extend(text.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key, Field::Text(text))));
    if matches!(entry.kind, Kind::Registered | Kind::Ended) {
        fields.push(("epoch", Field::Number(entry.epoch)));
    }
    if entry.kind != Kind::Started {
        fields.push(("duration", Field::Seconds(Duration::from_millis(entry.lasted_ms))));
    }
    if entry.attempts > 0 {
        fields.push(("attempts", Field::Number(entry.attempts.into())));
    }
    fields
}
