//! The tool's binary against a scripted master: what scripts see of it, its exit codes, its bytes.

mod scripted;

use link::Outcome;
use proto::{AgentRow, EventRow, OutputStream};
use scripted::{Master, Script};
use serde_json::{Value, json};
use std::{
    os::fd::{FromRawFd, OwnedFd},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tonic::Code;

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

fn tool(master: &str, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sloth-runner"));
    command.args(line.split(' ')).env("SLOTH_RUNNER_MASTER_ADDR", master).env_remove("NO_COLOR").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // As a terminal starts it, also where whoever runs the tests has hangups ignored.
    // SAFETY: between fork and exec, signal is a system call without memory of its own.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
    command
}

async fn ended(child: Child) -> Output {
    timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap()
}

async fn run(master: &Master, line: &str) -> (i32, String, String) {
    let output = ended(tool(&master.address(), line).spawn().unwrap()).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn signal(child: &Child, number: i32) {
    let pid = i32::try_from(child.id().expect("it runs")).unwrap();
    // SAFETY: sends a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, number) }, 0);
}

/// Until the master has seen that.
async fn until(master: &Master, is_so: impl Fn(&Script) -> bool) {
    let so = async {
        while !master.seen(&is_so) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, so).await.expect("it comes to that");
}

fn agent(name: &str, status: &str, site: &str) -> AgentRow {
    AgentRow {
        name: name.to_owned(),
        status: status.to_owned(),
        labels: [("site".to_owned(), site.to_owned())].into(),
        ..AgentRow::default()
    }
}

fn fleet(outcome: Outcome) -> Script {
    Script {
        agents: vec![agent("kei", "Active", "a"), agent("lady", "Inactive", "b"), agent("mari", "Active", "a")],
        output: vec![(OutputStream::Stdout, b"one\ntwo".to_vec()), (OutputStream::Stderr, b"\xffoops\n".to_vec())],
        outcome: Some(outcome),
        ..Script::default()
    }
}

#[tokio::test]
async fn output_and_exit_code_are_the_commands_own() {
    let master = Master::start(fleet(Outcome::Exited(7))).await;
    let child = tool(&master.address(), "agent run lady --env A=b --dir /tmp --timeout 2s --id x1 -n -- ls -l").spawn();
    let output = ended(child.unwrap()).await;
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"one\ntwo"[..], &b"\xffoops\n"[..]));
    assert_eq!(output.status.code(), Some(7));
    master.seen(|script| {
        let start = &script.starts[0];
        let spec = start.spec.as_ref().unwrap();
        assert_eq!((start.id.as_str(), start.agent.as_str()), ("x1", "lady"));
        assert_eq!((&spec.argv, &spec.env), (&vec![b"ls".to_vec(), b"-l".to_vec()], &vec![b"A=b".to_vec()]));
        assert_eq!((spec.dir.as_slice(), spec.timeout_ms, spec.stdin), (&b"/tmp"[..], 2000, false));
    });
}

#[tokio::test]
async fn an_end_without_a_code_is_255_and_says_why() {
    let master = Master::start(fleet(Outcome::Refused("no such user: bob".into()))).await;
    let child = tool(&master.address(), "agent run lady --shell ls").spawn().unwrap();
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.ends_with("sloth-runner: the command was refused: no such user: bob\n"), "{said}");

    master.script.lock().unwrap().refusal = Some("lady is Inactive since 3s: stream_closed");
    let (code, _, said) = run(&master, "agent run lady -- ls").await;
    assert_eq!((code, said.as_str()), (255, "sloth-runner: lady is Inactive since 3s: stream_closed\n"));

    // Held, so that no other test is given it, and without a listener.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = held.local_addr().unwrap();
    let output = ended(tool(&free.to_string(), "agent run lady -- ls").spawn().unwrap()).await;
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("cannot reach the master at {free}: connection refused; is it running there?")));
}

