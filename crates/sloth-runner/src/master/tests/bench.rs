//! A master on a free port, with store and output in memory; agents and tools that do what the test says.

use crate::master::{
    Options,
    core::Core,
    ports::memory::{MemoryOutputs, MemoryStore},
    serve_core, start as start_core,
};
use proto::{
    AgentMessage, CommandSpec, MasterMessage, OutputAck, OutputMessage, Register, Registered, RunReply, RunRequest,
    RunStart, agent_message::Kind as Up, agent_registry_client::AgentRegistryClient, fleet_client::FleetClient,
    master_message::Kind as Down, run_reply, run_request,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

/// Nothing in these tests takes longer, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const STDIN_GRACE: Duration = Duration::from_millis(300);

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

pub struct Master {
    pub address: SocketAddr,
    pub store: Arc<MemoryStore>,
    pub outputs: Arc<MemoryOutputs>,
    pub core: Weak<Core>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Master {
    pub async fn start() -> Self {
        Self::restart(Arc::default(), Arc::default()).await
    }

    /// On what an earlier one has left.
    pub async fn restart(store: Arc<MemoryStore>, outputs: Arc<MemoryOutputs>) -> Self {
        Self::with(store, outputs, Options::named("test")).await
    }

    pub async fn with(store: Arc<MemoryStore>, outputs: Arc<MemoryOutputs>, options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let snapshot = store.snapshot();
        let (for_store, for_outputs) = (store.clone(), outputs.clone());
        let started = start_core(for_store, for_outputs, snapshot, options, STDIN_GRACE);
        let core = Arc::downgrade(&started);
        let task = tokio::spawn(async move {
            let (shutdown, core) = (async { drop(stopped.await) }, started);
            serve_core(listener, core, shutdown).await.unwrap();
        });
        Self { address, store, outputs, core, stop, task }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        soon(self.task).await.unwrap();
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub async fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel().await)
    }

    /// A connection that has sent its `Register` and nothing else.
    pub async fn connect(&self, register: Register) -> Agent {
        let mut client = AgentRegistryClient::new(self.channel().await);
        let (up, messages) = mpsc::channel(16);
        let id = register.agent_id.clone();
        up.send(AgentMessage { kind: Some(Up::Register(register)) }).await.unwrap();
        let down = client.connect(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Agent { client, up, down, epoch: 0, id }
    }

    /// An agent whose registration succeeds.
    pub async fn agent(&self, register: Register) -> Agent {
        let mut agent = self.connect(register).await;
        agent.registered().await;
        agent
    }

    /// A tool that asks for a command and keeps the call open.
    pub async fn run(&self, start: RunStart) -> Result<Tool, Status> {
        let (up, requests) = mpsc::channel(16);
        let tool = Tool { up, replies: None };
        tool.send(run_request::Kind::Start(start)).await;
        let replies = soon(self.fleet().await.run(ReceiverStream::new(requests))).await?.into_inner();
        Ok(Tool { replies: Some(replies), ..tool })
    }
}

pub fn register(n: u8, name: &str) -> Register {
    Register {
        agent_id: vec![n; 16],
        instance_id: vec![1; 16],
        spool_id: vec![n; 16],
        name: name.to_owned(),
        host: format!("host{n}"),
        // Without it the silent are lost after 20 s.
        interval_ms: 3_600_000,
        timeout_ms: 3_600_000,
        ..Register::default()
    }
}

pub fn start(id: &str, agent: &str) -> RunStart {
    let spec = CommandSpec { argv: vec![b"true".to_vec()], ..CommandSpec::default() };
    RunStart { id: id.to_owned(), agent: agent.to_owned(), spec: Some(spec), from_offset: 0, ..RunStart::default() }
}

pub struct Agent {
    pub client: AgentRegistryClient<Channel>,
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<MasterMessage>,
    pub epoch: u64,
    id: Vec<u8>,
}

impl Agent {
    pub async fn send(&self, kind: Up) {
        self.up.send(AgentMessage { kind: Some(kind) }).await.unwrap();
    }

    /// The next message; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Down> {
        soon(self.down.message()).await.ok().flatten().map(|message| message.kind.expect("a known message"))
    }

    pub async fn registered(&mut self) -> Registered {
        match self.next().await {
            Some(Down::Registered(registered)) => {
                self.epoch = registered.epoch;
                registered
            }
            other => panic!("not registered: {other:?}"),
        }
    }

    pub async fn rejected(&mut self) -> proto::Rejected {
        match self.next().await {
            Some(Down::Rejected(rejected)) => rejected,
            other => panic!("not rejected: {other:?}"),
        }
    }

    /// A beat, and its acknowledgement.
    pub async fn beat(&mut self, seq: u64) {
        self.send(Up::Heartbeat(proto::Heartbeat { seq, last_ack: seq - 1, ready: true, status: None })).await;
        match self.next().await {
            Some(Down::HeartbeatAck(ack)) => assert_eq!(ack.seq, seq),
            other => panic!("not acknowledged: {other:?}"),
        }
    }

    /// The command that it is told to run.
    pub async fn told_to_run(&mut self) -> proto::RunCommand {
        match self.next().await {
            Some(Down::RunCommand(run)) => run,
            other => panic!("not told to run anything: {other:?}"),
        }
    }

    pub async fn finish(&self, id: &str, total_bytes: u64, code: i32) {
        let outcome = Some(proto::Outcome { kind: proto::outcome::Kind::Exited.into(), code, ..Default::default() });
        let finished =
            proto::CommandFinished { id: id.to_owned(), outcome, total_bytes, started_unix_ms: 1, finished_unix_ms: 2 };
        self.send(Up::CommandFinished(finished)).await;
    }

    /// A call that brings the output of a command, and the first answer to it.
    pub async fn upload(&mut self, id: &str, stdin_received: u64) -> Result<(Upload, OutputAck), Status> {
        let (up, messages) = mpsc::channel(64);
        let upload = Upload { up, acks: None };
        upload.send(OutputMessage { stdin_received, ..Default::default() }).await;
        let mut request = Request::new(ReceiverStream::new(messages));
        let metadata = request.metadata_mut();
        let hex: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        metadata.insert("sloth-agent-id", hex.parse().unwrap());
        metadata.insert("sloth-epoch", self.epoch.to_string().parse().unwrap());
        metadata.insert("sloth-command-id", id.parse().unwrap());
        let acks = soon(self.client.send_output(request)).await?.into_inner();
        let mut upload = Upload { acks: Some(acks), ..upload };
        let first = upload.next().await;
        Ok((upload, first))
    }
}

pub struct Upload {
    up: mpsc::Sender<OutputMessage>,
    acks: Option<Streaming<OutputAck>>,
}

impl Upload {
    pub async fn send(&self, message: OutputMessage) {
        self.up.send(message).await.unwrap();
    }

    pub async fn send_output(&self, offset: u64, data: &'static [u8]) {
        self.send(OutputMessage { offset, data: bytes::Bytes::from_static(data), ..Default::default() }).await;
    }

    pub async fn try_next(&mut self) -> Result<Option<OutputAck>, Status> {
        soon(self.acks.as_mut().expect("the call is open").message()).await
    }

    pub async fn next(&mut self) -> OutputAck {
        self.try_next().await.unwrap().expect("an acknowledgement")
    }

    pub async fn durable(&mut self, offset: u64) {
        while self.next().await.durable < offset {}
    }

    /// The next chunk of standard input.
    pub async fn stdin(&mut self) -> proto::StdinChunk {
        loop {
            if let Some(chunk) = self.next().await.stdin {
                return chunk;
            }
        }
    }
}

pub struct Tool {
    up: mpsc::Sender<RunRequest>,
    replies: Option<Streaming<RunReply>>,
}

impl Tool {
    pub async fn send(&self, kind: run_request::Kind) {
        self.up.send(RunRequest { kind: Some(kind) }).await.unwrap();
    }

    pub async fn stdin(&self, offset: u64, data: &'static [u8], eof: bool) {
        let data = bytes::Bytes::from_static(data);
        self.send(run_request::Kind::Stdin(proto::StdinChunk { offset, data, eof })).await;
    }

    pub async fn next(&mut self) -> Option<run_reply::Kind> {
        let reply = soon(self.replies.as_mut().expect("the call is open").message()).await.unwrap();
        reply.map(|reply| reply.kind.expect("a known reply"))
    }

    pub async fn output(&mut self) -> proto::OutputChunk {
        loop {
            match self.next().await.expect("more replies") {
                run_reply::Kind::Output(chunk) => return chunk,
                _ => continue,
            }
        }
    }

    pub async fn stdin_received(&mut self) -> u64 {
        loop {
            match self.next().await.expect("more replies") {
                run_reply::Kind::StdinReceived(offset) => return offset,
                _ => continue,
            }
        }
    }

    /// The rest of the output, and the last row.
    pub async fn rest(&mut self) -> (Vec<u8>, proto::CommandRow) {
        let (mut output, mut last) = (Vec::new(), None);
        while let Some(reply) = self.next().await {
            match reply {
                run_reply::Kind::Output(chunk) => output.extend(chunk.data),
                run_reply::Kind::Command(row) => last = Some(row),
                run_reply::Kind::StdinReceived(_) => {}
            }
        }
        (output, last.expect("a row at the end"))
    }
}
