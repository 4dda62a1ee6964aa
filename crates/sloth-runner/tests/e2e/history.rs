//! What is kept of commands that have ended.

use crate::fleet::{Master, until};
use std::fs;

fn outputs(master: &Master) -> Vec<String> {
    let names = fs::read_dir(master.path("master/output")).unwrap();
    let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn old_commands_go_with_their_output_and_those_that_are_not_over_stay() {
    let mut master = Master::start();
    let _agent = master.agent("lady");
    let mut away = master.agent("mari");
    away.running.kill();
    master.until_status("mari", "Inactive");
    let dir = master.folder.path().to_str().unwrap().to_owned();
    let line = "echo begun; until [ -e gate ]; do sleep 0.02; done; echo over";
    let run = ["agent", "run", "lady", "--detach", "--id", "runs", "--dir", &dir, "--shell", line];
    master.tool(&run).expect(0);
    master.tool(&["agent", "run", "mari", "--queue", "--id", "waits", "--", "true"]).expect(0);
    for n in 0..4 {
        master.tool(&["agent", "run", "lady", "-n", "--id", &format!("c{n}"), "--", "echo", "out"]).expect(0);
    }
    until("each has its output", || (outputs(&master) == ["c0", "c1", "c2", "c3", "runs"]).then_some(()));

    fs::write(master.path("master.toml"), "[commands]\nkeep_max = 2\n").unwrap();
    master.again();
    until("the old ones are forgotten", || (outputs(&master) == ["c2", "c3", "runs"]).then_some(()));
    let ids = |args: &[&str]| -> Vec<String> {
        let rows = master.json(&[&["command", "list"], args].concat());
        rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&[]), ["c3", "c2", "waits", "runs"]);
    assert_eq!(ids(&["--limit", "2"]), ["c3", "c2"]);
    assert_eq!(ids(&["--limit", "2", "--before", "c2"]), ["waits", "runs"]);
    assert_eq!(ids(&["--outcome", "exited", "--since", "1h"]), ["c3", "c2"]);
    assert_eq!(ids(&["--since", "1ms"]), [] as [&str; 0]);
    let page = master.tool(&["command", "list", "--limit", "2"]).expect(0);
    assert!(page.stderr.contains("there may be more: --before c2 shows older ones"), "{}", page.stderr);
    let gone = master.tool(&["command", "logs", "c0"]).expect(1);
    assert!(gone.stderr.contains("no command \"c0\""), "{}", gone.stderr);

    fs::write(master.path("gate"), "").unwrap();
    master.until_finished("runs");
    assert_eq!(master.tool(&["command", "logs", "runs"]).expect(0).text(), "begun\nover\n");
}

#[test]
fn output_above_what_is_kept_is_a_gap_that_is_told_and_the_outcome_is_there() {
    let mut master = Master::start();
    fs::write(master.path("master.toml"), "[commands]\noutput_keep = \"1MiB\"\n").unwrap();
    master.again();
    let _agent = master.agent("lady");
    let done =
        master.tool(&["agent", "run", "lady", "-n", "--id", "x", "--shell", "head -c 3000000 /dev/zero; exit 6"]);
    let done = done.expect(6);
    assert_eq!(done.stdout.len(), 1 << 20);
    let missing = 3_000_000 - (1 << 20);
    assert_eq!(done.stderr, format!("[{missing} bytes of output are missing here]\n"), "said once, however it came");
    let row = master.until_finished("x");
    assert_eq!((&row["output_bytes"], &row["gaps"][0]["bytes"]), (&3_000_000.into(), &missing.into()));
}
