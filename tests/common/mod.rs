//! The agent's real binary, a master that does what a test tells it, and a wire between them that can fail.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod cramped;
pub mod master;
pub mod place;
pub mod proxy;
pub mod tls;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

/// No test waits longer for anything: a bound for what hangs, not a measure.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The agent to try: the one that was built with the test, or what `SLOTH_TEST_AGENT` names by its absolute path, with
/// an emulator before it if it needs one.
pub fn program() -> std::process::Command {
    let other = std::env::var("SLOTH_TEST_AGENT").unwrap_or_default();
    let mut words = other.split_whitespace();
    let mut command = std::process::Command::new(words.next().unwrap_or(env!("CARGO_BIN_EXE_sloth-agent")));
    command.args(words);
    command
}

/// A running agent. Dropping it kills it, and its commands.
pub struct Agent {
    _commands: Commands,
    pub child: Child,
    pub state: TempDir,
    lines: Lines<BufReader<ChildStderr>>,
    pub log: Vec<String>,
}

impl Agent {
    /// Starts with parameters that make failures quick; `settings` come after them. Several masters are parted by commas.
    pub fn start(master: &str, settings: &[&str]) -> Self {
        Self::start_in(TempDir::new().expect("temporary directory"), master, settings)
    }

    /// The same with a state directory of an earlier agent.
    pub fn start_in(state: TempDir, master: &str, settings: &[&str]) -> Self {
        Self::start_as(state, master, settings, |_| {})
    }

    /// The same by a program that becomes the agent.
    pub fn start_by(program: &str, arguments: &[&str], master: &str, settings: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).arg(env!("CARGO_BIN_EXE_sloth-agent"));
        let state = TempDir::new().expect("temporary directory");
        Self::launch(command, state, &quickly(master, settings), |_| {})
    }

    /// As [`Self::start_in`]; what else the process is started with is for `prepare` to say.
    pub fn start_as(state: TempDir, master: &str, settings: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let command = Command::from(program());
        Self::launch(command, state, &quickly(master, settings), prepare)
    }

    /// Starts with nothing but the given options and variables; `agent.toml` in the state directory is read.
    pub fn start_with(state: TempDir, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        Self::launch(Command::from(program()), state, &args, |command| {
            command.envs(variables.iter().copied());
        })
    }

    fn launch(mut command: Command, state: TempDir, args: &[String], prepare: impl FnOnce(&mut Command)) -> Self {
        command.args(["start", "--name", "lady", "--state-dir"]).arg(state.path()).args(args);
        command.env_remove("SLOTH_RUNNER_MASTER_ADDR").env_remove("RUST_LOG").current_dir(state.path());
        prepare(&mut command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the agent's binary starts");
        let stderr = child.stderr.take().expect("piped above");
        Self {
            _commands: Commands::of(child.id().expect("just started")),
            child,
            state,
            lines: BufReader::new(stderr).lines(),
            log: Vec::new(),
        }
    }

    /// Reads the log up to a line with this text.
    pub async fn line(&mut self, text: &str) -> String {
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await.expect("the log is readable") {
                self.log.push(line);
                let line = self.log.last().expect("pushed above");
                if line.contains(text) {
                    return Some(line.clone());
                }
            }
            None
        })
        .await;
        match found {
            Ok(Some(line)) => line,
            Ok(None) => panic!("the log ended without {text:?}:\n{}", self.log.join("\n")),
            Err(_) => panic!("no {text:?} in the log within {PATIENCE:?}:\n{}", self.log.join("\n")),
        }
    }

    /// A file as the agent sees it, which may have mounts of its own.
    pub fn beneath(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.child.id().expect("still running"));
        Path::new(&root).join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// So many lines of the log so far have this text.
    pub fn count(&self, text: &str) -> usize {
        self.log.iter().filter(|line| line.contains(text)).count()
    }

    /// Returns when a file of the state directory has this content.
    pub async fn kept(&self, file: &str, content: &str) {
        self.kept_so(file, content, |text| text == content).await;
    }

    /// Returns when a file of the state directory has this in it.
    pub async fn contains(&self, file: &str, part: &str) {
        self.kept_so(file, part, |text| text.contains(part)).await;
    }

    async fn kept_so(&self, file: &str, what: &str, is_so: impl Fn(&str) -> bool) {
        let path = self.state.path().join(file);
        let written = timeout(PATIENCE, async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while !std::fs::read_to_string(&path).is_ok_and(|text| is_so(&text)) {
                look.tick().await;
            }
        });
        assert!(written.await.is_ok(), "{} never held {what:?}", path.display());
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("still running")
    }

    /// Returns when the history has the registration of this epoch.
    pub async fn kept_registered(&self, epoch: u64) {
        let is_it = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            fields.len() == 11 && fields[1] == "registered" && fields[7] == epoch.to_string()
        };
        self.kept_so("history", "the registration", |text| text.lines().any(is_it)).await;
    }

    /// The state directory, for a later life.
    pub fn into_state(self) -> TempDir {
        self.state
    }

    /// Returns when a `SIGSTOP` has had its effect: the signal is on its way for a moment.
    pub async fn stands_still(&self) {
        let stopped = timeout(PATIENCE, async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while !sloth_agent::state::is_stopped(self.pid()) {
                look.tick().await;
            }
        });
        assert!(stopped.await.is_ok(), "it never stopped");
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for.
        let done = unsafe { libc::kill(self.pid() as i32, signal) };
        assert_eq!(done, 0);
    }

    /// Waits for the end; the exit code, and the rest of the log in `log`.
    pub async fn exit(&mut self) -> i32 {
        while let Ok(Some(line)) = timeout(PATIENCE, self.lines.next_line()).await.expect("the log ends") {
            self.log.push(line);
        }
        let status =
            timeout(PATIENCE, self.child.wait()).await.expect("the agent exits").expect("it can be waited for");
        status.code().unwrap_or(-1)
    }
}

/// Kills the commands of an agent that still runs, which would leave them alive.
struct Commands {
    agent: u32,
    /// Another process may have the number later.
    started: Option<u64>,
}

impl Commands {
    fn of(agent: u32) -> Self {
        Self { agent, started: sloth_agent::state::start_time(agent) }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        let agent = self.agent;
        if self.started.is_none() || self.started != sloth_agent::state::start_time(agent) {
            return;
        }
        for thread in std::fs::read_dir(format!("/proc/{agent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for group in children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
                // SAFETY: plain integers; each command leads a group.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
        }
    }
}

/// Options that make failures quick; several masters are parted by commas.
///
/// But for silence: on a busy machine a test is often late with its answer. Where silence is what is tried, it says how
/// much of it is a loss.
fn quickly(master: &str, settings: &[&str]) -> Vec<String> {
    let quick = [
        "heartbeat.interval=\"200ms\"",
        "heartbeat.timeout=\"200ms\"",
        "heartbeat.max_failures=50",
        "reconnect.initial_delay=\"100ms\"",
        "reconnect.max_delay=\"800ms\"",
        "reconnect.jitter=0.0",
        "connection.timeout=\"2s\"",
    ];
    let masters = master.split(',').flat_map(|master| ["--master", master]);
    let settings = quick.iter().chain(settings).flat_map(|setting| ["--set", setting]);
    ["--log-level", "debug"].into_iter().chain(masters).chain(settings).map(str::to_owned).collect()
}
