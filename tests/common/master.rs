//! A master that does nothing by itself: each session is handed to the test, which plays it.

use super::PATIENCE;
use futures_core::Stream;
use proto::{
    AgentMessage, CheckReply, CheckRequest, MasterMessage, OutputAck, OutputMessage, Register,
    agent_message::Kind as Up,
    agent_registry_server::{AgentRegistry, AgentRegistryServer},
    master_message::Kind as Down,
    rejected::Reason,
};
use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::server::{Connected, TcpIncoming},
};

pub struct Master {
    pub address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    outputs: mpsc::Receiver<OutputCall>,
    server: JoinHandle<()>,
}

/// The master's side of one `Connect`. Dropping it ends the stream.
pub struct Session {
    incoming: Streaming<AgentMessage>,
    outgoing: mpsc::Sender<Result<MasterMessage, Status>>,
}

/// The master's side of one `SendOutput`.
pub struct OutputCall {
    pub command: String,
    pub incoming: Streaming<OutputMessage>,
    pub outgoing: mpsc::Sender<Result<OutputAck, Status>>,
}

impl Master {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(super::place::own()).await.expect("a free port");
        Self::on(listener)
    }

    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound socket");
        Self::serve(address, TcpIncoming::from(listener))
    }

    /// On whatever connections come; `address` is where agents reach them.
    pub fn serve<S>(address: SocketAddr, incoming: impl Stream<Item = std::io::Result<S>> + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (sessions_in, sessions) = mpsc::channel(16);
        let (outputs_in, outputs) = mpsc::channel(64);
        let service = AgentRegistryServer::new(Handler { sessions: sessions_in, outputs: outputs_in });
        let server = tokio::spawn(async move {
            let served = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
            served.expect("the scripted master serves");
        });
        Self { address, sessions, outputs, server }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The next session that an agent opens.
    pub async fn session(&mut self) -> Session {
        timeout(PATIENCE, self.sessions.recv()).await.expect("an agent connects").expect("the master serves")
    }

    /// The next output call.
    pub async fn output(&mut self) -> OutputCall {
        timeout(PATIENCE, self.outputs.recv()).await.expect("output comes").expect("the master serves")
    }

    /// A session that is registered with this epoch and has its first heartbeat acknowledged.
    pub async fn active(&mut self, epoch: u64) -> Session {
        let mut session = self.session().await;
        session.register(epoch).await;
        let seq = session.beat().await;
        session.ack(seq).await;
        session
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Session {
    /// The agent's next message.
    pub async fn next(&mut self) -> Option<Up> {
        let message = timeout(PATIENCE, self.incoming.message()).await.expect("the agent says something");
        message.ok().flatten().and_then(|message| message.kind)
    }

    pub async fn send(&self, kind: Down) {
        // The agent may have left: what follows shows it.
        let _ = self.outgoing.send(Ok(MasterMessage { kind: Some(kind) })).await;
    }

    /// Sends this again and again, as fast as the agent takes it, until the session ends.
    pub fn flood(&self, kind: Down) -> JoinHandle<()> {
        let outgoing = self.outgoing.clone();
        tokio::spawn(
            async move { while outgoing.send(Ok(MasterMessage { kind: Some(kind.clone()) })).await.is_ok() {} },
        )
    }

    /// Takes the registration without an answer.
    pub async fn registration(&mut self) -> Register {
        match self.next().await {
            Some(Up::Register(register)) => register,
            other => panic!("a session begins with a registration, not {other:?}"),
        }
    }

    pub async fn register(&mut self, epoch: u64) -> Register {
        let register = self.registration().await;
        self.send(Down::Registered(proto::Registered { epoch, ..Default::default() })).await;
        register
    }

    /// The next heartbeat's number; other messages are passed over.
    pub async fn beat(&mut self) -> u64 {
        loop {
            match self.next().await {
                Some(Up::Heartbeat(beat)) => return beat.seq,
                Some(_) => {}
                None => panic!("the session ended before a heartbeat"),
            }
        }
    }

    pub async fn ack(&self, seq: u64) {
        self.send(Down::HeartbeatAck(proto::HeartbeatAck { seq, interval_ms: 0 })).await;
    }

    /// Acknowledges everything until the agent ends the session; what it said beside heartbeats.
    pub async fn serve(mut self) -> Vec<Up> {
        let mut said = Vec::new();
        while let Some(kind) = self.next().await {
            match kind {
                Up::Heartbeat(beat) => self.ack(beat.seq).await,
                kind => said.push(kind),
            }
        }
        said
    }

    pub async fn reject(&self, reason: proto::rejected::Reason, message: &str) {
        self.send(Down::Rejected(proto::Rejected { reason: reason.into(), message: message.into() })).await;
    }

    /// Ends the call with an error.
    pub async fn fail(&self, status: Status) {
        let _ = self.outgoing.send(Err(status)).await;
    }
}

struct Handler {
    sessions: mpsc::Sender<Session>,
    outputs: mpsc::Sender<OutputCall>,
}

#[tonic::async_trait]
impl AgentRegistry for Handler {
    type ConnectStream = Replies<MasterMessage>;
    type SendOutputStream = Replies<OutputAck>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (outgoing, replies) = mpsc::channel(64);
        let session = Session { incoming: request.into_inner(), outgoing };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Replies(replies)))
    }

    async fn join(&self, _: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        Err(Status::unimplemented("no tokens here"))
    }

    /// What it says is for the agent's name to choose.
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckReply>, Status> {
        let register = request.into_inner().register.unwrap_or_default();
        let (reason, message) = match register.name.as_str() {
            "older" => return Err(Status::unimplemented("")),
            "taken" => (Reason::NameTaken, "the name belongs to another".to_owned()),
            _ => (Reason::Unspecified, String::new()),
        };
        let time_unix_ms = sloth_agent::clock::unix_ms();
        let master_name = "scripted".to_owned();
        let known = register.agent_id.len() == 16 && register.agent_id != [0; 16];
        let reply =
            CheckReply { reason: reason.into(), message, master_name, time_unix_ms, known, ..Default::default() };
        Ok(Response::new(reply))
    }

    async fn send_output(
        &self,
        request: Request<Streaming<OutputMessage>>,
    ) -> Result<Response<Self::SendOutputStream>, Status> {
        let command =
            request.metadata().get("sloth-command-id").and_then(|id| id.to_str().ok()).unwrap_or("").to_owned();
        let (outgoing, replies) = mpsc::channel(64);
        let call = OutputCall { command, incoming: request.into_inner(), outgoing };
        self.outputs.send(call).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Replies(replies)))
    }
}

pub struct Replies<T>(mpsc::Receiver<Result<T, Status>>);

impl<T> Stream for Replies<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
