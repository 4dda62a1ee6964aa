//! What goes wrong outside of the program: each with its message, and nothing lost.

use crate::fleet::{Agent, Master, Running, all_bytes, look, needs, program, until};
use std::{fs, io::Write, net::TcpListener, path::Path, process::Command, process::Stdio};

/// A master that does not start, and what it says.
fn refused(state: &Path, listen: &str) -> String {
    let mut command = program(state.parent().unwrap());
    command.args(["master", "start", "--set", "http.listen=\"\"", "--listen", listen, "--state-dir"]).arg(state);
    let done = Running::start(command, Stdio::null()).done().expect(1);
    assert!(done.stdout.is_empty(), "{}", done.text());
    done.stderr
}

#[test]
fn a_port_that_is_taken_is_named_with_the_remedy() {
    let master = Master::start();
    let folder = tempfile::tempdir().unwrap();
    let address = master.address.to_string();
    let said = refused(&folder.path().join("state"), &address);
    let expected =
        format!("cannot start the master: cannot listen on {address}: another process has this port; stop it");
    assert!(said.lines().any(|line| line.starts_with(&expected)), "{said}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let flags = ["--port", &port, "--bind-address", "127.0.0.1"];
    let done = Agent::start(master.folder.path(), "lady", &address, &flags);
    assert_eq!(
        done.running.err.line("cannot listen on"),
        format!(
            "sloth-runner agent: cannot listen on 127.0.0.1:{port}: another program listens there: choose another --port"
        )
    );
    let mut done = done;
    assert_eq!(done.running.wait(), 1);
    assert!(master.statuses().is_empty());
}

#[test]
fn a_second_master_on_a_state_directory_is_refused_with_the_pid_of_the_first() {
    let mut master = Master::start();
    let agent = master.agent("lady");
    let said = refused(&master.path("master"), "127.0.0.1:0");
    let (pid, state) = (master.running.pid(), master.path("master"));
    let expected = format!("another master (process {pid}) holds the state directory {}: stop it", state.display());
    assert!(said.contains(&expected), "{said}");
    assert!(master.running.is_running());
    assert_eq!(master.until_status("lady", "Active")["id"], master.json(&["agent", "get", "lady"])["id"]);
    assert_eq!(agent.count("Lost connection"), 0);
}

#[test]
fn a_database_that_is_none_of_ours_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let file = state.join("sloth.db");
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (a); PRAGMA user_version = 3")
        .unwrap();
    for (bytes, complaint) in [
        (b"by no means a database, but of some length: ".repeat(200), "is damaged"),
        (fs::read(&foreign).unwrap(), "belongs to another program; nothing was changed: name another file with store"),
    ] {
        fs::write(&file, &bytes).unwrap();
        let said = refused(&state, "127.0.0.1:0");
        assert!(said.contains(&format!("{} {complaint}", file.display())), "{said}");
        assert!(fs::read(&file).unwrap() == bytes, "{complaint}: the file has changed");
    }
}

#[test]
fn a_damaged_database_or_one_of_a_newer_version_stays_as_it_is() {
    let mut master = Master::start();
    let _agent = master.agent("lady");
    let (state, file) = (master.path("master"), master.path("master/sloth.db"));
    // A planned end, after which everything is in one file.
    master.running.signal(libc::SIGTERM);
    assert_eq!(master.running.wait(), 0);
    let good = fs::read(&file).unwrap();

    let mut damaged = good.clone();
    damaged[100..].iter_mut().for_each(|byte| *byte = 0xa5);
    fs::write(&file, &damaged).unwrap();
    let said = refused(&state, &master.address.to_string());
    assert!(said.contains(&format!("{} is damaged (", file.display())), "{said}");
    assert!(said.contains("nothing was changed: restore a backup, or move the file away"), "{said}");
    assert!(fs::read(&file).unwrap() == damaged);

    fs::write(&file, &good).unwrap();
    let database = rusqlite::Connection::open(&file).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    database.close().unwrap();
    let newer = fs::read(&file).unwrap();
    let said = refused(&state, &master.address.to_string());
    let known = format!("this master knows versions up to {}; nothing", sloth_runner::store::SCHEMA_VERSION);
    assert!(said.contains(&format!("has schema version 99, {known} was changed")), "{said}");
    assert!(fs::read(&file).unwrap() == newer);

    // The good one is as good as before.
    fs::write(&file, &good).unwrap();
    master.again();
    master.until_status("lady", "Active");
}

