//! Every call of the protocol with every credential, over the wire: what is in the table is what happens.

mod secured;

use hyper_util::rt::TokioIo;
use proto::{AgentMessage, Register, agent_message::Kind as Up, agent_registry_client::AgentRegistryClient};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use secured::{Master, PATIENCE};
use sloth_agent::token::Token;
use sloth_runner::access::{Who, decide};
use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};

/// What somebody shows, and as whom that should count; none: it should count for nothing.
struct Credential {
    name: &'static str,
    certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    bearer: Option<String>,
    who: Option<Who>,
}

impl Credential {
    fn token(name: &'static str, text: &str, who: Option<Who>) -> Self {
        Self { name, certificate: None, bearer: Some(format!("Bearer {text}")), who }
    }

    /// A client certificate for this URI, by the authority with this certificate and key.
    fn certificate(name: &'static str, authority: &Authority, uri: &str, years: (i32, i32), who: Option<Who>) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let certificate = params.signed_by(&key, &authority.0).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Self { name, certificate: Some((certificate, key)), bearer: None, who }
    }

    async fn channel(&self, master: &Master) -> Result<Channel, tonic::transport::Error> {
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
        let dial = Dial { tls: TlsConnector::from(Arc::new(config)), address: master.address.clone() };
        let endpoint = Endpoint::from_shared(format!("http://{}", master.address)).unwrap();
        endpoint.connect_with_connector(dial).await
    }

    /// What comes of an empty message.
    async fn call(&self, master: &Master, path: &str) -> Code {
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

struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    fn of(master: &Master) -> Self {
        Self(Issuer::new(
            Self::params(),
            KeyPair::from_pem(&fs::read_to_string(master.file("ca.key")).unwrap()).unwrap(),
        ))
    }

    /// Of the same name, with another key.
    fn stranger() -> Self {
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

/// Of the protocol's own file: a call that is added is tried.
fn calls() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let files = protox::compile(["agent.proto"], [folder]).unwrap().file;
    let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let calls = services.flat_map(|(package, service)| {
        service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
    });
    calls.collect()
}

fn agent_uri(state: &Path) -> String {
    format!("sloth:agent:{}", fs::read_to_string(state.join("agent-id")).unwrap().trim())
}

const VALID: (i32, i32) = (2020, 2090);
const SOME_AGENT: &str = "sloth:agent:00112233445566778899aabbccddeeff";

async fn credentials(master: &Master) -> Vec<Credential> {
    let (own, stranger) = (Authority::of(master), Authority::stranger());
    let of = Credential::certificate;
    // One that has joined and was deleted.
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "gone");
    agent.active().await;
    let text = fs::read(state.path().join("identity.pem")).unwrap();
    let gone = (CertificateDer::from_pem_slice(&text).unwrap(), PrivateKeyDer::from_pem_slice(&text).unwrap());
    assert_eq!(master.tool("agent delete gone --force").await.code, 0);
    let gone = Credential { name: "a deleted agent's", certificate: Some(gone), bearer: None, who: None };
    drop(agent);

    let viewer = master.token("--role viewer").await;
    let (revoked, expired) = (master.token("--role operator").await, master.token("--role operator --ttl 1ms").await);
    let id = Token::parse(&revoked).unwrap().id();
    assert_eq!(master.tool(&format!("token revoke {id}")).await.code, 0);
    let operator = master.operator();
    let fingerprint = Token::parse(&operator).unwrap().fingerprint;
    let foreign = Token::new(fingerprint, [3; 32]).text();
    vec![
        Credential { name: "none", certificate: None, bearer: None, who: Some(Who::Anonymous) },
        of("an agent's", &own, SOME_AGENT, VALID, Some(Who::Agent)),
        of("an operator's certificate", &own, "sloth:operator:eva", VALID, Some(Who::Operator)),
        of("a viewer's certificate", &own, "sloth:viewer:eva", VALID, Some(Who::Viewer)),
        Credential::token("an operator's token", &operator, Some(Who::Operator)),
        Credential::token("a viewer's token", &viewer, Some(Who::Viewer)),
        gone,
        of("an agent's of another CA", &stranger, SOME_AGENT, VALID, None),
        of("an operator's of another CA", &stranger, "sloth:operator:eva", VALID, None),
        of("an expired one", &own, "sloth:operator:eva", (2020, 2021), None),
        of("one that is not yet valid", &own, "sloth:operator:eva", (2089, 2090), None),
        of("one that names nobody", &own, "https://example.com", VALID, None),
        Credential::token("a revoked token", &revoked, None),
        Credential::token("an expired token", &expired, None),
        Credential::token("a token of an agent", &master.token("").await, None),
        Credential::token("a secret that nobody has made", &foreign, None),
        Credential::token("a token that was cut", &operator[..operator.len() - 4], None),
        Credential { bearer: Some(operator), ..Credential::token("a token without its word", "", None) },
    ]
}

#[tokio::test]
async fn every_call_with_every_credential() {
    let master = Master::start(&[]).await;
    let mut admitted = 0;
    for credential in credentials(&master).await {
        for call in calls() {
            let code = timeout(PATIENCE, credential.call(&master, &call)).await.expect("it is answered");
            let refused = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
            // It is open to everybody, and says itself what it thinks of an empty message.
            let judges_itself = call.ends_with("/Join") && credential.who == Some(Who::Anonymous);
            let expected = credential.who.is_some_and(|who| decide(&call, who).is_ok());
            assert!(refused != expected || judges_itself, "{call} with {}: {code:?}", credential.name);
            admitted += usize::from(!refused);
        }
    }
    assert!(admitted > 30, "something was let through: {admitted}");
}

#[tokio::test]
async fn an_agent_acts_as_itself_alone() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let (victim, own) = (agent_uri(state.path()), Authority::of(&master));
    let thief = Credential::certificate("thief", &own, SOME_AGENT, VALID, None);
    let mut client = AgentRegistryClient::new(thief.channel(&master).await.unwrap());
    let hex = victim.strip_prefix("sloth:agent:").unwrap();
    let id = fleet::id_from_hex(hex).unwrap().to_vec();

