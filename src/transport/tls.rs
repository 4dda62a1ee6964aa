//! TLS 1.3 to a master: whom to trust, who we are, and what went wrong in a person's words.

use super::{Failure, socket::Socket};
use crate::config::{Tls, describe};
use link::LossReason;
use rustls::{CertificateError, ClientConfig, RootCertStore, crypto::ring, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject};
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_rustls::client::TlsStream;

/// Where systems keep the certificates that they trust, the first that is there. `SSL_CERT_FILE` names another.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// A setting of `tls` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub key: &'static str,
    /// Reads after "key ": the value, the rule, the remedy.
    pub text: String,
}

/// Makes sessions of TLS. Clones share the configuration.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// Instead of the master's host.
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// All that cannot be used, with its key and the remedy.
    pub fn load(tls: &Tls) -> Result<Self, Vec<Unusable>> {
        let mut unusable = Vec::new();
        let mut keep = |result: Result<_, Unusable>| result.map_err(|error| unusable.push(error)).ok();
        let roots = keep(roots(tls).map(Loaded::Roots));
        let identity = keep(identity(tls).map(Loaded::Identity));
        let name = keep(server_name(tls).map(Loaded::Name));
        let (Some(Loaded::Roots(roots)), Some(Loaded::Identity(identity)), Some(Loaded::Name(server_name))) =
            (roots, identity, name)
        else {
            return Err(unusable);
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                let text = format!("does not go with tls.key_file: {error}: name the key of this certificate");
                vec![Unusable { key: "tls.cert_file", text }]
            })?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session is made once in hours: tickets would be memory without a use.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// The handshake. Has no time limit of its own.
    ///
    /// # Errors
    /// `tls`, with what a person can do; or what the network said.
    pub(super) async fn connect(&self, host: &str, socket: Socket) -> Result<TlsStream<Socket>, Failure> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| Failure::new(LossReason::Tls, format!("{host} is no name that a certificate can have")))?,
        };
        let connecting = tokio_rustls::TlsConnector::from(self.config.clone()).connect(name, socket);
        let stream = connecting.await.map_err(|error| handshake_failure(&error))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(stream),
            _ => Err(Failure::new(LossReason::Tls, "it speaks TLS, but not HTTP/2 (is this a Sloth Runner master?)")),
        }
    }
}

/// What the parts of the configuration become.
enum Loaded {
    Roots(RootCertStore),
    Identity(Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>),
    Name(Option<ServerName<'static>>),
}

fn roots(tls: &Tls) -> Result<RootCertStore, Unusable> {
    let key = if tls.ca_file.is_some() { "tls.ca_file" } else { "tls.enabled" };
    let path = match &tls.ca_file {
        Some(path) => path.clone(),
        None => system_roots().ok_or_else(|| Unusable {
            key,
            text: "is true, and this system has no file of trusted certificates: name one in tls.ca_file".to_owned(),
        })?,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, &path)? {
        let added = roots.add(certificate);
        // A system's file may hold ones of forms that are not known here; one's own must all be usable.
        if let (Err(error), true) = (added, tls.ca_file.is_some()) {
            let text = format!("is {}, and holds what is no certificate of a CA: {error}", path.display());
            return Err(Unusable { key, text });
        }
    }
    Ok(roots)
}

fn system_roots() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain(SYSTEM_ROOTS.map(PathBuf::from)).find(|path| path.is_file())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(tls: &Tls) -> Result<Option<Identity>, Unusable> {
    let (Some(cert_file), Some(key_file)) = (&tls.cert_file, &tls.key_file) else { return Ok(None) };
    let chain = certificates("tls.cert_file", cert_file)?;
    let key = "tls.key_file";
    let shown = key_file.display();
    let mode = std::fs::metadata(key_file).map_err(|error| unreadable(key, key_file, &error))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let text = format!("is {shown}, which others may read (mode {mode:o}): chmod 600 {shown}");
        return Err(Unusable { key, text });
    }
    let private = PrivateKeyDer::from_pem_file(key_file).map_err(|error| match error {
        pem::Error::Io(error) => unreadable(key, key_file, &error),
        _ => Unusable { key, text: format!("is {shown}, which holds no private key in PEM: name one that does") },
    })?;
    Ok(Some((chain, private)))
}

fn server_name(tls: &Tls) -> Result<Option<ServerName<'static>>, Unusable> {
    let Some(name) = &tls.server_name else { return Ok(None) };
    ServerName::try_from(name.clone()).map(Some).map_err(|_| Unusable {
        key: "tls.server_name",
        text: format!("is {name:?}, which no certificate can have: write a host name or an IP address"),
    })
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let none = || Unusable {
        key,
        text: format!("is {}, which holds no certificate in PEM: name one that does", path.display()),
    };
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(none()),
        Ok(found) => Ok(found),
        Err(pem::Error::Io(error)) => Err(unreadable(key, path, &error)),
        Err(_) => Err(none()),
    }
}

fn unreadable(key: &'static str, path: &Path, error: &io::Error) -> Unusable {
    let text = format!("is {}, which cannot be read: {}: mend that, or name another", path.display(), describe(error));
    Unusable { key, text }
}

fn handshake_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Failure::new(LossReason::Tls, "it closed the connection in the TLS handshake (does it speak TLS?)");
    }
    Failure::of(error)
}

/// What TLS found wrong, and what can be done about it.
pub(super) fn failure(error: &rustls::Error) -> Failure {
    use rustls::{AlertDescription as Alert, Error};
    let text = match error {
        Error::InvalidCertificate(error) => certificate_text(error),
        Error::InvalidMessage(_) => "it does not answer in TLS: it speaks plain TCP, or is no master".to_owned(),
        Error::AlertReceived(Alert::CertificateRequired) => {
            "the master wants a certificate of this agent: set tls.cert_file and tls.key_file".to_owned()
        }
        Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::AccessDenied
            | Alert::DecryptError),
        ) => format!("the master refuses this agent's certificate ({alert:?}): see tls.cert_file"),
        Error::AlertReceived(Alert::ProtocolVersion) => "the master does not speak TLS 1.3".to_owned(),
        other => other.to_string(),
    };
    Failure::new(LossReason::Tls, text)
}

fn certificate_text(error: &CertificateError) -> String {
    use CertificateError as Kind;
    match error {
        // The second where the issuers have one name.
        Kind::UnknownIssuer | Kind::BadSignature => {
            "the master's certificate is of an unknown CA: see tls.ca_file".to_owned()
        }
        Kind::Expired | Kind::ExpiredContext { .. } => {
            "the master's certificate has expired, or this machine's clock is wrong".to_owned()
        }
        Kind::NotValidYet | Kind::NotValidYetContext { .. } => {
            "the master's certificate is not valid yet, or this machine's clock is wrong".to_owned()
        }
        Kind::NotValidForName | Kind::NotValidForNameContext { .. } => {
            format!("the master's certificate is for another name: see tls.server_name ({error})")
        }
        other => format!("the master's certificate cannot be used: {other}"),
    }
}
