//! Past and coming events.

use super::{Replies, no_agent, unreadable};
use crate::master::{
    core::Core,
    reads::{Lane, Reader},
    rows,
};
use fleet::{AgentId, Event};
use proto::{EventsReply, EventsRequest};
use std::sync::Arc;
use tonic::Status;

/// Events in one message, and read at once.
const ROWS: usize = 200;
/// Past events that one request is given.
const PAST_MAX: usize = 100_000;
/// Messages on their way to somebody who does not read them.
pub const QUEUED_MAX: usize = 2;

/// Whose events are asked for.
pub enum Whose {
    Everybodys,
    /// Of the agent that has this name now, of those that had it, and of those that were refused it.
    Named(Option<AgentId>, String),
    /// Of an agent, also of one that is known no more.
    Of(AgentId),
}

impl Whose {
    /// # Errors
    /// No agent has this name, or ever had it.
    pub async fn find(core: &Arc<Core>, reader: &Reader, name: &str) -> Result<Self, Status> {
        if name.is_empty() {
            return Ok(Self::Everybodys);
        }
        let found = core.read(|fleet| fleet.registry().find(name));
        if let Some(id) = fleet::id_from_hex(name).filter(|id| found.is_none_or(|found| found == *id)) {
            return Ok(Self::Of(id));
        }
        let whose = Self::Named(found, name.to_owned());
        if found.is_none() && whose.read(core, reader, 0, 1).await?.is_empty() {
            return Err(no_agent(core, name));
        }
        Ok(whose)
    }

    /// After which one the newest `limit` begin of those after `after`.
    async fn begin(&self, core: &Arc<Core>, reader: &Reader, after: u64, limit: usize) -> Result<u64, Status> {
        let (agent, name) = self.parts();
        let read = move |core: &Core| core.store.events_begin(agent, name.as_deref(), after, limit);
        core.reading(reader, Lane::History, read).await.map_err(|error| unreadable(&error))
    }

    /// The oldest `limit` after that.
    async fn read(&self, core: &Arc<Core>, reader: &Reader, after: u64, limit: usize) -> Result<Vec<Event>, Status> {
        let (agent, name) = self.parts();
        let read = move |core: &Core| core.store.events_from(agent, name.as_deref(), after, limit);
        core.reading(reader, Lane::History, read).await.map_err(|error| unreadable(&error))
    }

    fn parts(&self) -> (Option<AgentId>, Option<String>) {
        match self {
            Self::Everybodys => (None, None),
            Self::Named(agent, name) => (*agent, Some(name.clone())),
            Self::Of(agent) => (Some(*agent), None),
        }
    }
}

/// Sends what is asked for; ends when that is done, or when nobody reads it or the master goes.
pub async fn send(
    core: Arc<Core>,
    reader: Reader,
    request: EventsRequest,
    whose: Whose,
    replies: Replies<EventsReply>,
) {
    let sent = tokio::select! {
        sent = send_all(&core, &reader, request, &whose, &replies) => sent,
        // Who has left is not read for.
        () = replies.closed() => return,
    };
    if let Err(status) = sent {
        let _ = replies.send(Err(status)).await; // the reader may be gone
    }
}

async fn send_all(
    core: &Arc<Core>,
    reader: &Reader,
    request: EventsRequest,
    whose: &Whose,
    replies: &Replies<EventsReply>,
) -> Result<(), Status> {
    let mut newest = core.events.subscribe();
    let past = match request.last {
        0 => PAST_MAX,
        last => (last as usize).min(PAST_MAX),
    };
    let mut after = whose.begin(core, reader, request.after_seq, past).await?;
    let mut left = past;
    loop {
        let upto = *newest.borrow_and_update();
        while left > 0 {
            // Once there is room for it: what is read is in memory until somebody takes it.
            let Ok(room) = replies.reserve().await else { return Ok(()) };
            let limit = left.min(ROWS);
            let events = whose.read(core, reader, after, limit).await?;
            let Some(last) = events.last().map(|event| event.seq) else { break };
            (after, left) = (last, left - events.len());
            let is_last = events.len() < limit;
            room.send(Ok(EventsReply { events: events.into_iter().map(rows::event).collect() }));
            if is_last {
                break;
            }
        }
        if !request.follow {
            return Ok(());
        }
        if left > 0 {
            // What was written until then has been seen.
            after = after.max(upto);
        }
        let is_caught_up = std::mem::replace(&mut left, usize::MAX) > 0;
        if !is_caught_up {
            continue;
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return Ok(()) },
            () = core.ended() => return Ok(()),
        }
    }
}
