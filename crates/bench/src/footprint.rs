//! All series, one after the other or side by side, and the table that comes of them.

use crate::{
    binary::Binary,
    capture::Capture,
    series::{self, Burst, Long, Quiet},
    strace::Calls,
    table,
};
use std::{io, path::PathBuf, time::Duration};

pub struct Options {
    pub agent: PathBuf,
    pub floor: Option<PathBuf>,
    /// How long the agent is watched at rest.
    pub quiet: Duration,
    pub heartbeats: u64,
}

/// The agent's default; so that it is measured as it is shipped, it is not set.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// What was found of an agent, in the clear or over TLS.
pub struct Agent {
    pub quiet: Quiet,
    pub calls: io::Result<Calls>,
    pub instructions: io::Result<u64>,
    pub long: Long,
    pub burst: Burst,
}

/// What was found of the program that does nothing.
pub struct Floor {
    pub binary: Binary,
    pub quiet: Quiet,
    pub calls: io::Result<Calls>,
    pub instructions: io::Result<u64>,
    pub long: Long,
}

pub struct Found {
    pub binary: Binary,
    pub heartbeats: u64,
    pub plain: Agent,
    pub tls: Agent,
    pub floor: Option<Floor>,
}

/// Measures everything; the table in Markdown.
///
/// # Errors
/// When a program cannot be started, or the kernel does not tell what is asked. A session that breaks is a panic: then
/// there is nothing to print.
pub async fn measure(options: &Options, capture: &Capture) -> io::Result<String> {
    let beats = (options.quiet.as_secs() / INTERVAL.as_secs()).max(1);
    let binary = Binary::read(&options.agent)?;
    let (agent, heartbeats) = (options.agent.as_path(), options.heartbeats);
    let one = async |tls| {
        let at_rest = async {
            // Side by side, they all sleep nearly always; then what is not quiet.
            let (quiet, calls, instructions) = tokio::join!(
                series::quiet(agent, tls, beats, INTERVAL, capture),
                series::calls(agent, tls, beats),
                series::instructions(agent, tls, beats)
            );
            let burst = series::burst(agent, tls).await;
            (quiet, calls, instructions, burst)
        };
        let ((quiet, calls, instructions, burst), long) = tokio::join!(at_rest, series::long(agent, tls, heartbeats));
        Ok::<_, io::Error>(Agent { quiet: quiet?, calls, instructions, long: long?, burst: burst? })
    };
    let floor = async {
        let Some(path) = options.floor.as_deref() else { return Ok(None) };
        let (quiet, calls, instructions, long) = tokio::join!(
            series::quiet_floor(path, beats, INTERVAL),
            series::floor_calls(path, beats, INTERVAL),
            series::floor_instructions(path, beats, INTERVAL),
            series::long_floor(path, heartbeats)
        );
        Ok::<_, io::Error>(Some(Floor { binary: Binary::read(path)?, quiet: quiet?, calls, instructions, long: long? }))
    };
    let (plain, tls, floor) = tokio::join!(one(false), one(true), floor);
    let found = Found { binary, heartbeats, plain: plain?, tls: tls?, floor: floor? };
    Ok(table::write(&found, &Machine::look()))
}

/// Where and when it was measured.
pub struct Machine {
    /// Year, month, day, UTC.
    pub date: String,
    pub kernel: String,
    pub processor: String,
    pub cores: usize,
}

impl Machine {
    pub fn look() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            date: today(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model.map_or_else(|| "an unnamed processor".to_owned(), |(_, model)| model.trim().to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

fn today() -> String {
    // SAFETY: all-zero is a valid tm; both pointers are to locals.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        let now = libc::time(std::ptr::null_mut());
        libc::gmtime_r(&raw const now, &raw mut tm);
        tm
    };
    format!("{:04}-{:02}-{:02}", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday)
}
