//! Whose handshake is next: so many at once, so many that wait, and no address takes all of them.

use super::{Acceptor, Connection, HANDSHAKE_TIMEOUT, Peer, Wire, peer_address};
use crate::{
    clock,
    listen::{
        self, Incoming, Open, Why,
        crowd::{Crowd, Room},
        places::Source,
    },
};
use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::{Sleep, timeout},
};
use tokio_stream::Stream;

/// Handshakes under way at once; others wait their turn. Each holds some 40 KiB before it is known who comes.
pub const HANDSHAKES_MAX: usize = 1_024;

/// … of one address: an eighth, so that one that says nothing leaves the others theirs. Where all of a fleet comes from
/// one address, so many are more than the processors can do at once.
pub const HANDSHAKES_EACH: usize = 128;

/// Connections that wait for their turn, or are in their handshake. With more, further ones wait to be accepted, or take
/// the place of one of an address that has far more. Sixteen times as many as one address can have at the defaults; one
/// that waits takes some 2 KiB.
const PENDING_MAX: usize = 16_384;

/// The connections of a listener, after their handshakes where there is TLS. Never ends, and never yields an error.
pub struct Secured {
    incoming: Incoming,
    acceptor: Option<Arc<Acceptor>>,
    /// Under way, or waiting for their turn.
    handshakes: JoinSet<Option<Connection>>,
    /// … by their address. Who is told gives up.
    pending: Crowd<oneshot::Sender<()>>,
    /// [`PENDING_MAX`], or half of what may be open where that is less.
    pending_max: usize,
    /// For whom there is no room yet.
    newcomer: Option<Newcomer>,
    all: Arc<Semaphore>,
    busy: Crowd<Ask>,
    each: HashMap<Source, Weak<Semaphore>>,
    unknown_timeout: Duration,
}

struct Newcomer {
    stream: listen::Connection,
    /// Somebody has given up for it: that will be room.
    is_promised: bool,
    again: Option<Pin<Box<Sleep>>>,
}

/// Asks somebody in his handshake to hand his place on.
type Ask = oneshot::Sender<oneshot::Sender<OwnedSemaphorePermit>>;

/// What a connection needs for its handshake.
pub(super) struct Turn {
    source: Source,
    each: Arc<Semaphore>,
    all: Arc<Semaphore>,
    busy: Crowd<Ask>,
    pub(super) open: Open,
    pub(super) unknown_timeout: Duration,
}

impl Turn {
    /// One of [`HANDSHAKES_MAX`]. Cancel safe. None: the master ends.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = self.all.clone().try_acquire_owned() {
                return Some(place);
            }
            let free = self.all.clone().acquire_owned();
            match self.busy.make_room(self.source) {
                Room::Wait => return free.await.ok(),
                Room::After(wait) => {
                    if let Ok(place) = timeout(wait, free).await {
                        return place.ok();
                    }
                }
                Room::Of(ask) => {
                    let (give, given) = oneshot::channel();
                    // If its handshake has just ended, its place is free by itself.
                    if ask.send(give).is_ok()
                        && let Ok(place) = given.await
                    {
                        return Some(place);
                    }
                }
            }
        }
    }
}

impl Secured {
    /// Without an acceptor: in the clear. Whoever shows nothing within `unknown_timeout` is closed.
    pub fn new(incoming: Incoming, acceptor: Option<Arc<Acceptor>>, unknown_timeout: Duration) -> Self {
        let pending_max = PENDING_MAX.min(incoming.open_max() / 2).max(1);
        Self {
            incoming,
            pending_max,
            acceptor,
            handshakes: JoinSet::new(),
            pending: Crowd::default(),
            newcomer: None,
            all: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            busy: Crowd::default(),
            each: HashMap::new(),
            unknown_timeout,
        }
    }

