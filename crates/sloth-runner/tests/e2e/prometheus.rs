//! A real Prometheus with the rules that are shipped: it scrapes, and an alert fires when an agent is killed.

use super::watch::metrics_of;
use crate::fleet::{Master, Running, needs, until};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/prometheus")
}

fn has_prometheus() -> bool {
    let found = |name: &str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|path| path.join(name).is_file())
    };
    needs("prometheus with promtool (Debian: apt-get install prometheus)", found("prometheus") && found("promtool"))
}

#[track_caller]
fn promtool(args: &[&str]) {
    let mut command = Command::new("promtool");
    command.current_dir(shipped()).args(args);
    Running::start(command, Stdio::null()).done().expect(0);
}

#[test]
fn the_rules_hold_what_is_said_of_them() {
    if !has_prometheus() {
        return;
    }
    promtool(&["check", "rules", "sloth-runner.rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "sloth-runner.test.yml"]);
}

#[test]
fn every_metric_of_the_dashboard_and_the_rules_is_one_that_is_documented() {
    let dashboard = fs::read_to_string(shipped().join("grafana-dashboard.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 10);
    let rules = fs::read_to_string(shipped().join("sloth-runner.rules.yml")).unwrap();
    let documented = fs::read_to_string(shipped().join("../../docs/monitoring.md")).unwrap();
    let names = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        words
            .filter(|word| word.starts_with("sloth_master_") || word.starts_with("sloth_agent_"))
            .map(str::to_owned)
            .collect()
    };
    let used: Vec<String> = names(&dashboard).into_iter().chain(names(&rules)).collect();
    assert!(used.len() > 20);
    for name in used {
        let family = name.trim_end_matches("_bucket");
        assert!(documented.contains(family), "{name} is not in docs/monitoring.md");
    }
}

/// What a query of Prometheus answers.
fn query(address: &str, query: &str) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    let path = format!("/api/v1/query?query={query}");
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let document: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    document["data"]["result"].as_array().filter(|found| !found.is_empty()).map(|found| found[0].clone())
}

#[test]
fn a_real_prometheus_scrapes_a_master_and_its_alert_fires_when_an_agent_is_killed() {
    if !has_prometheus() {
        return;
    }
    let master = Master::with(&["http.listen=\"127.0.0.1:0\""]);
    let metrics = metrics_of(&master);
    let mut agent = master.agent("lady");
    // The rules as they are shipped, but for the five minutes.
    let rules = fs::read_to_string(shipped().join("sloth-runner.rules.yml")).unwrap();
    let quick = rules.replace("agent_inactive_since_seconds > 300", "agent_inactive_since_seconds > 2");
    assert_ne!(rules, quick);
    fs::write(master.path("rules.yml"), quick).unwrap();
    let config = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms}}\nrule_files: [rules.yml]\n\
         scrape_configs:\n  - job_name: sloth-master\n    static_configs: [{{targets: [\"{metrics}\"]}}]\n"
    );
    fs::write(master.path("prometheus.yml"), config).unwrap();
    // A port that was free a moment ago, on an address that no other test has.
    let free = TcpListener::bind((master.address.ip(), 0)).unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut command = Command::new("prometheus");
    command.current_dir(master.folder.path()).args([
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=tsdb",
        &format!("--web.listen-address={address}"),
    ]);
    let _prometheus = Running::start(command, Stdio::null());
    let active = "sloth_master_agents%7Bstatus%3D%22active%22%7D%3D%3D1";
    until("Prometheus has scraped the master", || query(&address, active));
    let firing = "ALERTS%7Balertname%3D%22SlothAgentGone%22%2Calertstate%3D%22firing%22%7D";
    assert!(query(&address, firing).is_none());
    agent.running.kill();
    let alert = until("the alert fires", || query(&address, firing));
    assert_eq!(alert["metric"]["agent"], "lady", "{alert}");
    agent.again();
    until("the alert is over", || query(&address, firing).is_none().then_some(()));
    // What it is given is what its own tool finds well.
    let mut promtool = Running::start(
        {
            let mut command = Command::new("promtool");
            command.args(["check", "metrics"]);
            command
        },
        Stdio::piped(),
    );
    let mut stream = TcpStream::connect(metrics).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let text = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    crate::fleet::running::feed(promtool.input.take().unwrap(), text.into_bytes());
    let done = promtool.done();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{}", done.text());
}
