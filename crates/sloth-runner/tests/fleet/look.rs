//! What `/proc` says of processes.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

/// A word that no other process of this machine has in its environment.
pub fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("SLOTH_E2E=mark-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Living processes with this in their environment, as everything has that a command so marked has started.
pub fn marked(mark: &str) -> Vec<i32> {
    let entry = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    pids().filter(entry).collect()
}

/// Living processes with this text in an argument.
pub fn with_argument(text: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    pids().filter(|pid| *pid != std::process::id().cast_signed()).filter(has).collect()
}

/// Direct children of a process.
pub fn children(of: i32) -> Vec<i32> {
    pids().filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == of)).collect()
}

/// Direct children that have ended and were not waited for.
pub fn zombies(of: i32) -> Vec<i32> {
    pids().filter(|pid| stat(*pid) == Some(('Z', of))).collect()
}

/// It runs, and is no zombie.
pub fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// State and parent.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses, and may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Open files of a process.
pub fn files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Memory of a process that is of its own, in KiB.
pub fn anonymous_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
