//! TCP, as the link wants it.

use super::Failure;
use link::LossReason;
use socket2::SockRef;
use std::{
    io::{self, Read},
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

/// A further address is tried when the ones before have not answered in this time (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// What may stand unsent in the socket, bytes: output beyond it waits where heartbeats can overtake it.
const NOTSENT_LOWAT: u32 = 4 * 1024;

/// The first address that answers. Each gets a start of 250 ms before the next.
///
/// # Errors
/// What the last one to fail said.
pub(super) async fn race(addresses: Vec<SocketAddr>, user_timeout: Duration) -> Result<TcpStream, Failure> {
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = Failure::new(LossReason::Dns, "no address");
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(dial(address, user_timeout));
        } else if attempts.is_empty() {
            return Err(failure);
        }
        let more = waiting.len() > 0;
        let ended =
            if more { timeout(ATTEMPT_DELAY, attempts.join_next()).await } else { Ok(attempts.join_next().await) };
        match ended {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failure = Failure::io(error),
            Ok(Some(Err(error))) => failure = Failure::protocol(error.to_string()),
            Ok(None) | Err(_) => {}
        }
    }
}

async fn dial(address: SocketAddr, user_timeout: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    let stream = socket.connect(address).await?;
    let options = SockRef::from(&stream);
    options.set_tcp_nodelay(true)?;
    options.set_tcp_user_timeout(Some(user_timeout))?;
    // What the kernel does not know it need not have: these two only make things better.
    let _ = set_notsent_lowat(&stream);
    Ok(stream)
}

fn set_notsent_lowat(stream: &TcpStream) -> io::Result<()> {
    let value = NOTSENT_LOWAT;
    // SAFETY: the pointer is to a local of the size that is said.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A stream that is cut when dropped, unless a graceful end was asked for.
pub(super) struct Socket {
    stream: TcpStream,
    graceful: Arc<AtomicBool>,
}

impl Socket {
    pub fn new(stream: TcpStream, graceful: Arc<AtomicBool>) -> io::Result<Self> {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(Self { stream, graceful })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.graceful.load(Ordering::Relaxed) {
            let _ = SockRef::from(&self.stream).set_linger(None);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
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

/// The place for what TLS finds wrong: the first thing stays.
#[derive(Default)]
pub(super) struct Finding {
    pub failure: OnceLock<Failure>,
    /// What this agent shows.
    pub own: Option<super::tls::Own>,
}

impl Finding {
    fn note(&self, error: &rustls::Error) {
        let _ = self.failure.set(super::tls::failure(error, self.own));
    }
}

/// What HTTP/2 runs over. One type for both, so that its code is there once.
pub(super) enum Stream {
    /// With the place for the finding that it speaks TLS, until the first bytes have come.
    Plain(Socket, Option<Arc<Finding>>),
    /// With the place for what TLS finds after the handshake, such as a refusal of this agent's certificate: HTTP/2
    /// hands on only that something broke.
    Tls(Box<tokio_rustls::client::TlsStream<Socket>>, Arc<Finding>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, found) => {
                let before = buf.filled().len();
                let result = Pin::new(stream).poll_read(cx, buf);
                if result.is_ready()
                    && let Some(found) = found.take()
                {
                    note_tls(&found, &buf.filled()[before..]);
                }
                result
            }
            Self::Tls(stream, found) => keep(found, Pin::new(stream).poll_read(cx, buf)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream, found) => {
                let result = Pin::new(&mut *stream).poll_write(cx, buf);
                first_words(stream, found, result)
            }
            Self::Tls(stream, found) => {
                let result = Pin::new(&mut *stream).poll_write(cx, buf);
                last_words(stream, found, result)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream, found) => {
                let result = Pin::new(&mut *stream).poll_write_vectored(cx, bufs);
                first_words(stream, found, result)
            }
            Self::Tls(stream, found) => {
                let result = Pin::new(&mut *stream).poll_write_vectored(cx, bufs);
                last_words(stream, found, result)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream, _) => stream.is_write_vectored(),
            Self::Tls(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, found) => {
                let result = Pin::new(&mut *stream).poll_flush(cx);
                last_words(stream, found, result)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A peer that wants TLS says so and closes; what we write then may break before its words are read.
fn first_words<T>(
    socket: &Socket,
    found: &mut Option<Arc<Finding>>,
    written: Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if let Poll::Ready(Err(_)) = &written
        && let Some(found) = found.take()
    {
        let mut head = [0; 2];
        let read = (&*SockRef::from(&socket.stream)).read(&mut head).unwrap_or(0);
        note_tls(&found, &head[..read]);
    }
    written
}

fn note_tls(found: &Finding, first: &[u8]) {
    if super::tls::is_a_record(first) {
        let _ = found.failure.set(super::tls::spoken_in_the_clear());
    }
}

/// A peer that refuses us says so and closes; what we write then breaks before its words are read. They are there, but
/// tokio has not heard of them yet: they are read past it.
fn last_words<T>(
    stream: &mut tokio_rustls::client::TlsStream<Socket>,
    found: &Finding,
    written: Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if let Poll::Ready(Err(_)) = &written {
        let (socket, session) = stream.get_mut();
        while let Ok(1..) = session.read_tls(&mut &*SockRef::from(&socket.stream)) {
            if let Err(error) = session.process_new_packets() {
                found.note(&error);
                break;
            }
        }
    }
    keep(found, written)
}

/// Notes what TLS found, if that is why it failed.
fn keep<T>(found: &Finding, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    if let Poll::Ready(Err(error)) = &result
        && let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        found.note(error);
    }
    result
}

#[cfg(test)]
mod tests;