#[test]
fn who_asks_for_what_is_not_there_is_told_so() {
    let mut master = Master::start();
    for (line, complaint) in [
        ("agent get lady", "sloth-runner: no agent \"lady\": `sloth-runner agent list` shows all\n"),
        ("agent stop lady", "sloth-runner: no agent \"lady\": `sloth-runner agent list` shows all\n"),
        ("agent delete lady", "sloth-runner: no agent \"lady\": `sloth-runner agent list` shows all\n"),
        ("agent events lady", "sloth-runner: no agent \"lady\": `sloth-runner agent list` shows all\n"),
        (
            "command get x",
            "sloth-runner: no command \"x\": an id is like 018bcfe56800-0000000000000007, and its first 4 characters or more do; `sloth-runner command list` shows all\n",
        ),
        (
            "command logs x",
            "sloth-runner: no command \"x\": an id is like 018bcfe56800-0000000000000007, and its first 4 characters or more do; `sloth-runner command list` shows all\n",
        ),
        (
            "command logs x --follow",
            "sloth-runner: no command \"x\": an id is like 018bcfe56800-0000000000000007, and its first 4 characters or more do; `sloth-runner command list` shows all\n",
        ),
        (
            "command cancel x",
            "sloth-runner: no command \"x\": an id is like 018bcfe56800-0000000000000007, and its first 4 characters or more do; `sloth-runner command list` shows all\n",
        ),
    ] {
        let done = master.tool(&line.split(' ').collect::<Vec<_>>()).expect(1);
        assert_eq!((done.stderr.as_str(), done.stdout.len()), (complaint, 0), "{line}");
    }
    assert_eq!(master.json(&["agent", "list"]), serde_json::json!([]));
    master.kill();
    for (line, code) in [
        ("agent list", 1),
        ("agent get lady", 1),
        ("agent events", 1),
        ("agent events --follow", 1),
        ("command list", 1),
        ("command logs x --follow", 1),
        ("agent run lady -- true", 255),
        ("agent run --all -- true", 1),
        ("agent run lady --detach -- true", 255),
    ] {
        let done = master.tool(&line.split(' ').collect::<Vec<_>>()).expect(code);
        let expected =
            format!("cannot reach the master at {}: connection refused; is it running there?", master.address);
        assert!(done.stderr.contains(&expected), "{line}: {}", done.stderr);
    }
}

#[test]
fn everything_works_over_ipv6() {
    if !needs("IPv6 on this machine (an address ::1)", TcpListener::bind("[::1]:0").is_ok()) {
        return;
    }
    let mut master = Master::on("[::1]:0".parse().unwrap());
    let port = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port().to_string();
    let agent = master.agent_with("lady", &["--port", &port, "--bind-address", "::1"]);
    assert_eq!(master.until_status("lady", "Active")["address"], format!("[::1]:{port}"));
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "six"]).expect(0).text(), "six\n");
    let master_address = master.address.to_string();
    assert!(agent.running.err.text().contains(&format!("registered with master at {master_address}")));
    // With a zone, as a link-local address has one: it goes to the kernel, and to nobody else.
    let zoned = format!("[::1%1]:{}", master.address.port());
    let mut tool = program(master.folder.path());
    tool.args(["--master", &zoned, "agent", "run", "lady", "--", "echo", "zone"]);
    assert_eq!(Running::start(tool, Stdio::null()).done().expect(0).text(), "zone\n");
    let mari = Agent::start(master.folder.path(), "mari", &zoned, &[]);
    mari.line(&format!("Agent registered with master at {zoned}"));
    master.again();
    agent.line("Agent registered with master");
    let taken = refused(&master.path("other"), &master_address);
    assert!(taken.contains(&format!("cannot listen on {master_address}: another process")), "{taken}");
}

