//! Fixed seeds, what the mutations rest on, and that a run can be repeated.

use sim::run::{Options, run, traced};
use std::{path::Path, process::Command};

#[test]
fn two_hundred_fleets_keep_every_promise() {
    let mut started = 0;
    for seed in 1..=200 {
        match run(seed, Options::default()) {
            Ok(summary) => started += summary.started,
            Err(failure) => {
                let from = failure.trace.len().saturating_sub(60);
                panic!("{}\nseed {seed}: {}", failure.trace[from..].join("\n"), failure.what);
            }
        }
    }
    assert!(started > 1_000, "hardly anything ran: {started}");
}

#[test]
fn a_seed_says_everything_about_its_run() {
    let options = Options { agents: Some(5), steps: Some(120) };
    for seed in [3, 5] {
        let (first, trace) = traced(seed, options);
        let (second, again) = traced(seed, options);
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
        assert!(trace.len() > 1_000 && trace == again, "the same seed went another way");
    }
}

#[test]
fn every_mutation_fits_the_code_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        // Also where the files are another user's.
        git.args(["-c", "safe.directory=*", "-C"]).arg(&root).args(args);
        git
    };
    if !git(&["rev-parse", "--git-dir"]).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("SLOTH_TEST_ALL").is_none(), "no git here, or no repository");
        println!("skipped: no git here, or no repository");
        return;
    }
    let mut patches = 0;
    for entry in std::fs::read_dir(root.join("crates/sim/mutations")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            let check = git(&["apply", "--check"]).arg(&path).output().unwrap();
            assert!(check.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&check.stderr));
            patches += 1;
        }
    }
    assert!(patches >= 10, "{patches} patches");
}
