//! Master restart, network interruption, agent restart.

use crate::fleet::{Agent, Cable, Master, SOON_LOST, Wire};

#[test]
fn when_the_master_dies_and_starts_again_every_agent_loses_it_once_and_comes_back() {
    let mut master = Master::start();
    let agents = ["keiteguica", "ladyguica", "mariguica"].map(|name| master.agent(name));
    master.kill();
    for agent in &agents {
        agent.line("Lost connection to master");
        agent.line("Reconnecting to master in 0.1s");
        // The documented waits double up to the longest.
        for wait in ["0.2s", "0.4s", "0.8s", "0.8s"] {
            let line = agent.line("Cannot connect to master");
            assert!(line.ends_with(&format!("connection refused. Retrying in {wait}...")), "{line}");
        }
    }
    master.again();
    for agent in &agents {
        agent.line("Agent registered with master at");
        master.until_status(&agent.name, "Active");
        assert_eq!(agent.count("Lost connection"), 1, "{}", agent.running.err.text());
        assert_eq!(agent.count("Agent registered with master"), 2);
        assert_eq!(master.events(&agent.name, "agent.connected").len(), 2);
    }
    let statuses = master.statuses();
    let all = agents.each_ref().map(|agent| (agent.name.clone(), "Active".to_owned()));
    assert_eq!(statuses, all);
    for agent in agents {
        assert_eq!(master.tool(&["agent", "run", &agent.name, "--", "echo", "back"]).expect(0).text(), "back\n");
    }
}

#[test]
fn a_wire_that_goes_dead_is_found_by_both_sides_and_one_that_works_again_is_used() {
    for wire in [Wire::Dead, Wire::DeadUp, Wire::DeadDown] {
        let master = Master::start();
        let cable = Cable::to(&master);
        let soon = ["--set", "heartbeat.max_failures=10", "--set", "connection.timeout=\"500ms\""];
        let agent = Agent::start(master.folder.path(), "lady", &cable.address(), &soon);
        agent.line("Agent registered with master");
        cable.set(wire);
        // Without the last where the master's deadline, which is the same, is first to close the session.
        for count in 1..=if wire == Wire::DeadDown { 10 } else { 5 } {
            agent.line(&format!("Heartbeat failed ({count}/10): no answer within 0.2s"));
        }
        let line = agent.line("Lost connection to master");
        assert!(wire != Wire::DeadDown || line.contains("after 10 failed heartbeats. Reconnecting..."), "{line}");
        let row = master.until_status("lady", "Inactive");
        // Which side is first is a matter of luck.
        let reason = row["reason"].as_str().unwrap();
        assert!(["heartbeat_timeout", "connection_reset", "stream_closed"].contains(&reason), "{wire:?}: {row}");
        cable.set(Wire::Through);
        agent.line("Agent registered with master");
        master.until_status("lady", "Active");
        assert_eq!(agent.count("Lost connection"), 1, "{wire:?}");
        let lost = master.events("lady", "agent.lost");
        assert!(lost.iter().any(|event| event["reason"] == reason), "{wire:?}: {lost:?}");
    }
}

#[test]
fn a_wire_that_is_reset_is_a_loss_at_once() {
    let master = Master::start();
    let cable = Cable::to(&master);
    // With these heartbeats silence alone would take minutes.
    let slow = ["--set", "heartbeat.interval=\"60s\"", "--set", "heartbeat.timeout=\"60s\""];
    let agent = Agent::start(master.folder.path(), "lady", &cable.address(), &slow);
    for wire in [Wire::Reset, Wire::Closed] {
        agent.line("Agent registered with master");
        cable.set(wire);
        let line = agent.line("Lost connection to master");
        // A socket that is closed with something unread in it resets its connection, too.
        assert!(["reset", "closed"].iter().any(|how| line.contains(&format!("connection {how} by master"))), "{line}");
        assert!(master.until_status("lady", "Inactive")["reason"] != "heartbeat_timeout");
        cable.set(Wire::Through);
    }
    master.until_status("lady", "Active");
}

#[test]
fn an_agent_that_is_killed_and_started_again_is_the_same_one_and_back_at_once() {
    let master = Master::start();
    // Only without a wait is it back at all.
    let no_wait = ["--set", "reconnect.initial_delay=\"1h\"", "--set", "reconnect.max_delay=\"1h\""];
    let mut agent = master.agent_with("lady", &no_wait);
    let before = master.json(&["agent", "get", "lady"]);
    agent.running.kill();
    let row = master.until_status("lady", "Inactive");
    assert_ne!(row["reason"], "heartbeat_timeout", "{row}");

    agent.again();
    agent.line("Agent registered with master");
    assert_eq!(agent.count("Cannot connect"), 0, "{}", agent.running.err.text());
    master.until_status("lady", "Active");
    let after = master.json(&["agent", "get", "lady"]);
    assert_eq!(before["id"], after["id"]);
    assert_eq!(after["epoch"], before["epoch"].as_u64().unwrap() + 1);
    assert_eq!(master.statuses(), [("lady".to_owned(), "Active".to_owned())]);
}

#[test]
fn a_master_that_hangs_is_lost_by_its_silence_and_used_again_when_it_goes_on() {
    let master = Master::start();
    let agent = master.agent_with("lady", &[&SOON_LOST[..], &["--set", "connection.timeout=\"500ms\""]].concat());
    master.running.signal(libc::SIGSTOP);
    agent.line("Lost connection to master after 3 failed heartbeats");
    // The kernel still takes connections, and nobody answers.
    agent.line("Cannot connect to master");
    master.running.signal(libc::SIGCONT);
    agent.line("Agent registered with master");
    master.until_status("lady", "Active");
    assert_eq!(agent.count("Lost connection"), 1, "{}", agent.running.err.text());
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "back"]).expect(0).text(), "back\n");
}

#[test]
fn an_agent_that_hangs_is_inactive_and_active_again_when_it_goes_on() {
    let master = Master::start();
    let agent = master.agent_with("lady", &SOON_LOST);
    agent.running.signal(libc::SIGSTOP);
    let row = master.until_status("lady", "Inactive");
    assert_eq!(row["reason"], "heartbeat_timeout", "{row}");
    let refused = master.tool(&["agent", "run", "lady", "--", "true"]).expect(255);
    assert!(refused.stderr.contains("heartbeat_timeout"), "{}", refused.stderr);
    agent.running.signal(libc::SIGCONT);
    master.until_status("lady", "Active");
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "back"]).expect(0).text(), "back\n");
    assert_eq!(master.statuses().len(), 1);
}
