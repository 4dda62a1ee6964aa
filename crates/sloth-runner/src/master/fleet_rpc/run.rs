//! `Run`: start or attach, follow, feed standard input, cancel.

use super::{REPLIES_MAX, Replies, absence, cancel, follow, stored, unknown, whole};
use crate::access::Caller;
use crate::master::{
    core::{Core, Queueing},
    hub::Hub,
    orphans,
    ports::Record,
    reads::{Lane, Reader},
    rows::Eyes,
    stdin::{Fed, FeedError},
};
use fleet::{AgentId, Refusal, Submit, Submitted, View};
use prost::Message;
use proto::{RunReply, RunRequest, RunStart, StdinChunk, run_reply, run_request::Kind};
use sloth_agent::config::units::ShowDuration;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tonic::{Status, Streaming};

/// A tool that opens the call says what it wants within this.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an agent that is away.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Arguments, environment and the rest of a command: an agent that returns lists all that it holds in one message.
const SPEC_MAX: usize = 128 * 1024;
/// Longest time that a command waits for its agent: a year, in ms.
const EXPIRES_MAX_MS: u64 = 366 * 86_400_000;

/// Starts the command, or attaches to it. Errors of the start are the call's; what comes later is in the stream.
///
/// # Errors
/// The request is wrong, the agent is unknown or away, the id has other content, or the command cannot be recorded.
pub async fn start(
    core: Arc<Core>,
    mut requests: Streaming<RunRequest>,
    caller: Option<Caller>,
) -> Result<mpsc::Receiver<Result<RunReply, Status>>, Status> {
    let start = match timeout(START_TIMEOUT, requests.message()).await {
        Ok(Ok(Some(RunRequest { kind: Some(Kind::Start(start)) }))) => start,
        Ok(Err(status)) => return Err(status),
        Ok(Ok(_)) => return Err(Status::invalid_argument("the first request must be start")),
        Err(_) => return Err(Status::deadline_exceeded("the first request did not come within 10 s")),
    };
    let spec = start.spec.clone().unwrap_or_default();
    if spec.argv.is_empty() == spec.shell.is_empty() {
        return Err(Status::invalid_argument("a command is either argv or shell"));
    }
    let bytes = spec.encoded_len();
    if bytes > SPEC_MAX {
        return Err(Status::invalid_argument(format!(
            "arguments and environment are {bytes} bytes, more than {SPEC_MAX}: send the rest as standard input"
        )));
    }
    if start.queue && spec.stdin {
        return Err(Status::invalid_argument("a command that waits for its agent can have no standard input"));
    }
    let reader = core.reads.reader(caller.as_ref());
    let (target, fresh) = submit(&core, &reader, &start).await?;
    if let follow::Target::Unfinished(hub) = &target {
        // Nothing is waited for in between: who is gone from here on has given the command.
        whole(record_run(core.clone(), hub.clone(), caller.clone(), fresh, in_words(&spec))).await?;
    }
    let eyes = Eyes::of(caller.as_ref());
    let (sender, receiver) = mpsc::channel(REPLIES_MAX);
    if let follow::Target::Unfinished(hub) = &target {
        let feeding = spec.stdin.then(|| Feeding::new(core.clone(), hub.clone(), caller.clone()));
        tokio::spawn(listen(core.clone(), hub.clone(), feeding, caller, requests, sender.clone()));
    }
    tokio::spawn(async move { follow::send(core, reader, target, start.from_offset, true, eyes, sender).await });
    Ok(receiver)
}

/// Waits until the command is durable, and records who gave it.
async fn record_run(
    core: Arc<Core>,
    hub: Arc<Hub>,
    caller: Option<Caller>,
    fresh: bool,
    words: String,
) -> Result<(), Status> {
    let (name, agent) = recorded(&hub).await?;
    let what = format!("command {} {}: {words}", hub.id, if fresh { "given" } else { "attached to" });
    core.audit(caller.as_ref(), "audit.run", (&name, agent), &what);
    Ok(())
}

/// The program alone: its arguments may hold what is nobody else's business.
fn in_words(spec: &proto::CommandSpec) -> String {
    match spec.argv.first() {
        Some(program) => String::from_utf8_lossy(program).chars().take(200).collect(),
        None => "a line for the shell".to_owned(),
    }
}

