//! The routes of the web page: who is let in, what is refused, and that nothing said is taken for more than text.

use super::bench::*;
use crate::web::{Admit, Http, code::Codes};
use proto::agent_message::Kind as Up;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What an answer was.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }
}

/// A page with the tokens `good` (a viewer's, until `revoked`) and nothing else.
struct Page {
    address: SocketAddr,
    state_dir: TempDir,
    revoked: Arc<AtomicBool>,
    _task: JoinHandle<()>,
}

impl Page {
    async fn of(master: &Master) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state_dir = TempDir::new().unwrap();
        let codes = Codes::leave(state_dir.path(), address).unwrap();
        let revoked = Arc::new(AtomicBool::new(false));
        let seen = revoked.clone();
        let admit: Admit =
            Arc::new(move |token| (token == "good" && !seen.load(Ordering::Relaxed)).then_some("viewer"));
        let http = Http { listener, hosts: vec!["sloth.example.org".to_owned()], codes, admit: Some(admit) };
        let task = tokio::spawn(crate::web::serve(master.core.upgrade().unwrap(), http));
        Self { address, state_dir, revoked, _task: task }
    }

    /// With `Host: localhost`, unless another is among the headers.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += "host: localhost\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn sign_in(&self, shown: &Value) -> Answer {
        let headers = [("origin", "http://localhost"), ("content-type", "application/json")];
        self.ask("POST", "/api/session", &headers, &shown.to_string()).await
    }

    async fn signed_in(&self) -> Session<'_> {
        let answer = self.sign_in(&json!({"token": "good"})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Session { page: self, cookie, key: answer.json()["key"].as_str().unwrap().to_owned() }
    }
}

struct Session<'a> {
    page: &'a Page,
    cookie: String,
    key: String,
}

impl Session<'_> {
    async fn ask(&self, method: &str, path: &str, more: &[(&str, &str)]) -> Answer {
        let own = [("cookie", self.cookie.as_str()), ("sloth-key", self.key.as_str())];
        self.page.ask(method, path, &[&own, more].concat(), "").await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }
}

const DATA: [&str; 4] = ["/api/fleet", "/api/agents/01", "/api/agents/01/commands", "/api/commands/c/output"];

#[tokio::test]
async fn nothing_but_the_empty_page_is_shown_to_who_has_not_signed_in() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    for (path, kind) in
        [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css"), ("/icon.svg", "image/svg+xml")]
    {
        let answer = page.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}");
    }
    let session = page.signed_in().await;
    for path in DATA.into_iter().chain(["/api/events"]) {
        let (cookie, key) = (("cookie", session.cookie.as_str()), ("sloth-key", session.key.as_str()));
        for headers in [&[][..], &[cookie], &[key], &[cookie, ("sloth-key", "0")], &[("cookie", "a=b"), key]] {
            let answer = page.ask("GET", path, headers, "").await;
            assert_eq!(answer.status, 401, "{path} {headers:?}");
        }
    }
    let standing = page.get("/api/session").await.json();
    assert_eq!(standing, json!({"role": null, "tokens": true, "master": null, "version": null}));
    assert_eq!(session.get("/api/session").await.json()["role"], "viewer");
    // A neighbour on another port may have put another one before it.
    let name = session.cookie.split('=').next().unwrap();
    let cookies = format!("{name}=planted; x=y; {}", session.cookie);
    let found = page.ask("GET", "/api/fleet", &[("cookie", &cookies), ("sloth-key", &session.key)], "").await;
    assert_eq!(found.status, 200);
}

#[tokio::test]
async fn every_answer_keeps_browsers_from_doing_more_than_the_page_says() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    let session = page.signed_in().await;
    for path in ["/", "/page.js", "/api/session", "/api/fleet", "/api/agents/none", "/nothing"] {
        let answer = session.get(path).await;
        if path == "/nothing" {
            assert_eq!(answer.status, 404);
            continue;
        }
        let policy = answer.header("content-security-policy").expect(path);
        for rule in ["default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {rule} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
        assert!(["no-store", "no-cache"].contains(&answer.header("cache-control").unwrap()), "{path}");
    }
    let html = page.get("/").await.body;
    assert!(!html.contains("style=") && !html.contains("<style") && html.matches("<script").count() == 1, "{html}");
    assert!(html.contains("<script src=\"page.js\" defer></script>"), "{html}");
    let script = page.get("/page.js").await.body;
    for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
        assert!(!script.contains(markup), "{markup}");
    }
    assert!(
        !script.contains("http://")
            || script.matches("http://").count() == script.matches("http://www.w3.org/").count()
    );
}

