//! The series of measurements, each on a process of its own.

use crate::{
    callgrind,
    capture::{Capture, Traffic},
    process::{Activity, Memory, Process, Run},
    scripted::{Subject, pause},
    strace::{Calls, Strace},
};
use std::{io, path::Path, time::Duration};
use tempfile::TempDir;

/// After a heartbeat, until nothing of it is under way: the agent's helper threads stay for a second.
const SETTLED: Duration = Duration::from_millis(1_500);

/// How often memory is looked at while something passes.
const LOOK: Duration = Duration::from_millis(1);

/// The connection is down for so long.
const OUTAGE: Duration = Duration::from_secs(20);

/// What passes as a command's output.
const OUTPUT: u64 = 50 * 1024 * 1024;

/// Heartbeats until an agent is at rest: helper threads have come and gone.
const FIRST_BEATS: u64 = 3;

/// At the default interval, over a number of heartbeats.
pub struct Quiet {
    pub memory: Memory,
    pub threads: u64,
    pub beats: u64,
    pub wakeups: u64,
    pub cpu: Duration,
    /// From one look to the other.
    pub length: Duration,
    /// Or why packets could not be counted.
    pub traffic: Result<Traffic, String>,
}

/// An agent at rest.
pub async fn quiet(agent: &Path, tls: bool, beats: u64, interval: Duration, capture: &Capture) -> io::Result<Quiet> {
    let mut subject = Subject::start(agent, tls, &[]).await?;
    subject.beats(FIRST_BEATS).await;
    pause(SETTLED).await;
    let (memory, threads) = (subject.process.memory()?, subject.process.threads()?);
    let (before, seen) = (subject.process.activity()?, capture.of(subject.port()));
    subject.beats(beats).await;
    pause(SETTLED).await;
    let (after, sent) = (subject.process.activity()?, capture.of(subject.port()));
    let traffic = sent.and_then(|sent| Ok(sent.since(seen?)));
    Ok(between(before, after, memory, threads, beats, interval, traffic))
}

/// The program that does nothing, over as many of its own wakes.
pub async fn quiet_floor(floor: &Path, beats: u64, interval: Duration) -> io::Result<Quiet> {
    let folder = TempDir::new()?;
    let process = start_floor(Run::Itself, floor, interval, &folder)?;
    pause(interval * u32::try_from(FIRST_BEATS).expect("a few") + SETTLED).await;
    let (memory, threads, before) = (process.memory()?, process.threads()?, process.activity()?);
    pause(interval * u32::try_from(beats).expect("few enough to wait for")).await;
    let after = process.activity()?;
    Ok(between(before, after, memory, threads, beats, interval, Ok(Traffic::default())))
}

/// System calls of an agent at rest, over as many heartbeats.
pub async fn calls(agent: &Path, tls: bool, beats: u64) -> io::Result<Calls> {
    let mut subject = Subject::start(agent, tls, &[]).await?;
    subject.beats(FIRST_BEATS).await;
    pause(SETTLED).await;
    let strace = Strace::attach(subject.process.pid())?;
    subject.beats(beats).await;
    pause(SETTLED).await;
    strace.detach()
}

pub async fn floor_calls(floor: &Path, beats: u64, interval: Duration) -> io::Result<Calls> {
    let folder = TempDir::new()?;
    let process = start_floor(Run::Itself, floor, interval, &folder)?;
    pause(interval + SETTLED).await;
    let strace = Strace::attach(process.pid())?;
    pause(interval * u32::try_from(beats).expect("few enough to wait for")).await;
    strace.detach()
}

/// Instructions of an agent at rest, over as many heartbeats.
pub async fn instructions(agent: &Path, tls: bool, beats: u64) -> io::Result<u64> {
    let mut subject = Subject::start_as(Run::Counted, agent, tls, &[]).await?;
    subject.beats(FIRST_BEATS).await;
    pause(SETTLED).await;
    callgrind::zero(subject.process.pid(), subject.folder()).await?;
    subject.beats(beats).await;
    pause(SETTLED).await;
    callgrind::count(subject.process.pid(), subject.folder()).await
}

