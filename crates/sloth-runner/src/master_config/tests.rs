use super::*;
use std::os::unix::fs::PermissionsExt;
use std::{collections::BTreeSet, path::Path};

fn surroundings() -> Surroundings {
    Surroundings { root: true, ..Surroundings::default() }
}

fn load_text_with(text: &str, insecure: bool) -> Result<(MasterConfig, Vec<&'static str>), Vec<String>> {
    let mut layers = Layers::default();
    layers.add_text("master.toml", text);
    let mut reader = layers.reader();
    let read = read(&mut reader, &surroundings(), insecure);
    match reader.finish() {
        Ok(_) => Ok(read),
        Err(problems) => Err(problems.to_string().lines().map(str::to_owned).collect()),
    }
}

fn load_text(text: &str) -> Result<(MasterConfig, Vec<&'static str>), Vec<String>> {
    load_text_with(text, false)
}

fn shipped() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/master.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Turns lines that begin with `marker` and hold a setting into settings.
fn uncomment(text: &str, marker: &str) -> String {
    let key = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let setting = |rest: &&str| rest.split_once(" = ").is_some_and(|(name, _)| key(name));
    let lines = text.lines().map(|line| line.strip_prefix(marker).filter(setting).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_set_gives_the_documented_defaults() {
    let (config, idle) = load_text("").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:50050");
    assert_eq!(config.state_dir, Path::new("/var/lib/sloth-runner/master"));
    assert_eq!(config.store, Path::new("/var/lib/sloth-runner/master/sloth.db"));
    assert_eq!(config.http_listen.unwrap().to_string(), "127.0.0.1:50080");
    assert_eq!(config.heartbeats_per_second, 5_000);
    assert_eq!(config.registrations_per_second, 5_000);
    assert_eq!((config.connections.each, config.connections.unknown_each), (None, 1_024));
    assert_eq!(config.connections.unknown_timeout, Duration::from_secs(30));
    assert_eq!(config.connections.message_timeout, Duration::from_secs(60));
    assert_eq!(config.history.commands_keep, Duration::from_secs(30 * 24 * 3600));
    assert_eq!(config.history.commands_keep_max, 100_000);
    assert_eq!(config.history.events_keep, Duration::from_secs(30 * 24 * 3600));
    assert_eq!(config.output_keep, 1 << 30);
    assert_eq!(config.webhook, None);
    assert!(!config.http_asked);
    assert_eq!(config.history.sessions_keep, 200);
    assert!(idle.is_empty());
}

#[test]
fn the_shipped_file_shows_every_default_as_it_is() {
    let text = uncomment(&shipped(), "#");
    assert_ne!(text, shipped(), "it was found, and something in it is a comment");
    let shown = load_text(&text).unwrap().0;
    assert!(shown.http_asked, "it is set there");
    assert_eq!(MasterConfig { http_asked: false, ..shown }, load_text("").unwrap().0);
    assert_eq!(load_text(&shipped()).unwrap(), load_text("").unwrap());
}

#[test]
fn the_shipped_file_names_every_key_there_is_and_no_other() {
    let text = uncomment(&uncomment(&shipped(), "#"), "# ");
    let mut layers = Layers::default();
    layers.add_text("master.toml", &text);
    let mut reader = layers.reader();
    read(&mut reader, &surroundings(), false);
    let mut section = String::new();
    let mut named = BTreeSet::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            named.insert(format!("{section}{key}"));
        }
    }
    assert_eq!(named, reader.known().map(str::to_owned).collect());
    let problems = reader.finish().unwrap_err().to_string();
    let expected = |line: &str| {
        line.contains("tls.enabled is false, but tls.cert_file is given")
            || line.contains("webhook.secret, which cannot be read")
    };
    assert!(problems.lines().all(expected), "{problems}");
}

