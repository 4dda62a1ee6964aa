use super::bench::*;
use crate::master::{
    orphans::{self, STDIN_RETURN},
    ports::Store,
};
use proto::{
    CancelRequest, CommandAccepted, CommandSpec, GetCommandRequest, HeldCommand, LogsRequest, OutputStream, Register,
    RunStart, agent_message::Kind as Up, held_command, master_message::Kind as Down, outcome, run_reply, run_request,
};
use tonic::Code;

async fn accept(agent: &Agent, id: &str) {
    agent.send(Up::CommandAccepted(CommandAccepted { id: id.to_owned(), started_unix_ms: 0 })).await;
}

fn with_stdin(id: &str) -> RunStart {
    let spec = CommandSpec { argv: vec![b"cat".to_vec()], stdin: true, ..CommandSpec::default() };
    RunStart { spec: Some(spec), ..start(id, "a") }
}

/// An agent that holds this command.
fn holding(id: &str, state: held_command::State) -> Register {
    let held = HeldCommand {
        id: id.to_owned(),
        state: state.into(),
        spec: start(id, "a").spec,
        spooled_bytes: 0,
        started_unix_ms: 0,
    };
    Register { held: vec![held], ..register(1, "a") }
}

#[tokio::test]
async fn a_command_runs_and_its_output_and_code_arrive() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    let run = agent.told_to_run().await;
    assert_eq!((run.id.as_str(), run.spec.unwrap().argv), ("c", vec![b"true".to_vec()]));
    accept(&agent, "c").await;
    let (mut upload, first) = agent.upload("c", 0).await.unwrap();
    assert_eq!((first.received, first.durable), (0, 0));
    upload.send_output(0, b"hel").await;
    assert_eq!(tool.output().await.data.as_ref(), b"hel", "live, before the end");
    let stderr = OutputStream::Stderr.into();
    upload.send(proto::OutputMessage { offset: 3, stream: stderr, data: "lo".into(), ..Default::default() }).await;
    agent.finish("c", 5, 7).await;
    upload.durable(5).await;
    let (output, last) = tool.rest().await;
    assert_eq!(output, b"lo");
    assert_eq!((last.state.as_str(), last.outcome.as_ref().unwrap().code, last.output_bytes), ("finished", 7, 5));
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(ack)) if ack.id == "c"));
    // Who asks later gets the same.
    let mut fleet = master.fleet().await;
    let shown = fleet.get_command(GetCommandRequest { id: "c".to_owned() }).await.unwrap().into_inner();
    assert_eq!((&shown, shown.agent.as_str()), (&last, "a"));
    let mut again = master.run(RunStart { from_offset: 1, ..start("c", "a") }).await.unwrap();
    assert_eq!(again.rest().await, (b"ello".to_vec(), last));
}

#[tokio::test]
async fn output_goes_on_at_the_byte_after_the_link_was_lost() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    accept(&agent, "c").await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"before").await;
    upload.durable(6).await;
    drop((upload, agent));
    let mut agent = master.agent(holding("c", held_command::State::Running)).await;
    let (mut upload, first) = agent.upload("c", 0).await.unwrap();
    assert_eq!((first.received, first.durable), (6, 6));
    upload.send_output(4, b"re and after").await; // an overlap is cut
    agent.finish("c", 16, 0).await;
    upload.durable(16).await;
    assert_eq!(tool.rest().await.0, b"before and after");
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(_))), "and nothing is run again");
}

#[tokio::test]
async fn output_that_does_not_follow_is_its_agents_mistake_and_no_failure_of_the_disk() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let _tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    accept(&agent, "c").await;
    for offset in [9, u64::MAX] {
        let (mut upload, first) = agent.upload("c", 0).await.unwrap();
        upload.send_output(first.received, b"and").await;
        upload.durable(first.received + 3).await;
        upload.send_output(offset, b"late").await;
        let refused = upload.try_next().await.unwrap_err();
        let told = format!("the output of c is here up to {}, and this is at {offset}", first.received + 3);
        assert_eq!((refused.code(), refused.message()), (Code::OutOfRange, told.as_str()));
    }
    let core = master.core.upgrade().unwrap();
    let events = core.store.events(None, None, 0, 100).unwrap();
    assert!(!events.iter().any(|event| event.kind == "command.output_failed"), "{events:?}");
}