#[tokio::test]
async fn what_an_agent_says_writes_no_line_of_its_own_and_steers_no_terminal() {
    let reason = "x\x1b]0;title\x07\x1b[2J\r\nsloth-runner: all is well\u{202e}";
    let master = Master::start(Script { output: Vec::new(), ..fleet(Outcome::Refused(reason.into())) }).await;
    for line in ["agent run lady -- ls", "agent run lady -o json -- ls", "agent run lady kei -- ls"] {
        let (code, _, said) = run(&master, line).await;
        assert!(code != 0 && said.contains("all is well"), "{line}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("sloth-runner: all is well")), "{line}: {said:?}");
        assert!(!said.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{line}: {said:?}");
    }
}

#[tokio::test]
async fn usage_errors_are_2_and_other_failures_1() {
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    for (line, expected) in [
        ("agent run", 2),
        ("agent run a b --id x -- ls", 2),
        ("agent list --master http://x", 2),
        ("agent get nobody", 1),
        ("agent delete lady", 1),
        ("agent delete lady --force", 0),
        ("agent stop lady", 0),
        ("--help", 0),
    ] {
        let (code, _, said) = run(&master, line).await;
        assert_eq!(code, expected, "{line}: {said}");
    }
    let output = ended(tool("x:y", "agent list").spawn().unwrap()).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn a_command_without_dashes_is_shown_with_them() {
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    for (line, meant) in [
        ("agent run node1 uname", "agent run node1 -- uname"),
        ("agent run node1 uname -a", "agent run node1 -- uname -a"),
        ("agent exec --all df -h", "agent exec --all -- df -h"),
    ] {
        let expected = format!("error: the command goes after `--`; did you mean: sloth-runner {meant}\n");
        assert_eq!(run(&master, line).await, (2, String::new(), expected));
    }
    // A mistake of another kind is told as it is.
    let (code, _, said) = run(&master, "agent run --hartbeat node1 ls").await;
    assert!(code == 2 && said.contains("--hartbeat"), "{said}");
}

#[tokio::test]
async fn commands_about_this_node_are_the_agents_own() {
    let state = tempfile::tempdir().unwrap();
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    let folder = state.path().display();
    for (line, code) in [
        (format!("agent status --state-dir {folder}"), 3),
        (format!("--master a:1 agent status --state-dir {folder}"), 3),
        (format!("agent stop --state-dir={folder}"), 1),
        (format!("agent check --name n1 --state-dir {folder}"), 0),
    ] {
        let (seen, out, said) = run(&master, &line).await;
        assert_eq!(seen, code, "{line}: {out}{said}");
        assert_eq!(format!("{out}{said}").contains("is not running"), code != 0, "{line}: {out}{said}");
    }
    assert_eq!(run(&master, "agent stop lady").await.0, 0, "the master's");
    let (code, help, _) = run(&master, "agent status --help").await;
    assert!(code == 0 && help.contains("sloth-runner agent status --name node1"), "{help}");
}

#[tokio::test]
async fn standard_input_is_passed_on_byte_for_byte() {
    let master = Master::start(Script { outcome: Some(Outcome::Exited(0)), ..Script::default() }).await;
    let input: Vec<u8> = (0..=255).cycle().take(300_001).collect();
    let mut child = tool(&master.address(), "agent run lady -- cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&input).await.unwrap();
    drop(stdin);
    assert_eq!(ended(child).await.status.code(), Some(0));
    master.seen(|script| assert!(script.stdin == input && script.stdin_ended));
}

#[tokio::test]
async fn json_is_one_document() {
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    let parse = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let (_, text, _) = run(&master, "agent run lady -o json -- ls").await;
    let document = parse(&text);
    assert_eq!(
        (&document["outcome"], &document["code"], &document["stdout"]),
        (&json!("exited"), &json!(0), &json!("one\ntwo"))
    );
    assert_eq!(document["stderr_base64"], "/29vcHMK");

    let (code, text, _) = run(&master, "-o json agent run --label site=a -- ls").await;
    let document = parse(&text);
    assert_eq!((code, document.as_array().unwrap().len()), (0, 2));

    let (_, text, _) = run(&master, "agent list -o json --status Active").await;
    let names: Vec<Value> = parse(&text).as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["kei", "mari"]);
    assert_eq!(parse(&run(&master, "agent get lady -o json").await.1)["status"], "Inactive");
    assert_eq!(parse(&run(&master, "command list -o json").await.1)[0]["id"], "c2");
    assert_eq!(parse(&run(&master, "command get c1 -o json").await.1)["output_bytes"], 13);
    assert_eq!(parse(&run(&master, "command logs c1 -o json").await.1)["stdout"], "one\ntwo");

    master.script.lock().unwrap().refusal = Some("no");
    let (code, text, _) = run(&master, "agent run lady -o json -- ls").await;
    assert_eq!((code, &parse(&text)["outcome"], &parse(&text)["reason"]), (255, &json!(null), &json!("no")));
    assert_eq!(parse(&text)["id"], json!(null), "there never was such a command");
    let (code, text, _) = run(&master, "agent run lady kei --detach -o json -- ls").await;
    assert_eq!(
        (code, parse(&text)),
        (
            1,
            json!([
                {"agent": "lady", "id": null, "error": "no"}, {"agent": "kei", "id": null, "error": "no"},
            ])
        )
    );
}

#[tokio::test]
async fn a_program_gets_a_document_also_where_a_command_is_not_begun() {
    let parse =
        |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}")) };
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    let detached = parse(&run(&master, "agent run lady --detach -o json --id x -- ls").await.1);
    let fields = |document: &Value| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    master.script.lock().unwrap().refusal = Some("lady is Inactive");
    for detach in ["", "--detach "] {
        let (code, text, said) = run(&master, &format!("agent run lady {detach}-o json -- ls")).await;
        let document = parse(&text);
        assert_eq!((code, said.as_str()), (255, "sloth-runner: lady is Inactive\n"));
        assert_eq!((&document["id"], &document["reason"]), (&json!(null), &json!("lady is Inactive")));
        if !detach.is_empty() {
            assert_eq!(fields(&document), fields(&detached), "those of a command, without output");
        }
    }
    master.script.lock().unwrap().refused_with = Some(Code::AlreadyExists);
    for detach in ["", "--detach "] {
        let (code, text, _) = run(&master, &format!("agent run lady {detach}--id xx1 -o json -- ls")).await;
        assert_eq!((code, &parse(&text)["id"]), (255, &json!(null)), "xx1 is another command");
    }
    // Held, so that no other test is given it, and without a listener.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = held.local_addr().unwrap().to_string();
    let output = ended(tool(&nobody, "agent run lady --detach -o json -- ls").spawn().unwrap()).await;
    let document = parse(&String::from_utf8(output.stdout).unwrap());
    assert_eq!((output.status.code(), &document["id"]), (Some(255), &json!(null)));
}

#[tokio::test]
async fn of_several_agents_each_has_its_place_in_the_array_also_where_one_is_unknown() {
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    for how in ["", "--queue ", "--detach "] {
        let (code, text, said) = run(&master, &format!("agent run kei nobody kei lady {how}-o json -n -- ls")).await;
        assert_eq!(code, 1, "{said}");
        let rows: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        let why = "no agent \"nobody\", so nothing was run: `sloth-runner agent list` shows all";
        assert_eq!(said, format!("sloth-runner: {why}\n"));
        let word = if how == "--detach " { "error" } else { "reason" };
        let shown: Vec<_> =
            rows.as_array().unwrap().iter().map(|row| (&row["agent"], &row["id"], &row[word])).collect();
        let not_started = json!(format!("not started: {why}"));
        assert_eq!(
            shown,
            [
                (&json!("kei"), &json!(null), &not_started),
                (&json!("nobody"), &json!(null), &json!(why)),
                (&json!("lady"), &json!(null), &not_started),
            ]
        );
    }
    master.seen(|script| assert_eq!(script.starts.len(), 0));
}

#[tokio::test]
async fn a_program_gets_a_document_also_of_a_tool_that_has_to_leave() {
    let parse = |output: &Output| -> Value {
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    };
    for number in [libc::SIGTERM, libc::SIGHUP] {
        let master = Master::start(endless()).await;
        let mut command = tool(&master.address(), "agent run lady --id x8 -o json -- sleep");
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"abc").await.unwrap();
        // It is sent on when the master has answered.
        until(&master, |script| script.stdin == b"abc").await;
        let open = child.stdin.take();
        signal(&child, number);
        let output = ended(child).await;
        let document = parse(&output);
        assert_eq!(
            (output.status.code(), &document["id"], &document["state"]),
            (Some(255), &json!("x8"), &json!(null))
        );
        let why = document["reason"].as_str().unwrap();
        drop(open);
        let expected = "leaving; it goes on, unless its standard input is unfinished; to look at it: sloth-runner command \
                        logs x8 --follow";
        assert_eq!(why, expected);
        assert!(String::from_utf8_lossy(&output.stderr).ends_with(&format!("sloth-runner: {why}\n")));
    }

    let master = Master::start(Script { agents: fleet(Outcome::Exited(0)).agents, ..endless() }).await;
    for (line, word) in [("", "reason"), ("--detach ", "error")] {
        let begun = master.seen(|script| script.starts.len());
        // The start of a detached one is only waited for where the master does not answer.
        master.script.lock().unwrap().holds_starts = !line.is_empty();
        let line = format!("agent run --all --max-parallel 2 {line}-o json -n -- sleep");
        let child = tool(&master.address(), &line).spawn().unwrap();
        until(&master, |script| script.starts.len() == begun + 2).await;
        signal(&child, libc::SIGTERM);
        let output = ended(child).await;
        let rows = parse(&output);
        let ids: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["id"].as_str()).collect();
        let given =
            master.seen(|script| script.starts[begun..].iter().map(|start| start.id.clone()).collect::<Vec<_>>());
        assert_eq!((output.status.code(), ids.len(), ids[2]), (Some(1), 3, None), "{rows}");
        assert!(given.iter().all(|id| ids.contains(&Some(id.as_str()))), "{rows} {given:?}");
        assert_eq!(rows[2][word], "not started: left before its turn");
        assert!(rows[0][word].as_str().unwrap().starts_with("leaving; "), "{rows}");
    }
}

