//! Where lines go: the log's format, its level, and what a person watches.

mod rolling;
mod standard;
pub mod utc;

use std::io::{self, Write};

pub use self::rolling::{OpenError, Rolling};
pub(crate) use self::rolling::{is_unlocked, lock};
use self::{
    standard::{LINE_MAX, Standard},
    utc::now,
};
use crate::config;

/// What a person watches: standard output, or with `--daemon` the log's file.
#[derive(Clone, Debug)]
pub enum Console {
    Stdout,
    File(Rolling),
}

impl Console {
    /// Writes one line. A reader that is gone is no reason to end, nor is one that stands still a reason to wait.
    pub fn line(&self, text: &str) {
        let line = format!("{text}\n");
        match self {
            Self::Stdout => Standard::new(io::stdout()).write_line(line.as_bytes()),
            Self::File(file) => file.write_line(line.as_bytes()),
        }
    }
}

/// Installs the log for the whole process: into `file`, or onto standard error without one.
///
/// `RUST_LOG`, where it is set, decides about levels instead of the configuration. A second call in one process
/// changes nothing.
pub fn install(log: &config::Log, file: Option<Rolling>) {
    let mut builder = env_logger::Builder::new();
    match filters() {
        Some(filters) => builder.parse_filters(&filters),
        // The level stands before the logger, where it can be changed.
        None => builder.filter_level(log::LevelFilter::Trace),
    };
    let timestamps = log.timestamps;
    builder.format(move |out, record| {
        if timestamps {
            write!(out, "{} ", now())?;
        }
        writeln!(out, "{:<5} {}", record.level(), one_line(&record.args().to_string()))
    });
    let target: Box<dyn Write + Send> = match file {
        Some(file) => Box::new(Lines(file)),
        None => Box::new(Standard::new(io::stderr())),
    };
    builder.target(env_logger::Target::Pipe(target));
    // Only a second logger in one process fails, and then the first one goes on.
    if builder.try_init().is_ok() {
        set_level(log.level);
    }
}

/// Another level from now on, unless `RUST_LOG` decides about it.
pub fn set_level(level: log::LevelFilter) {
    if filters().is_none() {
        log::set_max_level(level);
    }
}

fn filters() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filters| !filters.is_empty())
}

/// A record is one line, whatever a peer has put into it, and not too long.
fn one_line(text: &str) -> String {
    // A timestamp, the level and the end of the line stand beside it.
    const TEXT_MAX: usize = LINE_MAX - 64;
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < text.len() { "…" } else { "" };
    let plain = text[..end].chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.chain(more.chars()).collect()
}

/// The logger hands over one whole line at a time.
struct Lines(Rolling);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_line(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_makes_no_lines_of_its_own_and_no_long_ones() {
        assert_eq!(one_line("busy\nERROR Lost connection\u{1b}[2J"), "busy ERROR Lost connection [2J");
        let cut = one_line(&"ü".repeat(LINE_MAX));
        assert!(cut.len() < LINE_MAX && cut.ends_with("ü…"), "{cut}");
    }
}
