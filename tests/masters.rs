//! The agent's binary against masters that refuse, hang, forget, close, talk nonsense, accept and fail.

mod common;

use common::{
    Agent, PATIENCE,
    master::Master,
    place::Refusing,
    proxy::{Proxy, Wire},
};
use proto::{agent_message::Kind as Up, master_message::Kind as Down, rejected::Reason};
use std::time::Duration;
use tokio::{io::AsyncWriteExt, net::TcpListener, time::timeout};

#[tokio::test]
async fn registers_beats_and_says_goodbye() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["labels.site=berlin"]);
    let mut session = master.session().await;
    let register = session.register(7).await;
    assert_eq!((register.name.as_str(), register.agent_id.len(), register.instance_id.len()), ("lady", 16, 16));
    assert_eq!(register.labels.get("site").map(String::as_str), Some("berlin"));
    assert_eq!((register.interval_ms, register.timeout_ms, register.max_failures), (200, 200, 50));
    assert_eq!(register.report_address, "127.0.0.1");
    for expected in 1..=4 {
        assert_eq!(session.beat().await, expected);
        session.ack(expected).await;
    }
    agent.line("Agent registered with master at 127.").await;
    agent.signal(libc::SIGTERM);
    let said = timeout(PATIENCE, session.serve()).await.expect("the agent leaves");
    assert!(matches!(said.last(), Some(Up::Goodbye(_))), "{said:?}");
    assert_eq!(agent.exit().await, 0);
    assert_eq!(agent.count("Lost connection"), 0);
}

#[tokio::test]
async fn keeps_its_id_and_its_epoch_over_a_restart() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.session().await;
    let first = session.register(41).await;
    agent.kept("epoch", "41\n").await;
    agent.signal(libc::SIGKILL);
    agent.exit().await;
    let _again = Agent::start_in(agent.state, &master.address(), &[]);
    let second = master.session().await.registration().await;
    assert_eq!((&first.agent_id, second.highest_epoch), (&second.agent_id, 41));
    assert_ne!(first.instance_id, second.instance_id);
}

#[tokio::test]
async fn the_status_tells_the_loss_of_a_session_from_the_attempts_that_fail_after_it() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let session = master.active(1).await;
    agent.line("First heartbeat answered").await;
    drop((session, master));
    agent.line("(attempt 1): connection refused").await;
    agent.line("Connecting to master").await;
    agent.contains("status.json", "\"last_failure\": \"connection_refused\"").await;
    let status = std::fs::read_to_string(agent.state.path().join("status.json")).expect("seen above");
    let loss = status.lines().find(|line| line.contains("\"last_loss\"")).expect("there was one");
    assert!(!loss.contains("refused"), "{status}");
}

#[tokio::test]
async fn a_refusing_master_meets_the_table_of_waits() {
    let nobody = Refusing::new();
    let address = nobody.address;
    let mut agent = Agent::start(&nobody.address(), &[]);
    for (attempt, wait) in [(1, "0.1s"), (2, "0.2s"), (3, "0.4s"), (4, "0.8s"), (5, "0.8s")] {
        let text = format!(
            "WARN  Cannot connect to master at {address} (attempt {attempt}): connection refused. Retrying in {wait}..."
        );
        agent.line(&text).await;
    }
}

#[tokio::test]
async fn a_master_that_never_speaks_is_given_up_after_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut agent = Agent::start(&silent.local_addr().expect("bound").to_string(), &["connection.timeout=\"300ms\""]);
    let _held = silent.accept().await.expect("the agent dials");
    agent.line("(attempt 1): no answer to the registration within 0.3s. Retrying in 0.1s...").await;
    timeout(PATIENCE, silent.accept()).await.expect("it tries again").expect("a connection");
}

#[tokio::test]
async fn a_master_that_hangs_at_the_registration_is_given_up_after_the_timeout() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["connection.timeout=\"2s\""]);
    let mut held = master.session().await;
    held.registration().await;
    agent.line("(attempt 1): no answer to the registration within 2s").await;
    master.active(1).await;
    agent.line("Agent registered").await;
    assert_eq!(agent.count("Lost connection"), 0, "there was no session to lose");
}