/// The command, and whether it is a new one.
async fn submit(core: &Arc<Core>, reader: &Reader, start: &RunStart) -> Result<(follow::Target, bool), Status> {
    let deadline = Instant::now() + Duration::from_millis(start.wait_ms).min(WAIT_MAX);
    let queue = start.queue.then(|| Queueing {
        expires: (start.expires_ms > 0).then(|| Duration::from_millis(start.expires_ms.min(EXPIRES_MAX_MS))),
    });
    let mut looked_again = false;
    loop {
        let known = core.read(|fleet| fleet.dispatch().unfinished(&start.id).is_some());
        let stored = if known { None } else { stored(core, reader, Lane::Change, &start.id).await? };
        let earlier = stored.clone();
        let submit =
            Submit { id: start.id.clone(), agent: start.agent.clone(), spec: start.spec.clone().unwrap_or_default() };
        // Whom to wait for is known before the answer is, so that no arrival in between is missed.
        let arrival = core.read(|fleet| fleet.registry().find(&start.agent)).map(|agent| core.arrival(agent));
        let mut arrived = arrival.as_ref().map(|arrival| Box::pin(arrival.notified()));
        if let Some(arrived) = &mut arrived {
            arrived.as_mut().enable();
        }
        let refusal = match core.submit(submit, stored, queue) {
            Ok((submitted, Some(hub))) => {
                return Ok((follow::Target::Unfinished(hub), submitted == Submitted::New));
            }
            Ok((Submitted::Attached(Some(record)), None)) => {
                return Ok((follow::Target::Finished(Box::new(record)), false));
            }
            Ok((_, None)) => Refusal::LookAgain,
            Err(refusal) => refusal,
        };
        match refusal {
            // What finished a moment ago is in the store, unless that has forgotten it already.
            Refusal::LookAgain if looked_again => {
                return Err(Status::not_found(format!("command {} has finished, and is forgotten", start.id)));
            }
            Refusal::LookAgain => looked_again = true,
            Refusal::InvalidId => {
                return Err(Status::invalid_argument(format!(
                    "the command id {:?} is not 1 to {} of letters, digits, '.', '_' and '-', the first not a '.'",
                    start.id,
                    link::COMMAND_ID_MAX
                )));
            }
            Refusal::OtherContent => {
                return Err(core.read(|fleet| {
                    let unfinished = fleet.dispatch().unfinished(&start.id).map(|(record, _)| record);
                    let agent = fleet.registry().find(&start.agent);
                    other_content(start, unfinished.or(earlier.as_ref()), agent)
                }));
            }
            Refusal::UnknownAgent => return Err(unknown(core, reader, Lane::Change, &start.agent).await),
            Refusal::QueueFull { agent, waiting } => {
                return Err(Status::resource_exhausted(format!(
                    "{waiting} commands wait for agent {agent} already, and no more are taken: cancel some of them \
                     (`sloth-runner command list --agent {agent} --state queued`), or wait for its return"
                )));
            }
            Refusal::Away { record } => {
                let refused = || away(&record, start.wait_ms);
                let Some(arrived) = arrived else { return Err(refused()) };
                tokio::select! {
                    arrived = timeout_at(deadline, arrived) => arrived.map_err(|_| refused())?,
                    () = core.ended() => return Err(Status::unavailable("the master is shutting down")),
                }
            }
        }
    }
}

/// What differs, and what to do.
fn other_content(start: &RunStart, earlier: Option<&Record>, agent: Option<fleet::AgentId>) -> Status {
    let id = &start.id;
    let differs = earlier.map_or_else(String::new, |earlier| {
        let differs = differences(start, earlier, agent).join(", ");
        format!(" (it differs in: {differs})")
    });
    Status::already_exists(format!(
        "command {id} exists with other content{differs}: `sloth-runner command get {id}` shows it; another --id runs a \
         new one"
    ))
}

fn differences(start: &RunStart, earlier: &Record, agent: Option<fleet::AgentId>) -> Vec<String> {
    let (old, new) = (&earlier.spec, start.spec.clone().unwrap_or_default());
    let elsewhere = earlier.agent != start.agent && Some(earlier.agent_id) != agent;
    let stdin = |has: bool| if has { "has one" } else { "has none" };
    [
        (elsewhere, format!("agent, there {}", earlier.agent)),
        (old.shell.is_empty() != new.shell.is_empty(), "argument list or --shell".to_owned()),
        (old.argv != new.argv && old.shell.is_empty() && new.shell.is_empty(), "argument list".to_owned()),
        (old.shell != new.shell && !old.shell.is_empty() && !new.shell.is_empty(), "shell line".to_owned()),
        (old.env != new.env, "environment".to_owned()),
        (old.dir != new.dir, "directory".to_owned()),
        (old.user != new.user, "user".to_owned()),
        (old.timeout_ms != new.timeout_ms, "timeout".to_owned()),
        (old.stdin != new.stdin, format!("standard input, it {} (see -n)", stdin(old.stdin))),
    ]
    .into_iter()
    .filter_map(|(differs, what)| differs.then_some(what))
    .collect()
}

