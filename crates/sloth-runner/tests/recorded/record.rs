//! Makes the recordings: a real agent and a real master of today, with one between them who writes down what is said.

use crate::{
    rig::{Agents, Between, Master, proof},
    script::{Script, Step},
    secured::PATIENCE,
    wire::{Call, Line, serve},
    words::{Words, bytes, encoded, inside, number, with},
};
use protox::prost_reflect::{DynamicMessage, Value};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tonic::Status;

const LADY: &str = "51070000000000000000000000000001";
const KEITE: &str = "51070000000000000000000000000002";

/// Major and minor number of what is recorded.
fn version() -> String {
    env!("CARGO_PKG_VERSION").rsplit_once('.').expect("three numbers").0.to_owned()
}

type Answers = mpsc::WeakSender<Result<bytes::Bytes, Status>>;

/// Whoever runs what is ignored because it takes long does not mean this.
fn is_asked_for() -> bool {
    std::env::var_os("UPDATE").is_some()
}

/// One that stands between agents and their master.
#[derive(Clone)]
struct Recorder(Arc<Inner>);

struct Inner {
    master: Master,
    words: Words,
    address: String,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    steps: Vec<Step>,
    calls: usize,
    line: Option<Line>,
    /// Of a master behind TLS: as whom this one connects there.
    identity: Option<(CertificateDer<'static>, Arc<KeyPair>)>,
    open: Vec<(JoinHandle<()>, Answers)>,
}

impl Recorder {
    async fn before(master: Master) -> Self {
        let tls = match &master {
            Master::Plain { .. } => None,
            Master::Secured(secured) => Some(Between(secured.directory.path()).server()),
        };
        let (address, mut calls) = serve(tls).await;
        let (words, address) = (Words::of(&version()), address.to_string());
        let recorder = Self(Arc::new(Inner { master, words, address, said: Mutex::default() }));
        let between = recorder.clone();
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                between.pass_on(call).await;
            }
        });
        recorder
    }

    fn note(&self, step: Step) {
        self.0.said.lock().unwrap().steps.push(step);
    }

    async fn pass_on(&self, call: Call) {
        let number = {
            let mut said = self.0.said.lock().unwrap();
            said.calls += 1;
            let step = Step::Call { call: said.calls, method: call.method.clone(), metadata: call.metadata.clone() };
            said.steps.push(step);
            said.calls
        };
        let kept = { self.0.said.lock().unwrap().line.clone() };
        let line = match (call.method.as_str(), kept) {
            ("SendOutput" | "Join", Some(line)) => line,
            _ => {
                let identity = self.0.said.lock().unwrap().identity.clone();
                let tls = match &self.0.master {
                    Master::Plain { .. } => None,
                    Master::Secured(secured) => {
                        let identity = identity.as_ref().map(|(certificate, key)| (certificate, &**key));
                        Some(Between(secured.directory.path()).client(identity))
                    }
                };
                Line::open(&self.0.master.address(), tls).await
            }
        };
        if call.method == "Connect" {
            self.0.said.lock().unwrap().line = Some(line.clone());
        }
        let onward = line.call(&call.method, &call.metadata);
        let exported = onward.exported.or(line.exported());
        let (method, answers) = (call.method.clone(), call.send.as_ref().expect("just opened").downgrade());
        let task = tokio::spawn(self.clone().pump(number, method, call, onward, exported));
        self.0.said.lock().unwrap().open.push((task, answers));
    }

    async fn pump(self, n: usize, method: String, mut call: Call, mut onward: Call, exported: Option<[u8; 32]>) {
        let (mut asked, mut up_open) = (None, true);
        loop {
            tokio::select! {
                message = call.receive.recv(), if up_open => match message {
                    Some(Ok(mut message)) => {
                        if method == "Join" {
                            let request = self.0.words.read("Join", true, &message);
                            let mut shown = request.clone();
                            if shown.has_field_by_name("token") {
                                shown.set_field_by_name("token", Value::String("sloth1.…".to_owned()));
                            }
                            self.note(Step::Said { call: n, up: true, bytes: encoded(&shown) });
                            let key = KeyPair::generate().unwrap();
                            let proof = proof(&key, &exported.expect("it is TLS"), &bytes(&request, "agent_id"));
                            let mut own = with(&request, "public_key", Value::Bytes(key.public_key_raw().to_vec().into()));
                            own.set_field_by_name("proof", Value::Bytes(proof.into()));
                            message = encoded(&own);
                            asked = Some((request, key));
                        } else {
                            self.note(Step::Said { call: n, up: true, bytes: message.clone() });
                        }
                        if let Some(send) = &onward.send {
                            let _ = send.send(Ok(message)).await;
                        }
                    }
                    end => {
                        up_open = false;
                        if end.is_none() {
                            self.note(Step::UpEnd { call: n });
                        }
                        onward.send = None;
                    }
                },
                message = onward.receive.recv() => {
                    let Some(send) = &call.send else { return };
                    match message {
                        Some(Ok(mut message)) => {
                            self.note(Step::Said { call: n, up: false, bytes: message.clone() });
                            if let Some((request, key)) = asked.take() {
                                message = self.certify(&message, &request, key);
                            }
                            let _ = send.send(Ok(message)).await;
                        }
                        Some(Err(status)) => {
                            self.note(Step::DownEnd { call: n, code: status.code().into() });
                            let _ = send.send(Err(status)).await;
                            return;
                        }
                        None => {
                            self.note(Step::DownEnd { call: n, code: 0 });
                            return;
                        }
                    }
                }
            }
        }
    }

    /// The master's answer to a `Join`, with a certificate for the agent's key; this one keeps the master's.
    fn certify(&self, answer: &[u8], request: &DynamicMessage, key: KeyPair) -> bytes::Bytes {
        let Master::Secured(secured) = &self.0.master else { panic!("there is no Join in the clear") };
        let answer = self.0.words.read("Join", false, answer);
        let made = Between(secured.directory.path()).issue(&bytes(request, "agent_id"), &bytes(request, "public_key"));
        self.0.said.lock().unwrap().identity = Some((bytes(&answer, "certificate").into(), Arc::new(key)));
        encoded(&with(&answer, "certificate", Value::Bytes(made.into())))
    }

    async fn cut(&self) {
        let open = {
            let mut said = self.0.said.lock().unwrap();
            said.steps.push(Step::Cut);
            said.line = None;
            std::mem::take(&mut said.open)
        };
        for (task, answers) in open {
            // First this: the channel ends with the task.
            if let Some(answers) = answers.upgrade() {
                let _ = answers.send(Err(Status::unavailable("the connection was cut"))).await;
            }
            task.abort();
        }
    }

    fn agent(&self, agents: &mut Agents, key: &str, id: &str, args: &str, more: &[&str]) {
        let args = args.split(' ').map(str::to_owned).collect();
        let step = Step::Agent { key: key.to_owned(), id: id.to_owned(), args };
        self.note(step.clone());
        agents.start(&step, &self.0.address, more);
    }

    async fn operator(&self, args: &[&str], stdin: Option<&str>) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let stdin = stdin.map(str::to_owned);
        self.note(Step::Operator { args: args.clone(), stdin: stdin.clone() });
        let done = self.0.master.tool(args, stdin).await;
        eprintln!("{} {} {}", done.code, done.out, done.err);
    }

    /// Waits until something was said in which this is found.
    async fn until(&self, what: &str, found: impl Fn(&str, bool, &DynamicMessage) -> bool) {
        let look = async {
            loop {
                let script = Script { steps: self.0.said.lock().unwrap().steps.clone(), words: self.0.words.clone() };
                let is_it = |step: &Step| match step {
                    Step::Said { call, up, bytes } => {
                        let method = script.method(*call);
                        found(method, *up, &self.0.words.read(method, *up, bytes))
                    }
                    _ => false,
                };
                if script.steps.iter().any(is_it) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn until_acknowledged(&self, seq: u64) {
        let is_it = |_: &str, up: bool, message: &DynamicMessage| {
            !up && inside(message, "heartbeat_ack").is_some_and(|ack| number(ack, "seq") == seq)
        };
        self.until("acknowledged", is_it).await;
    }

    async fn until_finished(&self, id: &str) {
        let is_it = |_: &str, up: bool, message: &DynamicMessage| {
            !up && inside(message, "finished_ack")
                .is_some_and(|ack| ack.get_field_by_name("id").unwrap().as_str() == Some(id))
        };
        self.until("finished", is_it).await;
    }

    async fn saw(&self, what: serde_json::Value) {
        let seen = self.0.master.seen(&what).await;
        self.note(Step::Saw(seen));
    }

    fn write(&self, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(version());
        std::fs::create_dir_all(&folder).unwrap();
        let script = Script { steps: self.0.said.lock().unwrap().steps.clone(), words: self.0.words.clone() };
        let head = "# What was said between agent and master. Made by tests/recorded/record.rs; its form: script.rs\n";
        let path: PathBuf = folder.join(format!("{name}.session"));
        std::fs::write(path, head.to_owned() + &script.text()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it writes the recording"]
async fn fleet() {
    if !is_asked_for() {
        return;
    }
    let recorder = Recorder::before(Master::plain().await).await;
    let mut agents = Agents::none();
    recorder.agent(&mut agents, "lady", LADY, "start --name lady --label site=berlin", &[]);
    // The first twelve beats, of which one has the node's status.
    recorder.until_acknowledged(13).await;
    let run = ["agent", "run", "lady"];
    let cases: [(&[&str], Option<&str>); 5] = [
        (&["-n", "--id", "exits", "--env", "A=b", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], None),
        (&["--id", "reads", "--dir", "/tmp", "--", "sh", "-c", "cat; pwd"], Some("typed\n")),
        (&["-n", "--id", "signal", "--shell", "kill -9 $$"], None),
        (&["-n", "--id", "slow", "--timeout", "1s", "--", "sleep", "600"], None),
        (&["-n", "--id", "absent", "--", "/no/such/program"], None),
    ];
    for (args, stdin) in cases {
        recorder.operator(&[&run[..], args].concat(), stdin).await;
        recorder.until_finished(args[if args[0] == "-n" { 2 } else { 1 }]).await;
    }
    // Cancelled once it has said something: whether one that says nothing has begun, nobody can tell.
    let long = ["--detach", "--id", "long", "--", "sh", "-c", "echo runs; sleep 600"];
    recorder.operator(&[&run[..], &long].concat(), None).await;
    let runs = |method: &str, up: bool, message: &DynamicMessage| {
        method == "SendOutput" && up && bytes(message, "data") == b"runs\n"
    };
    recorder.until("it runs", runs).await;
    recorder.operator(&["command", "cancel", "long"], None).await;
    recorder.until_finished("long").await;
    // One that goes on while the connection is away.
    let across = ["--detach", "--id", "across", "--", "sh", "-c", "echo before; sleep 4; echo after"];
    recorder.operator(&[&run[..], &across].concat(), None).await;
    let durable = |method: &str, up: bool, message: &DynamicMessage| {
        method == "SendOutput" && !up && number(message, "durable") == 7
    };
    recorder.until("the first line is durable", durable).await;
    recorder.cut().await;
    recorder.until_finished("across").await;
    for id in ["exits", "reads", "signal", "slow", "absent", "long", "across"] {
        recorder.saw(json!({ "id": id })).await;
    }
    recorder.saw(json!({ "name": "lady" })).await;
    recorder.operator(&["agent", "stop", "lady"], None).await;
    let code = agents.exit("lady").await;
    recorder.note(Step::Exit { key: "lady".to_owned(), code });
    recorder.saw(json!({ "name": "lady" })).await;
    recorder.write("fleet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it writes the recording"]
async fn refused() {
    if !is_asked_for() {
        return;
    }
    let recorder = Recorder::before(Master::plain().await).await;
    let mut agents = Agents::none();
    recorder.agent(&mut agents, "lady", LADY, "start --name lady", &[]);
    recorder.until_acknowledged(2).await;
    recorder.agent(&mut agents, "tried", KEITE, "doctor --name keite", &[]);
    let code = agents.exit("tried").await;
    recorder.note(Step::Exit { key: "tried".to_owned(), code });
    let rejected = |reason: i32| {
        move |_: &str, up: bool, message: &DynamicMessage| {
            let reason_of = |it: &DynamicMessage| it.get_field_by_name("reason").unwrap().as_enum_number();
            !up && inside(message, "rejected").is_some_and(|it| reason_of(it) == Some(reason))
        }
    };
    recorder.agent(&mut agents, "namesake", KEITE, "start --name lady", &[]);
    recorder.until("the name is taken", rejected(3)).await;
    recorder.agent(&mut agents, "copy", LADY, "start --name keite", &[]);
    recorder.until("the id is in use", rejected(2)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    recorder.note(Step::MasterEnds);
    recorder.0.master.end();
    let goodbye = |_: &str, up: bool, message: &DynamicMessage| !up && inside(message, "goodbye").is_some();
    recorder.until("goodbye", goodbye).await;
    recorder.write("refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it writes the recording"]
async fn joined() {
    if !is_asked_for() {
        return;
    }
    let recorder = Recorder::before(Master::secured().await).await;
    let Master::Secured(secured) = &recorder.0.master else { unreachable!("it was started so") };
    let token = std::fs::read_to_string(secured.file("join.token")).unwrap();
    let mut agents = Agents::none();
    recorder.agent(&mut agents, "lady", LADY, "start --name lady", &["--token", token.trim()]);
    recorder.until_acknowledged(2).await;
    let renewed = |method: &str, up: bool, message: &DynamicMessage| {
        method == "Join" && up && !message.has_field_by_name("token")
    };
    recorder.until("it asks for the next certificate", renewed).await;
    recorder.operator(&["agent", "run", "lady", "-n", "--id", "here", "--", "echo", "here"], None).await;
    recorder.until_finished("here").await;
    recorder.saw(json!({ "id": "here" })).await;
    recorder.operator(&["agent", "stop", "lady"], None).await;
    let code = agents.exit("lady").await;
    recorder.note(Step::Exit { key: "lady".to_owned(), code });
    recorder.write("joined");
}
