//! TLS 1.3 to a master: whom to trust, who we are, and what went wrong in a person's words.

mod errors;
mod files;
mod time;

pub(super) use errors::{failure, is_a_record, spoken_in_the_clear};
pub use files::{Unusable, roots};

use super::{Failure, socket::Socket};
use crate::config::Tls;
use link::LossReason;
use rustls::{ClientConfig, RootCertStore, crypto::ring, sign::SingleCertAndKey, version::TLS13};
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio_rustls::client::TlsStream;

/// Makes sessions of TLS. Clones share the configuration.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// Instead of the master's host.
    server_name: Option<ServerName<'static>>,
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
        let builder = ClientConfig::builder_with_details(provider, Arc::new(time::Judge))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
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

fn server_name(tls: &Tls, unusable: &mut Vec<Unusable>) -> Option<ServerName<'static>> {
    let name = tls.server_name.as_ref()?;
    let parsed = ServerName::try_from(name.clone());
    if parsed.is_err() {
        let text = format!("is {name:?}, which no certificate can have: write a host name or an IP address");
        unusable.push(Unusable { key: "tls.server_name", text });
    }
    parsed.ok()
}
