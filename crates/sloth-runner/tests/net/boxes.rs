//! What stands between: routers that forget, portals that accept and do nothing, ways that are slow and lose packets.

use crate::{
    fleet::until,
    harness::cases,
    site::{MASTER, PORT, QUICK, Site, lasts, lasts_until},
    switch::{Forgets, Way},
    time::{now, range, secs, since, stamp},
};
use std::{
    io::Read,
    net::TcpListener,
    time::{Duration, Instant},
};

cases![
    ten_kilobits_a_second_lose_no_heartbeat_behind_megabytes_of_output,
    late_answers_over_a_way_that_loses_a_third_clear_the_failures,
    routers_that_forget_after_3_30_and_60_seconds_at_the_defaults,
    a_router_that_forgets_sooner_than_the_heartbeat_comes_meets_growing_waits,
    a_router_that_forgets_later_than_the_heartbeat_comes_is_not_noticed,
    a_portal_that_accepts_and_does_nothing_is_no_master,
    a_router_that_resets_what_it_forgot_is_a_loss_at_once,
];

fn routers_that_forget_after_3_30_and_60_seconds_at_the_defaults() -> String {
    let site = Site::new();
    let agents = [(1, 3), (2, 30), (3, 60)].map(|(n, after)| {
        let host = site.host(n);
        host.port.forgets(Duration::from_secs(after), Forgets::Silently);
        site.agent(&host, &format!("a{n}"), &["reconnect.jitter=0.0"])
    });
    let began = Instant::now();
    let [hasty, patient @ ..] = &agents;
    // What nobody says anything on for over a minute is not forgotten, either: heartbeats share its connection.
    let tools = patient.each_ref().map(|agent| {
        let line = "echo a; sleep 65; echo z";
        site.tool_started(&["agent", "run", &agent.name, "--shell", line])
    });
    // The second heartbeat comes after 5 s, too late; at 15 s intervals from it three go unanswered.
    let mut last = stamp(&hasty.running.err.text());
    let (mut found, mut back) = (Vec::new(), Vec::new());
    for wait in ["5s", "10s"] {
        let lost = stamp(&hasty.line("Lost connection to master"));
        found.push(since(last, lost));
        hasty.line(&format!("Reconnecting to master in {wait}..."));
        let row = site.until_status(&hasty.name, "Inactive");
        assert_eq!(row["reason"], "heartbeat_timeout", "{row}");
        last = hasty.when("Agent registered with master");
        back.push(since(lost, last));
    }
    assert!(found.iter().all(|found| (14.5..=21.0).contains(&found.as_secs_f64())), "{found:?}");
    lasts_until(began + Duration::from_secs(75));
    for (agent, tool) in patient.iter().zip(tools) {
        assert_eq!(tool.done().expect(0).text(), "a\nz\n");
        agent.was_never_lost();
        assert_eq!(agent.count("Heartbeat failed"), 0, "{}", agent.running.err.text());
    }
    format!("30 s and 60 s: no loss in 75 s; 3 s: lost after {}, back {} later", range(&found), range(&back))
}

fn a_router_that_forgets_later_than_the_heartbeat_comes_is_not_noticed() -> String {
    let site = Site::new();
    let hosts = [site.host(1), site.host(2)];
    // As 3 s and 30 s, at a tenth of the time.
    hosts[0].port.forgets(Duration::from_millis(800), Forgets::Silently);
    hosts[1].port.forgets(Duration::from_secs(3), Forgets::Silently);
    let agents = [0, 1].map(|n| site.agent(&hosts[n], &format!("a{n}"), &QUICK));
    // A command that says nothing for long keeps its call, too.
    let tool = site.tool_started(&["agent", "run", "a0", "--shell", "echo a; sleep 12; echo z"]);
    lasts(Duration::from_secs(15));
    assert_eq!(tool.done().expect(0).text(), "a\nz\n");
    for agent in &agents {
        agent.was_never_lost();
        site.serves(&agent.name);
    }
    "heartbeats of 0.5 s through routers that forget after 0.8 s and 3 s: no loss in 15 s".to_owned()
}

