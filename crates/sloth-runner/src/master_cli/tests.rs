//! The real thing, as processes: this test's own program, started again to be a master.

use super::*;
use clap::Parser;
use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

/// The arguments of a child, one a line.
const ARGUMENTS: &str = "SLOTH_RUNNER_TEST_ARGUMENTS";

#[derive(clap::Parser)]
struct Cli {
    #[arg(short, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: MasterCommand,
}

/// Not a test: what a child does. On its own it does nothing.
#[test]
fn child() {
    if let Ok(arguments) = std::env::var(ARGUMENTS) {
        // Whatever goes wrong in a test, nothing stays behind for longer.
        // SAFETY: alarm takes a number of seconds.
        unsafe { libc::alarm(600) };
        // The test harness has begun a line.
        println!();
        let cli = Cli::try_parse_from(std::iter::once("master").chain(arguments.lines()));
        std::process::exit(cli.map_or(USAGE, |cli| run(cli.command, cli.output)));
    }
}

struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> String {
        self.directory.path().join("state").display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "master_cli::tests::child", "--nocapture"])
            .env(ARGUMENTS, arguments.join("\n"))
            .env_remove("RUST_LOG")
            .current_dir(&self.directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Exit code and messages of a start that is to fail.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(&[&["start"], arguments].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn start(&self, arguments: &[&str]) -> Master {
        let state = self.state();
        let own = ["start", "--listen", "127.0.0.1:0", "--set", "http.listen=\"\"", "--state-dir", &state];
        let mut child = self.command(&[&own[..], arguments].concat()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let line = started_line(&mut stdout).unwrap_or_else(|| {
            let mut errors = String::new();
            child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!("it did not start: {errors}")
        });
        Master { child, line, _stdout: stdout }
    }
}

fn started_line(stdout: &mut BufReader<ChildStdout>) -> Option<String> {
    stdout.lines().map(Result::unwrap).find(|line| line.starts_with("Master "))
}

fn port(line: &str) -> u16 {
    let address = line.split_once("listening on ").unwrap().1.split(' ').next().unwrap();
    address.parse::<SocketAddr>().unwrap().port()
}

/// Killed at the latest when the test ends.
struct Master {
    child: Child,
    line: String,
    _stdout: BufReader<ChildStdout>,
}

impl Master {
    fn end(&mut self, signal: i32) -> i32 {
        kill(self.child.id(), signal);
        self.child.wait().unwrap().code().expect("it ends by itself")
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(pid: u32, signal: i32) -> bool {
    // SAFETY: kill takes two numbers; the process is one that the test has started.
    unsafe { libc::kill(pid.try_into().unwrap(), signal) == 0 }
}

/// Returns when a `SIGSTOP` has had its effect: the signal is on its way for a moment.
fn until_stopped(pid: u32) {
    const LOOKS_MAX: usize = 24_000;
    let stopped = (0..LOOKS_MAX).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        sloth_agent::state::is_stopped(pid)
    });
    assert!(stopped, "process {pid} never stopped");
}

#[test]
fn it_says_where_it_listens_and_ends_gracefully_on_either_signal() {
    let world = World::new();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut master = world.start(&[]);
        let expected = format!(
            "Master {} listening on 127.0.0.1:{} (state in {})",
            env!("CARGO_PKG_VERSION"),
            port(&master.line),
            world.state()
        );
        assert_eq!(master.line, expected);
        TcpStream::connect(("127.0.0.1", port(&master.line))).expect("it listens when it says so");
        assert_eq!(master.end(signal), 0);
    }
}

#[test]
fn killed_it_starts_again_on_the_same_directory() {
    let world = World::new();
    let mut master = world.start(&[]);
    kill(master.child.id(), libc::SIGKILL);
    master.child.wait().unwrap();
    assert_eq!(world.start(&[]).end(libc::SIGTERM), 0);
}

#[test]
fn a_second_master_on_the_same_directory_is_told_who_holds_it() {
    let world = World::new();
    let master = world.start(&[]);
    let (code, message) = world.refused(&["--listen", "127.0.0.1:0", "--state-dir", &world.state()]);
    assert_eq!(code, 1);
    let pid = master.child.id();
    assert!(message.contains(&format!("another master (process {pid}) holds the state directory")), "{message}");
}

#[test]
fn a_second_master_on_the_same_database_is_told_so_too() {
    let world = World::new();
    let master = world.start(&[]);
    let store = format!("store={}/sloth.db", world.state());
    let other = world.directory.path().join("other").display().to_string();
    let (code, message) = world.refused(&["--listen", "127.0.0.1:0", "--state-dir", &other, "--set", &store]);
    assert_eq!(code, 1);
    let pid = master.child.id();
    assert!(message.contains(&format!("sloth.db is in use by another master (process {pid})")), "{message}");
}

#[test]
fn a_port_in_use_is_a_failure_and_names_it() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, message) = world.refused(&["--listen", &address, "--state-dir", &world.state()]);
    assert_eq!(code, 1);
    assert!(
        message
            .contains(&format!("cannot start the master: cannot listen on {address}: another process has this port")),
        "{message}"
    );
}

