//! `sloth-runner command …`.

use super::{
    Answer, Tool, complain,
    connect::{Master, Trouble},
    ending::{self, Ending},
    fail,
    follow::{Call, follow},
    json,
    output::{Budget, Collected, JsonLines, Raw},
    output_failed, print, say, show_answer,
    signals::{Signals, Wish},
    table::{Cell, Colour, Table, printable},
    time::{ago, ahead, now_unix_ms, rfc3339},
    writer,
};
use crate::cli::{Format, Outcome, State};
use proto::{CancelRequest, CommandRow, CommandSpec, GetCommandRequest, ListCommandsRequest, outcome::Kind};
use std::{fmt::Write, time::Duration};
use tokio::{select, sync::watch};

/// What to list.
pub fn wanted(
    agent: Option<String>,
    state: Option<State>,
    outcome: Option<Outcome>,
    since: Option<Duration>,
    before: Option<String>,
    limit: u32,
) -> ListCommandsRequest {
    let since = since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    ListCommandsRequest {
        agent: agent.unwrap_or_default(),
        state: state.map(State::word).unwrap_or_default().to_owned(),
        outcome: outcome.map(Outcome::word).unwrap_or_default().to_owned(),
        since_unix_ms: since.map_or(0, |since| now_unix_ms().saturating_sub(since)),
        before_id: before.unwrap_or_default(),
        limit,
    }
}

/// All of them, as the master lists them.
///
/// # Errors
/// As [`Master::call`]; also when the list breaks off.
pub async fn all(master: &Master, request: ListCommandsRequest) -> Result<Vec<CommandRow>, Trouble> {
    let mut stream = master.call(async move |mut client| client.list_commands(request).await).await?;
    let mut rows = Vec::new();
    while let Some(reply) = stream.message().await.map_err(|status| master.trouble(&status))? {
        rows.extend(reply.commands);
    }
    Ok(rows)
}

/// Prints as it comes: of a long list only what a table shows is kept.
pub async fn show_list(tool: &Tool, request: ListCommandsRequest) -> i32 {
    let limit = request.limit as usize;
    let mut shown = Listing::new(tool);
    let rows = async {
        let mut stream = tool.master.call(async move |mut client| client.list_commands(request).await).await?;
        while let Some(reply) = stream.message().await.map_err(|status| tool.master.trouble(&status))? {
            if shown.take(&reply.commands) != 0 {
                break;
            }
        }
        Ok::<_, Trouble>(())
    };
    match rows.await {
        Ok(()) => shown.end(limit),
        Err(trouble) if shown.count == 0 => {
            fail(tool.format, &trouble.to_string());
            1
        }
        // A document that was begun stays unfinished: nobody takes it for the whole.
        Err(trouble) => {
            complain(trouble);
            1
        }
    }
}

/// A list of commands on its way to the screen.
struct Listing<'a> {
    tool: &'a Tool,
    table: Table,
    count: usize,
    last: String,
    now_unix_ms: u64,
    /// Of what was printed so far.
    code: i32,
}

impl<'a> Listing<'a> {
    fn new(tool: &'a Tool) -> Self {
        Self { tool, table: table(), count: 0, last: String::new(), now_unix_ms: now_unix_ms(), code: 0 }
    }

    /// Returns the exit code if nobody reads any more, else 0.
    fn take(&mut self, rows: &[CommandRow]) -> i32 {
        for row in rows {
            match self.tool.format {
                Format::Table => self.table.row(cells(row, self.now_unix_ms)),
                Format::Json if self.code == 0 => {
                    self.code = print(&json::element(&json::command(row), self.count == 0));
                }
                Format::Json => {}
            }
            self.count += 1;
            self.last.clone_from(&row.id);
        }
        self.code
    }

    /// Returns the exit code.
    fn end(self, limit: usize) -> i32 {
        let code = match self.tool.format {
            _ if self.code != 0 => self.code,
            Format::Table => print(&self.table.render(self.tool.colours)),
            Format::Json => print(json::elements_end(self.count == 0)),
        };
        if code == 0 && self.count >= limit && self.tool.format == Format::Table {
            say(&format!("there may be more: --before {} shows older ones, --limit more at once", self.last));
        }
        code
    }
}

pub async fn show(tool: &Tool, id: String) -> i32 {
    let row = tool.master.call(async move |mut client| client.get_command(GetCommandRequest { id }).await).await;
    show_answer(tool.format, row, |row| match tool.format {
        Format::Json => json::document(&json::command(&row)),
        Format::Table => in_full(&row, now_unix_ms()),
    })
}

