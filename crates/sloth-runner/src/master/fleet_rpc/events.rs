//! Past and coming events.

use super::{Replies, no_agent, unreadable};
use crate::master::{core::Core, rows};
use fleet::{AgentId, Event};
use proto::{EventsReply, EventsRequest};
use std::sync::Arc;
use tonic::Status;

/// Events in one message.
const ROWS: usize = 200;
/// Past events that one request is given.
const PAST_MAX: usize = 100_000;

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
    pub async fn find(core: &Arc<Core>, name: &str) -> Result<Self, Status> {
        if name.is_empty() {
            return Ok(Self::Everybodys);
        }
        let found = core.read(|fleet| fleet.registry().find(name));
        if let Some(id) = fleet::id_from_hex(name).filter(|id| found.is_none_or(|found| found == *id)) {
            return Ok(Self::Of(id));
        }
        let whose = Self::Named(found, name.to_owned());
        if found.is_none() && whose.read(core, 0, 1).await?.is_empty() {
            return Err(no_agent(core, name));
        }
        Ok(whose)
    }

    async fn read(&self, core: &Arc<Core>, after: u64, limit: usize) -> Result<Vec<Event>, Status> {
        let (agent, name) = match self {
            Self::Everybodys => (None, None),
            Self::Named(agent, name) => (*agent, Some(name.clone())),
            Self::Of(agent) => (Some(*agent), None),
        };
        let read = move |core: &Core| core.store.events(agent, name.as_deref(), after, limit);
        core.blocking(read).await.map_err(|error| unreadable(&error))
    }
}

/// Sends what is asked for; ends when that is done, or when nobody reads it or the master goes.
pub async fn send(core: Arc<Core>, request: EventsRequest, whose: Whose, replies: Replies<EventsReply>) {
    let mut newest = core.events.subscribe();
    let mut after = request.after_seq;
    let mut limit = match request.last {
        0 => PAST_MAX,
        last => (last as usize).min(PAST_MAX),
    };
    loop {
        let upto = *newest.borrow_and_update();
        let events = match whose.read(&core, after, limit).await {
            Ok(events) => events,
            Err(status) => {
                let _ = replies.send(Err(status)).await; // the reader may be gone
                return;
            }
        };
        after = events.last().map_or(upto, |event| event.seq).max(after).max(upto);
        if !send_rows(events, &replies).await || !request.follow {
            return;
        }
        limit = PAST_MAX;
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = core.ended() => return,
            () = replies.closed() => return,
        }
    }
}

async fn send_rows(events: Vec<Event>, replies: &Replies<EventsReply>) -> bool {
    let mut events = events.into_iter().map(rows::event).peekable();
    while events.peek().is_some() {
        let reply = EventsReply { events: events.by_ref().take(ROWS).collect() };
        if replies.send(Ok(reply)).await.is_err() {
            return false;
        }
    }
    true
}
