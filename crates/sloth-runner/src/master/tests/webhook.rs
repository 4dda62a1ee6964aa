//! Events posted to a receiver that fails, hangs and restarts.

use super::bench::*;
use crate::webhook::{KINDS_DEFAULT, Patience, Target, Webhook, run};
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// What both kinds of connection are.
trait Wire: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Wire for T {}

/// A request as it came.
struct Request {
    head: String,
    body: serde_json::Value,
    text: String,
    stream: Box<dyn Wire>,
}

impl Request {
    async fn answer(mut self, status: u16) {
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
        // Who asked may have given up meanwhile, and asks again.
        let _ = self.stream.write_all(answer.as_bytes()).await;
        let _ = self.stream.flush().await;
    }

    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().expect(name)
    }

    fn about(&self) -> (String, String) {
        let text = |key: &str| self.body[key].as_str().unwrap().to_owned();
        (text("kind"), text("agent"))
    }
}

/// Takes requests, whatever they are answered.
struct Receiver {
    address: SocketAddr,
    requests: mpsc::Receiver<Request>,
    task: JoinHandle<()>,
}

impl Receiver {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Some(request) = read(Box::new(stream)).await {
                        let _ = sender.send(request).await; // the test may be over
                    }
                });
            }
        });
        Self { address, requests, task }
    }

    async fn next(&mut self) -> Request {
        soon(self.requests.recv()).await.unwrap()
    }

    async fn stop(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await; // aborted
        self.address
    }
}

async fn read(mut stream: Box<dyn Wire>) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let read = stream.read_buf(&mut bytes).await.ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
            if body.len() == length {
                let parsed = serde_json::from_str(body).ok()?;
                return Some(Request { head: head.to_owned(), body: parsed, text: body.to_owned(), stream });
            }
        }
        if read == 0 {
            return None;
        }
    }
}

/// Of a test whose receiver answers whenever its turn comes: no attempt is over before that, however busy the machine is,
/// or the event would come once more, as it may.
fn webhook(address: SocketAddr) -> Webhook {
    webhook_with(address, 6 * PATIENCE)
}

/// … whose attempts have this long.
fn webhook_with(address: SocketAddr, attempt: Duration) -> Webhook {
    let target = Target::parse(&format!("http://{address}/hook?x=1")).unwrap();
    let patience = Patience { attempt, wait_min: MS(10), wait_max: MS(40), ..Patience::default() };
    let kinds = KINDS_DEFAULT.map(str::to_owned).to_vec();
    Webhook::new(target, Some(b"key".to_vec()), None, kinds, patience).unwrap()
}

/// A master that posts. It has begun when this returns: what happens from now on is posted.
async fn posting(master: &Master, address: SocketAddr) -> JoinHandle<()> {
    posting_to(master, webhook(address)).await
}