/// The whole id of what was given in full or by its beginning: the master takes the latter only to look at a command, so
/// that nothing else is ever done to one that was not meant.
async fn whole_id(tool: &Tool, id: String) -> Result<String, Trouble> {
    let request = GetCommandRequest { id };
    Ok(tool.master.call(async move |mut client| client.get_command(request).await).await?.id)
}

pub async fn cancel(tool: &Tool, id: String) -> i32 {
    let row = async {
        let id = whole_id(tool, id).await?;
        tool.master.call(async move |mut client| client.cancel(CancelRequest { id }).await).await
    };
    let row = row.await;
    show_answer(tool.format, row, |row| match (tool.format, &row.outcome) {
        (Format::Json, _) => json::document(&json::command(&row)),
        (Format::Table, None) => format!("cancelling {} on {}\n", printable(&row.id), printable(&row.agent)),
        (Format::Table, outcome) => {
            format!("{} {}\n", printable(&row.id), printable(&ending::in_words(outcome.as_ref())))
        }
    })
}

pub async fn logs(tool: &Tool, id: String, to_the_end: bool) -> i32 {
    let (signals, standard) = (Signals::new(), writer::standard());
    let (mut signals, (writer, written)) = match signals.and_then(|signals| Ok((signals, standard?))) {
        Ok(both) => both,
        Err(error) => {
            Answer::of(tool.format, to_the_end).fail(&format!("cannot start: {error}"));
            return 1;
        }
    };
    let shown = async {
        let id = match whole_id(tool, id.clone()).await {
            Ok(id) => id,
            // Following makes up for lost connections.
            Err(trouble) if trouble.is_passing() => id,
            Err(trouble) => return (Ending::Failed(trouble.to_string()), Ok(())),
        };
        let call = Call::Logs { id: id.clone(), follow: to_the_end };
        // Nobody cancels here: the sender is dropped at once.
        let (_, cancel) = watch::channel(false);
        let mut collected = Collected::new(Budget::default(), writer.clone());
        let ending = match (tool.format, to_the_end) {
            (Format::Table, _) => follow(&tool.master, call, None, cancel, &mut Raw(writer.clone())).await,
            (Format::Json, true) => follow(&tool.master, call, None, cancel, &mut JsonLines(writer.clone())).await,
            (Format::Json, false) => follow(&tool.master, call, None, cancel, &mut collected).await,
        };
        if let (Format::Json, Ending::Finished(row) | Ending::Detached(row)) = (tool.format, &ending) {
            let row = json::command(row);
            let text = if to_the_end {
                json::line(&row)
            } else {
                json::document(&json::with_output(row, &collected.stdout, &collected.stderr, collected.truncated))
            };
            let _ = writer.out(text.into()).await;
        }
        drop((writer, collected));
        (ending, written.finish().await)
    };
    select! {
        (ending, written) = shown => match (ending, written) {
            (_, Err(error)) => output_failed(&error),
            (Ending::Failed(why) | Ending::Never(why), _) => {
                Answer::of(tool.format, to_the_end).fail(&why);
                1
            }
            _ => 0,
        },
        wish = signals.next() => match wish {
            Wish::Interrupt => ending::INTERRUPTED,
            Wish::Leave => 1,
        },
    }
}

fn table() -> Table {
    Table::new(&["ID", "AGENT", "STATE", "OUTCOME", "CREATED", "COMMAND"])
}

fn cells(row: &CommandRow, now_unix_ms: u64) -> Vec<Cell> {
    let colour = match row.outcome.as_ref().map(|outcome| (outcome.kind(), outcome.code)) {
        None => Colour::Dim,
        Some((Kind::Exited, 0)) => Colour::Green,
        Some(_) => Colour::Red,
    };
    vec![
        Cell::new(&row.id),
        Cell::new(&row.agent),
        Cell::new(stands(row).0),
        Cell::new(short(row)).coloured(colour),
        ago(now_unix_ms, row.created_unix_ms).into(),
        Cell::new(shorten(&row.spec.as_ref().map(line).unwrap_or_default())),
    ]
}

/// The outcome in a word, with its number.
fn short(row: &CommandRow) -> String {
    let Some(outcome) = &row.outcome else { return "-".to_owned() };
    match (ending::word(outcome), outcome.kind()) {
        (Some(word), Kind::Exited) => format!("{word} {}", outcome.code),
        (Some(word), Kind::Signaled) => format!("{word} {}", outcome.signal),
        (word, _) => word.unwrap_or("unknown").to_owned(),
    }
}