#[test]
fn everything_wrong_is_said_at_once_with_its_line_and_remedy() {
    let text = "listn = \"x\"\nlisten = \"myhost\"\n[commands]\nkeep = \"-1d\"\nkeep_max = 0\n[events.webhook]\nurl = \"ftp://x\"\n";
    assert_eq!(
        load_text(text).unwrap_err(),
        [
            "master.toml:1: listn is not known: did you mean listen?",
            "master.toml:2: listen is myhost, not an IP address with a port: write it like 127.0.0.1:50050 or \
             [::1]:50050",
            "master.toml:4: commands.keep is -1d, negative: write it without the sign",
            "master.toml:5: commands.keep_max is 0, below 1: use 1 to 100000000",
            "master.toml:7: events.webhook.url is ftp://x, not a URL: write it like https://example.com/hook",
        ]
    );
}

#[test]
fn what_is_missing_of_an_address_is_named() {
    for (listen, problem) in [
        ("localhost", "without a port: write it like localhost:50050"),
        ("127.0.0.1", "without a port: write it like 127.0.0.1:50050"),
        ("::1", "without a port: write it like [::1]:50050"),
        ("localhost:", "with \"\", which is not a port: use 1 to 65535"),
        ("127.0.0.1:99999", "with \"99999\", which is not a port: use 1 to 65535"),
        ("myhost:1", "not an IP address with a port: write it like 127.0.0.1:50050 or [::1]:50050"),
    ] {
        let problems = load_text(&format!("listen = \"{listen}\"")).unwrap_err();
        assert_eq!(problems, [format!("master.toml:1: listen is {listen}, {problem}")]);
    }
}

#[test]
fn other_hosts_reach_the_master_only_where_that_is_said_out_loud() {
    for listen in ["0.0.0.0:50050", "[::]:50050", "192.168.1.15:1", "[::ffff:10.0.0.1]:5"] {
        let text = format!("listen = \"{listen}\"");
        let problem = load_text(&text).unwrap_err().remove(0);
        assert!(problem.starts_with("master.toml:1: listen is ") && problem.contains("add --insecure"), "{problem}");
        load_text_with(&text, true).unwrap();
    }
    for listen in ["127.0.0.1:0", "127.8.0.1:5", "[::1]:50050", "localhost:50051", "[::ffff:127.0.0.1]:5"] {
        load_text(&format!("listen = \"{listen}\"")).unwrap();
    }
}

#[test]
fn tls_is_whole_or_refused() {
    for (text, problem) in [
        (
            "enabled = true",
            "master.toml:2: TLS is asked for without tls.cert_file: name it; `sloth-runner master init`",
        ),
        ("cert_file = \"/c\"", "master.toml:2: TLS is asked for without tls.key_file: name it"),
        (
            "cert_file = \"/c\"\nkey_file = \"/k\"\nca_key_file = \"/a\"",
            "master.toml:4: tls.ca_key_file is given without",
        ),
        ("enabled = false\ncert_file = \"/c\"", "master.toml:2: tls.enabled is false, but tls.cert_file is given"),
    ] {
        let problems = load_text(&format!("[tls]\n{text}")).unwrap_err();
        assert!(problems[0].starts_with(problem), "{problems:?}");
    }
    assert_eq!(load_text("[tls]\nenabled = false").unwrap().0.tls, None);
}

#[test]
fn with_tls_other_hosts_may_be_let_in() {
    let files = "[tls]\ncert_file = \"/c\"\nkey_file = \"/k\"\nagent_life = \"1h\"";
    let config = load_text(&format!("listen = \"0.0.0.0:1\"\n{files}")).unwrap().0;
    let tls = config.tls.expect("it is on");
    assert_eq!((tls.cert_file.to_str(), tls.agent_life), (Some("/c"), Duration::from_secs(3600)));
    let problems = load_text("listen = \"0.0.0.0:1\"").unwrap_err();
    assert!(
        problems[0].contains("there is no TLS: whoever reaches it could run commands on every agent"),
        "{problems:?}"
    );
}

#[test]
fn every_key_has_an_effect() {
    let text = "[http]\nlisten = \"\"\n[registrations]\nmax_per_second = 7\n[events]\nkeep = \"1d\"";
    let (config, idle) = load_text(text).unwrap();
    assert!(idle.is_empty());
    assert_eq!(config.http_listen, None);
    assert_eq!(config.registrations_per_second, 7);
}

