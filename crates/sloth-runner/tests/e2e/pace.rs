//! Fleets that come back, and go, at the master's pace.

use crate::fleet::{Agent, Master, until};
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

/// A master that lets so many agents a second in.
fn slow_master(pace: u32) -> Master {
    let mut master = Master::start();
    fs::write(master.path("master.toml"), format!("[registrations]\nmax_per_second = {pace}\n")).unwrap();
    master.again();
    master
}

fn agents(master: &Master, count: usize) -> Vec<Agent> {
    let address = master.address.to_string();
    // What they meet is the pace, not a busy machine: a beat that is answered late would be a failure.
    let beat = ["--set", "heartbeat.interval=\"5s\"", "--set", "heartbeat.timeout=\"5s\""];
    (0..count).map(|n| Agent::start(master.folder.path(), &format!("n{n}"), &address, &beat)).collect()
}

#[test]
fn a_fleet_comes_in_at_the_pace_and_no_agent_calls_that_a_failure() {
    let master = slow_master(1);
    let start = Instant::now();
    let agents = agents(&master, 10);
    // Whoever operates is not held up: the answer is there before the last is let in.
    let active = until("the first of them is active", || {
        Some(master.statuses().iter().filter(|(_, status)| status == "Active").count()).filter(|count| *count > 0)
    });
    assert!(active < 10, "the list was held up with them");
    for agent in &agents {
        agent.line("Agent registered with master");
        master.until_status(&agent.name, "Active");
    }
    assert!(start.elapsed() >= Duration::from_millis(7_900), "two at once, then one a second: {:?}", start.elapsed());
    for agent in &agents {
        for failure in ["Cannot connect", "Lost", "lost", "failed", "ERROR"] {
            assert_eq!(agent.count(failure), 0, "{failure}: {}", agent.running.err.text());
        }
    }
    let away: usize = agents.iter().map(|agent| agent.count("asks to come back in")).sum();
    assert!(away > 0, "an agent that waits 2 s is held for one, which is enough for one of the eight");
}

#[test]
fn a_master_that_ends_has_each_agent_come_back_at_another_moment() {
    let mut master = slow_master(2);
    let agents = agents(&master, 4);
    for agent in &agents {
        agent.line("Agent registered with master");
    }
    master.running.signal(libc::SIGTERM);
    assert_eq!(master.running.wait(), 0, "{}", master.running.err.text());
    let waits = agents.iter().map(|agent| {
        agent.line("the master said goodbye");
        let line = agent.line("Reconnecting to master in ");
        line.split("to master in ").nth(1).expect("that was looked for").to_owned()
    });
    let waits: BTreeSet<_> = waits.collect();
    assert_eq!(waits.len(), 4, "{waits:?}");
    master.again();
    for agent in &agents {
        agent.line("Agent registered with master");
    }
}
