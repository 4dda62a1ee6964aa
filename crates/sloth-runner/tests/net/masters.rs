//! Several masters.

use crate::{
    fleet::{Running, until},
    harness::cases,
    site::{Agent, MASTER, PORT, QUICK, Site, start_agent, start_master},
    space::Space,
    switch::{Port, Way},
    time::{now, range, secs, since},
};
use std::{fs, time::Duration};

cases![
    breakers_open_half_open_and_close_and_whoever_returns_is_found,
    a_slow_master_serves_and_one_that_is_too_slow_is_passed_over,
    a_dead_master_costs_one_attempt_and_the_other_one_serves,
    a_master_that_rejects_leaves_the_agent_to_the_other_one,
    a_draining_master_hands_over_and_its_commands_go_on,
];

const SECOND: &str = "10.9.0.3";

/// A second master, on a host and with a store of its own.
struct Other {
    host: Space,
    _port: Port,
    master: Running,
}

impl Other {
    fn of(site: &Site) -> Self {
        let host = Space::new().unwrap();
        let port = site.switch.plug(&host, "eth0", &[SECOND]);
        let master = Self::start(site, &host);
        Self { host, _port: port, master }
    }

    fn start(site: &Site, host: &Space) -> Running {
        start_master(site.folder.path(), host, &format!("{SECOND}:{PORT}"), "second")
    }

    fn json(&self, site: &Site, args: &[&str]) -> serde_json::Value {
        let mut command = crate::fleet::program(site.folder.path());
        self.host.put(&mut command);
        command.args(["--master", &format!("{SECOND}:{PORT}"), "-o", "json"]).args(args);
        Running::start(command, std::process::Stdio::null()).done().expect(0).json()
    }
}

fn agent(site: &Site) -> Agent {
    agent_with(site, &QUICK)
}

fn agent_with(site: &Site, set: &[&str]) -> Agent {
    let host = site.host(1);
    let masters = [MASTER, SECOND].map(|address| format!("{address}:{PORT}"));
    let masters: Vec<&str> = masters.iter().map(String::as_str).collect();
    let state = site.path("lady");
    let running = start_agent(site.folder.path(), &host, &state, "lady", &masters, set, None);
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

fn a_master_that_rejects_leaves_the_agent_to_the_other_one() -> String {
    let site = Site::new();
    let other = Other::of(&site);
    // Its name is another's there.
    let holder = site.agent(&site.host(2), "lady", &QUICK);
    let start = now();
    let agent = agent(&site);
    let line = agent.line("Cannot connect to master");
    assert!(line.contains("the name \"lady\" belongs to") && line.contains(&format!("Trying {SECOND}")), "{line}");
    let line = agent.line("Agent registered with master");
    assert!(line.contains(SECOND), "{line}");
    let took = since(start, crate::time::stamp(&line));
    assert!(took <= Duration::from_secs(1), "no wait: {took:?}");
    assert_eq!(other.json(&site, &["agent", "get", "lady"])["status"], "Active");
    holder.was_never_lost();
    format!("registered with the second one after {}", secs(took))
}

/// An attempt takes two round trips: one for TCP, one for the registration.
fn a_slow_master_serves_and_one_that_is_too_slow_is_passed_over() -> String {
    let mut said = Vec::new();
    for (delay, serves) in [(300, MASTER), (700, SECOND)] {
        let site = Site::new();
        let other = Other::of(&site);
        site.port.both(Way { delay: Duration::from_millis(delay), ..Way::OPEN });
        let start = now();
        // Heartbeats of 5 s bear the delay; connection.timeout is 2 s.
        let agent = agent_with(&site, &QUICK[2..]);
        let line = agent.line("Agent registered with master");
        assert!(line.contains(serves), "{line}");
        let took = since(start, crate::time::stamp(&line));
        let least = if serves == MASTER { 1.2 } else { 2.0 };
        assert!((least..=least + 1.5).contains(&took.as_secs_f64()), "{took:?}");
        until("it is Active there", || {
            let row = if serves == MASTER { site.get("lady") } else { other.json(&site, &["agent", "get", "lady"]) };
            (row["status"] == "Active").then_some(())
        });
        agent.was_never_lost();
        let which = if serves == MASTER { "first" } else { "second" };
        said.push(format!("{delay} ms each way: the {which} one serves after {}", secs(took)));
    }
    said.join("; ")
}

fn breakers_open_half_open_and_close_and_whoever_returns_is_found() -> String {
    let mut site = Site::new();
    let mut other = Other::of(&site);
    site.master.kill();
    other.master.kill();
    let breaker = ["circuit_breaker.max_failures=2", "circuit_breaker.open_for=\"3s\"", "log.level=\"debug\""];
    let set = [QUICK.as_slice(), &breaker].concat();
    let agent = agent_with(&site, &set);
    let line = |what: &str, master: &str| agent.line(&format!("{what} {master}:{PORT}"));
    // Both are refused in two passes.
    for master in [MASTER, SECOND] {
        assert!(line("Skipping master at", master).contains("for 3s after 2 failed attempts in a row"));
    }
    // All are skipped: the one that opens first is tried after the table's wait, and skipped again.
    for master in [MASTER, SECOND] {
        line("Trying the skipped master at", master);
        assert!(line("Skipping master at", master).contains("for another 3s"));
    }
    // open_for bounds how long one that serves is away, with a wait (1 s) and an attempt (refused at once) at most.
    let bound = Duration::from_secs(3 + 1 + 1);
    let mut back = Vec::new();
    for returns in [SECOND, MASTER] {
        if returns == SECOND {
            other.master = Other::start(&site, &other.host);
        } else {
            other.master.kill();
            site.master_again();
        }
        let start = now();
        let registered = agent.line("Agent registered with master");
        assert!(registered.contains(returns), "{registered}");
        back.push(since(start, crate::time::stamp(&registered)));
        assert!(line("Master at", returns).contains("is no longer skipped"));
    }
    assert!(back.iter().all(|back| *back <= bound), "{back:?}");
    format!("both open after 2 failures, half-open and open again; who returns is found after {}", range(&back))
}
