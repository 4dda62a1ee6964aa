//! `sloth-runner agent list --watch`: the fleet as it changes, in place on a terminal, line by line in a pipe.

mod feed;
mod screen;

use super::{
    Answer, Tool, complain,
    connect::Trouble,
    json, output_failed,
    signals::{Signals, Wish},
    table::printable,
    time::{now_unix_ms, rfc3339},
    writer::{self, Gone, Writer},
};
use crate::{cli::Format, clock::sleep};
use feed::{News, feed};
use proto::{AgentRow, ListRequest};
use screen::Screen;
use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::Duration,
};
use tokio::{select, sync::mpsc};

/// Between two pictures of the same rows: what is told as "3s ago" ages.
const TICK: Duration = Duration::from_secs(1);

pub async fn show(tool: &Tool, request: ListRequest) -> i32 {
    let standard = Signals::new().and_then(|signals| Ok((signals, writer::standard()?)));
    let (mut signals, (writer, written)) = match standard {
        Ok(both) => both,
        Err(error) => {
            Answer::of(tool.format, true).fail(&format!("cannot start: {error}"));
            return 1;
        }
    };
    let in_place = tool.format == Format::Table
        && io::stdout().is_terminal()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let filtered = !(request.labels.is_empty() && request.status.is_empty());
    let (sender, mut news) = mpsc::channel(1);
    let shown = async {
        if in_place {
            on_a_terminal(tool, filtered, &mut news, &mut signals, &writer).await
        } else {
            in_a_pipe(tool, &mut news, &mut signals, &writer).await
        }
    };
    let ended = select! {
        ended = shown => ended,
        trouble = feed(&tool.master, request, sender) => Ended::Failed(trouble),
    };
    // Whatever ended it: a terminal is left as it was found.
    if in_place {
        let _ = writer.out(screen::LEAVE.into()).await;
    }
    drop(writer);
    let failed = written.finish().await.err();
    match (ended, failed) {
        (_, Some(error)) => output_failed(&error),
        (Ended::Failed(trouble), None) => {
            Answer::of(tool.format, true).fail(&trouble.to_string());
            1
        }
        (Ended::Asked(Wish::Interrupt), None) => 130,
        (Ended::Asked(Wish::Leave) | Ended::Unread, None) => 1,
    }
}

/// How watching ends.
enum Ended {
    Asked(Wish),
    Failed(Trouble),
    /// Nobody reads what is written.
    Unread,
}

impl From<Gone> for Ended {
    fn from(Gone: Gone) -> Self {
        Self::Unread
    }
}

async fn on_a_terminal(
    tool: &Tool,
    filtered: bool,
    news: &mut mpsc::Receiver<News>,
    signals: &mut Signals,
    writer: &Writer,
) -> Ended {
    let mut screen = Screen::new(tool.master.address().to_string(), filtered, tool.colours);
    let mut last = String::new();
    let mut kinds = match screen::Kinds::new() {
        Ok(kinds) => kinds,
        Err(error) => {
            complain(format!("cannot start: {error}"));
            return Ended::Unread;
        }
    };
    // Nothing is drawn before the first answer: what goes wrong until then is told on the terminal as it is.
    loop {
        select! {
            Some(told) = news.recv() => {
                let first = screen.is_empty();
                screen.take(told);
                if first && !screen.is_empty() && writer.out(screen::ENTER.into()).await.is_err() {
                    return Ended::Unread;
                }
            }
            () = sleep(TICK) => {}
            what = kinds.next() => {
                last.clear();
                if what == screen::Kind::Pause {
                    // The writer must have put the terminal right before this process stands still.
                    if writer.out(screen::LEAVE.into()).await.is_err() || writer.flushed().await.is_err() {
                        return Ended::Unread;
                    }
                    screen::pause();
                    if writer.out(screen::ENTER.into()).await.is_err() {
                        return Ended::Unread;
                    }
                }
            }
            wish = signals.next() => return Ended::Asked(wish),
        }
        if screen.is_empty() {
            continue;
        }
        let frame = screen.frame(screen::size(), now_unix_ms());
        // The same picture again would only flicker.
        if frame != last {
            last.clone_from(&frame);
            select! {
                put = writer.out(frame.into()) => if put.is_err() { return Ended::Unread },
                wish = signals.next() => return Ended::Asked(wish),
            }
        }
    }
}

