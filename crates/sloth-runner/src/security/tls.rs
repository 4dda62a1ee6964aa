//! TLS 1.3 on the master's port: handshakes that are bounded in number and time, certificates that are read again when
//! their files change, and who is at the other end.

mod refused;
mod secured;

pub use secured::{HANDSHAKES_EACH, HANDSHAKES_MAX, Secured};

use refused::{Told, Witness, watching};
use secured::Turn;

use super::{
    TlsFiles,
    verifier::{Verifier, verifier},
};
use crate::{
    audit::Audit,
    clock,
    listen::{self, Shown, Why},
};
use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    server::{NoServerSessionStorage, danger::ClientCertVerifier as _},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject};
use sloth_agent::{
    config::{describe, exposed},
    joining::{EXPORTER_LABEL, Exported},
    token::sha256,
    transport::tls::{Certificate, not_before},
};
use std::{
    fs,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::watch,
    time::{Sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Of one handshake; and of the wait for its turn.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// For a peer to hear why its handshake failed, and to close; and how much it may still say until then, bytes.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
const FAREWELL_MAX: usize = 64 << 10;

/// Files are looked at for changes at most this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Largest file that is read, bytes.
const SIZE_MAX: u64 = 2 << 20;

/// Who is at the other end of a connection. An extension of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The connection, as far as calls have to do with it.
    pub shown: Arc<Shown>,
    /// By its certificate, which a CA of this master's has signed and which has not expired.
    pub identity: Option<Identity>,
    /// What TLS exports for joining; none in the clear.
    pub exported: Option<Exported>,
}

/// A client certificate, checked by TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub subject: Subject,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// Until when it is good: milliseconds since 1970.
    pub expires_ms: u64,
    /// What was shown, to be judged again while the connection lasts: of a person; and of an agent, where lists may say
    /// that it is revoked. Of others nothing is kept.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of an agent: an authority of this master's has made it.
    pub made_here: bool,
}

/// Whom a certificate names, as a URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `sloth:agent:<32 hex digits>`.
    Agent([u8; 16]),
    /// `sloth:operator:<name>`.
    Operator(String),
    /// `sloth:viewer:<name>`.
    Viewer(String),
    /// None of these: it has no rights here.
    Nobody,
}

impl Subject {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Self::Nobody };
        let mut found = parsed.valid_uri_names().filter_map(Self::from_uri);
        match (found.next(), found.next()) {
            (Some(one), None) => one,
            // Of two, nobody knows which is meant.
            _ => Self::Nobody,
        }
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let (kind, name) = uri.strip_prefix("sloth:")?.split_once(':')?;
        match kind {
            "agent" => fleet::id_from_hex(name).map(Self::Agent),
            "operator" if !name.is_empty() => Some(Self::Operator(name.to_owned())),
            "viewer" if !name.is_empty() => Some(Self::Viewer(name.to_owned())),
            _ => None,
        }
    }
}

/// Makes TLS of TCP, by the newest files.
pub struct Acceptor {
    files: TlsFiles,
    current: Mutex<Current>,
    told: Told,
    /// Told when other files are used.
    changed: watch::Sender<()>,
}

