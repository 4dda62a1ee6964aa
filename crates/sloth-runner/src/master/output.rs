//! `SendOutput`: the output of one command arrives, its standard input leaves.

use super::{
    core::Core,
    hub::Hub,
    orphans,
    ports::{OutputLog, Piece},
    reads::Lane,
};
use crate::access::Caller;
use fleet::{AgentId, SessionId};
use proto::{OutputAck, OutputMessage};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tonic::{Request, Status, Streaming};

/// While output arrives it is made durable this often, or after this many bytes; and at once at its end.
const SYNC_EVERY: Duration = Duration::from_millis(200);
const SYNC_BYTES: u64 = 1024 * 1024;

/// Acknowledgements on their way to an agent that does not read them.
pub const ACKS_MAX: usize = 16;

/// Checks a call and starts to serve it.
///
/// # Errors
/// The metadata is missing or wrong, the session is not the live one, or the disk fails.
pub async fn receive(
    core: &Arc<Core>,
    request: Request<Streaming<OutputMessage>>,
) -> Result<mpsc::Receiver<Result<OutputAck, Status>>, Status> {
    let text = |key: &str| request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let agent = fleet::id_from_hex(text("sloth-agent-id"));
    let epoch = text("sloth-epoch").parse().ok();
    let (Some(agent), Some(epoch)) = (agent, epoch) else {
        return Err(Status::invalid_argument("sloth-agent-id must be 32 hex digits, and sloth-epoch a number"));
    };
    let other = |caller: &Caller| caller.agent.is_some_and(|known| known.id != agent);
    if request.extensions().get().is_some_and(other) {
        return Err(Status::permission_denied("sloth-agent-id is not the one of the certificate"));
    }
    let session = SessionId { agent, epoch };
    let id = text("sloth-command-id").to_owned();
    if !core.read(|fleet| fleet.registry().is_live(session)) {
        return Err(stale());
    }
    let (sender, receiver) = mpsc::channel(ACKS_MAX);
    let Some((hub, owner)) = core.hub_and_owner(&id) else {
        if core.read(|fleet| fleet.dispatch().is_left_out(agent, &id)) {
            // Its agent keeps it, and brings it with another session. An error would have it come again and again.
            let inbound = request.into_inner();
            tokio::spawn(async move {
                sender.closed().await;
                drop(inbound);
            });
            return Ok(receiver);
        }
        let caller = request.extensions().get();
        let Some(from) = closed_log(core, caller, agent, &id).await? else {
            return Err(of_another(&id));
        };
        tokio::spawn(discard(request.into_inner(), from, sender));
        return Ok(receiver);
    };
    if owner != agent {
        return Err(of_another(&id));
    }
    let opened = hub.clone();
    let log = core.blocking(move |core| opened.open_log(core.outputs.as_ref()).map_err(|e| e.to_string())).await;
    let log = log.map_err(|error| disk_error(core, &hub, &error))?;
    orphans::watch(core, &hub);
    let upload = Upload {
        core: core.clone(),
        session,
        hub,
        log,
        sender,
        sync: Sync { dirty_since: None, dirty_bytes: 0, running: None },
        stdin: None,
    };
    tokio::spawn(upload.serve(request.into_inner()));
    Ok(receiver)
}

/// Makes what is here of a command durable, and tells. Blocking.
pub fn measure(core: &Arc<Core>, hub: &Hub) {
    match hub.open_log(core.outputs.as_ref()).and_then(|log| log.sync().map(|durable| (durable, log.gaps()))) {
        Ok((durable, gaps)) => {
            core.decide(|fleet, now| fleet.durable(now, &hub.id, durable, gaps));
            hub.durable.send_replace(durable);
        }
        Err(error) => log::error!("the output of command {} cannot be written: {error}", hub.id),
    }
}

fn stale() -> Status {
    Status::failed_precondition("this session is over")
}

/// What the agent is told: it keeps what was not acknowledged as durable, and comes again. An outage is an event once.
fn disk_error(core: &Arc<Core>, hub: &Hub, error: &str) -> Status {
    if hub.set_disk_failed(Some(error.to_owned())).is_some() {
        log::warn!("the output of command {} still cannot be kept: {error}", hub.id);
    } else {
        core.decide(|fleet, now| fleet.output_failed(now, &hub.id, error));
    }
    Status::internal(format!("the master cannot keep the output of {}: {error}", hub.id))
}

fn of_another(id: &str) -> Status {
    Status::permission_denied(format!("command {id} belongs to another agent"))
}

