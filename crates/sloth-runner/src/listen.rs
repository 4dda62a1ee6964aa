//! The master's own listening socket.
//!
//! Tokio's default backlog of 128 drops connection attempts when a whole fleet comes back at once; and a server that
//! stops accepting at the limit of open files, or spins there, takes the fleet down with it.

mod connection;
pub mod crowd;
pub mod places;

use crate::{bucket::Lines, clock::boottime};
pub use connection::{Connection, Open, Shown, Why};
use places::{Full, Limits, Source};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep},
};

/// Connections that wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// How long accepting pauses when there is no descriptor, or no memory, for another connection, or there are as many as
/// may be.
const PAUSE: Duration = Duration::from_millis(100);

/// Data that a peer does not acknowledge for so long ends the connection: the kernel alone would keep a dead one for a
/// quarter of an hour. Above the deadline of an agent at the defaults, 20 s, so that the reason is the deadline.
/// An agent with more patience may lose its connection by this first: which agent it is, is not known here.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection on which nothing comes for so long is asked whether its other end is still there: a tool that follows
/// a silent command from a machine that was switched off would else hold a descriptor for ever. An agent at its defaults beats oftener.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
/// Asked again after this, until [`USER_TIMEOUT`] has passed without an answer.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// A pause is logged at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Opens the listening socket. An address of `[::]` takes IPv4 connections, too.
///
/// # Errors
/// [`ListenError`], which names the address and what to do.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    try_bind(address).map_err(|error| ListenError { address, error })
}

fn try_bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // A master that is started again must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Why the master cannot listen.
#[derive(Debug)]
pub struct ListenError {
    pub address: SocketAddr,
    pub error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {address}: another process has this port; stop it, or take another with --listen"
            ),
            io::ErrorKind::AddrNotAvailable => write!(
                f,
                "cannot listen on {address}: this host does not have that address; take one of its own with --listen"
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "cannot listen on {address}: permission denied; ports below 1024 need root, take a higher one with \
                 --listen"
            ),
            _ => write!(f, "cannot listen on {address}: {}; take another address with --listen", self.error),
        }
    }
}

impl std::error::Error for ListenError {}

/// Where connections come from: a listener, or a script in tests.
pub trait Accept {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>>;
}

impl Accept for TcpListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        TcpListener::poll_accept(self, context).map_ok(|(stream, _)| stream)
    }
}

/// The accepted connections, for tonic's `serve_with_incoming`. Never ends, and never yields an error.
pub struct Incoming<A = TcpListener> {
    listener: A,
    open: Open,
    open_max: usize,
    limits: Limits,
    pause: Option<Pin<Box<Sleep>>>,
    complained: Option<Instant>,
    refusals: Lines,
}

impl<A> Incoming<A> {
    /// With `open_max` connections open, further ones wait to be accepted. Those of an address that has as many as it
    /// may have are closed at once.
    pub fn new(listener: A, open_max: usize, limits: Limits) -> Self {
        Self::counted(listener, open_max, limits, Open::default())
    }

    /// … and counted there.
    pub fn counted(listener: A, open_max: usize, limits: Limits, open: Open) -> Self {
        let refusals = Lines::new(boottime(), 1, COMPLAIN_EVERY);
        Self { listener, open, open_max, limits, pause: None, complained: None, refusals }
    }

    /// How many may be.
    pub fn open_max(&self) -> usize {
        self.open_max
    }

    /// How many are open.
    pub fn open(&self) -> Open {
        self.open.clone()
    }

