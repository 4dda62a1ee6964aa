//! The operators' service.

pub(in crate::master) mod delete;
mod events;
mod explain;
mod follow;
mod list;
mod look;
mod run;
mod tokens;
mod unknown;

pub use look::{Look, look_at_output};
use unknown::{no_agent, unknown};

use super::{
    core::Core,
    hub::Hub,
    join::blocking,
    ports::Record,
    reads::{Lane, Reader},
    rows::{self, Eyes},
};
use crate::{access::Caller, security::admission::Revoked};
use fleet::{AgentId, Cancelled, CommandState, View};
use proto::{
    AgentRow, CancelRequest, CommandRow, CreateTokenReply, CreateTokenRequest, DeleteReply, DeleteRequest, EventsReply,
    EventsRequest, ExplainReply, GetCommandRequest, GetRequest, ListCommandsReply, ListCommandsRequest, ListRequest,
    ListTokensReply, ListTokensRequest, LogsRequest, RevokeTokenReply, RevokeTokenRequest, RunReply, RunRequest,
    StopReply, StopRequest,
};
use sloth_agent::logging::utc::Utc;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Replies on their way to a tool that does not read them.
const REPLIES_MAX: usize = 16;

/// Of the beginning of an id, to mean the one command whose id begins so.
const PREFIX_MIN: usize = 4;
/// The end of a command that waits with the master is waited for before it is told that it is cancelled. It takes
/// milliseconds.
const CONCLUDED_MAX: Duration = Duration::from_secs(5);
/// Shown of those that begin alike.
const CANDIDATES_MAX: usize = 10;

type Replies<T> = mpsc::Sender<Result<T, Status>>;
type ReplyStream<T> = ReceiverStream<Result<T, Status>>;

pub struct FleetService {
    pub core: Arc<Core>,
}

#[tonic::async_trait]
impl proto::fleet_server::Fleet for FleetService {
    type ListStream = list::List;
    type EventsStream = ReplyStream<EventsReply>;
    type RunStream = ReplyStream<RunReply>;
    type LogsStream = ReplyStream<RunReply>;
    type ListCommandsStream = ReplyStream<ListCommandsReply>;

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        Ok(Response::new(list::List::new(self.core.clone(), request.into_inner())?))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<AgentRow>, Status> {
        let id = self.find(&self.reader(&request), Lane::History, &request.get_ref().name).await?;
        let view = self.core.read(|fleet| fleet.registry().view(id));
        view.map(|view| Response::new(rows::agent(view))).ok_or_else(|| no_agent(&self.core, &request.get_ref().name))
    }

