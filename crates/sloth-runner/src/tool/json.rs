//! What `-o json` prints. The field names are an interface: programs read them. Pure.

use super::{ending, table::steers, time::rfc3339};
use proto::{AgentRow, CommandRow, EventRow, NodeStatus, OutputStream, outcome::Kind};
use serde::Serialize;
use std::collections::BTreeMap;

/// A row of `agent list`.
#[derive(Serialize)]
pub struct Agent<'a> {
    name: &'a str,
    id: &'a str,
    status: &'a str,
    reason: Option<&'a str>,
    since: Option<String>,
    address: Option<&'a str>,
    version: Option<&'a str>,
    labels: BTreeMap<&'a str, &'a str>,
    last_heartbeat: Option<String>,
}

/// A line of `agent list --watch` about one that is listed no more.
#[derive(Serialize)]
pub struct Gone<'a> {
    name: &'a str,
    id: &'a str,
    gone: bool,
}

/// `agent get`: a row and what else is known.
#[derive(Serialize)]
pub struct AgentInFull<'a> {
    #[serde(flatten)]
    row: Agent<'a>,
    host: Option<&'a str>,
    epoch: u64,
    detail: Option<&'a str>,
    node: Option<Node>,
}

/// Sizes in bytes, durations in seconds.
#[derive(Serialize)]
struct Node {
    load_1m: f64,
    memory_total: u64,
    memory_available: u64,
    disk_total: u64,
    disk_free: u64,
    uptime: u64,
    commands_held: u64,
    in_memory: bool,
}

#[derive(Serialize)]
pub struct Event<'a> {
    seq: u64,
    time: Option<String>,
    kind: &'a str,
    agent: Option<&'a str>,
    agent_id: Option<&'a str>,
    epoch: u64,
    reason: Option<&'a str>,
    message: &'a str,
}

/// `command get`, and a row of `command list`.
#[derive(Serialize)]
pub struct Command<'a> {
    /// None for one that there never was.
    id: Option<&'a str>,
    agent: &'a str,
    state: Option<&'a str>,
    outcome: Option<&'a str>,
    code: Option<i32>,
    signal: Option<i32>,
    reason: Option<&'a str>,
    created: Option<String>,
    started: Option<String>,
    finished: Option<String>,
    /// Only while it is so: somebody wants it to end, and it has not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancelling: bool,
    /// Only of one that was given such a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    output_bytes: u64,
    gaps: Vec<Gap>,
    /// What runs: either program and arguments, or a line for the shell.
    argv: Option<Vec<String>>,
    shell: Option<&'a str>,
    /// Only where the text above is not exactly what was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    argv_base64: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Gap {
    offset: u64,
    bytes: u64,
}

/// A command with its output: `agent run` and `command logs`.
#[derive(Serialize)]
pub struct CommandWithOutput<'a> {
    #[serde(flatten)]
    command: Command<'a>,
    stdout: String,
    stderr: String,
    /// Only where the text above is not exactly what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// Only if it is so: there was more output than one document holds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A line of `command logs --follow`.
#[derive(Serialize)]
pub struct Chunk {
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<u64>,
}

#[derive(Serialize)]
pub struct Message<'a> {
    pub message: &'a str,
}

/// `agent run --detach` on several agents.
#[derive(Serialize)]
pub struct Started<'a> {
    pub agent: &'a str,
    /// None where nothing was started.
    pub id: Option<&'a str>,
    pub error: Option<&'a str>,
}

pub fn gone(row: &AgentRow) -> Gone<'_> {
    Gone { name: &row.name, id: &row.id, gone: true }
}

pub fn agent(row: &AgentRow) -> Agent<'_> {
    Agent {
        name: &row.name,
        id: &row.id,
        status: &row.status,
        reason: present(&row.reason),
        since: rfc3339(row.since_unix_ms),
        address: present(&row.address),
        version: present(&row.version),
        labels: row.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        last_heartbeat: rfc3339(row.last_heartbeat_unix_ms),
    }
}

pub fn agent_in_full(row: &AgentRow) -> AgentInFull<'_> {
    AgentInFull {
        row: agent(row),
        host: present(&row.host),
        epoch: row.epoch,
        detail: present(&row.detail),
        node: row.node.as_ref().map(node),
    }
}

fn node(status: &NodeStatus) -> Node {
    Node {
        load_1m: f64::from(status.load_1m_milli) / 1000.0,
        memory_total: status.memory_total_kib.saturating_mul(1024),
        memory_available: status.memory_available_kib.saturating_mul(1024),
        disk_total: status.disk_total_kib.saturating_mul(1024),
        disk_free: status.disk_free_kib.saturating_mul(1024),
        uptime: status.uptime_s,
        commands_held: status.commands_held.into(),
        in_memory: status.in_memory,
    }
}

