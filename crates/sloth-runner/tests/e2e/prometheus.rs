//! A real Prometheus with the rules that are shipped: it scrapes, and an alert fires when an agent is killed.

use super::watch::metrics_of;
use crate::fleet::{Agent, Master, Running, needs, until};
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

/// A Prometheus on a port of its own.
struct Prometheus {
    address: String,
    _running: Running,
}

impl Prometheus {
    /// Scrapes these and holds the rules that are shipped, with some of their times made short.
    fn start(master: &Master, metrics: &str, agent: &str) -> Self {
        let rules = fs::read_to_string(shipped().join("sloth-runner.rules.yml")).unwrap();
        let mut quick = rules;
        for (shipped, now) in [
            ("agent_inactive_since_seconds > 300", "agent_inactive_since_seconds > 2"),
            ("expr: sloth_agent_connected == 0\n        for: 5m", "expr: sloth_agent_connected == 0\n        for: 1s"),
        ] {
            assert_eq!(quick.matches(shipped).count(), 1, "{shipped}");
            quick = quick.replace(shipped, now);
        }
        fs::write(master.path("rules.yml"), quick).unwrap();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms}}\n\
             rule_files: [rules.yml]\nscrape_configs:\n  \
             - {{job_name: sloth-master, static_configs: [{{targets: [\"{metrics}\"]}}]}}\n  \
             - {{job_name: sloth-agent, static_configs: [{{targets: [\"{agent}\"]}}]}}\n"
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
        Self { address, _running: Running::start(command, Stdio::null()) }
    }

    /// What an address of its API answers, once it does.
    fn asked(&self, path: &str) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// The first series that a query finds, if it has a value. A query that is not understood is a failure.
    fn query(&self, query: &str) -> Option<serde_json::Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        // No answer is not the answer that there is nothing.
        let document = until("Prometheus answers", || self.asked(&format!("/api/v1/query?query={encoded}")));
        assert_eq!(document["status"], "success", "{query}: {document}");
        let found = document["data"]["result"].as_array().expect("a list of series");
        found.iter().find(|series| series["value"][1] != "NaN").cloned()
    }

    fn firing(&self, alert: &str) -> Option<serde_json::Value> {
        self.query(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}"))
    }
}

/// Every query of the dashboard, for whatever master there is.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(shipped().join("grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().replace("$master", ".+")).collect();
    assert!(queries.len() > 20 && queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    queries
}

#[test]
fn the_dashboard_has_what_grafana_wants_of_one() {
    let text = fs::read_to_string(shipped().join("grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, is_it) in [
        ("title", dashboard["title"].is_string()),
        ("uid", dashboard["uid"].as_str().is_some_and(|uid| uid.len() <= 40)),
        ("schemaVersion", dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36)),
        ("time", dashboard["time"]["from"].is_string() && dashboard["time"]["to"].is_string()),
        ("templating", dashboard["templating"]["list"].is_array()),
        ("annotations", dashboard["annotations"]["list"].is_array()),
        ("no id", dashboard["id"].is_null()),
    ] {
        assert!(is_it, "{key}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["name"] == "datasource" && variable["type"] == "datasource"));
    let mut ids = std::collections::BTreeSet::new();
    let mut places: Vec<[u64; 4]> = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id twice: {panel}");
        assert!(panel["title"].is_string() && panel["fieldConfig"]["defaults"].is_object(), "{panel}");
        assert!(["stat", "table", "timeseries"].contains(&panel["type"].as_str().unwrap()), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "beside the grid: {panel}");
        let apart = |[x2, y2, w2, h2]: &[u64; 4]| x + w <= *x2 || x2 + w2 <= x || y + h <= *y2 || y2 + h2 <= y;
        assert!(places.iter().all(apart), "over another: {panel}");
        places.push([x, y, w, h]);
        let mut names = std::collections::BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert!(names.insert(target["refId"].as_str().unwrap()), "a query's name twice: {panel}");
            for of in [panel, target] {
                let source = &of["datasource"];
                assert_eq!((&source["type"], &source["uid"]), (&"prometheus".into(), &"${datasource}".into()));
            }
        }
    }
}

#[test]
fn a_real_prometheus_scrapes_both_alerts_fire_and_every_query_of_the_dashboard_has_an_answer() {
    if !has_prometheus() {
        return;
    }
    let mut master = Master::with(&["http.listen=\"127.0.0.1:0\""]);
    let metrics = metrics_of(&master);
    let mut agent = master.agent("lady");
    let scraped = Agent::start(
        master.folder.path(),
        "keite",
        &master.address.to_string(),
        &["--set", "http.listen=\"127.0.0.1:0\""],
    );
    let line = scraped.line("Health and metrics at http://");
    let of_agent = line.rsplit_once("http://").unwrap().1.trim_end_matches('/').to_owned();
    master.until_status("keite", "Active");
    let prometheus = Prometheus::start(&master, &metrics.to_string(), &of_agent);
    let active = "sloth_master_agents{status=\"active\"} == 2";
    until("Prometheus has scraped the master", || prometheus.query(active));
    until("and the agent", || prometheus.query("sloth_agent_connected{job=\"sloth-agent\"} == 1"));
    let rules = prometheus.asked("/api/v1/rules").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    for name in ["SlothAgentDisconnected", "SlothSpoolGrowing", "SlothCertificateEnding"] {
        assert!(rules.iter().any(|rule| rule["name"] == name && rule["health"] != "err"), "{name}: {rules:?}");
    }

    // What a dashboard shows: commands, a registration that is refused, one that is lost.
    master.tool(&["agent", "run", "lady", "--", "true"]).expect(0);
    let elsewhere = tempfile::tempdir().unwrap();
    let namesake = Agent::start(elsewhere.path(), "lady", &master.address.to_string(), &[]);
    namesake.line("Cannot connect to master");
    drop(namesake);
    assert!(prometheus.firing("SlothAgentGone").is_none());
    agent.running.kill();
    let alert = until("the alert fires", || prometheus.firing("SlothAgentGone"));
    assert_eq!(alert["metric"]["agent"], "lady", "{alert}");
    for query in dashboard_queries() {
        until(&format!("{query} has an answer"), || prometheus.query(&query));
    }
    agent.again();
    until("the alert is over", || prometheus.firing("SlothAgentGone").is_none().then_some(()));

    for served in [&metrics.to_string(), &of_agent] {
        is_well_written(served);
    }
    master.kill();
    let alert = until("the alert fires", || prometheus.firing("SlothAgentDisconnected"));
    assert_eq!(alert["metric"]["instance"], of_agent.as_str(), "{alert}");
}

/// What is served is what Prometheus's own tool finds well.
fn is_well_written(served: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    let mut promtool = Running::start(command, Stdio::piped());
    let mut stream = TcpStream::connect(served).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let text = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    crate::fleet::running::feed(promtool.input.take().unwrap(), text.into_bytes());
    let done = promtool.done();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{served}: {}", done.text());
}
