//! The agent's own network goes and comes: links, carriers, addresses, routes.

use crate::{
    harness::cases,
    site::{Agent, Site, lasts},
    switch::Way,
    time::{now, range, secs, since, stamp},
};
use std::time::{Duration, Instant};

cases![
    a_link_that_comes_back_ends_the_wait,
    a_flapping_link_is_not_hammered_and_containers_wake_nobody,
    another_default_route_has_the_dead_one_found_and_left,
    another_address_is_a_loss_at_once_and_no_wait,
    from_one_interface_to_the_other,
];

/// Back so soon after the local link's return, whatever the wait was to be.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// Losses are found fast, and only the network can end a wait.
const PATIENT: [&str; 5] = [
    "heartbeat.interval=\"500ms\"",
    "heartbeat.timeout=\"500ms\"",
    "reconnect.initial_delay=\"1h\"",
    "reconnect.max_delay=\"1h\"",
    "connection.timeout=\"2s\"",
];

/// Back, and Active on the master.
#[track_caller]
fn back(site: &Site, agent: &Agent, start: Duration) -> Duration {
    let back = since(start, agent.when("Agent registered with master"));
    assert!(back <= BACK_WITHIN, "{}\n{}", secs(back), agent.running.err.text());
    site.until_status(&agent.name, "Active");
    site.serves(&agent.name);
    back
}

fn a_link_that_comes_back_ends_the_wait() -> String {
    let site = Site::new();
    let agent = site.agent(&site.host(1), "lady", &PATIENT);
    let mut all = Vec::new();
    for carrier in [false, true, false, true] {
        // An interface that is taken down, and a cable that is pulled.
        if carrier {
            agent.host.port.carrier(false)
        } else {
            agent.host.space.ip("link set eth0 down")
        }
        agent.line("Lost connection to master");
        agent.line("Reconnecting to master in");
        // The kernel is slow to tell of a carrier that goes and comes at once.
        lasts(Duration::from_millis(1_200));
        if carrier {
            agent.host.port.carrier(true)
        } else {
            agent.host.space.ip("link set eth0 up")
        }
        let start = now();
        agent.line("Network changed, reconnecting now");
        all.push(back(&site, &agent, start));
    }
    format!("link and carrier, twice each: back after {}, in place of a wait of 1 h", range(&all))
}

fn another_address_is_a_loss_at_once_and_no_wait() -> String {
    let site = Site::new();
    let agent = site.agent(&site.host(1), "lady", &PATIENT);
    let mut all = Vec::new();
    for (old, new) in [("10.9.1.1", "10.9.1.77"), ("10.9.1.77", "10.9.1.78")] {
        agent.host.port.takes(new);
        let start = now();
        agent.host.space.ip(&format!("addr del {old}/16 dev eth0\naddr add {new}/16 dev eth0"));
        let line = agent.line("Lost connection to master");
        assert!(line.contains("the network changed"), "{line}");
        all.push(back(&site, &agent, start));
        assert_eq!(site.get("lady")["address"], new);
    }
    format!("back with the new address after {}", range(&all))
}

/// As from Wi-Fi to LTE: the better interface loses everything, the other one is there all the time.
fn from_one_interface_to_the_other() -> String {
    let (site, agent) = with_two_interfaces();
    let start = now();
    agent.host.port.carrier(false);
    agent.host.space.ip("addr del 10.9.1.1/16 dev eth0");
    agent.line("Lost connection to master");
    let back = back(&site, &agent, start);
    assert_eq!(site.get("lady")["address"], "10.9.2.1");
    agent.was_lost(1);
    format!("back over the other interface after {}", secs(back))
}

/// The old way is dead, and the address that the session comes from is still there.
fn another_default_route_has_the_dead_one_found_and_left() -> String {
    let (site, agent) = with_two_interfaces();
    agent.host.port.both(Way::DEAD);
    let start = now();
    agent.host.space.ip("route del 10.9.0.0/16 dev eth0");
    let line = agent.line("Lost connection to master");
    let lost = since(start, stamp(&line));
    // A heartbeat at once, and three without an answer: no later than usual.
    assert!(lost <= Duration::from_millis(2_200), "{lost:?}");
    // Over the new way nothing was tried yet, so nothing is waited for.
    let back = back(&site, &agent, stamp(&line));
    assert_eq!(site.get("lady")["address"], "10.9.2.1");
    format!("lost after {} at heartbeats of 0.5 s, back after {}", secs(lost), secs(back))
}

/// The second one has the worse metric.
fn with_two_interfaces() -> (Site, Agent) {
    let site = Site::new();
    let host = site.host(1);
    site.switch.plug(&host.space, "wwan0", &["10.9.2.1"]);
    host.space.ip("route del 10.9.0.0/16 dev wwan0\nroute add 10.9.0.0/16 dev wwan0 metric 500 src 10.9.2.1");
    let agent = site.agent(&host, "lady", &PATIENT);
    assert_eq!(site.get("lady")["address"], "10.9.1.1");
    (site, agent)
}

fn a_flapping_link_is_not_hammered_and_containers_wake_nobody() -> String {
    let mut site = Site::new();
    let agent = site.agent(&site.host(1), "lady", &PATIENT);
    site.master.kill();
    agent.line("Lost connection to master");
    for n in 0..10 {
        agent.host.space.ip(&format!(
            "link add c{n} type veth peer name d{n}\nlink set c{n} up\nlink set d{n} up\naddr add 172.17.{n}.1/24 dev c{n}"
        ));
        agent.host.space.ip(&format!("link del c{n}"));
    }
    lasts(Duration::from_secs(1));
    assert_eq!(agent.count("Network changed"), 0, "{}", agent.running.err.text());

    let began = Instant::now();
    for _ in 0..25 {
        agent.host.space.ip("link set eth0 down");
        lasts(Duration::from_millis(100));
        agent.host.space.ip("link set eth0 up");
        lasts(Duration::from_millis(100));
    }
    lasts(Duration::from_secs(2));
    let took = began.elapsed();
    let woken = agent.count("Network changed");
    assert!(woken >= 1 && woken as u64 <= took.as_secs() + 1, "{woken} in {took:?}");
    site.master_again();
    agent.host.space.ip("link set eth0 down");
    lasts(Duration::from_millis(1_100));
    agent.host.space.ip("link set eth0 up");
    let start = now();
    agent.line("Agent registered with master");
    let back = since(start, now());
    assert!(back <= BACK_WITHIN, "{back:?}");
    format!("25 flaps in {}: {woken} attempts; 10 containers: none", secs(took))
}
