//! Whoever has a good credential and bad intentions: what he does ends his own call or connection, and nobody else's.

use crate::{
    credential::{Authority, Credential, SOME_AGENT, VALID},
    secured::{Agent, Master, PATIENCE},
};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use proto::{AgentMessage, Register, agent_message::Kind};
use rustls_pki_types::ServerName;
use std::net::{Ipv4Addr, SocketAddr};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const ONE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// # Errors
/// It was closed before it was known here to be open.
pub async fn connect_from(source: Ipv4Addr, master: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.into(), 0)).unwrap();
    socket.connect(master.parse().unwrap()).await
}

/// Waits until the other side has closed it.
pub async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = timeout(PATIENCE, stream.read(&mut [0])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

async fn tls(source: Ipv4Addr, credential: &Credential, master: &Master) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = connect_from(source, &master.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(credential.config(master)).connect(name, stream).await
}

/// One connection of HTTP/2, with nothing done for its owner.
pub struct Client {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    bearer: Option<String>,
}

/// A call that is open.
struct Call {
    up: SendStream<Bytes>,
    response: h2::client::ResponseFuture,
}

impl Client {
    pub async fn of(credential: &Credential, master: &Master) -> Self {
        Self::from(ONE, credential, master).await.unwrap()
    }

    pub async fn from(source: Ipv4Addr, credential: &Credential, master: &Master) -> Result<Self, String> {
        Self::with(source, credential, master, h2::client::Builder::new()).await
    }

    async fn with(
        source: Ipv4Addr,
        credential: &Credential,
        master: &Master,
        builder: h2::client::Builder,
    ) -> Result<Self, String> {
        let stream = tls(source, credential, master).await.map_err(|error| error.to_string())?;
        let (requests, connection) = builder.handshake(stream).await.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(async move { _ = connection.await });
        Ok(Self { requests, connection, bearer: credential.bearer.clone() })
    }

    async fn open(&mut self, path: &str) -> Option<Call> {
        let mut request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", bearer);
        }
        self.requests = timeout(PATIENCE, self.requests.clone().ready()).await.unwrap().ok()?;
        let (response, up) = self.requests.send_request(request.body(()).unwrap(), false).ok()?;
        Some(Call { up, response })
    }

    /// A whole call with this body; its status, if it was answered.
    pub async fn call(&mut self, path: &str, body: &[u8]) -> Option<u32> {
        let mut call = self.open(path).await?;
        // One that is refused before it is read takes no body.
        let _ = call.up.send_data(Bytes::copy_from_slice(body), true);
        call.status().await
    }

    /// Waits until the master has closed it.
    pub async fn closed(self) {
        timeout(PATIENCE, self.connection).await.expect("it is closed").unwrap();
    }
}

impl Call {
    fn send(&mut self, bytes: &[u8]) {
        self.up.send_data(Bytes::copy_from_slice(bytes), false).unwrap();
    }

    /// How it ends; none with its connection.
    async fn status(self) -> Option<u32> {
        let Self { up: _up, response } = self;
        let response = timeout(PATIENCE, response).await.expect("it is answered").ok()?;
        let status = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        if let Some(status) = status(response.headers()) {
            return Some(status);
        }
        let mut body: RecvStream = response.into_body();
        let read = async {
            while let Some(data) = body.data().await {
                let data = data.ok()?;
                let _ = body.flow_control().release_capacity(data.len());
            }
            status(&body.trailers().await.ok()??)
        };
        timeout(PATIENCE, read).await.expect("it ends")
    }
}

/// An honest agent, whose link must outlive what the others do.
struct Honest {
    agent: Agent,
    _state: TempDir,
}

impl Honest {
    async fn start(master: &Master) -> Self {
        let state = tempfile::tempdir().unwrap();
        // No heartbeat of it may fail: it is not to share that with a busy machine.
        let beat = ["--set", "heartbeat.interval=\"1s\"", "--set", "heartbeat.timeout=\"1s\""];
        let mut agent = master.joins_with(state.path(), "lady", &beat);
        agent.active().await;
        Self { agent, _state: state }
    }

