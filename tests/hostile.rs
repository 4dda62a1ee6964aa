//! The agent's binary against masters that flood it, lie to it or speak out of turn.

mod common;

use common::{Agent, PATIENCE, master::Master};
use proto::{agent_message::Kind as Up, master_message::Kind as Down};
use std::collections::HashSet;
use tokio::time::timeout;

fn run(id: String, argv: &[&str]) -> Down {
    let argv = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
    let spec = Some(proto::CommandSpec { argv, ..Default::default() });
    Down::RunCommand(proto::RunCommand { id, spec })
}

#[tokio::test]
async fn a_burst_of_answers_does_not_wait_for_the_next_heartbeat() {
    let mut master = Master::start().await;
    let settings =
        ["commands.enabled=false", "heartbeat.interval=\"1h\"", "heartbeat.timeout=\"1h\"", "log.level=\"warn\""];
    let _agent = Agent::start(&master.address(), &settings);
    let mut session = master.active(1).await;
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
