//! What somebody shows to a master behind TLS, made by its own authority or by another.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::secured::Master;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use sloth_runner::access::Who;
use std::{
    fs, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};

pub const VALID: (i32, i32) = (2020, 2090);
pub const SOME_AGENT: &str = "sloth:agent:00112233445566778899aabbccddeeff";

/// What somebody shows, and as whom that should count; none: it should count for nothing.
pub struct Credential {
    pub name: &'static str,
    pub certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    pub bearer: Option<String>,
    pub who: Option<Who>,
}

impl Credential {
    pub fn token(name: &'static str, text: &str, who: Option<Who>) -> Self {
        Self { name, certificate: None, bearer: Some(format!("Bearer {text}")), who }
    }

    /// A client certificate for this URI, by the authority with this certificate and key.
    pub fn certificate(
        name: &'static str,
        authority: &Authority,
        uri: &str,
        years: (i32, i32),
        who: Option<Who>,
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let certificate = params.signed_by(&key, &authority.0).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Self { name, certificate: Some((certificate, key)), bearer: None, who }
    }

    pub fn config(&self, master: &Master) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(master.file("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    pub async fn channel(&self, master: &Master) -> Result<Channel, tonic::transport::Error> {
        let dial = Dial { tls: TlsConnector::from(self.config(master)), address: master.address.clone() };
        let endpoint = Endpoint::from_shared(format!("http://{}", master.address)).unwrap();
        endpoint.connect_with_connector(dial).await
    }

    /// What comes of an empty message.
    pub async fn call(&self, master: &Master, path: &str) -> Code {
        let Ok(channel) = self.channel(master).await else { return Code::Unauthenticated };
        let mut grpc = tonic::client::Grpc::new(channel);
        if grpc.ready().await.is_err() {
            return Code::Unauthenticated;
        }
        let mut request = Request::new(());
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        }
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = grpc.server_streaming(request, path.parse().unwrap(), codec).await;
        match answer {
            Ok(_) => Code::Ok,
            // TLS 1.3 refuses a certificate after the client's part of the handshake is over.
            Err(status) if std::error::Error::source(&status).is_some() => Code::Unauthenticated,
            Err(status) => status.code(),
        }
    }
}

pub struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    pub fn of(master: &Master) -> Self {
        Self(Issuer::new(
            Self::params(),
            KeyPair::from_pem(&fs::read_to_string(master.file("ca.key")).unwrap()).unwrap(),
        ))
    }

    /// Of the same name, with another key.
    pub fn stranger() -> Self {
        Self(Issuer::new(Self::params(), KeyPair::generate().unwrap()))
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Sloth Runner CA");
        params
    }
}

#[derive(Clone)]
struct Dial {
    tls: TlsConnector,
    address: String,
}

impl tower_service::Service<http::Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Self { tls, address } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            tls.connect(name, stream).await.map(TokioIo::new)
        })
    }
}