#[test]
fn a_master_that_cannot_serve_all_that_was_asked_of_it_says_so_and_not_that_it_is_up() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let bad = world.directory.path().join("bad.pem");
    std::fs::write(&bad, "no PEM\n").unwrap();
    let http = format!("http.listen={taken}");
    // Of a net for documentation: no host has it.
    let not_ours = ["--insecure", "--set", "http.listen=192.0.2.1:0"];
    let url = "events.webhook.url=https://hook.test/x";
    let no_ca = ["--set", url, "--set", "events.webhook.ca_file=bad.pem"];
    let cases = [
        (&["--set", &http][..], format!("cannot listen on {taken} (http.listen): address already in use")),
        (&not_ours, "cannot listen on 192.0.2.1:0 (http.listen): ".to_owned()),
        (&no_ca, format!("events.webhook.ca_file is {}, which holds no certificate in PEM", bad.display())),
    ];
    let state = world.state();
    for (arguments, expected) in cases {
        for daemon in [&[][..], &["--daemon"]] {
            let start = ["start", "--listen", "127.0.0.1:0", "--state-dir", &state];
            let output = world.run(&[&start[..], arguments, daemon].concat());
            let (said, message) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.code(), Some(1), "{arguments:?} {daemon:?}: {said} {message}");
            assert!(message.contains(&format!("cannot start the master: {expected}")), "{message}");
            assert!(!said.contains(STARTED) && !said.contains("In the background"), "{said}");
        }
    }
}

/// What follows the lines of the test harness.
fn document(output: Output) -> serde_json::Value {
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text[text.find('{').expect("a document")..]).unwrap()
}

#[test]
fn wrong_configuration_is_exit_2_and_open_doors_have_to_be_asked_for() {
    let world = World::new();
    let (code, message) = world.refused(&["--listen", "0.0.0.0:0", "--set", "commands.kep=1d"]);
    assert_eq!(code, 2);
    assert!(message.contains("--listen: listen is 0.0.0.0:0, which other hosts can reach"), "{message}");
    assert!(message.contains("commands.kep is not known: did you mean commands.keep?"), "{message}");
    std::fs::write(world.directory.path().join("master.toml"), "listen = \"0.0.0.0:0\"").unwrap();
    let mut master = world.start(&["--set", "listen=0.0.0.0:0", "--insecure"]);
    assert_eq!(master.end(libc::SIGTERM), 0);
    let mut messages = String::new();
    master.child.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
    assert!(messages.contains("WARN  Neither TLS nor tokens on 0.0.0.0:"), "{messages}");

    assert_eq!(world.run(&["check"]).status.code(), Some(2), "./master.toml is found");
    let valid = world.run(&["check", "--insecure"]);
    assert_eq!(valid.status.code(), Some(0));
    let text = String::from_utf8(valid.stdout).unwrap();
    assert!(text.contains("master.toml: valid\nlisten = 0.0.0.0:0 (master.toml:1)"), "{text}");

    let valid = document(world.run(&["check", "--insecure", "-o", "json"]));
    assert_eq!((&valid["valid"], &valid["file"]), (&true.into(), &"master.toml".into()));
    let setting = serde_json::json!({"key": "listen", "value": "0.0.0.0:0", "origin": "master.toml:1"});
    assert_eq!((&valid["settings"][0], &valid["listen"]), (&setting, &"0.0.0.0:0".into()));
    let invalid = world.run(&["check", "-o", "json", "--set", "commands.keep=never"]);
    assert_eq!(invalid.status.code(), Some(2));
    let problems = document(invalid)["problems"].as_array().unwrap().clone();
    assert_eq!(problems.len(), 2, "each has its sentence: {problems:?}");
    let unread = world.run(&["backup", "-o", "json", "--set", "commands.keep=never", "x.db"]);
    assert_eq!(unread.status.code(), Some(2));
    let error = document(unread)["error"].as_str().unwrap().to_owned();
    assert!(error.contains("commands.keep"), "{error}");
}

