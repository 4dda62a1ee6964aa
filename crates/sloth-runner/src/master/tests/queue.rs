//! Commands that wait for an agent that is away.

use super::bench::*;
use proto::{
    CancelRequest, CommandSpec, GetCommandRequest, ListCommandsRequest, RunRequest, RunStart,
    agent_message::Kind as Up, fleet_client::FleetClient, outcome, run_reply, run_request,
};
use tonic::{Code, Status, transport::Channel};

const CANCELLED: Option<outcome::Kind> = Some(outcome::Kind::Cancelled);

fn queued(id: &str, expires_ms: u64) -> RunStart {
    RunStart { queue: true, expires_ms, from_offset: u64::MAX, ..start(id, "a") }
}

/// A master that knows an agent which said goodbye.
async fn away() -> Master {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    agent.send(Up::Goodbye(proto::Goodbye { reason: "sigterm".to_owned(), retry_after_ms: 0 })).await;
    assert!(agent.next().await.is_none());
    master
}

async fn enqueue(fleet: &mut FleetClient<Channel>, id: &str) -> Result<proto::CommandRow, Status> {
    let request = RunRequest { kind: Some(run_request::Kind::Start(queued(id, 0))) };
    let mut replies = soon(fleet.run(tokio_stream::iter([request]))).await?.into_inner();
    match soon(replies.message()).await?.and_then(|reply| reply.kind) {
        Some(run_reply::Kind::Command(row)) => Ok(row),
        other => panic!("no row: {other:?}"),
    }
}

#[tokio::test]
async fn what_waits_says_for_whom_and_survives_the_master() {
    let master = away().await;
    let row = enqueue(&mut master.fleet().await, "c1").await.unwrap();
    assert_eq!((row.state.as_str(), row.outcome), ("queued", None));
    assert!(row.agent_away.starts_with("agent a is Stopped since 2") && row.agent_away.contains("sigterm"));
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    master.stop().await;
    let master = Master::restart(store, outputs).await;
    let shown = master.fleet().await.get_command(GetCommandRequest { id: "c1".to_owned() }).await.unwrap().into_inner();
    assert_eq!(shown.state, "queued");
    let mut agent = master.agent(register(1, "a")).await;
    assert_eq!(agent.told_to_run().await.id, "c1");
}

#[tokio::test]
async fn nobody_waits_for_an_agent_that_is_deleted_meanwhile() {
    let master = away().await;
    let waiting = RunStart { wait_ms: 3_600_000, ..start("c", "a") };
    let (run, ()) = tokio::join!(soon(master.run(waiting)), async {
        let waits = || std::sync::Arc::strong_count(&master.core.upgrade().unwrap().arrival([1; 16])) > 2;
        soon(async {
            while !waits() {
                tokio::task::yield_now().await
            }
        })
        .await;
        let request = proto::DeleteRequest { name: "a".to_owned(), force: false };
        soon(master.fleet().await.delete(request)).await.unwrap();
    });
    assert_eq!(run.err().unwrap().code(), Code::NotFound);
}

#[tokio::test]
async fn of_an_agent_that_was_deleted_it_is_said_when() {
    let master = away().await;
    let mut fleet = master.fleet().await;
    let named = |name: &str| proto::GetRequest { name: name.to_owned() };
    soon(fleet.delete(proto::DeleteRequest { name: "a".to_owned(), force: false })).await.unwrap();
    let answers = [
        soon(fleet.get(named("a"))).await.unwrap_err(),
        soon(fleet.explain(named("a"))).await.unwrap_err(),
        soon(master.run(start("c", "a"))).await.err().unwrap(),
    ];
    for answer in answers {
        assert_eq!(answer.code(), Code::NotFound);
        assert!(answer.message().starts_with("no agent \"a\": it was deleted at 2"), "{answer}");
    }
    let never = soon(fleet.get(named("other"))).await.unwrap_err();
    assert!(!never.message().contains("deleted"), "{never}");
}

#[tokio::test]
async fn what_is_not_sent_in_time_expires_also_for_those_who_follow_it() {
    let master = away().await;
    let mut tool = master.run(RunStart { from_offset: 0, ..queued("c", 50) }).await.unwrap();
    let (_, last) = tool.rest().await;
    assert_eq!((last.outcome.unwrap().kind(), last.output_bytes), (outcome::Kind::Expired, 0));
    let wanted = ListCommandsRequest { outcome: "expired".to_owned(), ..ListCommandsRequest::default() };
    let mut rows = master.fleet().await.list_commands(wanted).await.unwrap().into_inner();
    assert_eq!(soon(rows.message()).await.unwrap().unwrap().commands[0].id, "c");
    let unknown = ListCommandsRequest { outcome: "well".to_owned(), ..ListCommandsRequest::default() };
    let refused = master.fleet().await.list_commands(unknown).await.unwrap_err();
    assert!(refused.message().contains("no outcome \"well\": use exited,"), "{refused}");
}

#[tokio::test]
async fn what_waits_is_over_when_its_cancelling_is_answered() {
    let master = away().await;
    let mut fleet = master.fleet().await;
    for n in 0..20 {
        let id = format!("c{n}");
        enqueue(&mut fleet, &id).await.unwrap();
        let row = soon(fleet.cancel(CancelRequest { id: id.clone() })).await.unwrap().into_inner();
        assert_eq!((row.state.as_str(), row.outcome.map(|outcome| outcome.kind())), ("finished", CANCELLED), "{id}");
    }
    // The wish alone is noted where a store that fails takes no end.
    enqueue(&mut fleet, "c").await.unwrap();
    master.store.fail(Some("disk full"));
    let row = soon(fleet.cancel(CancelRequest { id: "c".to_owned() })).await;
    master.store.fail(None);
    assert!(row.is_err() || row.unwrap().into_inner().outcome.is_none_or(|outcome| Some(outcome.kind()) == CANCELLED));
}

#[tokio::test]
async fn a_list_that_is_to_go_on_below_what_there_is_not_says_so() {
    let master = away().await;
    let mut fleet = master.fleet().await;
    enqueue(&mut fleet, "c1").await.unwrap();
    let below = |id: &str| ListCommandsRequest { before_id: id.to_owned(), ..ListCommandsRequest::default() };
    let refused = fleet.list_commands(below("nosuch")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().starts_with("no command \"nosuch\" to go on below:"), "{refused}");
    let mut rows = fleet.list_commands(below("c1")).await.unwrap().into_inner();
    assert_eq!(soon(rows.message()).await.unwrap(), None);
}

#[tokio::test]
async fn a_command_that_waits_has_no_standard_input() {
    let master = away().await;
    let spec = CommandSpec { argv: vec![b"cat".to_vec()], stdin: true, ..CommandSpec::default() };
    let refused = master.run(RunStart { spec: Some(spec), ..queued("c", 0) }).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn one_agent_can_have_a_thousand_waiting_and_no_more() {
    let master = away().await;
    let mut fleet = master.fleet().await;
    for n in 0..::fleet::dispatch::QUEUE_MAX {
        let now = enqueue(&mut fleet, &format!("c{n}")).await;
        assert_eq!(now.unwrap().state, "queued");
    }
    let refused = enqueue(&mut fleet, "more").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("1000 commands wait for agent a already"), "{refused}");
    assert!(enqueue(&mut fleet, "c7").await.is_ok(), "a known one attaches");
}