/// Up to where the output of a finished command is here. None: it is another agent's. Of one that is known no more, its
/// state may be here under another id: that is let go, and told nothing of what there is.
async fn closed_log(
    core: &Arc<Core>,
    caller: Option<&Caller>,
    agent: AgentId,
    id: &str,
) -> Result<Option<u64>, Status> {
    let id = id.to_owned();
    let look = move |core: &Core| match core.store.command(&id)? {
        Some(record) if record.agent_id != agent => {
            let is_known = core.read(|fleet| fleet.registry().view(record.agent_id).is_some());
            Ok((!is_known).then_some(0))
        }
        Some(record) if record.output_bytes > 0 => {
            core.outputs.open(&id).map(|log| Some(log.received())).map_err(|error| error.to_string())
        }
        _ => Ok(Some(0)),
    };
    let reader = core.reads.reader(caller);
    core.reading(&reader, Lane::Output, look).await.map_err(Status::internal)
}

/// The record of this command is closed: what still comes is let go, so that its agent can get rid of it.
async fn discard(mut inbound: Streaming<OutputMessage>, from: u64, sender: mpsc::Sender<Result<OutputAck, Status>>) {
    let mut received = from;
    loop {
        let ack = OutputAck { received, durable: received, stdin: None };
        if sender.send(Ok(ack)).await.is_err() {
            return;
        }
        match inbound.message().await {
            Ok(Some(message)) => {
                let bytes = message.gap.saturating_add(message.data.len() as u64);
                received = received.max(message.offset.saturating_add(bytes));
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// One call. Ends with the call, with its session, or when the disk fails.
struct Upload {
    core: Arc<Core>,
    session: SessionId,
    hub: Arc<Hub>,
    log: Arc<dyn OutputLog>,
    sender: mpsc::Sender<Result<OutputAck, Status>>,
    sync: Sync,
    /// How far standard input was sent in this call, and whether its end was; unknown before the first message.
    stdin: Option<(u64, bool)>,
}

struct Sync {
    dirty_since: Option<Instant>,
    dirty_bytes: u64,
    running: Option<JoinHandle<std::io::Result<u64>>>,
}

enum Turn {
    Message(Result<Option<OutputMessage>, Status>),
    Stdin,
    SyncDue,
    Synced(Result<u64, String>),
    SyncedElsewhere,
    Gone,
}

impl Upload {
    async fn serve(mut self, mut inbound: Streaming<OutputMessage>) {
        let mut stdin = self.hub.stdin.subscribe();
        let mut elsewhere = self.hub.durable.subscribe();
        let mut open = true;
        let mut result = self.acknowledge().await;
        while result.is_ok() && (open || self.sync.is_busy()) {
            let (due, waiting) = (self.sync.due(), self.sync.is_waiting());
            let turn = tokio::select! {
                message = inbound.message(), if open => Turn::Message(message),
                durable = synced(&mut self.sync.running) => Turn::Synced(durable),
                () = sleep_until(due), if waiting => Turn::SyncDue,
                Ok(()) = stdin.changed(), if open && self.stdin.is_some() => Turn::Stdin,
                Ok(()) = elsewhere.changed(), if open => Turn::SyncedElsewhere,
                () = self.sender.closed(), if open => Turn::Gone,
            };
            result = match turn {
                Turn::Message(Ok(Some(message))) => self.take(message).await,
                // What arrived is kept, however the call ended.
                Turn::Message(_) | Turn::Gone => {
                    open = false;
                    self.sync_now();
                    Ok(())
                }
                Turn::Stdin => self.send_stdin().await,
                Turn::SyncDue => {
                    self.sync_if_due();
                    Ok(())
                }
                Turn::Synced(durable) => self.synced(durable).await,
                Turn::SyncedElsewhere => self.synced_elsewhere().await,
            };
        }
        if let Err(status) = result {
            let _ = self.sender.send(Err(status)).await; // the agent may be gone
        }
    }

    async fn take(&mut self, message: OutputMessage) -> Result<(), Status> {
        let session = self.session;
        if !self.core.read(|fleet| fleet.registry().is_live(session)) {
            return Err(stale());
        }
        self.hub.stdin.took(message.stdin_received);
        if self.stdin.is_none() {
            self.stdin = Some((message.stdin_received, false));
            self.send_stdin().await?;
        }
        let stream = message.stream();
        let gap = |bytes| Piece::Gap { offset: message.offset, bytes };
        let piece = match (message.gap, message.data.is_empty()) {
            (0, true) => return Ok(()),
            (0, false) if !self.may_keep(&message) => gap(message.data.len() as u64),
            (0, false) => Piece::Data { offset: message.offset, stream, data: message.data },
            (bytes, _) => gap(bytes),
        };
        let before = self.log.received();
        let log = self.log.clone();
        let append = move |_: &Core| match log.append(piece) {
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let appended = self.core.blocking(append).await.map_err(|error| self.disk_error(&error))?;
        // The disk has nothing to do with it.
        let received = appended.ok_or_else(|| {
            let (id, offset) = (&self.hub.id, message.offset);
            Status::out_of_range(format!("the output of {id} is here up to {before}, and this is at {offset}"))
        })?;
        if received > before {
            self.sync.dirty_since.get_or_insert_with(Instant::now);
            self.sync.dirty_bytes += received - before;
            self.hub.received.send_if_modified(|seen| std::mem::replace(seen, received) != received);
            self.sync_if_due();
        }
        self.acknowledge().await
    }

    /// Whether there is room for what of it is new: of commands that were adopted not always.
    fn may_keep(&self, message: &OutputMessage) -> bool {
        let end = message.offset.saturating_add(message.data.len() as u64);
        let new = end.saturating_sub(self.log.received());
        self.core.adoptions.may_keep(self.core.now().monotonic, self.session.agent, &self.hub.id, new)
    }

    async fn acknowledge(&self) -> Result<(), Status> {
        self.send(OutputAck { received: self.log.received(), durable: self.log.durable(), stdin: None }).await
    }

    async fn send_stdin(&mut self) -> Result<(), Status> {
        while let Some((sent, eof_sent)) = self.stdin
            && let Some(chunk) = self.hub.stdin.next(sent, eof_sent)
        {
            self.stdin = Some((sent + chunk.data.len() as u64, chunk.eof));
            let (received, durable) = (self.log.received(), self.log.durable());
            self.send(OutputAck { received, durable, stdin: Some(chunk) }).await?;
        }
        Ok(())
    }

    async fn send(&self, ack: OutputAck) -> Result<(), Status> {
        self.sender.send(Ok(ack)).await.map_err(|_| Status::cancelled("the call is over"))
    }

    fn sync_if_due(&mut self) {
        let complete = self.log.received() >= *self.hub.total.borrow();
        let due = self.sync.dirty_since.is_some_and(|since| since.elapsed() >= SYNC_EVERY);
        if complete || due || self.sync.dirty_bytes >= SYNC_BYTES {
            self.sync_now();
        }
    }

    fn sync_now(&mut self) {
        if self.sync.running.is_none() && self.sync.dirty_since.take().is_some() {
            self.sync.dirty_bytes = 0;
            let log = self.log.clone();
            self.sync.running = Some(tokio::task::spawn_blocking(move || log.sync()));
        }
    }

    async fn synced(&mut self, durable: Result<u64, String>) -> Result<(), Status> {
        self.sync.running = None;
        match durable {
            Ok(durable) => {
                if self.hub.set_disk_failed(None).is_some() {
                    log::info!("the output of command {} is kept again", self.hub.id);
                }
                let gaps = self.log.gaps();
                self.core.decide(|fleet, now| fleet.durable(now, &self.hub.id, durable, gaps));
                let acknowledged = self.acknowledge().await;
                self.sync_if_due();
                acknowledged.or_else(|gone| if self.sync.is_busy() { Ok(()) } else { Err(gone) })
            }
            Err(error) => Err(self.disk_error(&error)),
        }
    }

    async fn synced_elsewhere(&mut self) -> Result<(), Status> {
        if self.log.durable() >= self.log.received() {
            self.sync.dirty_since = None;
            self.sync.dirty_bytes = 0;
        }
        self.acknowledge().await
    }

    fn disk_error(&self, error: &str) -> Status {
        disk_error(&self.core, &self.hub, error)
    }
}

impl Sync {
    fn is_busy(&self) -> bool {
        self.running.is_some() || self.dirty_since.is_some()
    }

    /// Something is to be made durable, a little later.
    fn is_waiting(&self) -> bool {
        self.running.is_none() && self.dirty_since.is_some()
    }

    fn due(&self) -> Instant {
        self.dirty_since.unwrap_or_else(Instant::now) + SYNC_EVERY
    }
}

/// The end of the running sync; never, if there is none.
async fn synced(running: &mut Option<JoinHandle<std::io::Result<u64>>>) -> Result<u64, String> {
    let Some(running) = running else { return std::future::pending().await };
    match running.await {
        Ok(Ok(durable)) => Ok(durable),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
