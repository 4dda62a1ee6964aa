//! The agent of a released version, as it was recorded, with a master of today.
//!
//! Its messages go up as they were recorded, byte for byte, but for what holds on one connection alone (token, key and
//! proof of a `Join`). What today's master answers is read with the released protocol, as that agent would: it must say
//! the same in everything that does not differ from run to run (`words.rs` lists what does), and may say more in fields
//! and kinds that were not known then. Acknowledgements of output may come in other portions; what counts is how far
//! they go. Only the wait for a renewal is kept, as long as today's master says it is; nothing else takes its time.

use crate::{
    recordings,
    rig::{Between, Master, proof},
    script::{Script, Step},
    secured::PATIENCE,
    wire::{Call, Line},
    words::{Words, bytes, compared, encoded, inside, number, shown, with},
};
use protox::prost_reflect::{DynamicMessage, Value};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_master_does_for_a_released_agent_what_it_was_released_with() {
    for (version, script) in recordings("fleet") {
        eprintln!("agent of {version}");
        Player::new(Master::plain().await, script).play().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_master_refuses_and_probes_a_released_agent_in_its_words() {
    for (version, script) in recordings("refused") {
        eprintln!("agent of {version}");
        Player::new(Master::plain().await, script).play().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_master_lets_a_released_agent_join_and_renew() {
    for (version, script) in recordings("joined") {
        eprintln!("agent of {version}");
        Player::new(Master::secured().await, script).play().await;
    }
}

struct Player {
    master: Arc<Master>,
    script: Script,
    words: Words,
    /// The connection of the latest session.
    line: Option<Line>,
    calls: HashMap<usize, Played>,
    /// What the agent was last given.
    identity: Option<(CertificateDer<'static>, KeyPair)>,
    asked_for: Option<KeyPair>,
    /// When the master has said that the certificate is to be renewed: a promise that an agent keeps.
    renew_at: Option<Instant>,
    tools: Vec<tokio::task::JoinHandle<()>>,
}

struct Played {
    call: Call,
    /// What has come and was not asked for yet.
    waiting: Vec<DynamicMessage>,
    output: Acknowledged,
}

/// How far the answers on a call of output go, and the standard input that came with them.
#[derive(Default, Debug, PartialEq)]
struct Acknowledged {
    received: u64,
    durable: u64,
    stdin: Vec<u8>,
    eof: bool,
}

impl Acknowledged {
    fn take(&mut self, message: &DynamicMessage) {
        self.received = self.received.max(number(message, "received"));
        self.durable = self.durable.max(number(message, "durable"));
        if let Some(chunk) = inside(message, "stdin") {
            let at = usize::try_from(number(chunk, "offset")).unwrap();
            self.stdin.truncate(at);
            assert_eq!(self.stdin.len(), at, "standard input has a hole: {}", shown(message));
            self.stdin.extend(bytes(chunk, "data"));
            self.eof |= chunk.get_field_by_name("eof").unwrap().as_bool().unwrap();
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.received >= other.received
            && self.durable >= other.durable
            && self.stdin.starts_with(&other.stdin)
            && self.eof >= other.eof
    }
}

impl Player {
    fn new(master: Master, script: Script) -> Self {
        let words = script.words.clone();
        let calls = HashMap::new();
        Self {
            master: Arc::new(master),
            script,
            words,
            line: None,
            calls,
            identity: None,
            asked_for: None,
            renew_at: None,
            tools: Vec::new(),
        }
    }

    async fn play(mut self) {
        let mut expected: HashMap<usize, Acknowledged> = HashMap::new();
        let master = self.master.clone();
        for step in self.script.steps.clone() {
            match step {
                Step::Agent { .. } | Step::Exit { .. } => {}
                Step::Operator { args, stdin } => {
                    let master = master.clone();
                    self.tools.push(tokio::spawn(async move { drop(master.tool(args, stdin).await) }));
                }
                Step::Call { call, method, metadata } => self.open(&master, call, &method, &metadata).await,
                Step::Said { call, up: true, bytes } => self.say(&master, call, bytes).await,
                Step::Said { call, up: false, bytes } => {
                    let recorded = self.words.read(self.script.method(call), false, &bytes);
                    if self.script.method(call) == "SendOutput" {
                        let expected = expected.entry(call).or_default();
                        expected.take(&recorded);
                        self.acknowledged(call, expected).await;
                    } else {
                        self.hear(call, &recorded).await;
                    }
                }
                Step::UpEnd { call } => drop(self.played(call).call.send.take()),
                Step::DownEnd { call, code } => self.ended(call, code).await,
                Step::Cut => {
                    for (_, played) in self.calls.drain() {
                        played.call.cut().await;
                    }
                    self.line = None;
                }
                Step::MasterEnds => master.end(),
                Step::Saw(what) => master.saw(&what).await,
            }
        }
        for tool in self.tools {
            timeout(PATIENCE, tool).await.expect("the tool ends").unwrap();
        }
    }

    fn played(&mut self, call: usize) -> &mut Played {
        self.calls.get_mut(&call).expect("a call is opened before it is used")
    }

    async fn open(&mut self, master: &Master, call: usize, method: &str, metadata: &[(String, String)]) {
        let tls = match master {
            Master::Plain { .. } => None,
            Master::Secured(secured) => {
                let identity = self.identity.as_ref().map(|(certificate, key)| (certificate, key));
                Some(Between(secured.directory.path()).client(identity))
            }
        };
        let line = match (method, &self.line) {
            ("SendOutput" | "Join", Some(line)) => line.clone(),
            _ => Line::open(&master.address(), tls).await,
        };
        let played = Played { call: line.call(method, metadata), waiting: Vec::new(), output: Acknowledged::default() };
        if method == "Connect" {
            self.line = Some(line);
        }
        self.calls.insert(call, played);
    }

    async fn say(&mut self, master: &Master, call: usize, recorded: bytes::Bytes) {
        let mut said = recorded;
        if let (Master::Secured(secured), "Join") = (master, self.script.method(call)) {
            let message = self.words.read("Join", true, &said);
            let key = KeyPair::generate().unwrap();
            let exported = self.played(call).call.exported.or(self.line.as_ref().and_then(Line::exported));
            let proof = proof(&key, &exported.expect("it is TLS"), &bytes(&message, "agent_id"));
            let mut message = with(&message, "public_key", Value::Bytes(key.public_key_raw().to_vec().into()));
            message.set_field_by_name("proof", Value::Bytes(proof.into()));
            if message.has_field_by_name("token") {
                let token = std::fs::read_to_string(secured.file("join.token")).unwrap();
                message.set_field_by_name("token", Value::String(token.trim().to_owned()));
            } else {
                sleep_until(self.renew_at.expect("it was told when")).await;
            }
            said = encoded(&message);
            self.asked_for = Some(key);
        }
        let send = self.played(call).call.send.as_ref().expect("it has not ended").clone();
        send.send(Ok(said)).await.expect("the call goes on");
    }

    /// Takes what comes on this call up to something that says the same.
    async fn hear(&mut self, call: usize, recorded: &DynamicMessage) {
        let words = self.words.clone();
        let method = self.script.method(call).to_owned();
        let wanted = compared(recorded);
        let played = self.played(call);
        let heard = loop {
            if let Some(at) = played.waiting.iter().position(|message| compared(message) == wanted) {
                break played.waiting.remove(at);
            }
            let next = timeout(PATIENCE, played.call.receive.recv()).await;
            let Ok(Some(Ok(bytes))) = next else {
                let came: Vec<String> = played.waiting.iter().map(compared).collect();
                panic!("call {call}: no\n{wanted}\nbut {next:?} after\n{}", came.join("\n"));
            };
            played.waiting.push(words.read(&method, false, &bytes));
        };
        let told = match method.as_str() {
            "Join" => number(&heard, "renew_in_ms"),
            _ => inside(&heard, "registered").map_or(0, |registered| number(registered, "certificate_renew_in_ms")),
        };
        if told > 0 {
            self.renew_at = Some(Instant::now() + Duration::from_millis(told));
        }
        if method == "Join" {
            let key = self.asked_for.take().expect("it was asked for");
            self.identity = Some((bytes(&heard, "certificate").into(), key));
        }
    }

    async fn acknowledged(&mut self, call: usize, expected: &Acknowledged) {
        let words = self.words.clone();
        let played = self.played(call);
        while !played.output.covers(expected) {
            let next = timeout(PATIENCE, played.call.receive.recv()).await;
            let Ok(Some(Ok(bytes))) = next else { panic!("{next:?} and {:?}, not {expected:?}", played.output) };
            played.output.take(&words.read("SendOutput", false, &bytes));
        }
    }

    async fn ended(&mut self, call: usize, code: i32) {
        let words = self.words.clone();
        let method = self.script.method(call).to_owned();
        let mut played = self.calls.remove(&call).expect("a call is opened before it is used");
        let end = loop {
            match timeout(PATIENCE, played.call.receive.recv()).await.expect("the call ends") {
                Some(Ok(bytes)) if method == "SendOutput" => played.output.take(&words.read(&method, false, &bytes)),
                Some(Ok(bytes)) => played.waiting.push(words.read(&method, false, &bytes)),
                Some(Err(status)) => break i32::from(status.code()),
                None => break 0,
            }
        };
        assert_eq!(end, code, "call {call} ends so");
        // Of kinds that the agent does not know it takes no notice.
        let more = played.waiting.iter().map(shown).find(|text| !text.is_empty() && !text.starts_with("heartbeat_ack"));
        assert_eq!(more, None, "call {call}: more than was said then");
    }
}
