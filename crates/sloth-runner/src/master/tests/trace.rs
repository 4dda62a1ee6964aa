//! Whoever changes something leaves a trace, also when he breaks the call off; and who may only look is shown no secrets.

use super::bench::{PATIENCE, register, soon};
use crate::{
    access::{Caller, TABLE, Who},
    audit::{Audit, FILE},
    master::{
        FleetService, Options,
        core::{Core, Queueing},
        ports::{
            Store,
            memory::{MemoryOutputs, MemoryStore},
        },
        session, start as start_core,
        wires::Outbox,
    },
    security::{Role, admission::NewToken, pki::Authority, testing},
};
use fleet::{AgentRecord, ConnId, Submit};
use http_body_util::{BodyExt, Full};
use prost::Message;
use proto::{
    CancelRequest, CommandSpec, CreateTokenRequest, DeleteRequest, EventsRequest, GetCommandRequest, GetRequest,
    ListCommandsRequest, ListRequest, LogsRequest, RevokeTokenRequest, RunRequest, RunStart, StdinChunk, StopRequest,
    fleet_server::FleetServer, master_message::Kind as Down, run_request::Kind,
};
use std::{
    fs,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::body::Body;
use tower_service::Service;

/// What the operator alone may call, and what changes nothing.
const LOOKS: [&str; 1] = ["/agent.Fleet/ListTokens"];

/// A call waits for the store, for the database and for others no more often than this.
const STAGES: usize = 8;

const SECRET: &str = "hunter2";

type Answer = http::Response<Body>;
type IsChanged = Box<dyn Fn(&Rig) -> bool>;

/// A master with an agent (`here`), one that is away (`gone`), a command that waits for that, and a token.
struct Rig {
    core: Arc<Core>,
    store: Arc<MemoryStore>,
    outbox: Arc<Outbox>,
    token: String,
    folder: TempDir,
}

impl Rig {
    async fn new() -> Self {
        let (folder, security) = testing::security();
        let mut security = Arc::into_inner(security).unwrap();
        let path = |name: &str| folder.path().join(name);
        let authority = Authority::load(&path("ca.pem"), &path("ca.key"), Duration::from_secs(3_600)).unwrap();
        let new = NewToken { role: Role::Viewer, name: String::new(), labels: [].into(), ttl_ms: None, uses: None };
        let (_, record) = security.admission.create(authority.fingerprint, new).unwrap();
        security.authority = Some(authority);
        let audit = Some(Arc::new(Audit::open(&path(FILE), 1 << 20, 2).unwrap()));
        security.audit = audit.clone();
        let (store, outputs) = (Arc::new(MemoryStore::default()), Arc::new(MemoryOutputs::default()));
        let mut snapshot = store.snapshot();
        snapshot.agents = vec![away()];
        let options = Options { security: Some(Arc::new(security)), audit, ..Options::named("test") };
        let core = start_core(store.clone(), outputs, snapshot, options, Duration::from_millis(1));
        let (conn, outbox) = core.wires.open(core.now().monotonic);
        enter(&core, conn);
        let rig = Self { core, store, outbox, token: record.id, folder };
        rig.settled().await;
        let submit = Submit { id: "waits".to_owned(), agent: "gone".to_owned(), spec: spec() };
        rig.core.submit(submit, None, Some(Queueing { expires: None })).unwrap();
        rig.settled().await;
        assert!(rig.store.command("waits").unwrap().is_some());
        assert!(matches!(rig.told().as_slice(), [Down::Registered(_)]));
        rig
    }

    /// As the guard passes it on.
    fn call(&self, path: &str, who: Who, messages: &[Vec<u8>]) -> impl Future<Output = Answer> + use<> {
        let mut body = Vec::new();
        for message in messages {
            body.push(0);
            body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            body.extend(message);
        }
        let mut request = http::Request::post(path).body(Body::new(Full::new(body.into()))).unwrap();
        request.extensions_mut().insert(Caller::new(Some(who), "eva".to_owned(), None));
        let mut service = FleetServer::new(FleetService { core: self.core.clone() });
        let answer = service.call(request);
        async { answer.await.unwrap() }
    }

    /// Whatever is under way has come to its end.
    async fn settled(&self) {
        for _ in 0..STAGES {
            for _ in 0..STAGES {
                tokio::task::yield_now().await;
            }
            // One thread each, in order.
            soon(tokio::task::spawn_blocking(|| ())).await.unwrap();
            let (done, answer) = oneshot::channel();
            self.store.write(Vec::new(), Box::new(move |_| _ = done.send(())));
            soon(answer).await.unwrap();
        }
    }

    /// What the agent has been told since it was asked last.
    fn told(&self) -> Vec<Down> {
        let mut context = Context::from_waker(Waker::noop());
        let next = || match self.outbox.poll_next(&mut context) {
            Poll::Ready(message) => message.and_then(|message| message.kind),
            Poll::Pending => None,
        };
        std::iter::from_fn(next).collect()
    }

    /// The kinds of the events that say who did what. The audit file says the same.
    fn trace(&self) -> Vec<String> {
        let events = self.store.events(None, None, 0, 1_000).unwrap();
        let kinds = events.into_iter().filter(|event| event.kind.starts_with("audit."));
        let kinds: Vec<_> = kinds.map(|event| event.kind).collect();
        assert_eq!(self.filed(), kinds, "file and events");
        kinds
    }

    fn filed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(FILE)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| format!("audit.{}", line["action"].as_str().unwrap())).collect()
    }

    /// What a call is given that changes something, and whether it has.
    fn change(&self, path: &str) -> (Vec<u8>, IsChanged) {
        let security = |rig: &Self| rig.core.security.clone().unwrap();
        match path.strip_prefix("/agent.Fleet/").unwrap() {
            "Run" => {
                (run("c1", "here", CommandSpec::default()), Box::new(|rig| rig.store.command("c1").unwrap().is_some()))
            }
            "Cancel" => {
                let over = |rig: &Self| rig.store.command("waits").unwrap().unwrap().outcome.is_some();
                (CancelRequest { id: "waits".to_owned() }.encode_to_vec(), Box::new(over))
            }
            "Stop" => {
                let told = |rig: &Self| rig.told().iter().any(|told| matches!(told, Down::Shutdown(_)));
                (StopRequest { name: "here".to_owned() }.encode_to_vec(), Box::new(told))
            }
            "Delete" => {
                let known = |rig: &Self| rig.core.read(|fleet| fleet.registry().find("gone")).is_some();
                let request = DeleteRequest { name: "gone".to_owned(), force: false };
                (request.encode_to_vec(), Box::new(move |rig| !known(rig)))
            }
            "CreateToken" => {
                let request = CreateTokenRequest { role: "viewer".to_owned(), ..CreateTokenRequest::default() };
                (request.encode_to_vec(), Box::new(move |rig| security(rig).admission.tokens().len() == 2))
            }
            "RevokeToken" => {
                let revoked =
                    move |rig: &Self| security(rig).admission.tokens().iter().any(|token| token.revoked_ms.is_some());
                (RevokeTokenRequest { id: self.token.clone() }.encode_to_vec(), Box::new(revoked))
            }
            _ => panic!("{path} is the operator's alone: say here how it is called and what it changes"),
        }
    }
}