#[tokio::test]
async fn a_second_interrupt_leaves_at_once_and_with_a_document() {
    // The kernel takes the connection, and nobody reads from it: nothing is heard of the cancelling either.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hangs.local_addr().unwrap().to_string();
    let mut child = tool(&address, "agent run lady --id x9 -o json -n -- sleep").spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = async || timeout(PATIENCE, said.next_line()).await.expect("it comes").unwrap().unwrap();
    assert_eq!(next().await, format!("no answer from the master at {address} yet"));
    signal(&child, libc::SIGINT);
    assert_eq!(next().await, "cancelling; Ctrl-C again leaves at once");
    signal(&child, libc::SIGINT);
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(130));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["id"], "x9", "it may have been taken");
    assert!(document["reason"].as_str().unwrap().starts_with("leaving; the master has not answered"), "{document}");
}

#[tokio::test]
async fn what_is_wrong_before_the_master_is_asked_is_a_document_too() {
    let home = tempfile::tempdir().unwrap();
    for line in [
        "--context nope agent list",
        "--master http://x agent list",
        "--token sloth1.bad agent get x",
        "--ca /nonex command list",
        "--token sloth1.bad token list",
        "--token sloth1.bad support-bundle x",
        "--context nope support-bundle x",
        "context add zz",
        "agent run a b --id x -n -- ls",
        "--token sloth1.bad agent list --watch",
        "--token sloth1.bad agent events --follow",
        "--token sloth1.bad command logs x --follow",
    ] {
        let mut command = tool("127.0.0.1:1", &format!("-o json {line}"));
        if line.starts_with("--context") {
            command.env_remove("SLOTH_RUNNER_MASTER_ADDR");
        }
        let output = ended(command.env("XDG_CONFIG_HOME", home.path()).spawn().unwrap()).await;
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text:?}"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, format!("sloth-runner: {}\n", document["error"].as_str().unwrap()), "{line}");
        let lines = line.ends_with("--watch") || line.ends_with("--follow");
        assert_eq!(text.lines().count() == 1, lines, "{line}: {text}");
    }
}