/// When certificates end, seconds since 1970, by their kind: `server`, `ca`.
pub type Ends = Vec<(&'static str, u64)>;

struct Current {
    config: Arc<ServerConfig>,
    clients: Clients,
    ends: Ends,
    stamps: Vec<Stamp>,
    looked: Duration,
}

/// Who lets clients in. None: nobody comes by a certificate.
type Clients = Option<Arc<Verifier>>;

/// What tells a file from the one that was there before.
type Stamp = Option<(u64, i64, i64, u64)>;

impl Acceptor {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// For people: the setting, the file, the rule and the remedy.
    pub fn new(files: TlsFiles) -> Result<Self, String> {
        let stamps = stamps(&files);
        let (config, ends, clients) = load(&files)?;
        let (config, looked) = (Arc::new(config), clock::boottime());
        let current = Mutex::new(Current { config, clients, ends, stamps, looked });
        Ok(Self { files, current, told: Told::new(None), changed: watch::Sender::new(()) })
    }

    /// Tells there, too, which certificates it refuses.
    pub fn with_audit(self, audit: Arc<Audit>) -> Self {
        Self { told: Told::new(Some(audit)), ..self }
    }

    /// Of the certificates in use.
    pub fn ends(&self) -> Ends {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).ends.clone()
    }

    /// Whether a certificate, its own first, would be let in now: it may have expired or been revoked meanwhile.
    pub fn lets_in(&self, chain: &[CertificateDer<'_>]) -> bool {
        match (self.clients(), chain) {
            (Some(clients), [own, rest @ ..]) => clients.verify_client_cert(own, rest, UnixTime::now()).is_ok(),
            _ => false,
        }
    }

    /// Whether a certificate, its own first, is revoked by a list. One that has merely ended is not.
    pub fn revokes(&self, chain: &[CertificateDer<'_>]) -> bool {
        match (self.clients(), chain) {
            (Some(clients), [own, rest @ ..]) => clients.revokes(own, rest, UnixTime::now()),
            _ => false,
        }
    }

    /// Returns once it is.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn revoked(self: Arc<Self>, chain: Vec<CertificateDer<'static>>) {
        let mut changed = self.changed.subscribe();
        while !self.revokes(&chain) {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Uses the files as they are now, if they may say what is revoked: others wait for that.
    pub fn look(&self) {
        if self.files.client_crl_file.is_some() {
            self.config();
        }
    }

    fn clients(&self) -> Clients {
        self.config();
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clients.clone()
    }

    /// Of the files as they are now; where they cannot be used, of the last ones that could.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::boottime();
        if now.saturating_sub(current.looked) >= LOOK_EVERY {
            current.looked = now;
            let stamps = stamps(&self.files);
            if stamps != current.stamps {
                current.stamps = stamps;
                match load(&self.files) {
                    Ok((config, ends, clients)) => {
                        (current.config, current.ends, current.clients) = (Arc::new(config), ends, clients);
                        log::info!("TLS: the files have changed and are used from now on");
                        self.changed.send_replace(());
                    }
                    Err(error) => log::error!("TLS: the files have changed and cannot be used: {error}"),
                }
            }
        }
        current.config.clone()
    }

    async fn accept(&self, stream: listen::Connection, turn: &Turn) -> Option<Connection> {
        let (address, shown) = (peer_address(&stream), stream.shown());
        let accepting = tokio_rustls::TlsAcceptor::from(self.config()).accept(stream).into_fallible();
        let (accepted, refused) = watching(timeout(HANDSHAKE_TIMEOUT, accepting)).await;
        if let Some(refused) = refused {
            self.told.tell(address, &refused);
        }
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => {
                log::debug!("TLS with {address} failed: {error}");
                turn.open.add_closed(Why::Handshake);
                let _ = timeout(FAREWELL_TIMEOUT, farewell(stream)).await;
                return None;
            }
            Err(_) => {
                log::debug!("TLS with {address} took longer than {} s", HANDSHAKE_TIMEOUT.as_secs());
                turn.open.add_closed(Why::HandshakeTimeout);
                return None;
            }
        };
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        let identity = chain.first().map(|der| {
            let subject = Subject::of(der);
            let is_agent = matches!(subject, Subject::Agent(_));
            let is_judged = match subject {
                Subject::Operator(_) | Subject::Viewer(_) => true,
                Subject::Agent(_) => self.files.client_crl_file.is_some(),
                Subject::Nobody => false,
            };
            Identity {
                subject,
                fingerprint: sha256(der),
                expires_ms: Certificate::read(der).map_or(u64::MAX, |read| read.not_after.saturating_mul(1000)),
                chain: chain.iter().filter(|_| is_judged).map(|one| one.clone().into_owned()).collect(),
                made_here: is_agent && self.clients().is_some_and(|clients| clients.made_here(der, UnixTime::now())),
            }
        });
        let exported = session.export_keying_material([0; 32], EXPORTER_LABEL, None).ok();
        let peer = Peer { address, shown, identity, exported };
        Some(Connection::new(peer, Wire::Tls(Box::new(stream)), turn.unknown_timeout))
    }
}

/// Closing with bytes unread resets the connection, and the alert that says what is wrong would be lost with it.
async fn farewell(mut stream: listen::Connection) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    let mut left = FAREWELL_MAX;
    while left > 0 {
        match stream.read(&mut rest).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

fn peer_address(stream: &listen::Connection) -> SocketAddr {
    // It is gone already, which its first read says better.
    stream.peer_addr().unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    let clients = [files.ca_file.as_ref(), files.client_ca_file.as_ref(), files.client_crl_file.as_ref()];
    let all = [Some(&files.cert_file), Some(&files.key_file)].into_iter().chain(clients);
    let stamp = |path: &std::path::PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    };
    all.flatten().map(stamp).collect()
}

/// What is served, and when its certificates end.
fn load(files: &TlsFiles) -> Result<(ServerConfig, Ends, Clients), String> {
    let named = |key: &str, path: &Path, what: &str| format!("{key} is {}, {what}", path.display());
    let certificates = |key: &str, path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let text = read_public(path).map_err(|why| named(key, path, &why))?;
        match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
            Ok(found) if !found.is_empty() => Ok(found),
            _ => Err(named(key, path, "which holds no certificate in PEM: name one that does")),
        }
    };
    let provider = Arc::new(default_provider());
    let mut chain = certificates("tls.cert_file", &files.cert_file)?;
    let mut ends = Vec::new();
    let mut ends_of = |kind, certificate: &[u8]| {
        // One that cannot be read here may serve all the same.
        ends.extend(Certificate::read(certificate).map(|read| (kind, read.not_after)));
    };
    ends_of("server", &chain[0]);
    let of = |key: &str, path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or(Ok(Vec::new()), |path| certificates(key, path))
    };
    let own = of("tls.ca_file", &files.ca_file)?;
    let clients = of("tls.client_ca_file", &files.client_ca_file)?;
    if let Some(ca) = own.first() {
        ends_of("ca", ca);
        if not_before(ca).is_some_and(|made| Duration::from_millis(clock::unix_ms()) < made) {
            log::warn!(
                "This machine's clock shows a time from before tls.ca_file was made: set it. Until then agents' \
                 certificates are judged as of then, and times on record are wrong"
            );
        }
    }
    // A token names it by its fingerprint: an agent must see it.
    chain.extend(own.iter().filter(|ca| !chain.contains(ca)).cloned().collect::<Vec<_>>());
    let lists = files.client_crl_file.as_ref().map_or(Ok(Vec::new()), |path| revoked(path))?;
    let verifier = verifier(&own, &clients, lists, &provider).map_err(|error| {
        let paths = [&files.ca_file, &files.client_ca_file, &files.client_crl_file];
        let names: Vec<_> = paths.into_iter().flatten().map(|path| path.display().to_string()).collect();
        format!("of {} one holds no certificate of a CA, or no list of one ({error})", names.join(", "))
    })?;
    let key = read_secret(&files.key_file).map_err(|why| named("tls.key_file", &files.key_file, &why))?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| named("tls.key_file", &files.key_file, "which holds no private key in PEM: name one that does"))?;
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]);
    let builder = builder.expect("the provider has suites of TLS 1.3");
    let builder = match verifier.clone() {
        Some(verifier) => builder.with_client_cert_verifier(Arc::new(Witness(verifier))),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        named("tls.cert_file", &files.cert_file, &format!("which does not go with tls.key_file ({error})"))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection is checked anew, and nothing is remembered of the ones before.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((config, ends, verifier))
}

