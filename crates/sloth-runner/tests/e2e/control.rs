//! Commands that are attached to twice, cancelled, left alone or abandoned.

use crate::fleet::{Master, look, until};
use std::{fs, io::Write};

#[test]
fn the_same_id_attaches_to_the_command_and_never_starts_it_again() {
    let master = Master::start();
    let _agent = master.agent("lady");
    let dir = master.folder.path().to_str().unwrap();
    let line = "echo started >> count; echo a; until [ -e gate ]; do sleep 0.02; done; echo z; exit 5";
    let args = ["agent", "run", "lady", "--id", "once", "--dir", dir, "--shell", line];
    let tools = [master.tool_started(&args), master.tool_started(&args)];
    for tool in &tools {
        tool.out.line("a");
    }
    let other = ["agent", "run", "lady", "--id", "once", "--", "true"];
    let refused = master.tool(&other).expect(255);
    let expected = "sloth-runner: command once exists with other content (it differs in: argument list or --shell, \
                    directory): `sloth-runner command get once` shows it; another --id runs a new one\n";
    assert_eq!(refused.stderr, expected);
    fs::write(master.path("gate"), "").unwrap();
    for tool in tools {
        assert_eq!(tool.done().expect(5).text(), "a\nz\n");
    }
    assert_eq!(master.tool(&args).expect(5).text(), "a\nz\n", "after its end, too");
    let _other = master.agent("kei");
    let elsewhere = ["agent", "run", "kei", "--id", "once", "--dir", dir, "--env", "A=b", "--shell", line];
    let refused = master.tool(&elsewhere).expect(255).stderr;
    assert!(refused.contains(" content (it differs in: agent, there lady, environment): "), "{refused}");
    assert_eq!(fs::read_to_string(master.path("count")).unwrap(), "started\n");
}

#[test]
fn ctrl_c_ends_everything_that_the_command_started_and_exits_with_130() {
    let master = Master::start();
    let _agent = master.agent("lady");
    let mark = look::mark();
    let line = "sleep 600 & (sleep 600 & sleep 600) & echo ready; wait";
    let tool = master.tool_started(&["agent", "run", "lady", "--env", &mark, "--id", "x", "--shell", line]);
    tool.out.line("ready");
    until("its four children run", || (look::marked(&mark).len() >= 4).then_some(()));
    tool.signal(libc::SIGINT);
    let done = tool.done().expect(130);
    assert!(done.stderr.contains("cancelling; Ctrl-C again leaves at once"), "{}", done.stderr);
    assert_eq!(look::marked(&mark), [] as [i32; 0]);
    assert_eq!(master.until_finished("x")["outcome"], "cancelled");
}

#[test]
fn a_second_ctrl_c_leaves_a_command_that_does_not_end() {
    let master = Master::start();
    let _agent = master.agent_with("lady", &["--set", "commands.kill_grace=\"1h\""]);
    let line = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let tool = master.tool_started(&["agent", "run", "lady", "--id", "x", "--shell", line]);
    tool.out.line("ready");
    tool.signal(libc::SIGINT);
    tool.err.line("cancelling");
    tool.signal(libc::SIGINT);
    let done = tool.done().expect(130);
    assert!(done.stderr.contains("sloth-runner command logs x --follow"), "{}", done.stderr);
    assert_eq!(master.json(&["command", "get", "x"])["state"], "accepted");
}

#[test]
fn a_command_that_waits_on_its_agent_is_told_from_one_that_runs_and_from_one_that_is_being_ended() {
    let mut master = Master::start();
    let settings = ["--set", "commands.max_running=1", "--set", "commands.kill_grace=\"1h\""];
    let _agent = master.agent_with("lady", &settings);
    let run = |id: &str, line: &str| {
        let _id = master.tool(&["agent", "run", "lady", "--detach", "--id", id, "--shell", line]).expect(0);
    };
    run("first", "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    run("second", "true");
    let stands = |master: &Master, id: &str| {
        let text = master.tool(&["command", "get", id]).expect(0).text();
        text.lines().find_map(|line| line.strip_prefix("State     ")).expect("a line says it").to_owned()
    };
    let running = |master: &Master| (stands(master, "first") == "running").then_some(());
    until("the first one runs", || running(&master));
    assert_eq!(stands(&master, "second"), "accepted, not known to have started");
    let listed = master.json(&["command", "list"]);
    let started: Vec<bool> = listed.as_array().unwrap().iter().map(|row| row["started"].is_string()).collect();
    assert_eq!(started, [false, true], "{listed}");
    let started = master.json(&["command", "get", "first"])["started"].clone();
    assert!(started.is_string() && master.json(&["command", "get", "second"])["started"].is_null());

    master.kill();
    master.again();
    master.until_status("lady", "Active");
    until("it is known again", || running(&master));
    assert_eq!(master.json(&["command", "get", "first"])["started"], started);
    let _cancelled = master.tool(&["command", "cancel", "first"]).expect(0);
    assert_eq!(stands(&master, "first"), "cancelling, it runs still");
    assert_eq!(master.json(&["command", "get", "first"])["cancelling"], true);
}

#[test]
fn a_tool_that_ends_leaves_its_command_running() {
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGKILL] {
        let master = Master::start();
        let _agent = master.agent("lady");
        let mark = look::mark();
        let line = "echo ready; until [ -e gate ]; do sleep 0.02; done; exit 6";
        let dir = master.folder.path().to_str().unwrap();
        let run = ["agent", "run", "lady", "--env", &mark, "--dir", dir, "--id", "x", "--shell", line];
        let tool = master.tool_started(&run);
        tool.out.line("ready");
        tool.signal(signal);
        tool.done().expect(if signal == libc::SIGKILL { 137 } else { 255 });
        assert!(!look::marked(&mark).is_empty(), "signal {signal}");
        fs::write(master.path("gate"), "").unwrap();
        assert_eq!(master.until_finished("x")["code"], 6, "signal {signal}");
    }
}