fn a_router_that_forgets_sooner_than_the_heartbeat_comes_meets_growing_waits() -> String {
    let site = Site::new();
    let host = site.host(1);
    host.port.forgets(Duration::from_millis(300), Forgets::Silently);
    let set = [&QUICK[..2], &["reconnect.initial_delay=\"1s\"", "reconnect.max_delay=\"4s\"", "reconnect.jitter=0.0"]]
        .concat();
    let agent = site.agent(&host, "lady", &set);
    let mut last = stamp(&agent.running.err.text());
    let mut found = Vec::new();
    for wait in ["1s", "2s", "4s", "4s"] {
        let line = agent.line("Lost connection to master");
        assert!(line.contains("after 3 failed heartbeats") || line.contains("nothing was heard"), "{line}");
        found.push(since(last, stamp(&line)));
        agent.line(&format!("Reconnecting to master in {wait}..."));
        // The master does not go on believing in it.
        let row = site.until_status("lady", "Inactive");
        assert_eq!(row["reason"], "heartbeat_timeout", "{row}");
        last = agent.when("Agent registered with master");
    }
    for found in &found {
        assert!(*found <= Duration::from_millis(2_500), "{found:?}");
    }
    let dropped = site.host.sockets(PORT, false);
    format!(
        "each session lost after {}, heartbeat_timeout on both sides, waits 1, 2, 4, 4 s; {} connection(s) of them in \
         the master's kernel",
        range(&found),
        dropped.len()
    )
}

fn a_router_that_resets_what_it_forgot_is_a_loss_at_once() -> String {
    let site = Site::new();
    let host = site.host(1);
    let agent = site.agent(&host, "lady", &QUICK);
    // The next packet finds the connection unknown.
    host.port.forgets(Duration::ZERO, Forgets::WithReset);
    let line = agent.line("Lost connection to master");
    host.port.forgets(Duration::from_secs(10), Forgets::WithReset);
    assert!(line.contains("connection reset by master"), "{line}");
    assert_eq!(agent.count("Heartbeat failed"), 0, "at its first heartbeat, not by silence");
    let back = since(stamp(&line), agent.when("Agent registered with master"));
    assert!(back <= Duration::from_millis(1_500), "{back:?}");
    site.until_status("lady", "Active");
    format!("lost with the first packet, back after {}", secs(back))
}

fn a_portal_that_accepts_and_does_nothing_is_no_master() -> String {
    let mut site = Site::new();
    site.master.kill();
    let portal = site.host.inside(|| TcpListener::bind((MASTER, PORT))).unwrap();
    let (asked, listener) = (std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)), portal.try_clone().unwrap());
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut first = [0; 24];
            if stream.read_exact(&mut first).is_err() {
                return; // the knock that ends this
            }
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            held.push(stream);
        }
    });
    // A third attempt is a while away when the second is seen.
    let quick = [&QUICK[..], &["reconnect.initial_delay=\"1s\""]].concat();
    let agent = site.start(&site.host(1), "lady", &format!("{MASTER}:{PORT}"), &quick, None);
    let start = now();
    let line = agent.line("Cannot connect to master");
    assert!(line.contains("(attempt 1)") && line.contains("Retrying in 1s"), "{line}");
    let found = since(start, stamp(&line));
    // connection.timeout is 2 s here; it bounds connecting and registering together.
    assert!((1.9..=2.6).contains(&found.as_secs_f64()), "{found:?}");
    agent.line("(attempt 2)");
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2);
    let left = agent.sockets();
    assert!(left.len() <= 1, "attempts leave nothing: {left:?}");
    assert_eq!(agent.count("Agent registered"), 0);
    // The portal goes, the master is there.
    site.host.inside(|| std::net::TcpStream::connect((MASTER, PORT))).unwrap();
    drop(portal);
    until("the portal is gone", || {
        let gone = site.host.inside(|| std::net::TcpStream::connect((MASTER, PORT)).is_err());
        gone.then_some(())
    });
    site.master_again();
    let up = now();
    let back = since(up, agent.when("Agent registered with master"));
    assert!(back <= Duration::from_millis(3_500), "max_delay and connection.timeout: {back:?}");
    format!("given up after {}, nothing left open; back {} after the master is there", secs(found), secs(back))
}

