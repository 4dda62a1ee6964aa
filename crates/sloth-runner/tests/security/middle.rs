//! Somebody between an agent that joins and its master: he shows certificates of his own, listens, and sends again what
//! he has heard.

use crate::{
    secrets::{secret_of, shapes},
    secured::{Agent, Master, PATIENCE},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::{ServerConfig, crypto::ring::default_provider, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sloth_agent::{
    config::MasterAddress,
    joining::statement,
    token::Token,
    transport::{self, Dialled, Resolver, tls::Connector},
};
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::Code;

/// What passed on one connection, to the master and from it.
#[derive(Default)]
struct Heard {
    up: Vec<u8>,
    down: Vec<u8>,
}

type Record = Arc<Mutex<Vec<Heard>>>;

/// Passes bytes through and keeps them: its address, and what it heard.
async fn listens(master: String) -> (String, Record) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, record) = (listener.local_addr().unwrap().to_string(), Record::default());
    let heard = record.clone();
    tokio::spawn(async move {
        while let Ok((agent, _)) = listener.accept().await {
            let there = TcpStream::connect(&master).await.unwrap();
            let number = {
                let mut all = heard.lock().unwrap();
                all.push(Heard::default());
                all.len() - 1
            };
            let (from_agent, to_agent) = agent.into_split();
            let (from_master, to_master) = there.into_split();
            tokio::spawn(pass(from_agent, to_master, heard.clone(), move |all| &mut all[number].up));
            tokio::spawn(pass(from_master, to_agent, heard.clone(), move |all| &mut all[number].down));
        }
    });
    (address, record)
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    heard: Record,
    place: impl Fn(&mut Vec<Heard>) -> &mut Vec<u8>,
) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        place(&mut heard.lock().unwrap()).extend(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Speaks TLS with these certificates and keeps all that he is told in it.
async fn pretends(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> (String, Arc<Mutex<Vec<u8>>>) {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, told) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Vec::new())));
    let hears = told.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, hears) = (acceptor.clone(), hears.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    hears.lock().unwrap().extend(&buffer[..read]);
                }
            });
        }
    });
    (address, told)
}

fn holds(bytes: &[u8], token: &str) -> bool {
    let shapes = shapes(&secret_of(token));
    shapes.iter().any(|shape| bytes.windows(shape.len()).any(|part| part == shape))
}

fn joins_at(address: &str, token: &str, state: &std::path::Path) -> Agent {
    let words = ["start", "--master", address, "--token", token].map(str::to_owned);
    Agent::start(words.into(), state, "lady")
}

async fn joined(master: &Master) -> usize {
    master.tool("agent events").await.out.matches("agent.joined").count()
}

/// The state of a token, and how many uses it has left, as the tool shows it.
async fn uses_left(master: &Master, token: &str) -> serde_json::Value {
    let id = Token::parse(token).unwrap().id();
    let listed: serde_json::Value = serde_json::from_str(&master.tool("-o json token list").await.out).unwrap();
    let row = listed.as_array().unwrap().iter().find(|row| row["id"] == id.as_str()).expect("it is listed");
    row["uses_left"].clone()
}

