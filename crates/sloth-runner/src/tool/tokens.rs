//! `token create`, `token list` and `token revoke`.

use super::{
    Tool, fail, json, print, say, show_answer,
    table::{Cell, Colour, Table, printable},
    time,
};
use crate::cli::{Format, TokenCommand};
use proto::{CreateTokenReply, CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, TokenRow};
use serde::Serialize;
use sloth_agent::config::describe;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A token for agents is good for so long, unless told otherwise; one for people until it is revoked.
const AGENT_TTL_MS: u64 = 24 * 3_600_000;

pub async fn token(tool: &Tool, command: TokenCommand) -> i32 {
    match command {
        TokenCommand::Create { role, ttl, uses, name, label, file } => {
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
            create(tool, request, file).await
        }
        TokenCommand::List => {
            let request = ListTokensRequest {};
            let answer = tool.master.call(async move |mut client| client.list_tokens(request).await).await;
            show_answer(tool.format, answer, |reply| match tool.format {
                Format::Json => json::document(&reply.tokens.into_iter().map(Shown::of).collect::<Vec<_>>()),
                Format::Table => table(&reply.tokens, time::now_unix_ms()).render(tool.colours),
            })
        }
        TokenCommand::Revoke { id } => {
            let request = RevokeTokenRequest { id };
            let answer = tool.master.call(async move |mut client| client.revoke_token(request).await).await;
            show_answer(tool.format, answer, |reply| {
                match (tool.format, reply.already, reply.row.unwrap_or_default()) {
                    (Format::Json, _, row) => json::document(&Shown::of(row)),
                    (Format::Table, already, row) => revoked(&row, already, time::now_unix_ms()),
                }
            })
        }
    }
}

/// The secret goes to standard output alone, for scripts, or to the file alone.
async fn create(tool: &Tool, request: CreateTokenRequest, file: Option<PathBuf>) -> i32 {
    // Before there is a secret: without a place for it none is made.
    let place = match file.map(Place::new).transpose() {
        Ok(place) => place,
        Err(why) => {
            fail(tool.format, &why);
            return 1;
        }
    };
    let reply = match tool.master.call(async move |mut client| client.create_token(request).await).await {
        Ok(reply) => reply,
        Err(trouble) => {
            fail(tool.format, &trouble.to_string());
            return 1;
        }
    };
    let CreateTokenReply { token, row } = reply;
    let row = row.unwrap_or_default();
    let ends = format!("`sloth-runner token revoke {}` ends it", row.id);
    let Some(place) = place else {
        if tool.format == Format::Json {
            return print(&json::document(&Created { token: Some(token), file: None, row: Shown::of(row) }));
        }
        say(&format!("token {}; {}", printable(&row.id), printable(&ends)));
        // Nothing else can be mistaken for it.
        return print(&(token + "\n"));
    };
    let path = match place.keep(&token) {
        Ok(path) => path.display().to_string(),
        Err(why) => {
            fail(tool.format, &format!("{why}; the token {} was made, and is lost: {ends}", row.id));
            return 1;
        }
    };
    match tool.format {
        Format::Json => print(&json::document(&Created { token: None, file: Some(path), row: Shown::of(row) })),
        Format::Table => print(&(printable(&format!("token {} is in {path}; {ends}", row.id)) + "\n")),
    }
}

/// A new file for a secret. Removed, unless one is kept in it.
struct Place {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Place {
    fn new(path: PathBuf) -> Result<Self, String> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(Self { path, file, kept: false }),
            // What an interrupted call left behind.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_ours_and_empty(&path) => {
                let file = OpenOptions::new().write(true).open(&path);
                let file = file.map_err(|error| format!("--file is {}: {}", path.display(), describe(&error)))?;
                Ok(Self { path, file, kept: false })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(format!("{} is there already, and is not overwritten: name another --file", path.display()))
            }
            Err(error) => Err(format!("--file is {}: {}", path.display(), describe(&error))),
        }
    }

    fn keep(mut self, token: &str) -> Result<PathBuf, String> {
        let written = self.file.write_all(format!("{token}\n").as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| format!("{} cannot be written: {}", self.path.display(), describe(&error)))?;
        self.kept = true;
        Ok(self.path.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_ours_and_empty(path: &Path) -> bool {
    // SAFETY: it has no arguments, and cannot fail.
    let us = unsafe { libc::geteuid() };
    path.symlink_metadata()
        .is_ok_and(|found| found.is_file() && found.len() == 0 && found.uid() == us && found.mode() & 0o777 == 0o600)
}

fn revoked(row: &TokenRow, already: bool, now_unix_ms: u64) -> String {
    let id = printable(&row.id);
    match time::rfc3339(row.revoked_unix_ms).filter(|_| already) {
        None => format!("token {id} is revoked{}\n", if already { " already" } else { "" }),
        Some(since) => {
            format!("token {id} is revoked already, since {since} ({})\n", time::ago(now_unix_ms, row.revoked_unix_ms))
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
    /// Else it is in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(flatten)]
    row: Shown,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    role: String,
    state: String,
    name: Option<String>,
    labels: BTreeMap<String, String>,
    created: Option<String>,
    expires: Option<String>,
    uses_left: Option<u32>,
    /// Since when; null also where a master of an earlier version does not say.
    revoked: Option<String>,
}

impl Shown {
    fn of(row: TokenRow) -> Self {
        Self {
            id: row.id,
            role: row.role,
            state: row.state,
            name: Some(row.name).filter(|name| !name.is_empty()),
            labels: row.labels.into_iter().collect(),
            created: time::rfc3339(row.created_unix_ms),
            expires: time::rfc3339(row.expires_unix_ms),
            uses_left: row.limited.then_some(row.uses_left),
            revoked: time::rfc3339(row.revoked_unix_ms),
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
        let rows = [row("a", "valid", 7_310_000), row("b", "expired", 40_000), row("c", "valid", 0)];
        assert_eq!(
            table(&rows, 100_000).render(false),
            "ID  ROLE   STATE    NAME  USES LEFT  EXPIRES  LABELS\n\
             a   agent  valid          any        in 2h\n\
             b   agent  expired        any        1m ago\n\
             c   agent  valid          any        never\n"
        );
    }

    #[test]
    fn a_token_without_a_name_has_none_in_json() {
        let name = |name: &str| Shown::of(TokenRow { name: name.into(), ..TokenRow::default() }).name;
        assert_eq!((name(""), name("eva")), (None, Some("eva".to_owned())));
    }

    #[test]
    fn a_token_that_was_revoked_before_is_said_to_be() {
        let row = |revoked_unix_ms| TokenRow { id: "a".into(), revoked_unix_ms, ..TokenRow::default() };
        assert_eq!(revoked(&row(1_000), false, 4_000), "token a is revoked\n");
        assert_eq!(
            revoked(&row(1_000), true, 4_000),
            "token a is revoked already, since 1970-01-01T00:00:01.000Z (3s ago)\n"
        );
        assert_eq!(revoked(&row(0), true, 4_000), "token a is revoked already\n");
    }
    #[test]
    fn a_file_for_a_token_is_new_and_its_owners_alone_and_gone_if_there_is_none() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.token");
        drop(Place::new(path.clone()).unwrap());
        assert!(!path.exists(), "no token was made");
        Place::new(path.clone()).unwrap().keep("sloth1.a").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "sloth1.a\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = Place::new(path.clone()).err().unwrap();
        assert!(again.ends_with("a.token is there already, and is not overwritten: name another --file"), "{again}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "sloth1.a\n");
    }
}
