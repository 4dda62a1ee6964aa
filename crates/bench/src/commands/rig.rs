//! A master and its agents as processes, and a client to both.

use super::proxy::Proxy;
use proto::{CommandSpec, RunReply, RunRequest, RunStart, fleet_client::FleetClient, outcome, run_reply, run_request};
use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tempfile::TempDir;
use tonic::{Streaming, transport::Channel};

pub struct Rig {
    master: Running,
    agents: Vec<Running>,
    /// Between the first agent and the master.
    pub wire: Proxy,
    client: FleetClient<Channel>,
    next: AtomicU64,
    _folder: TempDir,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long something may take that should take no time.
const PATIENCE: Duration = Duration::from_secs(30);

impl Rig {
    /// Starts all of it, with its state below `state`, and waits until every agent is Active.
    pub async fn start(runner: &Path, agent: &Path, state: &Path, agents: usize) -> io::Result<Self> {
        let folder = TempDir::new_in(state)?;
        let quiet = |program: &Path, log: &str| {
            let mut command = Command::new(program);
            let log = fs::File::create(folder.path().join(log))?;
            command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            Ok::<_, io::Error>(command)
        };
        let mut master = Running(
            quiet(runner, "master.log")?
                .args([
                    "master",
                    "start",
                    "--set",
                    "http.listen=\"\"",
                    "--listen",
                    "127.0.0.1:0",
                    "--state-dir",
                    "master",
                ])
                .args(["--set", "http.listen=\"\"", "--set", "log.level=\"warn\""])
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let mut line = String::new();
        BufReader::new(master.0.stdout.take().expect("it is piped")).read_line(&mut line)?;
        let address: Option<SocketAddr> = line.split(' ').find_map(|word| word.parse().ok());
        let address = address.ok_or_else(|| io::Error::other(format!("the master did not start: {line}")))?;
        let wire = Proxy::to(address).await?;
        let agents = (0..agents).map(|number| {
            let (name, to) = (format!("a{number}"), if number == 0 { wire.address } else { address });
            let mut command = quiet(agent, &format!("{name}.log"))?;
            command.args(["start", "--name", &name, "--master", &to.to_string(), "--state-dir", &name]);
            command.args(["--set", "reconnect.initial_delay=\"100ms\"", "--set", "reconnect.max_delay=\"200ms\""]);
            command.args(["--set", "log.level=\"warn\""]);
            Ok(Running(command.spawn()?))
        });
        let agents = agents.collect::<io::Result<Vec<_>>>()?;
        let channel = Channel::from_shared(format!("http://{address}")).map_err(io::Error::other)?;
        let client = FleetClient::new(channel.connect().await.map_err(io::Error::other)?);
        let rig = Self { master, agents, wire, client, next: AtomicU64::new(0), _folder: folder };
        for number in 0..rig.agents.len() {
            rig.until_active(number).await?;
        }
        Ok(rig)
    }

    pub fn master_pid(&self) -> u32 {
        self.master.0.id()
    }

    pub fn agent_pid(&self, number: usize) -> u32 {
        self.agents[number].0.id()
    }

    /// Runs a command that must exit with 0, and returns how many bytes it wrote.
    pub async fn run(&self, agent: usize, argv: &[&str]) -> io::Result<u64> {
        let mut replies = self.start_run(agent, argv).await?;
        let mut bytes = 0;
        while let Some(reply) = replies.message().await.map_err(io::Error::other)? {
            match reply.kind {
                Some(run_reply::Kind::Output(chunk)) if chunk.gap > 0 => return Err(io::Error::other("a gap")),
                Some(run_reply::Kind::Output(chunk)) => bytes += chunk.data.len() as u64,
                Some(run_reply::Kind::Command(row)) => match row.outcome {
                    Some(outcome) if outcome.kind() == outcome::Kind::Exited && outcome.code == 0 => return Ok(bytes),
                    Some(outcome) => return Err(io::Error::other(format!("it ended otherwise: {outcome:?}"))),
                    None => {}
                },
                _ => {}
            }
        }
        Err(io::Error::other("no outcome"))
    }

    async fn start_run(&self, agent: usize, argv: &[&str]) -> io::Result<Streaming<RunReply>> {
        let argv = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        let start = RunStart {
            id: format!("bench-{}", self.next.fetch_add(1, Ordering::Relaxed)),
            agent: format!("a{agent}"),
            spec: Some(CommandSpec { argv, ..CommandSpec::default() }),
            ..RunStart::default()
        };
        let request = once(RunRequest { kind: Some(run_request::Kind::Start(start)) });
        self.client.clone().run(request).await.map(tonic::Response::into_inner).map_err(io::Error::other)
    }

    async fn until_active(&self, number: usize) -> io::Result<()> {
        let waits = async {
            while self.run(number, &["/bin/true"]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let late = |_| io::Error::other(format!("agent a{number} is not Active within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, waits).await.map_err(late)
    }
}

/// A stream of one.
fn once<T>(one: T) -> Once<T> {
    Once(Some(one))
}

struct Once<T>(Option<T>);

impl<T: Unpin> futures_core::Stream for Once<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.take())
    }
}
