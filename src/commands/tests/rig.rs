//! Commands on one side, a master that knows `SendOutput` on the other, a connection between them that can be cut.

use super::*;
use crate::transport;
use proto::{
    AgentMessage, MasterMessage, OutputAck, OutputMessage, OutputStream, StdinChunk,
    agent_registry_server::{AgentRegistry, AgentRegistryServer},
};
use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle, time::timeout};
use tonic::{
    Request, Response, Status, Streaming, async_trait,
    codegen::tokio_stream::wrappers::ReceiverStream,
    transport::{Server, server::TcpIncoming},
};

/// Nothing here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the master has of one command, and what it is set to do.
#[derive(Default)]
pub struct Received {
    pub bytes: u64,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub gaps: Vec<(u64, u64)>,
    /// Where each call was told to go on from.
    pub calls: Vec<u64>,
    pub stdin: Vec<u8>,
    /// Number of its latest call.
    call: u64,
    pub stdin_received: u64,
    pub headers: (String, String),
}

#[derive(Default)]
pub struct State {
    pub commands: HashMap<String, Received>,
    /// Calls to fail before any is served.
    pub failures: usize,
    /// Calls of commands whose ids begin so are held open without a word.
    pub silent: Option<&'static str>,
    /// What is said instead of the truth in every acknowledgement.
    pub lie: Option<u64>,
    pub open: usize,
    pub open_max: usize,
}

#[derive(Clone, Default)]
pub struct Master {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Master {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Received) -> T) -> T {
        let result = change(self.state().commands.entry(id.to_owned()).or_default());
        self.changed.notify_one();
        result
    }

    fn ack(&self, id: &str, stdin: Option<StdinChunk>) -> OutputAck {
        let mut state = self.state();
        let truth = state.commands.entry(id.to_owned()).or_default().bytes;
        let said = state.lie.unwrap_or(truth);
        OutputAck { received: said, durable: said, stdin }
    }

    /// Up to 64 KiB that were not acknowledged are under way.
    fn stdin_chunk(&self, id: &str, sent: &mut u64, done: &mut bool) -> Option<StdinChunk> {
        let mut state = self.state();
        let command = state.commands.entry(id.to_owned()).or_default();
        let total = command.stdin.len() as u64;
        if *done || total == 0 || *sent >= command.stdin_received + 64 * 1024 {
            return None;
        }
        let end = total.min(*sent + 16 * 1024);
        let data = command.stdin[*sent as usize..end as usize].to_vec().into();
        let chunk = StdinChunk { offset: *sent, data, eof: end == total };
        *sent = end;
        *done = chunk.eof;
        Some(chunk)
    }

    fn take(&self, id: &str, call: u64, message: OutputMessage) {
        if self.state().lie.is_some() {
            return;
        }
        self.change(id, |command| {
            // What a call that was cut still had in its buffers comes again on the call after it.
            if command.call != call {
                return;
            }
            command.stdin_received = message.stdin_received;
            if message.data.is_empty() && message.gap == 0 {
                return;
            }
            assert_eq!(message.offset, command.bytes, "output came out of order");
            assert!(message.data.len() <= 64 * 1024);
            match message.stream() {
                OutputStream::Stdout => command.stdout.extend_from_slice(&message.data),
                OutputStream::Stderr => command.stderr.extend_from_slice(&message.data),
            }
            if message.gap > 0 {
                command.gaps.push((message.offset, message.gap));
            }
            command.bytes += message.data.len() as u64 + message.gap;
        });
    }

    async fn serve(
        self,
        id: String,
        call: u64,
        mut messages: Streaming<OutputMessage>,
        acks: mpsc::Sender<Result<OutputAck, Status>>,
    ) {
        let mut sent = self.change(&id, |command| command.stdin_received);
        let mut done = false;
        while let Ok(Some(message)) = messages.message().await {
            self.take(&id, call, message);
            if acks.send(Ok(self.ack(&id, None))).await.is_err() {
                break;
            }
            while let Some(chunk) = self.stdin_chunk(&id, &mut sent, &mut done) {
                let _ = acks.send(Ok(self.ack(&id, Some(chunk)))).await;
            }
        }
        self.state().open -= 1;
        self.changed.notify_one();
    }
}

#[async_trait]
impl AgentRegistry for Master {
    type ConnectStream = ReceiverStream<Result<MasterMessage, Status>>;
    type SendOutputStream = ReceiverStream<Result<OutputAck, Status>>;

    async fn connect(&self, _: Request<Streaming<AgentMessage>>) -> Result<Response<Self::ConnectStream>, Status> {
        Err(Status::unimplemented("the tests speak to the commands directly"))
    }

    async fn join(&self, _: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        Err(Status::unimplemented("no tokens here"))
    }

    async fn check(&self, _: Request<proto::CheckRequest>) -> Result<Response<proto::CheckReply>, Status> {
        Err(Status::unimplemented("the tests speak to the commands directly"))
    }