#[tokio::test]
async fn output_of_a_command_comes_from_its_own_agent_alone() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut other = master.agent(register(2, "b")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    let refused = other.upload("c", 0).await.err().unwrap();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "command c belongs to another agent"));
    let core = master.core.upgrade().unwrap();
    assert_eq!(core.hub_and_owner("c").map(|(_, owner)| owner), Some([1; 16]));
    agent.finish("c", 0, 0).await;
    tool.rest().await;
    assert!(core.hub_and_owner("c").is_none() && core.hub("c").is_none());
    drop(core);
    let refused = other.upload("c", 0).await.err().unwrap();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "command c belongs to another agent"));
    let (upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"late").await;
    let core = master.core.upgrade().unwrap();
    assert_eq!(core.outputs.open("c").unwrap().received(), 0, "let go");
}

#[tokio::test]
async fn who_brings_output_of_an_agent_that_is_no_more_is_rid_of_it_and_told_nothing_of_what_there_is() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    accept(&agent, "c").await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"secret").await;
    upload.durable(6).await;
    agent.finish("c", 6, 0).await;
    tool.rest().await;
    let delete = proto::DeleteRequest { name: "a".to_owned(), force: true };
    master.fleet().await.delete(delete).await.unwrap();
    let mut other = master.agent(register(2, "b")).await;
    let (mut upload, first) = other.upload("c", 0).await.unwrap();
    assert_eq!((first.received, first.durable), (0, 0));
    upload.send_output(0, b"its").await;
    upload.durable(3).await;
}

#[tokio::test]
async fn the_end_is_held_until_all_output_is_here() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    agent.finish("c", 4, 0).await;
    agent.beat(1).await; // no FinishedAck before this
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"tail").await;
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(_))));
    upload.durable(4).await;
    assert_eq!(tool.rest().await.0, b"tail");
}

#[tokio::test]
async fn a_call_of_an_older_session_is_void() {
    let master = Master::start().await;
    let mut old = master.agent(register(1, "a")).await;
    let _tool = master.run(start("c", "a")).await.unwrap();
    old.told_to_run().await;
    accept(&old, "c").await;
    let (mut upload, _) = old.upload("c", 0).await.unwrap();
    let mut new = master.agent(holding("c", held_command::State::Running)).await;
    upload.send_output(0, b"stale").await;
    let refused = loop {
        match upload.try_next().await {
            Ok(Some(ack)) => assert_eq!(ack.received, 0),
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = old.upload("c", 0).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(new.upload("c", 0).await.unwrap().1.received, 0);
}

#[tokio::test]
async fn the_same_id_attaches_and_other_content_is_refused() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut first = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    let mut second = master.run(start("c", "a")).await.unwrap();
    let other = RunStart { spec: Some(CommandSpec { shell: "x".to_owned(), ..Default::default() }), ..start("c", "a") };
    assert_eq!(master.run(other.clone()).await.err().unwrap().code(), Code::AlreadyExists);
    agent.finish("c", 0, 3).await;
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(_))), "it was sent once");
    for tool in [&mut first, &mut second] {
        assert_eq!(tool.rest().await.1.outcome.unwrap().code, 3);
    }
    assert_eq!(master.run(other).await.err().unwrap().code(), Code::AlreadyExists, "also after its end");
}