    async fn was_left_alone(mut self, master: &Master) {
        assert_eq!(master.tool("agent run lady -- true").await.code, 0);
        self.agent.process.kill().await.unwrap();
        let said = self.agent.log.whole().await;
        assert!(!said.contains("Lost") && !said.contains("Heartbeat failed"), "{said}");
    }
}

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn register() -> Register {
    Register {
        agent_id: fleet::id_from_hex(SOME_AGENT.strip_prefix("sloth:agent:").unwrap()).unwrap().to_vec(),
        instance_id: vec![1; 16],
        spool_id: vec![1; 16],
        name: "thief".to_owned(),
        interval_ms: 100,
        timeout_ms: 100,
        max_failures: 1,
        will_wait_ms: 10_000,
        ..Register::default()
    }
}

fn registration() -> Vec<u8> {
    framed(&AgentMessage { kind: Some(Kind::Register(register())) })
}

fn thief(master: &Master) -> Credential {
    Credential::certificate("an agent's", &Authority::of(master), SOME_AGENT, VALID, None)
}

const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const OUT_OF_RANGE: u32 = 11;
const INTERNAL: u32 = 13;

#[tokio::test]
async fn a_call_that_was_open_before_its_token_was_revoked_changes_nothing() {
    let master = Master::start(&[]).await;
    let (thief, other) = (master.token("--role operator").await, master.token("--role viewer").await);
    let id = |token: &str| sloth_agent::token::Token::parse(token).unwrap().id();
    let mut client = Client::of(&Credential::token("a thief's", &thief, None), &master).await;
    let mut call = client.open("/agent.Fleet/RevokeToken").await.unwrap();
    // What comes after it on the connection is answered: it was let in.
    let list = framed(&proto::ListTokensRequest::default());
    assert_eq!(client.call("/agent.Fleet/ListTokens", &list).await, Some(0));
    assert_eq!(master.tool(&format!("token revoke {}", id(&thief))).await.code, 0);
    let request = framed(&proto::RevokeTokenRequest { id: id(&other) });
    let _ = call.up.send_data(request.into(), true); // it may have been ended already
    assert_ne!(call.status().await, Some(0));
    assert_eq!(master.tool_with(&other, "agent list").await.code, 0);
}

#[tokio::test]
async fn a_message_that_begins_and_stops_and_a_call_that_says_nothing_are_ended() {
    let master = Master::start(&["connections.message_timeout=500ms"]).await;
    let honest = Honest::start(&master).await;
    let operator = Credential::token("an operator's", &master.operator(), None);
    for (credential, paths) in [
        (operator, ["/agent.Fleet/List", "/agent.Fleet/Run", "/agent.Fleet/Events"]),
        (thief(&master), ["/agent.AgentRegistry/Connect", "/agent.AgentRegistry/Check", "/agent.AgentRegistry/Join"]),
    ] {
        let mut client = Client::of(&credential, &master).await;
        for path in paths {
            // 100 bytes are announced, and one comes; a head that is not whole; nothing at all.
            for begun in [&[0, 0, 0, 0, 100, 7][..], &[0, 0], &[]] {
                let mut call = client.open(path).await.unwrap();
                if !begun.is_empty() {
                    call.send(begun);
                }
                // Of a session it is the session that ends, and its call with it.
                let expected = if path.ends_with("/Connect") { 0 } else { DEADLINE_EXCEEDED };
                assert_eq!(call.status().await, Some(expected), "{path} {begun:?}");
            }
        }
    }
    honest.was_left_alone(&master).await;
}

#[tokio::test]
async fn messages_that_are_too_large_or_no_messages_end_their_call_and_their_connection_goes_on() {
    // The master ends what is wrong, not what is slow.
    let master = Master::start(&["connections.message_timeout=1h"]).await;
    let honest = Honest::start(&master).await;
    let mut client = Client::of(&thief(&master), &master).await;
    let too_large = [&[0][..], &(5_u32 << 20).to_be_bytes()].concat();
    for (bytes, status) in [(&too_large[..], OUT_OF_RANGE), (&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff], INTERNAL)] {
        for before in [Vec::new(), registration()] {
            let mut call = client.open("/agent.AgentRegistry/Connect").await.unwrap();
            call.send(&[&before[..], bytes].concat());
            let told = call.status().await;
            // Within a session it is the session that ends.
            assert!(told == Some(status) || told == Some(0), "{bytes:?}: {told:?}");
        }
        assert_eq!(client.call("/agent.AgentRegistry/Check", bytes).await, Some(status));
    }
    let whole = framed(&proto::CheckRequest { register: Some(register()) });
    assert_eq!(client.call("/agent.AgentRegistry/Check", &whole).await, Some(0), "the connection goes on");
    honest.was_left_alone(&master).await;
}

