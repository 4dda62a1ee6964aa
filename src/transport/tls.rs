//! TLS 1.3 to a master: whom to trust, who we are, and what went wrong in a person's words.

mod certificate;
mod errors;
mod files;
mod own;
mod pin;
mod time;

pub use certificate::{Certificate, own as own_certificate};
pub use errors::Seconds;
pub(super) use errors::{failure, is_a_record, spoken_in_the_clear};
pub use files::{Unusable, roots};
pub use own::Own;
pub use pin::not_before;
pub use rustls::sign::CertifiedKey;
pub use time::{hear, heard};

use super::{Failure, socket::Socket};
use crate::config::Tls;
use link::LossReason;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    client::WantsClientCert,
    crypto::{CryptoProvider, ring},
    sign::SingleCertAndKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::{Arc, OnceLock};
use tokio_rustls::client::TlsStream;

/// What a failed handshake means, for people.
pub fn explain(error: &std::io::Error) -> String {
    errors::of_handshake(error).detail
}

/// Makes sessions of TLS. Clones share the configuration.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// Instead of the master's host.
    server_name: Option<ServerName<'static>>,
    /// What is shown, if anything.
    own: Option<Own>,
}

impl Connector {
    /// Reads the files, which may block.
    ///
    /// # Errors
    /// All that cannot be used, with its key and the remedy.
    pub fn load(tls: &Tls) -> Result<Self, Vec<Unusable>> {
        let provider = Arc::new(ring::default_provider());
        let mut unusable = Vec::new();
        let roots = files::roots(tls).unwrap_or_else(|error| {
            unusable.push(error);
            RootCertStore::empty()
        });
        let identity = files::identity(tls, &provider, &mut unusable);
        let server_name = server_name(tls, &mut unusable);
        if !unusable.is_empty() {
            return Err(unusable);
        }
        let builder = builder(provider).with_root_certificates(roots);
        let own = own(identity.as_ref(), false);
        Ok(Self { config: Arc::new(finish(builder, identity)), server_name, own })
    }

    /// Trusts the CA with this fingerprint and no other, and shows this identity. `ca` is set once the CA was seen and
    /// the master's certificate found good.
    ///
    /// # Errors
    /// `server_name` is none that a certificate can have.
    pub fn pinned(
        fingerprint: [u8; 32],
        identity: Option<CertifiedKey>,
        server_name: Option<&str>,
        ca: Arc<OnceLock<CertificateDer<'static>>>,
    ) -> Result<Self, Vec<Unusable>> {
        let provider = Arc::new(ring::default_provider());
        let mut unusable = Vec::new();
        let tls = Tls { server_name: server_name.map(str::to_owned), ca_file: None, cert_file: None, key_file: None };
        let server_name = self::server_name(&tls, &mut unusable);
        if !unusable.is_empty() {
            return Err(unusable);
        }
        let verifier = Arc::new(pin::Pinned::new(fingerprint, provider.clone(), ca));
        let builder = builder(provider).dangerous().with_custom_certificate_verifier(verifier);
        let own = own(identity.as_ref(), true);
        Ok(Self { config: Arc::new(finish(builder, identity)), server_name, own })
    }

    /// For connections that are made elsewhere.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The certificate that it shows.
    pub fn own(&self) -> Option<Own> {
        self.own
    }

    /// The handshake. Has no time limit of its own.
    ///
    /// # Errors
    /// `tls`, with what a person can do; or what the network said.
    pub(super) async fn connect(&self, host: &str, socket: Socket) -> Result<TlsStream<Socket>, Failure> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| {
                let text = format!("{host} is no name that a certificate can have: set tls.server_name");
                Failure::new(LossReason::Tls, text)
            })?,
        };
        let connecting = tokio_rustls::TlsConnector::from(self.config.clone()).connect(name, socket);
        let stream = connecting.await.map_err(|error| errors::of_handshake(&error))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(stream),
            _ => Err(errors::not_http2()),
        }
    }
}

fn own(identity: Option<&CertifiedKey>, joined: bool) -> Option<Own> {
    Own::of(identity?.cert.first()?, joined)
}

fn builder(provider: Arc<CryptoProvider>) -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_details(provider, Arc::new(time::Judge))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
}

fn finish(builder: ConfigBuilder<ClientConfig, WantsClientCert>, identity: Option<CertifiedKey>) -> ClientConfig {
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session is made once in hours: tickets would be memory without a use.
    config.resumption = rustls::client::Resumption::disabled();
    config
}

fn server_name(tls: &Tls, unusable: &mut Vec<Unusable>) -> Option<ServerName<'static>> {
    let name = tls.server_name.as_ref()?;
    let parsed = ServerName::try_from(name.clone());
    if parsed.is_err() {
        let text = format!("is {name:?}, which no certificate can have: write a host name or an IP address");
        unusable.push(Unusable { key: "tls.server_name", text });
    }
    parsed.ok()
}
