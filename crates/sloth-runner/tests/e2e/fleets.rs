//! One command on many agents.

use crate::fleet::{Done, Master, until};
use serde_json::Value;
use std::fs;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn fleet() -> (Master, Vec<crate::fleet::Agent>) {
    let master = Master::start();
    let agents = NAMES.map(|name| master.agent_with(name, &["--label", "site=berlin"])).into();
    (master, agents)
}

#[test]
fn a_label_reaches_its_agents_so_many_at_a_time_and_the_summary_names_what_went_wrong() {
    let (master, _agents) = fleet();
    let elsewhere = master.agent_with("x", &["--label", "site=bonn"]);
    let dir = master.folder.path().to_str().unwrap();
    // Each says when it is there, and waits for one other: with fewer than two at a time nothing would move.
    let line = "echo + >> log; until [ $(grep -c + log) -ge 2 ]; do sleep 0.02; done; sleep 0.1; echo - >> log; \
                [ -e failed ] || mkdir failed 2>/dev/null || exit 3";
    let done =
        master.tool(&["agent", "run", "--label", "site=berlin", "--max-parallel", "2", "--dir", dir, "--shell", line]);
    let log = fs::read_to_string(master.path("log")).unwrap();
    let running = log.lines().try_fold((0, 0), |(count, running), line| {
        let running = if line == "+" { running + 1 } else { running - 1 };
        (running <= 2).then_some((count + 1, running))
    });
    assert_eq!(running, Some((12, 0)), "{log}");
    assert!(done.stderr.contains("6/6 done: "), "{}", done.stderr);
    drop(elsewhere);

    let done = master.tool(&["-o", "json", "agent", "run", "--label", "site=berlin", "--shell", "echo $$; exit 5"]);
    let answer = done.expect(1).json();
    let rows = answer.as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["agent"].as_str().unwrap()).collect::<Vec<_>>(), NAMES);
    assert!(rows.iter().all(|row| row["code"] == 5 && row["stdout"].as_str().unwrap().ends_with('\n')));
}

#[test]
fn after_the_first_failure_nothing_more_is_begun_and_what_runs_goes_on() {
    let (master, _agents) = fleet();
    let dir = master.folder.path().to_str().unwrap();
    // The first two run together: one fails at once, the other ends well once that is known.
    let line = "echo + >> log; if mkdir first 2>/dev/null; then exit 7; fi; \
                until [ -e gate ]; do sleep 0.02; done; echo well >> log";
    let run = ["agent", "run", "--all", "--max-parallel", "2", "--fail-fast", "--dir", dir, "--shell", line];
    let failed = || {
        let rows = master.json(&["command", "list", "--outcome", "exited"]);
        rows.as_array().unwrap().iter().filter(|row| row["code"] == 7).count()
    };
    let ran = |args: &[&str]| -> Done {
        let before = failed();
        let tool = master.tool_started(args);
        until("the first has failed", || (failed() > before).then_some(()));
        fs::write(master.path("gate"), "").unwrap();
        tool.done()
    };
    let done = ran(&run).expect(1);
    let log = fs::read_to_string(master.path("log")).unwrap();
    assert_eq!(log, "+\n+\nwell\n");
    assert!(done.stderr.contains("2/6 done: 1 exited 0; 4 not started; 1 exited 7 ("), "{}", done.stderr);

    fs::remove_dir(master.path("first")).unwrap();
    fs::remove_file(master.path("gate")).unwrap();
    let done = ran(&[&["-o", "json"][..], &run].concat()).expect(1);
    let answer = done.json();
    let not_started = answer.as_array().unwrap().iter().filter(|row| row["state"] == Value::Null);
    let reasons: Vec<&str> = not_started.map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), 4);
    assert!(reasons.iter().all(|reason| reason.starts_with("not started: it failed on ")), "{reasons:?}");
}

#[test]
fn a_fleet_of_which_some_are_away_is_queued_for_those_and_run_on_the_others() {
    let (master, mut agents) = fleet();
    agents[1].running.kill();
    master.until_status("b", "Inactive");
    let done = master.tool(&["agent", "run", "--all", "--queue", "--", "true"]).expect(0);
    assert!(done.stderr.contains("b: queued, agent b is Inactive since"), "{}", done.stderr);
    assert!(done.stderr.contains("6/6 done: 5 exited 0; 1 queued"), "{}", done.stderr);
    let queued = &master.json(&["command", "list", "--state", "queued"])[0];
    agents[1].again();
    assert_eq!(master.until_finished(queued["id"].as_str().unwrap())["outcome"], "exited");
}

#[test]
fn programs_get_a_document_also_when_there_is_no_master() {
    let mut master = Master::start();
    master.kill();
    for (line, code) in [
        ("agent run a -- true", 255),
        ("agent run --all -- true", 1),
        ("agent list", 1),
        ("agent get a", 1),
        ("agent delete a", 1),
        ("agent stop a", 1),
        ("agent events", 1),
        ("agent events --follow", 1),
        ("command list", 1),
        ("command get x", 1),
        ("command logs x", 1),
        ("command logs x --follow", 1),
        ("command cancel x", 1),
    ] {
        let args: Vec<&str> = ["-o", "json"].into_iter().chain(line.split(' ')).collect();
        let done = master.tool(&args).expect(code);
        let answer = done.json();
        let why = answer["error"].as_str().or_else(|| answer["reason"].as_str()).unwrap_or_default();
        assert!(why.contains("cannot reach the master at 127."), "{line}: {answer}");
    }
}
