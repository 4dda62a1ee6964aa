//! The audit file of a master in plain mode, and contexts that are added at once.

use crate::fleet::{Master, program};
use std::{fs, os::unix::fs::MetadataExt};

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