#[test]
fn check_finds_what_a_start_would_in_the_files_that_are_named() {
    let world = World::new();
    let bad = world.directory.path().join("bad.pem");
    std::fs::write(&bad, "no PEM\n").unwrap();
    let made = rcgen::generate_simple_self_signed(["hook.test".to_owned()]).unwrap();
    std::fs::write(world.directory.path().join("good.pem"), made.cert.pem()).unwrap();
    let check = |file: &str| {
        let ca = format!("events.webhook.ca_file={file}");
        world.run(&["check", "-o", "json", "--set", "events.webhook.url=https://hook.test/x", "--set", &ca])
    };
    let refused = check("bad.pem");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let expected = format!(
        "--set events.webhook.ca_file: events.webhook.ca_file is {}, which holds no certificate in PEM: name one that does",
        bad.display()
    );
    let answer = document(refused);
    assert_eq!((&answer["valid"], &answer["problems"]), (&false.into(), &serde_json::json!([expected])));
    assert_eq!(check("gone.pem").status.code(), Some(2));
    let taken = check("good.pem");
    assert_eq!((taken.status.code(), &document(taken)["valid"]), (Some(0), &true.into()));
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let world = World::new();
    std::fs::write(world.directory.path().join("file"), "").unwrap();
    let state = world.directory.path().join("file/state").display().to_string();
    let (code, message) = world.refused(&["--listen", "127.0.0.1:0", "--state-dir", &state]);
    assert_eq!(code, 1);
    assert!(message.contains(&format!("cannot make the state directory {state}: not a directory")), "{message}");
}

#[test]
fn a_running_masters_database_is_backed_up() {
    let world = World::new();
    let _master = world.start(&[]);
    let arguments = ["backup", "--state-dir", &world.state(), "copy.db"];
    let output = world.run(&arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("sloth.db backed up to copy.db (") && text.contains("checked): 0 agents"), "{text}");
    assert!(world.directory.path().join("copy.db").exists());
    let again = world.run(&arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("cannot back up: copy.db exists already"));
    let again = world.run(&[&arguments[..], &["-o", "json"]].concat());
    let answer = document(again);
    assert!(answer["error"].as_str().unwrap().starts_with("cannot back up: copy.db exists already"), "{answer}");
    let done = world.run(&[&arguments[..], &["-o", "json", "--force"]].concat());
    let answer = document(done);
    assert_eq!((&answer["file"], &answer["agents"]), (&"copy.db".into(), &0.into()));
}