#[tokio::test]
async fn several_agents_have_their_names_before_each_line_and_a_summary() {
    let master = Master::start(Script {
        output: vec![(OutputStream::Stdout, b"one\ntwo".to_vec())],
        ..fleet(Outcome::Exited(0))
    })
    .await;
    let (code, out, said) = run(&master, "agent run --all --max-parallel 1 -- ls").await;
    assert_eq!((code, out.as_str()), (0, "kei | one\nkei | two\nlady | one\nlady | two\nmari | one\nmari | two\n"));
    assert_eq!(said, "3/3 done: 3 exited 0\n");
    master.seen(|script| {
        let ids: std::collections::HashSet<_> = script.starts.iter().map(|start| &start.id).collect();
        assert_eq!(ids.len(), 3);
    });

    master.script.lock().unwrap().outcome = Some(Outcome::Exited(3));
    let (code, _, said) = run(&master, "agent run kei lady kei -- ls").await;
    assert_eq!((code, said.as_str()), (1, "2/2 done: 2 exited 3 (kei, lady)\n"));
    let (code, out, said) = run(&master, "agent run --label site=nowhere -- ls").await;
    let expected = "sloth-runner: no agent matches --label site=nowhere, so nothing was run; `sloth-runner agent list` \
                    shows all with their status\n";
    assert_eq!((code, out.as_str(), said.as_str()), (1, "", expected));
    let (code, out, said) = run(&master, "agent run --label site=b -- ls").await;
    assert_eq!((code, out.as_str()), (1, "lady | one\nlady | two\n"), "one that is found by label is several, too");
    assert_eq!(said, "1/1 done: 1 exited 3 (lady)\n");
}

