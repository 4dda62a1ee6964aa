//! `sloth-runner agent list | get | delete | stop`.

use super::{
    Tool,
    connect::{Master, Trouble},
    json, quote, say, show_answer,
    table::{Cell, Colour, Table, printable},
    time::{ago, now_unix_ms, rfc3339, span},
};
use crate::cli::{Format, Status};
use proto::{AgentRow, DeleteRequest, GetRequest, ListReply, ListRequest, StopRequest};
use std::{fmt::Write, time::Duration};

/// All agents that match, ordered by name.
///
/// # Errors
/// As [`Master::call`]; also when the list breaks off.
pub async fn list(master: &Master, request: ListRequest) -> Result<Vec<AgentRow>, Trouble> {
    whole_list(master, request).await.map(|list| list.agents)
}

/// The same, as one message, with who was refused lately.
async fn whole_list(master: &Master, request: ListRequest) -> Result<ListReply, Trouble> {
    let mut stream = master.call(async move |mut client| client.list(request).await).await?;
    let mut whole = ListReply::default();
    while let Some(reply) = stream.message().await.map_err(|status| master.trouble(&status))? {
        whole.agents.extend(reply.agents);
        (whole.refused_lately, whole.refused_names) = (reply.refused_lately, reply.refused_names);
    }
    Ok(whole)
}

/// What to list.
pub fn wanted(labels: Vec<(String, String)>, status: Option<Status>) -> ListRequest {
    let status = status.map(Status::word).unwrap_or_default().to_owned();
    ListRequest { labels: labels.into_iter().collect(), status }
}

pub async fn show_list(tool: &Tool, labels: Vec<(String, String)>, status: Option<Status>) -> i32 {
    let list = whole_list(&tool.master, wanted(labels, status)).await;
    let note = list.as_ref().ok().and_then(refused).filter(|_| tool.format == Format::Table);
    let code = show_answer(tool.format, list, |list| match tool.format {
        Format::Json => json::document(&list.agents.iter().map(json::agent).collect::<Vec<_>>()),
        Format::Table => table(&list.agents, now_unix_ms()).render(tool.colours),
    });
    if let Some(note) = note {
        say(&note);
    }
    code
}

/// What is to be said of who was refused lately, below the table: in it nobody sees who is not let in.
fn refused(list: &ListReply) -> Option<String> {
    let first = list.refused_names.first()?;
    let names = list.refused_names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    let more = if list.refused_lately as usize > list.refused_names.len() { ", …" } else { "" };
    let nodes = if list.refused_lately == 1 { "1 node was" } else { &format!("{} nodes were", list.refused_lately) };
    Some(format!(
        "{nodes} turned away in the last 10 min ({names}{more}): `sloth-runner agent explain {}` says why and what to do, \
         `sloth-runner agent events` shows all (agent.rejected)",
        quote(&printable(first)),
    ))
}

pub async fn show(tool: &Tool, name: String) -> i32 {
    let row = tool.master.call(async move |mut client| client.get(GetRequest { name }).await).await;
    show_answer(tool.format, row, |row| match tool.format {
        Format::Json => json::document(&json::agent_in_full(&row)),
        Format::Table => in_full(&row, now_unix_ms()),
    })
}

pub async fn delete(tool: &Tool, name: String, force: bool) -> i32 {
    let reply = tool.master.call(async move |mut client| client.delete(DeleteRequest { name, force }).await).await;
    show_answer(tool.format, reply, |reply| message(tool.format, &reply.message))
}

pub async fn stop(tool: &Tool, name: String) -> i32 {
    let reply = tool.master.call(async move |mut client| client.stop(StopRequest { name }).await).await;
    show_answer(tool.format, reply, |reply| message(tool.format, &reply.message))
}

/// How it is away, since when and why; none: it is Active.
pub fn away(row: &AgentRow) -> Option<String> {
    let since = rfc3339(row.since_unix_ms).unwrap_or_default();
    let [name, status, reason] = [&row.name, &row.status, &row.reason].map(|text| printable(text));
    (row.status != Status::Active.word()).then(|| format!("agent {name} is {status} since {since} ({reason})"))
}

