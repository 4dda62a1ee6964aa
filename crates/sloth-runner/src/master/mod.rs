//! The master: agents register here and stay, operators ask here.

mod adoptions;
mod check;
mod clock;
mod core;
mod entrance;
mod fleet_rpc;
mod hub;
mod join;
mod meters;
mod orphans;
mod output;
pub mod ports;
pub(crate) mod reads;
pub(crate) mod rows;
mod session;
mod start;
mod stdin;
#[cfg(test)]
mod tests;
mod timer;
mod wires;

pub(crate) use self::{
    core::Core,
    fleet_rpc::{FleetService, Look, look_at_output},
    meters::{Counts, STORE_BOUNDS},
};
use crate::{
    access::{Caller, Guard},
    audit::Audit,
    listen::{Incoming, places::Limits},
    security::{
        Security,
        tls::{Peer, Secured},
    },
    web::Http,
    webhook::Webhook,
};
use clock::{BootClock, Clock};
use ports::{Outputs, Snapshot, Store};
use proto::{
    AgentMessage, CheckReply, CheckRequest, Goodbye, JoinReply, JoinRequest, OutputAck, OutputMessage,
    agent_registry_server, fleet_server, master_message::Kind,
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// What a master is told from outside, besides its ports.
pub struct Options {
    /// How it calls itself towards agents.
    pub name: String,
    /// Above it agents wait, or are asked to come back. At least 1.
    pub registrations_per_second: u32,
    /// Of the whole fleet; above it agents are asked to beat less often. At least 1.
    pub heartbeats_per_second: u32,
    /// What one address, and one call, may take of the port.
    pub connections: Connections,
    /// None: in the clear, and everybody may do everything.
    pub security: Option<Arc<Security>>,
    /// The file that says who did what; none: nobody keeps that.
    pub audit: Option<Arc<Audit>>,
    /// Where health, metrics and the web page are served, if they are.
    pub http: Option<Http>,
    /// To whom events are posted, if to anybody.
    pub webhook: Option<Webhook>,
}

/// What one address, and one call, may take of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// None: half of those that there is room for.
    pub each: Option<usize>,
    /// … that have shown no credential. At most as many as `each`.
    pub unknown_each: usize,
    /// For them to show one.
    pub unknown_timeout: Duration,
    /// For a message, from its first byte to its last, and for the first one of a call.
    pub message_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            each: None,
            unknown_each: UNKNOWN_EACH_DEFAULT,
            unknown_timeout: UNKNOWN_TIMEOUT_DEFAULT,
            message_timeout: MESSAGE_TIMEOUT_DEFAULT,
        }
    }
}

impl Connections {
    fn limits(&self, open_max: usize) -> Limits {
        Limits { each: self.each.unwrap_or(open_max / 2).max(1), unknown_each: self.unknown_each }
    }
}

/// A site of 1,000 agents behind one address comes back at once without one being turned away.
pub const UNKNOWN_EACH_DEFAULT: usize = 1_024;

/// Twice what an agent waits for its connection and registration, and then some: a slow line with a lost packet or two.
pub const UNKNOWN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// The longest command, 128 KiB, over a line of 2.2 KiB/s.
pub const MESSAGE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

impl Options {
    /// With this name, and the defaults of the configuration.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            registrations_per_second: REGISTRATIONS_PER_SECOND_DEFAULT,
            heartbeats_per_second: HEARTBEATS_PER_SECOND_DEFAULT,
            connections: Connections::default(),
            security: None,
            audit: None,
            http: None,
            webhook: None,
        }
    }
}

/// A fleet of 19,000 is let in within 3 s. A registration with its connection costs 0.2 ms of a core in the clear
/// (`docs/specification.md`) and twice as much over TLS, so that two cores bear this many; the store, which commits
/// hundreds at once, bears twenty times as many.
pub const REGISTRATIONS_PER_SECOND_DEFAULT: u32 = 5_000;

/// As much as 25,000 agents send at their default interval: under a tenth of a core.
pub const HEARTBEATS_PER_SECOND_DEFAULT: u32 = 5_000;

/// A tool that vanished with unfinished standard input may come back within this; then the command is cancelled: it is
/// never given a false end of its input.
const STDIN_GRACE: Duration = Duration::from_secs(10);

/// Sessions and calls that are still open get this long when the master goes.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Calls on one connection: of a tool up to 1,000 commands at once (`--max-parallel`) and what it asks beside them; of an
/// agent its session, 16 outputs, and some to replace them.
const STREAMS_MAX: u32 = 1_100;
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
/// 18 calls' worth: whoever does not read one call holds up no other.
const CONNECTION_WINDOW: u32 = 18 * STREAM_WINDOW;
/// Of an agent: its registration may list many commands.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// Of an operator: a command has 128 KiB at most, and its standard input comes in smaller pieces.
const REQUEST_MAX: usize = 1024 * 1024;

/// Serves agents and operators until `shutdown`, then says goodbye to every agent.
///
/// # Errors
/// The server failed. Whatever was answered is durable.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn Store>,
    outputs: Arc<dyn Outputs>,
    snapshot: Snapshot,
    mut options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (http, webhook) = (options.http.take(), options.webhook.take());
    let core = start(store, outputs, snapshot, options, STDIN_GRACE);
    let mut beside = JoinSet::new();
    if let Some(http) = http {
        beside.spawn(crate::web::serve(core.clone(), http));
    }
    if let Some(webhook) = webhook {
        beside.spawn(crate::webhook::run(core.clone(), webhook));
    }
    let served = serve_core(listener, core, shutdown).await;
    beside.shutdown().await;
    served
}

