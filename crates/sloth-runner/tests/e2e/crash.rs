//! An agent that is killed, and what it has of its commands when it is back.

use crate::fleet::{Agent, Master, all_bytes, look, until};
use std::fs;

/// Starts it and returns its id.
fn detached(master: &Master, args: &[&str]) -> String {
    let dir = master.folder.path().to_str().unwrap();
    let start = ["agent", "run", "lady", "--detach", "--dir", dir];
    let args: Vec<_> = start.into_iter().chain(args.iter().copied()).collect();
    master.tool(&args).expect(0).text().trim().to_owned()
}

/// What the agent's log of commands says of this one, once it is written, which is after its outcome is on record.
fn logged(agent: &Agent, id: &str) -> String {
    until("the command in the log of commands", || {
        let log = fs::read_to_string(agent.state.join("commands.log")).unwrap_or_default();
        log.lines().find(|line| line.contains(id)).map(str::to_owned)
    })
}

#[test]
fn a_command_whose_agent_is_killed_is_interrupted_with_its_output_so_far_and_nothing_of_it_is_left() {
    let master = Master::start();
    let mut agent = master.agent("lady");
    let mark = look::mark();
    // Does not listen to TERM, and has a child.
    let line = "trap '' TERM; cat bytes; (sleep 600 &); touch made; while :; do sleep 0.05; done";
    fs::write(master.path("bytes"), all_bytes()).unwrap();
    let id = detached(&master, &["--env", &mark, "--shell", line]);
    until("its output is with the master", || {
        let bytes = master.json(&["command", "get", &id])["output_bytes"].as_u64();
        let logs = master.tool(&["command", "logs", &id]).expect(0).stdout;
        (master.path("made").exists() && (logs == all_bytes() || bytes == Some(1 << 20))).then_some(())
    });
    agent.running.kill();
    assert!(look::marked(&mark).len() >= 2, "a command outlives its agent");
    agent.again();
    agent.line("outlived the agent");
    let row = master.until_finished(&id);
    assert_eq!((&row["outcome"], &row["code"]), (&"interrupted".into(), &serde_json::Value::Null), "{row}");
    assert_eq!(row["reason"], "the agent died while it ran");
    assert_eq!(look::marked(&mark), [] as [i32; 0]);
    assert!(master.tool(&["command", "logs", &id]).expect(0).stdout == all_bytes());
    assert!(row["gaps"].as_array().unwrap().is_empty(), "{row}");
    assert!(logged(&agent, &id).contains("interrupted"));
}

#[test]
fn an_outcome_that_no_master_took_arrives_after_the_agent_was_killed() {
    let mut master = Master::start();
    let mut agent = master.agent("lady");
    fs::write(master.path("bytes"), all_bytes()).unwrap();
    let line = "echo a; until [ -e gate ]; do sleep 0.02; done; cat bytes; echo once >> ran; exit 7";
    let id = detached(&master, &["--shell", line]);
    agent.line("started");
    master.kill();
    agent.line("Lost connection to master");
    fs::write(master.path("gate"), "").unwrap();
    assert!(logged(&agent, &id).contains(" exited 7 after "));
    agent.again();
    master.again();
    let row = master.until_finished(&id);
    assert_eq!((&row["outcome"], &row["code"]), (&"exited".into(), &7.into()), "{row}");
    let whole = [b"a\n", &all_bytes()[..]].concat();
    assert!(master.tool(&["command", "logs", &id]).expect(0).stdout == whole);
    assert_eq!((&row["output_bytes"], row["gaps"].as_array().unwrap().len()), (&whole.len().into(), 0));
    assert_eq!(fs::read_to_string(master.path("ran")).unwrap(), "once\n");
    assert_eq!(master.events("lady", "command.finished").len(), 1);
}

#[test]
fn what_a_command_says_without_a_link_is_kept_for_the_master_should_its_agent_be_killed() {
    let mut master = Master::start();
    let mut agent = master.agent("lady");
    fs::write(master.path("bytes"), all_bytes()).unwrap();
    let line = "echo a; until [ -e gate ]; do sleep 0.02; done; cat bytes; while :; do sleep 0.05; done";
    let id = detached(&master, &["--shell", line]);
    until("its first output is with the master", || {
        (master.tool(&["command", "logs", &id]).expect(0).text() == "a\n").then_some(())
    });
    master.kill();
    agent.line("Lost connection to master");
    fs::write(master.path("gate"), "").unwrap();
    until("its output is on the disk", || {
        let file = agent.state.join("spool").join(format!("{id}.out"));
        fs::metadata(file).ok().filter(|file| file.len() > 1 << 20)
    });
    agent.again();
    master.again();
    let row = master.until_finished(&id);
    assert_eq!(row["outcome"], "interrupted", "{row}");
    assert!(row["gaps"].as_array().unwrap().is_empty(), "{row}");
    let whole = [b"a\n", &all_bytes()[..]].concat();
    assert!(master.tool(&["command", "logs", &id]).expect(0).stdout == whole);
}

#[test]
fn a_command_that_waits_for_its_turn_runs_after_the_agent_was_killed() {
    let master = Master::start();
    let mut agent = master.agent_with("lady", &["--set", "commands.max_running=1"]);
    let first = detached(&master, &["--", "sleep", "600"]);
    agent.line("started");
    let second = detached(&master, &["--shell", "echo ran"]);
    until("it is accepted", || (master.json(&["command", "get", &second])["state"] == "accepted").then_some(()));
    agent.running.kill();
    agent.again();
    assert_eq!(master.until_finished(&first)["outcome"], "interrupted");
    let row = master.until_finished(&second);
    assert_eq!((&row["outcome"], &row["code"]), (&"exited".into(), &0.into()), "{row}");
    assert_eq!(master.tool(&["command", "logs", &second]).expect(0).text(), "ran\n");
}

#[test]
fn a_spool_that_cannot_be_made_does_not_keep_commands_from_running() {
    let master = Master::start();
    let mut agent = master.agent("lady");
    agent.running.kill();
    // A file where the spool should be: neither root nor anybody else makes a folder there.
    fs::remove_dir_all(agent.state.join("spool")).unwrap();
    fs::write(agent.state.join("spool"), "").unwrap();
    agent.again();
    agent.line("cannot be used");
    agent.line("Agent registered with master");
    master.until_status("lady", "Active");
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "ran"]).expect(0).text(), "ran\n");
}