#[tokio::test]
async fn a_hostile_agent_writes_nothing_to_the_operators_terminal() {
    // Clears the screen, names the window, sends a mail in some terminals, turns the letters around.
    const EVIL: &str = "x\x1b[2J\x1b]0;owned\x07\r\n\u{9b}31m\u{202e}y";
    let evil = || EVIL.to_owned();
    let mut row = agent("lady", EVIL, EVIL);
    (row.reason, row.detail, row.address, row.version, row.host, row.id) =
        (evil(), evil(), evil(), evil(), evil(), evil());
    let event =
        EventRow { seq: 1, kind: evil(), agent: evil(), reason: evil(), message: evil(), ..EventRow::default() };
    let script = Script { agents: vec![row], events: vec![event], refusal: Some(EVIL), ..fleet(Outcome::Exited(0)) };
    let master = Master::start(script).await;
    let lines = [
        "agent list",
        "agent get lady",
        "agent explain lady",
        "agent events",
        "agent run lady -- ls",
        "agent run --all -- ls",
        "agent run lady --detach -- ls",
        "agent list -o json",
        "agent explain lady -o json",
        "agent events -o json",
    ];
    for line in lines {
        let (_, out, said) = run(&master, line).await;
        let all = out + &said;
        assert!(all.contains("owned"), "it is shown: {line}: {all:?}");
        let bad = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!all.contains(bad), "{line}: {all:?}");
        if line.ends_with("agent list -o json") {
            assert_eq!(serde_json::from_str::<Value>(&all).unwrap()[0]["reason"], EVIL, "programs get what it is");
        }
    }
}