/// An answer takes 4 s at least, and a packet that is lost some seconds more: heartbeats count as failed, and the late
/// answers make up for them. TCP itself may stand still for longer than the 15 s of the defaults: then it is a loss, as
/// promised, and the agent comes back over the same bad way.
fn late_answers_over_a_way_that_loses_a_third_clear_the_failures() -> String {
    let site = Site::new();
    let delayed = |loss| Way { loss, delay: Duration::from_secs(2), rate: None };
    // Of a few, chance would decide.
    let agents: Vec<_> = (1..=14).map(|n| site.agent(&site.host(n), &format!("a{n}"), &[])).collect();
    let (slow, lossy) = agents.split_at(2);
    let began = Instant::now();
    slow.iter().for_each(|agent| agent.host.port.both(delayed(0.0)));
    lossy.iter().for_each(|agent| agent.host.port.both(delayed(0.3)));
    lasts_until(began + Duration::from_secs(75));
    agents.iter().for_each(|agent| agent.host.port.both(Way::OPEN));
    for agent in slow {
        agent.was_never_lost();
        assert_eq!(site.get(&agent.name)["epoch"], 1);
    }
    let count = |text| lossy.iter().map(|agent| agent.count(text)).sum::<usize>();
    let (failed, recovered, lost) = (count("Heartbeat failed"), count("Heartbeat recovered"), count("Lost connection"));
    // How many of each is chance: sessions on such a way live for some 50 s.
    assert!(recovered > 0, "late answers clear the failures: {recovered} recoveries, {lost} losses");
    let unscathed = lossy.iter().filter(|agent| agent.count("Lost connection") == 0).count();
    for agent in &agents {
        site.until_status(&agent.name, "Active");
        site.serves(&agent.name);
    }
    format!(
        "75 s: 2 s each way alone: no loss; with 30 % lost as well: {failed} failed heartbeats, {recovered} recoveries, \
         {lost} loss(es), {unscathed} of {} sessions held throughout",
        lossy.len()
    )
}

fn ten_kilobits_a_second_lose_no_heartbeat_behind_megabytes_of_output() -> String {
    let site = Site::new();
    let host = site.host(1);
    host.port.both(Way { rate: Some(10_000 / 8), ..Way::OPEN });
    let agent = site.agent(&host, "lady", &[]);
    let began = Instant::now();
    let id = site.tool(&["agent", "run", "lady", "--detach", "--", "head", "-c", "8000000", "/dev/zero"]);
    let id = id.expect(0).text().trim().to_owned();
    lasts_until(began + Duration::from_secs(60));
    agent.was_never_lost();
    let failed = agent.count("Heartbeat failed");
    assert_eq!(failed, 0, "{}", agent.running.err.text());
    let row = site.json(&["command", "get", &id]);
    assert_eq!((&row["state"], site.get("lady")["epoch"].as_u64()), (&"accepted".into(), Some(1)), "{row}");
    let slow = row["output_bytes"].as_u64().unwrap();
    assert!(slow > 20_000, "the output gets on: {row}");
    agent.host.port.both(Way::OPEN);
    let row = until("the output is here", || Some(site.json(&["command", "get", &id])).filter(|row| row["code"] == 0));
    assert_eq!(row["output_bytes"], 8_000_000, "{row}");
    format!("60 s: no heartbeat lost or late, {} of {} B/s were output", slow / 60, 10_000 / 8)
}
