//! `sloth-runner agent events`.

use super::{
    Answer, Tool,
    connect::{Master, PATIENCE, Trouble},
    follow::{GOOD, UNANSWERED_MAX},
    json, output_failed, print, say,
    signals::{Signals, Wish},
    table::printable,
    time::rfc3339,
    writer,
};
use crate::{cli::Format, clock::sleep};
use proto::{EventRow, EventsRequest};
use tokio::{select, time::Instant};

/// With `--follow`, unless said otherwise.
const LAST_WHEN_FOLLOWING: u32 = 10;
/// As the master understands it.
const ALL: u32 = 0;

/// Every kind that a master of this version writes. A listing follows, so that it cannot wait for the longest one to know
/// how wide the column is.
const KINDS: [&str; 21] = [
    "agent.connected",
    "agent.deleted",
    "agent.joined",
    "agent.lost",
    "agent.rejected",
    "agent.renewed",
    "agent.replaced",
    "agent.stopped",
    "audit.cancel",
    "audit.delete",
    "audit.lost",
    "audit.run",
    "audit.signed_in",
    "audit.signed_out",
    "audit.stop",
    "audit.token_created",
    "audit.token_revoked",
    "command.finished",
    "command.not_adopted",
    "command.output_failed",
    "master.started",
];

/// As wide as the longest of them.
const KIND_WIDTH: usize = {
    let (mut at, mut widest) = (0, 0);
    while at < KINDS.len() {
        if KINDS[at].len() > widest {
            widest = KINDS[at].len();
        }
        at += 1;
    }
    widest
};

pub async fn show(tool: &Tool, name: Option<String>, follow: bool, last: Option<u32>) -> i32 {
    let wanted = last.unwrap_or(if follow { LAST_WHEN_FOLLOWING } else { ALL });
    let mut request = EventsRequest { name: name.unwrap_or_default(), after_seq: 0, follow, last: wanted };
    let none = last == Some(0);
    if none {
        // The newest one says where the coming ones begin.
        let newest = EventsRequest { follow: false, last: 1, ..request.clone() };
        if let Err(trouble) = past(&tool.master, newest, |row| request.after_seq = row.seq).await {
            return failed(tool.format, follow, &trouble);
        }
    }
    if !follow {
        let mut rows = Vec::new();
        let mut text = String::new();
        let shown = past(&tool.master, request, |row| match tool.format {
            _ if none => {}
            Format::Json => rows.push(row),
            Format::Table => text.push_str(&line(&row)),
        });
        if let Err(trouble) = shown.await {
            return failed(tool.format, follow, &trouble);
        }
        if tool.format == Format::Json {
            text = json::document(&rows.iter().map(json::event).collect::<Vec<_>>());
        }
        return print(&text);
    }
    let (mut signals, (writer, written)) = match Signals::new().and_then(|signals| Ok((signals, writer::standard()?))) {
        Ok(both) => both,
        Err(error) => {
            Answer::of(tool.format, true).fail(&format!("cannot start: {error}"));
            return 1;
        }
    };
    let shown = async {
        let code = follow_on(&tool.master, request, async |row| {
            let text = match tool.format {
                Format::Json => json::line(&json::event(&row)),
                Format::Table => line(&row),
            };
            i32::from(writer.out(text.into()).await.is_err())
        });
        let code = code.await;
        drop(writer);
        match (written.finish().await, code) {
            (Err(error), _) => output_failed(&error),
            (Ok(()), Ok(code)) => code,
            (Ok(()), Err(trouble)) => failed(tool.format, follow, &trouble),
        }
    };
    select! {
        code = shown => code,
        // Else it would be noticed with the next event, which may be long in coming.
        () = writer::unread() => 1,
        wish = signals.next() => match wish {
            Wish::Interrupt => 130,
            Wish::Leave => 1,
        },
    }
}

/// Says why there are no events, or no more; the exit code.
fn failed(format: Format, following: bool, trouble: &Trouble) -> i32 {
    Answer::of(format, following).fail(&trouble.to_string());
    1
}

/// Past events, oldest first.
pub async fn past(master: &Master, request: EventsRequest, mut show: impl FnMut(EventRow)) -> Result<(), Trouble> {
    let mut stream = master.call(async move |mut client| client.events(request).await).await?;
    while let Some(reply) = stream.message().await.map_err(|status| master.trouble(&status))? {
        reply.events.into_iter().for_each(&mut show);
    }
    Ok(())
}

