//! Masters that lost their memory, or have an old one.

use crate::{
    fleet::until,
    harness::cases,
    site::{QUICK, Site},
    time::{now, range, since},
};
use std::{fs, time::Duration};

cases![
    a_master_that_lost_its_database_has_its_fleet_and_their_commands_again,
    a_master_restored_from_an_old_backup_fences_and_starts_nothing_twice,
];

/// Leaves a line in `ran`, waits for `gate`.
fn once(site: &Site, name: &str) -> [String; 2] {
    let folder = site.folder.path().display();
    let (ran, gate) = (format!("{folder}/{name}.ran"), format!("{folder}/{name}.gate"));
    [format!("echo a; echo x >> {ran}; until [ -e {gate} ]; do sleep 0.05; done; echo z; exit 7"), gate]
}

fn runs(site: &Site, name: &str) -> usize {
    fs::read_to_string(site.path(&format!("{name}.ran"))).unwrap_or_default().lines().count()
}

fn a_master_that_lost_its_database_has_its_fleet_and_their_commands_again() -> String {
    let mut site = Site::new();
    let agents = [1, 2, 3].map(|n| site.agent(&site.host(n), &format!("a{n}"), &QUICK));
    let [script, gate] = once(&site, "long");
    site.tool(&["agent", "run", "a1", "--detach", "--id", "long", "--shell", &script]).expect(0);
    until("it runs", || (runs(&site, "long") == 1).then_some(()));
    site.master.kill();
    fs::remove_dir_all(site.path("master")).unwrap();
    site.master_again();
    let up = now();
    let mut back = Vec::new();
    for agent in &agents {
        agent.line("Lost connection to master");
        back.push(since(up, agent.when("Agent registered with master")));
        site.until_status(&agent.name, "Active");
        // Above all that it has ever had.
        assert_eq!(site.get(&agent.name)["epoch"], 2);
        site.serves(&agent.name);
    }
    assert!(back.iter().max().unwrap() <= &Duration::from_millis(1_500), "{back:?}");
    let row = site.json(&["command", "get", "long"]);
    assert_eq!((&row["agent"], &row["outcome"]), (&"a1".into(), &serde_json::Value::Null), "{row}");
    fs::write(gate, "").unwrap();
    let row = until("it ends", || Some(site.json(&["command", "get", "long"])).filter(|row| row["code"] == 7));
    assert_eq!((&row["outcome"], runs(&site, "long")), (&"exited".into(), 1), "{row}");
    assert!(site.tool(&["command", "logs", "long"]).expect(0).text().ends_with("z\n"));
    format!("3 agents back after {}; the running command was adopted, its outcome is there", range(&back))
}

fn a_master_restored_from_an_old_backup_fences_and_starts_nothing_twice() -> String {
    let mut site = Site::new();
    let agent = site.agent(&site.host(1), "lady", &QUICK);
    // One that runs when the backup is made, ended since; one that came after it and still runs.
    let [early, early_gate] = once(&site, "early");
    site.tool(&["agent", "run", "lady", "--detach", "--id", "early", "--shell", &early]).expect(0);
    until("it runs", || (runs(&site, "early") == 1).then_some(()));
    let (backup, state) = (site.path("backup"), site.path("master"));
    let made =
        site.program_started(&["master", "backup", "--state-dir", state.to_str().unwrap(), backup.to_str().unwrap()]);
    made.done().expect(0);
    fs::write(early_gate, "").unwrap();
    until("it ends", || Some(site.json(&["command", "get", "early"])).filter(|row| row["code"] == 7));
    let [late, late_gate] = once(&site, "late");
    site.tool(&["agent", "run", "lady", "--detach", "--id", "late", "--shell", &late]).expect(0);
    until("it runs", || (runs(&site, "late") == 1).then_some(()));
    // Epochs that the backup knows nothing of.
    for _ in 0..3 {
        site.master_again();
        agent.line("Agent registered with master");
        site.until_status("lady", "Active");
    }
    let before = site.get("lady")["epoch"].as_u64().unwrap();
    assert_eq!(before, 4);

    site.master.kill();
    for file in ["sloth.db", "sloth.db-wal", "sloth.db-shm"] {
        let _ = fs::remove_file(state.join(file));
    }
    fs::copy(&backup, state.join("sloth.db")).unwrap();
    site.master_again();
    agent.line("Agent registered with master");
    site.until_status("lady", "Active");
    let after = site.get("lady")["epoch"].as_u64().unwrap();
    assert!(after > before, "{after}");
    site.serves("lady");
    let row = until("it has an outcome", || {
        Some(site.json(&["command", "get", "early"])).filter(|row| !row["outcome"].is_null())
    });
    let early = row["outcome"].as_str().unwrap().to_owned();
    fs::write(late_gate, "").unwrap();
    let row = until("it ends", || Some(site.json(&["command", "get", "late"])).filter(|row| !row["outcome"].is_null()));
    assert_eq!(row["code"], 7, "{row}");
    assert_eq!((runs(&site, "early"), runs(&site, "late")), (1, 1), "nothing is started twice");
    format!(
        "epoch {before} before, {after} after; each command ran once (ended since the backup: {early}; later: exited)"
    )
}
