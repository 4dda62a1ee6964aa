//! Nothing comes through, and nobody says so: the promised figures at the default parameters.

use crate::{
    fleet::until,
    harness::cases,
    site::{Agent, LONG, PORT, Site, lasts, lasts_until},
    switch::Way,
    time::{now, range, secs, since, stamp},
};
use std::time::{Duration, Instant};

cases![
    a_minute_of_silence_is_found_by_both_sides_and_leaves_no_socket,
    silence_of_twenty_seconds_is_found_by_both_sides,
    silence_of_five_seconds_loses_nothing,
];

/// What lies dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dead {
    Both,
    Up,
    Down,
}

const WAYS: [Dead; 3] = [Dead::Both, Dead::Up, Dead::Down];

fn set(agent: &Agent, dead: Dead, way: Way) {
    let port = &agent.host.port;
    match dead {
        Dead::Both => port.both(way),
        Dead::Up => port.up(way),
        Dead::Down => port.down(way),
    }
}

/// An agent for each way of dying, at the defaults.
fn site() -> (Site, Vec<(Dead, Agent)>) {
    let site = Site::new();
    let agents = WAYS.iter().zip(1..).map(|(dead, n)| {
        let name = format!("{dead:?}").to_lowercase();
        (*dead, site.agent(&site.host(n), &name, &[]))
    });
    let agents = agents.collect();
    (site, agents)
}

fn silence_of_five_seconds_loses_nothing() -> String {
    let (site, agents) = site();
    // A heartbeat falls into the silence.
    lasts(Duration::from_secs(2));
    let began = Instant::now();
    agents.iter().for_each(|(dead, agent)| set(agent, *dead, Way::DEAD));
    lasts_until(began + Duration::from_secs(5));
    agents.iter().for_each(|(dead, agent)| set(agent, *dead, Way::OPEN));
    // What the silence could have led to would be there by now.
    lasts_until(began + Duration::from_secs(25));
    let mut failures = 0;
    for (_, agent) in &agents {
        agent.was_never_lost();
        assert!(site.events(&agent.name, "agent.lost").is_empty());
        let row = site.get(&agent.name);
        assert_eq!((&row["status"], &row["epoch"]), (&"Active".into(), &1.into()), "{row}");
        site.serves(&agent.name);
        failures += agent.count("Heartbeat failed");
    }
    format!("no loss in three directions, {failures} late heartbeat(s)")
}

fn silence_of_twenty_seconds_is_found_by_both_sides() -> String {
    // Right after a heartbeat, and right before one: the latest and the earliest verdict.
    silence_of(Duration::from_secs(21), Duration::ZERO)
}

fn a_minute_of_silence_is_found_by_both_sides_and_leaves_no_socket() -> String {
    silence_of(Duration::from_secs(60), Duration::from_millis(3_500))
}

/// The reason is the same one whichever way is dead and whoever is first.
fn silence_of(length: Duration, beginning_after: Duration) -> String {
    let (site, agents) = site();
    lasts(beginning_after);
    let (began, start) = (Instant::now(), now());
    agents.iter().for_each(|(dead, agent)| set(agent, *dead, Way::DEAD));
    let mut found = Vec::new();
    for (dead, agent) in &agents {
        let line = agent.line("Lost connection to master");
        let after = since(start, stamp(&line));
        assert!((14.5..=20.5).contains(&after.as_secs_f64()), "{dead:?}: {}", secs(after));
        found.push(after);
        if *dead == Dead::Up {
            // The master's word gets through, and may be first.
            assert!(
                line.contains("after 3 failed heartbeats") || line.contains("has heard nothing of this agent"),
                "{line}"
            );
        } else {
            assert!(line.contains("after 3 failed heartbeats"), "{dead:?}: {line}");
        }
        until("the agent's kernel has forgotten the connection", || {
            // What its next attempt may have opened by now is only just being opened.
            agent.sockets().iter().all(|socket| socket.starts_with("02 ")).then_some(())
        });
    }
    let mut found_by_master = Vec::new();
    for (dead, agent) in &agents {
        let row = site.until_status(&agent.name, "Inactive");
        assert_eq!(row["reason"], "heartbeat_timeout", "{dead:?}: {row}");
        let after = since(start, stamp(row["since"].as_str().unwrap()));
        assert!(after.as_secs_f64() <= 20.5, "{dead:?}: {}", secs(after));
        found_by_master.push(after);
    }
    let mut kernel = String::new();
    if length > Duration::from_secs(55) {
        lasts_until(began + Duration::from_secs(55));
        let left = site.host.sockets(PORT, false);
        // An attempt whose way up is open leaves half a connection.
        assert!(left.iter().all(|socket| socket.starts_with("03 ")), "{left:?}");
        kernel = ", no socket left".to_owned();
    }
    lasts_until(began + length);
    let end = now();
    agents.iter().for_each(|(dead, agent)| set(agent, *dead, Way::OPEN));
    let mut back = Vec::new();
    for (dead, agent) in &agents {
        back.push(since(end, agent.when("Agent registered with master")));
        assert!(*back.last().unwrap() < LONG, "{dead:?}");
        site.until_status(&agent.name, "Active");
    }
    for (dead, agent) in &agents {
        is_back_for_good(&site, *dead, agent);
    }
    let (agent, master) = (range(&found), range(&found_by_master));
    format!("found by the agent after {agent}, by the master after {master}{kernel}; back after {}", range(&back))
}

/// One loss, one return, and the old session says nothing any more.
fn is_back_for_good(site: &Site, dead: Dead, agent: &Agent) {
    assert_eq!(agent.count("Lost connection"), 1, "{dead:?}: {}", agent.running.err.text());
    let lost = site.events(&agent.name, "agent.lost");
    assert_eq!(lost.len(), 1, "{dead:?}: {lost:?}");
    let row = site.get(&agent.name);
    assert_eq!(row["status"], "Active", "{dead:?}: {row}");
    assert!(row["epoch"].as_u64() > lost[0]["epoch"].as_u64(), "{dead:?}: {row} {lost:?}");
    site.serves(&agent.name);
}