/// What CAs have revoked.
fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let named = |what: &str| format!("tls.client_crl_file is {}, {what}", path.display());
    let text = read_public(path).map_err(|why| named(&why))?;
    match CertificateRevocationListDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(named("which holds no list of revoked certificates in PEM: name one that does")),
    }
}

/// # Errors
/// Reads after "tls.ca_file is ca.pem, ".
pub(super) fn read_public(path: &Path) -> Result<Vec<u8>, String> {
    read(path).map(|(content, _)| content)
}

/// Refuses what others can read.
///
/// # Errors
/// As [`read_public`].
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, String> {
    let (content, metadata) = read(path)?;
    match exposed(&metadata, path) {
        Some(problem) => Err(format!("which {problem}")),
        None => Ok(content),
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, fs::Metadata), String> {
    let failed = |error: io::Error| format!("which cannot be read: {}", describe(&error));
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut content = Vec::new();
    file.take(SIZE_MAX).read_to_end(&mut content).map_err(failed)?;
    Ok((content, metadata))
}

/// A connection that may carry calls, and is closed if nobody shows in time who he is.
pub struct Connection {
    peer: Peer,
    stream: Wire,
    /// Until when; none once he has.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(peer: Peer, stream: Wire, unknown_timeout: Duration) -> Self {
        let patience = (!peer.shown.is_known()).then(|| Box::pin(clock::sleep(unknown_timeout)));
        Self { peer, stream, patience }
    }

    /// # Errors
    /// It is to be closed. Looked at before every step: whoever cuts it wakes its task, whatever that waits for.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(patience) = &mut self.patience {
            if self.peer.shown.is_known() {
                self.patience = None;
            } else if patience.as_mut().poll(context).is_ready() {
                log::debug!("{} has not shown who it is", self.peer.address);
                self.peer.shown.cut(Why::Nobody);
            }
        }
        match self.peer.shown.is_cut() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

enum Wire {
    Plain(listen::Connection),
    Tls(Box<TlsStream<listen::Connection>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let read = match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_pending() && self.peer.shown.poll_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