#[test]
fn an_agent_that_cannot_write_its_state_says_so_and_runs_on_in_memory() {
    let master = Master::start();
    // A path below a file: nobody, not even root, can make a directory there.
    fs::write(master.path("lady"), "a file").unwrap();
    let agent = master.agent("lady");
    let text = agent.running.err.text();
    let state = master.path("lady");
    let expected = format!("the state directory {} cannot be written", state.display());
    assert!(text.contains(&expected) && text.contains("going on with state in memory"), "{text}");
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "well"]).expect(0).text(), "well\n");
    // With the twelfth heartbeat it says what a crash would cost.
    let node = until("how its node does", || {
        let node = master.json(&["agent", "get", "lady"])["node"].take();
        node.is_object().then_some(node)
    });
    assert_eq!(node["in_memory"], true, "{node}");
    let told = master.json(&["agent", "explain", "lady"]);
    assert_eq!(told["status"], "Active", "{told}");
    assert!(told["advice"].as_str().unwrap().contains("a crash of the agent would lose it"), "{told}");
    let text = master.tool(&["agent", "get", "lady"]).expect(0).text();
    assert!(text.contains("Commands held   0, in memory: a crash of the agent loses them\n"), "{text}");
}

#[test]
fn an_agent_on_a_read_only_file_system_runs_and_is_the_same_one_after_a_restart() {
    let root = Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|done| done.status.success());
    if !needs("right to mount", root) {
        return;
    }
    let master = Master::start();
    let state = master.path("lady");
    fs::create_dir(&state).unwrap();
    let script = "mount -t tmpfs none \"$0\" && mount -o remount,ro \"$0\" && exec \"$@\"";
    let start = || {
        let mut command = Command::new("unshare");
        command.current_dir(master.folder.path());
        command.args(["-m", "sh", "-c", script]).arg(&state).arg(env!("CARGO_BIN_EXE_sloth-runner"));
        command.args(["agent", "start", "--name", "lady", "--master", &master.address.to_string(), "--state-dir"]);
        Running::start(
            {
                command.arg(&state);
                command
            },
            Stdio::null(),
        )
    };
    let mut agent = start();
    let line = agent.err.line("going on with state in memory");
    assert!(line.contains("read-only file system"), "{line}");
    agent.err.line("Agent registered with master");
    let id = master.until_status("lady", "Active")["id"].clone();
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "well"]).expect(0).text(), "well\n");
    agent.kill();
    let again = start();
    again.err.line("Agent registered with master");
    assert_eq!(master.until_status("lady", "Active")["id"], id);
    assert_eq!(master.statuses().len(), 1);
}

#[test]
fn a_tool_that_is_gone_in_the_middle_of_the_output_holds_up_nobody() {
    let master = Master::start();
    let agent = master.agent("lady");
    fs::write(master.path("bytes"), all_bytes()).unwrap();
    let dir = master.folder.path().to_str().unwrap();
    let line = "for i in 1 2 3 4 5 6 7 8; do cat bytes; done; touch written; exit 9";
    let run = ["agent", "run", "lady", "--dir", dir, "--id", "x", "--shell", line];
    // It reads a little and closes the pipe, as `head` does.
    let mut command = program(master.folder.path());
    command.args(["--master", &master.address.to_string()]).args(run);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut tool = command.spawn().unwrap();
    std::io::Read::read_exact(&mut tool.stdout.take().unwrap(), &mut [0; 1000]).unwrap();
    assert_eq!(tool.wait().unwrap().code(), Some(255));
    let row = master.until_finished("x");
    assert_eq!((&row["code"], &row["output_bytes"]), (&9.into(), &(8 << 20).into()), "{row}");
    assert!(master.path("written").exists());
    let all = master.tool(&["command", "logs", "x"]).expect(0).stdout;
    assert!(all == all_bytes().repeat(8), "{} bytes", all.len());
    assert_eq!(agent.count("Lost connection"), 0);
}

#[test]
fn bytes_that_are_no_protocol_hurt_neither_master_nor_agent() {
    let master = Master::start();
    // Of an address that no other test has.
    let own = TcpListener::bind((master.address.ip(), 0)).unwrap().local_addr().unwrap();
    let bind = ["--port", &own.port().to_string(), "--bind-address", &own.ip().to_string()];
    let agent = master.agent_with("lady", &bind);
    for address in [master.address, own] {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff", &all_bytes()[..]]
        {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let _ = stream.write_all(bytes); // it may hang up early
        }
    }
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "well"]).expect(0).text(), "well\n");
    assert_eq!(agent.count("Lost connection"), 0);
    assert!(look::lives(master.running.pid()) && look::lives(agent.running.pid()));
}