/// A terminal: the end that a person sees, and the one that the program has.
fn terminal() -> (std::fs::File, std::fs::File) {
    let (mut ours, mut theirs) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: the two numbers are locals, and the rest may be null.
    assert_eq!(unsafe { libc::openpty(&raw mut ours, &raw mut theirs, none, none.cast(), none.cast()) }, 0);
    // SAFETY: openpty has just made both, and nobody else has them.
    unsafe { (OwnedFd::from_raw_fd(ours).into(), OwnedFd::from_raw_fd(theirs).into()) }
}

#[tokio::test]
async fn a_terminal_shows_how_many_are_done_from_the_beginning() {
    for (stall_at, parallel, expected) in [(Some(0), 2, "0/3 done, 2 running"), (None, 1, "2/3 done, 1 running")] {
        let script = Script { stall_at, ..fleet(Outcome::Exited(0)) };
        let master = Master::start(script).await;
        let (mut screen, stderr) = terminal();
        let line = format!("agent run --all --max-parallel {parallel} -- ls");
        let child = tool(&master.address(), &line).stderr(stderr).spawn().unwrap();
        let (to, mut seen) = tokio::sync::mpsc::channel(64);
        // Ends with the program: then nobody has the other end any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = std::io::Read::read(&mut screen, &mut buffer) {
                let _ = to.blocking_send(String::from_utf8_lossy(&buffer[..count]).into_owned());
            }
        });
        let mut text = String::new();
        while !text.contains(expected) {
            let more = timeout(PATIENCE, seen.recv()).await;
            text += &more.ok().flatten().unwrap_or_else(|| panic!("no {expected:?} in {text:?}"));
        }
        if stall_at.is_some() {
            signal(&child, libc::SIGTERM);
        }
        ended(child).await;
    }
}

#[tokio::test]
async fn a_detached_command_is_its_id() {
    let master = Master::start(fleet(Outcome::Exited(3))).await;
    let (code, out, said) = run(&master, "agent run lady --detach --id x2 -- ls").await;
    assert_eq!((code, out.as_str(), said.as_str()), (0, "x2\n", ""));
    master.seen(|script| assert_eq!(script.starts[0].from_offset, u64::MAX));
}

/// A command that has written one line and goes on.
async fn long_command(master: &Master) -> Child {
    let mut child = tool(&master.address(), "agent run lady --id x3 -n -- sleep").spawn().unwrap();
    let mut line = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"one\n");
    child
}

fn endless() -> Script {
    let output = vec![(OutputStream::Stdout, b"one\n".to_vec()), (OutputStream::Stdout, b"never".to_vec())];
    Script { output, stall_at: Some(4), ..Script::default() }
}

#[tokio::test]
async fn the_first_interrupt_cancels_and_waits() {
    let master = Master::start(endless()).await;
    let child = long_command(&master).await;
    signal(&child, libc::SIGINT);
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(master.seen(|script| script.cancelled), 1);
}

#[tokio::test]
async fn a_terminated_tool_leaves_the_command_alone_and_says_where_it_is() {
    for number in [libc::SIGTERM, libc::SIGHUP] {
        let master = Master::start(endless()).await;
        let child = long_command(&master).await;
        signal(&child, number);
        let output = ended(child).await;
        assert_eq!(output.status.code(), Some(255));
        assert!(String::from_utf8(output.stderr).unwrap().contains("sloth-runner command logs x3 --follow"));
        assert_eq!(master.seen(|script| script.cancelled), 0);
    }
}

