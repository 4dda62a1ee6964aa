//! One HTTP/2 connection to a master, and nothing that reconnects by itself.

mod errors;
mod resolve;
mod socket;
pub mod tls;

pub use errors::{Failure, classify_status};
pub use resolve::Resolver;

use crate::config::MasterAddress;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use socket::{Finding, Socket, Stream};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinHandle};

/// Of one stream, bytes: what a peer may send before we have read. Small, for the memory of a small box.
const STREAM_WINDOW: u32 = 64 * 1024;

/// At most 16 output calls are open beside the session: so many streams cannot close the connection's window.
const STREAMS: u32 = 18;

/// What hyper may hold of a stream that the network does not take.
const SEND_BUFFER: usize = 64 * 1024;

/// So long a graceful close may take before the connection is cut.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The session's client.
pub type Client = proto::agent_registry_client::AgentRegistryClient<Connection>;

/// What the generated clients call: hyper's HTTP/2 sender, without tonic's `Channel`. Clones share the connection.
#[derive(Clone)]
pub struct Connection {
    sender: hyper::client::conn::http2::SendRequest<tonic::body::Body>,
}

/// A connection, made. Dropping it cuts it: the kernel keeps nothing (SO_LINGER 0).
pub struct Dialled {
    pub client: Client,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    driver: JoinHandle<Result<(), hyper::Error>>,
    /// What TLS exports for [`joining`]; none without TLS.
    ///
    /// [`joining`]: crate::joining
    pub exported: Option<crate::joining::Exported>,
    /// When the master's certificate ends, seconds since 1970; none without TLS, or where that cannot be read.
    pub master_ends: Option<u64>,
    graceful: Arc<AtomicBool>,
    tls_failure: Arc<Finding>,
}

/// Resolves the name anew, tries all addresses, IPv6 and IPv4 raced, and opens HTTP/2. Has no time limit of its own.
///
/// # Errors
/// Why it failed, of the address that failed last.
///
/// # Cancel safety
/// Safe: dropping closes what was begun.
pub async fn connect(
    master: &MasterAddress,
    resolver: &mut Resolver,
    user_timeout: Duration,
    tls: Option<&tls::Connector>,
) -> Result<Dialled, Failure> {
    let addresses = resolver.resolve(master).await?;
    let tcp = socket::race(addresses, user_timeout).await?;
    resolver.connected(master, tcp.peer_addr().map_err(Failure::io)?);
    open(tcp, master, tls, |_| {}).await
}

/// A connection to one address, for whoever wants to know which of them answer.
///
/// # Errors
/// Why it failed.
pub async fn reach(address: SocketAddr, user_timeout: Duration) -> Result<TcpStream, Failure> {
    socket::race(vec![address], user_timeout).await
}

/// Opens HTTP/2 on a connection to a master, over TLS if that is given. `shown` is given what certificates the master
/// shows, its own first.
///
/// # Errors
/// Why it failed.
pub async fn open(
    tcp: TcpStream,
    master: &MasterAddress,
    tls: Option<&tls::Connector>,
    shown: impl FnOnce(&[CertificateDer<'_>]),
) -> Result<Dialled, Failure> {
    let (local, peer) = (tcp.local_addr().map_err(Failure::io)?, tcp.peer_addr().map_err(Failure::io)?);
    let graceful = Arc::new(AtomicBool::new(false));
    let socket = Socket::new(tcp, graceful.clone()).map_err(Failure::io)?;
    let tls_failure = Arc::new(Finding { own: tls.and_then(tls::Connector::own), ..Finding::default() });
    let (mut exported, mut master_ends) = (None, None);
    let (scheme, stream) = match tls {
        Some(tls) => {
            let stream = Box::new(tls.connect(master.host_without_zone(), socket).await?);
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            shown(certificates);
            master_ends = certificates.first().and_then(|own| tls::Certificate::read(own)).map(|read| read.not_after);
            exported = stream.get_ref().1.export_keying_material([0; 32], crate::joining::EXPORTER_LABEL, None).ok();
            ("https", Stream::Tls(stream, Arc::clone(&tls_failure)))
        }
        None => ("http", Stream::Plain(socket, Some(Arc::clone(&tls_failure)))),
    };
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::of(&error))?;
    let driver = tokio::spawn(connection);
    let origin = http::Uri::builder().scheme(scheme).authority(master.authority()).path_and_query("/").build();
    let origin = origin.map_err(|error| Failure::protocol(format!("master address {master}: {error}")))?;
    let client = Client::with_origin(Connection { sender }, origin);
    Ok(Dialled { client, local, peer, exported, master_ends, driver, graceful, tls_failure })
}

impl Dialled {
    /// Why the connection ended, if it has: more exact than what its streams say.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&mut self) -> Option<Failure> {
        let ended = (&mut self.driver).await;
        if let Some(failure) = self.tls_failure.failure.get() {
            return Some(failure.clone());
        }
        match ended {
            Ok(Err(error)) => Some(Failure::of(&error)),
            Ok(Ok(())) | Err(_) => None,
        }
    }

    /// Ends after everything was sent, within two seconds.
    pub async fn close_gracefully(mut self) {
        self.graceful.store(true, Ordering::Relaxed);
        // Without a client the connection ends by itself once its streams have.
        let driver = std::mem::replace(&mut self.driver, tokio::spawn(async { Ok(()) }));
        drop(self);
        let abort = driver.abort_handle();
        if tokio::time::timeout(CLOSE_GRACE, driver).await.is_err() {
            abort.abort();
        }
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
