//! Fleets that come back, and go, at the master's pace.

use crate::fleet::{Agent, Master};
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

/// A master that lets two agents a second in.
fn slow_master() -> Master {
    let mut master = Master::start();
    fs::write(master.path("master.toml"), "[registrations]\nmax_per_second = 2\n").unwrap();
    master.again();
    master
}

fn agents(master: &Master, count: usize) -> Vec<Agent> {
    let address = master.address.to_string();
    (0..count).map(|n| Agent::start(master.folder.path(), &format!("n{n}"), &address, &[])).collect()
}

#[test]
fn a_fleet_comes_in_at_the_pace_and_no_agent_calls_that_a_failure() {
    let master = slow_master();
    let start = Instant::now();
    let agents = agents(&master, 10);
    for agent in &agents {
        agent.line("Agent registered with master");
        master.until_status(&agent.name, "Active");
    }
    assert!(start.elapsed() >= Duration::from_millis(3_400), "three at once, then two a second: {:?}", start.elapsed());
    for agent in &agents {
        for failure in ["Cannot connect", "Lost", "lost", "failed", "ERROR"] {
            assert_eq!(agent.count(failure), 0, "{failure}: {}", agent.running.err.text());
        }
    }
    let away: usize = agents.iter().map(|agent| agent.count("asks to come back in")).sum();
    assert!(away > 0, "an agent that waits 2 s is held for one, which is enough for two of the seven");
    // Whoever operates is not held up.
    let asked = Instant::now();
    master.tool(&["agent", "list"]).expect(0);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[test]
fn a_master_that_ends_has_each_agent_come_back_at_another_moment() {
    let mut master = slow_master();
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