#[test]
fn in_the_background_it_outlives_its_parent_and_logs_to_a_file() {
    let world = World::new();
    let output = world.run(&["start", "--listen", "127.0.0.1:0", "--state-dir", &world.state(), "--daemon"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("Master ")).unwrap();
    let (log, pid) = text.split("Log: ").nth(1).unwrap().split_once("\nIn the background as process ").unwrap();
    let pid: u32 = pid.trim().parse().unwrap();
    assert_eq!(log, world.directory.path().canonicalize().unwrap().join("master.log").to_str().unwrap());
    TcpStream::connect(("127.0.0.1", port(line))).unwrap();
    // SAFETY: getsid takes a number.
    assert_eq!(unsafe { libc::getsid(pid as i32) }, pid as i32, "it has a session of its own");

    let refused = world.run(&["start", "--listen", "127.0.0.1:0", "--state-dir", &world.state(), "--daemon"]);
    assert_eq!(refused.status.code(), Some(1), "the child's exit code is the parent's");
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains(&format!("another master (process {pid}) holds the state directory")), "{message}");

    let state = world.state();
    let status = world.run(&["status", "--state-dir", &state]);
    assert_eq!(status.status.code(), Some(0));
    let expected = format!("the master is running (pid {pid}, state directory {state})\n");
    assert!(String::from_utf8(status.stdout).unwrap().contains(&expected));
    kill(pid, libc::SIGSTOP);
    until_stopped(pid);
    let status = world.run(&["status", "--state-dir", &state]);
    assert_eq!(status.status.code(), Some(0));
    assert!(String::from_utf8(status.stdout).unwrap().contains(&format!("`kill -CONT {pid}` lets it go on")));
    kill(pid, libc::SIGCONT);
    let stopped = world.run(&["stop", "--state-dir", &state]);
    assert_eq!(stopped.status.code(), Some(0));
    assert!(String::from_utf8(stopped.stdout).unwrap().contains(&format!("the master has stopped (pid {pid})\n")));
    assert_eq!(world.run(&["status", "--state-dir", &state]).status.code(), Some(3));
    let again = world.run(&["stop", "--state-dir", &state]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("no master is running (state directory "));
    let again = world.run(&["stop", "-o", "json", "--state-dir", &state]);
    assert_eq!(again.status.code(), Some(1));
    let error = document(again)["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with(&format!("no master is running (state directory {state}): ")), "{error}");
    for left in ["sloth.db-wal", "sloth.db-shm"] {
        assert!(!Path::new(&state).join(left).exists(), "{left}: the database is whole in its one file");
    }
    let log = std::fs::read_to_string(world.directory.path().join("master.log")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let started = format!("INFO  Master started: sloth-runner {version}, pid {pid}, listening on 127.0.0.1:");
    assert!(log.contains(&started) && log.contains(&format!(", state directory {state}\n")), "{log}");
    assert!(log.contains("INFO  Shutting down") && log.ends_with("INFO  Master stopped\n"), "{log}");
}

#[test]
fn sighup_reads_the_configuration_again_and_ends_nothing() {
    let world = World::new();
    let file = world.directory.path().join("master.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("log.level = \"info\"\ncommands.keep = \"7d\"\n");
    let mut master = world.start(&["--set", "log.timestamps=false"]);
    let mut log = BufReader::new(master.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut after = |text: &str, expected: &str| {
        write(text);
        kill(master.child.id(), libc::SIGHUP);
        assert!(log.any(|line| line == expected), "it ended without {expected:?}");
    };
    let same = "log.level = \"info\"\ncommands.keep = \"7d\"\n";
    after(same, "INFO  config: read again, nothing has changed");
    let keeps = "log.level = \"info\"\ncommands.keep = \"9d\"\n";
    after(keeps, "WARN  config: commands.keep changed from 7d to 9d: needs a restart");
    after("log.lvl = 1\n", "ERROR config: not taken over, the running configuration stays");
    let quiet = "log.level = \"error\"\ncommands.keep = \"7d\"\n";
    after(quiet, "INFO  config: log.level changed from info to error");
    assert_eq!(master.end(libc::SIGTERM), 0);
    assert_eq!(log.collect::<Vec<_>>(), [] as [String; 0], "that it shuts down is below the new level");
}

#[test]
fn every_flag_is_wired() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    let cli = Cli::try_parse_from(["master", "start", "--config", "x", "--insecure", "--set", "a=1", "--set", "b=2"]);
    let MasterCommand::Start(args) = cli.ok().unwrap().command else { panic!() };
    assert_eq!(args.config.set, ["a=1", "b=2"]);
    assert!(args.insecure && !args.daemon);
}