#[tokio::test]
async fn a_run_for_an_agent_that_is_away_says_since_when_and_why() {
    let master = Master::start().await;
    assert_eq!(master.run(start("c", "a")).await.err().unwrap().code(), Code::NotFound);
    let agent = master.agent(register(1, "a")).await;
    agent.send(Up::Goodbye(proto::Goodbye { reason: "sigterm".to_owned(), retry_after_ms: 0 })).await;
    let refused = loop {
        // The goodbye is on its way: until it arrives the run is accepted.
        match master.run(start(&format!("c{}", rand()), "a")).await {
            Err(status) => break status,
            Ok(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("agent a is Stopped since 2") && refused.message().contains("sigterm"));
}

fn rand() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

#[tokio::test]
async fn a_run_may_wait_for_the_return_of_its_agent() {
    let master = Master::start().await;
    drop(master.agent(register(1, "a")).await);
    let mut fleet = master.fleet().await;
    loop {
        let row = fleet.get(proto::GetRequest { name: "a".to_owned() }).await.unwrap().into_inner();
        if row.status == "Inactive" {
            break;
        }
        tokio::task::yield_now().await;
    }
    let waiting = RunStart { wait_ms: 9_000, ..start("c", "a") };
    let (tool, agent) = tokio::join!(master.run(waiting), async {
        let mut agent = master.agent(register(1, "a")).await;
        agent.told_to_run().await;
        agent.finish("c", 0, 0).await;
        agent
    });
    assert_eq!(tool.unwrap().rest().await.1.outcome.unwrap().code, 0);
    drop(agent);
}

#[tokio::test]
async fn a_wish_to_cancel_reaches_the_agent_and_the_outcome_the_tool() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    tool.send(run_request::Kind::Cancel(true)).await;
    assert!(matches!(agent.next().await, Some(Down::CancelCommand(cancel)) if cancel.id == "c"));
    let mut fleet = master.fleet().await;
    soon(fleet.cancel(CancelRequest { id: "c".to_owned() })).await.unwrap();
    assert!(matches!(agent.next().await, Some(Down::CancelCommand(_))));
    let outcome = Some(proto::Outcome { kind: outcome::Kind::Cancelled.into(), ..Default::default() });
    agent.send(Up::CommandFinished(proto::CommandFinished { id: "c".to_owned(), outcome, ..Default::default() })).await;
    assert_eq!(tool.rest().await.1.outcome.unwrap().kind(), outcome::Kind::Cancelled);
    let missing = fleet.cancel(CancelRequest { id: "none".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn standard_input_reaches_the_command_and_goes_on_at_the_byte() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(with_stdin("c")).await.unwrap();
    assert_eq!(tool.stdin_received().await, 0);
    agent.told_to_run().await;
    accept(&agent, "c").await;
    tool.stdin(0, b"hello", false).await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    let chunk = upload.stdin().await;
    assert_eq!((chunk.offset, chunk.data.as_ref(), chunk.eof), (0, b"hello".as_ref(), false));
    upload.send(proto::OutputMessage { stdin_received: 3, ..Default::default() }).await;
    assert_eq!(tool.stdin_received().await, 3);
    // The call breaks: the next one goes on where the agent was.
    drop(upload);
    let (mut upload, _) = agent.upload("c", 3).await.unwrap();
    assert_eq!(upload.stdin().await.data.as_ref(), b"lo");
    // Another tool with the same id takes over, and repeats what it thinks is missing.
    let mut second = master.run(with_stdin("c")).await.unwrap();
    drop(tool);
    assert_eq!(second.stdin_received().await, 3);
    second.stdin(3, b"lo!", true).await;
    let chunk = upload.stdin().await;
    assert_eq!((chunk.offset, chunk.data.as_ref()), (5, b"!".as_ref()));
    assert!(chunk.eof || upload.stdin().await.eof);
    agent.finish("c", 0, 0).await;
    assert_eq!(second.rest().await.1.outcome.unwrap().code, 0);
}

#[tokio::test]
async fn a_vanished_tool_changes_nothing_unless_its_input_is_unfinished() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    drop(master.run(start("plain", "a")).await.unwrap());
    agent.told_to_run().await;
    drop(master.run(with_stdin("fed")).await.unwrap());
    agent.told_to_run().await;
    let before = tokio::time::Instant::now();
    assert!(matches!(agent.next().await, Some(Down::CancelCommand(cancel)) if cancel.id == "fed"));
    assert!(before.elapsed() >= STDIN_GRACE * 9 / 10, "not before the grace is over");
    let unfinished = agent.upload("plain", 0).await.unwrap();
    drop(unfinished);
}

#[tokio::test]
async fn a_command_that_has_ended_is_not_cancelled_for_the_input_that_it_left() {
    let master = Master::start().await;
    let core = master.core.upgrade().unwrap();
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(with_stdin("c")).await.unwrap();
    agent.told_to_run().await;
    accept(&agent, "c").await;
    assert_eq!(tool.stdin_received().await, 0);
    let hub = core.hub("c").unwrap();
    assert!(!orphans::is_over(&core, &hub));
    let (upload, _) = agent.upload("c", 0).await.unwrap();
    agent.finish("c", 3, 0).await;
    let mut total = hub.total.subscribe();
    soon(total.wait_for(|&total| total == 3)).await.unwrap();
    assert!(orphans::is_over(&core, &hub), "its output is still to come");
    upload.send_output(0, b"end").await;
    tool.rest().await;
    assert!(orphans::is_over(&core, &hub));
}

#[tokio::test]
async fn a_command_is_found_by_the_beginning_of_its_id_unless_several_begin_so() {
    let master = Master::start().await;
    let _agent = master.agent(register(1, "a")).await;
    for id in ["node", "node-1", "node-2", "other"] {
        assert!(matches!(master.run(start(id, "a")).await.unwrap().next().await, Some(run_reply::Kind::Command(_))));
    }
    let mut fleet = master.fleet().await;
    let mut get = async |id: &str| {
        let found = fleet.get_command(GetCommandRequest { id: id.to_owned() }).await;
        found.map(|row| row.into_inner().id).map_err(|status| status.message().to_owned())
    };
    assert_eq!(get("othe").await.as_deref(), Ok("other"));
    assert_eq!(get("node").await.as_deref(), Ok("node"), "the whole id is meant");
    let several = get("node-").await.unwrap_err();
    assert_eq!(several, "several commands begin with node-: node-1, node-2; give more of it");
    let short = get("01a").await.unwrap_err();
    assert_eq!(
        short,
        "no command \"01a\": an id is like 018bcfe56800-0000000000000007, and its first 4 characters or more do; \
         `sloth-runner command list` shows all"
    );
    assert!(get("oth").await.unwrap_err().starts_with("no command \"oth\": an id is like "), "too short");
    let unknown = get("018bcfe56800-0000000000000007").await.unwrap_err();
    assert_eq!(
        unknown, "no command \"018bcfe56800-0000000000000007\": `sloth-runner command list` shows all",
        "no lesson for who gave an id"
    );
    assert!(get("othex").await.is_err());
    let cancelled = fleet.cancel(CancelRequest { id: "othe".to_owned() }).await;
    assert_eq!(cancelled.unwrap_err().code(), Code::NotFound, "nothing is done to what was not named in full");
}

/// A command that has been given `abc`, and its end if `whole`, when its master and its tool go; and the agent's view of
/// it under the next master, having taken `taken` bytes.
async fn fed_before_a_restart(whole: bool, taken: u64) -> (Master, Agent, Upload) {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let tool = master.run(with_stdin("c")).await.unwrap();
    agent.told_to_run().await;
    accept(&agent, "c").await;
    tool.stdin(0, b"abc", whole).await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    let chunk = upload.stdin().await;
    assert_eq!(chunk.data.as_ref(), b"abc");
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    if whole {
        assert!(chunk.eof || upload.stdin().await.eof);
        assert_eq!(store.command("c").unwrap().unwrap().stdin_end, Some(3), "recorded before it is told");
    }
    // The master begins to go first, as in a crash: it does not wait for the tool any more.
    tokio::join!(master.stop(), async {
        while agent.next().await.is_some() {}
        drop((tool, upload, agent));
    });
    let master = Master::restart(store, outputs).await;
    let mut agent = master.agent(holding("c", held_command::State::Running)).await;
    let (upload, _) = agent.upload("c", taken).await.unwrap();
    (master, agent, upload)
}

#[tokio::test]
async fn input_that_nobody_brings_after_a_restart_cancels_its_command_in_the_end() {
    for (whole, taken) in [(false, 3), (true, 1)] {
        let before = tokio::time::Instant::now();
        let (_master, mut agent, _upload) = fed_before_a_restart(whole, taken).await;
        assert!(matches!(agent.next().await, Some(Down::CancelCommand(cancel)) if cancel.id == "c"));
        assert!(before.elapsed() >= STDIN_GRACE * STDIN_RETURN * 9 / 10, "not before a tool had time to come back");
    }
}

#[tokio::test]
async fn input_that_was_whole_before_a_restart_ends_without_its_tool() {
    let (_master, mut agent, mut upload) = fed_before_a_restart(true, 3).await;
    let chunk = upload.stdin().await;
    assert_eq!((chunk.offset, chunk.data.len(), chunk.eof), (3, 0, true));
    let cancelled = tokio::time::timeout(STDIN_GRACE * (STDIN_RETURN + 2), agent.next()).await;
    assert!(cancelled.is_err(), "{cancelled:?}");
}

#[tokio::test]
async fn a_tool_that_comes_back_after_a_restart_goes_on_feeding() {
    let (master, mut agent, mut upload) = fed_before_a_restart(false, 2).await;
    let mut tool = master.run(with_stdin("c")).await.unwrap();
    assert_eq!(tool.stdin_received().await, 2);
    let cancelled = tokio::time::timeout(STDIN_GRACE * (STDIN_RETURN + 2), agent.next()).await;
    assert!(cancelled.is_err(), "{cancelled:?}");
    tool.stdin(2, b"c", true).await;
    let chunk = upload.stdin().await;
    assert_eq!((chunk.offset, chunk.data.as_ref()), (2, b"c".as_ref()));
    assert!(chunk.eof || upload.stdin().await.eof);
}

#[tokio::test]
async fn a_restarted_master_goes_on_with_its_commands() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    accept(&agent, "c").await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"one ").await;
    upload.durable(4).await;
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    drop((upload, agent, tool));
    master.stop().await;

    let master = Master::restart(store, outputs).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    let mut agent = master.agent(holding("c", held_command::State::Running)).await;
    let (mut upload, first) = agent.upload("c", 0).await.unwrap();
    assert_eq!(first.received, 4);
    upload.send_output(4, b"two").await;
    agent.finish("c", 7, 0).await;
    upload.durable(7).await;
    assert_eq!(tool.rest().await.0, b"one two");
}

