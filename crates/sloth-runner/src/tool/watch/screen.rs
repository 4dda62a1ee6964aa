//! The list as a picture on a terminal. What is drawn is decided without a look at the terminal.

use super::feed::News;
use crate::{
    cli::Status,
    tool::{
        agents::colour,
        table::{Cell, Colour, Table, cut, paint},
        time::{ago, rfc3339},
    },
};
use proto::AgentRow;
use std::{fmt::Write, io};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// To the terminal's other screen, without a cursor.
pub const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Back to what was there before, with the cursor.
pub const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Where the terminal does not say how large it is.
const USUAL: Size = Size { columns: 80, lines: 24 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub lines: u16,
}

pub struct Screen {
    address: String,
    /// Not all agents are asked for.
    filtered: bool,
    colours: bool,
    /// None before the first answer.
    rows: Option<Vec<AgentRow>>,
    lost: Option<String>,
}

impl Screen {
    pub fn new(address: String, filtered: bool, colours: bool) -> Self {
        Self { address, filtered, colours, rows: None, lost: None }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_none()
    }

    pub fn take(&mut self, news: News) {
        match news {
            News::Rows(rows) => self.rows = Some(rows),
            News::Lost(line) => self.lost = Some(line),
            News::Back(_) => self.lost = None,
        }
    }

    /// What to write for the whole picture, over the last one.
    pub fn frame(&self, size: Size, now_unix_ms: u64) -> String {
        // The last column stays free: after a letter there, some terminals would clear it with the rest of the line.
        let columns = usize::from(size.columns).saturating_sub(1);
        let mut lines = vec![cut(&self.headline(now_unix_ms), columns)];
        lines.push(match &self.lost {
            Some(line) => paint(&cut(line, columns), Some(Colour::Red), self.colours),
            None => String::new(),
        });
        // Two lines above, the headings, and one that says what does not fit.
        let room = usize::from(size.lines).saturating_sub(lines.len() + 1).max(1);
        lines.extend(self.table(room, columns, now_unix_ms));
        lines.truncate(usize::from(size.lines).max(1));
        // Together, where the terminal knows how to: nobody sees half a picture.
        let mut text = String::from("\x1b[?2026h\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            let _ = write!(text, "{}{line}\x1b[K", if at > 0 { "\r\n" } else { "" });
        }
        text + "\x1b[J\x1b[?2026l"
    }

    fn headline(&self, now_unix_ms: u64) -> String {
        let rows = self.rows.as_deref().unwrap_or_default();
        let count = |status: Status| rows.iter().filter(|row| row.status == status.word()).count();
        let counts: Vec<String> = [Status::Active, Status::Inactive, Status::Stopped]
            .into_iter()
            .filter_map(|status| Some(count(status)).filter(|n| *n > 0).map(|n| format!("{n} {}", status.word())))
            .collect();
        let what = match (rows.len(), self.filtered) {
            (0, true) => "no agent matches".to_owned(),
            (0, false) => "no agents yet".to_owned(),
            (1, _) => format!("1 agent: {}", counts.join(", ")),
            (n, _) => format!("{n} agents: {}", counts.join(", ")),
        };
        let time = rfc3339(now_unix_ms).unwrap_or_default();
        let time = time.get(11..19).unwrap_or_default();
        format!("{what}   {time} UTC   master {}", self.address)
    }

    /// Headings and rows, at most `room` rows and one line more. Where they do not all fit, those that are not Active
    /// come first, and of those the lost ones: they are what one looks for.
    fn table(&self, room: usize, columns: usize, now_unix_ms: u64) -> Vec<String> {
        let mut rows: Vec<&AgentRow> = self.rows.iter().flatten().collect();
        let hidden = rows.len().saturating_sub(room);
        // One of them for the line that says so.
        let shown = if hidden > 0 { room.saturating_sub(1) } else { rows.len() };
        if hidden > 0 {
            let calm = [Status::Stopped, Status::Active].map(Status::word);
            rows.sort_by_key(|row| calm.iter().position(|status| row.status == *status));
        }
        let mut table = Table::new(&["NAME", "STATUS", "SINCE", "REASON", "ADDRESS", "VERSION"]);
        for row in &rows[..shown] {
            table.row(vec![
                Cell::new(&row.name),
                Cell::new(&row.status).coloured(colour(&row.status)),
                ago(now_unix_ms, row.since_unix_ms).into(),
                Cell::new(&row.reason),
                Cell::new(&row.address),
                Cell::new(&row.version),
            ]);
        }
        let mut lines = table.lines(self.colours, columns);
        if hidden > 0 {
            let more = format!("… and {} more; those that are not Active stand first", rows.len() - shown);
            lines.push(paint(&cut(&more, columns), Some(Colour::Dim), self.colours));
        }
        lines
    }
}

/// What happens to the terminal itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has another size.
    Resize,
    /// Ctrl-Z.
    Pause,
}

