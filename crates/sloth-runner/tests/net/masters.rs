//! Several masters.

use crate::{
    fleet::{Running, until},
    harness::cases,
    site::{Agent, MASTER, PORT, QUICK, Site, start_agent, start_master},
    space::Space,
    switch::{Port, Way},
    time::{now, secs, since},
};
use std::{fs, time::Duration};

cases![a_dead_master_costs_one_attempt_and_the_other_one_serves, a_draining_master_hands_over_and_its_commands_go_on,];

const SECOND: &str = "10.9.0.3";

/// A second master, on a host and with a store of its own.
struct Other {
    host: Space,
    _port: Port,
    _master: Running,
}

impl Other {
    fn of(site: &Site) -> Self {
        let host = Space::new().unwrap();
        let port = site.switch.plug(&host, "eth0", &[SECOND]);
        let master = start_master(site.folder.path(), &host, &format!("{SECOND}:{PORT}"), "second");
        Self { host, _port: port, _master: master }
    }

    fn json(&self, site: &Site, args: &[&str]) -> serde_json::Value {
        let mut command = crate::fleet::program(site.folder.path());
        self.host.put(&mut command);
        command.args(["--master", &format!("{SECOND}:{PORT}"), "-o", "json"]).args(args);
        Running::start(command, std::process::Stdio::null()).done().expect(0).json()
    }
}

fn agent(site: &Site) -> Agent {
    let host = site.host(1);
    let masters = [MASTER, SECOND].map(|address| format!("{address}:{PORT}"));
    let masters: Vec<&str> = masters.iter().map(String::as_str).collect();
    let state = site.path("lady");
    let running = start_agent(site.folder.path(), &host, &state, "lady", &masters, &QUICK, None);
    Agent { name: "lady".to_owned(), host, state, running }
}

fn a_dead_master_costs_one_attempt_and_the_other_one_serves() -> String {
    let site = Site::new();
    let other = Other::of(&site);
    site.port.both(Way::DEAD);
    let start = now();
    let agent = agent(&site);
    let line = agent.line("Agent registered with master");
    assert!(line.contains(SECOND), "{line}");
    let first = since(start, crate::time::stamp(&line));
    // The bound leaves a busy machine its time; that there is no wait is held by `several_masters`.
    assert!((2.0..=5.0).contains(&first.as_secs_f64()), "connection.timeout, and no wait: {first:?}");
    assert_eq!(other.json(&site, &["agent", "get", "lady"])["status"], "Active");
    // Nothing draws it back, and nothing disturbs it when the first one is there again.
    site.port.both(Way::OPEN);
    crate::site::lasts(Duration::from_secs(3));
    agent.was_never_lost();
    format!("registered with the second one after {}, of which 2 s are the first one's attempt", secs(first))
}

fn a_draining_master_hands_over_and_its_commands_go_on() -> String {
    let site = Site::new();
    let other = Other::of(&site);
    let agent = agent(&site);
    let line = agent.line("Agent registered with master");
    assert!(line.contains(MASTER), "{line}");
    site.until_status("lady", "Active");
    let gate = site.path("gate");
    let script = format!("echo a; until [ -e {} ]; do sleep 0.05; done; echo z; exit 7", gate.display());
    site.tool(&["agent", "run", "lady", "--detach", "--id", "long", "--shell", &script]).expect(0);
    agent.line("Command long started");
    site.master.signal(libc::SIGTERM);
    let start = now();
    let line = agent.line("Agent registered with master");
    assert!(line.contains(SECOND), "{line}");
    let handed = since(start, crate::time::stamp(&line));
    assert!(handed <= Duration::from_millis(500), "no wait: {handed:?}");
    fs::write(gate, "").unwrap();
    let row = until("its outcome is at the second master", || {
        Some(other.json(&site, &["command", "get", "long"])).filter(|row| row["code"] == 7)
    });
    assert_eq!(row["outcome"], "exited", "{row}");
    format!("with the second one after {}; a running command's outcome is there", secs(handed))
}