#[tokio::test]
async fn a_terminal_is_no_standard_input_that_could_be_unfinished() {
    let master = Master::start(endless()).await;
    let (_screen, stdin) = terminal();
    let mut child = tool(&master.address(), "agent run lady --id x7 -- sleep").stdin(stdin).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).await.unwrap();
    signal(&child, libc::SIGHUP);
    let said = String::from_utf8(ended(child).await.stderr).unwrap();
    assert_eq!(said, "sloth-runner: leaving; it goes on; to look at it: sloth-runner command logs x7 --follow\n");
}

#[tokio::test]
async fn a_master_that_hangs_is_told_of_soon_and_said_to_have_taken_nothing_for_certain() {
    // The kernel takes the connection, and nobody reads from it.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hangs.local_addr().unwrap().to_string();
    let mut child = tool(&address, "agent run lady --id x6 -- sleep").spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = async || timeout(PATIENCE, said.next_line()).await.expect("it comes");
    assert_eq!(next().await.unwrap().unwrap(), format!("no answer from the master at {address} yet"));
    signal(&child, libc::SIGTERM);
    assert_eq!(
        next().await.unwrap().unwrap(),
        "sloth-runner: leaving; the master has not answered: it is not known whether it has taken the command; to look \
         at it: sloth-runner command get x6"
    );
    assert_eq!(ended(child).await.status.code(), Some(255));
}

/// Reads a few bytes of endless output and goes away, as `head` does; how the tool ends then.
async fn read_by_head(mut child: Child) -> (i32, String) {
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).await.unwrap();
    drop(stdout);
    let output = ended(child).await;
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_reader_that_goes_away_cancels_nothing_and_what_goes_on_is_told() {
    let output = vec![(OutputStream::Stdout, vec![b'y'; 3 << 20]), (OutputStream::Stdout, b"never".to_vec())];
    let master = Master::start(Script { output, stall_at: Some(3 << 20), ..fleet(Outcome::Exited(0)) }).await;
    let child = tool(&master.address(), "agent run lady --id x4 -n -- yes").spawn().unwrap();
    let expected = "sloth-runner: output can no longer be written: broken pipe; the command goes on; see `sloth-runner \
                    command logs x4` or `sloth-runner command cancel x4`\n";
    assert_eq!(read_by_head(child).await, (255, expected.to_owned()));

    let mut child = tool(&master.address(), "agent run lady --id x5 -- yes").stdin(Stdio::piped()).spawn().unwrap();
    let open = child.stdin.take();
    let (code, said) = read_by_head(child).await;
    assert!(code == 255 && said.contains("cancels the command, for its standard input is unfinished; see"), "{said}");
    drop(open);

    let child = tool(&master.address(), "agent run lady kei -- yes").spawn().unwrap();
    let (code, said) = read_by_head(child).await;
    assert!(code == 1 && said.contains("0 of 2 have ended, what else was begun goes on"), "{said}");
    assert_eq!(master.seen(|script| script.cancelled), 0);
}

#[tokio::test]
async fn standard_input_that_nobody_will_read_is_told_unless_that_was_said() {
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    for (line, told) in [
        ("agent run lady kei -- ls", "several agents"),
        ("agent run lady --detach -- ls", "--detach"),
        ("agent run lady kei -n -- ls", ""),
    ] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"data").unwrap();
        let output = ended(tool(&master.address(), line).stdin(reader).spawn().unwrap()).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!("standard input is not read: a command has none with {told} (-n says that you know)\n");
        assert_eq!((output.status.code(), said.contains(&expected)), (Some(0), !told.is_empty()), "{line}: {said}");
    }
}

#[tokio::test]
async fn all_means_those_that_did_not_say_goodbye() {
    let mut script = fleet(Outcome::Exited(0));
    script.agents[1].status = "Stopped".to_owned();
    script.output.clear();
    let master = Master::start(script).await;
    for line in ["agent run --all -- ls", "agent run --all --detach -- ls"] {
        let (code, _, said) = run(&master, line).await;
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with("1 stopped agent skipped\n"), "{said}");
    }
    let (code, _, said) = run(&master, "agent run --label site=b -- ls").await;
    assert_eq!(code, 1);
    assert!(said.starts_with("1 stopped agent skipped\nsloth-runner: no agent matches"), "{said}");
    master.seen(|script| assert!(script.starts.iter().all(|start| start.agent != "lady")));
    run(&master, "agent run lady -- ls").await;
    master.seen(|script| assert_eq!(script.starts.last().unwrap().agent, "lady"));
}