/// The table of `agent list`.
pub fn table(rows: &[AgentRow], now_unix_ms: u64) -> Table {
    let mut table = Table::new(&["NAME", "STATUS", "ADDRESS", "VERSION", "LAST HEARTBEAT", "REASON"]);
    for row in rows {
        table.row(vec![
            Cell::new(&row.name),
            Cell::new(&row.status).coloured(colour(&row.status)),
            Cell::new(&row.address),
            Cell::new(&row.version),
            ago(now_unix_ms, row.last_heartbeat_unix_ms).into(),
            Cell::new(&row.reason),
        ]);
    }
    table
}

pub fn colour(status: &str) -> Colour {
    match status {
        "Active" => Colour::Green,
        "Inactive" => Colour::Red,
        _ => Colour::Yellow,
    }
}

/// One agent, a line for each thing that is known.
fn in_full(row: &AgentRow, now_unix_ms: u64) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{what:<16}{}", printable(value));
        }
    };
    let when =
        |unix_ms| rfc3339(unix_ms).map(|time| format!("{} ({time})", ago(now_unix_ms, unix_ms))).unwrap_or_default();
    let mut labels: Vec<String> = row.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    line("Name", &row.name);
    line("Id", &row.id);
    line("Status", &row.status);
    line("Reason", &row.reason);
    line("", &row.detail);
    line("Since", &when(row.since_unix_ms));
    line("Last heartbeat", &when(row.last_heartbeat_unix_ms));
    line("Address", &row.address);
    line("Host", &row.host);
    line("Version", &row.version);
    line("Labels", &labels.join(", "));
    line("Epoch", &row.epoch.to_string());
    if let Some(node) = &row.node {
        let mebi = |kib: u64| kib / 1024;
        line("Load", &format!("{:.2}", f64::from(node.load_1m_milli) / 1000.0));
        line("Memory", &format!("{} of {} MiB free", mebi(node.memory_available_kib), mebi(node.memory_total_kib)));
        line("Disk", &format!("{} of {} MiB free", mebi(node.disk_free_kib), mebi(node.disk_total_kib)));
        line("Up", &span(Duration::from_secs(node.uptime_s)));
        let lost = if node.in_memory { ", in memory: a crash of the agent loses them" } else { "" };
        line("Commands held", &format!("{}{lost}", node.commands_held));
    }
    text
}

fn message(format: Format, message: &str) -> String {
    match format {
        Format::Json => json::document(&json::Message { message }),
        Format::Table => printable(message) + "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_shows_who_is_there_and_why_somebody_is_not() {
        let rows = [
            AgentRow {
                name: "keiteguica".into(),
                status: "Active".into(),
                address: "10.0.0.1:50051".into(),
                version: "0.1.0".into(),
                last_heartbeat_unix_ms: 7_000,
                ..AgentRow::default()
            },
            AgentRow {
                name: "mari".into(),
                status: "Inactive".into(),
                version: "0.1.0".into(),
                reason: "heartbeat_timeout".into(),
                ..AgentRow::default()
            },
        ];
        assert_eq!(
            table(&rows, 10_000).render(false),
            "NAME        STATUS    ADDRESS         VERSION  LAST HEARTBEAT  REASON\n\
             keiteguica  Active    10.0.0.1:50051  0.1.0    3s ago\n\
             mari        Inactive                  0.1.0    never           heartbeat_timeout\n"
        );
    }

    #[test]
    fn who_was_turned_away_is_named_with_the_way_to_know_more() {
        let list = |refused_lately, names: &[&str]| {
            let refused_names = names.iter().map(|name| (*name).to_owned()).collect();
            refused(&ListReply { refused_lately, refused_names, ..ListReply::default() })
        };
        assert_eq!(list(0, &[]), None);
        assert_eq!(
            list(1, &["kei"]).unwrap(),
            "1 node was turned away in the last 10 min (kei): `sloth-runner agent explain kei` says why and what to do, \
             `sloth-runner agent events` shows all (agent.rejected)"
        );
        assert_eq!(
            list(4, &["b a\n", "kei", "mari"]).unwrap(),
            "4 nodes were turned away in the last 10 min (b a\\n, kei, mari, …): `sloth-runner agent explain 'b a\\n'` \
             says why and what to do, `sloth-runner agent events` shows all (agent.rejected)"
        );
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let row = AgentRow { name: "a".into(), status: "Stopped".into(), since_unix_ms: 4_000, ..AgentRow::default() };
        assert_eq!(
            in_full(&row, 10_000),
            "Name            a\nStatus          Stopped\nSince           6s ago (1970-01-01T00:00:04.000Z)\nEpoch           0\n"
        );
    }
}