#[tokio::test]
async fn a_master_that_has_lost_its_memory_adopts_what_agents_hold() {
    let told = holding("c", held_command::State::Running);
    // As those beyond the first of a crowd.
    let mut untold = told.clone();
    untold.held[0].spec = None;
    for register in [told, untold] {
        adopts(register).await;
    }
}

async fn adopts(register: proto::Register) {
    let master = Master::start().await;
    let mut agent = master.agent(register).await;
    let (mut upload, first) = agent.upload("c", 0).await.unwrap();
    assert_eq!(first.received, 0);
    upload.send_output(0, b"kept").await;
    agent.finish("c", 4, 0).await;
    upload.durable(4).await;
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(_))));
    let logs = LogsRequest { id: "c".to_owned(), from_offset: 0, follow: true };
    let mut replies = soon(master.fleet().await.logs(logs)).await.unwrap().into_inner();
    let mut output = Vec::new();
    while let Some(reply) = soon(replies.message()).await.unwrap() {
        if let Some(proto::run_reply::Kind::Output(chunk)) = reply.kind {
            output.extend(chunk.data);
        }
    }
    assert_eq!(output, b"kept");
}

fn holding_many(ids: std::ops::Range<usize>) -> proto::Register {
    let one = holding("c", held_command::State::Running).held.remove(0);
    let held = ids.map(|n| proto::HeldCommand { id: format!("h{n}"), ..one.clone() }).collect();
    proto::Register { held, ..register(1, "a") }
}