    async fn explain(&self, request: Request<GetRequest>) -> Result<Response<ExplainReply>, Status> {
        explain::explain(&self.core, &self.reader(&request), &request.get_ref().name).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let reader = self.reader(&request);
        let DeleteRequest { name, force } = request.into_inner();
        let id = self.find(&reader, Lane::Change, &name).await?;
        whole(delete::delete(self.core.clone(), caller, name, id, force)).await.map(Response::new)
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let (reader, name) = (self.reader(&request), request.into_inner().name);
        let id = self.find(&reader, Lane::Change, &name).await?;
        if self.core.decide(|fleet, _| fleet.stop(id, "stopped by an operator".to_owned())) {
            self.core.audit(caller.as_ref(), "audit.stop", (&name, id), "agent asked to shut down");
            return Ok(Response::new(StopReply { message: format!("agent {name} was asked to shut down") }));
        }
        let view = self.core.read(|fleet| fleet.registry().view(id)).ok_or_else(|| no_agent(&self.core, &name))?;
        Err(Status::failed_precondition(absence(&view.record)))
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let (reader, request) = (self.reader(&request), request.into_inner());
        let whose = events::Whose::find(&self.core, &reader, &request.name).await?;
        let (sender, receiver) = mpsc::channel(events::QUEUED_MAX);
        tokio::spawn(events::send(self.core.clone(), reader, request, whose, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn run(&self, request: Request<Streaming<RunRequest>>) -> Result<Response<Self::RunStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let receiver = run::start(self.core.clone(), request.into_inner(), caller).await?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let eyes = Eyes::of(request.extensions().get());
        let reader = self.reader(&request);
        let LogsRequest { id, from_offset, follow } = request.into_inner();
        let target = follow::Target::find(&self.core, &reader, Lane::Lookup, &id).await?;
        let (sender, receiver) = mpsc::channel(REPLIES_MAX);
        let core = self.core.clone();
        tokio::spawn(async move { follow::send(core, reader, target, from_offset, follow, eyes, sender).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_commands(
        &self,
        request: Request<ListCommandsRequest>,
    ) -> Result<Response<Self::ListCommandsStream>, Status> {
        let eyes = Eyes::of(request.extensions().get());
        let receiver = list::commands(self.core.clone(), self.reader(&request), request.into_inner(), eyes).await?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_command(&self, request: Request<GetCommandRequest>) -> Result<Response<CommandRow>, Status> {
        let eyes = Eyes::of(request.extensions().get());
        let (reader, id) = (self.reader(&request), request.into_inner().id);
        let found = match record(&self.core, &reader, Lane::Lookup, &id).await {
            Err(status) if status.code() == Code::NotFound && id.len() >= PREFIX_MIN => {
                let id = in_full(&self.core, &reader, &id).await?;
                record(&self.core, &reader, Lane::Lookup, &id).await?
            }
            found => found?,
        };
        Ok(Response::new(row(&self.core, &found, eyes)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CommandRow>, Status> {
        let (caller, eyes) = (request.extensions().get::<Caller>().cloned(), Eyes::of(request.extensions().get()));
        let (reader, id) = (self.reader(&request), request.into_inner().id);
        // Known before it is over, as what closes is known no more.
        let queued = self.core.read(|fleet| {
            fleet.dispatch().unfinished(&id).is_some_and(|(record, _)| record.state == CommandState::Queued)
        });
        let hub = self.core.hub(&id).filter(|_| queued);
        if cancel(&self.core, caller.as_ref(), &id, "cancelled") {
            log::info!("command {id}: cancellation asked by an operator");
            if let Some(hub) = hub {
                concluded(&self.core, &hub).await;
            }
        }
        let record = record(&self.core, &reader, Lane::Change, &id).await?;
        Ok(Response::new(row(&self.core, &record, eyes)))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Result<Response<CreateTokenReply>, Status> {
        let security = tokens::security(&self.core)?;
        let caller = request.extensions().get::<Caller>().cloned();
        let (core, request) = (self.core.clone(), request.into_inner());
        let create = async move {
            let reply = tokens::create(&security, request).await?;
            if let Some(row) = &reply.row {
                let what = format!("token {} of role {} created", row.id, row.role);
                core.audit(caller.as_ref(), "audit.token_created", ("", AgentId::default()), &what);
            }
            Ok(reply)
        };
        whole(create).await.map(Response::new)
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Result<Response<ListTokensReply>, Status> {
        let admission = &tokens::security(&self.core)?.admission;
        let (now_ms, tokens) = (admission.now_ms(), admission.tokens());
        Ok(Response::new(ListTokensReply { tokens: tokens.iter().map(|token| tokens::row(token, now_ms)).collect() }))
    }

    async fn revoke_token(&self, request: Request<RevokeTokenRequest>) -> Result<Response<RevokeTokenReply>, Status> {
        let security = tokens::security(&self.core)?;
        let caller = request.extensions().get::<Caller>().cloned();
        let (core, id) = (self.core.clone(), request.into_inner().id);
        let revoke = async move {
            let unknown = Status::not_found(format!("no token {id:?}: `sloth-runner token list` shows all"));
            let called = id.clone();
            let revoked = blocking(&security, move |security| {
                let failed = |error| Status::internal(format!("the token is not revoked: {error}"));
                security.admission.revoke_token(&id).map_err(failed)
            });
            let Revoked { record, already } = revoked.await?.ok_or(unknown)?;
            let what = format!("token {called} revoked{}", if already { ", which it was already" } else { "" });
            core.audit(caller.as_ref(), "audit.token_revoked", ("", AgentId::default()), &what);
            Ok(RevokeTokenReply { row: Some(tokens::row(&record, security.admission.now_ms())), already })
        };
        whole(revoke).await.map(Response::new)
    }
}

/// Goes on to its end when the caller leaves. A call that is broken off is dropped where it waits: what changes
/// something and then records who did it must not be.
pub(super) async fn whole<R: Send + 'static>(
    work: impl Future<Output = Result<R, Status>> + Send + 'static,
) -> Result<R, Status> {
    let ended = tokio::spawn(work).await;
    ended.unwrap_or_else(|error| Err(Status::internal(format!("a task of the master ended early: {error}"))))
}

/// Asks for the end of a command, and records who did. `false`: it is over, or there is none.
fn cancel(core: &Arc<Core>, caller: Option<&Caller>, id: &str, how: &str) -> bool {
    // With its agent, which is not known any more once it is over.
    let asked = core.decide(|fleet, _| {
        let whose = fleet.dispatch().unfinished(id).map(|(record, _)| (record.agent.clone(), record.agent_id));
        whose.filter(|_| fleet.cancel(id) == Cancelled::Asked)
    });
    if let Some((name, agent)) = &asked {
        core.audit(caller, "audit.cancel", (name, *agent), &format!("command {id} {how}"));
    }
    asked.is_some()
}

/// Until a command is over that only this master has, and that somebody has cancelled: two writes of the store.
async fn concluded(core: &Core, hub: &Hub) {
    let mut view = hub.view.subscribe();
    let over = view.wait_for(|view| match view {
        Some(View::Record(record)) => record.outcome.is_some(),
        Some(View::Failed(_)) => true,
        None => false,
    });
    tokio::select! {
        // A disk that hangs holds up nobody: the answer then says how it stands.
        _ = tokio::time::timeout(CONCLUDED_MAX, over) => {}
        () = core.ended() => {}
    }
}

impl FleetService {
    /// Whoever calls, as one who reads.
    fn reader<T>(&self, request: &Request<T>) -> Reader {
        self.core.reads.reader(request.extensions().get())
    }

    async fn find(&self, reader: &Reader, lane: Lane, name: &str) -> Result<AgentId, Status> {
        match self.core.read(|fleet| fleet.registry().find(name)) {
            Some(id) => Ok(id),
            None => Err(unknown(&self.core, reader, lane, name).await),
        }
    }
}

/// A command, unfinished or not.
async fn record(core: &Arc<Core>, reader: &Reader, lane: Lane, id: &str) -> Result<Record, Status> {
    let durable = core.read(|fleet| {
        let unfinished = fleet.dispatch().unfinished(id).filter(|(_, committed)| *committed);
        unfinished.map(|(record, _)| record.clone())
    });
    if let Some(record) = durable {
        return Ok(record);
    }
    stored(core, reader, lane, id).await?.ok_or_else(|| no_command(id))
}

/// The one id that begins so.
async fn in_full(core: &Arc<Core>, reader: &Reader, prefix: &str) -> Result<String, Status> {
    let key = prefix.to_owned();
    let find = move |core: &Core| core.store.ids_beginning(&key, CANDIDATES_MAX + 1);
    let found = core.reading(reader, Lane::Lookup, find).await;
    let mut ids = found.map_err(|error| unreadable(&error))?;
    match ids.len() {
        0 => Err(no_command(prefix)),
        1 => Ok(ids.remove(0)),
        count => {
            ids.truncate(CANDIDATES_MAX);
            let more = if count > CANDIDATES_MAX { ", …" } else { "" };
            let ids = ids.join(", ");
            Err(Status::invalid_argument(format!("several commands begin with {prefix}: {ids}{more}; give more of it")))
        }
    }
}

async fn stored(core: &Arc<Core>, reader: &Reader, lane: Lane, id: &str) -> Result<Option<Record>, Status> {
    let key = id.to_owned();
    core.reading(reader, lane, move |core| core.store.command(&key)).await.map_err(|error| unreadable(&error))
}

fn row(core: &Core, record: &Record, eyes: Eyes) -> CommandRow {
    let hub = if record.state == CommandState::Finished { None } else { core.hub(&record.id) };
    let received = hub.as_ref().map_or(0, |hub| *hub.received.borrow());
    // When it started is not written before its end.
    let started = |fleet: &fleet::Fleet<_>| fleet.dispatch().unfinished(&record.id).map(|(now, _)| now.started_unix_ms);
    let started = if record.started_unix_ms == 0 { core.read(started) } else { None };
    let row = rows::command(record, received, eyes);
    let row = CommandRow {
        output_stalls: hub.map_or_else(String::new, |hub| hub.disk_failed()),
        started_unix_ms: started.unwrap_or(row.started_unix_ms),
        ..row
    };
    waiting(core, record, row)
}

/// The row of a command that waits for its agent says since when, and why.
fn waiting(core: &Core, record: &Record, row: CommandRow) -> CommandRow {
    if record.state != CommandState::Queued || record.outcome.is_some() {
        return row;
    }
    let view = core.read(|fleet| fleet.registry().view(record.agent_id));
    let away = view.filter(|view| view.record.status != fleet::Status::Active);
    CommandRow { agent_away: away.map(|view| absence(&view.record)).unwrap_or_default(), ..row }
}

fn no_command(id: &str) -> Status {
    let id_is = if looks_like_an_id(id) {
        String::new()
    } else {
        format!(" an id is like 018bcfe56800-0000000000000007, and its first {PREFIX_MIN} characters or more do;")
    };
    Status::not_found(format!("no command {id:?}:{id_is} `sloth-runner command list` shows all"))
}

/// Long enough, and as `agent run` makes them; who gave one needs no lesson.
fn looks_like_an_id(id: &str) -> bool {
    id.len() >= PREFIX_MIN && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

fn unreadable(error: &str) -> Status {
    Status::internal(format!("the master's database cannot be read: {error}"))
}

/// Since when an agent is away, and why.
fn absence(record: &fleet::AgentRecord) -> String {
    let since = Utc(Duration::from_millis(record.since_unix_ms));
    let detail = if record.detail.is_empty() { String::new() } else { format!(": {}", record.detail) };
    format!("agent {} is {} since {since} ({}{detail})", record.name, record.status.word(), record.reason)
}
