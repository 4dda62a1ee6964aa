//! The connections of the HTTP port: so many at a time. Who has not signed in keeps his place only while nobody else
//! needs it, and nobody keeps one who does not read.

use crate::clock::sleep;
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::{AbortHandle, JoinSet},
    time::Sleep,
};

/// Whether somebody who has signed in has asked over this connection.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<AtomicBool>);

impl Known {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of all places those that no connection keeps over which somebody has signed in: one page open often enough must not
/// keep `/healthz`, `/readyz` and `/metrics` from being answered.
const STRANGERS_MIN: usize = 4;

/// The connections that are served. Dropping it ends them.
pub struct Places {
    max: usize,
    tasks: JoinSet<()>,
    /// Oldest first.
    open: VecDeque<(Known, AbortHandle)>,
}

impl Places {
    pub fn new(max: usize) -> Self {
        Self { max, tasks: JoinSet::new(), open: VecDeque::with_capacity(max) }
    }

    /// Waits for a place; where all are taken, the oldest stranger's is one, or the oldest of all where those who have
    /// signed in have so many that few are left for others.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn free(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|(_, task)| !task.is_finished());
        while self.tasks.len() >= self.max {
            let signed_in = self.open.iter().filter(|(known, _)| known.is_set()).count();
            let too_many = signed_in > self.max.saturating_sub(STRANGERS_MIN);
            if let Some(oldest) = self.open.iter().position(|(known, _)| known.is_set() == too_many)
                && let Some((_, task)) = self.open.remove(oldest)
            {
                task.abort();
            }
            self.tasks.join_next().await;
        }
    }

    /// Serves a connection, after [`free`](Self::free).
    pub fn take(&mut self, known: Known, serve: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(serve);
        self.open.push_back((known, task));
    }
}

/// A connection that breaks when its peer takes nothing of what is written to it for so long.
pub struct Reading<S> {
    stream: S,
    max: Duration,
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Reading<S> {
    pub fn new(stream: S, max: Duration) -> Self {
        Self { stream, max, waits: None }
    }

    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let max = self.max;
        ready!(self.waits.get_or_insert_with(|| Box::pin(sleep(max))).as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Reading<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Reading<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buf);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::{Instant, timeout},
    };

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_stranger_makes_room_and_who_has_signed_in_does_not() {
        let mut places = Places::new(8);
        let mut held = Vec::new();
        for signed_in in [true, true, false, false, false, false, false, false] {
            held.push(hold(&mut places, signed_in).await);
        }
        places.free().await;
        places.take(Known::default(), pending());
        assert_eq!(gone(&mut held), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_have_signed_in_leave_four_places_to_others() {
        let mut places = Places::new(8);
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(hold(&mut places, true).await);
        }
        for _ in 0..4 {
            held.push(hold(&mut places, false).await);
        }
        assert_eq!(gone(&mut held), [0, 1, 2, 3], "the oldest, until four are left");
        held.push(hold(&mut places, false).await);
        assert_eq!(gone(&mut held), [0, 1, 2, 3, 8], "and then a stranger's again");
    }

    type Held = tokio::sync::oneshot::Receiver<()>;

    async fn hold(places: &mut Places, signed_in: bool) -> Held {
        let (known, (alive, gone)) = (Known::default(), tokio::sync::oneshot::channel::<()>());
        let free = timeout(S(1), places.free()).await;
        free.expect("one makes room at once");
        places.take(known.clone(), async move {
            let _alive = alive;
            pending().await
        });
        if signed_in {
            known.set();
        }
        gone
    }

    fn gone(held: &mut [Held]) -> Vec<usize> {
        let gone = held.iter_mut().enumerate();
        gone.filter_map(|(at, one)| one.try_recv().is_err_and(|e| e == CLOSED).then_some(at)).collect()
    }

    const CLOSED: tokio::sync::oneshot::error::TryRecvError = tokio::sync::oneshot::error::TryRecvError::Closed;

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_served_and_who_does_not_read_is_not() {
        let (ours, mut theirs) = duplex(10);
        let mut ours = Reading::new(ours, S(30));
        let writing = tokio::spawn(async move {
            let written = ours.write_all(&[7; 100]).await;
            (written, Instant::now())
        });
        let start = Instant::now();
        for _ in 0..5 {
            sleep(S(29)).await;
            theirs.read_exact(&mut [0; 10]).await.unwrap();
        }
        let (written, at) = timeout(S(60), writing).await.expect("it ends").unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(at - start, S(5 * 29 + 30));
    }
}
