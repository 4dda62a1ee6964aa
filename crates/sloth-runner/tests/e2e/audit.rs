//! The audit file of a master in plain mode, and contexts that are added at once.

use super::{
    full_disk::SmallDisk,
    watch::{get, metrics_of},
};
use crate::fleet::{Master, needs, program, until};
use std::{fs, io::Write, os::unix::fs::MetadataExt};

#[test]
fn in_plain_mode_the_audit_file_says_what_was_done_when_and_from_where() {
    let master = Master::start();
    let agent = master.agent("lady");
    master.tool(&["agent", "run", "lady", "--", "echo", "hidden-argument"]).expect(0);
    let id = master.tool(&["agent", "run", "lady", "--detach", "--", "sleep", "300"]).expect(0).stdout;
    let id = String::from_utf8(id).unwrap().trim().to_owned();
    master.tool(&["command", "cancel", &id]).expect(0);
    master.tool(&["agent", "stop", "lady"]).expect(0);
    master.until_status("lady", "Stopped");
    master.tool(&["agent", "delete", "lady"]).expect(0);
    drop(agent);

    let path = master.path("master/audit.log");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<_> = lines.iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["run", "run", "cancel", "stop", "delete"], "{text}");
    for line in &lines {
        assert_eq!((&line["who"], &line["agent"]), (&"insecure".into(), &"lady".into()), "{line}");
        assert!(line["address"].as_str().is_some_and(|address| address.starts_with("127.")), "{line}");
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }
    assert!(lines[0]["what"].as_str().unwrap().contains("echo") && !text.contains("hidden-argument"), "{text}");
    assert!(lines[2]["what"].as_str().unwrap().contains(&id), "{text}");
}

#[test]
fn an_audit_file_that_cannot_be_written_stays_json_and_is_told_of() {
    let elsewhere = tempfile::tempdir().unwrap();
    let store = format!("store={:?}", elsewhere.path().join("sloth.db").display().to_string());
    let mut master = Master::with(&["http.listen=\"127.0.0.1:0\"", &store]);
    master.kill();
    let disk = SmallDisk::on(&master.path("master"), "1m");
    if !needs("right to mount a file system", disk.is_some()) {
        return;
    }
    master.again();
    let metrics = metrics_of(&master);
    let _agent = master.agent("lady");
    let run = || master.tool(&["agent", "run", "lady", "--detach", "--", "true"]).expect(0);
    run();
    let fill = master.path("master/fill");
    let mut file = fs::File::create(&fill).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);
    // A line that does not fit into what is left of its page is torn.
    until("a line that is lost", || {
        run();
        (master.running.err.count("audit.log cannot be written: no space left on device") > 0).then_some(())
    });
    run();
    let counter = "\nsloth_master_audit_failures_total ";
    let failures = || get(metrics, "/metrics").split_once(counter).unwrap().1.lines().next().unwrap().to_owned();
    let lost: u64 = failures().parse().unwrap();
    assert!(lost >= 2, "{lost}");
    assert!(get(metrics, "/readyz").ends_with("ready\n"), "actions go on");

    fs::remove_file(&fill).unwrap();
    run();
    master.running.err.line(&format!("The audit file is written again: {lost} lines could not be"));
    let text = fs::read_to_string(master.path("master/audit.log")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect(&text)).collect();
    let [.., note, last] = lines.as_slice() else { panic!("{text}") };
    assert_eq!((&note["action"], &note["unwritten"], &last["action"]), (&"lost".into(), &lost.into(), &"run".into()));
    assert!(lines[..lines.len() - 2].iter().all(|line| line["action"] == "run"), "{text}");
    let told = until("the event", || {
        let events = master.json(&["agent", "events"]);
        events.as_array().unwrap().iter().find(|event| event["kind"] == "audit.lost").cloned()
    });
    assert_eq!(told["message"], format!("{lost} lines of the audit file could not be written, and are not in it"));
    assert_eq!(failures(), lost.to_string());
}

#[test]
fn of_contexts_that_are_added_at_once_none_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let tool = |words: &[&str]| {
        let mut tool = program(home.path());
        tool.env("XDG_CONFIG_HOME", home.path())
            .args(words)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped());
        tool
    };
    let names: Vec<_> = (0..8).map(|n| format!("c{n}")).collect();
    let adding: Vec<_> =
        names.iter().map(|name| tool(&["context", "add", name, "--master", "a.test"]).spawn().unwrap()).collect();
    for mut one in adding {
        assert!(one.wait().unwrap().success());
    }
    let listed = tool(&["context", "list", "-o", "json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let found: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(found, names);
    assert_eq!(listed.as_array().unwrap().iter().filter(|row| row["current"] == true).count(), 1);
}

#[test]
fn contexts_that_cannot_be_used_are_wrong_configuration_for_every_command() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("sloth-runner");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("contexts.json");
    std::fs::write(&file, "{\"contexts\": {").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for words in ["agent list", "context list", "context use a", "context remove a", "context add a --master a.test"] {
        let mut tool = program(home.path());
        let tool = tool.env("XDG_CONFIG_HOME", home.path()).env_remove("SLOTH_RUNNER_MASTER_ADDR");
        let done = tool.args(words.split(' ')).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{words}: {said}");
        assert!(said.contains("contexts.json are damaged at line 1, column 14: correct that"), "{words}: {said}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"{\"contexts\": {", "nothing is lost");
}
