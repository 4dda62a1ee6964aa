//! `agent run`: codes, bytes, surroundings of the command.

use crate::fleet::{Master, Running, all_bytes, running::feed, until};
use serde_json::Value;
use std::{fs, process::Stdio};

#[test]
fn the_exit_code_is_the_commands_own_or_255() {
    let master = Master::start();
    let _lady = master.agent("lady");
    let mut away = master.agent("mari");
    away.running.kill();
    master.until_status("mari", "Inactive");
    for (line, code, complaint) in [
        ("lady -- true", 0, ""),
        ("lady -- sh -c exit\t3", 3, ""),
        ("lady -- sh -c exit\t255", 255, ""),
        ("lady -- sh -c kill\t-9\t$$", 137, "the command was ended by signal 9"),
        ("lady --timeout 100ms -- sleep 600", 255, "the command took too long and was ended"),
        ("lady -- no-such-program", 255, "was refused: cannot start 'no-such-program': no such file or directory"),
        ("lady --dir /no/such -- true", 255, "was refused: cannot enter directory '/no/such': no such file"),
        ("lady --user no-such-user -- true", 255, "no-such-user"),
        ("kei -- true", 255, "no agent \"kei\": `sloth-runner agent list` shows all"),
        ("mari -- true", 255, "agent mari is Inactive since 2"),
    ] {
        let args = line.split(' ').map(|word| word.replace('\t', " ")).collect::<Vec<String>>();
        let args: Vec<&str> = ["agent", "run"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let done = master.tool(&args).expect(code);
        assert!(done.stderr.contains(complaint) && done.stderr.is_empty() == complaint.is_empty(), "{}", done.stderr);
        assert!(done.stdout.is_empty(), "{line}: {}", done.text());
    }
}

#[test]
fn output_on_both_streams_is_the_commands_own_to_the_byte() {
    let master = Master::start();
    let _agent = master.agent("lady");
    fs::write(master.path("bytes"), all_bytes()).unwrap();
    let dir = master.folder.path().to_str().unwrap();
    let tool = master.tool_started(&["agent", "run", "lady", "--dir", dir, "--shell", "cat bytes; cat bytes >&2"]);
    let (out, err) = (tool.out.clone(), tool.err.clone());
    tool.done().expect(0);
    assert!(out.all() == all_bytes() && err.all() == all_bytes());
}

#[test]
fn standard_input_reaches_the_command_to_the_byte() {
    let master = Master::start();
    let _agent = master.agent("lady");
    let mut tool = master.tool_fed(&["agent", "run", "lady", "--", "cat"]);
    feed(tool.input.take().unwrap(), all_bytes());
    assert!(tool.done().expect(0).stdout == all_bytes());

    // Without it the command sees its end at once, although the tool's own stays open.
    let tool = master.tool_fed(&["agent", "run", "lady", "-n", "--", "cat"]);
    assert_eq!(tool.out.all(), b"");
    // A command that does not read all of it is nobody's trouble.
    let mut tool = master.tool_fed(&["agent", "run", "lady", "--", "head", "-c", "3"]);
    feed(tool.input.take().unwrap(), [b"abc", &all_bytes()[..]].concat());
    assert_eq!(tool.done().expect(0).text(), "abc");
}

#[test]
fn a_command_has_the_surroundings_that_were_asked_for() {
    let master = Master::start();
    let _agent = master.agent("lady");
    let dir = fs::canonicalize(master.folder.path()).unwrap();
    let dir = dir.to_str().unwrap();
    let run = |more: &[&str]| {
        let args: Vec<&str> = ["agent", "run", "lady"].into_iter().chain(more.iter().copied()).collect();
        master.tool(&args).expect(0).text()
    };
    assert_eq!(run(&["--env", "A=b=c", "--env", "B=", "--shell", "echo $A,${B-unset},${C-unset}"]), "b=c,,unset\n");
    let mut named = master.tool_command(&["agent", "run", "lady", "--env", "SECRET", "--shell", "echo $SECRET"]);
    named.env("SECRET", "of the tool's own");
    assert_eq!(Running::start(named, Stdio::null()).done().expect(0).text(), "of the tool's own\n");
    let unset = master.tool(&["agent", "run", "lady", "--env", "NOBODY_SETS_THIS", "--", "true"]).expect(2);
    assert!(
        unset.stderr.contains("'NOBODY_SETS_THIS' for '--env <NAME[=VALUE]>': it is not set here"),
        "{}",
        unset.stderr
    );
    assert_eq!(run(&["--", "pwd"]), "/\n");
    assert_eq!(run(&["--dir", dir, "--", "pwd"]), format!("{dir}\n"));
    assert_eq!(run(&["--", "echo", "$HOME *", "-n", "--"]), "$HOME * -n --\n", "no shell looks at arguments");
    assert_eq!(run(&["--shell", "echo a | tr a b; umask"]), "b\n0022\n");
}

#[test]
fn the_tail_of_a_command_that_ends_at_once_is_there_every_time() {
    let master = Master::start();
    let _agent = master.agent("lady");
    for count in 0..50 {
        let text = format!("tail {count}");
        let done = master.tool(&["agent", "run", "lady", "--", "printf", &text]).expect(0);
        assert_eq!(done.text(), text);
    }
}

#[test]
fn thirty_commands_at_once_run_four_at_a_time_and_each_once() {
    let master = Master::start();
    let _agent = master.agent_with("lady", &["--set", "commands.max_running=4"]);
    let dir = master.folder.path().to_str().unwrap();
    let line = "echo + >> log; until [ -e gate ]; do sleep 0.02; done; echo - >> log; echo $N";
    let run = |n: usize| {
        master.tool_started(&["agent", "run", "lady", "--dir", dir, "--env", &format!("N={n}"), "--shell", line])
    };
    let tools: Vec<Running> = (0..30).map(run).collect();
    let log = || fs::read_to_string(master.path("log")).unwrap_or_default();
    until("all are with the agent", || {
        let accepted = master.json(&["command", "list", "--state", "accepted"]);
        (accepted.as_array().unwrap().len() == 30).then_some(())
    });
    until("four have begun", || (log() == "+\n+\n+\n+\n").then_some(()));
    fs::write(master.path("gate"), "").unwrap();
    for (n, tool) in tools.into_iter().enumerate() {
        assert_eq!(tool.done().expect(0).text(), format!("{n}\n"));
    }
    let running = log().lines().try_fold((0, 0), |(count, running), line| {
        let running = if line == "+" { running + 1 } else { running - 1 };
        (running <= 4).then_some((count + 1, running))
    });
    assert_eq!(running, Some((60, 0)), "{}", log());
}

#[test]
fn json_has_the_documented_fields_and_no_others() {
    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }
    fn sorted(words: &str) -> Vec<&str> {
        let mut words: Vec<&str> = words.split(' ').collect();
        words.sort_unstable();
        words
    }
    const COMMAND: &str =
        "id agent state outcome code signal reason created started finished output_bytes gaps argv shell";
    let master = Master::start();
    let _agent = master.agent_with("lady", &["--label", "site=edge"]);
    let row = &master.json(&["agent", "list"])[0];
    assert_eq!(keys(row), sorted("name id status reason since address version labels last_heartbeat"));
    assert_eq!((&row["reason"], &row["labels"]["site"]), (&Value::Null, &"edge".into()));

    let run = |line: &str| {
        let done = master.tool(&["agent", "run", "lady", "-o", "json", "--id", "x", "--shell", line]);
        (done.code, done.json())
    };
    let (code, answer) = run("printf 'ä'; printf '\\377' >&2; exit 3");
    assert_eq!(code, 3);
    assert_eq!(keys(&answer), sorted(&format!("{COMMAND} stdout stderr stderr_base64")));
    assert_eq!((&answer["stdout"], &answer["stderr_base64"]), (&"ä".into(), &"/w==".into()));
    assert_eq!((&answer["outcome"], &answer["code"], &answer["signal"]), (&"exited".into(), &3.into(), &Value::Null));
    assert_eq!((&answer["id"], &answer["agent"], &answer["state"]), (&"x".into(), &"lady".into(), &"finished".into()));
    assert_eq!(answer["output_bytes"], 3);
    for time in ["created", "started", "finished"] {
        let text = answer[time].as_str().unwrap();
        assert!(text.len() == "2026-01-02T03:04:05.678Z".len() && text.ends_with('Z'), "{text}");
    }
    assert_eq!(master.events("lady", "command.finished")[0]["message"], "command x: exited 3");
    let command = master.json(&["command", "get", "x"]);
    assert_eq!(keys(&command), sorted(COMMAND));
    let (code, answer) = run("another content");
    assert_eq!((code, &answer["outcome"]), (255, &Value::Null));
    assert!(answer["reason"].as_str().unwrap().contains("exists with other content"), "{answer}");
}