pub struct Kinds {
    resize: Signal,
    pause: Signal,
}

impl Kinds {
    /// # Errors
    /// When the system gives no handler.
    pub fn new() -> io::Result<Self> {
        let pause = signal(SignalKind::from_raw(libc::SIGTSTP))?;
        Ok(Self { resize: signal(SignalKind::window_change())?, pause })
    }

    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Kind {
        tokio::select! {
            _ = self.resize.recv() => Kind::Resize,
            _ = self.pause.recv() => Kind::Pause,
        }
    }
}

/// Stands still until somebody lets the process go on.
pub fn pause() {
    // SAFETY: sends this process a signal, which stops it.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Of the terminal that is the standard output.
pub fn size() -> Size {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request fills a structure of this type.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match (asked, size.ws_col, size.ws_row) {
        (0, columns @ 1.., lines @ 1..) => Size { columns, lines },
        _ => USUAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, status: &str) -> AgentRow {
        AgentRow { name: name.into(), status: status.into(), since_unix_ms: 7_000, ..AgentRow::default() }
    }

    fn lines(screen: &Screen, columns: u16, lines: u16) -> Vec<String> {
        let frame = screen.frame(Size { columns, lines }, 10_000);
        let inner = frame.strip_prefix("\x1b[?2026h\x1b[H").unwrap().strip_suffix("\x1b[J\x1b[?2026l").unwrap();
        inner.split("\r\n").map(|line| line.strip_suffix("\x1b[K").unwrap().to_owned()).collect()
    }

    fn screen(rows: Vec<AgentRow>) -> Screen {
        let mut screen = Screen::new("m:1".to_owned(), false, false);
        screen.take(News::Rows(rows));
        screen
    }

    #[test]
    fn the_picture_counts_and_shows_the_fleet() {
        let mut screen = screen(vec![row("kei", "Active"), row("lady", "Inactive")]);
        let drawn = lines(&screen, 80, 24);
        assert_eq!(
            drawn,
            [
                "2 agents: 1 Active, 1 Inactive   00:00:10 UTC   master m:1",
                "",
                "NAME  STATUS    SINCE   REASON  ADDRESS  VERSION",
                "kei   Active    3s ago",
                "lady  Inactive  3s ago",
            ]
        );
        screen.take(News::Lost("lost the master at m:1 (connection refused); trying again…".to_owned()));
        assert!(lines(&screen, 80, 24)[1].starts_with("lost the master"));
        screen.take(News::Back(String::new()));
        assert_eq!(lines(&screen, 80, 24), drawn);
    }

    #[test]
    fn what_does_not_fit_is_said_and_what_is_lost_stands_first() {
        let screen =
            screen((0..30).map(|n| row(&format!("n{n:02}"), if n == 29 { "Stopped" } else { "Active" })).collect());
        let drawn = lines(&screen, 40, 8);
        assert_eq!(drawn.len(), 8);
        assert_eq!(drawn[3], "n29   Stopped  3s ago");
        assert_eq!(drawn[4], "n00   Active   3s ago");
        assert_eq!(drawn[7], "… and 26 more; those that are not Acti…");
        for (columns, height) in (1..50).flat_map(|columns| (1..40).map(move |height| (columns, height))) {
            let drawn = lines(&screen, columns, height);
            assert!(drawn.len() <= usize::from(height), "{columns} {height}");
            assert!(drawn.iter().all(|line| crate::tool::table::width(line) < usize::from(columns)));
        }
    }

    #[test]
    fn those_that_said_goodbye_hide_none_that_is_lost() {
        let stopped = (0..17).map(|n| row(&format!("a{n:02}"), "Stopped"));
        let active = (0..17).map(|n| row(&format!("b{n:02}"), "Active"));
        let lost = (0..3).map(|n| row(&format!("z{n:02}"), "Inactive"));
        let drawn = lines(&screen(stopped.chain(active).chain(lost).collect()), 80, 12);
        let names: Vec<_> = drawn[3..11].iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["z00", "z01", "z02", "a00", "a01", "a02", "a03", "a04"]);
    }

    #[test]
    fn agents_cannot_write_to_the_terminal() {
        let hostile = AgentRow {
            reason: "\x1b]0;owned\x07".into(),
            version: "\u{9b}2J".into(),
            ..row("a\x1b[2J\r\n", "x\x1b[1m")
        };
        let frame = screen(vec![hostile]).frame(Size { columns: 200, lines: 24 }, 10_000);
        assert!(!frame.contains("\x1b]0") && !frame.contains("\x1b[2J") && !frame.contains("\x1b[1m"));
        assert!(!frame.contains('\u{9b}') && !frame.contains('\x07'));
        assert_eq!(frame.matches("\r\n").count(), 3);
    }
}
