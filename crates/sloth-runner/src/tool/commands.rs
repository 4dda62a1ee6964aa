//! `sloth-runner command …`.

use super::{
    Tool, complain,
    connect::Trouble,
    ending::{self, Ending},
    follow::{Call, follow},
    json,
    output::{Budget, Collected, JsonLines, Raw},
    output_failed, show_answer,
    signals::{Signals, Wish},
    table::{Cell, Colour, Table, printable},
    time::{ago, now_unix_ms, rfc3339},
    writer,
};
use crate::cli::{Format, State};
use proto::{CancelRequest, CommandRow, CommandSpec, GetCommandRequest, ListCommandsRequest, outcome::Kind};
use std::fmt::Write;
use tokio::{select, sync::watch};

pub async fn show_list(tool: &Tool, agent: Option<String>, state: Option<State>, limit: u32) -> i32 {
    let state = state.map(State::word).unwrap_or_default().to_owned();
    let request = ListCommandsRequest { agent: agent.unwrap_or_default(), state, limit, before_id: String::new() };
    let rows = async {
        let mut stream = tool.master.call(async move |mut client| client.list_commands(request).await).await?;
        let mut rows = Vec::new();
        while let Some(reply) = stream.message().await.map_err(|status| tool.master.trouble(&status))? {
            rows.extend(reply.commands);
        }
        Ok(rows)
    };
    show_answer(rows.await, |rows| match tool.format {
        Format::Json => json::document(&rows.iter().map(json::command).collect::<Vec<_>>()),
        Format::Table => table(&rows, now_unix_ms()).render(tool.colours),
    })
}

pub async fn show(tool: &Tool, id: String) -> i32 {
    let row = tool.master.call(async move |mut client| client.get_command(GetCommandRequest { id }).await).await;
    show_answer(row, |row| match tool.format {
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
    show_answer(row, |row| match (tool.format, &row.outcome) {
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
            complain(format!("cannot start: {error}"));
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
                complain(why);
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

fn table(rows: &[CommandRow], now_unix_ms: u64) -> Table {
    let mut table = Table::new(&["ID", "AGENT", "STATE", "OUTCOME", "CREATED", "COMMAND"]);
    for row in rows {
        let colour = match row.outcome.as_ref().map(|outcome| (outcome.kind(), outcome.code)) {
            None => Colour::Dim,
            Some((Kind::Exited, 0)) => Colour::Green,
            Some(_) => Colour::Red,
        };
        table.row(vec![
            Cell::new(&row.id),
            Cell::new(&row.agent),
            Cell::new(&row.state),
            Cell::new(short(row)).coloured(colour),
            ago(now_unix_ms, row.created_unix_ms).into(),
            Cell::new(shorten(&row.spec.as_ref().map(line).unwrap_or_default())),
        ]);
    }
    table
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
    field("State", &row.state);
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
        assert_eq!(
            table(&[row], 4_000).render(false),
            "ID  AGENT  STATE     OUTCOME   CREATED  COMMAND\n\
             c1  mari   finished  exited 3  3s ago   echo 'a b'\\''c'\n"
        );
        assert_eq!(shorten(&"x".repeat(61)).chars().count(), 60);
    }
}