#[test]
fn a_webhook_is_a_url_with_what_belongs_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let text = format!(
        "[events.webhook]\nurl = \"https://example.com/hook\"\nsecret_file = \"{}\"\nkinds = [\"agent.lost\"]",
        secret.display()
    );
    let mode = |mode| std::fs::set_permissions(&secret, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let problem = load_text(&text).unwrap_err().remove(0);
    assert!(problem.contains("others can read (mode 0644): run chmod 600"), "{problem}");
    mode(0o600);
    let webhook = load_text(&text).unwrap().0.webhook.unwrap();
    assert_eq!((webhook.secret.as_ref().unwrap().0.as_str(), webhook.kinds), ("s3cret", vec!["agent.lost".to_owned()]));
    let all = load_text("[events.webhook]\nurl = \"http://a\"").unwrap().0.webhook.unwrap();
    assert_eq!((all.kinds.len(), all.secret), (5, None));
    let text = format!("[events.webhook]\nsecret_file = \"{}\"\nca_file = \"/x\"", secret.display());
    let problems = load_text(&text).unwrap_err();
    assert!(
        problems.len() == 2 && problems.iter().all(|one| one.contains("without events.webhook.url")),
        "{problems:?}"
    );
    let problem = load_text("[events.webhook]\nurl = \"http://a\"\nkinds = [\"agent.los\"]").unwrap_err().remove(0);
    assert!(problem.contains("no kind of event: use agent.connected, "), "{problem}");
}

#[test]
fn metrics_are_for_this_host_unless_that_is_said_out_loud() {
    let text = "[http]\nlisten = \"0.0.0.0:50080\"";
    let problem = load_text(text).unwrap_err().remove(0);
    assert!(problem.starts_with("master.toml:2: http.listen is 0.0.0.0:50080, which other hosts"), "{problem}");
    let config = load_text_with(text, true).unwrap().0;
    assert!(config.http_asked && config.http_listen.is_some());
    load_text("[http]\nlisten = \"[::1]:0\"").unwrap();
}

#[test]
fn a_pace_at_which_nobody_comes_in_is_refused() {
    let text = "[heartbeat]\nmax_per_second = 0\n[registrations]\nmax_per_second = -1";
    let problems = load_text(text).unwrap_err();
    assert_eq!(problems[0], "master.toml:2: heartbeat.max_per_second is 0, below 1: use 1 to 1000000");
    assert!(problems[1].starts_with("master.toml:4: registrations.max_per_second is -1"), "{problems:?}");
}

#[test]
fn flags_override_the_file_and_assignments_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:1\"\nstate_dir = \"/a\"\nstore = \"/b/c.db\"").unwrap();
    let sources = Sources {
        file: Some(file.clone()),
        flags: vec![("--listen", "listen", "127.0.0.1:2".into()), ("--state-dir", "state_dir", "/d".into())],
        assignments: vec!["listen=127.0.0.1:3".into()],
        insecure: false,
    };
    let loaded = load(&sources, &surroundings()).unwrap();
    assert_eq!(loaded.config.listen.port(), 3);
    assert_eq!(loaded.config.state_dir, Path::new("/d"));
    assert_eq!(loaded.config.store, Path::new("/b/c.db"));
    assert_eq!(loaded.file, Some(file));
    let missing = Sources { file: Some("/nowhere/m.toml".into()), ..Sources::default() };
    let problems = load(&missing, &surroundings()).unwrap_err().to_string();
    assert!(problems.starts_with("cannot read the configuration file /nowhere/m.toml: "), "{problems}");
}

#[test]
fn more_that_have_shown_nothing_than_may_be_at_all_is_a_mistake() {
    let problems = load_text("[connections]\nmax_per_address = 10\nmax_unknown_per_address = 20\n").unwrap_err();
    assert_eq!(
        problems,
        ["master.toml:3: connections.max_unknown_per_address is 20, above connections.max_per_address (10), which \
             counts them, too: lower it, or raise the other"]
    );
    let (config, _) = load_text("[connections]\nmax_per_address = 10\n").unwrap();
    assert_eq!(config.connections.each, Some(10), "the default of the other gives way");
}