fn away() -> AgentRecord {
    AgentRecord {
        id: [2; 16],
        name: "gone".to_owned(),
        host: String::new(),
        version: String::new(),
        address: String::new(),
        labels: [].into(),
        spool_id: [2; 16],
        epoch: 1,
        status: fleet::Status::Stopped,
        reason: String::new(),
        detail: String::new(),
        since_unix_ms: 1,
        last_heartbeat_unix_ms: 1,
    }
}

fn enter(core: &Arc<Core>, conn: ConnId) {
    let (register, held) = session::split(register(1, "here"), [1; 16], [1; 16], [1; 16], None, core.now());
    session::enter(core, None, conn, register, held);
}

fn spec() -> CommandSpec {
    let env = vec![format!("DBPASS={SECRET}").into_bytes()];
    CommandSpec { argv: vec![b"true".to_vec()], env, ..CommandSpec::default() }
}

fn run(id: &str, agent: &str, more: CommandSpec) -> Vec<u8> {
    let spec = CommandSpec { stdin: more.stdin, ..spec() };
    let start = RunStart { id: id.to_owned(), agent: agent.to_owned(), spec: Some(spec), ..RunStart::default() };
    RunRequest { kind: Some(Kind::Start(start)) }.encode_to_vec()
}

/// Polls it so often at most, each time when it was woken, and drops it then.
async fn polled<T>(work: impl Future<Output = T>, times: usize) -> Option<T> {
    let (mut work, mut left) = (pin!(work), times);
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// On one thread, and with one for what blocks: all is done in the order in which it was begun.
fn in_order(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(1).build().unwrap().block_on(test);
}

fn is_ok(answer: &Answer) -> bool {
    answer.headers().get("grpc-status").is_none_or(|status| status == "0")
}

#[test]
fn a_change_leaves_its_trace_wherever_the_call_for_it_is_broken_off() {
    let alone = TABLE.iter().filter(|(path, who)| *who == [Who::Operator] && !LOOKS.contains(path));
    let paths: Vec<_> = alone.map(|(path, _)| *path).collect();
    assert!(paths.len() >= 6, "{paths:?}");
    in_order(async {
        for path in paths {
            let mut broken_off_and_done = 0;
            for polls in 0.. {
                let rig = Rig::new().await;
                let (message, is_changed) = rig.change(path);
                let done = soon(polled(rig.call(path, Who::Operator, &[message]), polls)).await;
                let whole = done.as_ref().map(is_ok);
                drop(done);
                rig.settled().await;
                let (changed, trace) = (is_changed(&rig), rig.trace());
                assert_eq!(usize::from(changed), trace.len(), "{path} after {polls} polls: {trace:?}");
                assert!(whole.is_none_or(|ok| ok && changed), "{path} does not do it");
                if whole.is_some() {
                    println!("{path}: {polls} polls, broken off and done {broken_off_and_done} times");
                    break;
                }
                broken_off_and_done += usize::from(changed);
            }
        }
    });
}

#[test]
fn what_fails_is_not_told_as_done() {
    in_order(async {
        let told = [
            ("Run", vec![]),
            ("Delete", vec!["audit.delete"]),
            // They are in a database of their own.
            ("CreateToken", vec!["audit.token_created"]),
            ("RevokeToken", vec!["audit.token_revoked"]),
        ];
        for (name, expected) in told {
            let rig = Rig::new().await;
            let path = format!("/agent.Fleet/{name}");
            let (message, is_changed) = rig.change(&path);
            rig.store.fail(Some("disk full"));
            let answer = soon(rig.call(&path, Who::Operator, &[message])).await;
            rig.settled().await;
            assert_eq!(
                (is_ok(&answer), is_changed(&rig)),
                (name.ends_with("Token"), name.ends_with("Token")),
                "{name}"
            );
            assert_eq!(rig.filed(), expected, "{name}");
            if name == "Delete" {
                let text = fs::read_to_string(rig.folder.path().join(FILE)).unwrap();
                assert!(text.contains("certificates of the agent revoked, the agent not deleted"), "{text}");
            }
        }
        // And what is refused.
        let rig = Rig::new().await;
        for (path, message) in [
            ("/agent.Fleet/Run", run("c1", "nobody", CommandSpec::default())),
            ("/agent.Fleet/Cancel", CancelRequest { id: "nothing".to_owned() }.encode_to_vec()),
            ("/agent.Fleet/Stop", StopRequest { name: "gone".to_owned() }.encode_to_vec()),
            ("/agent.Fleet/Delete", DeleteRequest { name: "here".to_owned(), force: false }.encode_to_vec()),
            ("/agent.Fleet/CreateToken", CreateTokenRequest::default().encode_to_vec()),
            ("/agent.Fleet/RevokeToken", RevokeTokenRequest { id: "none".to_owned() }.encode_to_vec()),
        ] {
            assert!(!is_ok(&soon(rig.call(path, Who::Operator, &[message])).await), "{path}");
        }
        rig.settled().await;
        assert_eq!(rig.trace(), [""; 0]);
    });
}

#[test]
fn who_cancels_from_within_a_run_leaves_a_trace_and_so_does_who_abandons_its_input() {
    in_order(async {
        let rig = Rig::new().await;
        let cancel = RunRequest { kind: Some(Kind::Cancel(true)) }.encode_to_vec();
        let answer = soon(rig.call("/agent.Fleet/Run", Who::Operator, &[run("c1", "here", spec()), cancel])).await;
        assert!(is_ok(&answer));
        rig.settled().await;
        assert!(rig.told().iter().any(|told| matches!(told, Down::CancelCommand(_))));
        assert_eq!(rig.trace(), ["audit.run", "audit.cancel"]);

        let chunk = StdinChunk { offset: 0, data: bytes::Bytes::from_static(b"half"), eof: false };
        let chunk = RunRequest { kind: Some(Kind::Stdin(chunk)) }.encode_to_vec();
        let start = run("c2", "here", CommandSpec { stdin: true, ..CommandSpec::default() });
        let mut events = rig.core.events.subscribe();
        drop(soon(rig.call("/agent.Fleet/Run", Who::Operator, &[start, chunk])).await);
        let traced = async {
            while rig.trace().len() < 4 {
                events.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, traced).await.expect("it is cancelled, with a trace");
        assert_eq!(rig.trace()[2..], ["audit.run", "audit.cancel"]);
    });
}

/// All that is answered.
async fn bytes(answer: Answer) -> Vec<u8> {
    assert!(is_ok(&answer), "{:?}", answer.headers());
    soon(answer.into_body().collect()).await.unwrap().to_bytes().to_vec()
}

#[test]
fn what_environments_hold_is_shown_to_no_viewer() {
    in_order(async {
        let rig = Rig::new().await;
        let contains = |text: &[u8], part: &str| text.windows(part.len()).any(|window| window == part.as_bytes());
        let mut shown = 0;
        for over in [false, true] {
            if over {
                let id = "waits".to_owned();
                soon(rig.call("/agent.Fleet/Cancel", Who::Operator, &[CancelRequest { id }.encode_to_vec()])).await;
                rig.settled().await;
            }
            for (path, _) in TABLE.iter().filter(|(_, who)| who.contains(&Who::Viewer)) {
                let (name, id) = ("gone".to_owned(), "waits".to_owned());
                let message = match path.strip_prefix("/agent.Fleet/").unwrap() {
                    "List" => ListRequest::default().encode_to_vec(),
                    "Get" | "Explain" => GetRequest { name }.encode_to_vec(),
                    "Events" => EventsRequest::default().encode_to_vec(),
                    "Logs" => LogsRequest { id, ..LogsRequest::default() }.encode_to_vec(),
                    "ListCommands" => ListCommandsRequest::default().encode_to_vec(),
                    "GetCommand" => GetCommandRequest { id }.encode_to_vec(),
                    _ => panic!("viewers may call {path}: say here how it is called"),
                };
                let viewers = bytes(soon(rig.call(path, Who::Viewer, std::slice::from_ref(&message))).await).await;
                assert!(!contains(&viewers, SECRET), "{path}");
                let operators = bytes(soon(rig.call(path, Who::Operator, &[message])).await).await;
                let secret = contains(&operators, SECRET);
                assert_eq!(contains(&viewers, "DBPASS"), secret, "{path}: the names stay");
                shown += usize::from(secret);
            }
        }
        assert_eq!(shown, 6, "three calls show commands, waiting or over");
    });
}
