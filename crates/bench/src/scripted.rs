//! The scripted master of the agent's tests, and how an agent under measurement is played with.

#[path = "../../../tests/common/master.rs"]
#[allow(dead_code, reason = "shared with the agent's tests, which use all of it")]
pub mod master;
#[path = "../../../tests/common/place.rs"]
pub mod place;
#[path = "../../../tests/common/proxy.rs"]
#[allow(dead_code, reason = "shared with the agent's tests, which use all of it")]
pub mod proxy;
#[path = "../../../tests/common/tls.rs"]
#[allow(dead_code, reason = "shared with the agent's tests, which use all of it")]
pub mod tls;

use crate::process::{Process, Run};
use master::{Master, Session};
use proto::{OutputAck, agent_message::Kind as Up, master_message::Kind as Down};
use proxy::{Proxy, Wire};
use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What hangs ends the measurement.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The name in the master's certificate.
const SERVER_NAME: &str = "master.test";

/// Of so many heartbeats one carries the node's status.
const STATUS_EVERY: u64 = 12;

/// An agent with the master that it is Active with.
pub struct Subject {
    pub process: Process,
    master: Master,
    wire: Proxy,
    session: Session,
    epoch: u64,
    _authority: tls::Authority,
    state: TempDir,
}

impl Subject {
    /// Starts an agent whose parameters are the defaults, but for `settings`, and makes it Active.
    pub async fn start(agent: &Path, over_tls: bool, settings: &[&str]) -> io::Result<Self> {
        Self::start_as(Run::Itself, agent, over_tls, settings).await
    }

    pub async fn start_as(run: Run, agent: &Path, over_tls: bool, settings: &[&str]) -> io::Result<Self> {
        let authority = tls::Authority::new();
        let mut master = match over_tls {
            true => tls::master(&authority.issue(SERVER_NAME, tls::VALID), None).await,
            false => Master::start().await,
        };
        let wire = Proxy::to(master.address).await;
        let state = TempDir::new()?;
        let state_dir = state.path().display().to_string();
        let address = wire.address();
        let mut arguments = vec!["start", "--name", "bench", "--master", &address, "--state-dir", &state_dir];
        let ca_file = format!("tls.ca_file={:?}", authority.file().display().to_string());
        let server_name = format!("tls.server_name={SERVER_NAME:?}");
        let trust = [ca_file.as_str(), server_name.as_str()];
        for setting in settings.iter().chain(trust.iter().filter(|_| over_tls)) {
            arguments.extend(["--set", setting]);
        }
        let process = Process::start(run, agent, &arguments, state.path())?;
        let session = master.active(1).await;
        Ok(Self { process, master, wire, session, epoch: 1, _authority: authority, state })
    }

    /// Its state directory.
    pub fn folder(&self) -> &Path {
        self.state.path()
    }

    /// Where its packets go.
    pub fn port(&self) -> u16 {
        self.wire.address.port()
    }

    /// Answers so many heartbeats.
    pub async fn beats(&mut self, count: u64) {
        for _ in 0..count {
            let seq = self.session.beat().await;
            self.session.ack(seq).await;
        }
    }

    /// Answers heartbeats up to one after which the agent is at rest even where they come fast: its helper threads have
    /// work at every twelfth, and stay for a second.
    pub async fn rest(&mut self) {
        loop {
            let seq = self.session.beat().await;
            self.session.ack(seq).await;
            if seq % STATUS_EVERY == STATUS_EVERY - 1 {
                return;
            }
        }
    }

    /// Ends the session; the agent comes back by a new connection.
    pub async fn reconnect(&mut self) {
        self.session.fail(tonic::Status::unavailable("the session is over")).await;
        self.come_back().await;
    }

    /// Resets the connection and every new one for so long.
    pub async fn outage(&mut self, length: Duration) {
        self.wire.set(Wire::Reset);
        pause(length).await;
        self.wire.set(Wire::Through);
        self.come_back().await;
    }

    async fn come_back(&mut self) {
        self.epoch += 1;
        self.session = self.master.active(self.epoch).await;
    }

    /// Has the agent run a program that prints so many bytes, and takes them. How long it took.
    pub async fn print(&mut self, bytes: u64) -> Duration {
        let argv = ["head", "-c", &bytes.to_string(), "/dev/zero"].map(|word| word.as_bytes().to_vec()).to_vec();
        let spec = Some(proto::CommandSpec { argv, ..Default::default() });
        let id = "output".to_owned();
        let start = now();
        self.session.send(Down::RunCommand(proto::RunCommand { id: id.clone(), spec })).await;
        let (master, session) = (&mut self.master, &mut self.session);
        let output = async {
            let mut call = master.output().await;
            let mut received = 0;
            loop {
                let ack = OutputAck { received, durable: received, stdin: None };
                // The agent may have ended the call: then there is no next message either.
                let _ = call.outgoing.send(Ok(ack)).await;
                match call.incoming.message().await {
                    Ok(Some(message)) => received += message.data.len() as u64,
                    Ok(None) => break,
                    Err(status) => panic!("the output broke off after {received} bytes: {status}"),
                }
            }
            assert_eq!(received, bytes, "the output is complete");
        };
        let outcome = async {
            loop {
                match session.next().await {
                    Some(Up::Heartbeat(beat)) => session.ack(beat.seq).await,
                    Some(Up::CommandFinished(_)) => break,
                    Some(_) => {}
                    None => panic!("the session ended while a command ran"),
                }
            }
        };
        tokio::join!(output, outcome);
        // Not before all output is here: the agent may forget it now.
        self.session.send(Down::FinishedAck(proto::FinishedAck { id })).await;
        now().duration_since(start)
    }
}

#[expect(clippy::disallowed_methods, reason = "measures; nothing is decided by it")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the length of a measurement, not a synchronisation")]
pub async fn pause(length: Duration) {
    tokio::time::sleep(length).await;
}