    fn turn(&mut self, source: Source) -> Turn {
        // Of those who wait or are in their handshake there are no more than PENDING_MAX.
        if self.each.len() >= 2 * PENDING_MAX {
            self.each.retain(|_, each| each.strong_count() > 0);
        }
        let each = self.each.get(&source).and_then(Weak::upgrade).unwrap_or_else(|| {
            let each = Arc::new(Semaphore::new(HANDSHAKES_EACH));
            self.each.insert(source, Arc::downgrade(&each));
            each
        });
        let (all, busy, open) = (self.all.clone(), self.busy.clone(), self.incoming.open());
        Turn { source, each, all, busy, open, unknown_timeout: self.unknown_timeout }
    }

    fn begin(&mut self, acceptor: Arc<Acceptor>, stream: listen::Connection) {
        let source = stream.shown().source();
        let turn = self.turn(source);
        let (tell, told) = oneshot::channel();
        let place = self.pending.enter(source, tell);
        self.handshakes.spawn(async move {
            let _place = place;
            let open = turn.open.clone();
            select! {
                connection = acceptor.accept_in_turn(turn, stream) => connection,
                Ok(()) = told => {
                    open.add_closed(Why::Crowded);
                    None
                }
            }
        });
    }

    /// Ready when the newcomer, if there is one, has room.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Option<listen::Connection>> {
        while self.handshakes.len() >= self.pending_max {
            let Some(newcomer) = &mut self.newcomer else { return Poll::Ready(None) };
            // Whoever ends wakes this task, too.
            if newcomer.is_promised {
                return Poll::Pending;
            }
            if let Some(again) = &mut newcomer.again {
                ready!(again.as_mut().poll(context));
                newcomer.again = None;
            }
            match self.pending.make_room(newcomer.stream.shown().source()) {
                Room::Wait => return Poll::Pending,
                Room::After(wait) => newcomer.again = Some(Box::pin(clock::sleep(wait))),
                Room::Of(tell) => newcomer.is_promised = tell.send(()).is_ok(),
            }
        }
        Poll::Ready(self.newcomer.take().map(|newcomer| newcomer.stream))
    }
}

impl Acceptor {
    /// When it is its turn. What waits is small: the rest is made with the handshake.
    async fn accept_in_turn(self: Arc<Self>, turn: Turn, stream: listen::Connection) -> Option<Connection> {
        let waiting = timeout(HANDSHAKE_TIMEOUT, async {
            // Who says nothing is given no place that others wait for.
            stream.readable().await.ok()?;
            let each = turn.each.acquire().await.ok()?;
            Some((each, turn.place().await?))
        });
        let Ok(Some((_each, place))) = waiting.await else {
            turn.open.add_closed(Why::HandshakeTimeout);
            return None;
        };
        let _counted = turn.open.handshake();
        let (ask, asked) = oneshot::channel();
        let _busy = turn.busy.enter(turn.source, ask);
        select! {
            connection = Box::pin(self.accept(stream, &turn)) => connection,
            Ok(successor) = asked => {
                turn.open.add_closed(Why::Crowded);
                // If that one is gone, the place is free.
                let _ = successor.send(place);
                None
            }
        }
    }
}

impl Stream for Secured {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.handshakes.poll_join_next(context) {
                Poll::Ready(Some(Ok(Some(connection)))) => return Poll::Ready(Some(Ok(connection))),
                Poll::Ready(Some(_)) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            if let Some(acceptor) = this.acceptor.clone()
                && let Some(stream) = ready!(this.poll_room(context))
            {
                this.begin(acceptor, stream);
                continue;
            }
            let Some(Ok(stream)) = ready!(Pin::new(&mut this.incoming).poll_next(context)) else {
                return Poll::Ready(None);
            };
            if this.acceptor.is_some() {
                this.newcomer = Some(Newcomer { stream, is_promised: false, again: None });
                continue;
            }
            let (address, shown) = (peer_address(&stream), stream.shown());
            let peer = Peer { address, shown, identity: None, exported: None };
            return Poll::Ready(Some(Ok(Connection::new(peer, Wire::Plain(stream), this.unknown_timeout))));
        }
    }
}

#[cfg(test)]
mod tests;
