//! A master with a whole fleet: what an agent costs it, and how soon all are back after it was killed, and after it
//! said goodbye.
#![expect(clippy::disallowed_methods, reason = "what is measured happens on the real clock")]

mod fleet;
mod netstat;
pub mod returns;

use crate::{
    footprint::Machine,
    process::{self, Memory},
    table::number,
};
use fleet::{Fleet, Seen};
use netstat::Dropped;
use std::{
    fmt::Write,
    fs, io,
    io::BufRead,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::task::LocalSet;

pub struct Options {
    pub master: PathBuf,
    pub agents: usize,
    /// How long the fleet is watched at rest.
    pub quiet: Duration,
    /// How long the killed master is away.
    pub down: Duration,
    pub backlog: u32,
}

/// A fleet that is not back by then never comes.
const PATIENCE: Duration = Duration::from_secs(300);

/// After everybody is Active: until the beats are spread as they stay, and what the storm took is given back.
const SETTLE: Duration = Duration::from_secs(15);

/// All of the fleet comes from one address, which no real one does.
const ONE_ADDRESS: [&str; 4] =
    ["--set", "connections.max_per_address=1000000", "--set", "connections.max_unknown_per_address=1000000"];

const LOOK: Duration = Duration::from_millis(5);

/// To be called before there is a second thread.
///
/// # Errors
/// No root, or too few open files.
pub fn prepare(options: &Options) -> io::Result<()> {
    crate::capture::enter_network()?;
    fs::write("/proc/sys/net/core/somaxconn", options.backlog.to_string())?;
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a local, which the call only reads.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let needed = options.agents as u64 + 100;
    if limit.rlim_max < needed {
        let text = format!("{} open files at most, {needed} are needed: take fewer --agents", limit.rlim_max);
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// Measures everything; the table in Markdown.
///
/// # Errors
/// The master does not start or end, or some of the fleet does not come back.
pub async fn measure(options: &Options) -> io::Result<String> {
    let tasks = LocalSet::new();
    tasks.run_until(watch(options, &tasks)).await
}

/// How a fleet came back.
struct Return {
    /// From the start of the master's process.
    took: Duration,
    /// … until the first and until half of them were Active.
    half: Duration,
    seen: Seen,
    dropped: Dropped,
    cpu: Duration,
    /// Of this process, the fleet.
    fleet_cpu: Duration,
    /// Cores that others took meanwhile.
    others: f64,
}

struct Found {
    empty: Memory,
    full: Memory,
    after: Memory,
    cpu: f64,
    beats: f64,
    first: Return,
    killed: Return,
    goodbye: Return,
    /// From SIGTERM to the end of the process.
    ended: Duration,
    /// Who heard the goodbye.
    told: u64,
}

async fn watch(options: &Options, tasks: &LocalSet) -> io::Result<String> {
    let folder = TempDir::new()?;
    let start = async |port| Master::start(&options.master, folder.path(), port, &ONE_ADDRESS).await;
    let mut master = start(0).await?;
    let (address, started) = (master.address, master.started);
    let empty = Memory::of(master.pid())?;
    let before = Dropped::so_far()?;
    let fleet = Fleet::start(tasks, options.agents, address, None);
    let first = all_back(options, &fleet, &master, Instant::now(), Seen::default(), before).await?;
    eprintln!(
        "all there after {:.2} s, master started {:.2} s before",
        first.took.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    tokio::time::sleep(SETTLE).await;
    let full = Memory::of(master.pid())?;
    let (cpu, beats) = at_rest(options, &fleet, &master).await?;

    let before = (fleet.seen(), Dropped::so_far()?);
    master.kill();
    tokio::time::sleep(options.down).await;
    let mut master = start(address.port()).await?;
    let killed = all_back(options, &fleet, &master, master.started, before.0, before.1).await?;
    eprintln!("all back {:.2} s after the start that followed SIGKILL", killed.took.as_secs_f64());
    tokio::time::sleep(SETTLE).await;
    let after = Memory::of(master.pid())?;

    let before = (fleet.seen(), Dropped::so_far()?);
    let ended = master.terminate().await?;
    let mut master = start(address.port()).await?;
    let goodbye = all_back(options, &fleet, &master, master.started, before.0.clone(), before.1).await?;
    let told = difference(&before.0.lost, &fleet.seen().lost, "master_goodbye");
    master.kill();
    let found = Found { empty, full, after, cpu, beats, first, killed, goodbye, ended, told };
    Ok(write(options, &found, &Machine::look()))
}

/// Waits until everybody is Active again.
async fn all_back(
    options: &Options,
    fleet: &Fleet,
    master: &Master,
    since: Instant,
    before: Seen,
    dropped: Dropped,
) -> io::Result<Return> {
    let mut half = None;
    let own = std::process::id();
    let (fleet_cpu, busy, start) = (process::cpu_time(own)?, process::busy_time()?, Instant::now());
    let master_cpu = process::cpu_time(master.pid())?;
    // Who has not noticed the loss yet is still Active: counted are registrations.
    while fleet.active() < options.agents || fleet.seen().registered < before.registered + options.agents as u64 {
        tokio::time::sleep(LOOK).await;
        if fleet.seen().registered - before.registered >= options.agents as u64 / 2 {
            half.get_or_insert_with(|| since.elapsed());
        }
        if since.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("only {} of the fleet are back: {:?}", fleet.active(), fleet.seen())));
        }
    }
    let took = since.elapsed();
    let now = fleet.seen();
    let all = |before: &Map, now: &Map| now.keys().map(|word| (*word, difference(before, now, word))).collect();
    let seen = Seen {
        active: now.active,
        heartbeats: now.heartbeats - before.heartbeats,
        dials: now.dials - before.dials,
        registered: now.registered - before.registered,
        deferred: now.deferred - before.deferred,
        failed: all(&before.failed, &now.failed),
        lost: all(&before.lost, &now.lost),
    };
    let cpu = process::cpu_time(master.pid())?;
    let fleet_cpu = process::cpu_time(own)? - fleet_cpu;
    let others = (process::busy_time()? - busy).saturating_sub(fleet_cpu + (cpu - master_cpu));
    let others = others.as_secs_f64() / start.elapsed().as_secs_f64();
    Ok(Return {
        took,
        half: half.unwrap_or(took),
        seen,
        dropped: Dropped::so_far()?.since(dropped),
        cpu,
        fleet_cpu,
        others,
    })
}

type Map = std::collections::BTreeMap<&'static str, u64>;

fn difference(before: &Map, now: &Map, word: &str) -> u64 {
    now.get(word).copied().unwrap_or(0) - before.get(word).copied().unwrap_or(0)
}

/// The share of one core, and heartbeats a second.
async fn at_rest(options: &Options, fleet: &Fleet, master: &Master) -> io::Result<(f64, f64)> {
    let (cpu, beats, start) = (process::cpu_time(master.pid())?, fleet.seen().heartbeats, Instant::now());
    tokio::time::sleep(options.quiet).await;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = process::cpu_time(master.pid())? - cpu;
    Ok((cpu.as_secs_f64() / seconds, (fleet.seen().heartbeats - beats) as f64 / seconds))
}

/// The master's process. Dropping it kills it.
struct Master {
    child: Child,
    address: SocketAddr,
    started: Instant,
}

impl Master {
    /// Starts it and waits until it listens.
    async fn start(program: &Path, folder: &Path, port: u16, settings: &[&str]) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let started = Instant::now();
        let mut child = Command::new(program)
            .args([
                "master",
                "start",
                "--set",
                "log.level=\"error\"",
                "--set",
                "http.listen=\"\"",
                "--listen",
                &address.to_string(),
                "--state-dir",
            ])
            .arg(folder.join("master"))
            .args(settings)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().expect("it was asked for");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            io::BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let line = line.await.expect("reading does not panic")?;
        let address = line.split(' ').find_map(|word| word.parse().ok());
        let address = address.ok_or_else(|| io::Error::other(format!("the master says {line:?}")))?;
        Ok(Self { child, address, started })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and how long it then takes.
    async fn terminate(&mut self) -> io::Result<Duration> {
        let start = Instant::now();
        // SAFETY: plain integers; the child was not waited for, so that the pid is its own.
        unsafe { libc::kill(self.pid().cast_signed(), libc::SIGTERM) };
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                let ended = start.elapsed();
                return if status.success() {
                    Ok(ended)
                } else {
                    Err(io::Error::other(format!("ended with {status}")))
                };
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(io::Error::other("the master does not end"))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.kill();
    }
}

fn write(options: &Options, found: &Found, machine: &Machine) -> String {
    let mut text = String::new();
    let Machine { date, kernel, processor, cores } = machine;
    let agents = options.agents;
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    line(format!(
        "{date}; {cores} cores of {processor}, shared with the fleet; Linux {kernel}; net.core.somaxconn {}.",
        options.backlog
    ));
    line(String::new());
    line(format!("| {} agents, plain, the defaults of both sides | |", number(agents as f64, 0)));
    line("|---|---|".to_owned());
    let mut row = |what: &str, value: String| line(format!("| {what} | {value} |"));
    let each = |memory: Memory| (memory.rss as f64 - found.empty.rss as f64) / agents as f64;
    row("memory of the master without agents, RSS", format!("{} KiB", number(found.empty.rss as f64, 0)));
    row("… more for each agent", format!("{:.1} KiB", each(found.full)));
    row("… after a restart, all back", format!("{:.1} KiB", each(found.after)));
    row("heartbeats, answered, a second", number(found.beats, 0));
    row("CPU for them, of one core", format!("{:.1} %", found.cpu * 100.0));
    row("all there, starting all at once with an empty database", seconds(found.first.took));
    row("… attempts that failed", reasons(&found.first.seen.failed));
    row("… cores that other work of this machine took meanwhile", format!("{:.1}", found.first.others));
    let killed = &found.killed;
    let down = options.down.as_secs();
    row(&format!("all back after SIGKILL and {down} s, since the start of the process"), seconds(killed.took));
    row("… half of them", seconds(killed.half));
    let each = |cpu: Duration| format!("{:.0} µs", cpu.as_secs_f64() * 1e6 / agents as f64);
    row("… CPU of the master for each, its start included", each(killed.cpu));
    row("… CPU of the fleet for each, on one thread", each(killed.fleet_cpu));
    row("… cores that other work of this machine took meanwhile", format!("{:.1}", killed.others));
    row("… connection attempts that the kernel dropped", dropped(killed.dropped));
    row("… attempts that failed", reasons(&killed.seen.failed));
    row("… sent away for a moment", number(killed.seen.deferred as f64, 0));
    row("SIGTERM: told when to come back", number(found.told as f64, 0));
    row("… until the process has ended", seconds(found.ended));
    row("… all back, since the start of the next", seconds(found.goodbye.took));
    row("… cores that other work of this machine took meanwhile", format!("{:.1}", found.goodbye.others));
    row("… connection attempts that the kernel dropped", dropped(found.goodbye.dropped));
    row("… attempts that failed", reasons(&found.goodbye.seen.failed));
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn dropped(dropped: Dropped) -> String {
    number(dropped.overflows.max(dropped.drops) as f64, 0)
}

fn reasons(failed: &Map) -> String {
    let told = failed.iter().filter(|(_, count)| **count > 0);
    let told: Vec<_> = told.map(|(word, count)| format!("{} {word}", number(*count as f64, 0))).collect();
    if told.is_empty() { "0".to_owned() } else { told.join(", ") }
}