    /// Counted, if there is a place for it; closed if not.
    fn admit(&mut self, stream: TcpStream) -> Option<Connection> {
        // One that is gone already says so at its first read.
        let gone = |_| IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let source = Source::of(stream.peer_addr().map_or_else(gone, |address| address.ip()));
        let full = match self.open.take(source, self.limits) {
            Ok(place) => return Some(Connection::new(stream, place)),
            Err(full) => full,
        };
        // With a reset: whoever asks so often must not leave connections behind that wait for their last packets.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        let (why, most, what) = match full {
            Full::All => (Why::Address, self.limits.each, "connections.max_per_address"),
            Full::Unknown => (
                Why::Unknown,
                self.limits.unknown_each,
                "connections.max_unknown_per_address, of those that have shown no credential yet",
            ),
        };
        self.open.add_closed(why);
        if let Some(before) = self.refusals.written(boottime()) {
            log::warn!(
                "{source} has as many connections as one address may have ({most}: {what}): another one was closed at \
                 once{before}"
            );
        }
        None
    }

    fn pause(&mut self, error: &io::Error) {
        self.pause = Some(Box::pin(crate::clock::sleep(PAUSE)));
        let now = Instant::now();
        if self.complained.is_some_and(|last| now.duration_since(last) < COMPLAIN_EVERY) {
            return;
        }
        self.complained = Some(now);
        match error.raw_os_error() {
            Some(libc::EMFILE) => log::error!(
                "At the limit of open files: new connections wait. Raise it (ulimit -n, LimitNOFILE= in systemd)"
            ),
            _ => log::error!("Cannot accept connections: {error}. Trying again"),
        }
    }
}

impl<A: Accept + Unpin> tokio_stream::Stream for Incoming<A> {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(pause) = &mut this.pause {
                std::task::ready!(pause.as_mut().poll(context));
                this.pause = None;
            }
            if this.open.count() >= this.open_max {
                this.pause(&io::Error::from_raw_os_error(libc::EMFILE));
                continue;
            }
            match std::task::ready!(this.listener.poll_accept(context)) {
                Ok(stream) => {
                    prepare(&stream);
                    if let Some(connection) = this.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) if belongs_to_one_connection(&error) => {}
                Err(error) => this.pause(&error),
            }
        }
    }
}

/// What fails here fails on a connection that is gone already, which its first read says better.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY));
}

