//! A certificate authority of the test's own, and a master behind TLS.

use super::master::Master;
use futures_core::Stream;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key, as files.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Years from which and to which a certificate is valid.
pub const VALID: (i32, i32) = (2020, 2090);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        Self { issuer, directory: TempDir::new().expect("temporary directory") }
    }

    /// The authority's own certificate.
    pub fn file(&self) -> PathBuf {
        let path = self.directory.path().join("ca.pem");
        fs::write(&path, self.issuer.pem()).expect("it can be written");
        path
    }

    /// A certificate for this name, the key 0600.
    pub fn issue(&self, name: &str, years: (i32, i32)) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |kind: &str| self.directory.path().join(format!("{name}-{}.{kind}", years.1));
        let identity = Identity { certificate: file("pem"), key: file("key") };
        fs::write(&identity.certificate, certificate.pem()).expect("it can be written");
        fs::write(&identity.key, key.serialize_pem()).expect("it can be written");
        fs::set_permissions(&identity.key, fs::Permissions::from_mode(0o600)).expect("our own file");
        identity
    }
}

/// A scripted master that shows this certificate, and wants one of `clients` if that is given.
pub async fn master(identity: &Identity, clients: Option<&Authority>) -> Master {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let acceptor = TlsAcceptor::from(Arc::new(server_config(identity, clients)));
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                // A handshake that fails is the agent's to tell.
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = ready.send(Ok(Connection(stream))).await;
                }
            });
        }
    });
    Master::serve(address, Connections(connections))
}

fn server_config(identity: &Identity, clients: Option<&Authority>) -> ServerConfig {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&identity.certificate).expect("a file").collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]).expect("1.3");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.issuer.der().clone()).expect("a CA");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("roots"))
        }
    };
    let mut config = builder.with_single_cert(chain.expect("certificates"), key).expect("they go together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

struct Connections(mpsc::Receiver<io::Result<Connection>>);

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// tonic's own is behind a feature that brings more.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
