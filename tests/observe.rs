//! The agent's binary, looked at from outside: health and metrics, the live status, and what became of its link.

mod common;

use common::{Agent, PATIENCE, master::Master};
use proto::{PastEvent, agent_message::Kind as Up, master_message::Kind as Down, past_event::Kind};
use std::{fs, net::SocketAddr, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    time::timeout,
};

/// Where the log says that health and metrics are.
async fn http(agent: &mut Agent) -> String {
    let line = agent.line("Health and metrics at http://").await;
    let (_, rest) = line.split_once("http://").expect("found by it");
    rest.trim_end_matches('/').to_owned()
}

async fn get(address: &str, path: &str) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    };
    timeout(PATIENCE, asked).await.expect("it answers in time")
}

/// Asks until the answer has this in it.
async fn shows(address: &str, path: &str, part: &str) -> String {
    let looked = async {
        loop {
            let answer = get(address, path).await;
            if answer.contains(part) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("{path} never shows {part:?}"))
}

/// `sloth-agent status`: exit code and standard output.
async fn status(state: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sloth-agent"));
    command.args(["status", "--name", "lady", "--state-dir"]).arg(state).args(more).current_dir(state);
    let output = command.output().await.expect("the agent's binary starts");
    (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
}

/// A master at the address of one that has just gone.
async fn back(address: SocketAddr) -> Master {
    let bound = async {
        loop {
            if let Ok(listener) = TcpListener::bind(address).await {
                return listener;
            }
            tokio::task::yield_now().await;
        }
    };
    Master::on(timeout(PATIENCE, bound).await.expect("its port is free again"))
}

fn words(past: &[PastEvent]) -> Vec<(Kind, &str)> {
    past.iter().map(|event| (event.kind(), event.reason.as_str())).collect()
}

#[tokio::test]
async fn health_and_metrics_follow_the_link() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["http.listen=\"127.0.0.1:0\""]);
    let address = http(&mut agent).await;
    assert!(get(&address, "/healthz").await.starts_with("HTTP/1.1 200 "));
    let mut first = master.session().await;
    first.registration().await;
    let waiting = get(&address, "/readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.contains("\r\n\r\nConnecting"), "{waiting}");
    drop(first);
    let second = master.active(1).await;
    shows(&address, "/readyz", "Active").await;
    let page = shows(&address, "/metrics", "sloth_agent_connected 1\n").await;
    assert!(page.contains("sloth_agent_sessions_total 1\n") && page.contains("\nsloth_agent_heartbeat_rtt_seconds 0."));
    drop(second);
    let page = shows(&address, "/metrics", "sloth_agent_losses_total{reason=\"stream_closed\"} 1\n").await;
    assert!(page.contains("sloth_agent_connected 0\n"), "{page}");
}

#[tokio::test]
async fn a_taken_port_keeps_no_agent_from_its_master_and_a_reload_gives_another() {
    let mut master = Master::start().await;
    let holder = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = holder.local_addr().expect("bound");
    let state = tempfile::TempDir::new().expect("temporary directory");
    let file = state.path().join("agent.toml");
    let address = master.address();
    let write = |listen: &str| {
        let text = format!("master = '{address}'\n[http]\n{listen}\n");
        fs::write(&file, text).expect("a configuration");
    };
    write(&format!("listen = '{taken}'"));
    let mut agent = Agent::start_with(state, &[], &[]);
    let warning = agent.line("WARN  cannot listen at http.listen").await;
    assert!(warning.contains(&format!("\"{taken}\"")) && warning.contains("choose another port"), "{warning}");
    write("listen = '127.0.0.1:0'");
    agent.signal(libc::SIGHUP);
    let address = http(&mut agent).await;
    let _session = master.active(1).await;
    shows(&address, "/readyz", "Active").await;
    write("");
    agent.signal(libc::SIGHUP);
    let closed = async { while TcpStream::connect(&address).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("it listens no more");
}

#[tokio::test]
async fn the_status_is_as_of_the_moment_at_which_it_is_asked_for() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.active(1).await;
    agent.contains("status.json", "Active").await;
    for _ in 0..3 {
        let seq = session.beat().await;
        session.ack(seq).await;
    }
    let (code, text) = status(agent.state.path(), &[]).await;
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "lady: Active\n",
        " ago)\n",
        "\n  round trip       ",
        "ms\n",
        "\n  commands held    0\n",
        "\n  spool            0B\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("instance") && !text.contains("asked"), "{text}");
    let (_, json) = status(agent.state.path(), &["-o", "json"]).await;
    let beats = |json: &str| {
        let line = json.lines().find_map(|line| line.trim().strip_prefix("\"heartbeats\": "));
        line.and_then(|value| value.trim_end_matches(',').parse::<u64>().ok()).unwrap_or_else(|| panic!("{json}"))
    };
    // Those that were said already are on their way.
    loop {
        let seq = session.beat().await;
        session.ack(seq).await;
        if seq > beats(&json) {
            break;
        }
    }
    let (code, later) = status(agent.state.path(), &["-o", "json"]).await;
    assert!(code == Some(0) && beats(&later) > beats(&json), "{json}{later}");
    assert!(later.contains("\n  \"round_trip\": 0.") && later.contains("\n  \"state\": \"Active\","), "{later}");
    agent.child.kill().await.expect("it ends");
    let (code, gone) = status(agent.state.path(), &["-o", "json"]).await;
    assert!(code == Some(3) && gone.contains("\"state\": \"NotRunning\""), "{gone}");
}

#[tokio::test]
async fn an_agent_that_is_leaving_says_so_at_once_to_people_and_to_its_master() {
    let mut master = Master::start().await;
    // No heartbeat falls due by itself while the test looks.
    let rare = ["heartbeat.interval=\"1h\"", "heartbeat.max_interval=\"1h\"", "http.listen=\"127.0.0.1:0\""];
    let mut agent = Agent::start(&master.address(), &rare);
    let address = http(&mut agent).await;
    let mut session = master.active(1).await;
    let argv = ["/bin/sleep", "1000"].map(|word| word.as_bytes().to_vec()).into();
    let spec = proto::CommandSpec { argv, ..Default::default() };
    session.send(Down::RunCommand(proto::RunCommand { id: "c".into(), spec: Some(spec) })).await;
    agent.line("INFO  Command c started: ").await;
    agent.signal(libc::SIGTERM);
    loop {
        if let Up::Heartbeat(beat) = session.next().await.expect("the session goes on") {
            assert!(!beat.ready, "no command would get through");
            break;
        }
    }
    let (code, text) = status(agent.state.path(), &[]).await;
    assert_eq!(
        (code, text.lines().next()),
        (Some(1), Some("agent lady: Active, shutting down: 1 command(s) left")),
        "{text}"
    );
    let (code, json) = status(agent.state.path(), &["-o", "json"]).await;
    assert!(code == Some(1) && json.contains("\n  \"shutting_down\": true,"), "{json}");
    let answer = get(&address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nshutting down\n"), "{answer}");
    // The second signal waits for nothing.
    agent.signal(libc::SIGTERM);
    drop(session);
}

#[tokio::test]
async fn what_happened_while_the_master_was_away_is_told_to_it_and_survives_the_agent() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.session().await;
    assert_eq!(words(&session.register(4).await.past), [(Kind::Start, "started")]);
    let seq = session.beat().await;
    session.ack(seq).await;
    agent.contains("status.json", "Active").await;
    let address = master.address;
    drop((session, master));
    // Refused, more than once.
    agent.line("(attempt 2): connection refused").await;
    let mut master = back(address).await;
    let mut session = master.session().await;
    let past = session.register(5).await.past;
    assert_eq!(past.len(), 2, "{past:?}");
    assert_eq!((past[0].kind(), past[0].epoch, &past[0].master), (Kind::Session, 4, &address.to_string()));
    assert_eq!((past[1].kind(), past[1].reason.as_str()), (Kind::Attempts, "connection_refused"));
    assert!(past[1].attempts >= 2 && past[1].duration_ms >= 100, "{past:?}");
    assert!(past[0].ago_ms >= past[1].ago_ms + past[1].duration_ms, "{past:?}");
    agent.contains("history", "\tregistered\t").await;
    agent.kept_registered(5).await;
    agent.child.kill().await.expect("it ends");
    let lines =
        |text: &str| text.lines().map(|line| line.split_once("  ").expect("a time").1.to_owned()).collect::<Vec<_>>();
    let (code, shown) = status(agent.state.path(), &["--history"]).await;
    assert_eq!(code, Some(3));
    let before = lines(&shown);
    assert_eq!(before[0], "agent started");
    assert_eq!(before[1], format!("registered with {address}: session 4, attempt 1"));
    assert!(before[2].starts_with(&format!("session 4 with {address} ended after ")), "{shown}");
    drop((session, master));
    // A later life of the agent knows of the earlier one, and of its sudden end.
    let mut master = back(address).await;
    let agent = Agent::start_in(agent.into_state(), &address.to_string(), &[]);
    let mut session = master.session().await;
    let past = session.register(6).await.past;
    assert_eq!(words(&past)[..2], [(Kind::Session, "agent_died"), (Kind::Start, "started")]);
    assert_eq!(past[0].epoch, 5);
    let (code, json) = status(agent.state.path(), &["--history", "-o", "json"]).await;
    assert!(code != Some(3) && json.starts_with("[\n  {\n    \"number\": 1,"), "{json}");
    assert!(json.contains("\"reason\": \"agent_died\""), "{json}");
}

#[tokio::test]
async fn a_damaged_history_is_begun_anew() {
    let mut master = Master::start().await;
    let state = tempfile::TempDir::new().expect("temporary directory");
    fs::write(state.path().join("history"), [0xff; 100_000]).expect("it can be written");
    let agent = Agent::start_in(state, &master.address(), &[]);
    let mut session = master.session().await;
    assert_eq!(words(&session.register(1).await.past), [(Kind::Start, "started")]);
    agent.contains("history", "sloth-history 1\t").await;
}