#[test]
fn an_abandoned_standard_input_cancels_the_command_and_is_never_given_a_false_end() {
    let master = Master::start();
    let _agent = master.agent("lady");
    let dir = master.folder.path().to_str().unwrap();
    let line = "head -c 5; cat; touch saw-the-end";
    let mut tool = master.tool_fed(&["agent", "run", "lady", "--dir", dir, "--id", "x", "--shell", line]);
    let mut input = tool.input.take().unwrap();
    input.write_all(b"half\na line").unwrap();
    tool.out.line("half");
    tool.signal(libc::SIGKILL);
    tool.wait();
    assert_eq!(master.until_finished("x")["outcome"], "cancelled");
    assert!(!master.path("saw-the-end").exists());
}

#[test]
fn a_detached_command_is_cancelled_by_its_id() {
    let master = Master::start();
    let agent = master.agent("lady");
    let mark = look::mark();
    let done = master.tool(&["agent", "run", "lady", "--detach", "--env", &mark, "--", "sleep", "600"]).expect(0);
    let id = done.text().trim().to_owned();
    agent.line(&format!("Command {id} started"));
    assert_eq!(look::marked(&mark).len(), 1);
    assert_eq!(master.json(&["command", "list", "--state", "accepted"])[0]["id"], id.as_str());
    let asked = master.tool(&["command", "cancel", &id]).expect(0);
    assert_eq!(asked.text(), format!("cancelling {id} on lady\n"));
    assert_eq!(master.until_finished(&id)["outcome"], "cancelled");
    assert_eq!(look::marked(&mark), [] as [i32; 0]);
    assert_eq!(master.tool(&["command", "cancel", &id]).expect(0).text(), format!("{id} was cancelled\n"));
}

#[test]
fn a_command_for_an_agent_that_is_away_can_wait_for_its_return() {
    let master = Master::start();
    let mut agent = master.agent("lady");
    agent.running.kill();
    master.until_status("lady", "Inactive");
    let tool = master.tool_started(&["agent", "run", "lady", "--wait", "5m", "--", "echo", "waited"]);
    agent.again();
    assert_eq!(tool.done().expect(0).text(), "waited\n");
    agent.running.kill();
    master.until_status("lady", "Inactive");
    let refused = master.tool(&["agent", "run", "lady", "--wait", "100ms", "--", "echo", "waited"]).expect(255);
    assert!(refused.stderr.contains("agent lady is Inactive since"), "{}", refused.stderr);
}

#[test]
fn on_several_agents_lines_have_names_and_a_summary_follows() {
    let master = Master::start();
    let _agents = ["kei", "lady", "mari"].map(|name| master.agent_with(name, &["--label", &format!("who={name}")]));
    let done = master.tool(&["agent", "run", "kei", "mari", "--shell", "echo one; echo two"]).expect(0);
    let mut lines: Vec<String> = done.text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["kei | one", "kei | two", "mari | one", "mari | two"]);
    assert_eq!(done.stderr, "2/2 done: 2 exited 0\n");

    let done = master.tool(&["agent", "run", "--all", "--shell", "echo x >&2; exit 0"]).expect(0);
    assert_eq!(done.stderr.lines().filter(|line| line.ends_with(" | x")).count(), 3, "{}", done.stderr);
    let by_label = master.tool(&["agent", "run", "--label", "who=lady", "--", "echo", "x"]).expect(0);
    assert_eq!((by_label.text().as_str(), by_label.stderr.as_str()), ("lady | x\n", "1/1 done: 1 exited 0\n"));
    let mixed = master.tool(&["agent", "run", "lady", "kei", "--shell", "[ $0 = x ]"]).expect(1);
    assert!(mixed.stderr.ends_with("2/2 done: 2 exited 1 (lady, kei)\n"), "{}", mixed.stderr);
    let none = master.tool(&["agent", "run", "--label", "who=nobody", "--", "true"]).expect(1);
    assert!(none.stderr.contains("no agent matches"), "{}", none.stderr);
}
