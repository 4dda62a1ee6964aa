//! How the agent ends: what it waits for, and what a second request changes.

mod common;

use common::{Agent, PATIENCE, master::Master};
use proto::{agent_message::Kind as Up, held_command::State, master_message::Kind as Down, outcome::Kind};
use std::time::Duration;
use tokio::time::{interval, timeout};

fn run(id: &str, shell: &str) -> Down {
    let spec = Some(proto::CommandSpec { shell: shell.into(), ..Default::default() });
    Down::RunCommand(proto::RunCommand { id: id.into(), spec })
}

#[tokio::test]
async fn a_second_request_ends_commands_as_the_end_of_the_grace_does_and_tells_their_outcomes() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["shutdown.grace=\"1h\"", "commands.kill_grace=\"1h\""]);
    let mut session = master.active(1).await;
    let proof = agent.state.path().join("proof");
    let script = format!("trap 'echo term >{}; exit 0' TERM; while :; do sleep 0.05; done", proof.display());
    session.send(run("c", &script)).await;
    agent.line("INFO  Command c started: ").await;
    // Requests within a second of each other are one.
    let mut again = interval(Duration::from_millis(100));
    let finished = timeout(PATIENCE, async {
        loop {
            tokio::select! {
                _ = again.tick() => agent.signal(libc::SIGTERM),
                said = session.next() => match said.expect("the agent says how it ended") {
                    Up::Heartbeat(beat) => session.ack(beat.seq).await,
                    Up::CommandFinished(finished) => break finished,
                    _ => {}
                },
            }
        }
    });
    let outcome = finished.await.expect("it is ended").outcome.expect("an outcome");
    assert_eq!((outcome.kind(), &*outcome.reason), (Kind::Interrupted, "the agent was shut down"));
    assert_eq!(std::fs::read_to_string(proof).expect("its trap ran"), "term\n");
    session.send(Down::FinishedAck(proto::FinishedAck { id: "c".into() })).await;
    let said = timeout(PATIENCE, session.serve()).await.expect("the agent leaves");
    assert!(said.iter().any(|said| matches!(said, Up::Goodbye(_))), "{said:?}");
    assert_eq!(agent.exit().await, 0);
}

#[tokio::test]
async fn with_nothing_that_runs_a_master_that_is_away_is_not_waited_for_as_commands_are() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &["shutdown.grace=\"1h\""]);
    let mut session = master.active(1).await;
    session.send(run("c", "true")).await;
    loop {
        match session.next().await.expect("the session goes on") {
            Up::Heartbeat(beat) => session.ack(beat.seq).await,
            // Nobody acknowledges it.
            Up::CommandFinished(_) => break,
            _ => {}
        }
    }
    drop((session, master));
    agent.line("Lost connection to master").await;
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.exit().await, 0);
    assert_eq!(agent.count("Shutting down: waiting up to"), 0, "nothing runs: {:#?}", agent.log);
    // The next start tells it.
    let mut master = Master::start().await;
    let _agent = Agent::start_in(agent.into_state(), &master.address(), &[]);
    let held = master.session().await.registration().await.held;
    assert_eq!(held.iter().map(|held| (&*held.id, held.state())).collect::<Vec<_>>(), [("c", State::Finished)]);
}

#[tokio::test]
async fn what_ends_after_the_request_while_the_master_is_away_is_the_last_that_is_waited_for() {
    let mut master = Master::start().await;
    // Nothing else wakes the agent: with the grace, or the wait for the master, this would take an hour.
    let slow = ["shutdown.grace=\"1h\"", "reconnect.initial_delay=\"1h\"", "reconnect.max_delay=\"1h\""];
    let mut agent = Agent::start(&master.address(), &slow);
    let session = master.active(1).await;
    let gate = agent.state.path().join("gate");
    session.send(run("c", &format!("until [ -e {} ]; do sleep 0.02; done", gate.display()))).await;
    agent.line("INFO  Command c started: ").await;
    drop((session, master));
    agent.line("Reconnecting to master in 3600s...").await;
    agent.signal(libc::SIGTERM);
    agent.line("Shutting down: waiting up to").await;
    std::fs::write(gate, "").expect("our own folder");
    assert_eq!(agent.exit().await, 0);
}