fn in_full(row: &CommandRow, now_unix_ms: u64) -> String {
    let mut text = String::new();
    let mut field = |what: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{what:<10}{}", printable(value));
        }
    };
    let when =
        |unix_ms| rfc3339(unix_ms).map(|time| format!("{} ({time})", ago(now_unix_ms, unix_ms))).unwrap_or_default();
    field("Id", &row.id);
    field("Agent", &row.agent);
    field("Command", &row.spec.as_ref().map(line).unwrap_or_default());
    let (word, more) = stands(row);
    field("State", &format!("{word}{more}"));
    field("Waits", &row.agent_away);
    field("Output", &row.output_stalls);
    let to_come = |unix_ms| rfc3339(unix_ms).map(|time| format!("{} ({time})", ahead(now_unix_ms, unix_ms)));
    field("Expires", &to_come(row.expires_unix_ms).unwrap_or_default());
    // The words of the list.
    field("Outcome", &short(row));
    field("Reason", row.outcome.as_ref().map_or("", |outcome| &outcome.reason));
    field("Created", &when(row.created_unix_ms));
    field("Started", &when(row.started_unix_ms));
    field("Finished", &when(row.finished_unix_ms));
    field("Output", &format!("{} bytes", row.output_bytes));
    for gap in &row.gaps {
        field("Gap", &format!("{} bytes at {}", gap.bytes, gap.offset));
    }
    text
}

/// How it stands, in a word; and what a list has no room for. The page says the same (web/assets/page.js).
fn stands(row: &CommandRow) -> (&str, &'static str) {
    match (row.state.as_str(), row.started_unix_ms > 0) {
        (state @ "finished", _) => (state, ""),
        (_, true) if row.cancel_asked => ("cancelling", ", it runs still"),
        _ if row.cancel_asked => ("cancelling", ""),
        ("accepted", true) => ("running", ""),
        // Also an agent of an earlier version, which does not say when it starts one.
        (state @ "accepted", false) => (state, ", not known to have started"),
        (state, _) => (state, ""),
    }
}

/// What runs, as one would type it.
fn line(spec: &CommandSpec) -> String {
    if !spec.shell.is_empty() {
        return spec.shell.clone();
    }
    let words: Vec<String> = spec.argv.iter().map(|word| quote(&String::from_utf8_lossy(word))).collect();
    words.join(" ")
}

/// As one would type it for a shell.
pub fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_stands_in_the_list_as_it_does_by_itself() {
        let row = |state: &str, started_unix_ms, cancel_asked| CommandRow {
            id: "c1".into(),
            state: state.into(),
            started_unix_ms,
            cancel_asked,
            ..CommandRow::default()
        };
        for (row, word, more) in [
            (row("queued", 0, false), "queued", ""),
            (row("sent", 0, true), "cancelling", ""),
            (row("accepted", 0, false), "accepted", ", not known to have started"),
            (row("accepted", 5, false), "running", ""),
            (row("accepted", 0, true), "cancelling", ""),
            (row("accepted", 5, true), "cancelling", ", it runs still"),
            (row("finished", 5, true), "finished", ""),
        ] {
            let mut list = table();
            list.row(cells(&row, 4_000));
            assert!(list.render(false).contains(&format!("  {word}  ")), "{row:?}: {}", list.render(false));
            assert!(in_full(&row, 4_000).contains(&format!("State     {word}{more}\n")), "{}", in_full(&row, 4_000));
        }
    }

    #[test]
    fn commands_are_listed_as_they_would_be_typed() {
        let row = CommandRow {
            id: "c1".into(),
            agent: "mari".into(),
            state: "finished".into(),
            outcome: Some((&link::Outcome::Exited(3)).into()),
            spec: Some(CommandSpec { argv: vec![b"echo".to_vec(), b"a b'c".to_vec()], ..CommandSpec::default() }),
            created_unix_ms: 1_000,
            ..CommandRow::default()
        };
        let mut shown = table();
        shown.row(cells(&row, 4_000));
        assert_eq!(
            shown.render(false),
            "ID  AGENT  STATE     OUTCOME   CREATED  COMMAND\n\
             c1  mari   finished  exited 3  3s ago   echo 'a b'\\''c'\n"
        );
        assert_eq!(shorten(&"x".repeat(61)).chars().count(), 60);
    }
}
