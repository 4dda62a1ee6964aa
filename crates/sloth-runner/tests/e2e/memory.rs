//! What a master knows once it was started again on its database.

use crate::fleet::{Master, until};

#[test]
fn a_master_that_was_killed_knows_its_fleet_its_events_and_its_commands() {
    let mut master = Master::start();
    let [kei, lady] = ["kei", "lady"].map(|name| master.agent_with(name, &["--label", "site=edge"]));
    let mut mari = master.agent("mari");
    master.tool(&["agent", "stop", "mari"]).expect(0);
    assert_eq!(mari.running.wait(), 0);
    let stopped = master.until_status("mari", "Stopped");
    let shell = ["agent", "run", "lady", "--id", "told", "--shell", "printf 'out\\377'; echo err >&2; exit 4"];
    master.tool(&shell).expect(4);
    let (row, logs) = (master.until_finished("told"), master.json(&["command", "logs", "told"]));
    let before = master.json(&["agent", "list"]);
    let events = master.json(&["agent", "events"]);

    // Held still, so that they don't come back before the list is looked at, nor are silent before it is killed.
    master.kill();
    [&kei, &lady].iter().for_each(|agent| agent.running.signal(libc::SIGSTOP));
    master.again();
    let after = master.json(&["agent", "list"]);
    for (before, after) in before.as_array().unwrap().iter().zip(after.as_array().unwrap()) {
        for same in ["name", "id", "address", "version", "labels"] {
            assert_eq!(before[same], after[same]);
        }
        if after["name"] != "mari" {
            assert_eq!((&after["status"], &after["reason"]), (&"Inactive".into(), &"master_restarted".into()));
        }
    }
    assert_eq!(after.as_array().unwrap().len(), 3);
    let refused = master.tool(&["agent", "run", "lady", "--", "true"]).expect(255);
    assert!(refused.stderr.contains("agent lady is Inactive since"), "{}", refused.stderr);
    assert!(refused.stderr.contains("master_restarted"), "{}", refused.stderr);

    let mut still = master.json(&["agent", "events"]);
    still.as_array_mut().unwrap().truncate(events.as_array().unwrap().len());
    assert_eq!(still, events);
    assert_eq!(master.json(&["command", "get", "told"]), row);
    assert_eq!(master.json(&["command", "list"]), serde_json::json!([row]));
    assert_eq!(master.json(&["command", "logs", "told"]), logs);
    assert_eq!((&logs["stdout_base64"], &logs["stderr"]), (&"b3V0/w==".into(), &"err\n".into()));

    [&kei, &lady].iter().for_each(|agent| agent.running.signal(libc::SIGCONT));
    for name in ["kei", "lady"] {
        master.until_status(name, "Active");
    }
    assert_eq!(master.until_status("mari", "Stopped"), stopped);
}

#[test]
fn what_happened_is_told_with_its_reason_and_as_it_happens() {
    let master = Master::start();
    let follower = master.tool_started(&["agent", "events", "--follow", "-o", "json"]);
    let mut agent = master.agent("lady");
    agent.running.kill();
    agent.again();
    until("it is back", || (master.events("lady", "agent.connected").len() == 2).then_some(()));
    master.tool(&["agent", "stop", "lady"]).expect(0);
    for kind in ["agent.connected", "agent.lost", "agent.connected", "agent.stopped"] {
        let event: serde_json::Value = serde_json::from_str(&follower.out.line("agent.")).unwrap();
        assert_eq!((&event["kind"], &event["agent"]), (&kind.into(), &"lady".into()));
        let reason = event["reason"].as_str();
        assert_eq!(reason.is_some(), kind != "agent.connected", "{event}");
    }
}

#[test]
fn who_follows_events_over_the_masters_death_misses_none_and_sees_none_twice() {
    let mut master = Master::start();
    let follower = master.tool_started(&["agent", "events", "--follow", "-o", "json"]);
    let agent = master.agent("lady");
    follower.out.line("agent.connected");
    master.kill();
    follower.err.line("lost the master at");
    master.again();
    agent.line("Agent registered with master");
    follower.out.line("agent.connected");
    follower.err.line("back with the master");
    let text = follower.out.text();
    let seen = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>();
    let all = master.json(&["agent", "events"]);
    assert_eq!(seen[..], all.as_array().unwrap()[..seen.len()]);
}

#[test]
fn a_master_says_when_it_heard_its_agents_last_also_after_a_restart_and_how_the_run_before_ended() {
    let mut master = Master::start();
    let agent = master.agent("lady");
    // RFC 3339 in UTC: the order of the text is that of the times.
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let row = until("a heartbeat came", || {
        let row = master.json(&["agent", "get", "lady"]);
        (text(&row, "last_heartbeat") > text(&row, "since")).then_some(row)
    });
    master.running.signal(libc::SIGTERM);
    assert_eq!(master.running.wait(), 0);
    // Held still, so that it is not back before the list is looked at.
    agent.running.signal(libc::SIGSTOP);
    master.again();
    let after = master.json(&["agent", "get", "lady"]);
    assert_eq!(after["reason"], "master_restarted");
    assert!(text(&after, "last_heartbeat") >= text(&row, "last_heartbeat"), "{row} {after}");

    master.kill();
    master.again();
    let again = master.json(&["agent", "get", "lady"]);
    assert_eq!(again["last_heartbeat"], after["last_heartbeat"], "also where nothing of it was heard since");
    let events = master.json(&["agent", "events"]);
    let starts: Vec<_> = events.as_array().unwrap().iter().filter(|event| event["kind"] == "master.started").collect();
    let told: Vec<_> = starts.iter().map(|event| (event["reason"].as_str(), text(event, "message"))).collect();
    let [(None, first), (None, stopped), (Some("master_died"), died)] = &told[..] else { panic!("{told:?}") };
    assert!(first.ends_with(" started"), "{first}");
    assert!(stopped.contains(" started; it was stopped at 20"), "{stopped}");
    assert!(died.contains("; the master was not stopped cleanly; last written at 20"), "{died}");
    let shown = master.tool(&["agent", "events"]).expect(0).text();
    assert!(shown.lines().any(|line| line.contains("  master.started         (master_died): sloth-runner")), "{shown}");
    agent.running.signal(libc::SIGCONT);
    master.until_status("lady", "Active");
}
