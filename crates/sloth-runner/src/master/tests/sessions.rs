use super::bench::*;
use proto::{
    AgentRow, CheckRequest, DeleteRequest, EventsRequest, GetRequest, ListRequest, ProbeAnswer, StopRequest,
    agent_message::Kind as Up, agent_registry_client::AgentRegistryClient, fleet_client::FleetClient,
    master_message::Kind as Down, rejected::Reason,
};
use tonic::{Code, transport::Channel};

async fn row(fleet: &mut FleetClient<Channel>, name: &str) -> AgentRow {
    soon(fleet.get(GetRequest { name: name.to_owned() })).await.unwrap().into_inner()
}

/// The rows of an agent's events as they come, until one of that kind.
async fn event(master: &Master, name: &str, kind: &str) -> proto::EventRow {
    let request = EventsRequest { name: name.to_owned(), follow: true, ..EventsRequest::default() };
    let mut events = soon(master.fleet().await.events(request)).await.unwrap().into_inner();
    loop {
        let reply = soon(events.message()).await.unwrap().expect("it follows");
        if let Some(row) = reply.events.into_iter().find(|row| row.kind == kind) {
            return row;
        }
    }
}

#[tokio::test]
async fn an_agent_registers_and_beats_and_is_shown() {
    let master = Master::start().await;
    let mut agent = master.connect(register(1, "a")).await;
    let registered = agent.registered().await;
    assert_eq!((registered.epoch, registered.master_name.as_str()), (1, "test"));
    agent.beat(1).await;
    let mut fleet = master.fleet().await;
    let shown = row(&mut fleet, "a").await;
    assert_eq!((shown.status.as_str(), shown.host.as_str(), shown.epoch), ("Active", "host1", 1));
    assert_eq!(shown.address, "127.0.0.1", "what it did not say is taken from the connection");
    assert_eq!(row(&mut fleet, &shown.id).await.name, "a", "found by its id, too");
    let missing = fleet.get(GetRequest { name: "b".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn a_stream_that_breaks_is_a_loss_at_once() {
    let master = Master::start().await;
    let agent = master.agent(register(1, "a")).await;
    drop(agent);
    let lost = event(&master, "a", "agent.lost").await;
    assert!(["stream_closed", "connection_reset"].contains(&lost.reason.as_str()), "{lost:?}");
    assert_eq!(row(&mut master.fleet().await, "a").await.status, "Inactive");
}

#[tokio::test]
async fn a_goodbye_is_no_loss() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    agent.send(Up::Goodbye(proto::Goodbye { reason: "sigterm".to_owned(), retry_after_ms: 0 })).await;
    assert_eq!(agent.next().await, None);
    assert_eq!(event(&master, "a", "agent.stopped").await.reason, "sigterm");
    let shown = row(&mut master.fleet().await, "a").await;
    assert_eq!((shown.status.as_str(), shown.reason.as_str()), ("Stopped", "sigterm"));
}

#[tokio::test]
async fn a_newer_session_of_the_same_process_takes_over() {
    let master = Master::start().await;
    let mut old = master.agent(register(1, "a")).await;
    let mut new = master.agent(register(1, "a")).await;
    assert_eq!((old.epoch, new.epoch), (1, 2));
    assert_eq!(old.rejected().await.reason(), Reason::Superseded);
    assert_eq!(old.next().await, None);
    drop(old);
    new.beat(1).await;
    assert_eq!(row(&mut master.fleet().await, "a").await.status, "Active");
}

#[tokio::test]
async fn a_copied_agent_is_refused_while_the_original_answers() {
    let master = Master::start().await;
    let mut original = master.agent(register(1, "a")).await;
    let copy = proto::Register { instance_id: vec![2; 16], host: "elsewhere".to_owned(), ..register(1, "a") };
    let mut copy = master.connect(copy).await;
    assert!(matches!(original.next().await, Some(Down::Probe(_))));
    original.send(Up::ProbeAnswer(ProbeAnswer {})).await;
    let rejected = copy.rejected().await;
    assert_eq!(rejected.reason(), Reason::DuplicateId);
    assert!(rejected.message.contains("host1") && rejected.message.contains("elsewhere"), "{}", rejected.message);
    original.beat(1).await;
}

#[tokio::test]
async fn a_dry_run_is_answered_as_a_registration_would_be_and_registers_nothing() {
    let master = Master::start().await;
    let mut holder = master.agent(register(1, "a")).await;
    let ask = async |register| {
        let mut client = AgentRegistryClient::new(master.channel().await);
        client.check(CheckRequest { register: Some(register) }).await.unwrap().into_inner()
    };
    let fine = ask(register(2, "b")).await;
    assert_eq!((fine.reason(), fine.known, fine.master_name.as_str()), (Reason::Unspecified, false, "test"));
    assert!(fine.time_unix_ms > 1_700_000_000_000 && !fine.master_version.is_empty());
    assert!(ask(register(1, "a")).await.known);
    let copy =
        ask(proto::Register { instance_id: vec![2; 16], host: "elsewhere".to_owned(), ..register(1, "a") }).await;
    assert_eq!(copy.reason(), Reason::DuplicateId);
    assert!(copy.message.contains("host1") && copy.message.contains("elsewhere"), "{}", copy.message);
    assert_eq!(ask(register(2, "a")).await.reason(), Reason::NameTaken);
    assert_eq!(ask(proto::Register { agent_id: vec![1; 15], ..register(1, "a") }).await.reason(), Reason::Invalid);
    assert_eq!(ask(proto::Register { name: "a b".to_owned(), ..register(1, "a") }).await.reason(), Reason::Invalid);
    // Nobody was probed, and nobody came.
    holder.beat(1).await;
    let mut rows = master.fleet().await.list(ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(rows.message().await.unwrap().map(|reply| reply.agents.len()), Some(1));
}

#[tokio::test]
async fn a_silent_original_is_replaced_after_two_seconds() {
    let master = Master::start().await;
    let mut original = master.agent(register(1, "a")).await;
    let before = tokio::time::Instant::now();
    let copy = proto::Register { instance_id: vec![2; 16], ..register(1, "a") };
    let copy = master.agent(copy).await;
    assert!(before.elapsed() >= std::time::Duration::from_secs(2));
    assert_eq!(copy.epoch, 2);
    assert!(matches!(original.next().await, Some(Down::Probe(_))));
    assert_eq!(original.rejected().await.reason(), Reason::Superseded);
}

#[tokio::test]
async fn a_name_in_use_is_refused_and_the_name_of_a_lost_agent_given() {
    let master = Master::start().await;
    let holder = master.agent(register(1, "a")).await;
    let rejected = master.connect(register(2, "a")).await.rejected().await;
    assert_eq!(rejected.reason(), Reason::NameTaken);
    assert!(rejected.message.contains("host1") && rejected.message.contains("host2"), "{}", rejected.message);
    drop(holder);
    event(&master, "a", "agent.lost").await;
    let _next = master.agent(register(2, "a")).await;
    assert_eq!(row(&mut master.fleet().await, "a").await.host, "host2");
}

#[tokio::test]
async fn a_deleted_agent_is_told_that_nobody_knows_it() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut fleet = master.fleet().await;
    let refused = fleet.delete(DeleteRequest { name: "a".to_owned(), force: false }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--force"), "{}", refused.message());
    soon(fleet.delete(DeleteRequest { name: "a".to_owned(), force: true })).await.unwrap();
    assert_eq!(agent.rejected().await.reason(), Reason::UnknownAgent);
    assert_eq!(fleet.get(GetRequest { name: "a".to_owned() }).await.unwrap_err().code(), Code::NotFound);
    let again = proto::Register { highest_epoch: agent.epoch, ..register(1, "a") };
    assert_eq!(master.agent(again).await.epoch, 2);
}

#[tokio::test]
async fn an_agent_is_asked_to_stop() {
    let master = Master::start().await;
    let mut agent = master.agent(register(1, "a")).await;
    let mut fleet = master.fleet().await;
    soon(fleet.stop(StopRequest { name: "a".to_owned() })).await.unwrap();
    assert!(matches!(agent.next().await, Some(Down::Shutdown(_))));
    drop(agent);
    event(&master, "a", "agent.lost").await;
    let refused = fleet.stop(StopRequest { name: "a".to_owned() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn messages_before_the_answer_break_the_rules() {
    let master = Master::start().await;
    let bad = proto::Register { agent_id: vec![1; 15], ..register(1, "a") };
    assert_eq!(master.connect(bad).await.rejected().await.reason(), Reason::Invalid);
    let mut agent = master.agent(register(1, "a")).await;
    agent.send(Up::Register(register(1, "a"))).await;
    assert_eq!(agent.rejected().await.reason(), Reason::Invalid);
    assert_eq!(agent.next().await, None);
}

#[tokio::test]
async fn a_registration_that_cannot_be_recorded_is_put_off_and_the_master_lives_on() {
    let master = Master::start().await;
    master.store.fail(Some("disk full"));
    match master.connect(register(1, "a")).await.next().await {
        Some(Down::RetryLater(later)) => assert!(later.reason.contains("disk full"), "{}", later.reason),
        other => panic!("{other:?}"),
    }
    master.store.fail(None);
    master.agent(register(1, "a")).await;
}

#[tokio::test]
async fn lists_give_every_agent_in_order_of_names_and_only_those_that_match() {
    let master = Master::start().await;
    let mut agents = Vec::new();
    for (n, name) in ["b", "a", "c"].into_iter().enumerate() {
        let labels = [("place".to_owned(), if n == 2 { "attic" } else { "cellar" }.to_owned())].into();
        agents.push(master.agent(proto::Register { labels, ..register(n as u8, name) }).await);
    }
    drop(agents.pop());
    event(&master, "c", "agent.lost").await;
    let mut fleet = master.fleet().await;
    let mut names = async |request: ListRequest| {
        let mut rows = soon(fleet.list(request)).await.unwrap().into_inner();
        let mut names = Vec::new();
        while let Some(reply) = soon(rows.message()).await.unwrap() {
            names.extend(reply.agents.into_iter().map(|row| row.name));
        }
        names
    };
    assert_eq!(names(ListRequest::default()).await, ["a", "b", "c"]);
    let active = ListRequest { status: "active".to_owned(), ..Default::default() };
    assert_eq!(names(active).await, ["a", "b"]);
    let labels = [("place".to_owned(), "attic".to_owned())].into();
    assert_eq!(names(ListRequest { labels, ..Default::default() }).await, ["c"]);
    let wrong = fleet.list(ListRequest { status: "asleep".to_owned(), ..Default::default() }).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_master_that_goes_says_goodbye_and_knows_everybody_when_it_is_back() {
    let master = Master::start().await;
    let mut agents = vec![master.agent(register(1, "a")).await, master.agent(register(2, "b")).await];
    let (store, outputs) = (master.store.clone(), master.outputs.clone());
    let stopping = tokio::spawn(master.stop());
    let mut waits = Vec::new();
    for agent in &mut agents {
        match agent.next().await {
            Some(Down::Goodbye(goodbye)) => waits.push(goodbye.retry_after_ms),
            other => panic!("{other:?}"),
        }
        assert_eq!(agent.next().await, None);
    }
    waits.sort();
    assert_eq!(waits, [1_000, 2_500], "they don't come back all at once");
    drop(agents);
    soon(stopping).await.unwrap();
    let master = Master::restart(store, outputs).await;
    let shown = row(&mut master.fleet().await, "a").await;
    assert_eq!((shown.status.as_str(), shown.reason.as_str()), ("Inactive", "master_restarted"));
    assert_eq!(master.agent(register(1, "a")).await.epoch, 2);
}

#[tokio::test]
async fn a_silent_agent_is_told_that_its_time_is_over() {
    let master = Master::start().await;
    let quick = proto::Register { interval_ms: 100, timeout_ms: 100, max_failures: 2, ..register(1, "a") };
    let mut agent = master.agent(quick).await;
    assert_eq!(agent.rejected().await.reason(), Reason::Deadline);
    assert_eq!(agent.next().await, None);
    assert_eq!(event(&master, "a", "agent.lost").await.reason, "heartbeat_timeout");
}

#[tokio::test]
async fn events_are_given_in_order_and_the_newest_where_only_some_are_wanted() {
    let master = Master::start().await;
    for n in 1..=3 {
        let agent = master.agent(register(n, &format!("a{n}"))).await;
        drop(agent);
        event(&master, &format!("a{n}"), "agent.lost").await;
    }
    let mut fleet = master.fleet().await;
    let mut seqs = async |request: EventsRequest| {
        let mut events = soon(fleet.events(request)).await.unwrap().into_inner();
        let mut seqs = Vec::new();
        while let Some(reply) = soon(events.message()).await.unwrap() {
            seqs.extend(reply.events.into_iter().map(|row| row.seq));
        }
        seqs
    };
    assert_eq!(seqs(EventsRequest::default()).await, [1, 2, 3, 4, 5, 6, 7], "the first is the master's start");
    assert_eq!(seqs(EventsRequest { last: 2, ..Default::default() }).await, [6, 7]);
    assert_eq!(seqs(EventsRequest { after_seq: 5, ..Default::default() }).await, [6, 7]);
    assert_eq!(seqs(EventsRequest { name: "a2".to_owned(), ..Default::default() }).await, [4, 5]);
}
