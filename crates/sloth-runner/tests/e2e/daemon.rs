//! In the background: agents and a master that nobody's terminal holds.

use crate::fleet::{Done, Master, Running, look, program, until};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// A process in the background, ended with its children when this is dropped.
struct Background {
    pid: i32,
    folder: PathBuf,
}

impl Background {
    /// The agent `name` of this folder, its log and its state there.
    fn agent(folder: &Path, name: &str, master: &Master) -> (Self, Done) {
        Self::agent_of(folder, name, &master.address.to_string())
    }

    fn agent_of(folder: &Path, name: &str, master: &str) -> (Self, Done) {
        let mut command = program(folder);
        command.args(["agent", "start", "--daemon", "--name", name, "--state-dir", name]);
        command.args(["--master", master, "--set", "reconnect.initial_delay=\"100ms\""]);
        let done = Running::start(command, Stdio::null()).done().expect(0);
        let pid = fs::read_to_string(folder.join(name).join("agent.pid")).unwrap();
        (Self { pid: pid.split(' ').next().unwrap().parse().unwrap(), folder: folder.to_owned() }, done)
    }

    /// The process below it that does the work.
    fn worker(&self) -> i32 {
        until("there is a worker", || look::children(self.pid).first().copied())
    }

    fn has_logged(&self, file: &str, text: &str) {
        until(&format!("{text:?} in {file}"), || (count(&self.folder, file, text) > 0).then_some(()));
    }

    fn signal(&self, signal: i32) {
        // SAFETY: plain integers are passed.
        unsafe { libc::kill(self.pid, signal) };
    }