#[tokio::test]
async fn another_host_another_page_and_another_method_are_refused_with_a_session_too() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    let session = page.signed_in().await;
    for path in DATA.into_iter().chain(["/", "/api/session", "/api/events", "/metrics"]) {
        let answer = session.ask("GET", path, &[("host", "evil.example")]).await;
        assert_eq!(answer.status, 421, "{path}");
    }
    assert_eq!(session.ask("GET", "/api/fleet", &[("host", "sloth.example.org")]).await.status, 200);
    for path in DATA.into_iter().chain(["/api/session", "/api/events"]) {
        for origin in ["http://evil.example", "http://localhost:1", "null"] {
            let answer = session.ask("GET", path, &[("origin", origin)]).await;
            assert_eq!(answer.status, 403, "{path} {origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(session.ask("GET", path, &[("sec-fetch-site", site)]).await.status, 403, "{path} {site}");
        }
    }
    let ours = ("origin", "http://localhost");
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for path in DATA.into_iter().chain(["/", "/api/events", "/metrics"]) {
            assert_eq!(session.ask(method, path, &[ours]).await.status, 405, "{method} {path}");
        }
    }
    assert_eq!(session.ask("PUT", "/api/session", &[ours]).await.status, 405);
    assert_eq!(session.ask("DELETE", "/api/session", &[]).await.status, 403, "it must say from where");
    assert_eq!(session.get("/api/fleet").await.status, 200);
    assert_eq!(session.ask("DELETE", "/api/session", &[ours]).await.status, 204);
    assert_eq!(session.get("/api/fleet").await.status, 401);
}