pub async fn floor_instructions(floor: &Path, beats: u64, interval: Duration) -> io::Result<u64> {
    let folder = TempDir::new()?;
    let process = start_floor(Run::Counted, floor, interval, &folder)?;
    pause(interval + SETTLED).await;
    callgrind::zero(process.pid(), folder.path()).await?;
    pause(interval * u32::try_from(beats).expect("few enough to wait for")).await;
    callgrind::count(process.pid(), folder.path()).await
}

/// Memory before and after many heartbeats.
pub struct Long {
    pub before: Memory,
    pub after: Memory,
}

/// The shortest interval that an agent takes.
const SHORT: Duration = Duration::from_millis(100);

pub async fn long(agent: &Path, tls: bool, beats: u64) -> io::Result<Long> {
    // A busy machine must not end the session.
    let short = ["heartbeat.interval=\"100ms\"", "heartbeat.max_failures=100"];
    let mut subject = Subject::start(agent, tls, &short).await?;
    subject.rest().await;
    let before = subject.process.memory()?;
    subject.beats(beats).await;
    subject.rest().await;
    Ok(Long { before, after: subject.process.memory()? })
}

pub async fn long_floor(floor: &Path, beats: u64) -> io::Result<Long> {
    let folder = TempDir::new()?;
    let process = start_floor(Run::Itself, floor, SHORT, &folder)?;
    pause(10 * SHORT).await;
    let before = process.memory()?;
    pause(SHORT * u32::try_from(beats).expect("few enough to wait for")).await;
    Ok(Long { before, after: process.memory()? })
}

/// Memory through what an agent goes through now and then. Peaks are counted anew for each.
pub struct Burst {
    /// Here and while output passes: the largest of many looks.
    pub handshake: Memory,
    pub output: Memory,
    pub output_took: Duration,
    pub after_output: Memory,
    /// With the peak of the outage.
    pub after_outage: Memory,
}

pub async fn burst(agent: &Path, tls: bool) -> io::Result<Burst> {
    let mut subject =
        Subject::start(agent, tls, &["reconnect.initial_delay=\"100ms\"", "reconnect.max_delay=\"1s\""]).await?;
    subject.beats(1).await;
    subject.process.reset_peak()?;
    let pid = subject.process.pid();
    let (handshake, ()) = watched(pid, subject.reconnect()).await?;
    pause(SETTLED).await;
    subject.process.reset_peak()?;
    let (output, output_took) = watched(pid, subject.print(OUTPUT)).await?;
    subject.beats(1).await;
    pause(SETTLED).await;
    let after_output = subject.process.memory()?;
    subject.process.reset_peak()?;
    subject.outage(OUTAGE).await;
    pause(SETTLED).await;
    Ok(Burst { handshake, output, output_took, after_output, after_outage: subject.process.memory()? })
}

/// Memory of a process while something goes on, and what came of that.
async fn watched<T>(pid: u32, what: impl Future<Output = T>) -> io::Result<(Memory, T)> {
    let mut largest = Memory::default();
    tokio::pin!(what);
    loop {
        tokio::select! {
            result = &mut what => return Ok((largest.max(Memory::of(pid)?), result)),
            () = pause(LOOK) => largest = largest.max(Memory::of(pid)?),
        }
    }
}

fn start_floor(run: Run, floor: &Path, interval: Duration, folder: &TempDir) -> io::Result<Process> {
    Process::start(run, floor, &[&interval.as_millis().to_string()], folder.path())
}

fn between(
    before: Activity,
    after: Activity,
    memory: Memory,
    threads: u64,
    beats: u64,
    interval: Duration,
    traffic: Result<Traffic, String>,
) -> Quiet {
    Quiet {
        memory,
        threads,
        beats,
        wakeups: after.wakeups - before.wakeups,
        cpu: after.cpu - before.cpu,
        length: interval * u32::try_from(beats).expect("few enough to wait for"),
        traffic,
    }
}
