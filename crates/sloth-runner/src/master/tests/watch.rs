//! Explain, health and metrics of a master with scripted agents.

use super::bench::*;
use proto::{ExplainReply, GetRequest, agent_message::Kind as Up, past_event};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::Code;

async fn explain(master: &Master, name: &str) -> ExplainReply {
    soon(master.fleet().await.explain(GetRequest { name: name.to_owned() })).await.unwrap().into_inner()
}

/// Once there are so many ended sessions on record.
async fn explained(master: &Master, name: &str, ended: usize) -> ExplainReply {
    loop {
        let reply = explain(master, name).await;
        if reply.sessions.iter().filter(|session| session.ended_unix_ms > 0).count() == ended {
            return reply;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_agent_is_explained_with_its_sessions_over_a_restart_of_the_master() {
    let master = Master::start().await;
    let time_unix_ms = master.core.upgrade().unwrap().now().unix_ms + 3_600_000;
    let past = proto::PastEvent {
        kind: past_event::Kind::Attempts.into(),
        reason: "dns".into(),
        attempts: 3,
        ..proto::PastEvent::default()
    };
    let told = proto::Register { time_unix_ms, past: vec![past], ..register(1, "a") };
    let mut agent = master.agent(told).await;
    agent.beat(1).await;
    let reply = explain(&master, "a").await;
    assert_eq!(reply.agent.as_ref().unwrap().status, "Active");
    assert!(reply.advice.starts_with("Nothing is to be done"), "{}", reply.advice);
    assert!(reply.clock_known && (3_500_000..=3_600_000).contains(&reply.clock_skew_ms), "{}", reply.clock_skew_ms);
    assert!(reply.next_beat_unix_ms > reply.time_unix_ms - 1_000 && reply.lost_at_unix_ms > reply.next_beat_unix_ms);
    assert_eq!((reply.told[0].kind.as_str(), reply.told[0].attempts), ("attempts", 3));
    let [open] = &reply.sessions[..] else { panic!("{:?}", reply.sessions) };
    assert_eq!((open.epoch, open.ended_unix_ms, open.closed_by.as_str()), (1, 0, ""));

    agent.send(Up::Goodbye(proto::Goodbye { reason: "shutdown".to_owned(), retry_after_ms: 0 })).await;
    let reply = explained(&master, "a", 1).await;
    assert!(reply.advice.starts_with("It was shut down on its node"), "{}", reply.advice);
    assert_eq!((reply.next_beat_unix_ms, reply.lost_at_unix_ms), (0, 0));
    let _second = master.agent(register(1, "a")).await;
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    master.stop().await;
    let master = Master::restart(store, outputs).await;
    let reply = explained(&master, "a", 2).await;
    let ends: Vec<_> =
        reply.sessions.iter().map(|one| (one.epoch, one.reason.as_str(), one.closed_by.as_str())).collect();
    assert_eq!(ends, [(2, "master_shutdown", "master"), (1, "shutdown", "agent")]);
    assert!(reply.advice.contains("since the master was restarted"), "{}", reply.advice);
}

#[tokio::test]
async fn who_was_turned_away_is_named_also_where_nobody_has_the_name() {
    let master = Master::start().await;
    let _agent = master.agent(register(1, "a")).await;
    let mut twin = master.connect(register(2, "a")).await;
    twin.rejected().await;
    let reply = explain(&master, "a").await;
    assert_eq!((reply.attempts[0].reason.as_str(), reply.attempts[0].host.as_str()), ("name_taken", "host2"));
    assert!(reply.advice.contains("another machine claims its name"), "{}", reply.advice);
    let mut bad = master.connect(register(3, "b a d")).await;
    bad.rejected().await;
    let reply = explain(&master, "b a d").await;
    assert_eq!((reply.agent.unwrap().status.as_str(), reply.attempts.len()), ("Unknown", 1));
    let missing = master.fleet().await.explain(GetRequest { name: "c".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn who_was_turned_away_is_known_from_the_events_after_a_restart() {
    let master = Master::start().await;
    let first = master.agent(register(1, "a")).await;
    master.connect(register(2, "a")).await.rejected().await;
    master.connect(register(3, "b a d")).await.rejected().await;
    let before = explain(&master, "b a d").await;
    // One that was here, and is not let in any more.
    drop(master.agent(register(4, "gone")).await);
    explained(&master, "gone", 1).await;
    let labels = (0..65).map(|n| (n.to_string(), String::new())).collect();
    master.connect(proto::Register { labels, ..register(4, "gone") }).await.rejected().await;
    let gone = explain(&master, "gone").await;
    drop(first);
    explained(&master, "a", 1).await;
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    master.stop().await;
    let master = Master::restart(store, outputs).await;

    assert!(gone.advice.contains("break the protocol's rules"), "{}", gone.advice);
    assert_eq!(explain(&master, "gone").await.advice, gone.advice);
    let reply = explain(&master, "b a d").await;
    assert_eq!(reply.advice, before.advice);
    let [one] = &reply.attempts[..] else { panic!("{:?}", reply.attempts) };
    assert_eq!((one.reason.as_str(), one.count, one.host.as_str()), ("protocol", 1, ""));
    assert_eq!(one.message, before.attempts[0].message);
    assert_eq!(reply.agent.unwrap().status, "Unknown");
    let by_id = explain(&master, &"03".repeat(16)).await;
    assert_eq!(by_id.agent.unwrap().name, "b a d");

    let reply = explain(&master, "a").await;
    let told: Vec<_> = reply.attempts.iter().map(|one| (one.reason.as_str(), one.agent_id.as_str())).collect();
    assert_eq!(told, [("name_taken", "02".repeat(16).as_str())]);
    // Of those who come after it memory knows more, and of those before events tell.
    let _agent = master.agent(register(1, "a")).await;
    master.connect(register(2, "a")).await.rejected().await;
    let reply = explain(&master, "a").await;
    let told: Vec<_> = reply.attempts.iter().map(|one| (one.reason.as_str(), one.host.as_str(), one.count)).collect();
    assert_eq!(told, [("name_taken", "host2", 2)], "the one before the restart, too");
    let missing = master.fleet().await.explain(GetRequest { name: "c".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

/// Status and body of one request.
async fn get(address: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn health_and_metrics_say_how_the_master_and_its_fleet_are() {
    let master = Master::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let core = master.core.upgrade().unwrap();
    let http =
        crate::web::Http { listener, hosts: Vec::new(), codes: crate::web::code::Codes::new().unwrap(), admit: None };
    let _web = tokio::spawn(crate::web::serve(core, http));
    let mut agent = master.agent(register(1, "a")).await;
    master.connect(register(2, "b\"")).await.rejected().await;
    drop(master.agent(register(3, "lost")).await);
    let mut metrics = String::new();
    // The loss is told once it is durable.
    while !metrics.contains("sloth_master_agents{status=\"inactive\"} 1\n") {
        metrics = get(address, "/metrics", "localhost").await.1;
    }
    for line in [
        "sloth_master_agents{status=\"active\"} 1",
        "sloth_master_agents{status=\"stopped\"} 0",
        "sloth_master_registrations_total 2",
        "sloth_master_rejections_total{reason=\"protocol\"} 1",
        "sloth_master_losses_total{reason=\"heartbeat_timeout\"} 0",
        "sloth_master_queue_length{queue=\"registrations\"} 0",
        "sloth_master_commands_total{outcome=\"exited\"} 0",
        "sloth_master_store_write_seconds_bucket{le=\"+Inf\"} ",
        "sloth_master_build_info{version=\"0.1.0\"} 1",
    ] {
        assert!(metrics.lines().any(|one| one.starts_with(line)), "{line} in:\n{metrics}");
    }
    assert!(metrics.contains("sloth_master_agent_inactive_since_seconds{agent=\"lost\",reason=\""), "{metrics}");
    assert_eq!(get(address, "/healthz", "127.0.0.1").await, (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz", "[::1]:1").await, (200, "ready\n".to_owned()));
    assert_eq!(get(address, "/nothing", "localhost").await.0, 404);
    assert_eq!(get(address, "/metrics", "evil.example").await.0, 421);

    master.store.fail(Some("the disk is full"));
    agent.send(Up::Goodbye(proto::Goodbye { reason: "shutdown".to_owned(), retry_after_ms: 0 })).await;
    assert_eq!(agent.next().await, None);
    let unready = soon(async {
        loop {
            let answer = get(address, "/readyz", "localhost").await;
            if answer.0 != 200 {
                return answer;
            }
        }
    });
    assert_eq!(unready.await, (503, "the store failed: the disk is full\n".to_owned()));
    assert_eq!(get(address, "/healthz", "localhost").await.0, 200);
    let advice = explain(&master, "a").await.advice;
    assert!(advice.contains("cannot write its database") && advice.ends_with("It said: the disk is full"), "{advice}");
}
