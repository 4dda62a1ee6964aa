//! The way down to each session: a bounded queue that the session's own stream empties.

use fleet::{AgentId, ConnId, SessionId};
use proto::{MasterMessage, RetryLater, master_message::Kind};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// An agent that leaves so many messages unread is closed.
pub const UNREAD_MAX: usize = 1_000;

/// What one connection is still to be told.
#[derive(Default)]
pub struct Outbox {
    /// Set once the connection is registered.
    session: OnceLock<SessionId>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<MasterMessage>,
    /// Nothing is added any more; the stream ends after what is queued.
    closed: bool,
    waker: Option<Waker>,
}

impl Outbox {
    pub fn session(&self) -> Option<SessionId> {
        self.session.get().copied()
    }

    /// Queues a message, unless the connection is closed.
    pub fn push(&self, kind: Kind) {
        let waker = {
            let mut queue = self.queue.lock().expect("no holder of this lock panics");
            if queue.closed {
                return;
            }
            if queue.messages.len() >= UNREAD_MAX {
                queue.messages = VecDeque::new();
                queue.closed = true;
            } else {
                queue.messages.push_back(MasterMessage { kind: Some(kind) });
            }
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Its last message: come back after a while. No failure of the agent's.
    pub fn retry_later(&self, after: Duration, reason: String) {
        let retry_after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.push(Kind::RetryLater(RetryLater { retry_after_ms, reason }));
        self.close();
    }

    /// Ends the stream after what is queued.
    pub fn close(&self) {
        let waker = {
            let mut queue = self.queue.lock().expect("no holder of this lock panics");
            queue.closed = true;
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next message; `None` once closed and empty.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<MasterMessage>> {
        let mut queue = self.queue.lock().expect("no holder of this lock panics");
        if let Some(message) = queue.messages.pop_front() {
            if queue.messages.is_empty() {
                queue.messages.shrink_to(4);
            }
            return Poll::Ready(Some(message));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        if queue.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            queue.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// All connections.
#[derive(Default)]
pub struct Wires {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    connections: HashMap<ConnId, Arc<Outbox>>,
    sessions: HashMap<AgentId, (SessionId, Arc<Outbox>)>,
}

impl Wires {
    pub fn open(&self) -> (ConnId, Arc<Outbox>) {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        table.last += 1;
        let conn = ConnId(table.last);
        let outbox = Arc::new(Outbox::default());
        table.connections.insert(conn, outbox.clone());
        (conn, outbox)
    }

    /// The connection is a session from now on. `None` if it is gone.
    pub fn register(&self, conn: ConnId, session: SessionId) -> Option<Arc<Outbox>> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        let outbox = table.connections.get(&conn)?.clone();
        outbox.session.set(session).ok()?;
        table.sessions.insert(session.agent, (session, outbox.clone()));
        Some(outbox)
    }

    pub fn connection(&self, conn: ConnId) -> Option<Arc<Outbox>> {
        self.table.lock().expect("no holder of this lock panics").connections.get(&conn).cloned()
    }

    /// Calls of `Connect`, registered or not.
    pub fn connections(&self) -> usize {
        self.table.lock().expect("no holder of this lock panics").connections.len()
    }

    pub fn session(&self, session: SessionId) -> Option<Arc<Outbox>> {
        let table = self.table.lock().expect("no holder of this lock panics");
        table.sessions.get(&session.agent).filter(|(current, _)| *current == session).map(|(_, outbox)| outbox.clone())
    }

    /// The session's place is free; its connection is told what is still queued.
    pub fn end(&self, session: SessionId) -> Option<Arc<Outbox>> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        if table.sessions.get(&session.agent)?.0 != session {
            return None;
        }
        table.sessions.remove(&session.agent).map(|(_, outbox)| outbox)
    }

    /// The connection is gone.
    pub fn drop_connection(&self, conn: ConnId) {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        let Some(outbox) = table.connections.remove(&conn) else { return };
        if let Some(session) = outbox.session()
            && table.sessions.get(&session.agent).is_some_and(|(current, _)| *current == session)
        {
            table.sessions.remove(&session.agent);
        }
    }

    pub fn all(&self) -> Vec<Arc<Outbox>> {
        self.table.lock().expect("no holder of this lock panics").connections.values().cloned().collect()
    }
}
