//! Fleets that come, stay and go at the master's pace.

use super::bench::*;
use crate::{clock::boottime, master::Options};
use proto::{Heartbeat, Register, agent_message::Kind as Up, master_message::Kind as Down};
use std::time::Duration;

async fn master(options: Options) -> Master {
    Master::with(std::sync::Arc::default(), std::sync::Arc::default(), options).await
}

fn waits(n: u8, will_wait_ms: u64) -> Register {
    Register { will_wait_ms, ..register(n, &format!("a{n}")) }
}

fn retry_after(message: Option<Down>) -> u64 {
    match message {
        Some(Down::RetryLater(later)) => later.retry_after_ms,
        other => panic!("not asked to come back: {other:?}"),
    }
}

#[tokio::test]
async fn registrations_come_in_at_the_pace_and_who_cannot_wait_comes_back() {
    let master = master(Options { registrations_per_second: 2, ..Options::named("test") }).await;
    let start = boottime();
    for n in 0..3 {
        master.agent(waits(n, 0)).await;
    }
    let mut held = Vec::new();
    for n in 3..7 {
        held.push(master.connect(waits(n, 10_000)).await);
    }
    let mut impatient = master.connect(waits(11, 0)).await;
    let after = retry_after(impatient.next().await);
    assert!((1_000..5_000).contains(&after), "{after}");
    assert_eq!(impatient.next().await, None);
    for (n, agent) in (1..).zip(&mut held) {
        agent.registered().await;
        // After the three that a quiet second has saved up.
        assert!(boottime() - start >= Duration::from_millis(490) * n, "{n}: {:?}", boottime() - start);
        agent.beat(1).await;
    }
}

#[tokio::test]
async fn a_held_agent_that_leaves_holds_up_nobody_and_may_say_nothing() {
    let master = master(Options { registrations_per_second: 1, ..Options::named("test") }).await;
    for n in 0..2 {
        master.agent(waits(n, 0)).await;
    }
    let mut first = master.connect(waits(9, 20_000)).await;
    let mut talker = master.connect(waits(10, 20_000)).await;
    let mut leavers = Vec::new();
    for n in 11..17 {
        leavers.push(master.connect(waits(n, 20_000)).await);
    }
    let mut last = master.connect(waits(17, 20_000)).await;
    let start = boottime();
    talker.send(Up::Heartbeat(Heartbeat { seq: 1, ..Heartbeat::default() })).await;
    assert!(talker.rejected().await.message.contains("nothing else before the answer"));
    drop((talker, leavers));
    first.registered().await;
    last.registered().await;
    let waited = boottime() - start;
    assert!(waited < Duration::from_secs(6), "as the second, not as the ninth: {waited:?}");
}

#[tokio::test]
async fn intervals_are_stretched_with_the_registration_and_the_next_answer_and_come_back() {
    let master = master(Options { heartbeats_per_second: 1, ..Options::named("test") }).await;
    let quick = |n| Register { interval_ms: 1_000, timeout_ms: 1_000, max_interval_ms: 60_000, ..waits(n, 0) };
    let told = async |agent: &mut Agent, seq: u64| {
        agent.send(Up::Heartbeat(Heartbeat { seq, last_ack: seq - 1, ready: true, status: None })).await;
        match agent.next().await {
            Some(Down::HeartbeatAck(ack)) => ack.interval_ms,
            other => panic!("not acknowledged: {other:?}"),
        }
    };
    let mut first = master.connect(quick(1)).await;
    assert_eq!(first.registered().await.interval_ms, 0);
    let mut second = master.connect(quick(2)).await;
    assert_eq!(second.registered().await.interval_ms, 2_000);
    assert_eq!(told(&mut first, 1).await, 2_000);
    assert_eq!(told(&mut first, 2).await, 0, "it knows");
    second.send(Up::Goodbye(proto::Goodbye { reason: "sigterm".to_owned(), retry_after_ms: 0 })).await;
    assert_eq!(second.next().await, None);
    assert_eq!(told(&mut first, 3).await, 1_000);
}

#[tokio::test]
async fn a_master_that_goes_spreads_its_agents_and_sends_away_those_who_wait() {
    let master = master(Options { registrations_per_second: 2, ..Options::named("test") }).await;
    let mut agents = Vec::new();
    for n in 0..3 {
        agents.push(master.agent(waits(n, 0)).await);
    }
    let mut held = master.connect(waits(10, 20_000)).await;
    let mut farther = master.connect(waits(11, 20_000)).await;
    let goodbyes = async {
        let mut waits = Vec::new();
        for agent in &mut agents {
            match agent.next().await {
                Some(Down::Goodbye(goodbye)) => waits.push(goodbye.retry_after_ms),
                other => panic!("no goodbye: {other:?}"),
            }
            assert_eq!(agent.next().await, None);
        }
        for agent in [&mut held, &mut farther] {
            waits.push(retry_after(agent.next().await));
        }
        drop((agents, held, farther));
        waits
    };
    let (mut waits, ()) = tokio::join!(goodbyes, master.stop());
    waits.sort_unstable();
    assert_eq!(waits, [2_000, 2_600, 3_200, 3_800, 4_400], "over three seconds");
}
