//! The web page of a real master in a real browser: 5,000 agents, a loss as it happens, strangers.

use super::{browser::Browser, watch::metrics_of};
use crate::fleet::{Agent, Cable, Master, Wire, until};
use fleet::{Change, ClosedBy, SessionEnd, SessionId, SessionRecord};
use proto::{
    AgentMessage, MasterMessage, Register, agent_message, agent_registry_client::AgentRegistryClient, master_message,
};
use serde_json::json;
use sloth_runner::{
    master::ports::Store,
    store::{Environment, History, SqliteStore},
};
use std::{net::SocketAddr, ops::Range, path::Path, sync::mpsc as std_mpsc};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

const AGENTS: u32 = 5_000;
/// Of one connection: the master serves 1,100.
const STREAMS: u32 = 1_000;
const HOSTILE: &str = "<img src=x onerror=document.title='owned'>";

/// Agents that register, and then say nothing for an hour. One that is dropped is lost.
struct Crowd {
    agents: Vec<(mpsc::Sender<AgentMessage>, Streaming<MasterMessage>)>,
    runtime: Runtime,
}

impl Crowd {
    fn gather(master: SocketAddr, which: Range<u32>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let agents = runtime.block_on(async {
            let mut agents = Vec::new();
            let mut channel: Option<Channel> = None;
            for n in which {
                if channel.is_none() || n % STREAMS == 0 {
                    let endpoint = Channel::from_shared(format!("http://{master}")).unwrap();
                    channel = Some(endpoint.connect().await.unwrap());
                }
                let mut client = AgentRegistryClient::new(channel.clone().unwrap());
                let (up, messages) = mpsc::channel(4);
                up.send(AgentMessage { kind: Some(agent_message::Kind::Register(register(n))) }).await.unwrap();
                agents.push((up, client.connect(ReceiverStream::new(messages)).await.unwrap().into_inner()));
            }
            for (_, down) in &mut agents {
                let first = down.message().await.unwrap().unwrap().kind.unwrap();
                assert!(matches!(first, master_message::Kind::Registered(_)), "{first:?}");
            }
            agents
        });
        Self { agents, runtime }
    }

    /// So many are lost.
    fn lose(&mut self, count: usize) {
        let _inside = self.runtime.enter();
        self.agents.drain(..count);
    }
}