pub fn event(row: &EventRow) -> Event<'_> {
    Event {
        seq: row.seq,
        time: rfc3339(row.time_unix_ms),
        kind: &row.kind,
        agent: present(&row.agent),
        agent_id: present(&row.agent_id),
        epoch: row.epoch,
        reason: present(&row.reason),
        message: &row.message,
    }
}

pub fn command(row: &CommandRow) -> Command<'_> {
    let outcome = row.outcome.as_ref();
    let kind = outcome.map(proto::Outcome::kind);
    let argv = row.spec.as_ref().map(|spec| &spec.argv).filter(|argv| !argv.is_empty());
    let unlike_text = |argv: &[Vec<u8>]| argv.iter().any(|word| std::str::from_utf8(word).is_err());
    Command {
        id: Some(&row.id),
        agent: &row.agent,
        state: present(&row.state),
        outcome: outcome.and_then(ending::word),
        code: outcome.filter(|_| kind == Some(Kind::Exited)).map(|outcome| outcome.code),
        signal: outcome.filter(|_| kind == Some(Kind::Signaled)).map(|outcome| outcome.signal),
        reason: outcome
            .map_or(present(&row.agent_away).or(present(&row.output_stalls)), |outcome| present(&outcome.reason)),
        created: rfc3339(row.created_unix_ms),
        started: rfc3339(row.started_unix_ms),
        finished: rfc3339(row.finished_unix_ms),
        cancelling: row.cancel_asked && row.outcome.is_none(),
        expires: rfc3339(row.expires_unix_ms),
        output_bytes: row.output_bytes,
        gaps: row.gaps.iter().map(|gap| Gap { offset: gap.offset, bytes: gap.bytes }).collect(),
        argv: argv.map(|argv| argv.iter().map(|word| text(word).0).collect()),
        shell: row.spec.as_ref().and_then(|spec| present(&spec.shell)),
        argv_base64: argv.filter(|argv| unlike_text(argv)).map(|argv| argv.iter().map(|word| base64(word)).collect()),
    }
}

/// A command that has no row, because of `reason`.
pub fn command_without_row<'a>(id: Option<&'a str>, agent: &'a str, reason: &'a str) -> Command<'a> {
    Command {
        id,
        agent,
        state: None,
        outcome: None,
        code: None,
        signal: None,
        reason: Some(reason),
        created: None,
        started: None,
        finished: None,
        cancelling: false,
        expires: None,
        output_bytes: 0,
        gaps: Vec::new(),
        argv: None,
        shell: None,
        argv_base64: None,
    }
}

pub fn with_output<'a>(command: Command<'a>, stdout: &[u8], stderr: &[u8], truncated: bool) -> CommandWithOutput<'a> {
    let ((stdout, stdout_base64), (stderr, stderr_base64)) = (text(stdout), text(stderr));
    CommandWithOutput { command, stdout, stderr, stdout_base64, stderr_base64, truncated }
}

pub fn chunk(offset: u64, stream: OutputStream, data: &[u8]) -> Chunk {
    let (text, base64) = text(data);
    let data = base64.is_none().then_some(text);
    Chunk { offset, stream: Some(ending::stream_word(stream)), data, data_base64: base64, gap: None }
}

pub fn gap(offset: u64, bytes: u64) -> Chunk {
    Chunk { offset, stream: None, data: None, data_base64: None, gap: Some(bytes) }
}

/// There is no answer.
#[derive(Serialize)]
struct Error<'a> {
    error: &'a str,
}

/// The document in place of an answer.
pub fn error(why: &str) -> String {
    document(&Error { error: why })
}

/// … among lines.
pub fn error_line(why: &str) -> String {
    line(&Error { error: why })
}

/// One document, for people to read, too.
pub fn document(value: &impl Serialize) -> String {
    tame(serde_json::to_string_pretty(value).expect("these types have string keys and no failing parts")) + "\n"
}

/// An element of an array that is printed as it comes. [`elements_end`] ends it.
pub fn element(value: &impl Serialize, first: bool) -> String {
    let text = tame(serde_json::to_string_pretty(value).expect("these types have string keys and no failing parts"));
    format!("{}  {}", if first { "[\n" } else { ",\n" }, text.replace('\n', "\n  "))
}

pub fn elements_end(empty: bool) -> &'static str {
    if empty { "[]\n" } else { "\n]\n" }
}

/// One line.
pub fn line(value: &impl Serialize) -> String {
    tame(serde_json::to_string(value).expect("these types have string keys and no failing parts")) + "\n"
}