#[tokio::test]
async fn who_shows_another_certificate_is_told_nothing() {
    let master = Master::start(&[]).await;
    let token = master.token("").await;
    let own_ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // As the real one is called.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sloth Runner CA");
    let own_ca = params.self_signed(&own_ca_key).unwrap().der().clone();
    let issuer = Issuer::new(params, own_ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
    let real_ca = CertificateDer::from_pem_file(master.file("ca.pem")).unwrap();
    let real = CertificateDer::from_pem_file(master.file("master.pem")).unwrap();
    for (chain, text) in [
        (vec![certificate.clone()], "the master shows another CA than the one that the token names"),
        (vec![certificate.clone(), own_ca.clone()], "the master shows another CA than the one that the token names"),
        // Anybody can show the real ones, behind his own.
        (vec![certificate.clone(), real_ca.clone()], "the master's certificate is of an unknown CA"),
        (vec![certificate, own_ca, real, real_ca], "the master's certificate is of an unknown CA"),
    ] {
        let (address, told) = pretends(chain, &key).await;
        let state = tempfile::tempdir().unwrap();
        let mut agent = joins_at(&address, &token, state.path());
        for attempt in 1..=2 {
            agent.log.line(&format!("(attempt {attempt}): {text}")).await;
        }
        agent.kill().await;
        assert!(!state.path().join("identity.pem").exists());
        let told = told.lock().unwrap();
        assert!(told.is_empty(), "{} bytes were told", told.len());
    }
    assert_eq!(joined(&master).await, 0);
}

#[tokio::test]
async fn what_was_heard_of_a_join_is_of_no_use_again() {
    let master = Master::start(&[]).await;
    let (between, record) = listens(master.address.clone()).await;
    let token = master.token("--uses 2").await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = joins_at(&between, &token, state.path());
    agent.active().await;
    agent.kill().await;
    assert_eq!((joined(&master).await, uses_left(&master, &token).await), (1, 1.into()));
    let heard: Vec<_> = record.lock().unwrap().iter().map(|one| (one.up.clone(), one.down.clone())).collect();
    assert!(heard.len() >= 2 && heard.iter().all(|(up, down)| up.len() > 500 && down.len() > 500), "it listened");
    for (up, down) in &heard {
        assert!(!holds(up, &token) && !holds(down, &token), "the secret was readable");
    }

    // To the master: it ends each of them in TLS.
    for (up, _) in &heard {
        let mut stream = TcpStream::connect(&master.address).await.unwrap();
        stream.write_all(up).await.unwrap();
        let mut answer = Vec::new();
        // With bytes of ours unread it may end by a reset.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the master ends it");
    }
    // To an agent that joins.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let down = heard[0].1.clone();
    let told = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut told = vec![0; 4096];
        let read = stream.read(&mut told).await.unwrap();
        told.truncate(read);
        stream.write_all(&down).await.unwrap();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut told)).await.expect("the agent ends it");
        told
    });
    let other = tempfile::tempdir().unwrap();
    let mut agent = joins_at(&address, &token, other.path());
    agent.log.line("(attempt 1): ").await;
    assert!(!holds(&told.await.unwrap(), &token));
    agent.kill().await;
    assert!(!other.path().join("identity.pem").exists());
    assert_eq!((joined(&master).await, uses_left(&master, &token).await), (1, 1.into()));
}

