//! Real masters, agents and tools, started as a user would start them, on addresses and in folders of their own.

pub mod look;
#[path = "../../../../tests/common/place.rs"]
mod place;
#[path = "../../../../tests/common/proxy.rs"]
#[allow(dead_code, reason = "shared with the agent's tests")]
mod proxy;
#[allow(dead_code, reason = "each test binary uses its part")]
pub mod pty;
pub mod running;

pub use proxy::Wire;
pub use running::{Done, Running};

use proxy::Proxy;
use serde_json::Value;
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// With this a second of silence is a loss, in tests of just that.
pub const SOON_LOST: [&str; 2] = ["--set", "heartbeat.max_failures=3"];

/// No test waits longer for anything: a bound for what hangs, not a measure.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Parameters that make failures quick. But for silence: a busy machine is silent for a second now and then.
const QUICK: [&str; 9] = [
    "heartbeat.interval=\"200ms\"",
    "heartbeat.timeout=\"200ms\"",
    "heartbeat.max_failures=50",
    "reconnect.initial_delay=\"100ms\"",
    "reconnect.max_delay=\"800ms\"",
    "reconnect.jitter=0.0",
    "connection.timeout=\"2s\"",
    "commands.kill_grace=\"300ms\"",
    "shutdown.grace=\"300ms\"",
];

/// A master. Its folder holds everything of the test, and goes with it.
pub struct Master {
    pub folder: TempDir,
    pub address: SocketAddr,
    pub running: Running,
    /// Of its next process, beside what it inherits.
    pub env: Env,
    settings: Vec<String>,
}

