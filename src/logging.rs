//! Where lines go: the log's format, its level, and what a person watches.

mod rolling;
pub mod utc;

use std::io::{self, Write};

pub(crate) use self::rolling::lock;
pub use self::rolling::{OpenError, Rolling};
use self::utc::now;
use crate::config;

/// What a person watches: standard output, or with `--daemon` the log's file.
#[derive(Clone, Debug)]
pub enum Console {
    Stdout,
    File(Rolling),
}

impl Console {
    /// Writes one line. A reader that is gone is no reason to end.
    pub fn line(&self, text: &str) {
        let line = format!("{text}\n");
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
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
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(log.level),
    };
    let timestamps = log.timestamps;
    builder.format(move |out, record| {
        if timestamps {
            write!(out, "{} ", now())?;
        }
        writeln!(out, "{:<5} {}", record.level(), record.args())
    });
    let target: Box<dyn Write + Send> = match file {
        Some(file) => Box::new(Lines(file)),
        None => Box::new(io::stderr()),
    };
    builder.target(env_logger::Target::Pipe(target));
    // Only a second logger in one process fails, and then the first one goes on.
    let _ = builder.try_init();
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
