//! Sessions of released versions, played against what is built today: an agent of then with a master of now, a master
//! of then with an agent of now. `0.1/` and its neighbours hold what was said, message by message, as the real programs
//! of that version said it; `docs/upgrading.md` promises what these tests hold.
//!
//! Made anew, from the programs as they are, for the version that they say they are:
//! `UPDATE=1 cargo test -p sloth-runner --test recorded -- --ignored --test-threads 1`
#![allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]

mod play_agent;
mod play_master;
mod record;
mod rig;
mod script;
#[path = "../secured/mod.rs"]
mod secured;
mod wire;
mod words;

use std::path::{Path, PathBuf};

/// The folder of each released protocol, by its version.
fn versions() -> Vec<(String, PathBuf)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let folders = std::fs::read_dir(here).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let mut all: Vec<_> = folders.map(|entry| (entry.file_name().into_string().unwrap(), entry.path())).collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

/// Each recorded session of this name with its version.
fn recordings(name: &str) -> Vec<(String, script::Script)> {
    let of = |(version, folder): (String, PathBuf)| {
        let path = folder.join(format!("{name}.session"));
        let words = words::Words::of(&version);
        (version, script::Script::read(&path, &words))
    };
    versions().into_iter().map(of).collect()
}