fn register(n: u32) -> Register {
    let mut id = vec![7; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    let site = ["lisbon", "tallinn", "osaka", "quito", "accra"][(n % 5) as usize];
    let mut labels =
        vec![("site", site.to_owned()), ("arch", ["aarch64", "armv7", "x86_64"][(n % 3) as usize].to_owned())];
    if n >= AGENTS {
        labels.push((HOSTILE, format!("\"><script>{HOSTILE}</script>")));
    }
    Register {
        agent_id: id.clone(),
        instance_id: vec![1; 16],
        spool_id: id,
        name: format!("node-{n:04}"),
        host: format!("{site}-{n:04}"),
        version: "0.1.0".to_owned(),
        report_address: format!("10.{}.{}.{}:50051", n % 5, n / 250, n % 250 + 1),
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        interval_ms: 3_600_000,
        timeout_ms: 1_000,
        max_failures: 1,
        ..Register::default()
    }
}

fn link(master: &Master) -> String {
    let state = master.path("master");
    let link = master.tool_without_master(&["-o", "json", "master", "web", "--state-dir", state.to_str().unwrap()]);
    link.expect(0).json()["url"].as_str().unwrap().to_owned()
}

/// A day of sessions with losses, in the database of a master that does not run.
fn remember_a_day(master: &Master, name: &str) {
    let environment = Environment { clock: Box::new(sloth_runner::clock::unix_ms), remove_output: Box::new(|_| true) };
    let (store, snapshot) =
        SqliteStore::open(&master.path("master/sloth.db"), History::default(), environment).unwrap();
    let mut record = snapshot.agents.into_iter().find(|record| record.name == name).unwrap();
    let now = sloth_runner::clock::unix_ms();
    // Minutes ago: begin, end, reason, by whom.
    let day = [
        (1_500, 1_120, "heartbeat_timeout", ClosedBy::Master),
        (1_096, 700, "stream_closed", ClosedBy::Network),
        (698, 640, "connection_reset", ClosedBy::Network),
        (612, 590, "connection_reset", ClosedBy::Network),
        (560, 180, "shutdown", ClosedBy::Agent),
        (150, 30, "heartbeat_timeout", ClosedBy::Master),
    ];
    let mut changes = Vec::new();
    for (epoch, (begin, end, reason, closed_by)) in (100..).zip(day) {
        let end =
            SessionEnd { unix_ms: now - end * 60_000, reason: reason.to_owned(), detail: String::new(), closed_by };
        record.epoch = epoch;
        let session = SessionId { agent: record.id, epoch };
        let (started_unix_ms, address) = (now - begin * 60_000, record.address.clone());
        changes.push(Change::BeginSession(SessionRecord { session, started_unix_ms, address, end: None }));
        changes.push(Change::EndSession(session, end));
    }
    changes.push(Change::PutAgent(record));
    let (done, answer) = std_mpsc::channel();
    store.write(changes, Box::new(move |result| done.send(result).unwrap()));
    answer.recv().unwrap().unwrap();
}

fn lady(master: &Master) -> Agent {
    let labels = ["--set", "labels={site=\"lisbon\",arch=\"aarch64\"}"];
    master.agent_with("lady", &labels)
}

#[test]
fn the_page_shows_five_thousand_agents_follows_a_loss_and_runs_nothing_that_agents_say() {
    if !Browser::is_here() {
        return;
    }
    let mut master = Master::with(&["http.listen=\"127.0.0.1:0\"", "registrations.max_per_second=100000"]);
    let mut agent = lady(&master);
    agent.running.kill();
    master.kill();
    remember_a_day(&master, "lady");
    master.again();
    let page = metrics_of(&master);
    agent.again();
    master.until_status("lady", "Active");
    let mut crowd = Crowd::gather(master.address, 0..AGENTS);
    crowd.lose(37);
    let script = format!("echo building; echo {HOSTILE:?}; echo 'no space left' >&2; seq 1 40; exit 3");
    master.tool(&["agent", "run", "lady", "--", "sh", "-c", &script]).expect(3);
    master.tool(&["agent", "run", "lady", "--", "uname", "-sr"]).expect(0);
    master.tool(&["agent", "run", "lady", "--", "systemctl-none"]).expect(255);

    let browser = Browser::start();
    browser.look(1280, 800, "light");
    let cable = Cable::to_address(page);
    browser.open(&link(&master).replace(&page.to_string(), &cable.address()));
    browser.until("document.querySelectorAll('#agents tbody tr').length === 100");
    browser.until("document.querySelector('#range').textContent === '1–100 of 5,001'");
    browser.until("document.querySelector('#counts .Inactive b').textContent === '37'");
    browser.until("document.querySelector('#link').textContent === 'Live'");
    // Neither the code nor a token stays in the address, and a script cannot read the cookie.
    assert_eq!(browser.run("return location.hash + document.cookie"), "#/");
    shot(&browser, "web-fleet");
    browser.look(1280, 800, "dark");
    shot(&browser, "web-dark");
    browser.look(390, 844, "light");
    let wide = browser.run("return document.documentElement.scrollWidth");
    assert!(wide.as_u64().unwrap() <= 390, "the page is {wide} wide on a phone");
    shot(&browser, "web-phone");
    browser.look(1280, 800, "light");

    // What agents say is text, in the counts by label as in the rows.
    let hostile = Crowd::gather(master.address, AGENTS..AGENTS + 2);
    browser.until("[...document.querySelectorAll('#labels h3')].some((key) => key.textContent.startsWith('<img'))");
    // By keyboard: a search, and on to the agent.
    browser.run("document.querySelector('#q').focus()");
    browser.press("node-5001");
    browser.until("document.querySelector('#range').textContent === '1–1 of 1'");
    browser.until("document.querySelector('#agents tbody a')?.textContent === 'node-5001'");
    let tags = browser.run("return document.querySelector('#agents .tags').innerText");
    assert!(tags.as_str().unwrap().contains(HOSTILE), "{tags}");
    assert_eq!(browser.run("return document.querySelectorAll('main img, main script, aside img').length"), 0);
    assert_eq!(browser.run("return document.title"), "Fleet – Sloth Runner");
    browser.run("const q = document.querySelector('#q'); q.value = ''; q.focus(); q.dispatchEvent(new Event('input'))");
    browser.press("lady");
    browser.until("document.querySelector('#agents tbody a')?.textContent === 'lady'");
    browser.run("document.querySelector('#agents tbody a').focus()");
    browser.press("\u{e007}");
    browser.until("document.activeElement.id === 'agent-title' && document.activeElement.textContent === 'lady'");
    browser.until("document.querySelectorAll('#day .lost').length >= 5");
    let said = browser.run("return document.querySelector('#day svg').getAttribute('aria-label')");
    assert!(said.as_str().unwrap().contains("of the last 24 hours"), "{said}");
    browser.run("document.querySelector('#commands tbody tr:last-of-type button').click()");
    browser.until("document.querySelector('.output pre')?.textContent.includes('no space left')");
    let output = browser.run("return document.querySelector('.output pre').textContent");
    assert!(output.as_str().unwrap().contains(HOSTILE), "{output}");
    assert_eq!(browser.run("return document.querySelectorAll('main img, main script').length"), 0);
    drop(hostile);
    browser.look(1280, 1080, "light");
    browser.run("scrollTo(0, 0)");
    shot(&browser, "web-agent");

    // A loss arrives without a reload: this stays in the page.
    browser.run("window.stays = true");
    agent.running.kill();
    browser.until("document.querySelector('#agent-mark').textContent.startsWith('Inactive')");
    browser.until("document.querySelector('#event-list li').dataset.kind === 'agent.lost'");
    assert_eq!(browser.run("return document.querySelector('#event-list').getAttribute('aria-live')"), "polite");
    // Nor does it need one after an interruption, which it shows.
    assert_eq!(browser.complaints(), Vec::<String>::new());
    cable.set(Wire::Reset);
    browser.until("document.querySelector('#link').textContent.startsWith('Not connected')");
    crowd.lose(1);
    master.until_status("node-0037", "Inactive");
    cable.set(Wire::Through);
    browser.until("document.querySelector('#link').textContent === 'Live'");
    browser.until("document.querySelector('#event-list').textContent.includes('node-0037')");
    assert_eq!(browser.run("return window.stays"), true);
}

#[test]
fn strangers_are_refused_by_a_real_browser_and_a_real_master() {
    if !Browser::is_here() {
        return;
    }
    let master = Master::with(&["http.listen=\"127.0.0.1:0\""]);
    let page = metrics_of(&master);
    let neighbour = Master::with(&["http.listen=\"127.0.0.1:0\""]);
    let other = metrics_of(&neighbour);
    let browser = Browser::start();
    browser.open(&format!("http://{page}/"));
    browser.until("!document.querySelector('#sign-in').hidden");
    assert!(browser.text().contains("sloth-runner master web"), "{}", browser.text());
    let fetched =
        |path: &str| browser.run(&format!("return fetch({path:?}).then((answer) => answer.status, () => 'kept out')"));
    assert_eq!(fetched("api/fleet"), 401);
    let url = link(&master);
    browser.open(&url);
    browser.until("!document.querySelector('#fleet').hidden");
    // The cookie alone is not enough: a neighbour on another port may have it.
    assert_eq!(fetched("api/fleet"), 401);
    let with_key =
        "return fetch('api/fleet', {headers: {'sloth-key': localStorage.getItem('sloth-key')}}).then((a) => a.status)";
    assert_eq!(browser.run(with_key), 200);
    // The link is used up.
    browser.run("localStorage.clear()");
    browser.open("about:blank");
    browser.open(&url);
    browser.until("document.querySelector('#sign-in-problem').textContent.includes('used already')");

    // A page of another port, which browsers take for the same site: the master does not answer it.
    browser.open(&format!("http://{other}/metrics"));
    let asked = format!(
        "return fetch('http://{page}/api/session', {{credentials: 'include'}}).then((a) => a.status, () => 'kept out')"
    );
    assert_eq!(browser.run(&asked), "kept out");
    let mode =
        format!("return fetch('http://{page}/api/session', {{mode: 'no-cors'}}).then((a) => a.type, () => 'kept out')");
    assert_eq!(browser.run(&mode), "kept out", "Cross-Origin-Resource-Policy");
}

/// Into `docs/img`, where that is asked for (`SLOTH_PICTURES=1`).
fn shot(browser: &Browser, name: &str) {
    if std::env::var_os("SLOTH_PICTURES").is_none() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/img");
    std::fs::create_dir_all(&folder).unwrap();
    until("fonts and styles are there", || {
        (browser.run("return document.fonts.status") == json!("loaded")).then_some(())
    });
    browser.picture(&folder.join(format!("{name}.png")));
}
