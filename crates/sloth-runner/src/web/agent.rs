//! `/api/agents/{id}`: one agent, and its commands.

use super::{
    Web,
    guard::{json, refuse, status},
};
use crate::{
    master::FleetService,
    tool::{ending, explain, json as documents, quote, time::rfc3339},
};
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use proto::{CommandRow, GetRequest, ListCommandsRequest, fleet_server::Fleet, outcome::Kind};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio_stream::StreamExt;
use tonic::Request;

/// Commands in one answer.
const COMMANDS: u32 = 20;
/// Of a command line, characters: it may be as long as a message.
const LINE_MAX: usize = 400;

#[derive(Serialize)]
struct One<'a> {
    now: u64,
    agent: documents::AgentInFull<'a>,
    explain: explain::Explained<'a>,
}

pub async fn serve(State(web): State<Arc<Web>>, Path(id): Path<String>) -> Response {
    let service = FleetService { core: web.core.clone() };
    let reply = match service.explain(Request::new(GetRequest { name: id })).await {
        Ok(reply) => reply.into_inner(),
        Err(error) => return status(&error),
    };
    let Some(agent) = &reply.agent else { return refuse(StatusCode::NOT_FOUND, "there is no such agent") };
    let agent = documents::agent_in_full(agent);
    json(StatusCode::OK, &One { now: web.core.now().unix_ms, agent, explain: explain::document(&reply) })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct From {
    /// Older than this command.
    before: String,
}

#[derive(Serialize)]
struct Commands {
    rows: Vec<Command>,
    more: bool,
}

/// As `command list` shows it; environments are not shown, they may hold secrets.
#[derive(Serialize)]
pub struct Command {
    id: String,
    line: String,
    state: String,
    outcome: Option<&'static str>,
    code: Option<i32>,
    signal: Option<i32>,
    reason: String,
    created: Option<String>,
    started: Option<String>,
    finished: Option<String>,
    output_bytes: u64,
    cancelling: bool,
}

pub async fn commands(State(web): State<Arc<Web>>, Path(id): Path<String>, Query(from): Query<From>) -> Response {
    let service = FleetService { core: web.core.clone() };
    let name = match service.get(Request::new(GetRequest { name: id })).await {
        Ok(row) => row.into_inner().name,
        Err(error) => return status(&error),
    };
    let wanted =
        ListCommandsRequest { agent: name, limit: COMMANDS, before_id: from.before, ..ListCommandsRequest::default() };
    let mut replies = match service.list_commands(Request::new(wanted)).await {
        Ok(replies) => replies.into_inner(),
        Err(error) => return status(&error),
    };
    let mut rows = Vec::new();
    while let Some(reply) = replies.next().await {
        match reply {
            Ok(reply) => rows.extend(reply.commands.into_iter().map(command)),
            Err(error) => return status(&error),
        }
    }
    let more = rows.len() >= COMMANDS as usize;
    json(StatusCode::OK, &Commands { rows, more })
}

pub fn command(row: CommandRow) -> Command {
    let outcome = row.outcome.as_ref();
    let kind = outcome.map(proto::Outcome::kind);
    Command {
        line: line(&row),
        outcome: outcome.and_then(ending::word),
        code: outcome.filter(|_| kind == Some(Kind::Exited)).map(|outcome| outcome.code),
        signal: outcome.filter(|_| kind == Some(Kind::Signaled)).map(|outcome| outcome.signal),
        reason: outcome.map_or_else(|| row.agent_away.clone(), |outcome| outcome.reason.clone()),
        created: rfc3339(row.created_unix_ms),
        started: rfc3339(row.started_unix_ms),
        finished: rfc3339(row.finished_unix_ms),
        output_bytes: row.output_bytes,
        cancelling: row.cancel_asked && outcome.is_none(),
        id: row.id,
        state: row.state,
    }
}

/// What runs, cut where it is long.
fn line(row: &CommandRow) -> String {
    let Some(spec) = &row.spec else { return String::new() };
    let mut text = String::new();
    for word in &spec.argv {
        // What is far longer is not even looked at.
        let word = String::from_utf8_lossy(&word[..word.len().min(4 * LINE_MAX)]);
        text.push_str(if text.is_empty() { "" } else { " " });
        text.push_str(&quote(&word));
        if text.len() > 4 * LINE_MAX {
            break;
        }
    }
    text.push_str(&spec.shell);
    match text.char_indices().nth(LINE_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_quoted_and_cut_and_environments_are_not_shown() {
        let spec = |argv: &[&[u8]], shell: &str| proto::CommandSpec {
            argv: argv.iter().map(|word| word.to_vec()).collect(),
            shell: shell.to_owned(),
            env: vec![b"TOKEN=secret".to_vec()],
            ..proto::CommandSpec::default()
        };
        let shown = |spec| command(CommandRow { spec: Some(spec), ..CommandRow::default() });
        assert_eq!(shown(spec(&[b"ls", b"a b", b"\xff"], "")).line, "ls 'a b' '\u{fffd}'");
        assert_eq!(shown(spec(&[], "ls | wc")).line, "ls | wc");
        let long = shown(spec(&[&[b'a'; 100_000], &[b'b'; 100_000]], ""));
        assert_eq!(long.line.chars().count(), LINE_MAX + 1);
        let text = serde_json::to_string(&long).unwrap();
        assert!(!text.contains("secret"), "{text}");
    }
}
