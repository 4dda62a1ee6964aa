//! The master of a released version, as it was recorded, with an agent of today.
//!
//! What it says goes down as it was recorded, byte for byte, but for the certificate, which must be for the key that
//! today's agent has just made. It says it when the agent has said what went before. What the agent says is read with
//! the released protocol, as that master would, and must be the same in everything that does not differ from run to run
//! (`words.rs` lists what does). Output may come in other portions; what counts is what came on each of the two streams.
//! Heartbeats come at the agent's own pace: more of them than were recorded are no matter.

use crate::{
    recordings,
    rig::{Agents, Between},
    script::{Script, Step},
    secured::{self, PATIENCE},
    wire::{Call, serve},
    words::{Words, bytes, compared, encoded, inside, number, shown, with},
};
use protox::prost_reflect::{DynamicMessage, Value};
use std::collections::{BTreeMap, HashMap};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_agent_does_for_a_released_master_what_it_was_released_with() {
    for (version, script) in recordings("fleet") {
        eprintln!("master of {version}");
        Player::new(script, None).await.play().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_agent_takes_the_refusals_and_probes_of_a_released_master() {
    for (version, script) in recordings("refused") {
        eprintln!("master of {version}");
        Player::new(script, None).await.play().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn todays_agent_joins_and_renews_with_a_released_master() {
    for (version, script) in recordings("joined") {
        eprintln!("master of {version}");
        // It serves nobody here: it has made an authority, and a token that names it.
        let files = secured::Master::start(&[]).await;
        Player::new(script, Some(files)).await.play().await;
    }
}

struct Player {
    script: Script,
    words: Words,
    files: Option<secured::Master>,
    address: String,
    arriving: mpsc::Receiver<Call>,
    arrived: Vec<Call>,
    calls: HashMap<usize, Played>,
    agents: Agents,
}

struct Played {
    call: Call,
    waiting: Vec<DynamicMessage>,
    output: Output,
    expected: Output,
    /// The last `Join`'s key.
    asked: Option<DynamicMessage>,
    /// What an older master takes once more for what it was: it knows nothing of the start that is told so.
    accepted: Vec<String>,
    last_ack: u64,
}

/// What came of a command's output on one call.
#[derive(Default, Debug)]
struct Output {
    streams: BTreeMap<i32, Vec<u8>>,
    /// Where the next message must begin.
    end: Option<u64>,
    stdin_received: u64,
}

impl Output {
    fn take(&mut self, message: &DynamicMessage) {
        let (offset, data) = (number(message, "offset"), bytes(message, "data"));
        self.stdin_received = self.stdin_received.max(number(message, "stdin_received"));
        if data.is_empty() {
            return;
        }
        assert_eq!(*self.end.get_or_insert(offset), offset, "output has a hole: {}", shown(message));
        self.end = Some(offset + data.len() as u64);
        let stream = message.get_field_by_name("stream").unwrap().as_enum_number().unwrap();
        self.streams.entry(stream).or_default().extend(data);
    }
}

impl Player {
    async fn new(script: Script, files: Option<secured::Master>) -> Self {
        let tls = files.as_ref().map(|files| Between(files.directory.path()).server());
        let (address, arriving) = serve(tls).await;
        let (words, address) = (script.words.clone(), address.to_string());
        let (arrived, calls, agents) = (Vec::new(), HashMap::new(), Agents::none());
        Self { script, words, files, address, arriving, arrived, calls, agents }
    }

    async fn play(mut self) {
        for step in self.script.steps.clone() {
            match step {
                Step::Agent { .. } => {
                    let token =
                        self.files.as_ref().map(|files| std::fs::read_to_string(files.file("join.token")).unwrap());
                    let more: Vec<&str> = token.iter().flat_map(|token| ["--token", token.trim()]).collect();
                    self.agents.start(&step, &self.address, &more);
                }
                Step::Operator { .. } | Step::MasterEnds | Step::Saw(_) => {}
                Step::Call { call, method, metadata } => self.opened(call, &method, &metadata).await,
                Step::Said { call, up: true, bytes } => self.hear(call, &bytes).await,
                Step::Said { call, up: false, bytes } => self.say(call, bytes).await,
                Step::UpEnd { call } => self.ended(call).await,
                Step::DownEnd { call, code } => {
                    let send = self.played(call).call.send.take().expect("it ends once");
                    if code != 0 {
                        let _ = send.send(Err(Status::new(Code::from_i32(code), "as it was recorded"))).await;
                    }
                }
                Step::Cut => {
                    for (_, played) in self.calls.drain() {
                        played.call.cut().await;
                    }
                }
                Step::Exit { key, code } => assert_eq!(self.agents.exit(&key).await, code, "{key}"),
            }
        }
        let beating: Vec<_> = self.calls.values().filter(|played| played.call.method == "Connect").collect();
        assert!(beating.is_empty() || beating.iter().any(|played| played.last_ack > 0), "no answer was ever told of");
    }

    fn played(&mut self, call: usize) -> &mut Played {
        self.calls.get_mut(&call).expect("a call is opened before it is used")
    }

    async fn opened(&mut self, call: usize, method: &str, metadata: &[(String, String)]) {
        let found = loop {
            let fits = |arrived: &Call| arrived.method == method && arrived.metadata == metadata;
            if let Some(at) = self.arrived.iter().position(fits) {
                break self.arrived.remove(at);
            }
            let Ok(next) = timeout(PATIENCE, self.arriving.recv()).await else {
                let came: Vec<_> = self.arrived.iter().map(|call| (&call.method, &call.metadata)).collect();
                panic!("no call of {method} {metadata:?}, but {came:?}");
            };
            self.arrived.push(next.expect("it serves"));
        };
        let (output, expected) = (Output::default(), Output::default());
        let played = Played {
            call: found,
            waiting: Vec::new(),
            output,
            expected,
            asked: None,
            accepted: Vec::new(),
            last_ack: 0,
        };
        self.calls.insert(call, played);
    }

    async fn say(&mut self, call: usize, recorded: bytes::Bytes) {
        let words = self.words.clone();
        let folder = self.files.as_ref().map(|files| files.directory.path().to_owned());
        let played = self.played(call);
        let mut said = recorded;
        if let ("Join", Some(folder)) = (played.call.method.as_str(), folder) {
            let asked = played.asked.take().expect("it was asked");
            let made = Between(&folder).issue(&bytes(&asked, "agent_id"), &bytes(&asked, "public_key"));
            said = encoded(&with(&words.read("Join", false, &said), "certificate", Value::Bytes(made.into())));
        }
        let send = played.call.send.as_ref().expect("it has not ended").clone();
        send.send(Ok(said)).await.expect("the agent is there");
    }

    /// Takes what comes on this call up to something that says the same.
    async fn hear(&mut self, call: usize, recorded: &[u8]) {
        let words = self.words.clone();
        let method = self.script.method(call).to_owned();
        let recorded = words.read(&method, true, recorded);
        let played = self.played(call);
        if method == "SendOutput" {
            played.expected.take(&recorded);
            while played.output.end < played.expected.end
                || played.output.stdin_received < played.expected.stdin_received
            {
                let next = timeout(PATIENCE, played.call.receive.recv()).await;
                let Ok(Some(Ok(bytes))) = next else { panic!("call {call}: {next:?}, {:?}", played.output) };
                played.output.take(&words.read(&method, true, &bytes));
            }
            return;
        }
        let wanted = compared(&recorded);
        let heard = loop {
            if let Some(at) = played.waiting.iter().position(|message| compared(message) == wanted) {
                break played.waiting.remove(at);
            }
            let next = timeout(PATIENCE, played.call.receive.recv()).await;
            let Ok(Some(Ok(bytes))) = next else {
                let came: Vec<String> = played.waiting.iter().map(compared).collect();
                panic!("call {call}: no\n{wanted}\nbut {next:?} after\n{}", came.join("\n"));
            };
            let message = words.read(&method, true, &bytes);
            if let Some(beat) = inside_beat(&message) {
                let (seq, last_ack) = (number(beat, "seq"), number(beat, "last_ack"));
                assert!(last_ack < seq, "answers are to beats that were sent: {}", shown(beat));
                played.last_ack = played.last_ack.max(last_ack);
            }
            played.waiting.push(message);
        };
        if inside(&heard, "command_accepted").is_some() {
            played.accepted.push(shown(&heard));
        }
        if method == "Join" {
            played.asked = Some(heard);
        }
    }

    /// The agent closes its side, and has said nothing else.
    async fn ended(&mut self, call: usize) {
        let words = self.words.clone();
        let method = self.script.method(call).to_owned();
        let played = self.played(call);
        while let Some(Ok(bytes)) = timeout(PATIENCE, played.call.receive.recv()).await.expect("the call ends") {
            let message = words.read(&method, true, &bytes);
            if method == "SendOutput" { played.output.take(&message) } else { played.waiting.push(message) }
        }
        let (came, expected) = (&played.output.streams, &played.expected.streams);
        assert_eq!(came, expected, "call {call}: what came on each stream");
        let said = |text: &String| text.is_empty() || text.starts_with("heartbeat") || played.accepted.contains(text);
        let more = played.waiting.iter().map(shown).find(|text| !said(text));
        assert_eq!(more, None, "call {call}: more than was said then");
    }
}

fn inside_beat(message: &DynamicMessage) -> Option<&DynamicMessage> {
    inside(message, "heartbeat")
}
