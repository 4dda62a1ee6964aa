//! The way down to each session: a bounded queue that the session's own stream empties.

use crate::listen::{Shown, Why};
use fleet::{AgentId, ConnId, SessionId};
use proto::{MasterMessage, RetryLater, master_message::Kind};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, Weak, atomic::AtomicU64},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::runtime::Handle;

/// An agent that leaves so many messages unread is closed.
pub const UNREAD_MAX: usize = 1_000;

/// A connection that is no session after this is closed.
pub const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that is still there so long after its session has ended is cut: who does not read what he is told does
/// not read that it is over, either.
pub const LINGER: Duration = Duration::from_secs(5);

/// What one connection is still to be told.
#[derive(Default)]
pub struct Outbox {
    /// Set once the connection is registered.
    session: OnceLock<SessionId>,
    /// When its agent is to ask for the next certificate; 0: never.
    pub renew_in_ms: AtomicU64,
    queue: Mutex<Queue>,
    /// SHA-256 of the certificate that its agent has registered with, if any.
    certificate: OnceLock<[u8; 32]>,
    /// None in tests without a port.
    connection: OnceLock<Weak<Shown>>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<MasterMessage>,
    /// Nothing is added any more; the stream ends after what is queued.
    closed: bool,
    /// The turn of its registration has come.
    let_in: bool,
    waker: Option<Waker>,
}

impl Outbox {
    pub fn session(&self) -> Option<SessionId> {
        self.session.get().copied()
    }

    pub fn certificate(&self) -> Option<&[u8; 32]> {
        self.certificate.get()
    }

    pub fn comes_with(&self, certificate: [u8; 32]) {
        let _ = self.certificate.set(certificate); // a connection has one
    }

    /// What is cut if it lingers.
    pub fn belongs_to(&self, connection: &Arc<Shown>) {
        let _ = self.connection.set(Arc::downgrade(connection)); // a session has one
    }

    /// Its session is over: the connection has its time to be told, and to go.
    fn bound(&self) {
        let (Some(connection), Ok(runtime)) = (self.connection.get().cloned(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            crate::clock::sleep(LINGER).await;
            if let Some(connection) = connection.upgrade() {
                connection.cut(Why::Lingering);
            }
        });
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
                self.bound();
            } else {
                queue.messages.push_back(MasterMessage { kind: Some(kind) });
            }
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Its registration, which was held, may go on.
    pub fn let_in(&self) {
        let waker = {
            let mut queue = self.queue.lock().expect("no holder of this lock panics");
            queue.let_in = true;
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whoever asks is woken if that changes, once [`poll_next`](Self::poll_next) was pending before it asks.
    pub fn is_let_in(&self) -> bool {
        self.queue.lock().expect("no holder of this lock panics").let_in
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
            if !std::mem::replace(&mut queue.closed, true) {
                self.bound();
            }
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
            // Room for a few messages is a thirtieth of what an idle agent costs.
            if queue.messages.is_empty() {
                queue.messages = VecDeque::new();
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
    /// When each connection was opened that may not be registered yet.
    young: VecDeque<(Duration, ConnId)>,
    connections: HashMap<ConnId, Arc<Outbox>>,
    sessions: HashMap<AgentId, (SessionId, Arc<Outbox>)>,
}

impl Wires {
    pub fn open(&self, now: Duration) -> (ConnId, Arc<Outbox>) {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        table.last += 1;
        let conn = ConnId(table.last);
        let outbox = Arc::new(Outbox::default());
        table.connections.insert(conn, outbox.clone());
        table.young.push_back((now, conn));
        (conn, outbox)
    }

    /// Connections that are old enough to be registered, and are not.
    pub fn overdue(&self, now: Duration) -> Vec<Arc<Outbox>> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        let mut overdue = Vec::new();
        while table.young.front().is_some_and(|(opened, _)| *opened + REGISTER_TIMEOUT <= now) {
            let (_, conn) = table.young.pop_front().expect("there is a first one");
            overdue.extend(table.connections.get(&conn).filter(|outbox| outbox.session().is_none()).cloned());
        }
        overdue
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::FinishedAck;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn message(n: usize) -> Kind {
        Kind::FinishedAck(FinishedAck { id: n.to_string() })
    }

    #[test]
    fn messages_leave_in_order_and_the_end_comes_after_them() {
        let (outbox, count) = (Outbox::default(), Arc::new(Count::default()));
        let waker = count.clone().into();
        let mut context = Context::from_waker(&waker);
        assert_eq!(outbox.poll_next(&mut context), Poll::Pending);
        outbox.push(message(1));
        outbox.push(message(2));
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "woken once");
        outbox.close();
        outbox.push(message(3));
        for n in 1..=2 {
            let expected = MasterMessage { kind: Some(message(n)) };
            assert_eq!(outbox.poll_next(&mut context), Poll::Ready(Some(expected)));
        }
        assert_eq!(outbox.poll_next(&mut context), Poll::Ready(None));
    }

    #[test]
    fn an_agent_that_reads_nothing_is_closed_and_its_messages_dropped() {
        let outbox = Outbox::default();
        for n in 0..UNREAD_MAX {
            outbox.push(message(n));
        }
        assert_eq!(outbox.queue.lock().unwrap().messages.len(), UNREAD_MAX);
        outbox.push(message(UNREAD_MAX));
        assert_eq!(outbox.poll_next(&mut Context::from_waker(Waker::noop())), Poll::Ready(None));
    }

    #[test]
    fn connections_that_never_register_are_overdue_once() {
        let wires = Wires::default();
        let at = Duration::from_secs;
        let (registered, _first) = wires.open(at(0));
        let (_, silent) = wires.open(at(0));
        let (gone, _third) = wires.open(at(0));
        wires.open(at(1));
        wires.register(registered, SessionId { agent: [1; 16], epoch: 1 }).unwrap();
        wires.drop_connection(gone);
        assert!(wires.overdue(at(29)).is_empty());
        let overdue = wires.overdue(at(30));
        assert!(overdue.len() == 1 && Arc::ptr_eq(&overdue[0], &silent));
        assert!(wires.overdue(at(30)).is_empty());
    }

    #[test]
    fn the_end_of_an_old_session_does_not_touch_the_new_one() {
        let wires = Wires::default();
        let (old, _) = wires.open(Duration::ZERO);
        let (new, _) = wires.open(Duration::ZERO);
        let session = |epoch| SessionId { agent: [1; 16], epoch };
        wires.register(old, session(1)).unwrap();
        wires.register(new, session(2)).unwrap();
        assert!(wires.session(session(1)).is_none());
        assert!(wires.end(session(1)).is_none());
        wires.drop_connection(old);
        assert!(wires.session(session(2)).is_some());
        wires.drop_connection(new);
        assert!(wires.session(session(2)).is_none());
    }
}
