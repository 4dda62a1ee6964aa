//! A connection that is counted while it is open, for its address too, and that can be closed from elsewhere.

use super::places::{Full, Limits, Places, Source};
use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The connections that are open.
#[derive(Clone, Debug, Default)]
pub struct Open(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    places: Mutex<Places>,
    /// By the reason, in the order of [`Why::ALL`].
    closed: [AtomicUsize; Why::ALL.len()],
    handshakes: AtomicUsize,
    handshakes_peak: AtomicUsize,
}

/// Why the master closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its address has as many as it may have.
    Address,
    /// … of those that have shown nothing.
    Unknown,
    /// TLS failed.
    Handshake,
    /// TLS, or the turn for it, took too long.
    HandshakeTimeout,
    /// Its place, before it had ended TLS, went to one of an address that has far fewer.
    Crowded,
    /// It has shown nothing for too long, or asked too often without.
    Nobody,
    /// Its session was over, and it stayed.
    Lingering,
    /// Of HTTP: its address has as many as it may have.
    Web,
}

impl Why {
    pub const ALL: [Self; 8] = [
        Self::Address,
        Self::Unknown,
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::Crowded,
        Self::Nobody,
        Self::Lingering,
        Self::Web,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Unknown => "unknown",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Crowded => "crowded",
            Self::Nobody => "nobody",
            Self::Lingering => "lingering",
            Self::Web => "web",
        }
    }
}

impl Open {
    pub fn count(&self) -> usize {
        self.places().open()
    }

    /// Those that have shown nothing yet.
    pub fn unknown(&self) -> usize {
        self.places().unknown()
    }

    /// How many were closed, by the reason.
    pub fn closed(&self) -> [(&'static str, usize); Why::ALL.len()] {
        Why::ALL.map(|why| (why.word(), self.0.closed[why as usize].load(Ordering::Relaxed)))
    }

    pub fn add_closed(&self, why: Why) {
        self.0.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more of this address, until what is returned is dropped.
    ///
    /// # Errors
    /// It has as many as it may have.
    pub fn take(&self, source: Source, limits: Limits) -> Result<Place, Full> {
        self.places().take(source, limits)?;
        Ok(Place(Arc::new(Shown {
            open: self.clone(),
            source,
            shown: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            waker: Mutex::new(None),
        })))
    }

    /// Handshakes under way, and the most that there were at once.
    pub fn handshakes(&self) -> (usize, usize) {
        let Shared { handshakes, handshakes_peak, .. } = &*self.0;
        (handshakes.load(Ordering::Relaxed), handshakes_peak.load(Ordering::Relaxed))
    }

    /// One more, until what is returned is dropped.
    pub fn handshake(&self) -> Handshake {
        let now = self.0.handshakes.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.handshakes_peak.fetch_max(now, Ordering::Relaxed);
        Handshake(self.clone())
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().expect("no holder of this lock panics")
    }
}

/// A handshake that is counted.
pub struct Handshake(Open);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known of a connection, for whoever handles its calls. May outlive it.
#[derive(Debug)]
pub struct Shown {
    open: Open,
    source: Source,
    /// It has shown who it is, or is closed: it counts among the unknown no more.
    shown: AtomicBool,
    /// Calls that were made before it had shown anything.
    pub asked: AtomicUsize,
    /// Calls whose requests have not ended.
    pub calls: AtomicUsize,
    /// Bytes of messages that have begun and are not whole.
    pub unfinished: AtomicUsize,
    cut: AtomicBool,
    /// Of the task that has the connection.
    waker: Mutex<Option<Waker>>,
}

impl Shown {
    /// It has shown who it is.
    pub fn known(&self) {
        // The look first: this is called at every call.
        if !self.shown.load(Ordering::Acquire) {
            let mut places = self.open.places();
            if !self.shown.swap(true, Ordering::AcqRel) {
                places.known(self.source);
            }
        }
    }

    pub fn is_known(&self) -> bool {
        self.shown.load(Ordering::Acquire)
    }

    pub fn source(&self) -> Source {
        self.source
    }

    /// Has it closed, whatever its calls are doing.
    pub fn cut(&self, why: Why) {
        if !self.cut.swap(true, Ordering::AcqRel) {
            self.open.add_closed(why);
            if let Some(waker) = self.waker().take() {
                waker.wake();
            }
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Whether it is to be closed; if not, this task is woken when it is.
    pub fn poll_cut(&self, context: &Context<'_>) -> bool {
        let mut waker = self.waker();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        // After the waker is there: whoever cuts sees it, or is seen here.
        drop(waker);
        self.is_cut()
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().expect("no holder of this lock panics")
    }
}

/// Counted until this is dropped.
#[derive(Debug)]
pub struct Place(Arc<Shown>);

impl Place {
    pub fn shown(&self) -> Arc<Shown> {
        self.0.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.0.open.places();
        let known = self.0.shown.swap(true, Ordering::AcqRel);
        places.leave(self.0.source, !known);
    }
}

/// A connection of a peer, whoever that is.
#[derive(Debug)]
pub struct Connection {
    // Dropped, and so closed, before it is counted off.
    pub(super) stream: TcpStream,
    place: Place,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, place: Place) -> Self {
        Self { stream, place }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    pub fn shown(&self) -> Arc<Shown> {
        self.place.shown()
    }

    /// Waits until the peer has said something, or has gone.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn readable(&self) -> io::Result<()> {
        // A socket that was just accepted is taken for readable until something has found that it is not.
        self.stream.peek(&mut [0]).await.map(drop)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
