//! Every example of README.md and docs/*.md, run for real: each document's in order, in a network and folders of its own
//! (`place.sh`), with a real master and agents. A block of `sh` or `toml` runs, or says why it does not.
//!
//! What a block needs stands before it, in comments that a reader does not see:
//!
//! | comment | |
//! |---|---|
//! | `<!-- not run: REASON -->` | it is not run |
//! | `<!-- first: COMMANDS -->` | run before it, for what the text takes for granted; `place.sh` has some to call |
//! | `<!-- with: TEXT => VALUE -->` | what stands for something, and the shell's word for that |
//! | `<!-- until: TEXT -->` | it goes on by itself; it is left to, once this was said, until `ended` or the document's end |
//! | `<!-- exit: 1 -->` | how its last command ends, if not with 0; `0 or 1` where both are right |
//! | `<!-- shown -->` | before a block without a language: what the last block that ran has said looks like this |
//!
//! A `toml` block is read by the real reader: the agent's, or else the master's.
#![allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]

#[path = "../fleet/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod fleet;
mod reading;

use fleet::needs;
use reading::{Block, blocks};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// README and docs, by their paths in the repository.
fn documents() -> Vec<String> {
    let docs = fs::read_dir(root().join("docs")).unwrap().flatten();
    let docs = docs.map(|entry| format!("docs/{}", entry.file_name().to_str().unwrap()));
    let mut all: Vec<String> = docs.filter(|name| name.ends_with(".md")).collect();
    all.push("README.md".to_owned());
    all.sort();
    assert!(all.len() > 10, "{all:?}");
    all
}

#[test]
fn every_example_is_run_or_says_why_it_is_not() {
    let mut wrong = String::new();
    let (mut run, mut left) = (0, 0);
    for document in documents() {
        for block in blocks(&document, &fs::read_to_string(root().join(&document)).unwrap()) {
            match block {
                Ok(block) if block.runs() => run += 1,
                Ok(_) => left += 1,
                Err(why) => wrong += &format!("{why}\n"),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(run > 30 && left < run, "{run} run, {left} not");
}

#[test]
fn every_example_does_what_is_said_of_it() {
    // SAFETY: it only asks.
    let root = unsafe { libc::geteuid() } == 0;
    if !needs("network of its own (root, unshare, ip)", root && Path::new("/usr/bin/unshare").exists()) {
        return;
    }
    let only = std::env::var("DOCUMENT").unwrap_or_default();
    let waiting = Mutex::new(documents().into_iter().filter(|name| name.contains(&only)).collect::<Vec<_>>());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // They wait more than they work.
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(document) = { waiting.lock().unwrap().pop() } {
                    if let Err(why) = play(&document) {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Runs the blocks of a document, one after the other.
fn play(document: &str) -> Result<(), String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let blocks: Vec<Block> = blocks(document, &text).into_iter().flatten().filter(Block::runs).collect();
    if blocks.is_empty() {
        return Ok(());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut script = include_str!("place.sh").to_owned();
    for (number, block) in blocks.iter().enumerate() {
        for (name, text) in [("first", block.first()), ("block", block.commands()), ("shown", block.shown().to_owned())]
        {
            fs::write(folder.path().join(format!("{name}.{number}")), text).unwrap();
        }
        let (until, exit) = (block.until(), block.exit());
        writeln!(script, "example {number} {:?} {:?} {until:?} {exit:?}", block.place, block.language).unwrap();
    }
    fs::write(folder.path().join("script"), script).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"]);
    command.arg(folder.path().join("script")).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("REPOSITORY", root()).env("PLACE", folder.path());
    command.env("RUNNER", env!("CARGO_BIN_EXE_sloth-runner")).stdin(Stdio::null());
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if done.status.success() && said.matches("ok ").count() == blocks.len() {
        return Ok(());
    }
    Err(format!("{document}: {}\n{said}", done.status))
}