/// Passes on all that goes to the master, and of what comes from it only what is said before the agent has spoken twice:
/// the handshake goes through, and the answer to what is asked next is lost.
async fn loses_answers(master: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut agent, _)) = listener.accept().await {
            let mut there = TcpStream::connect(&master).await.unwrap();
            tokio::spawn(async move {
                let (mut from_agent, mut from_master) = ([0; 4096], [0; 4096]);
                let mut spoken = 0;
                loop {
                    tokio::select! {
                        Ok(read @ 1..) = agent.read(&mut from_agent) => {
                            spoken += 1;
                            there.write_all(&from_agent[..read]).await.unwrap();
                        }
                        Ok(read @ 1..) = there.read(&mut from_master) => {
                            if spoken < 2 {
                                agent.write_all(&from_master[..read]).await.unwrap();
                            }
                        }
                        else => return,
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn an_agent_that_was_killed_before_it_had_its_answer_is_answered_after_its_restart() {
    let master = Master::start(&[]).await;
    let token = master.token("--uses 1").await;
    let state = tempfile::tempdir().unwrap();
    let agent = joins_at(&loses_answers(master.address.clone()).await, &token, state.path());
    timeout(PATIENCE, async { while uses_left(&master, &token).await != 0 {} }).await.expect("the master lets it in");
    agent.kill().await;
    assert!(!state.path().join("identity.pem").exists());

    let mut agent = joins_at(&master.address, &token, state.path());
    agent.active().await;
    assert!(!state.path().join("joining.pem").exists(), "it has served");
    agent.kill().await;
    assert_eq!((joined(&master).await, uses_left(&master, &token).await), (1, 0.into()));
}

/// A connection to the master by what the token says of it.
async fn dialled(master: &Master, token: &str) -> Dialled {
    let token = Token::parse(token).unwrap();
    let connector = Connector::pinned(token.fingerprint, None, None, Arc::default()).unwrap();
    let address = MasterAddress::parse(&master.address).unwrap();
    transport::connect(&address, &mut Resolver::default(), PATIENCE, Some(&connector)).await.unwrap()
}

/// What an agent with this id and key sends on this connection.
fn request(on: &Dialled, token: &str, id: [u8; 16], key: &EcdsaKeyPair) -> proto::JoinRequest {
    let public_key = key.public_key().as_ref();
    let statement = statement(&on.exported.expect("it is TLS"), &id, public_key);
    let proof = key.sign(&SystemRandom::new(), &statement).unwrap();
    proto::JoinRequest {
        token: token.to_owned(),
        agent_id: id.to_vec(),
        name: "lady".to_owned(),
        public_key: public_key.to_vec(),
        proof: proof.as_ref().to_vec(),
    }
}

/// What the master says to it: the code of its refusal.
async fn asked(on: &Dialled, request: &proto::JoinRequest) -> Result<(), (Code, String)> {
    let reply = on.client.clone().join(request.clone()).await;
    reply.map(drop).map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn a_request_to_join_is_good_on_its_own_connection_alone_and_a_used_token_for_its_own_key() {
    let master = Master::start(&[]).await;
    let token = master.token("--uses 1").await;
    let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
    let [key, other_key] = [(); 2].map(|()| {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()
    });
    let (one, other) = (dialled(&master, &token).await, dialled(&master, &token).await);
    let first = request(&one, &token, [1; 16], &key);
    let refused = asked(&other, &first).await.unwrap_err();
    assert_eq!(refused.0, Code::InvalidArgument, "{}", refused.1);
    assert!(refused.1.starts_with("the proof does not show that the key is the agent's"), "{}", refused.1);
    assert_eq!(uses_left(&master, &token).await, 1, "a refusal is no use");
    // Its id or its name's key cannot be put in another's place either.
    let stolen = proto::JoinRequest { agent_id: vec![2; 16], ..first.clone() };
    assert_eq!(asked(&one, &stolen).await.unwrap_err().0, Code::InvalidArgument);
    let key_of_another = other_key.public_key().as_ref().to_vec();
    let stolen = proto::JoinRequest { public_key: key_of_another, ..first.clone() };
    assert_eq!(asked(&one, &stolen).await.unwrap_err().0, Code::InvalidArgument);

    assert_eq!(asked(&one, &first).await, Ok(()));
    assert_eq!(asked(&one, &first).await, Ok(()), "an answer that was lost is given again");
    assert_eq!(asked(&other, &first).await.unwrap_err().0, Code::InvalidArgument);
    // The token is used up for everybody but this agent with this key.
    for (id, key) in [([1; 16], &other_key), ([2; 16], &key), ([2; 16], &other_key)] {
        let refused = asked(&other, &request(&other, &token, id, key)).await.unwrap_err();
        assert!(refused.0 == Code::Unauthenticated && refused.1.contains("the token is used up"), "{refused:?}");
    }
    assert_eq!(joined(&master).await, 1, "the second answer was to the same request");
    // A secret that was made up, for the right CA; and a token of another master.
    let made_up = Token::new(Token::parse(&token).unwrap().fingerprint, [7; 32]).text();
    let refused = asked(&other, &request(&other, &made_up, [3; 16], &key)).await.unwrap_err();
    assert!(refused.0 == Code::Unauthenticated && refused.1.contains("does not know the token"), "{refused:?}");
    let foreign = Master::start(&[]).await.token("").await;
    let refused = asked(&other, &request(&other, &foreign, [3; 16], &key)).await.unwrap_err();
    assert!(refused.0 == Code::Unauthenticated && refused.1.contains("is it of another one?"), "{refused:?}");
    let cut = request(&other, &token[..token.len() - 2], [3; 16], &key);
    let refused = asked(&other, &cut).await.unwrap_err();
    assert!(refused.0 == Code::Unauthenticated && refused.1.contains("is cut short or mistyped"), "{refused:?}");
}