/// Since when and why, and what to do.
fn away(record: &fleet::AgentRecord, waited_ms: u64) -> Status {
    let advice = match waited_ms {
        0 => "--wait 1m waits for its return, --queue has it run then".to_owned(),
        ms => format!("it did not return within {}", ShowDuration(Duration::from_millis(ms))),
    };
    Status::failed_precondition(format!("{}; {advice}", absence(record)))
}

/// Waits until the command is durable: the agent that it is for.
async fn recorded(hub: &Hub) -> Result<(String, AgentId), Status> {
    let mut view = hub.view.subscribe();
    let seen = view.wait_for(Option::is_some).await.map_err(|_| Status::unavailable("the master is shutting down"))?;
    match seen.as_ref().expect("it was waited for") {
        View::Failed(error) => Err(Status::internal(error.clone())),
        View::Record(record) => Ok((record.agent.clone(), record.agent_id)),
    }
}

/// Takes standard input and cancellations until the tool has no more to say, or the command is over.
async fn listen(
    core: Arc<Core>,
    hub: Arc<Hub>,
    feeding: Option<Feeding>,
    caller: Option<Caller>,
    mut requests: Streaming<RunRequest>,
    replies: Replies<RunReply>,
) {
    let with_stdin = feeding.is_some();
    let mut stdin = hub.stdin.subscribe();
    let mut view = hub.view.subscribe();
    let mut recorded = hub.view.subscribe();
    let mut waiting: Option<StdinChunk> = None;
    let mut told = None;
    loop {
        if let Some(chunk) = waiting.take() {
            let end_recorded =
                matches!(&*recorded.borrow_and_update(), Some(View::Record(record)) if record.stdin_end.is_some());
            match hub.stdin.feed(&chunk, end_recorded) {
                Ok(Fed::Taken) => {}
                Ok(Fed::Ends(end)) => {
                    core.decide(|fleet, _| fleet.stdin_ended(&hub.id, end));
                    waiting = Some(chunk);
                }
                Ok(Fed::Full) => waiting = Some(chunk),
                Err(error) => {
                    let _ = follow::reply(&replies, Err(feed_error(error))).await; // the tool may be gone
                    return;
                }
            }
        }
        let taken = hub.stdin.taken().filter(|_| with_stdin);
        if taken != told
            && let Some(taken) = taken
        {
            told = Some(taken);
            if follow::reply(&replies, Ok(run_reply::Kind::StdinReceived(taken))).await.is_err() {
                return;
            }
        }
        let over = |view: &Option<View<_>>| matches!(view, Some(View::Record(record)) if record.outcome.is_some());
        tokio::select! {
            request = requests.message(), if waiting.is_none() => match request {
                Ok(Some(RunRequest { kind: Some(Kind::Stdin(chunk)) })) if with_stdin => waiting = Some(chunk),
                Ok(Some(RunRequest { kind: Some(Kind::Cancel(true)) })) => {
                    cancel(&core, caller.as_ref(), &hub.id, "cancelled");
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            },
            Ok(()) = stdin.changed(), if with_stdin => {}
            Ok(()) = recorded.changed(), if waiting.is_some() => {}
            _ = view.wait_for(over) => return,
            () = core.ended() => return,
            () = replies.closed() => return,
        }
    }
}

fn feed_error(error: FeedError) -> Status {
    Status::invalid_argument(match error {
        FeedError::Hole { expected } => format!("standard input goes on at {expected}"),
        FeedError::AfterEof => "standard input has ended already".to_owned(),
    })
}

/// A tool that feeds a command. Dropped with the call.
struct Feeding {
    core: Arc<Core>,
    hub: Arc<Hub>,
    caller: Option<Caller>,
}

impl Feeding {
    fn new(core: Arc<Core>, hub: Arc<Hub>, caller: Option<Caller>) -> Self {
        hub.stdin.attach();
        Self { core, hub, caller }
    }
}

impl Drop for Feeding {
    #[expect(clippy::disallowed_methods, reason = "a task of its own waits, and nobody for it")]
    fn drop(&mut self) {
        let Some(left) = self.hub.stdin.detach() else { return };
        let (core, hub, caller) = (self.core.clone(), self.hub.clone(), self.caller.take());
        if *core.ending.borrow() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(core.stdin_grace).await;
            if hub.stdin.abandoned(left) && !*core.ending.borrow() && !orphans::is_over(&core, &hub) {
                log::info!("command {}: its standard input was abandoned, so it is cancelled", hub.id);
                cancel(&core, caller.as_ref(), &hub.id, "cancelled, its standard input abandoned");
            }
        });
    }
}