    let register = Register {
        agent_id: id.clone(),
        instance_id: vec![1; 16],
        spool_id: vec![1; 16],
        name: "lady".to_owned(),
        ..Register::default()
    };
    let check = proto::CheckRequest { register: Some(register.clone()) };
    let told = client.check(check).await.unwrap().into_inner();
    assert_eq!(told.reason(), proto::rejected::Reason::Unauthorized, "{}", told.message);
    assert!(!told.known, "it learns nothing of the other");
    let message = AgentMessage { kind: Some(Up::Register(register)) };
    let mut answers = client.connect(tokio_stream::iter([message])).await.unwrap().into_inner();
    match answers.message().await.unwrap().and_then(|message| message.kind) {
        Some(proto::master_message::Kind::Rejected(rejected)) => {
            assert_eq!(rejected.reason(), proto::rejected::Reason::Unauthorized, "{}", rejected.message);
        }
        other => panic!("{other:?}"),
    }

    let mut output = Request::new(tokio_stream::iter([]));
    for (key, value) in [("sloth-agent-id", hex), ("sloth-epoch", "1"), ("sloth-command-id", "x")] {
        output.metadata_mut().insert(key, value.parse().unwrap());
    }
    let status = client.send_output(output).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "sloth-agent-id is not the one of the certificate")
    );

    let join = proto::JoinRequest { agent_id: id, name: "lady".to_owned(), ..Default::default() };
    assert_eq!(client.join(join).await.unwrap_err().code(), Code::InvalidArgument, "without a proof");
    assert!(master.tool("agent run lady -- true").await.code == 0, "the agent itself stays");
}

#[tokio::test]
async fn who_has_shown_nothing_cannot_send_much() {
    let master = Master::start(&[]).await;
    let nobody = Credential { name: "none", certificate: None, bearer: None, who: None };
    let mut client = AgentRegistryClient::new(nobody.channel(&master).await.unwrap());
    let large = proto::JoinRequest { name: "x".repeat(20 << 10), agent_id: vec![1; 16], ..Default::default() };
    let status = client.join(large).await.unwrap_err();
    assert!(!status.message().contains("the name is"), "all of it was read: {status}");
    let small = proto::JoinRequest { name: "x".repeat(10 << 10), agent_id: vec![1; 16], ..Default::default() };
    let status = client.join(small).await.unwrap_err();
    assert!(status.message().contains("the name is"), "{status}");
}