#[tokio::test]
async fn an_agent_has_so_many_calls_open_and_no_more() {
    let master = Master::start(&[]).await;
    let honest = Honest::start(&master).await;
    let mut client = Client::of(&thief(&master), &master).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let Call { up, response } = client.open("/agent.AgentRegistry/Connect").await.unwrap();
        // With the head of its answer it is open on the other side, too.
        open.push((up, timeout(PATIENCE, response).await.unwrap().unwrap()));
    }
    let whole = framed(&proto::CheckRequest { register: Some(register()) });
    assert_eq!(client.call("/agent.AgentRegistry/Check", &whole).await, Some(RESOURCE_EXHAUSTED));

    // Of large messages that have begun even fewer: three of 3 MiB are more than 8.
    let mut client = Client::of(&thief(&master), &master).await;
    let begun = [&[0][..], &(3_u32 << 20).to_be_bytes()].concat();
    let mut calls = Vec::new();
    for _ in 0..3 {
        let mut call = client.open("/agent.AgentRegistry/Check").await.unwrap();
        call.send(&begun);
        calls.push(Box::pin(call.status()));
    }
    let [one, two, three] = calls.as_mut_slice() else { panic!("three") };
    let told = tokio::select! { told = one => told, told = two => told, told = three => told };
    assert_eq!(told, Some(RESOURCE_EXHAUSTED));
    honest.was_left_alone(&master).await;
}

#[tokio::test]
async fn an_agent_that_reads_nothing_is_lost_and_its_connection_cut() {
    let mut master = Master::start(&[]).await;
    let honest = Honest::start(&master).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let mut deaf = Client::with(ONE, &thief(&master), &master, builder).await.unwrap();
    let mut call = deaf.open("/agent.AgentRegistry/Connect").await.unwrap();
    call.send(&registration());
    master.log.line("agent.lost thief").await;
    deaf.closed().await;
    honest.was_left_alone(&master).await;
}

#[tokio::test]
async fn what_is_no_http2_ends_its_connection() {
    let master = Master::start(&["connections.message_timeout=1h", "connections.unknown_timeout=1h"]).await;
    let honest = Honest::start(&master).await;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let frames: [(&str, &[u8]); 6] = [
        ("no preface", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a frame of 16 MiB", b"\xff\xff\xff\0\0\0\0\0\x01"),
        ("data of no call", b"\0\0\x01\0\0\0\0\0\x01x"),
        ("headers that are none", b"\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff"),
        ("a window of nothing", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0"),
        ("a continuation of nothing", b"\0\0\x01\x09\x04\0\0\0\x01x"),
    ];
    for (what, bytes) in frames {
        let mut stream = tls(ONE, &thief(&master), &master).await.unwrap();
        if what != "no preface" {
            stream.write_all(PREFACE).await.unwrap();
        }
        stream.write_all(bytes).await.unwrap();
        let mut said = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
        assert!(closed.is_ok(), "{what} is closed");
    }
    honest.was_left_alone(&master).await;
}

/// Of one caller, as the documentation says.
const LOOKS_MAX: usize = 256;

#[tokio::test]
async fn who_looks_and_reads_nothing_has_so_many_calls_open_and_is_in_nobodys_way() {
    let master = Master::start(&[]).await;
    let honest = Honest::start(&master).await;
    let viewer = Credential::token("a viewer's", &master.token("--role viewer").await, None);
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0).max_concurrent_reset_streams(0);
    let mut client = Client::with(ONE, &viewer, &master, builder).await.unwrap();
    let body = framed(&proto::EventsRequest::default());
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..LOOKS_MAX + 44 {
        let mut call = client.open("/agent.Fleet/Events").await.expect("the connection is left");
        let _ = call.up.send_data(Bytes::copy_from_slice(&body), true);
        let response = timeout(PATIENCE, call.response).await.expect("it is answered").unwrap();
        match response.headers().get("grpc-status") {
            Some(status) => {
                assert_eq!(status, "8", "resource exhausted");
                refused += 1;
            }
            None => open.push(response.into_body()),
        }
    }
    assert_eq!((open.len(), refused), (LOOKS_MAX, 44));
    assert_eq!(master.tool("agent events --last 5").await.code, 0);
    honest.was_left_alone(&master).await;
    // Once they are let go of, others have their places.
    drop(open);
    let mut client = Client::of(&viewer, &master).await;
    let again = async { while client.call("/agent.Fleet/Events", &body).await != Some(0) {} };
    timeout(PATIENCE, again).await.expect("there is room again");
}
