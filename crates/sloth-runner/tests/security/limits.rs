//! What one address may take of the port, before it has shown anything and in all.

use crate::{
    credential::Credential,
    hostile::{Client, connect_from, is_closed},
    secured::{Master, PATIENCE},
};
use std::net::Ipv4Addr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// One number of `/metrics`, of the master whose log this is.
async fn metric(master: &mut Master, name: &str) -> u64 {
    let seen = master.log.seen.iter().find(|line| line.contains("Health and metrics on http://")).cloned();
    let line = match seen {
        Some(line) => line,
        None => master.log.line("Health and metrics on http://").await,
    };
    let (_, address) = line.split_once("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address.trim()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

#[tokio::test]
async fn an_address_that_takes_all_it_can_keeps_no_honest_agent_out() {
    // What is closed is closed for being too many, not for its silence.
    let settings = [
        "http.listen=\"127.0.0.1:0\"",
        "connections.max_per_address=25",
        "connections.max_unknown_per_address=20",
        "connections.unknown_timeout=1h",
    ];
    let mut master = Master::start(&settings).await;
    let state = tempfile::tempdir().unwrap();
    let (mut silent, mut closed) = (Vec::new(), 0);
    for _ in 0..60 {
        match connect_from(HOSTILE, &master.address).await {
            Ok(stream) => silent.push(stream),
            Err(_) => closed += 1,
        }
    }
    for stream in &mut silent[20..] {
        closed += usize::from(is_closed(stream).await);
    }
    assert_eq!(closed, 40, "all above its 20");
    // At once: a handshake that does not begin ends all others soon.
    assert_eq!(metric(&mut master, "sloth_master_unknown_connections").await, 20);
    assert_eq!(metric(&mut master, "sloth_master_connections_closed_total{reason=\"unknown\"}").await, 40);
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    assert_eq!(master.tool("agent run lady -- true").await.code, 0);
    let line = master.log.line("has as many connections as one address may have").await;
    assert!(line.contains("127.0.0.2") && line.contains("20: connections.max_unknown_per_address"), "{line}");

    // With a good credential it gets further, and not to the end either.
    drop(silent);
    let gone = async { while metric(&mut master, "sloth_master_unknown_connections").await > 0 {} };
    timeout(PATIENCE, gone).await.expect("it notices that they are gone");
    let operator = Credential::token("an operator's", &master.operator(), None);
    let mut known = Vec::new();
    loop {
        let Ok(mut client) = Client::from(HOSTILE, &operator, &master).await else { break };
        if client.call("/agent.Fleet/List", &[0; 5]).await != Some(0) {
            break;
        }
        known.push(client);
        assert!(known.len() <= 25, "more than one address may have");
    }
    assert_eq!(known.len(), 25);
    assert_eq!(metric(&mut master, "sloth_master_connections_closed_total{reason=\"address\"}").await, 1);
    assert_eq!(master.tool("agent run lady -- true").await.code, 0);
    agent.process.kill().await.unwrap();
    let said = agent.log.whole().await;
    assert!(!said.contains("Lost"), "{said}");
}

#[tokio::test]
async fn who_shows_nothing_in_time_is_closed_and_who_has_shown_something_stays() {
    let master = Master::start(&["connections.unknown_timeout=3s"]).await;
    let nobody = Credential { name: "none", certificate: None, bearer: None, who: None };
    let operator = Credential::token("an operator's", &master.operator(), None);
    let mut known = Client::of(&operator, &master).await;
    assert_eq!(known.call("/agent.Fleet/List", &[0; 5]).await, Some(0));
    let mut unknown = Client::of(&nobody, &master).await;
    // Refused calls are no credential.
    assert_eq!(unknown.call("/agent.Fleet/List", &[0; 5]).await, Some(16));
    unknown.closed().await;
    assert_eq!(known.call("/agent.Fleet/List", &[0; 5]).await, Some(0));
}

#[tokio::test]
async fn who_shows_nothing_asks_so_often_and_no_more() {
    let master = Master::start(&["connections.unknown_timeout=1h"]).await;
    let nobody = Credential { name: "none", certificate: None, bearer: None, who: None };
    let mut unknown = Client::of(&nobody, &master).await;
    for _ in 0..16 {
        assert_eq!(unknown.call("/agent.Fleet/List", &[0; 5]).await, Some(16));
    }
    unknown.call("/agent.Fleet/List", &[0; 5]).await;
    unknown.closed().await;
}
