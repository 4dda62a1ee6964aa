//! Why is this agent offline? Asked of real processes.

use crate::fleet::{Agent, Master, until};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

/// Where a master serves its metrics.
pub fn metrics_of(master: &Master) -> SocketAddr {
    let line = master.running.err.line("Health and metrics on http://");
    line.rsplit_once("http://").unwrap().1.parse().unwrap()
}

pub fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_agent_that_was_given_the_port_of_the_page_is_told_that_no_agents_are_served_there() {
    let master = Master::with(&["http.listen=\"127.0.0.1:0\""]);
    let page = metrics_of(&master);
    let agent = Agent::start(master.folder.path(), "lady", &page.to_string(), &[]);
    let line = agent.line("Cannot connect to master at");
    assert!(line.contains("(attempt 1): it does not serve agents (is this a Sloth Runner master?)"), "{line}");
    assert!(get(page, "/healthz").starts_with("HTTP/1.1 200 "), "it serves on");
}

#[test]
fn an_outage_is_explained_after_the_master_itself_was_restarted() {
    let mut master = Master::start();
    let mut agent = master.agent("lady");
    agent.running.kill();
    master.until_status("lady", "Inactive");
    let reason = master.json(&["agent", "list"])[0]["reason"].as_str().unwrap().to_owned();
    master.again();
    let told = master.json(&["agent", "explain", "lady"]);
    let session = &told["sessions"][0];
    assert_eq!((&session["epoch"], session["reason"].as_str()), (&1.into(), Some(reason.as_str())), "{told}");
    assert!(session["started"].as_str() <= session["ended"].as_str() && session["ended"].is_string(), "{told}");
    assert_eq!((&told["status"], &told["reason"]), (&"Inactive".into(), &reason.as_str().into()));
    assert!(told["advice"].as_str().unwrap().contains("look on the node"), "{told}");
    // Under its name, from elsewhere, while it is back.
    agent.again();
    master.until_status("lady", "Active");
    let folder = master.path("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    let twin = Agent::start(&folder, "lady", &master.address.to_string(), &[]);
    twin.line("Cannot connect to master");
    let told = until("the twin is seen", || {
        let told = master.json(&["agent", "explain", "lady"]);
        (told["attempts"][0]["reason"] == "name_taken").then_some(told)
    });
    assert!(told["advice"].as_str().unwrap().contains("another machine claims its name"), "{told}");
    let skew = told["clock_skew"].as_f64().unwrap();
    assert!(skew.abs() < 5.0 && told["next_beat"].is_string(), "{told}");
    let text = master.tool(&["agent", "explain", "lady"]).expect(0).text();
    assert!(text.starts_with("lady is Active since") && text.contains("\nSessions:\nEPOCH"), "{text}");
    // An operator has it stopped. The twin would take the name that is free then.
    drop(twin);
    master.tool(&["agent", "stop", "lady"]).expect(0);
    master.until_status("lady", "Stopped");
    let told = master.json(&["agent", "explain", "lady"]);
    assert_eq!(told["sessions"][0]["closed_by"], "operator", "{told}");
    assert!(master.tool(&["agent", "explain", "nobody"]).expect(1).stderr.contains("no agent"));
}

#[test]
fn a_master_serves_its_metrics_and_posts_its_events() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let (sender, posted) = mpsc::channel();
    let address = receiver.local_addr().unwrap();
    thread::spawn(move || {
        for stream in receiver.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while lines.read_line(&mut line).unwrap() > 2 {
                length = line.strip_prefix("content-length: ").map_or(length, |value| value.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            lines.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            let _ = sender.send(serde_json::from_slice::<serde_json::Value>(&body).unwrap()); // the test may be over
        }
    });
    let hook = format!("events.webhook.url=\"http://{address}/hook\"");
    let master = Master::with(&["http.listen=\"127.0.0.1:0\"", &hook]);
    let metrics = metrics_of(&master);
    assert!(get(metrics, "/readyz").starts_with("HTTP/1.1 200 OK"), "{}", get(metrics, "/readyz"));
    let agent = master.agent("lady");
    master.tool(&["agent", "run", "lady", "--", "true"]).expect(0);
    drop(agent);
    for kind in ["agent.connected", "command.finished", "agent.lost"] {
        let event = posted.recv_timeout(crate::fleet::PATIENCE).unwrap();
        assert_eq!((&event["kind"], &event["agent"]), (&kind.into(), &"lady".into()), "{event}");
    }
    until("the loss is counted", || get(metrics, "/metrics").contains("status=\"inactive\"} 1\n").then_some(()));
    let text = get(metrics, "/metrics");
    assert!(text.contains("sloth_master_commands_total{outcome=\"exited\"} 1\n"), "{text}");
    // A port that is asked for and taken is an error.
    let taken = format!("http.listen={:?}", metrics.to_string());
    let state = master.path("other");
    let args = ["master", "start", "--listen", "127.0.0.1:0", "--set", &taken, "--state-dir", state.to_str().unwrap()];
    let refused = master.tool_started(&args).done();
    assert!(refused.code != 0, "{}", refused.stderr);
}
