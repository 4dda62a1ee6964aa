//! TLS, joining and leaving, with the real binary on both sides.

mod again;
mod bundle;
mod certificates;
mod checks;
#[path = "../secured/credential.rs"]
mod credential;
mod foreign;
mod hostile;
mod joining;
mod limits;
mod middle;
mod operators;
mod owner;
mod renewal;
mod secrets;
#[path = "../secured/mod.rs"]
mod secured;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
