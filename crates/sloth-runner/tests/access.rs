//! Every call of the protocol with every credential, over the wire: what is in the table is what happens.

#[path = "secured/credential.rs"]
mod credential;
mod secured;

use credential::{Authority, Credential, SOME_AGENT, VALID};
use proto::{AgentMessage, Register, agent_message::Kind as Up, agent_registry_client::AgentRegistryClient};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secured::{Master, PATIENCE};
use sloth_agent::token::Token;
use sloth_runner::access::{Who, decide};
use std::{collections::BTreeSet, fs, path::Path};
use tokio::time::timeout;
use tonic::{Code, Request};

/// 256 requests to join that never end, each with as much as may be sent.
#[tokio::test]
async fn requests_to_join_that_never_end_are_few_and_an_agent_joins_beside_them() {
    let master = Master::start(&[]).await;
    let stranger = Credential { name: "nothing", certificate: None, bearer: None, who: Some(Who::Anonymous) };
    let (mut calls, mut open) = (tokio::task::JoinSet::new(), Vec::new());
    for _ in 0..16 {
        let channel = stranger.channel(&master).await.unwrap();
        for _ in 0..16 {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            let (sender, messages) = tokio::sync::mpsc::channel(1);
            let request = proto::JoinRequest { token: "x".repeat(15_900), ..proto::JoinRequest::default() };
            sender.try_send(request).unwrap();
            open.push(sender);
            calls.spawn(async move {
                grpc.ready().await.unwrap();
                let codec = tonic_prost::ProstCodec::<proto::JoinRequest, proto::JoinReply>::default();
                let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
                let path = "/agent.AgentRegistry/Join".parse().unwrap();
                grpc.client_streaming(Request::new(messages), path, codec).await.unwrap_err().code()
            });
        }
    }
    for n in 0..256 - 64 {
        let code = timeout(PATIENCE, calls.join_next()).await.expect("it is answered").unwrap().unwrap();
        assert_eq!(code, Code::ResourceExhausted, "{n}");
    }
    let state = tempfile::tempdir().unwrap();
    master.joins(state.path(), "lady").active().await;
    drop(open);
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
    let request = proto::CheckRequest { register: Some(register.clone()) };
    let forecast = client.check(request).await.unwrap().into_inner();
    assert_eq!(forecast.reason(), proto::rejected::Reason::Unauthorized, "{}", forecast.message);
    assert!(!forecast.known, "it is told of another agent");
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

    // All of it left traces, with what was shown.
    let thief = SOME_AGENT.strip_prefix("sloth:agent:").unwrap();
    let text = fs::read_to_string(master.audit()).unwrap();
    for call in
        ["Check: as lady: the certificate is of", "Connect: registration as lady: the", "SendOutput: sloth-agent-id"]
    {
        let call = format!("/agent.AgentRegistry/{call}");
        let line = text.lines().find(|line| line.contains(&call)).unwrap_or_else(|| panic!("no {call} in {text}"));
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["action"], &line["who"]), (&"refused".into(), &format!("agent {thief}").into()), "{line}");
        assert!(line["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{line}");
    }
    let rejected = master.event("agent.rejected").await;
    assert!([hex, thief, "lady"].iter().all(|part| rejected.contains(part)), "{rejected}");
    let explained = master.tool("agent explain lady").await.out;
    assert!(explained.contains(thief) && explained.contains("was refused under its name or id"), "{explained}");
}

#[tokio::test]
async fn nobody_is_written_down_as_another_agent_for_coming_at_a_busy_time() {
    let master = Master::start(&["registrations.max_per_second=1"]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let victim = agent_uri(state.path());
    let id = fleet::id_from_hex(victim.strip_prefix("sloth:agent:").unwrap()).unwrap();
    let thief = Credential::certificate("thief", &Authority::of(&master), SOME_AGENT, VALID, None);
    let mut client = AgentRegistryClient::new(thief.channel(&master).await.unwrap());
    for _ in 0..10 {
        let register = Register {
            agent_id: id.to_vec(),
            instance_id: vec![1; 16],
            spool_id: vec![1; 16],
            name: "lady".to_owned(),
            ..Register::default()
        };
        let message = AgentMessage { kind: Some(Up::Register(register)) };
        let mut answers = client.connect(tokio_stream::iter([message])).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().and_then(|message| message.kind);
        assert!(matches!(answer, Some(proto::master_message::Kind::Rejected(_))), "{answer:?}");
    }
    let explained = master.tool("-o json agent explain lady").await.out;
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    let attempts = explained["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{explained}");
    assert_eq!(attempts[0]["reason"], "unauthorized", "{explained}");
    assert_eq!(attempts[0]["count"], 10, "{explained}");
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