async fn in_a_pipe(tool: &Tool, news: &mut mpsc::Receiver<News>, signals: &mut Signals, writer: &Writer) -> Ended {
    let mut known = BTreeMap::new();
    loop {
        let told = select! {
            Some(told) = news.recv() => told,
            // Else it would be noticed with the next change, which may be long in coming.
            () = writer::unread() => return Ended::Unread,
            wish = signals.next() => return Ended::Asked(wish),
        };
        match told {
            News::Rows(rows) => {
                let text: String = changes(&mut known, rows).iter().map(|change| line(change, tool.format)).collect();
                let put = select! {
                    put = writer.out(text.into()) => put,
                    wish = signals.next() => return Ended::Asked(wish),
                };
                if put.is_err() {
                    return Ended::Unread;
                }
            }
            News::Lost(line) | News::Back(line) => writer.notice(line).await,
        }
    }
}

/// One agent that is there, has changed, or is there no more.
enum Change {
    Is(AgentRow),
    Gone(AgentRow),
}

/// What is new in `rows`, by name; they are what is known from now on. A heartbeat is no change.
fn changes(known: &mut BTreeMap<(String, String), AgentRow>, rows: Vec<AgentRow>) -> Vec<Change> {
    let now: BTreeMap<_, _> = rows.into_iter().map(|row| ((row.name.clone(), row.id.clone()), row)).collect();
    let lasting = |row: &AgentRow| AgentRow { last_heartbeat_unix_ms: 0, node: None, ..row.clone() };
    let is_new = |(key, row): &(&(String, String), &AgentRow)| known.get(*key).map(lasting) != Some(lasting(row));
    let gone = known.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(_, row)| Change::Gone(row.clone()));
    let all = gone.chain(now.iter().filter(is_new).map(|(_, row)| Change::Is(row.clone()))).collect();
    *known = now;
    all
}

fn line(change: &Change, format: Format) -> String {
    match (change, format) {
        (Change::Is(row), Format::Json) => json::line(&json::agent(row)),
        (Change::Gone(row), Format::Json) => json::line(&json::gone(row)),
        (Change::Gone(row), Format::Table) => format!("{}  gone from the list\n", printable(&row.name)),
        (Change::Is(row), Format::Table) => {
            let since = rfc3339(row.since_unix_ms).map(|time| format!(" since {time}")).unwrap_or_default();
            let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", row.reason) };
            printable(&format!("{}  {}{since}{reason}", row.name, row.status)) + "\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_each_change_once_and_heartbeats_are_none() {
        let row = |name: &str, status: &str, beat| AgentRow {
            name: name.into(),
            id: format!("id of {name}"),
            status: status.into(),
            last_heartbeat_unix_ms: beat,
            ..AgentRow::default()
        };
        let mut known = BTreeMap::new();
        let mut said = |rows: &[AgentRow]| -> String {
            changes(&mut known, rows.to_vec()).iter().map(|change| line(change, Format::Table)).collect()
        };
        assert_eq!(said(&[row("a", "Active", 1), row("b", "Active", 1)]), "a  Active\nb  Active\n");
        assert_eq!(said(&[row("a", "Active", 2), row("b", "Active", 2)]), "");
        let lost = AgentRow { reason: "dns\x1b[2J".into(), since_unix_ms: 1000, ..row("b", "Inactive", 2) };
        assert_eq!(
            said(std::slice::from_ref(&lost)),
            "a  gone from the list\nb  Inactive since 1970-01-01T00:00:01.000Z (dns\\u{1b}[2J)\n"
        );
        // Lost and back between two looks: it has not been there all the time.
        assert!(said(&[AgentRow { since_unix_ms: 2000, ..lost }]).contains("00:00:02"));
    }
}
