//! Who is who, and who may leave.

use crate::fleet::{Agent, Master, until};
use serde_json::Value;
use std::fs;

fn id_of(agent: &Agent) -> String {
    fs::read_to_string(agent.state.join("agent-id")).unwrap().trim().to_owned()
}

/// The first event of this kind, whomever it is about, once it is recorded.
fn event(master: &Master, kind: &str) -> Value {
    until(&format!("an event {kind}"), || {
        let all = master.json(&["agent", "events"]);
        all.as_array().unwrap().iter().find(|event| event["kind"] == kind).cloned()
    })
}

fn is_untouched(master: &Master, agent: &Agent) {
    assert_eq!(agent.count("Lost connection") + agent.count("Cannot connect"), 0, "{}", agent.running.err.text());
    let row = master.json(&["agent", "get", &agent.name]);
    assert_eq!((&row["id"], &row["status"], &row["epoch"]), (&id_of(agent).into(), &"Active".into(), &1.into()));
}

#[test]
fn a_second_agent_of_the_same_name_is_refused_and_the_first_one_stays() {
    let master = Master::start();
    let mut first = master.agent("lady");
    let elsewhere = tempfile::tempdir().unwrap();
    let second = Agent::start(elsewhere.path(), "lady", &master.address.to_string(), &[]);
    let line = second.line("Cannot connect to master");
    let ids = [id_of(&first), id_of(&second)];
    assert!(ids.iter().all(|id| line.contains(id)), "{line}");
    assert_eq!(line.matches("on host \"").count(), 2, "{line}");
    assert!(line.contains("give one of them another name"), "{line}");
    let rejected = event(&master, "agent.rejected");
    assert_eq!((&rejected["reason"], &rejected["agent_id"]), (&"name_taken".into(), &ids[1].as_str().into()));
    is_untouched(&master, &first);
    // Below the list, where it disturbs no program.
    let list = master.tool(&["agent", "list"]).expect(0);
    let note = "1 node was turned away in the last 10 min (lady): `sloth-runner agent explain lady` says why";
    assert!(list.stderr.starts_with(note) && !list.text().contains("turned away"), "{} {}", list.text(), list.stderr);
    assert_eq!(master.tool(&["agent", "list", "-o", "json"]).expect(0).stderr, "");

    // Once the holder has left, the name is free.
    first.running.kill();
    second.line("Agent registered with master");
    until("the second one has the name", || (master.until_status("lady", "Active")["id"] == ids[1]).then_some(()));
    assert_eq!(event(&master, "agent.replaced")["agent_id"], ids[0]);
    assert_eq!(master.tool(&["agent", "list"]).expect(0).stderr, "", "it is in now");
    assert_eq!(master.statuses().len(), 1);
    for kind in ["agent.rejected", "agent.replaced"] {
        assert_eq!(master.events("lady", kind).len(), 1, "what concerns the name is asked for by the name: {kind}");
    }
    assert_eq!(master.events(&ids[0], "agent.rejected").len(), 0, "and by the id what concerns that");
    assert_eq!(master.events(&ids[0], "agent.replaced").len(), 1, "also of one that is gone");
    master.tool(&["agent", "events", "keite"]).expect(1);
}

#[test]
fn an_agent_with_a_copied_state_directory_is_refused_and_the_first_one_stays() {
    let master = Master::start();
    let first = master.agent("lady");
    let copy = master.path("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(first.state.join("agent-id"), copy.join("agent-id")).unwrap();
    let second = Agent::start(master.folder.path(), "copy", &master.address.to_string(), &[]);
    let line = second.line("Cannot connect to master");
    assert!(line.contains(&id_of(&first)) && line.contains("a copied state directory?"), "{line}");
    assert!(line.contains("\"lady\"") && line.contains("\"copy\""), "{line}");
    is_untouched(&master, &first);
    assert_eq!(master.statuses(), [("lady".to_owned(), "Active".to_owned())]);
}

#[test]
fn an_active_agent_is_deleted_by_force_only_and_comes_back_by_itself() {
    let master = Master::start();
    let agent = master.agent("lady");
    let refused = master.tool(&["agent", "delete", "lady"]).expect(1);
    assert!(refused.stderr.contains("agent lady is connected: stop it first, or delete it with --force"));
    is_untouched(&master, &agent);
    let id = master.tool(&["agent", "run", "lady", "--detach", "--", "sleep", "600"]).expect(0).text();
    agent.line(&format!("Command {} started", id.trim()));
    let deleted = master.tool(&["agent", "delete", "lady", "--force"]).expect(0).text();
    assert!(deleted.starts_with("agent lady deleted; 1 command is recorded as interrupted ("), "{deleted}");
    agent.line("Agent registered with master");
    // As was said of it.
    agent.line(&format!("Command {} was cancelled", id.trim()));
    assert_eq!(master.tool(&["command", "get", id.trim(), "-o", "json"]).expect(0).json()["outcome"], "interrupted");
    assert_eq!(master.until_status("lady", "Active")["id"], id_of(&agent));
    assert_eq!(master.tool(&["agent", "run", "lady", "--", "echo", "here"]).expect(0).text(), "here\n");
}

#[test]
fn an_agent_that_is_stopped_ends_well_and_stays_stopped_until_it_is_deleted() {
    let mut master = Master::start();
    let mut agent = master.agent("lady");
    let stopped = master.tool(&["agent", "stop", "lady"]).expect(0);
    assert_eq!(stopped.text(), "agent lady was asked to shut down\n");
    assert_eq!(agent.running.wait(), 0);
    let row = master.until_status("lady", "Stopped");
    assert_eq!(agent.count("Lost connection"), 0);
    master.again();
    assert_eq!(master.until_status("lady", "Stopped"), row);
    let again = master.tool(&["agent", "stop", "lady"]).expect(1);
    assert!(again.stderr.contains("agent lady is Stopped since"), "{}", again.stderr);
    master.tool(&["agent", "delete", "lady"]).expect(0);
    assert!(master.statuses().is_empty());
    assert!(master.tool(&["agent", "get", "lady"]).expect(1).stderr.contains("no agent \"lady\""));
    // And when it is started again it is there again.
    agent.again();
    master.until_status("lady", "Active");
}