    async fn send_output(
        &self,
        request: Request<Streaming<OutputMessage>>,
    ) -> Result<Response<Self::SendOutputStream>, Status> {
        let header = |name: &str| request.metadata().get(name).unwrap().to_str().unwrap().to_owned();
        let id = header("sloth-command-id");
        let headers = (header("sloth-agent-id"), header("sloth-epoch"));
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap();
        assert!(first.data.is_empty() && first.gap == 0, "the first message carries standard input's offset only");
        {
            let mut state = self.state();
            if state.failures > 0 {
                state.failures -= 1;
                return Err(Status::unavailable("not now"));
            }
            state.open += 1;
            state.open_max = state.open_max.max(state.open);
        }
        let call = self.change(&id, |command| {
            command.calls.push(command.bytes);
            command.stdin_received = first.stdin_received;
            command.headers = headers;
            command.call += 1;
            command.call
        });
        let (acks, receiver) = mpsc::channel(16);
        let silent = self.state().silent;
        if silent.is_some_and(|silent| id.starts_with(silent)) {
            let state = self.clone();
            tokio::spawn(async move {
                acks.closed().await;
                state.state().open -= 1;
                drop(messages);
            });
            return Ok(Response::new(ReceiverStream::new(receiver)));
        }
        let mut sent = first.stdin_received;
        let stdin = self.stdin_chunk(&id, &mut sent, &mut false);
        acks.send(Ok(self.ack(&id, stdin))).await.unwrap();
        tokio::spawn(self.clone().serve(id, call, messages, acks));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

pub struct Rig {
    pub commands: Commands,
    pub master: Master,
    address: SocketAddr,
    server: JoinHandle<()>,
    connection: Option<transport::Dialled>,
    pub messages: Vec<Kind>,
    epoch: u64,
}

impl Rig {
    /// With a session.
    pub async fn new(config: config::Commands) -> Self {
        let mut rig = Self::without_session(config).await;
        rig.up().await;
        rig
    }

    pub async fn without_session(config: config::Commands) -> Self {
        Self::with(Commands::new(&config, &agent())).await
    }

    /// Without a session.
    pub async fn with(commands: Commands) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let master = Master::default();
        let service = AgentRegistryServer::new(master.clone());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tokio::spawn(async move {
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { commands, master, address, server, connection: None, messages: Vec::new(), epoch: 0 }
    }

    pub async fn up(&mut self) {
        let master = config::MasterAddress { host: self.address.ip().to_string(), port: self.address.port() };
        let mut resolver = transport::Resolver::default();
        let dialled = transport::connect(&master, &mut resolver, PATIENCE, None).await.expect("the master listens");
        let client = dialled.client.clone();
        self.connection = Some(dialled);
        self.epoch += 1;
        self.commands.session_up(Uplink { client, agent_id: [0xab; 16], epoch: self.epoch });
    }

    /// The connection breaks, in the middle of whatever goes on.
    pub fn cut(&mut self) {
        drop(self.connection.take().unwrap());
        self.commands.session_down();
    }

    pub fn run(&mut self, id: &str, spec: CommandSpec) {
        self.commands.run(RunCommand { id: id.to_owned(), spec: Some(spec) });
    }

    /// Serves the commands until the master and the messages so far are as wanted.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(&mut State, &[Kind]) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(result) = wanted(&mut self.master.state(), &self.messages) {
                    return result;
                }
                tokio::select! {
                    kind = self.commands.next(true) => self.messages.extend(kind),
                    () = self.master.changed.notified() => {}
                }
            }
        };
        timeout(PATIENCE, waiting).await.expect("it never came")
    }

    /// Serves the commands until this one has finished.
    pub async fn finished(&mut self, id: &str) -> CommandFinished {
        self.until(|_, messages| find_finished(messages, id)).await
    }

    pub async fn outcome(&mut self, id: &str) -> Outcome {
        let finished = self.finished(id).await;
        proto::outcome_from(&finished.outcome.unwrap()).unwrap()
    }

    /// Until it has finished and the master has all of its output: (standard output, standard error).
    pub async fn output(&mut self, id: &str) -> (Vec<u8>, Vec<u8>) {
        let total = self.finished(id).await.total_bytes;
        self.until(|master, _| {
            if total == 0 {
                return Some(Default::default());
            }
            let received = master.commands.get(id)?;
            (received.bytes >= total).then(|| (received.stdout.clone(), received.stderr.clone()))
        })
        .await
    }

    pub async fn text(&mut self, id: &str) -> String {
        let (stdout, stderr) = self.output(id).await;
        assert_eq!(String::from_utf8_lossy(&stderr), "");
        String::from_utf8(stdout).unwrap()
    }

    /// Until standard output begins with a whole line.
    pub async fn first_line(&mut self, id: &str) -> String {
        self.until(|master, _| {
            let text = String::from_utf8_lossy(&master.commands.get(id)?.stdout).into_owned();
            text.split_once('\n').map(|(line, _)| line.to_owned())
        })
        .await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn find_finished(messages: &[Kind], id: &str) -> Option<CommandFinished> {
    messages.iter().find_map(|kind| match kind {
        Kind::CommandFinished(finished) if finished.id == id => Some(finished.clone()),
        _ => None,
    })
}