    fn is_gone(&self) {
        until("it has ended", || (!look::lives(self.pid)).then_some(()));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Not those that came to these numbers later.
        let ours = |pid: &i32| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_sloth-runner")))
        };
        let children = look::children(self.pid);
        for pid in [self.pid].into_iter().chain(children).filter(ours) {
            // SAFETY: plain integers are passed.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// As `grep -c` counts.
fn count(folder: &Path, file: &str, text: &str) -> usize {
    let log = fs::read_to_string(folder.join(file)).unwrap_or_default();
    log.lines().filter(|line| line.contains(text)).count()
}

#[test]
fn two_agents_of_one_folder_have_logs_of_their_own_that_can_be_grepped() {
    let mut master = Master::start();
    let folder = TempDir::new().unwrap();
    let (first, said) = Background::agent(folder.path(), "kei", &master);
    assert!(
        said.text().starts_with(&format!("Agent kei runs in the background (pid {})", first.pid)),
        "{}",
        said.text()
    );
    let (second, said) = Background::agent(folder.path(), "lady", &master);
    assert!(said.text().contains("/agent-lady.log\n"), "{}", said.text());
    for name in ["kei", "lady"] {
        master.until_status(name, "Active");
    }
    let logs = [(&first, "agent.log"), (&second, "agent-lady.log")];
    for (agent, log) in logs {
        agent.has_logged(log, "✓ Agent registered with master at");
        assert_eq!(count(folder.path(), log, "Lost connection"), 0);
    }
    master.kill();
    for (agent, log) in logs {
        agent.has_logged(log, "Reconnecting to master in");
        agent.has_logged(log, "⚠ Connection to master lost. Attempting to reconnect...");
    }
    master.again();
    for (agent, log) in logs {
        agent.has_logged(log, "✓ Connection to master recovered");
        assert_eq!(count(folder.path(), log, "Lost connection"), 1);
    }
    for (agent, name) in [(first, "kei"), (second, "lady")] {
        let worker = agent.worker();
        agent.signal(libc::SIGTERM);
        agent.is_gone();
        assert!(!look::lives(worker));
        master.until_status(name, "Stopped");
        assert!(!folder.path().join(name).join("agent.pid").exists());
    }
}

#[test]
fn a_worker_that_is_killed_is_started_again_and_registers_as_the_same_agent() {
    let master = Master::start();
    let folder = TempDir::new().unwrap();
    let (agent, _) = Background::agent(folder.path(), "kei", &master);
    let before = master.until_status("kei", "Active");
    let worker = agent.worker();
    // SAFETY: plain integers are passed; it is a process of this test.
    unsafe { libc::kill(worker, libc::SIGKILL) };
    // It is away for a second.
    until("its loss is told", || (!master.events("kei", "agent.lost").is_empty()).then_some(()));
    agent.has_logged("agent.log", "was killed by signal 9");
    until("it is back", || (master.events("kei", "agent.connected").len() == 2).then_some(()));
    let after = master.until_status("kei", "Active");
    assert_eq!(before["id"], after["id"]);
    let again = agent.worker();
    assert!(again != worker && look::lives(again) && look::lives(agent.pid));
    until("both registrations are in its log", || {
        (count(folder.path(), "agent.log", "✓ Agent registered with master at") == 2).then_some(())
    });
    // Its parent knows how it ended, and the new one tells.
    let explained = master.json(&["agent", "explain", "kei"]);
    let died = explained["told"].as_array().unwrap().iter().find(|told| told["reason"] == "agent_died").unwrap();
    assert!(died["detail"].as_str().unwrap().starts_with("its process was killed by signal 9 (SIGKILL"), "{died}");
}

#[test]
fn an_agent_that_is_stopped_from_afar_leaves_no_parent_that_starts_it_again() {
    let master = Master::start();
    let folder = TempDir::new().unwrap();
    let (agent, _) = Background::agent(folder.path(), "kei", &master);
    master.until_status("kei", "Active");
    master.tool(&["agent", "stop", "kei"]).expect(0);
    agent.is_gone();
    master.until_status("kei", "Stopped");
}

#[test]
fn a_master_in_the_background_serves_and_ends_when_it_is_asked_to() {
    let folder = TempDir::new().unwrap();
    let config = "listen = \"127.0.0.1:0\"\nstate_dir = \"state\"\nhttp.listen = \"\"\n";
    fs::write(folder.path().join("master.toml"), config).unwrap();
    let mut command = program(folder.path());
    command.args(["master", "start", "--daemon"]);
    let said = Running::start(command, Stdio::null()).done().expect(0).text();
    let word_after = |text: &str| said.split(text).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let pid = word_after("In the background as process ").parse().unwrap();
    let master = Background { pid, folder: folder.path().to_owned() };
    let address = word_after("listening on ");
    let mut list = program(folder.path());
    list.args(["--master", &address, "-o", "json", "agent", "list"]);
    assert_eq!(Running::start(list, Stdio::null()).done().expect(0).json(), serde_json::json!([]));

    let (agent, _) = Background::agent_of(folder.path(), "kei", &address);
    agent.has_logged("agent.log", "✓ Agent registered with master");
    let mut bundle = program(folder.path());
    bundle.args(["--master", &address, "support-bundle", "kei", "--with-agent", "--file", "kei.tar.gz"]);
    let said = Running::start(bundle, Stdio::null()).done().expect(0);
    let archive = flate2::read::GzDecoder::new(fs::File::open(folder.path().join("kei.tar.gz")).unwrap());
    let texts: Vec<String> = tar::Archive::new(archive)
        .entries()
        .unwrap()
        .map(|entry| std::io::read_to_string(entry.unwrap()).unwrap())
        .collect();
    for logged in ["INFO  Agent registered with master at", "INFO  Master started: sloth-runner"] {
        assert!(texts.iter().any(|text| text.contains(logged)), "no {logged:?}: {} {texts:#?}", said.text());
    }

    master.signal(libc::SIGTERM);
    master.is_gone();
    master.has_logged("master.log", "Shutting down");
}

/// The same program, started with one more file open: the pipe of its standard output, as number 9.
fn with_a_file_open(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 9>&1", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap());
    shell
}

#[test]
fn what_the_starter_had_open_is_not_held_in_the_background() {
    let folder = TempDir::new().unwrap();
    let background = |arguments: &[&str], pid: fn(&str) -> Option<&str>| {
        let mut command = program(folder.path());
        command.args(arguments);
        // All that is written to the pipe, so until nobody holds it any more.
        let said = Running::start(with_a_file_open(&command), Stdio::null()).done().expect(0).text();
        let pid = pid(&said).unwrap_or_else(|| panic!("{said}"));
        Background { pid: pid.parse().unwrap(), folder: folder.path().to_owned() }
    };
    let master = ["master", "start", "--daemon", "--listen", "127.0.0.1:0", "--state-dir", "m"];
    let master = background(&master, |said| Some(said.split("as process ").nth(1)?.trim()));
    let agent = ["agent", "start", "--daemon", "--name", "kei", "--state-dir", "kei", "--master", "127.0.0.1:1"];
    let agent = background(&agent, |said| said.split("(pid ").nth(1)?.split(')').next());
    for process in [master, agent] {
        assert!(look::lives(process.pid));
        process.signal(libc::SIGTERM);
        process.is_gone();
    }
}