#[tokio::test]
async fn signing_in_takes_a_good_token_or_a_fresh_code() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    let answer = page.sign_in(&json!({"token": "good"})).await;
    let cookie = answer.header("set-cookie").unwrap();
    let port = page.address.port();
    assert!(cookie.starts_with(&format!("sloth_session_{port}=")), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(answer.json()["key"].as_str().unwrap()), "two secrets");
    let tls =
        [("host", "sloth.example.org"), ("origin", "https://sloth.example.org"), ("content-type", "application/json")];
    let answer = page.ask("POST", "/api/session", &tls, r#"{"token":"good"}"#).await;
    assert!(answer.header("set-cookie").unwrap().ends_with("; Secure"), "{}", answer.head);

    let now = master.core.upgrade().unwrap().now().unix_ms;
    let (_, code) = crate::web::code::make(page.state_dir.path(), now).unwrap();
    assert_eq!(page.sign_in(&json!({"code": code})).await.status, 200);
    let again = page.sign_in(&json!({"code": code})).await;
    assert!(again.status == 401 && again.body.contains("used already"), "{}", again.body);

    let form = [("origin", "http://localhost"), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(page.ask("POST", "/api/session", &form, "token=good").await.status, 415);
    let json = [("origin", "http://localhost"), ("content-type", "application/json")];
    for body in ["", "{}", "[]", r#"{"token":"good","code":"x"}"#, &format!(r#"{{"token":"{}"}}"#, "a".repeat(5000))] {
        assert_eq!(page.ask("POST", "/api/session", &json, body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn nobody_is_kept_from_signing_in_by_the_failures_of_others() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    for n in 0..50 {
        assert_eq!(page.sign_in(&json!({"token": format!("bad{n}")})).await.status, 401, "{n}");
    }
    page.signed_in().await;
}

#[tokio::test]
async fn connections_that_only_keep_their_places_shut_nobody_out() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    let session = page.signed_in().await;
    // One that follows events has signed in, and keeps its place.
    let mut follows = TcpStream::connect(page.address).await.unwrap();
    let (cookie, key) = (&session.cookie, &session.key);
    let head = format!("GET /api/events HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\nsloth-key: {key}\r\n\r\n");
    follows.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    read_more(&mut follows, &mut seen).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(page.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    assert_eq!(page.get("/healthz").await.status, 200);
    assert_eq!(session.get("/api/fleet").await.status, 200);
    let _agent = master.agent(register(1, "a")).await;
    while !seen.contains("agent.connected") {
        read_more(&mut follows, &mut seen).await;
    }
}

#[tokio::test]
async fn a_request_of_http_1_1_names_its_host_and_one_of_1_0_need_not() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    for path in ["/metrics", "/healthz", "/", "/api/fleet", "/nowhere"] {
        for (version, refused) in [("1.1", true), ("1.0", false)] {
            let mut stream = TcpStream::connect(page.address).await.unwrap();
            let head = format!("GET {path} HTTP/{version}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            soon(stream.read_to_string(&mut answer)).await.unwrap();
            assert_eq!(answer.split(' ').nth(1) == Some("400"), refused, "{path} {version}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_session_ends_with_the_token_that_opened_it() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    let session = page.signed_in().await;
    assert_eq!(session.get("/api/fleet").await.status, 200);
    page.revoked.store(true, Ordering::Relaxed);
    assert_eq!(session.get("/api/fleet").await.status, 401);
    page.revoked.store(false, Ordering::Relaxed);
    assert_eq!(session.get("/api/fleet").await.status, 401, "it is over");
}

#[tokio::test]
async fn the_fleet_an_agent_its_commands_and_their_output_are_shown_in_parts() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    let session = page.signed_in().await;
    let evil = "<img src=x onerror=alert(1)>";
    let labels = [("site".to_owned(), evil.to_owned())].into();
    let mut agent = master.agent(proto::Register { labels, ..register(1, "a") }).await;
    agent.beat(1).await;
    let _second = master.agent(register(2, "b")).await;
    let fleet = session.get("/api/fleet?limit=1&sort=name").await.json();
    assert_eq!((&fleet["matching"], fleet["rows"].as_array().unwrap().len()), (&json!(2), 1));
    assert_eq!(fleet["counts"], json!({"active": 2, "inactive": 0, "stopped": 0}));
    assert_eq!(fleet["rows"][0]["labels"]["site"], evil);
    let rest = session.get("/api/fleet?limit=1&sort=name&offset=1").await.json();
    assert_eq!(rest["rows"][0]["name"], "b");
    assert_eq!(session.get("/api/fleet?offset=99999999").await.json()["rows"], json!([]));
    for wrong in ["status=x", "sort=x", "labels=x", "offset=-1", "q=a+a+a+a+a+a+a+a+a"] {
        assert_eq!(session.get(&format!("/api/fleet?{wrong}")).await.status, 400, "{wrong}");
    }

    let id = "01".repeat(16);
    let one = session.get(&format!("/api/agents/{id}")).await.json();
    assert!(one["explain"]["advice"].as_str().unwrap().starts_with("Nothing is to be done"), "{one}");
    assert_eq!((&one["agent"]["name"], &one["explain"]["sessions"][0]["epoch"]), (&json!("a"), &json!(1)));
    assert_eq!(session.get(&format!("/api/agents/{}", "0f".repeat(16))).await.status, 404);

    let _tool = master.run(start("command-1", "a")).await.unwrap();
    let commands = loop {
        let commands = session.get(&format!("/api/agents/{id}/commands")).await.json();
        if !commands["rows"].as_array().unwrap().is_empty() {
            break commands;
        }
    };
    assert_eq!((&commands["rows"][0]["line"], &commands["more"]), (&json!("true"), &json!(false)));
    let output = session.get("/api/commands/command-1/output").await.json();
    assert_eq!((&output["end"], &output["pieces"]), (&json!(0), &json!([])));
    assert_eq!(session.get("/api/commands/nothing/output").await.status, 404);
    agent.send(Up::Goodbye(proto::Goodbye::default())).await;
}

#[tokio::test]
async fn events_come_as_they_happen_to_so_many_pages_and_end_with_the_session() {
    let master = Master::start().await;
    let page = Page::of(&master).await;
    let session = page.signed_in().await;
    let agent = master.agent(register(1, "a")).await;
    let mut streams = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(page.address).await.unwrap();
        let (cookie, key) = (&session.cookie, &session.key);
        let head = format!(
            "GET /api/events HTTP/1.1\r\nconnection: close\r\nhost: localhost\r\ncookie: {cookie}\r\nsloth-key: {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.contains("agent.connected") {
            read_more(&mut stream, &mut seen).await;
        }
        streams.push((stream, seen));
    }
    assert_eq!(session.get("/api/events").await.status, 503, "one too many");
    drop(agent);
    let (stream, seen) = &mut streams[0];
    while !seen.contains("agent.lost") {
        read_more(stream, seen).await;
    }
    // The next one to be told finds the session over.
    assert_eq!(session.ask("DELETE", "/api/session", &[("origin", "http://localhost")]).await.status, 204);
    let _other = master.agent(register(2, "b")).await;
    soon(stream.read_to_string(seen)).await.unwrap();
    assert!(!seen.contains("\"b\""), "{seen}");
}

async fn read_more(stream: &mut TcpStream, seen: &mut String) {
    let mut part = [0; 4096];
    let read = soon(stream.read(&mut part)).await.unwrap();
    assert!(read > 0, "it ended: {seen}");
    seen.push_str(&String::from_utf8_lossy(&part[..read]));
}