/// Past and coming events, each once, over lost connections. Ends with the exit code when `show` returns anything but 0.
///
/// # Errors
/// The master says no, or cannot be reached at first.
pub async fn follow_on(
    master: &Master,
    mut request: EventsRequest,
    mut show: impl AsyncFnMut(EventRow) -> i32,
) -> Result<i32, Trouble> {
    let (mut answered, mut unanswered, mut failures) = (false, 0, 0);
    loop {
        let began = Instant::now();
        let outcome = async {
            let (number, mut client) = master.patiently(PATIENCE, master.client()).await?;
            let outcome = async {
                let asked = client.events(request.clone());
                let mut stream = master.patiently(PATIENCE, asked).await?.into_inner();
                answered = true;
                if let Some(line) = master.say_back() {
                    say(&line);
                }
                while let Some(reply) = stream.message().await? {
                    for row in reply.events {
                        // Where to go on from, and no past ones beside.
                        (request.after_seq, request.last) = (row.seq, 0);
                        let code = show(row).await;
                        if code != 0 {
                            return Ok(Some(code));
                        }
                    }
                }
                Ok(None)
            };
            let outcome = outcome.await.map_err(|status: tonic::Status| master.trouble(&status));
            master.forget(number).await;
            outcome
        };
        let trouble = match outcome.await {
            Ok(Some(code)) => return Ok(code),
            Ok(None) => master.hung_up(),
            Err(trouble) => trouble,
        };
        unanswered += u32::from(!answered);
        let refused = !answered && matches!(trouble, Trouble::Unreachable { .. });
        if refused || unanswered == UNANSWERED_MAX || !trouble.is_passing() {
            return Err(trouble);
        }
        if let Some(line) = master.say_lost(&trouble) {
            say(&line);
        }
        failures = if began.elapsed() >= GOOD { 1 } else { failures + 1 };
        sleep(master.waits().before(failures)).await;
    }
}

fn line(row: &EventRow) -> String {
    let time = rfc3339(row.time_unix_ms).unwrap_or_else(|| "-".to_owned());
    let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", row.reason) };
    // Not all that happens is about an agent.
    let about = format!("{}{reason}", row.agent);
    let between = if about.is_empty() || row.message.is_empty() { "" } else { ": " };
    let text = format!("{time}  {:<KIND_WIDTH$}  {}{between}{}", row.kind, about.trim_start(), row.message);
    printable(&text) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    #[test]
    fn an_event_is_one_line_whatever_stands_in_it() {
        let row = EventRow {
            time_unix_ms: 1000,
            kind: "agent.lost".into(),
            agent: "mari".into(),
            reason: "stream_closed".into(),
            message: "closed\nby peer".into(),
            ..EventRow::default()
        };
        assert_eq!(
            line(&row),
            "1970-01-01T00:00:01.000Z  agent.lost             mari (stream_closed): closed\\nby peer\n"
        );
    }

    #[test]
    fn an_event_about_no_agent_has_no_empty_place_for_one() {
        let kind = "audit.token_created".to_owned();
        let row = EventRow { time_unix_ms: 1000, kind, message: "token a created".into(), ..EventRow::default() };
        assert_eq!(line(&row), "1970-01-01T00:00:01.000Z  audit.token_created    token a created\n");
    }
    #[test]
    fn what_is_said_begins_at_one_place_whatever_the_kind() {
        let places = KINDS.map(|kind| {
            let row = EventRow { time_unix_ms: 1000, kind: kind.into(), agent: "MARI".into(), ..EventRow::default() };
            line(&row).find("  MARI").unwrap()
        });
        assert_eq!(places, [places[0]; KINDS.len()]);
    }

    /// The words of the sources that look like a kind are the list.
    #[test]
    fn no_kind_that_the_master_writes_is_missing() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut written = BTreeSet::new();
        for folder in ["src/master", "src/web", "../fleet/src"] {
            kinds_in(&here.join(folder), &mut written);
        }
        assert_eq!(written.into_iter().collect::<Vec<_>>(), KINDS);
    }

    fn kinds_in(folder: &Path, written: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                kinds_in(&entry.path(), written);
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            for word in text.split('"').filter(|word| word.len() < 40) {
                let Some((of, what)) = word.split_once('.') else { continue };
                let fits = what.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                if ["agent", "audit", "command", "master"].contains(&of) && fits && !what.is_empty() {
                    written.insert(word.to_owned());
                }
            }
        }
    }
}