async fn posting_to(master: &Master, webhook: Webhook) -> JoinHandle<()> {
    let task = tokio::spawn(run(master.core.upgrade().unwrap(), webhook));
    soon(async {
        while crate::master::ports::Store::mark(&*master.store, "webhook").unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    task
}

#[tokio::test]
async fn an_event_is_posted_signed_and_with_an_id_and_again_until_it_is_taken() {
    let master = Master::start().await;
    let mut receiver = Receiver::start("127.0.0.1:0").await;
    let _posting = posting_to(&master, webhook_with(receiver.address, MS(300))).await;
    let agent = master.agent(register(1, "a")).await;
    let first = receiver.next().await;
    assert_eq!(first.about(), ("agent.connected".into(), "a".into()));
    assert!(first.head.starts_with("POST /hook?x=1 HTTP/1.1"), "{}", first.head);
    assert_eq!(first.header("sloth-event"), "agent.connected");
    assert_eq!(first.body["id"], first.header("sloth-delivery"));
    assert_eq!((&first.body["master"], &first.body["agent_id"]), (&"test".into(), &"01".repeat(16).into()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key");
    let tag = ring::hmac::sign(&key, first.text.as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(first.header("sloth-signature"), format!("sha256={hex}"));
    let id = first.body["id"].clone();
    first.answer(500).await;
    // Hangs: given up after its time, and sent again.
    let hanging = receiver.next().await;
    let again = receiver.next().await;
    assert_eq!((&hanging.body["id"], &again.body["id"]), (&id, &id));
    again.answer(204).await;
    drop(agent);
    // On a busy machine that answer came late, too, and it is sent once more.
    let lost = loop {
        let next = receiver.next().await;
        if next.body["id"] != id {
            break next;
        }
        next.answer(204).await;
    };
    assert_eq!(lost.about(), ("agent.lost".into(), "a".into()));
    lost.answer(200).await;
    let core = master.core.upgrade().unwrap();
    soon(async {
        while core.meters.counts().webhook["delivered"] < 2 {
            tokio::select! {
                again = receiver.requests.recv() => again.unwrap().answer(200).await,
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    let failed = core.meters.counts().webhook["failed"];
    assert!(failed >= 2, "{failed}");
}

#[tokio::test]
async fn a_receiver_that_hangs_stalls_nobody_and_loses_nothing_over_its_restart_and_the_masters() {
    let master = Master::start().await;
    // An address that no other test has: its port is free until it comes back.
    let receiver = Receiver::start("127.87.72.1:0").await;
    let _posting = posting(&master, receiver.address).await;
    // Nobody answers, and the master goes on.
    for n in 1..=20 {
        let mut agent = master.agent(register(n, &format!("a{n}"))).await;
        agent.beat(1).await;
    }
    let address = receiver.stop().await;
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    master.stop().await;
    let master = Master::restart(store, outputs).await;
    let _posting = tokio::spawn(run(master.core.upgrade().unwrap(), webhook(address)));
    let mut receiver = Receiver::start(&address.to_string()).await;
    let mut expected: BTreeSet<(String, String)> =
        (1..=20).map(|n| ("agent.connected".into(), format!("a{n}"))).collect();
    while !expected.is_empty() {
        let request = receiver.next().await;
        expected.remove(&request.about());
        request.answer(200).await;
    }
}

#[tokio::test]
async fn what_is_refused_for_good_holds_up_nobody_and_each_agents_events_come_in_order() {
    let master = Master::start().await;
    let mut receiver = Receiver::start("127.0.0.1:0").await;
    let _posting = posting(&master, receiver.address).await;
    for _ in 0..3 {
        for n in 1..=3 {
            drop(master.agent(register(n, &format!("a{n}"))).await);
        }
    }
    let mut seen: Vec<(String, u64)> = Vec::new();
    let mut refused = false;
    while seen.len() < 18 {
        let request = receiver.next().await;
        let one = (request.about().1, request.body["seq"].as_u64().unwrap());
        let fails = seen.len() % 5 == 4 && seen.last() != Some(&one) && !seen.contains(&one);
        match (refused, fails) {
            (false, _) => {
                refused = true;
                request.answer(422).await;
                seen.push(one);
            }
            (true, true) => {
                // Failed once: it comes again before any later one of its agent.
                request.answer(503).await;
                let mut again = receiver.next().await;
                while again.body["seq"] != one.1 {
                    assert_ne!(again.about().1, one.0, "a later one has overtaken it");
                    seen.push((again.about().1, again.body["seq"].as_u64().unwrap()));
                    again.answer(200).await;
                    again = receiver.next().await;
                }
                again.answer(200).await;
                seen.push(one);
            }
            (true, false) => {
                request.answer(200).await;
                seen.push(one);
            }
        }
    }
    for n in 1..=3 {
        let name = format!("a{n}");
        let seqs: Vec<u64> = seen.iter().filter(|(agent, _)| *agent == name).map(|(_, seq)| *seq).collect();
        assert!(seqs.len() == 6 && seqs.is_sorted(), "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn what_is_too_old_is_given_up() {
    let master = Master::start().await;
    let mut receiver = Receiver::start("127.0.0.1:0").await;
    let mut hook = webhook(receiver.address);
    hook.patience.age_max = Duration::ZERO;
    let core = master.core.upgrade().unwrap();
    let _posting = tokio::spawn(run(core.clone(), hook));
    soon(async {
        while crate::master::ports::Store::mark(&*master.store, "webhook").unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _agent = master.agent(register(1, "a")).await;
    receiver.next().await.answer(500).await;
    soon(async {
        while core.meters.counts().webhook["dropped"] < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(core.meters.counts().webhook["delivered"], 0);
}

#[tokio::test]
async fn over_tls_only_a_receiver_that_is_trusted_is_told() {
    use std::sync::Arc;
    let folder = tempfile::tempdir().unwrap();
    let (receiver, address, key) = {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(folder.path().join("other.pem"), other.cert.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address, (made.cert.der().clone(), made.signing_key.serialize_der()))
    };
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.0], rustls_pki_types::PrivatePkcs8KeyDer::from(key.1).into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let _receiving = tokio::spawn(async move {
        loop {
            let (stream, _) = receiver.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            if let Some(request) = read(Box::new(stream)).await {
                request.answer(200).await;
            }
        }
    });
    let target = Target::parse(&format!("https://{address}/hook")).unwrap();
    let hook = |ca: &str| {
        let ca_file = Some(folder.path().join(ca));
        Webhook::new(target.clone(), None, ca_file, Vec::new(), Patience::default()).unwrap()
    };
    let told = soon(hook("ca.pem").post.send("1", "agent.lost", "{}")).await;
    assert!(matches!(told, Ok(crate::webhook::Answer::Taken)), "{told:?}");
    let refused = soon(hook("other.pem").post.send("1", "agent.lost", "{}")).await.unwrap_err();
    assert!(refused.starts_with("TLS with 127.0.0.1:"), "{refused}");
    let missing = Some(folder.path().join("missing.pem"));
    let error = Webhook::new(target.clone(), None, missing, Vec::new(), Patience::default()).err().unwrap();
    assert!(error.starts_with("events.webhook.ca_file is ") && error.contains("cannot be read"), "{error}");
}