/// The same document, without effect on a terminal: what JSON need not escape and terminals obey is escaped as well. It
/// can only stand in strings.
fn tame(text: String) -> String {
    if !text.contains(|c: char| c != '\n' && steers(c)) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        match c {
            c if c != '\n' && steers(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

pub fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// As text, and in base64 where that is not the same.
fn text(data: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(data) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(data).into_owned(), Some(base64(data))),
    }
}

fn base64(data: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for group in data.chunks(3) {
        let bits = group.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, to_value};

    #[test]
    fn an_agent_has_the_documented_fields() {
        let row = AgentRow {
            name: "lady".into(),
            id: "00ff".into(),
            status: "Inactive".into(),
            reason: "stream_closed".into(),
            since_unix_ms: 1000,
            address: "127.0.0.1:50051".into(),
            version: "0.1.0".into(),
            labels: [("site".to_owned(), "a".to_owned())].into(),
            ..AgentRow::default()
        };
        assert_eq!(
            to_value(agent(&row)).unwrap(),
            json!({
                "name": "lady", "id": "00ff", "status": "Inactive", "reason": "stream_closed",
                "since": "1970-01-01T00:00:01.000Z", "address": "127.0.0.1:50051", "version": "0.1.0",
                "labels": {"site": "a"}, "last_heartbeat": null
            })
        );
        let full = to_value(agent_in_full(&row)).unwrap();
        assert_eq!((&full["name"], &full["epoch"], &full["node"]), (&json!("lady"), &json!(0), &json!(null)));
        let unknown = to_value(agent_in_full(&AgentRow::default())).unwrap();
        for field in ["address", "version", "host"] {
            assert_eq!(unknown[field], json!(null), "{field}");
        }
    }

    #[test]
    fn a_command_has_the_documented_fields() {
        let mut row = CommandRow {
            id: "c".into(),
            agent: "lady".into(),
            state: "finished".into(),
            outcome: Some((&link::Outcome::Exited(0)).into()),
            created_unix_ms: 1000,
            output_bytes: 3,
            gaps: vec![proto::Gap { offset: 1, bytes: 2 }],
            ..CommandRow::default()
        };
        let expected = json!({
            "id": "c", "agent": "lady", "state": "finished", "outcome": "exited", "code": 0, "signal": null,
            "reason": null, "created": "1970-01-01T00:00:01.000Z", "started": null, "finished": null,
            "output_bytes": 3, "gaps": [{"offset": 1, "bytes": 2}], "argv": null, "shell": null
        });
        assert_eq!(to_value(command(&row)).unwrap(), expected);

        row.outcome = Some((&link::Outcome::Refused("no".into())).into());
        let refused = to_value(command(&row)).unwrap();
        assert_eq!(
            (&refused["outcome"], &refused["code"], &refused["reason"]),
            (&json!("refused"), &json!(null), &json!("no"))
        );
        row.outcome = Some((&link::Outcome::Signaled(9)).into());
        assert_eq!(to_value(command(&row)).unwrap()["signal"], 9);
        row.outcome = None;
        assert_eq!(to_value(command(&row)).unwrap()["outcome"], json!(null));

        let argv = vec![b"ls".to_vec(), b"\xff".to_vec()];
        row.spec = Some(proto::CommandSpec { argv, ..proto::CommandSpec::default() });
        let shown = to_value(command(&row)).unwrap();
        assert_eq!((&shown["argv"], &shown["argv_base64"]), (&json!(["ls", "\u{fffd}"]), &json!(["bHM=", "/w=="])));
        row.spec = Some(proto::CommandSpec { shell: "ls | wc".into(), ..proto::CommandSpec::default() });
        let shown = to_value(command(&row)).unwrap();
        assert_eq!((&shown["argv"], &shown["shell"]), (&json!(null), &json!("ls | wc")));
    }

    #[test]
    fn output_that_is_no_text_is_there_in_base64_too() {
        let row = CommandRow::default();
        let document = to_value(with_output(command(&row), b"a\n", b"\xff\xfe", false)).unwrap();
        assert_eq!(document["stdout"], "a\n");
        assert_eq!(document.get("stdout_base64"), None);
        assert_eq!(document["stderr"], "\u{fffd}\u{fffd}");
        assert_eq!(document["stderr_base64"], "//4=");
        assert_eq!(document.get("truncated"), None);
    }

    #[test]
    fn an_array_that_is_printed_as_it_comes_is_the_same_document() {
        let rows = [CommandRow { id: "a".into(), ..CommandRow::default() }, CommandRow::default()];
        for rows in [&rows[..0], &rows[..1], &rows] {
            let mut text = String::new();
            for (at, row) in rows.iter().enumerate() {
                text += &element(&command(row), at == 0);
            }
            text += elements_end(rows.is_empty());
            assert_eq!(text, document(&rows.iter().map(command).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn a_command_that_waits_says_why_and_until_when() {
        let row = CommandRow { agent_away: "kei is away".into(), expires_unix_ms: 1000, ..CommandRow::default() };
        let shown = to_value(command(&row)).unwrap();
        assert_eq!((&shown["reason"], &shown["expires"]), (&json!("kei is away"), &json!("1970-01-01T00:00:01.000Z")));
    }

    #[test]
    fn base64_is_padded() {
        for (data, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(data.as_bytes()), text);
        }
    }
}
