//! Real processes, a real connection, a master that checks what it gets.

mod crashes;
mod ends;
mod input;
mod limits;
mod output;
mod rig;
mod starts;

use super::*;
use crate::config::{Spool, WhenFull};
use rig::{Rig, find_finished};
use std::{fs, path::Path};

fn config() -> config::Commands {
    config::Commands {
        enabled: true,
        max_running: 16,
        shell: "/bin/sh".into(),
        kill_grace: Duration::from_secs(10),
        timeout: None,
        users: Vec::new(),
        allow: Vec::new(),
        output_limit: 16 << 20,
        when_full: WhenFull::Stall,
        spool_limit: 64 << 20,
        spool: Spool::Memory,
        remember: Duration::from_secs(7 * 86_400),
    }
}

/// The agent's name, in each test another: one that comes back after a crash ends whatever says that it is of this
/// agent's command, and all tests call theirs `a`.
fn agent() -> String {
    format!("sloth-{}-{:?}", std::process::id(), thread::current().id())
}

fn shell(line: &str) -> CommandSpec {
    CommandSpec { shell: line.to_owned(), ..CommandSpec::default() }
}

fn argv<const N: usize>(argv: [&str; N]) -> CommandSpec {
    CommandSpec { argv: argv.map(|argument| argument.into()).into(), ..CommandSpec::default() }
}

fn with_stdin(spec: CommandSpec) -> CommandSpec {
    CommandSpec { stdin: true, ..spec }
}

/// Bytes of every value, in no order that a pipe or a decoder could mistake for text.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| byte()).collect()
}

fn noise_file(dir: &Path, length: usize, seed: u64) -> (String, Vec<u8>) {
    let path = dir.join(format!("noise-{seed}"));
    let noise = noise(length, seed);
    fs::write(&path, &noise).unwrap();
    (path.to_str().unwrap().to_owned(), noise)
}

/// A zombie that nobody has taken over yet does not live.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.to_owned())
}