/// That connection is gone, the next may be fine: see the notes on errors in accept(2).
fn belongs_to_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    struct Script {
        /// What comes before the connection, last first.
        errors: Vec<i32>,
        stream: Option<TcpStream>,
        asked: u32,
    }

    impl Accept for Script {
        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
            self.asked += 1;
            match self.errors.pop() {
                Some(error) => Poll::Ready(Err(io::Error::from_raw_os_error(error))),
                None => self.stream.take().map_or(Poll::Pending, |stream| Poll::Ready(Ok(stream))),
            }
        }
    }

    async fn connection() -> TcpStream {
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_of_open_files_accepting_pauses_and_goes_on() {
        let script = Script { errors: vec![libc::EMFILE, libc::ENFILE], stream: Some(connection().await), asked: 0 };
        let mut incoming = Incoming::new(script, 10, Limits::NONE);
        let start = Instant::now();
        incoming.next().await.expect("it does not end").expect("it yields no error");
        assert_eq!(start.elapsed(), Duration::from_millis(200));
        assert_eq!(incoming.listener.asked, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn with_as_many_connections_as_may_be_others_wait_until_one_ends() {
        let script = Script { errors: vec![], stream: Some(connection().await), asked: 0 };
        let mut incoming = Incoming::new(script, 1, Limits::NONE);
        let first = incoming.next().await.unwrap().unwrap();
        incoming.listener.stream = Some(connection().await);
        let asked = incoming.listener.asked;
        assert!(tokio::time::timeout(Duration::from_secs(60), incoming.next()).await.is_err(), "no room");
        assert_eq!(incoming.listener.asked, asked, "it waits in the kernel, which closes nothing");
        drop(first);
        let start = Instant::now();
        incoming.next().await.unwrap().unwrap();
        assert!(start.elapsed() <= PAUSE, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_gone_already_costs_no_pause() {
        let script = Script { errors: vec![libc::ECONNABORTED; 5], stream: Some(connection().await), asked: 0 };
        let start = Instant::now();
        Incoming::new(script, 10, Limits::NONE).next().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn one_more_than_an_address_may_have_is_closed_and_the_next_address_comes_in() {
        let listener = bind(ANY_PORT).unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, 10, Limits { each: 3, unknown_each: 2 });
        let from = async |ip: [u8; 4]| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(Ipv4Addr::from(ip).into(), 0)).unwrap();
            socket.connect(address).await.unwrap()
        };
        let (_one, _two, mut late, _other) = (
            from([127, 0, 0, 2]).await,
            from([127, 0, 0, 2]).await,
            from([127, 0, 0, 2]).await,
            from([127, 0, 0, 3]).await,
        );
        let mut open = Vec::new();
        for source in ["127.0.0.2", "127.0.0.2", "127.0.0.3"] {
            let connection = incoming.next().await.unwrap().unwrap();
            assert_eq!(connection.shown().source().to_string(), source);
            open.push(connection);
        }
        let closed = tokio::io::AsyncReadExt::read(&mut late, &mut [0]).await;
        assert!(closed.is_err() || closed.is_ok_and(|read| read == 0), "it hears of it");
        assert_eq!((incoming.open().count(), incoming.open().unknown()), (3, 3));
        assert_eq!(incoming.open().closed()[1], ("unknown", 1));
        // Who has shown something makes room for the next, up to the limit of all.
        open[0].shown().known();
        let _three = from([127, 0, 0, 2]).await;
        open.push(incoming.next().await.unwrap().unwrap());
        open[1].shown().known();
        let (_four, _last) = (from([127, 0, 0, 2]).await, from([127, 0, 0, 4]).await);
        assert_eq!(incoming.next().await.unwrap().unwrap().shown().source().to_string(), "127.0.0.4");
        assert_eq!(incoming.open().closed()[0], ("address", 1));
        drop(open);
        assert_eq!(incoming.open().count(), 0);
    }

    #[tokio::test]
    async fn more_connections_than_the_default_backlog_wait_to_be_accepted() {
        let listener = bind(ANY_PORT).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for _ in 0..300 {
            // With a full queue the kernel drops the attempt, and the next try comes after a second.
            let connecting = TcpStream::connect(address);
            waiting.push(tokio::time::timeout(Duration::from_millis(900), connecting).await.expect("queued").unwrap());
        }
        let mut incoming = Incoming::new(listener, 300, Limits::NONE);
        for _ in 0..300 {
            let Connection { stream, .. } = &incoming.next().await.unwrap().unwrap();
            assert!(stream.nodelay().unwrap() && SockRef::from(stream).keepalive().unwrap());
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_remedy() {
        let first = bind(ANY_PORT).unwrap();
        let address = first.local_addr().unwrap();
        let message = bind(address).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "cannot listen on {address}: another process has this port; stop it, or take another with --listen"
            )
        );
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_named() {
        let message = bind("192.0.2.1:0".parse().unwrap()).unwrap_err().to_string();
        assert!(message.starts_with("cannot listen on 192.0.2.1:0: this host does not have that address"), "{message}");
    }

    #[tokio::test]
    async fn the_ipv6_wildcard_takes_ipv4_connections_too() {
        let Ok(listener) = bind("[::]:0".parse().unwrap()) else {
            assert!(
                std::env::var_os("SLOTH_TEST_ALL").is_none(),
                "SLOTH_TEST_ALL is set, and this machine has no IPv6"
            );
            eprintln!("skipped: no IPv6 here");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)).await.unwrap();
    }

    #[tokio::test]
    async fn a_port_is_free_again_as_soon_as_its_listener_is_gone() {
        let listener = bind(ANY_PORT).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        // The server's side closes first and stays in TIME_WAIT.
        drop(listener.accept().await.unwrap());
        drop((client, listener));
        bind(address).expect("the old connection is in nobody's way");
    }
}
