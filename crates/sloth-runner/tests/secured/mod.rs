//! A master behind TLS as `master init` sets it up, its agents and its tool: the real binary.
#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "../../../../tests/common/place.rs"]
mod place;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, Command},
    time::timeout,
};

/// Nothing here takes longer, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sloth-runner"));
    for variable in ["TOKEN", "CA", "CERT", "KEY", "MASTER_ADDR"] {
        command.env_remove(format!("SLOTH_RUNNER_{variable}"));
    }
    for variable in ["XDG_CONFIG_HOME", "HOME", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a process prints, line by line.
pub struct Log<R> {
    lines: Lines<BufReader<R>>,
    pub seen: Vec<String>,
}

impl<R: AsyncRead + Unpin> Log<R> {
    pub fn of(from: R) -> Self {
        Self { lines: BufReader::new(from).lines(), seen: Vec::new() }
    }

    /// Reads up to a line with this text.
    pub async fn line(&mut self, text: &str) -> String {
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.seen.push(line.clone());
                if line.contains(text) {
                    return Some(line);
                }
            }
            None
        });
        let found = found.await.ok().flatten();
        found.unwrap_or_else(|| panic!("no {text:?} in:\n{}", self.seen.join("\n")))
    }

    /// All that was ever said, by a process that has ended.
    pub async fn whole(&mut self) -> String {
        while let Some(line) = timeout(PATIENCE, self.lines.next_line()).await.expect("it has ended").unwrap() {
            self.seen.push(line);
        }
        self.seen.join("\n")
    }
}

pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub async fn run(mut command: Command) -> Done {
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

pub struct Master {
    pub directory: TempDir,
    /// With a port.
    pub address: String,
    /// The command that `init` printed last, with the port that the master really has.
    pub command: String,
    pub log: Log<tokio::process::ChildStderr>,
    process: Child,
}

impl Master {
    pub async fn start(settings: &[&str]) -> Self {
        Self::start_on(place::own(), settings).await
    }

    /// At this address, with any port of it.
    pub async fn start_on(own: SocketAddr, settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (listen, ip) = (own.to_string(), own.ip().to_string());
        let mut init = program();
        init.args(["master", "init", "--listen", &listen, "--address", &ip, "--dir"]).arg(directory.path());
        let done = run(init).await;
        assert_eq!(done.code, 0, "{}", done.err);
        let printed = done.out.lines().last().unwrap().to_owned();
        let (process, address, log) = Self::serve(directory.path(), settings).await;
        let command = printed.replace(&format!("{own} "), &format!("{address} "));
        Self { directory, address, command, log, process }
    }

    pub fn ip(&self) -> IpAddr {
        self.address.parse::<SocketAddr>().unwrap().ip()
    }

    async fn serve(directory: &Path, settings: &[&str]) -> (Child, String, Log<tokio::process::ChildStderr>) {
        let mut start = program();
        start.args(["master", "start", "--set", "log.level=debug", "--config"]).arg(directory.join("master.toml"));
        for setting in settings {
            start.args(["--set", setting]);
        }
        let mut process = start.spawn().unwrap();
        let log = Log::of(process.stderr.take().unwrap());
        let mut out = Log::of(process.stdout.take().unwrap());
        let line = out.line(" listening on ").await;
        let address = line.split(" listening on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        (process, address, log)
    }

    /// Kills it and starts it again on the same port.
    pub async fn restart(&mut self) {
        self.restart_with(&[]).await;
    }

    pub async fn restart_with(&mut self, settings: &[&str]) {
        self.process.kill().await.unwrap();
        let listen = format!("listen=\"{}\"", self.address);
        let settings = [&[listen.as_str()], settings].concat();
        (self.process, _, self.log) = Self::serve(self.directory.path(), &settings).await;
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The file that says who did what.
    pub fn audit(&self) -> PathBuf {
        fn find(folder: &Path) -> Option<PathBuf> {
            let mut entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries
                .find_map(|path| if path.is_dir() { find(&path) } else { path.ends_with("audit.log").then_some(path) })
        }
        find(self.directory.path()).expect("it is there")
    }

    pub fn operator(&self) -> String {
        std::fs::read_to_string(self.file("operator.token")).unwrap().trim().to_owned()
    }

    /// The tool, as an operator.
    pub async fn tool(&self, line: &str) -> Done {
        self.tool_with(&self.operator(), line).await
    }

    pub async fn tool_with(&self, token: &str, line: &str) -> Done {
        let mut tool = program();
        tool.env("SLOTH_RUNNER_MASTER_ADDR", &self.address).env("SLOTH_RUNNER_TOKEN", token).args(line.split(' '));
        run(tool).await
    }

    /// Waits for an event with this text.
    pub async fn event(&self, text: &str) -> String {
        let mut tool = program();
        tool.env("SLOTH_RUNNER_MASTER_ADDR", &self.address).env("SLOTH_RUNNER_TOKEN", self.operator());
        let mut events = tool.args(["agent", "events", "--follow"]).spawn().unwrap();
        Log::of(events.stdout.take().unwrap()).line(text).await
    }

    /// A new token, by the tool.
    pub async fn token(&self, options: &str) -> String {
        let done = self.tool(format!("token create {options}").trim_end()).await;
        assert_eq!(done.code, 0, "{}", done.err);
        done.out.trim().to_owned()
    }

    /// An agent by the very command that was printed; a state directory and quick failures are added.
    pub fn joins(&self, state: &Path, name: &str) -> Agent {
        self.joins_with(state, name, &[])
    }

    /// The same with more options.
    pub fn joins_with(&self, state: &Path, name: &str, options: &[&str]) -> Agent {
        let words = self.command.split(' ').skip(1).chain(options.iter().copied());
        Agent::start(words.map(str::to_owned).collect(), state, name)
    }

    /// An agent with other options than `--master`.
    pub fn agent(&self, state: &Path, name: &str, options: &[&str]) -> Agent {
        let words = ["start", "--master", &self.address].into_iter().chain(options.iter().copied());
        Agent::start(words.map(str::to_owned).collect(), state, name)
    }
}

pub struct Agent {
    pub process: Child,
    pub log: Log<tokio::process::ChildStderr>,
}

impl Agent {
    pub fn start(words: Vec<String>, state: &Path, name: &str) -> Self {
        Self::start_as(program(), words, state, name)
    }

    pub fn start_as(mut agent: Command, words: Vec<String>, state: &Path, name: &str) -> Self {
        let mut words = words.into_iter();
        agent.arg("agent").args(words.next()).arg("--state-dir").arg(state).args(["--name", name]).current_dir(state);
        for setting in [
            "reconnect.initial_delay=\"100ms\"",
            "reconnect.max_delay=\"500ms\"",
            "heartbeat.interval=\"200ms\"",
            "heartbeat.max_failures=50",
            "log.level=debug",
        ] {
            agent.args(["--set", setting]);
        }
        // Of two, the later holds.
        agent.args(words);
        let mut process = agent.stdout(Stdio::null()).spawn().unwrap();
        let log = Log::of(process.stderr.take().unwrap());
        Self { process, log }
    }

    pub async fn active(&mut self) {
        self.log.line("Agent registered with master at").await;
    }

    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}
