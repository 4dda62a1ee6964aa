//! `token create`, `token list` and `token revoke`.

use super::{
    Tool, show_answer,
    table::{Cell, Colour, Table, printable},
    time,
};
use crate::cli::{Format, TokenCommand};
use proto::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, TokenRow};
use serde::Serialize;
use std::collections::BTreeMap;

/// A token for agents is good for so long, unless told otherwise; one for people until it is revoked.
const AGENT_TTL_MS: u64 = 24 * 3_600_000;

pub async fn token(tool: &Tool, command: TokenCommand) -> i32 {
    match command {
        TokenCommand::Create { role, ttl, uses, name, label } => {
            let for_agents = role.word() == "agent";
            let ttl_ms = match ttl {
                Some(ttl) => u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
                None if for_agents => AGENT_TTL_MS,
                None => 0,
            };
            let request = CreateTokenRequest {
                role: role.word().to_owned(),
                ttl_ms,
                uses: uses.unwrap_or(0),
                name: name.unwrap_or_default(),
                labels: label.into_iter().collect(),
            };
            let answer = tool.master.call(async move |mut client| client.create_token(request).await).await;
            show_answer(tool.format, answer, |reply| match (tool.format, reply.row) {
                // Scripts take the one line; nothing else can be mistaken for it.
                (Format::Json, Some(row)) => {
                    super::json::document(&Created { token: reply.token, row: Shown::of(row) })
                }
                _ => reply.token + "\n",
            })
        }
        TokenCommand::List => {
            let request = ListTokensRequest {};
            let answer = tool.master.call(async move |mut client| client.list_tokens(request).await).await;
            show_answer(tool.format, answer, |reply| match tool.format {
                Format::Json => super::json::document(&reply.tokens.into_iter().map(Shown::of).collect::<Vec<_>>()),
                Format::Table => table(&reply.tokens, time::now_unix_ms()).render(tool.colours),
            })
        }
        TokenCommand::Revoke { id } => {
            let request = RevokeTokenRequest { id };
            let answer = tool.master.call(async move |mut client| client.revoke_token(request).await).await;
            show_answer(tool.format, answer, |reply| {
                let row = reply.row.unwrap_or_default();
                match tool.format {
                    Format::Json => super::json::document(&Shown::of(row)),
                    Format::Table => format!("token {} is revoked\n", printable(&row.id)),
                }
            })
        }
    }
}

fn table(rows: &[TokenRow], now_unix_ms: u64) -> Table {
    let mut table = Table::new(&["ID", "ROLE", "STATE", "NAME", "USES LEFT", "EXPIRES", "LABELS"]);
    for row in rows {
        let labels: BTreeMap<_, _> = row.labels.iter().collect();
        let labels: Vec<_> = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        let uses = if row.limited { row.uses_left.to_string() } else { "any".to_owned() };
        let expires = match row.expires_unix_ms {
            0 => "never".to_owned(),
            past if past <= now_unix_ms => time::ago(now_unix_ms, past),
            to_come => time::ahead(now_unix_ms, to_come),
        };
        let colour = if row.state == "valid" { Colour::Green } else { Colour::Dim };
        table.row(vec![
            Cell::new(&row.id),
            Cell::new(&row.role),
            Cell::new(&row.state).coloured(colour),
            Cell::new(&row.name),
            Cell::new(&uses),
            Cell::new(&expires),
            Cell::new(labels.join(",")),
        ]);
    }
    table
}

#[derive(Serialize)]
struct Created {
    token: String,
    #[serde(flatten)]
    row: Shown,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    role: String,
    state: String,
    name: String,
    labels: BTreeMap<String, String>,
    created: Option<String>,
    expires: Option<String>,
    uses_left: Option<u32>,
}

impl Shown {
    fn of(row: TokenRow) -> Self {
        Self {
            id: row.id,
            role: row.role,
            state: row.state,
            name: row.name,
            labels: row.labels.into_iter().collect(),
            created: time::rfc3339(row.created_unix_ms),
            expires: time::rfc3339(row.expires_unix_ms),
            uses_left: row.limited.then_some(row.uses_left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_how_long_they_are_good() {
        let row = |id: &str, state: &str, expires_unix_ms| TokenRow {
            id: id.into(),
            role: "agent".into(),
            state: state.into(),
            expires_unix_ms,
            ..TokenRow::default()
        };
        let rows = [row("a", "valid", 7_300_000), row("b", "expired", 40_000), row("c", "valid", 0)];
        assert_eq!(
            table(&rows, 100_000).render(false),
            "ID  ROLE   STATE    NAME  USES LEFT  EXPIRES  LABELS\n\
             a   agent  valid          any        in 2h\n\
             b   agent  expired        any        60s ago\n\
             c   agent  valid          any        never\n"
        );
    }
}