#[tokio::test]
async fn an_agent_that_holds_a_crowd_of_unknown_commands_has_some_adopted_and_people_are_told() {
    let master = Master::start().await;
    let core = master.core.upgrade().unwrap();
    let told =
        |kind: &str| core.store.events(None, None, 0, 50_000).unwrap().into_iter().find(|event| event.kind == kind);
    let _first = master.agent(holding_many(0..10_000)).await;
    soon(async {
        while core.read(|fleet| fleet.dispatch().len()) < 10_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(told("command.not_adopted").is_none(), "as many as an agent can hold");
    let mut second = master.agent(holding_many(10_000..10_500)).await;
    soon(async {
        while told("command.not_adopted").is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!core.read(|fleet| fleet.dispatch().knows("h10499")));
    // Its agent keeps what came of it, and brings it another time.
    soon(async { while !core.read(|fleet| fleet.dispatch().is_left_out([1; 16], "h10499")) {} }).await;
    second.finish("h10499", 0, 0).await;
    let (_upload, _) = second.upload("unknown", 0).await.unwrap();
    second.finish("unknown", 0, 0).await;
    let acknowledged = loop {
        if let Some(Down::FinishedAck(ack)) = second.next().await {
            break ack.id;
        }
    };
    assert_eq!(acknowledged, "unknown");
    let event = told("command.not_adopted").unwrap();
    assert!(event.agent == "a" && event.message.starts_with("500 commands that it holds"), "{}", event.message);
}

#[tokio::test]
async fn output_of_adopted_commands_beyond_what_is_kept_of_one_agent_is_a_gap() {
    static CHUNK: [u8; 1 << 20] = [b'x'; 1 << 20];
    let master = Master::start().await;
    let core = master.core.upgrade().unwrap();
    let mut agent = master.agent(holding("c", held_command::State::Running)).await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"kept").await;
    upload.durable(4).await;
    assert!(core.adoptions.may_keep(core.now().monotonic, [1; 16], "c", (1 << 30) - 4), "others have brought the rest");
    upload.send_output(4, &CHUNK).await;
    agent.finish("c", 4 + (1 << 20), 0).await;
    upload.durable(4 + (1 << 20)).await;
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(_))));
    assert_eq!(core.store.command("c").unwrap().unwrap().gaps, [(4, 1 << 20)]);
}

