//! A master and agents on hosts of their own, with the test's switch between them.

use crate::{
    fleet::{Done, Running, program, until},
    space::{Space, overlay},
    switch::{Port, Switch},
    time::stamp,
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub const MASTER: &str = "10.9.0.1";
pub const PORT: u16 = 50050;

/// Longer than any wait at the defaults: the longest wait, a connection that times out, and some.
pub const LONG: Duration = Duration::from_secs(80);

/// Parameters that make everything fast.
pub const QUICK: [&str; 6] = [
    "heartbeat.interval=\"500ms\"",
    "heartbeat.timeout=\"500ms\"",
    "reconnect.initial_delay=\"200ms\"",
    "reconnect.max_delay=\"1s\"",
    "reconnect.jitter=0.0",
    "connection.timeout=\"2s\"",
];

pub struct Site {
    pub folder: TempDir,
    pub switch: Switch,
    pub host: Space,
    pub port: Port,
    pub master: Running,
}

/// A host for agents.
#[derive(Clone)]
pub struct Host {
    pub space: Space,
    pub port: Port,
    pub address: String,
}

pub struct Agent {
    pub name: String,
    pub host: Host,
    pub state: PathBuf,
    pub running: Running,
}

impl Site {
    pub fn new() -> Self {
        let switch = Switch::new(0x9e37_79b9);
        let host = Space::new().unwrap();
        let port = switch.plug(&host, "eth0", &[MASTER, "10.9.0.2"]);
        let folder = TempDir::new().unwrap();
        let master = start_master(folder.path(), &host, &format!("{MASTER}:{PORT}"), "master");
        Self { folder, switch, host, port, master }
    }

    /// Once more on the same state; SIGKILL, if it still runs.
    pub fn master_again(&mut self) {
        self.master.kill();
        self.master = start_master(self.folder.path(), &self.host, &format!("{MASTER}:{PORT}"), "master");
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// The n-th host for agents, `10.9.1.n`.
    pub fn host(&self, n: u8) -> Host {
        let space = Space::new().unwrap();
        let address = format!("10.9.1.{n}");
        let port = self.switch.plug(&space, "eth0", &[&address, &format!("fd09::1:{n}")]);
        Host { space, port, address }
    }

    /// An agent on that host, once it is Active. No parameter but the defaults, and these.
    pub fn agent(&self, host: &Host, name: &str, set: &[&str]) -> Agent {
        let agent = self.start(host, name, &format!("{MASTER}:{PORT}"), set, None);
        agent.line("Agent registered with master");
        self.until_status(name, "Active");
        agent
    }

    /// … with these parameters, not waited for. `resolv`: its resolver's configuration.
    pub fn start(&self, host: &Host, name: &str, master: &str, set: &[&str], resolv: Option<&Path>) -> Agent {
        let state = self.path(&format!("{name}-at-{}", host.address));
        let running = start_agent(self.folder.path(), host, &state, name, &[master], set, resolv);
        Agent { name: name.to_owned(), host: host.clone(), state, running }
    }

    pub fn tool_started(&self, args: &[&str]) -> Running {
        self.program_started(&[&["--master", &format!("{MASTER}:{PORT}")], args].concat())
    }

    /// What talks to no master.
    pub fn program_started(&self, args: &[&str]) -> Running {
        let mut command = program(self.folder.path());
        self.host.put(&mut command);
        command.args(args);
        Running::start(command, Stdio::null())
    }

    #[track_caller]
    pub fn tool(&self, args: &[&str]) -> Done {
        self.tool_started(args).done()
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
        self.tool(&args).expect(0).json()
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> Value {
        self.json(&["agent", "get", name])
    }

    #[track_caller]
    pub fn until_status(&self, name: &str, status: &str) -> Value {
        until(&format!("{name} is {status}"), || {
            let rows = self.json(&["agent", "list"]);
            rows.as_array().unwrap().iter().find(|row| row["name"] == name && row["status"] == status).cloned()
        })
    }

    /// Events of one kind about an agent, oldest first.
    pub fn events(&self, name: &str, kind: &str) -> Vec<Value> {
        let all = self.json(&["agent", "events", name]);
        all.as_array().unwrap().iter().filter(|event| event["kind"] == kind).cloned().collect()
    }

    /// A command gets through, now.
    #[track_caller]
    pub fn serves(&self, name: &str) {
        assert_eq!(self.tool(&["agent", "run", name, "--", "echo", "well"]).expect(0).text(), "well\n");
    }
}

impl Agent {
    /// The next line of its log with this text.
    #[track_caller]
    pub fn line(&self, text: &str) -> String {
        self.running.err.line_within(text, LONG)
    }

    /// When it wrote that line.
    #[track_caller]
    pub fn when(&self, text: &str) -> Duration {
        stamp(&self.line(text))
    }

    pub fn count(&self, text: &str) -> usize {
        self.running.err.count(text)
    }

    #[track_caller]
    pub fn was_never_lost(&self) {
        self.was_lost(0);
    }

    /// So often.
    #[track_caller]
    pub fn was_lost(&self, times: usize) {
        assert_eq!(self.count("Lost connection"), times, "{}", self.running.err.text());
    }

    /// What the kernel has of its connections.
    pub fn sockets(&self) -> Vec<String> {
        self.host.space.sockets(PORT, true)
    }
}

pub fn start_master(folder: &Path, host: &Space, listen: &str, state: &str) -> Running {
    let mut command = program(folder);
    host.put(&mut command);
    command
        .args(["master", "start", "--insecure", "--set", "http.listen=\"\"", "--listen", listen, "--state-dir"])
        .arg(folder.join(state));
    let running = Running::start(command, Stdio::null());
    running.out.line("listening on");
    running
}

pub fn start_agent(
    folder: &Path,
    host: &Host,
    state: &Path,
    name: &str,
    masters: &[&str],
    set: &[&str],
    resolv: Option<&Path>,
) -> Running {
    let mut command = program(folder);
    host.space.put(&mut command);
    if let Some(resolv) = resolv {
        overlay(&mut command, resolv, "/etc/resolv.conf");
    }
    command.args(["agent", "start", "--name", name, "--state-dir"]).arg(state);
    command.args(masters.iter().flat_map(|master| ["--master", master]));
    command.args(set.iter().flat_map(|setting| ["--set", setting]));
    Running::start(command, Stdio::null())
}

/// Lets that much time pass: how long a fault lasts is what these tests are about.
pub fn lasts(duration: Duration) {
    std::thread::sleep(duration);
}

/// Until that moment.
pub fn lasts_until(end: Instant) {
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}
