//! Commands for agents that are away.

use crate::fleet::Master;
use serde_json::Value;
use std::fs;

/// A master, and an agent that was killed. It runs one command at a time.
fn away() -> (Master, crate::fleet::Agent) {
    let master = Master::start();
    let mut agent = master.agent_with("lady", &["--set", "commands.max_running=1"]);
    agent.running.kill();
    master.until_status("lady", "Inactive");
    (master, agent)
}

#[test]
fn a_queue_survives_the_masters_death_and_is_run_in_order_once_the_agent_is_back() {
    let (mut master, mut agent) = away();
    let dir = master.folder.path().to_str().unwrap().to_owned();
    for n in 0..5 {
        let (id, line) = (format!("q{n}"), format!("echo {n} >> order; echo out {n}"));
        let done = master.tool(&["agent", "run", "lady", "--queue", "--id", &id, "--dir", &dir, "--shell", &line]);
        let done = done.expect(0);
        assert_eq!(done.text(), format!("{id}\n"));
        assert!(done.stderr.contains("sloth-runner: queued, agent lady is Inactive since 2"), "{}", done.stderr);
    }
    let done = master.tool(&["-o", "json", "agent", "run", "lady", "--queue", "--id", "qj", "--", "true"]).expect(0);
    assert_eq!((&done.json()["state"], &done.json()["outcome"]), (&"queued".into(), &Value::Null));
    assert!(done.json()["reason"].as_str().unwrap().starts_with("agent lady is Inactive since 2"));

    master.kill();
    master.again();
    let queued = master.json(&["command", "list", "--agent", "lady", "--state", "queued"]);
    let ids: Vec<&str> = queued.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["qj", "q4", "q3", "q2", "q1", "q0"]);
    // One of them is not wanted any more.
    let cancelled = master.json(&["command", "cancel", "q3"]);
    assert_eq!((&cancelled["id"], &cancelled["state"]), (&"q3".into(), &"finished".into()));
    assert_eq!((&cancelled["outcome"], cancelled.get("cancelling")), (&"cancelled".into(), None));
    assert!(!master.path("order").exists());

    agent.again();
    for id in ["q0", "q1", "q2", "q4", "qj"] {
        assert_eq!(master.until_finished(id)["outcome"], "exited");
    }
    assert_eq!(fs::read_to_string(master.path("order")).unwrap(), "0\n1\n2\n4\n");
    assert_eq!(master.tool(&["command", "logs", "q4"]).expect(0).text(), "out 4\n");
}

#[test]
fn a_command_that_is_not_sent_in_time_expires_and_never_runs() {
    let (master, mut agent) = away();
    let dir = master.folder.path().to_str().unwrap();
    let line = ["--expires", "300ms", "--id", "late", "--dir", dir, "--", "touch", "ran"];
    master.tool(&[&["agent", "run", "lady", "--queue"][..], &line].concat()).expect(0);
    assert_eq!(master.until_finished("late")["outcome"], "expired");
    agent.again();
    master.until_status("lady", "Active");
    master.tool(&["agent", "run", "lady", "--", "true"]).expect(0);
    assert!(!master.path("ran").exists());
    let expired = master.json(&["command", "list", "--outcome", "expired"]);
    assert_eq!((expired.as_array().unwrap().len(), &expired[0]["id"]), (1, &"late".into()));
    // Who asks for it again gets the same end, not a second try.
    let again = master.tool(&["agent", "run", "lady", "--id", "late", "--dir", dir, "-n", "--", "touch", "ran"]);
    assert!(again.expect(255).stderr.contains("the command was not started in time"));
}

#[test]
fn an_agent_that_is_there_runs_a_queued_command_at_once_and_shows_it() {
    let master = Master::start();
    let _agent = master.agent("lady");
    let done = master.tool(&["agent", "run", "lady", "--queue", "--expires", "1h", "--shell", "echo now; exit 4"]);
    assert_eq!(done.expect(4).text(), "now\n");
    // Without --queue one attaches to what waits, and waits, too.
    drop(master);
    let (master, mut agent) = away();
    let ask = ["agent", "run", "lady", "--id", "x", "--shell", "echo done"];
    master.tool(&[&ask[..], &["--queue"]].concat()).expect(0);
    let attached = master.tool_started(&[&ask[..], &["-n"]].concat());
    agent.again();
    assert_eq!(attached.done().expect(0).text(), "done\n");
}

#[test]
fn who_waits_for_an_agent_is_told_for_whom_and_why_and_runs_when_it_is_back() {
    let (master, mut agent) = away();
    let run = |patience: &str| master.tool_started(&["agent", "run", "lady", "--wait", patience, "--", "echo", "here"]);
    let done = run("100ms").done().expect(255);
    for text in [
        "agent lady is Inactive since 2",
        "): waiting up to 100ms for its return",
        "sloth-runner: agent lady is Inactive since",
        "it did not return within 100ms",
    ] {
        assert!(done.stderr.contains(text), "no {text:?} in {}", done.stderr);
    }
    let waiting = run("5m");
    waiting.err.line("waiting up to 5m for its return");
    agent.again();
    assert_eq!(waiting.done().expect(0).text(), "here\n");

    // Without either it fails at once, and says what else can be done.
    agent.running.kill();
    master.until_status("lady", "Inactive");
    let done = master.tool(&["agent", "run", "lady", "--", "true"]).expect(255);
    assert!(done.stderr.contains("--wait 1m waits for its return, --queue has it run then"), "{}", done.stderr);
}