#[tokio::test]
async fn a_register_with_more_commands_than_an_agent_can_hold_is_refused() {
    let master = Master::start().await;
    let mut agent = master.connect(holding_many(0..10_001)).await;
    assert!(agent.rejected().await.message.contains("more than 10000 commands"));
}

#[tokio::test]
async fn a_command_that_cannot_be_recorded_is_refused_and_never_sent() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    master.store.fail(Some("disk full"));
    let refused = master.run(start("c", "a")).await.err().unwrap();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("disk full"), "{}", refused.message());
    agent.beat(1).await;
    master.store.fail(None);
    master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
}

#[tokio::test]
async fn output_of_a_finished_command_is_let_go() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let _tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    agent.finish("c", 0, 0).await;
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(_))));
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"late").await;
    upload.durable(4).await;
}

#[tokio::test]
async fn a_tool_that_does_not_read_holds_up_neither_the_agent_nor_another_tool() {
    static CHUNK: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    const CHUNKS: u64 = 256;
    const TOTAL: u64 = CHUNKS * CHUNK.len() as u64;
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut idle = master.run(start("c", "a")).await.unwrap();
    let mut reader = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    for n in 0..CHUNKS {
        upload.send_output(n * CHUNK.len() as u64, &CHUNK).await;
        upload.next().await;
    }
    agent.finish("c", TOTAL, 0).await;
    upload.durable(TOTAL).await;
    agent.next().await;
    agent.beat(1).await;
    for tool in [&mut reader, &mut idle] {
        let (output, last) = tool.rest().await;
        assert_eq!((output.len() as u64, last.output_bytes), (TOTAL, TOTAL));
        assert!(output.iter().all(|byte| *byte == b'x'));
    }
}

#[tokio::test]
async fn gaps_are_passed_on_and_recorded() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(0, b"ab").await;
    upload.send(proto::OutputMessage { offset: 2, gap: 10, ..Default::default() }).await;
    upload.send_output(12, b"cd").await;
    agent.finish("c", 14, 0).await;
    upload.durable(14).await;
    assert_eq!(tool.output().await.data.as_ref(), b"ab");
    let gap = tool.output().await;
    assert_eq!((gap.offset, gap.gap), (2, 10));
    let (output, last) = tool.rest().await;
    assert_eq!(output, b"cd");
    assert_eq!(last.gaps, [proto::Gap { offset: 2, bytes: 10 }]);
}

#[tokio::test]
async fn a_hole_in_the_output_ends_the_call_and_leaves_the_command() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let _tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    let (mut upload, _) = agent.upload("c", 0).await.unwrap();
    upload.send_output(5, b"late").await;
    let error = loop {
        match upload.try_next().await {
            Ok(ack) => assert!(ack.is_some(), "it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(error.code(), Code::OutOfRange);
    agent.beat(1).await;
    assert_eq!(agent.upload("c", 0).await.unwrap().1.received, 0);
}

#[tokio::test]
async fn a_command_finished_before_a_restart_is_not_adopted_again() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut tool = master.run(start("c", "a")).await.unwrap();
    agent.told_to_run().await;
    agent.finish("c", 0, 3).await;
    let (_, row) = tool.rest().await;
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    drop((agent, tool)); // the acknowledgement is lost
    master.stop().await;

    let master = Master::restart(store, outputs).await;
    let mut agent = master.agent(holding("c", held_command::State::Running)).await;
    assert!(matches!(agent.next().await, Some(Down::CancelCommand(cancel)) if cancel.id == "c"));
    agent.finish("c", 0, 4).await;
    assert!(matches!(agent.next().await, Some(Down::FinishedAck(_))));
    let request = GetCommandRequest { id: "c".to_owned() };
    assert_eq!(master.fleet().await.get_command(request).await.unwrap().into_inner(), row);
}
