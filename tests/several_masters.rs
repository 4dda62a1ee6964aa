//! The agent's binary with more than one master: dead, slow, rejecting, leaving and returning ones.

mod common;

use common::{Agent, PATIENCE, master::Master, place::Refusing};
use proto::{agent_message::Kind as Up, held_command::State, master_message::Kind as Down, rejected::Reason};
use std::time::Duration;
use tokio::{net::TcpListener, time::timeout};

/// With these a test hangs wherever the agent waits.
const NO_WAIT: [&str; 2] = ["reconnect.initial_delay=\"1h\"", "reconnect.max_delay=\"1h\""];

#[tokio::test]
async fn where_the_first_is_dead_the_second_is_dialled_without_a_wait() {
    let nobody = Refusing::new();
    let dead = nobody.address();
    let mut second = Master::start().await;
    let mut agent = Agent::start(&format!("{dead},{}", second.address()), &NO_WAIT);
    second.active(1).await;
    let next = second.address();
    agent
        .line(&format!("WARN  Cannot connect to master at {dead} (attempt 1): connection refused. Trying {next}"))
        .await;
    agent.line(&format!("Agent registered with master at {next}, reporting")).await;
}

#[tokio::test]
async fn where_the_first_never_answers_the_second_follows_after_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut second = Master::start().await;
    let masters = format!("{},{}", silent.local_addr().expect("bound"), second.address());
    let mut agent = Agent::start(&masters, &[NO_WAIT.as_slice(), &["connection.timeout=\"2s\""]].concat());
    second.active(1).await;
    agent.line("(attempt 1): no answer to the registration within 2s. Trying ").await;
}

#[tokio::test]
async fn where_the_first_rejects_or_asks_for_patience_the_second_has_the_agent() {
    let patience = Down::RetryLater(proto::RetryLater { retry_after_ms: 600_000, reason: "busy".into() });
    for asks in [None, Some(patience)] {
        let (mut first, mut second) = (Master::start().await, Master::start().await);
        let _agent = Agent::start(&format!("{},{}", first.address(), second.address()), &NO_WAIT);
        let mut session = first.session().await;
        session.registration().await;
        match asks {
            None => session.reject(Reason::NameTaken, "").await,
            Some(asks) => session.send(asks).await,
        }
        second.active(1).await;
    }
}

#[tokio::test]
async fn a_lost_session_is_followed_by_one_with_the_other_master_at_once() {
    let (mut first, mut second) = (Master::start().await, Master::start().await);
    let mut agent = Agent::start(&format!("{},{}", first.address(), second.address()), &NO_WAIT);
    drop(first.active(1).await);
    second.active(2).await;
    agent.line("ERROR Lost connection to master: stream closed by master. Reconnecting...").await;
    agent.line(&format!("INFO  🔄 Reconnecting to master at {} now...", second.address())).await;
}

#[tokio::test]
async fn of_masters_that_are_all_dead_and_skipped_the_one_that_returns_is_found() {
    let nobody = Refusing::new();
    let dead = nobody.address();
    let returns = Refusing::new();
    let address = returns.address();
    let breaker = ["circuit_breaker.max_failures=1", "circuit_breaker.open_for=\"1h\""];
    let mut agent = Agent::start(&format!("{dead},{address}"), &breaker);
    for skipped in [&dead, &address] {
        agent.line(&format!("WARN  Skipping master at {skipped} for 1h after 1 failed attempt in a row")).await;
    }
    let status = || std::fs::read_to_string(agent.state.path().join("status.json")).unwrap_or_default();
    let shown = timeout(PATIENCE, async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !status().contains(&format!("{address} until ")) {
            look.tick().await;
        }
    });
    assert!(shown.await.is_ok(), "{}", status());
    agent.line(&format!("Trying the skipped master at {dead} once")).await;
    let mut master = Master::on(returns.listen());
    let session = master.active(1).await;
    tokio::spawn(session.serve());
    agent.line(&format!("INFO  Master at {address} is no longer skipped")).await;
}

#[tokio::test]
async fn a_goodbye_hands_over_at_once_and_a_running_command_goes_on() {
    let (mut first, mut second) = (Master::start().await, Master::start().await);
    let agent = Agent::start(&format!("{},{}", first.address(), second.address()), &NO_WAIT);
    let mut session = first.active(1).await;
    let gate = agent.state.path().join("gate");
    let begun = agent.state.path().join("begun");
    let line = format!(": >'{}'; while [ ! -e '{}' ]; do sleep 0.02; done; exit 7", begun.display(), gate.display());
    let argv = ["/bin/sh", "-c", &line].iter().map(|word| word.as_bytes().to_vec()).collect();
    let spec = Some(proto::CommandSpec { argv, ..Default::default() });
    session.send(Down::RunCommand(proto::RunCommand { id: "long".into(), spec })).await;
    loop {
        match session.next().await {
            Some(Up::CommandAccepted(accepted)) => break assert_eq!(accepted.id, "long"),
            Some(Up::Heartbeat(beat)) => session.ack(beat.seq).await,
            other => panic!("{other:?}"),
        }
    }
    // Accepted is before started.
    let runs = timeout(PATIENCE, async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !begun.exists() {
            look.tick().await;
        }
    });
    runs.await.expect("the command starts");
    session.send(Down::Goodbye(proto::Goodbye { reason: "draining".into(), retry_after_ms: 600_000 })).await;
    let mut session = second.session().await;
    let register = session.register(2).await;
    let held: Vec<_> = register.held.iter().map(|held| (held.id.as_str(), held.state())).collect();
    assert_eq!(held, [("long", State::Running)]);
    std::fs::write(gate, "").expect("the agent's directory is writable");
    let outcome = loop {
        match session.next().await {
            // That it has started may come in this session.
            Some(Up::CommandAccepted(accepted)) => assert_eq!(accepted.id, "long"),
            Some(Up::CommandFinished(finished)) => break finished.outcome.expect("an outcome"),
            Some(Up::Heartbeat(beat)) => session.ack(beat.seq).await,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((outcome.kind(), outcome.code), (proto::outcome::Kind::Exited, 7));
}