pub type Env = Vec<(&'static str, OsString)>;

/// An agent in a folder of its own, below the master's.
pub struct Agent {
    pub name: String,
    pub running: Running,
    pub state: PathBuf,
    /// As a master's.
    pub env: Env,
    folder: PathBuf,
    args: Vec<String>,
}

impl Master {
    pub fn start() -> Self {
        // Metrics have a fixed port, which is nobody's here.
        Self::with(&["http.listen=\"\""])
    }

    /// With these settings, `key=value` each.
    pub fn with(settings: &[&str]) -> Self {
        Self::on_with(place::own(), settings)
    }

    pub fn on(address: SocketAddr) -> Self {
        Self::on_with(address, &["http.listen=\"\""])
    }

    fn on_with(address: SocketAddr, settings: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let running = Self::spawn(folder.path(), address, &settings, &Env::new());
        let mut master = Self { folder, address, running, env: Env::new(), settings };
        master.address = master.is_up();
        master
    }

    fn spawn(folder: &Path, address: SocketAddr, settings: &[String], env: &Env) -> Running {
        let state = folder.join("master");
        let mut command = program(folder);
        command.envs(env.iter().map(|(key, value)| (key, value)));
        command.args(["master", "start", "--listen", &address.to_string(), "--state-dir"]).arg(state);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        Running::start(command, Stdio::null())
    }

    #[track_caller]
    fn is_up(&self) -> SocketAddr {
        let line = self.running.out.line("listening on");
        line.split(' ').find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// On the same address and database.
    pub fn again(&mut self) {
        self.running.kill();
        self.running = Self::spawn(self.folder.path(), self.address, &self.settings, &self.env);
        self.is_up();
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// An agent with quick parameters, once it is Active.
    pub fn agent(&self, name: &str) -> Agent {
        self.agent_with(name, &[])
    }

    pub fn agent_with(&self, name: &str, args: &[&str]) -> Agent {
        let agent = Agent::start(self.folder.path(), name, &self.address.to_string(), args);
        agent.line("Agent registered with master");
        self.until_status(name, "Active");
        agent
    }

    /// The tool with this master, its standard input empty.
    pub fn tool_started(&self, args: &[&str]) -> Running {
        Running::start(self.tool_command(args), Stdio::null())
    }

    /// … with a standard input that stays open until the test closes it.
    pub fn tool_fed(&self, args: &[&str]) -> Running {
        Running::start(self.tool_command(args), Stdio::piped())
    }

    #[track_caller]
    pub fn tool(&self, args: &[&str]) -> Done {
        self.tool_started(args).done()
    }

    /// The program in the master's folder, for what asks no master over the network.
    #[track_caller]
    pub fn tool_without_master(&self, args: &[&str]) -> Done {
        let mut command = program(self.folder.path());
        command.args(args);
        Running::start(command, Stdio::null()).done()
    }

    pub fn tool_command(&self, args: &[&str]) -> Command {
        let mut command = program(self.folder.path());
        command.args(["--master", &self.address.to_string()]).args(args);
        command
    }

    /// What the tool prints with `-o json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
        self.tool(&args).expect(0).json()
    }

    /// The agent's row of the list, once it has this status.
    #[track_caller]
    pub fn until_status(&self, name: &str, status: &str) -> Value {
        until(&format!("{name} is {status}"), || {
            let rows = self.json(&["agent", "list"]);
            rows.as_array().unwrap().iter().find(|row| row["name"] == name && row["status"] == status).cloned()
        })
    }

    /// Names and statuses, by name.
    pub fn statuses(&self) -> Vec<(String, String)> {
        let rows = self.json(&["agent", "list"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        rows.as_array().unwrap().iter().map(|row| (text(&row["name"]), text(&row["status"]))).collect()
    }

    /// The command's row, once it is finished.
    #[track_caller]
    pub fn until_finished(&self, id: &str) -> Value {
        until(&format!("command {id} is finished"), || {
            Some(self.json(&["command", "get", id])).filter(|row| row["state"] == "finished")
        })
    }

    /// Events of one kind about an agent, oldest first.
    pub fn events(&self, name: &str, kind: &str) -> Vec<Value> {
        let all = self.json(&["agent", "events", name]);
        all.as_array().unwrap().iter().filter(|event| event["kind"] == kind).cloned().collect()
    }
}

impl Agent {
    /// Its state is in `folder/name`; a test that wants a second agent of one name takes another folder.
    pub fn start(folder: &Path, name: &str, master: &str, args: &[&str]) -> Self {
        let state = folder.join(name);
        let state_dir = state.to_str().unwrap();
        let own = ["agent", "start", "--name", name, "--master", master, "--state-dir", state_dir];
        let quick = QUICK.iter().flat_map(|setting| ["--set", *setting]);
        let args: Vec<String> = own.into_iter().chain(quick).chain(args.iter().copied()).map(str::to_owned).collect();
        let running = Self::spawn(folder, &args, &Env::new());
        Self { name: name.to_owned(), running, state, env: Env::new(), folder: folder.to_owned(), args }
    }

    fn spawn(folder: &Path, args: &[String], env: &Env) -> Running {
        let mut command = program(folder);
        command.args(args).envs(env.iter().map(|(key, value)| (key, value)));
        Running::start(command, Stdio::null())
    }

    /// Once more, with the same command line.
    pub fn again(&mut self) {
        self.running.kill();
        self.running = Self::spawn(&self.folder, &self.args, &self.env);
    }

    /// The next line of its log with this text.
    #[track_caller]
    pub fn line(&self, text: &str) -> String {
        self.running.err.line(text)
    }

    /// Lines of its log with this text so far.
    pub fn count(&self, text: &str) -> usize {
        self.running.err.count(text)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // An agent that is killed leaves its commands alive.
        for group in look::children(self.running.pid()) {
            // SAFETY: a signal to a group; each command leads one.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
}

/// A wire to the master that can fail.
pub struct Cable {
    proxy: Proxy,
    _runtime: tokio::runtime::Runtime,
}

impl Cable {
    pub fn to(master: &Master) -> Self {
        Self::to_address(master.address)
    }

    pub fn to_address(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = runtime.block_on(Proxy::to(address));
        Self { proxy, _runtime: runtime }
    }

    pub fn address(&self) -> String {
        self.proxy.address()
    }

    pub fn set(&self, wire: Wire) {
        self.proxy.set(wire);
    }
}

/// The program, in a folder without configuration files.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sloth-runner"));
    command.current_dir(folder);
    command
}

/// Looks until there is something to see, for as long as [`PATIENCE`] lasts.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(running::LOOK);
    }
}

/// Whether the machine has what a test needs; with `SLOTH_TEST_ALL=1` it must.
pub fn needs(what: &str, is_there: bool) -> bool {
    if !is_there {
        assert!(std::env::var("SLOTH_TEST_ALL").as_deref() != Ok("1"), "SLOTH_TEST_ALL=1, and there is no {what}");
        eprintln!("skipped: there is no {what}");
    }
    is_there
}

/// 1 MiB with every byte value and every pair of them.
pub fn all_bytes() -> Vec<u8> {
    (0..=u16::MAX).flat_map(u16::to_be_bytes).cycle().take(1 << 20).collect()
}