async fn serve_core(
    listener: TcpListener,
    core: Arc<Core>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let timer = tokio::spawn(timer::run(core.clone()));
    let entrance = tokio::spawn(entrance::run(core.clone()));
    let ending = core.clone();
    let signal = async move { ending.ended().await };
    let (bounds, open_max) = (core.connections, crate::open_files::connections_max());
    let incoming = Incoming::counted(listener, open_max, bounds.limits(open_max), core.open_connections());
    let acceptor = core.security.as_ref().map(|security| security.acceptor.clone());
    let told = core.clone();
    let revoked = move |id, address, why| join::revoked(&told, id, address, why);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(None)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .layer(Guard::new(core.security.clone(), bounds.message_timeout).telling(revoked))
        .add_service(
            agent_registry_server::AgentRegistryServer::new(AgentService { core: core.clone() })
                .max_decoding_message_size(MESSAGE_MAX),
        )
        .add_service(
            fleet_server::FleetServer::new(fleet_rpc::FleetService { core: core.clone() })
                .max_decoding_message_size(REQUEST_MAX),
        )
        .serve_with_incoming_shutdown(Secured::new(incoming, acceptor, bounds.unknown_timeout), signal);
    tokio::pin!(server);
    let result = tokio::select! {
        result = &mut server => result,
        () = shutdown => {
            say_goodbye(&core);
            tokio::time::timeout(SHUTDOWN_MAX, server).await.unwrap_or(Ok(()))
        }
    };
    timer.abort();
    entrance.abort();
    // What was told last is on the disk when the store is closed: calls are answered in order.
    let (done, answer) = oneshot::channel();
    core.store.write(Vec::new(), Box::new(move |result| _ = done.send(result)));
    let _ = tokio::time::timeout(SHUTDOWN_MAX, answer).await; // a disk that hangs is not waited for
    result
}

fn start(
    store: Arc<dyn Store>,
    outputs: Arc<dyn Outputs>,
    snapshot: Snapshot,
    options: Options,
    stdin_grace: Duration,
) -> Arc<Core> {
    let clock = Box::new(BootClock);
    let Snapshot { agents, commands, next_event_seq, last_run } = snapshot;
    let unfinished: Vec<String> = commands.iter().map(|record| record.id.clone()).collect();
    let mut fleet = fleet::Fleet::new(clock.now(), agents, commands, next_event_seq);
    fleet.stretch(fleet::pace::Stretch::new(options.heartbeats_per_second));
    let core = Arc::new(Core::new(fleet, next_event_seq, store, outputs, clock, options, stdin_grace));
    let (reason, message) = start::told(last_run);
    core.decide(|fleet, now| fleet.begin_run(now, reason, message));
    if !unfinished.is_empty() {
        let core = core.clone();
        // How much of their output is here.
        tokio::task::spawn_blocking(move || {
            for id in unfinished {
                if let Some(hub) = core.hub(&id) {
                    output::measure(&core, &hub);
                }
                // Where that failed, nothing is here that anybody could be told of.
                core.decide(|fleet, now| fleet.durable(now, &id, 0, Vec::new()));
            }
        });
    }
    core
}

/// Ends every session, each with its own time to come back; and whoever is not registered comes back, too.
fn say_goodbye(core: &Arc<Core>) {
    core.decide(|fleet, now| fleet.retire(now));
    core.ending.send_replace(true);
    let connections = core.wires.all();
    let waits = core.entrance.goodbyes(connections.len());
    for (outbox, after) in connections.into_iter().zip(waits) {
        let reason = "master_shutdown".to_owned();
        if outbox.session().is_none() {
            outbox.retry_later(after, reason);
            continue;
        }
        let retry_after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        outbox.push(Kind::Goodbye(Goodbye { reason, retry_after_ms }));
        outbox.close();
    }
}

struct AgentService {
    core: Arc<Core>,
}

#[tonic::async_trait]
impl agent_registry_server::AgentRegistry for AgentService {
    type ConnectStream = session::Session;
    type SendOutputStream = ReceiverStream<Result<OutputAck, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        if *self.core.ending.borrow() {
            return Err(Status::unavailable("the master is shutting down"));
        }
        let caller = request.extensions().get::<Caller>().cloned();
        let shown = request.extensions().get::<Peer>().map(|peer| peer.shown.clone());
        Ok(Response::new(session::Session::new(self.core.clone(), request.into_inner(), caller.as_ref(), shown)))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckReply>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        Ok(Response::new(check::check(&self.core, request.into_inner(), caller.as_ref())))
    }

    async fn send_output(
        &self,
        request: Request<Streaming<OutputMessage>>,
    ) -> Result<Response<Self::SendOutputStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let receiver = output::receive(&self.core, request).await;
        if let (Err(status), Some(security)) = (&receiver, &self.core.security) {
            security.refused(caller.as_ref(), None, "/agent.AgentRegistry/SendOutput", status);
        }
        receiver.map(|receiver| Response::new(ReceiverStream::new(receiver)))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let (caller, token) = (request.extensions().get::<Caller>().cloned(), request.get_ref().token.clone());
        let core = self.core.clone();
        let answer = fleet_rpc::whole(async move { join::answer(&core, request).await }).await;
        if let (Err(status), Some(security)) = (&answer, &self.core.security) {
            let caller = caller.map(|caller| caller.with_token(security, &token));
            security.refused(caller.as_ref(), None, "/agent.AgentRegistry/Join", status);
        }
        answer.map(Response::new)
    }
}