#[tokio::test]
async fn a_reader_of_events_that_reads_nothing_holds_up_no_signal() {
    let event = |seq| EventRow { seq, time_unix_ms: seq, message: "x".repeat(1_000), ..EventRow::default() };
    let master = Master::start(Script { events: (1..=500).map(event).collect(), ..Script::default() }).await;
    let mut child = tool(&master.address(), "agent events --follow --last 500 -o json").spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
    // More than the pipe holds has come by now, or comes while it ends.
    signal(&child, libc::SIGTERM);
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn followed_events_come_once_each_over_broken_connections() {
    let event = |seq| EventRow { seq, time_unix_ms: seq, kind: "agent.lost".into(), ..EventRow::default() };
    let events = (1..=6).map(event).collect();
    let script = Script { events, cut_at_event: [2, 5].into(), ..Script::default() };
    let master = Master::start(script).await;
    let mut child = tool(&master.address(), "agent events --follow -o json").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for seq in 1..=6 {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("it comes").unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line.unwrap()).unwrap()["seq"], seq);
    }
    signal(&child, libc::SIGINT);
    assert_eq!(ended(child).await.status.code(), Some(130));

    assert_eq!(run(&master, "agent events --last 0").await, (0, String::new(), String::new()));
    let (_, text, _) = run(&master, "agent events -o json --last 0").await;
    assert_eq!(text, "[]\n");
    let (code, text, _) = run(&master, "agent events -o json").await;
    assert_eq!((code, serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().len()), (0, 6));
}

#[tokio::test]
async fn who_follows_ends_when_nobody_reads_any_more_and_not_with_the_next_event() {
    let event = |seq| EventRow { seq, time_unix_ms: seq, kind: "agent.lost".into(), ..EventRow::default() };
    let script = Script { events: vec![event(1)], ..fleet(Outcome::Exited(0)) };
    let master = Master::start(script).await;
    for line in ["agent events --follow", "agent list --watch -o json"] {
        let mut child = tool(&master.address(), line).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(timeout(PATIENCE, lines.next_line()).await.expect("it comes").unwrap().is_some(), "{line}");
        drop(lines);
        let output = ended(child).await;
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]), "{line}");
    }
}

#[tokio::test]
async fn a_line_that_nobody_quoted_starts_nothing() {
    let master = Master::start(fleet(Outcome::Exited(0))).await;
    let (code, _, said) = run(&master, "agent run lady --timeout 1s --shell sleep 5").await;
    let expected = "sloth-runner: no agent \"5\", so nothing was run: `sloth-runner agent list` shows all; if that belongs \
                    to the line, quote it: --shell 'sleep 5'\n";
    assert_eq!((code, said.as_str()), (1, expected));
    let (code, _, said) = run(&master, "agent run lady --shell ls -l").await;
    let expected = "error: the line for the shell is one word: quote it: sloth-runner agent run lady --shell 'ls -l'\n";
    assert_eq!((code, said.as_str()), (2, expected));
    let (code, _, said) = run(&master, "agent run lady nobody no1 kei -- ls").await;
    let expected =
        "sloth-runner: no agents \"nobody\", \"no1\", so nothing was run: `sloth-runner agent list` shows all\n";
    assert_eq!((code, said.as_str()), (1, expected));
    master.seen(|script| assert_eq!(script.starts.len(), 0));
    let (code, _, said) = run(&master, "agent start --nam node1").await;
    assert_eq!(code, 2);
    assert!(said.ends_with("\nTry `sloth-runner agent start --help`.\n"), "{said}");
}
