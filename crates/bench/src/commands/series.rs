//! What is measured of commands.

use super::rig::Rig;
use crate::{
    process::Memory,
    strace::{Calls, Strace},
};
use std::{
    fs, io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The shortest command there is.
const TRUE: &[&str] = &["/bin/true"];

/// Commands one after the other.
pub struct Latency {
    /// A second.
    pub rate: f64,
    pub median_ms: f64,
    pub p99_ms: f64,
}

/// What a command costs each side.
pub struct Cost {
    pub master: Share,
    pub agent: Share,
}

pub struct Share {
    /// None where there is no strace.
    pub fsyncs: Option<f64>,
    pub bytes: f64,
}

/// What a process holds.
#[derive(Clone, Copy)]
pub struct Leftover {
    pub files: i64,
    pub children: i64,
    pub anonymous_kib: i64,
}

/// Caches, connections and tables as they are after some commands.
pub async fn warm_up(rig: &Rig) -> io::Result<()> {
    many(rig, 1, 16, Duration::from_secs(1)).await.map(drop)
}

pub async fn one_by_one(rig: &Rig, length: Duration) -> io::Result<Latency> {
    let mut took = Vec::new();
    let began = Instant::now();
    while began.elapsed() < length {
        let asked = Instant::now();
        rig.run(0, TRUE).await?;
        took.push(asked.elapsed());
    }
    took.sort();
    let ms = |per_cent: usize| took[(took.len() - 1) * per_cent / 100].as_secs_f64() * 1_000.0;
    Ok(Latency { rate: took.len() as f64 / began.elapsed().as_secs_f64(), median_ms: ms(50), p99_ms: ms(99) })
}

/// So many at a time, in turn on the agents; commands a second.
pub async fn many(rig: &Rig, agents: usize, at_a_time: usize, length: Duration) -> io::Result<f64> {
    let (began, done) = (Instant::now(), AtomicU64::new(0));
    let worker = async |number: usize| {
        while began.elapsed() < length {
            rig.run(number % agents, TRUE).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, io::Error>(())
    };
    all((0..at_a_time).map(worker).collect()).await?;
    Ok(done.into_inner() as f64 / began.elapsed().as_secs_f64())
}

/// Counted while as many commands run as in the series of the rate; the bytes without strace, which slows it.
pub async fn cost(rig: &Rig, at_a_time: usize, length: Duration) -> io::Result<Cost> {
    let pids = [rig.master_pid(), rig.agent_pid(0)];
    let written = || pids.map(|pid| written(pid).unwrap_or(0));
    let (before, began) = (written(), Instant::now());
    let commands = many(rig, 1, at_a_time, length).await? * began.elapsed().as_secs_f64();
    // What waits to be written is the last command's, and hardly matters.
    let after = written();
    let straced = async |pid| {
        let strace = Strace::attach(pid).ok()?;
        sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        let rate = many(rig, 1, at_a_time, length).await.ok()?;
        let commands = rate * began.elapsed().as_secs_f64();
        let calls = strace.detach().ok()?;
        Some(fsyncs(&calls) as f64 / commands)
    };
    let bytes = |side: usize| (after[side] - before[side]) as f64 / commands;
    let master = Share { fsyncs: straced(pids[0]).await, bytes: bytes(0) };
    Ok(Cost { master, agent: Share { fsyncs: straced(pids[1]).await, bytes: bytes(1) } })
}

/// One command that prints so much, followed; MB/s.
pub async fn output(rig: &Rig, bytes: u64) -> io::Result<f64> {
    let began = Instant::now();
    let count = bytes.to_string();
    let seen = rig.run(0, &["/usr/bin/head", "-c", &count, "/dev/zero"]).await?;
    if seen != bytes {
        return Err(io::Error::other(format!("{seen} of {bytes} bytes came")));
    }
    Ok(bytes as f64 / 1e6 / began.elapsed().as_secs_f64())
}

/// … while the agent's wire is cut every second; MB/s, and how often that was.
pub async fn output_over_breaks(rig: &Rig, bytes: u64) -> io::Result<(f64, u64)> {
    let cuts = AtomicU64::new(0);
    let breaking = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            rig.wire.cut();
            cuts.fetch_add(1, Ordering::Relaxed);
        }
    };
    let rate = tokio::select! {
        rate = output(rig, bytes) => rate?,
        () = breaking => unreachable!("it breaks for ever"),
    };
    Ok((rate, cuts.into_inner()))
}

/// So many commands a second, each begun at its time whatever became of the others. How many, and how many began more
/// than 100 ms late.
pub async fn pace(rig: &Rig, per_second: u32, length: Duration) -> io::Result<(u64, u64)> {
    let (next, late) = (AtomicU64::new(0), AtomicU64::new(0));
    let total = u64::from(per_second) * length.as_secs();
    let began = Instant::now();
    let worker = async |_| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return Ok::<_, io::Error>(());
            }
            let due = began + Duration::from_secs(1) * u32::try_from(number).expect("some minutes") / per_second;
            let now = Instant::now();
            if due > now {
                sleep(due - now).await;
            } else if now - due > Duration::from_millis(100) {
                late.fetch_add(1, Ordering::Relaxed);
            }
            rig.run(0, TRUE).await?;
        }
    };
    all((0..64).map(worker).collect()).await?;
    Ok((total, late.into_inner()))
}

/// Until the agent has no child any more.
pub async fn rest(rig: &Rig) -> io::Result<()> {
    for _ in 0..100 {
        if Leftover::look(rig.agent_pid(0))?.children == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    // What a helper thread or an idle connection holds goes by then.
    sleep(Duration::from_secs(2)).await;
    Ok(())
}

impl Leftover {
    pub fn look(pid: u32) -> io::Result<Self> {
        let files = i64::try_from(fs::read_dir(format!("/proc/{pid}/fd"))?.count()).expect("few");
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
        let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
        let children = children.map(|list| list.split_whitespace().count()).sum::<usize>();
        let children = i64::try_from(children).expect("few");
        let anonymous_kib = i64::try_from(Memory::of(pid)?.dirty).expect("less than all memory");
        Ok(Self { files, children, anonymous_kib })
    }

    pub fn since(&self, before: &Self) -> Self {
        Self {
            files: self.files - before.files,
            children: self.children - before.children,
            anonymous_kib: self.anonymous_kib - before.anonymous_kib,
        }
    }
}

/// Bytes that a process has caused to be written to a disk.
fn written(pid: u32) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

fn fsyncs(calls: &Calls) -> u64 {
    ["fsync", "fdatasync", "sync_file_range", "msync"].iter().filter_map(|name| calls.get(*name)).sum()
}

/// Polls all of them on this task; the first error ends it.
async fn all<F: Future<Output = io::Result<()>>>(work: Vec<F>) -> io::Result<()> {
    let mut work: Vec<_> = work.into_iter().map(|one| Some(Box::pin(one))).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for slot in &mut work {
            let Some(one) = slot else { continue };
            match one.as_mut().poll(context) {
                std::task::Poll::Ready(Ok(())) => *slot = None,
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => pending = true,
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(Ok(())) }
    })
    .await
}