#[tokio::test]
async fn a_master_that_hangs_after_the_registration_is_lost_after_three_heartbeats() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["heartbeat.max_failures=3"]);
    let mut held = master.session().await;
    held.register(1).await;
    for n in 1..=3 {
        agent.line(&format!("WARN  Heartbeat failed ({n}/3): no answer within 0.2s")).await;
    }
    agent.line("ERROR Lost connection to master after 3 failed heartbeats. Reconnecting...").await;
    agent.line("INFO  🔄 Reconnecting to master in 0.1s...").await;
    master.active(2).await;
    agent.line("Agent registered").await;
    assert_eq!(agent.count("Lost connection"), 1);
}

#[tokio::test]
async fn late_acks_clear_the_failures() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.active(1).await;
    let late = session.beat().await;
    agent.line("Heartbeat failed (2/50)").await;
    session.ack(late).await;
    agent.line("INFO  Heartbeat recovered, connection stable").await;
    assert_eq!(agent.count("Lost connection"), 0);
}

#[tokio::test]
async fn a_master_that_forgot_the_agent_has_it_back_at_once() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["reconnect.initial_delay=\"1h\"", "reconnect.max_delay=\"1h\""]);
    let session = master.active(1).await;
    session.reject(Reason::UnknownAgent, "").await;
    // With a first wait of an hour only an immediate registration arrives.
    master.active(2).await;
    agent.line("ERROR Lost connection to master: the master does not know this agent. Reconnecting...").await;
    agent.line("Agent registered").await;
}

#[tokio::test]
async fn a_closed_stream_a_reset_and_a_closed_connection_are_losses_at_once() {
    let mut master = Master::start().await;
    let proxy = Proxy::to(master.address).await;
    // Heartbeats that would take an hour to find it.
    let slow = ["heartbeat.interval=\"1h\"", "heartbeat.timeout=\"1h\""];
    let mut agent = Agent::start(&proxy.address(), &slow);
    drop(master.active(1).await);
    agent.line("ERROR Lost connection to master: stream closed by master. Reconnecting...").await;
    for (epoch, wire, says) in [(2, Wire::Reset, "reset"), (3, Wire::Closed, "closed")] {
        let held = master.active(epoch).await;
        agent.line("Agent registered").await;
        proxy.set(wire);
        let line = agent.line("ERROR Lost connection to master: ").await;
        assert!(line.contains(says) && line.ends_with("by master. Reconnecting..."), "{line}");
        proxy.set(Wire::Through);
        drop(held);
    }
    master.active(4).await;
}

#[tokio::test]
async fn a_dead_wire_is_found_in_every_direction() {
    for wire in [Wire::Dead, Wire::DeadUp, Wire::DeadDown] {
        let mut master = Master::start().await;
        let proxy = Proxy::to(master.address).await;
        let mut agent = Agent::start(&proxy.address(), &["heartbeat.max_failures=3"]);
        let session = master.active(1).await;
        let serving = tokio::spawn(session.serve());
        agent.line("Agent registered").await;
        proxy.set(wire);
        agent.line("ERROR Lost connection to master after 3 failed heartbeats. Reconnecting...").await;
        proxy.set(Wire::Through);
        master.active(2).await;
        agent.line("Agent registered").await;
        serving.abort();
    }
}

#[tokio::test]
async fn nonsense_is_a_failure_with_a_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut agent = Agent::start(&listener.local_addr().expect("bound").to_string(), &[]);
    let talker = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            // Closed at once, the connection would as well be reset.
            open.push(stream);
        }
    });
    let line = agent.line("(attempt 2): ").await;
    let reason = "(attempt 2): it does not serve agents (is this a Sloth Runner master?). Retrying in 0.2s...";
    assert!(line.contains("WARN  Cannot connect") && line.ends_with(reason), "{line}");
    talker.abort();
}

