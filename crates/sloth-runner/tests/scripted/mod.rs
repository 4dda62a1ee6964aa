//! A master that follows a script, behind a proxy whose connections can be cut.

use proto::{
    AgentRow, AttemptRow, CancelRequest, CommandRow, DeleteReply, DeleteRequest, EventRow, EventsReply, EventsRequest,
    ExplainReply, GetCommandRequest, GetRequest, ListCommandsReply, ListCommandsRequest, ListReply, ListRequest,
    LogsRequest, OutputChunk, OutputStream, RunReply, RunRequest, RunStart, SessionRow, StdinChunk, StopReply,
    StopRequest, ToldRow,
    fleet_server::{Fleet, FleetServer},
    run_reply, run_request,
};
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

/// What the master does, and what it has seen.
#[derive(Default)]
pub struct Script {
    /// Of every command, in order.
    pub output: Vec<(OutputStream, Vec<u8>)>,
    /// What the row claims beyond it.
    pub output_missing: u64,
    pub outcome: Option<link::Outcome>,
    /// Refuses every start with this message.
    pub refusal: Option<&'static str>,
    /// … and this code.
    pub refused_with: Option<Code>,
    /// Answers no start, as when it waits for an agent that is away.
    pub holds_starts: bool,
    /// Output stops here until the command is cancelled.
    pub stall_at: Option<u64>,
    /// No call gives more output than about this.
    pub per_call: Option<u64>,
    /// The connection is cut when so much standard input has come, before it is acknowledged.
    pub cut_at_stdin: VecDeque<usize>,
    pub agents: Vec<AgentRow>,
    /// What agents hold. Without any, commands have the outcome above.
    pub held: Vec<CommandRow>,
    /// How often somebody asked for one of them.
    pub looked_at_held: u32,
    pub events: Vec<EventRow>,
    /// The connection is cut after the event with this number.
    pub cut_at_event: VecDeque<u64>,

    pub starts: Vec<RunStart>,
    pub logs: Vec<LogsRequest>,
    pub cancelled: u32,
    pub stdin: Vec<u8>,
    pub stdin_acknowledged: usize,
    pub stdin_ended: bool,
}

#[derive(Clone)]
pub struct Master {
    pub script: Arc<Mutex<Script>>,
    pub proxy: Proxy,
}

impl Master {
    /// Serves `script` until the test ends.
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await;
        let master = Self { script: Arc::new(Mutex::new(script)), proxy };
        let server = Server::builder().add_service(FleetServer::new(master.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        master
    }

    pub fn address(&self) -> String {
        self.proxy.address.to_string()
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Script) -> T) -> T {
        look(&self.script.lock().unwrap())
    }

    fn row(&self, id: &str, finished: bool) -> CommandRow {
        let script = self.script.lock().unwrap();
        let outcome = if script.cancelled > 0 { Some(link::Outcome::Cancelled) } else { script.outcome.clone() };
        let length: usize = script.output.iter().map(|(_, data)| data.len()).sum();
        CommandRow {
            id: id.to_owned(),
            agent: "lady".to_owned(),
            state: if finished { "finished" } else { "accepted" }.to_owned(),
            outcome: outcome.as_ref().filter(|_| finished).map(Into::into),
            output_bytes: if !finished || script.cancelled > 0 { 0 } else { length as u64 + script.output_missing },
            ..CommandRow::default()
        }
    }

    /// Output from `offset`, in chunks that begin a little before it, as a master may send them.
    async fn send_output(&self, offset: u64, to: &mpsc::Sender<Result<RunReply, Status>>) {
        let (output, stall_at) = self
            .seen(|script| (script.output.clone(), script.stall_at.or(script.per_call.map(|bytes| offset + bytes))));
        let mut start = 0;
        for (stream, data) in output {
            for part in data.chunks(7001) {
                let end = start + part.len() as u64;
                if stall_at.is_some_and(|at| end > at) {
                    std::future::pending::<()>().await;
                }
                if end > offset {
                    let mut chunk = OutputChunk { offset: start, data: part.to_vec().into(), ..OutputChunk::default() };
                    chunk.set_stream(stream);
                    let _ = to.send(Ok(reply(run_reply::Kind::Output(chunk)))).await;
                }
                start = end;
            }
        }
    }

