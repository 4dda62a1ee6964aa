//! Past and coming events.

use super::{Replies, unreadable};
use crate::master::{core::Core, rows};
use fleet::{AgentId, Event};
use proto::{EventsReply, EventsRequest};
use std::sync::Arc;

/// Events in one message.
const ROWS: usize = 200;
/// Past events that one request is given.
const PAST_MAX: usize = 100_000;

/// Sends what is asked for; ends when that is done, or when nobody reads it or the master goes.
pub async fn send(core: Arc<Core>, request: EventsRequest, agent: Option<AgentId>, replies: Replies<EventsReply>) {
    let mut newest = core.events.subscribe();
    let mut after = request.after_seq;
    let mut limit = match request.last {
        0 => PAST_MAX,
        last => (last as usize).min(PAST_MAX),
    };
    loop {
        let upto = *newest.borrow_and_update();
        let from = after;
        let events = match core.blocking(move |core| core.store.events(agent, from, limit)).await {
            Ok(events) => events,
            Err(error) => {
                let _ = replies.send(Err(unreadable(&error))).await; // the reader may be gone
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