#[tokio::test]
async fn nonsense_in_a_session_is_of_a_master_all_the_same() {
    let mut master = Master::start().await;
    let proxy = Proxy::to(master.address).await;
    let mut agent = Agent::start(&proxy.address(), &[]);
    let _session = master.active(1).await;
    agent.line("Agent registered").await;
    proxy.set(Wire::Nonsense);
    let line = agent.line("ERROR Lost connection to master: ").await;
    assert!(line.contains("what came from master is no HTTP/2. Reconnecting..."), "{line}");
}

#[tokio::test]
async fn answers_out_of_turn_end_the_session_and_harm_nothing() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.session().await;
    session.registration().await;
    session.ack(99).await;
    agent.line("(attempt 1): answer out of turn").await;
    let mut session = master.session().await;
    session.register(5).await;
    session.send(Down::Registered(proto::Registered { epoch: 9, ..Default::default() })).await;
    agent.line("Lost connection to master: answer out of turn").await;
    let mut session = master.session().await;
    session.register(3).await;
    agent.line("master gave epoch 3, which is not new").await;
    master.active(10).await;
    agent.line("Agent registered").await;
}

#[tokio::test]
async fn a_master_that_accepts_and_fails_meets_growing_waits() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["reconnect.reset_after=\"1h\""]);
    for (epoch, wait) in [(1, "0.1s"), (2, "0.2s"), (3, "0.4s"), (4, "0.8s"), (5, "0.8s")] {
        let session = master.active(epoch).await;
        session.fail(tonic::Status::internal("out of order")).await;
        agent.line(&format!("🔄 Reconnecting to master in {wait}...")).await;
    }
}

#[tokio::test]
async fn refused_identities_wait_longest_and_say_what_to_mend() {
    for reason in [Reason::NameTaken, Reason::DuplicateId, Reason::Unauthorized] {
        let mut master = Master::start().await;
        let mut agent = Agent::start(&master.address(), &[]);
        for attempt in 1..=2 {
            let mut session = master.session().await;
            session.registration().await;
            session.reject(reason, "hosts a and b").await;
            let line = agent.line(&format!("(attempt {attempt}): hosts a and b. Retrying in 0.8s...")).await;
            assert!(line.contains("ERROR Cannot connect"), "{line}");
        }
    }
}

#[tokio::test]
async fn a_master_that_asks_to_wait_is_obeyed_without_a_failure() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.session().await;
    session.registration().await;
    session.send(Down::RetryLater(proto::RetryLater { retry_after_ms: 150, reason: "busy".into() })).await;
    agent.line("asks to come back in 0.2s (busy)").await;
    let session = master.active(1).await;
    session.send(Down::Goodbye(proto::Goodbye { reason: "restart".into(), retry_after_ms: 150 })).await;
    agent.line("Lost connection to master: the master said goodbye (restart). Reconnecting...").await;
    agent.line("🔄 Reconnecting to master in 0.2s...").await;
    master.active(2).await;
}

#[tokio::test]
async fn a_stopped_process_reads_before_it_judges() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(
        &master.address(),
        &["heartbeat.interval=\"1s\"", "heartbeat.timeout=\"1s\"", "heartbeat.max_failures=1"],
    );
    let mut session = master.active(1).await;
    agent.line("Agent registered").await;
    let seq = session.beat().await;
    agent.signal(libc::SIGSTOP);
    session.ack(seq).await;
    // Longer than the pause that is recognised; the deadline of the heartbeat is long over when the agent goes on.
    std::thread::sleep(Duration::from_millis(2_500));
    agent.signal(libc::SIGCONT);
    let next = session.beat().await;
    session.ack(next).await;
    assert_eq!(next, seq + 1);
    agent.signal(libc::SIGTERM);
    tokio::spawn(session.serve());
    agent.exit().await;
    assert_eq!(agent.count("Lost connection"), 0, "{:#?}", agent.log);
}

#[tokio::test]
async fn sighup_ends_a_wait() {
    let nobody = Refusing::new();
    let mut agent = Agent::start(&nobody.address(), &["reconnect.initial_delay=\"1h\"", "reconnect.max_delay=\"1h\""]);
    agent.line("(attempt 1): connection refused. Retrying in 3600s...").await;
    agent.signal(libc::SIGHUP);
    agent.line("(attempt 2): connection refused").await;
}
