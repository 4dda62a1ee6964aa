//! The demo, as a new user runs it.

use crate::fleet::{Running, look, program};
use std::process::Stdio;

fn started() -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(folder.path());
    command.arg("demo").env("TMPDIR", folder.path());
    (Running::start(command, Stdio::null()), folder)
}

fn nothing_is_left(folder: &tempfile::TempDir) {
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(look::with_argument(folder.path().to_str().unwrap()), [] as [i32; 0]);
}

#[test]
fn the_demo_shows_a_fleet_that_comes_back_and_leaves_nothing_behind() {
    let (demo, folder) = started();
    let text = demo.done().expect(0).text();
    for line in ["lost the master", "is back: registered with the master", "its command exited with 0"] {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    let table = text.split("LOSS FOUND AFTER").nth(1).unwrap_or_else(|| panic!("no table in:\n{text}"));
    for agent in ["ladyguica", "keiteguica", "mariguica"] {
        assert!(table.contains(agent), "no {agent} in:\n{table}");
    }
    nothing_is_left(&folder);
}

#[test]
fn ctrl_c_ends_the_demo_and_everything_that_it_started() {
    let (demo, folder) = started();
    demo.out.line("ladyguica");
    assert!(look::with_argument(folder.path().to_str().unwrap()).len() > 1);
    demo.signal(libc::SIGINT);
    assert_ne!(demo.done().code, 0);
    assert_eq!(look::with_argument(folder.path().to_str().unwrap()), [] as [i32; 0]);
}