    /// Takes a chunk over, or cuts the connection. What to acknowledge.
    fn take_stdin(&self, chunk: &StdinChunk) -> Option<u64> {
        let mut script = self.script.lock().unwrap();
        let offset = usize::try_from(chunk.offset).unwrap();
        assert!(chunk.data.len() <= 16 << 10, "a chunk of {} bytes", chunk.data.len());
        assert!(offset <= script.stdin.len(), "standard input has a hole at {}", script.stdin.len());
        let ahead = offset + chunk.data.len() - script.stdin_acknowledged;
        assert!(ahead <= 64 << 10, "{ahead} bytes without an acknowledgement");
        let known = (script.stdin.len() - offset).min(chunk.data.len());
        script.stdin.extend(&chunk.data[known..]);
        script.stdin_ended |= chunk.eof;
        let received = script.stdin.len();
        if script.cut_at_stdin.front().is_some_and(|&at| received >= at) {
            script.cut_at_stdin.pop_front();
            // The agent has not taken over what came last.
            let lost = received.min(3000).min(received - script.stdin_acknowledged);
            script.stdin.truncate(received - lost);
            script.stdin_ended = false;
            self.proxy.cut();
            return None;
        }
        script.stdin_acknowledged = received;
        Some(received as u64)
    }

    async fn serve_run(
        self,
        start: RunStart,
        mut requests: Streaming<RunRequest>,
        to: mpsc::Sender<Result<RunReply, Status>>,
    ) {
        let id = start.id.clone();
        let _ = to.send(Ok(reply(run_reply::Kind::Command(self.row(&id, false))))).await;
        let received = {
            let mut script = self.script.lock().unwrap();
            script.stdin_acknowledged = script.stdin.len();
            script.stdin.len() as u64
        };
        let _ = to.send(Ok(reply(run_reply::Kind::StdinReceived(received)))).await;
        let ended = async {
            if start.from_offset != u64::MAX {
                self.send_output(start.from_offset, &to).await;
            }
        };
        let wants_stdin = start.spec.as_ref().is_some_and(|spec| spec.stdin);
        let asked = async {
            while let Ok(Some(request)) = requests.message().await {
                match request.kind.unwrap() {
                    run_request::Kind::Start(_) => panic!("started twice on one call"),
                    run_request::Kind::Cancel(_) => {
                        self.script.lock().unwrap().cancelled += 1;
                        return;
                    }
                    run_request::Kind::Stdin(chunk) => match self.take_stdin(&chunk) {
                        Some(received) => {
                            let _ = to.send(Ok(reply(run_reply::Kind::StdinReceived(received)))).await;
                            if chunk.eof {
                                return;
                            }
                        }
                        None => std::future::pending().await,
                    },
                }
            }
            // The caller has left.
            std::future::pending().await
        };
        if wants_stdin {
            tokio::join!(ended, asked);
        } else {
            tokio::select! {
                () = ended => {}
                () = asked => {}
            }
        }
        let _ = to.send(Ok(reply(run_reply::Kind::Command(self.row(&id, true))))).await;
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn replies<T: Send + 'static>(receiver: mpsc::Receiver<Result<T, Status>>) -> Response<Replies<T>> {
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

fn reply(kind: run_reply::Kind) -> RunReply {
    RunReply { kind: Some(kind) }
}

#[tonic::async_trait]
impl Fleet for Master {
    type ListStream = Replies<ListReply>;
    type EventsStream = Replies<EventsReply>;
    type RunStream = Replies<RunReply>;
    type LogsStream = Replies<RunReply>;
    type ListCommandsStream = Replies<ListCommandsReply>;

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let rows: Vec<AgentRow> = self.seen(|script| {
            let fits = |row: &&AgentRow| {
                (request.status.is_empty() || row.status == request.status)
                    && request.labels.iter().all(|(key, value)| row.labels.get(key) == Some(value))
            };
            script.agents.iter().filter(fits).cloned().collect()
        });
        let messages = rows.into_iter().map(|row| Ok(ListReply { agents: vec![row], ..ListReply::default() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.collect::<Vec<_>>()))))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<AgentRow>, Status> {
        let name = request.into_inner().name;
        let row = self.seen(|script| script.agents.iter().find(|row| row.name == name).cloned());
        row.map(Response::new).ok_or_else(|| Status::not_found(format!("no agent is called {name}")))
    }

    async fn create_token(
        &self,
        _: Request<proto::CreateTokenRequest>,
    ) -> Result<Response<proto::CreateTokenReply>, Status> {
        Err(Status::unimplemented("no tokens here"))
    }

    async fn list_tokens(
        &self,
        _: Request<proto::ListTokensRequest>,
    ) -> Result<Response<proto::ListTokensReply>, Status> {
        Err(Status::unimplemented("no tokens here"))
    }

    async fn revoke_token(
        &self,
        _: Request<proto::RevokeTokenRequest>,
    ) -> Result<Response<proto::RevokeTokenReply>, Status> {
        Err(Status::unimplemented("no tokens here"))
    }

    async fn explain(&self, request: Request<GetRequest>) -> Result<Response<ExplainReply>, Status> {
        let row = self.get(request).await?.into_inner();
        let session = SessionRow { reason: row.reason.clone(), closed_by: row.reason.clone(), ..SessionRow::default() };
        let told = ToldRow { kind: row.reason.clone(), detail: row.detail.clone(), ..ToldRow::default() };
        let attempt = AttemptRow { host: row.host.clone(), message: row.detail.clone(), ..AttemptRow::default() };
        Ok(Response::new(ExplainReply {
            advice: row.detail.clone(),
            commands: vec![row.reason.clone()],
            commands_in_all: 1,
            sessions: vec![session],
            told: vec![told],
            attempts: vec![attempt],
            agent: Some(row),
            ..ExplainReply::default()
        }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let request = request.into_inner();
        if !request.force {
            return Err(Status::failed_precondition(format!("{} is Active: --force deletes it", request.name)));
        }
        Ok(Response::new(DeleteReply { message: format!("deleted {}", request.name) }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        Ok(Response::new(StopReply { message: format!("asked {} to stop", request.into_inner().name) }))
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let (to, receiver) = mpsc::channel(1);
        let master = self.clone();
        tokio::spawn(async move {
            let events = master.seen(|script| script.events.clone());
            for event in events.into_iter().filter(|event| event.seq > request.after_seq) {
                let seq = event.seq;
                let _ = to.send(Ok(EventsReply { events: vec![event] })).await;
                let cut = {
                    let mut script = master.script.lock().unwrap();
                    let cut = request.follow && script.cut_at_event.front() == Some(&seq);
                    if cut {
                        script.cut_at_event.pop_front();
                    }
                    cut
                };
                if cut {
                    master.proxy.cut();
                    return;
                }
            }
            if request.follow {
                to.closed().await;
            }
        });
        Ok(replies(receiver))
    }

    async fn run(&self, request: Request<Streaming<RunRequest>>) -> Result<Response<Self::RunStream>, Status> {
        let mut requests = request.into_inner();
        let Some(run_request::Kind::Start(start)) = requests.message().await?.and_then(|request| request.kind) else {
            return Err(Status::invalid_argument("the first request starts the command"));
        };
        self.script.lock().unwrap().starts.push(start.clone());
        if let Some(refusal) = self.seen(|script| script.refusal) {
            let code = self.seen(|script| script.refused_with).unwrap_or(Code::FailedPrecondition);
            return Err(Status::new(code, refusal));
        }
        if self.seen(|script| script.holds_starts) {
            std::future::pending::<()>().await;
        }
        let (to, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().serve_run(start, requests, to));
        Ok(replies(receiver))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        self.script.lock().unwrap().logs.push(request.clone());
        let (to, receiver) = mpsc::channel(1);
        let master = self.clone();
        tokio::spawn(async move {
            let _ = to.send(Ok(reply(run_reply::Kind::Command(master.row(&request.id, false))))).await;
            master.send_output(request.from_offset, &to).await;
            if request.follow {
                let _ = to.send(Ok(reply(run_reply::Kind::Command(master.row(&request.id, true))))).await;
            }
        });
        Ok(replies(receiver))
    }

    async fn list_commands(
        &self,
        request: Request<ListCommandsRequest>,
    ) -> Result<Response<Self::ListCommandsStream>, Status> {
        let request = request.into_inner();
        let limit = request.limit as usize;
        let held = self.seen(|script| script.held.clone());
        if !held.is_empty() {
            assert_eq!((request.agent.as_str(), request.state.as_str()), ("lady", "accepted"));
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(ListCommandsReply { commands: held })))));
        }
        let commands = ["c2", "c1"].iter().take(limit).map(|id| self.row(id, true)).collect();
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(ListCommandsReply { commands })))))
    }

    async fn get_command(&self, request: Request<GetCommandRequest>) -> Result<Response<CommandRow>, Status> {
        let id = request.into_inner().id;
        let mut script = self.script.lock().unwrap();
        let held = script.held.iter().find(|row| row.id == id).cloned();
        script.looked_at_held += 1;
        drop(script);
        Ok(Response::new(held.unwrap_or_else(|| self.row(&id, true))))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CommandRow>, Status> {
        let id = request.into_inner().id;
        self.script.lock().unwrap().cancelled += 1;
        if self.seen(|script| script.holds_starts) {
            return Err(Status::not_found(format!("there is no command {id}")));
        }
        Ok(Response::new(self.row(&id, false)))
    }
}

/// Passes connections on, and can break all of them.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    open: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), open: Arc::default() };
        let open = proxy.open.clone();
        let mut accepted = TcpListenerStream::new(listener);
        tokio::spawn(async move {
            while let Some(Ok(client)) = accepted.next().await {
                let pump = tokio::spawn(pump(client, target));
                open.lock().unwrap().push(pump.abort_handle());
            }
        });
        proxy
    }

    /// Breaks every connection; new ones are welcome.
    pub fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|pump| pump.abort());
    }
}

async fn pump(mut client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
