//! The agent's binary against masters that flood it, lie to it or speak out of turn.

mod common;

use common::{
    Agent, PATIENCE,
    master::{Master, Session},
};
use proto::{agent_message::Kind as Up, master_message::Kind as Down};
use std::collections::HashSet;
use tokio::time::timeout;

fn run(id: String, argv: &[&str]) -> Down {
    let argv = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
    let spec = Some(proto::CommandSpec { argv, ..Default::default() });
    Down::RunCommand(proto::RunCommand { id, spec })
}

/// Sends so many commands at once, and waits until each of them is refused.
async fn refuses_a_burst(mut session: Session) {
    const COMMANDS: usize = 4_000;
    let mut answered = HashSet::new();
    let all = async {
        for number in 0..COMMANDS {
            session.send(run(format!("c{number}"), &["true"])).await;
        }
        while answered.len() < COMMANDS {
            if let Some(Up::CommandFinished(finished)) = session.next().await {
                answered.insert(finished.id);
            }
        }
    };
    let done = timeout(PATIENCE, all).await;
    assert!(done.is_ok(), "{} of {COMMANDS} answers came", answered.len());
}

/// No heartbeat comes to the help of what is stuck.
const SELDOM: [&str; 3] = ["commands.enabled=false", "heartbeat.interval=\"1h\"", "heartbeat.timeout=\"1h\""];

#[tokio::test]
async fn a_burst_of_answers_does_not_wait_for_the_next_heartbeat() {
    let mut master = Master::start().await;
    let _agent = Agent::start(&master.address(), &[SELDOM.as_slice(), &["log.level=\"warn\""]].concat());
    refuses_a_burst(master.active(1).await).await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &SELDOM);
    // It says a line of each command: more than a pipe takes.
    refuses_a_burst(master.active(1).await).await;
    agent.line("lines were left out: they were not read in time").await;
}

#[tokio::test]
async fn what_a_master_says_is_one_short_line() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.session().await;
    session.registration().await;
    let reason = format!("busy\nERROR Lost connection{}", "!".repeat(1_000_000));
    session.send(Down::RetryLater(proto::RetryLater { retry_after_ms: 100, reason: reason.clone() })).await;
    let line = agent.line("asks to come back").await;
    assert!(line.contains("(busy ERROR Lost connection!!!") && line.len() < 500, "{line}");
    let mut session = master.session().await;
    session.registration().await;
    session.reject(proto::rejected::Reason::NameTaken, &reason).await;
    let line = agent.line("Cannot connect to master").await;
    assert!(line.contains("busy ERROR Lost connection!!!") && line.len() < 600, "{line}");
}

#[tokio::test]
async fn nothing_is_run_for_a_master_that_has_not_registered_the_agent() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    let mut session = master.session().await;
    session.registration().await;
    session.send(run("early".into(), &["true"])).await;
    agent.line("(attempt 1): master speaks before it has registered the agent").await;
    assert!(master.session().await.registration().await.held.is_empty());
    assert_eq!(agent.count("Command early"), 0);
}

#[tokio::test]
async fn a_flood_keeps_neither_heartbeats_nor_commands_nor_signals_waiting() {
    let floods = [
        Down::Probe(proto::Probe {}),
        Down::HeartbeatAck(proto::HeartbeatAck { seq: u64::MAX, interval_ms: 0 }),
        Down::CancelCommand(proto::CancelCommand { id: "none".into() }),
    ];
    for flood in floods {
        let mut master = Master::start().await;
        let mut agent = Agent::start(&master.address(), &["heartbeat.interval=\"1s\"", "heartbeat.timeout=\"1s\""]);
        let mut session = master.active(1).await;
        let flooding = session.flood(flood);
        session.send(run("c".into(), &["true"])).await;
        let (mut beats, mut finished) = (0, false);
        while beats < 3 || !finished {
            match session.next().await {
                Some(Up::Heartbeat(beat)) => {
                    beats += 1;
                    session.ack(beat.seq).await;
                }
                Some(Up::CommandFinished(_)) => {
                    finished = true;
                    session.send(Down::FinishedAck(proto::FinishedAck { id: "c".into() })).await;
                }
                Some(_) => {}
                None => panic!("the session is over:\n{}", agent.log.join("\n")),
            }
        }
        agent.signal(libc::SIGTERM);
        let said = timeout(PATIENCE, session.serve()).await.expect("the agent leaves");
        assert!(said.iter().any(|kind| matches!(kind, Up::Goodbye(_))));
        flooding.abort();
        assert_eq!(agent.exit().await, 0);
        assert_eq!(agent.count("Heartbeat failed"), 0, "{:#?}", agent.log);
    }
}

#[tokio::test]
async fn an_absurd_epoch_shuts_no_later_master_out() {
    let mut master = Master::start().await;
    let mut agent = Agent::start(&master.address(), &[]);
    drop(master.active(u64::MAX).await);
    agent.line("Lost connection").await;
    // What a master makes of the epoch that is reported to it.
    drop(master.active((1 << 62) + 1).await);
    agent.line("Lost connection").await;
    master.active((1 << 62) + 2).await;
}
