use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{reader::Layers, *};
use crate::token::Token;

fn surroundings() -> Surroundings {
    Surroundings { host_name: "node1".into(), root: true, ..Surroundings::default() }
}

fn sets(assignments: &[&str]) -> Sources {
    Sources { assignments: assignments.iter().map(|text| text.to_string()).collect(), ..Sources::default() }
}

/// Loads a text as if it were the file `agent.toml`.
fn load_text(text: &str) -> Result<Config, Vec<String>> {
    let mut layers = Layers::default();
    layers.add_text("agent.toml", text);
    let mut reader = layers.reader();
    let config = settings::read(&mut reader, &surroundings());
    match reader.finish() {
        Ok(_) => Ok(config),
        Err(problems) => Err(problems.to_string().lines().map(str::to_string).collect()),
    }
}

fn problems(text: &str) -> Vec<String> {
    load_text(text).expect_err("the text is wrong")
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Turns lines that begin with `marker` and hold a setting into settings.
fn uncomment(text: &str, marker: &str) -> (String, usize) {
    let mut count = 0;
    let lines = text.lines().map(|line| match line.strip_prefix(marker) {
        Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => {
            count += 1;
            rest
        }
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    (text, count)
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn nothing_set_gives_the_documented_defaults() {
    let config = load_text("").unwrap();
    assert_eq!(config.name, "node1");
    assert_eq!(config.masters[0].to_string(), "localhost:50050");
    assert_eq!(config.state_dir, Path::new("/var/lib/sloth-runner/node1"));
    assert_eq!(config.connection_timeout, Duration::from_secs(10));
    assert_eq!(config.heartbeat.interval, Duration::from_secs(5));
    assert_eq!(config.heartbeat.timeout, Duration::from_secs(5));
    assert_eq!(config.heartbeat.max_failures, 3);
    assert_eq!(config.heartbeat.max_interval, Duration::from_secs(60));
    assert_eq!(config.reconnect.max_delay, Duration::from_secs(60));
    assert_eq!(config.reconnect.multiplier, 2.0);
    assert_eq!(config.circuit_breaker.open_for, Duration::from_secs(300));
    assert_eq!(config.commands.remember, Duration::from_secs(7 * 86_400));
    assert_eq!(config.log.max_size, 1 << 20);
    assert_eq!((config.tls, config.token, config.http_listen), (None, None, None));
}

#[test]
fn defaults_that_depend_on_others_follow_them() {
    let quick = load_text("heartbeat.interval = '1s'").unwrap().heartbeat;
    assert_eq!((quick.timeout, quick.max_interval), (Duration::from_secs(1), Duration::from_secs(60)));
    let slow = load_text("heartbeat.interval = '5m'").unwrap().heartbeat;
    assert_eq!((slow.timeout, slow.max_interval), (Duration::from_secs(5), Duration::from_secs(300)));
}

#[test]
fn the_state_directory_of_a_user_is_under_the_users_home() {
    let of = |home: Option<&str>, state_home: Option<&str>| {
        let surroundings = Surroundings {
            host_name: "n".into(),
            uid: 1000,
            home: home.map(PathBuf::from),
            state_home: state_home.map(PathBuf::from),
            ..Surroundings::default()
        };
        load(&Sources::default(), &surroundings).unwrap().config.state_dir
    };
    assert_eq!(of(Some("/home/u"), None), Path::new("/home/u/.local/state/sloth-runner/n"));
    assert_eq!(of(Some("/home/u"), Some("/state")), Path::new("/state/sloth-runner/n"));
    assert_eq!(of(None, None), Path::new("/tmp/sloth-runner-1000/state/n"));
}

#[test]
fn an_agent_is_found_in_spite_of_what_else_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let of = |text: &str, flags: &[(&'static str, &'static str, &str)], name: Option<&str>| {
        std::fs::write(&file, text).unwrap();
        let flags = flags.iter().map(|(flag, key, value)| (*flag, *key, value.to_string())).collect();
        let sources = Sources { file: Some(file.clone()), flags, ..Sources::default() };
        let surroundings = Surroundings { state_home: Some("/state".into()), ..Surroundings::default() };
        whereabouts(&sources, &surroundings, name).map(|found| (found.state_dir, found.unread))
    };
    let at = |path: &str, unread| Some((PathBuf::from(path), unread));
    assert_eq!(of("nmae = 'x'\nstate_dir = '/s'", &[], Some("n")), at("/s", false));
    assert_eq!(of("nmae = 'x'", &[], Some("n")), at("/state/sloth-runner/n", false));
    assert_eq!(of("nmae =", &[], Some("n")), at("/state/sloth-runner/n", true));
    assert_eq!(of("nmae =", &[("--state-dir", "state_dir", "/s")], None), at("/s", false));
    assert_eq!(of("nmae =", &[], None), None);
    assert_eq!(of("prot = 1\nstate_dir = '/s'", &[], None), at("/s", false));
    assert_eq!(of("prot = 1\nname = 'n'", &[], None), at("/state/sloth-runner/n", false));
    assert_eq!(of("prot = 1\nname = '../n'", &[], None), None);
}

#[test]
fn the_shipped_file_shows_every_default_as_it_is() {
    let (text, count) = uncomment(&shipped("agent.toml"), "#");
    assert!(count >= 30, "only {count} settings found");
    assert_eq!(load_text(&text).unwrap(), load_text("").unwrap());
    assert_eq!(load_text(&shipped("agent.toml")).unwrap(), load_text("").unwrap());
}

#[test]
fn the_shipped_file_names_every_key_there_is_and_no_other() {
    let (text, _) = uncomment(&shipped("agent.toml"), "#");
    let (text, examples) = uncomment(&text, "# ");
    assert!(examples >= 10, "only {examples} examples found");
    // These two can't hold beside the rest: TLS is both off and on, and the token is not there.
    let text = text.replace("enabled = false\nca_file", "ca_file").replace("enabled = false\n#", "#");
    let text = text.replace("token_file = \"/etc/sloth-runner/token\"", "");
    let mut layers = Layers::default();
    layers.add_text("agent.toml", &text);
    let mut reader = layers.reader();
    settings::read(&mut reader, &surroundings());
    let known: Vec<_> = reader.known().collect();
    let shown = reader.finish().unwrap();
    let missing: Vec<_> = known.iter().filter(|key| !shown.iter().any(|shown| shown.key == **key)).collect();
    assert_eq!(missing, [&"auth.token_file", &"master", &"tls.enabled"]);
}

#[test]
fn the_other_shipped_files_load() {
    let config = load_text(&shipped("agent-minimal.toml")).unwrap();
    assert_eq!((config.name.as_str(), config.masters[0].port), ("node1", 50050));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/agent-tls.toml");
    let sources = Sources { file: Some(path), ..Sources::default() };
    let refused = load(&sources, &surroundings()).unwrap_err().to_string();
    // Nothing is wrong with it but that this machine does not have the files.
    let problems: Vec<_> = refused.lines().collect();
    assert_eq!(problems.len(), 3, "{refused}");
    let text = "tls.ca_file is /etc/sloth-runner/ca.pem, which cannot be read: no such file or directory: mend that, or name another";
    assert!(problems[0].ends_with(text), "{refused}");
    assert!(problems[1].contains("tls.cert_file is /etc/sloth-runner/"), "{refused}");
    assert!(problems[2].contains("tls.key_file is /etc/sloth-runner/"), "{refused}");
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_lines() {
    let text = "name = 'my agent'\n\
                master = 'localhost:99999'\n\
                [heartbeat]\n\
                interval = '5s'\n\
                timeout = '8s'\n\
                intervall = '5s'\n\
                [reconnect]\n\
                initial_delay = '5s'\n\
                max_delay = '2s'\n\
                jitter = 1.5\n";
    assert_eq!(
        problems(text),
        [
            "agent.toml:1: name is \"my agent\", with a space in it: use 1 to 63 letters, digits, '.', '_' and '-', \
             beginning with a letter or digit",
            "agent.toml:2: master is localhost:99999, with \"99999\", which is not a port: use 1 to 65535",
            "agent.toml:5: heartbeat.timeout is 8s, above heartbeat.interval (5s): lower it, or raise interval",
            "agent.toml:6: heartbeat.intervall is not known: did you mean heartbeat.interval?",
            "agent.toml:9: reconnect.max_delay is 2s, below reconnect.initial_delay (5s): raise it, or lower \
             initial_delay",
            "agent.toml:10: reconnect.jitter is 1.5, above 1.0: use 0.0 to 1.0",
        ]
    );
}

/// A line of a file, and what is said of it.
const BAD_VALUES: &[(&str, &str)] = &[
    ("heartbeat.interval = '0s'", "heartbeat.interval is 0s, below 100ms: use 100ms to 1h"),
    ("heartbeat.interval = '-5s'", "heartbeat.interval is -5s, negative: write it without the sign"),
    ("heartbeat.interval = '10000d'", "heartbeat.interval is 10000d, above 1h: use 100ms to 1h"),
    ("heartbeat.interval = 5", "heartbeat.interval is 5, a number without a unit: write \"5s\" for seconds"),
    (
        "heartbeat.interval = true",
        "heartbeat.interval is true, a boolean, not a duration: write it like \"5s\", \"1m30s\" or \"250ms\"",
    ),
    ("heartbeat = '5s'", "heartbeat is 5s, but heartbeat is a section: set its keys, such as heartbeat.interval"),
    ("labels = 'x'", "labels is x, but labels is a section: set its keys, such as labels.name"),
    ("name.x = 1", "name.x is not known: name is a single value, not a section; write name = …"),
    ("[name]", "name is not known: name is a single value, not a section; write name = …"),
    ("[hartbeat]", "hartbeat is not known: did you mean heartbeat?"),
    ("[wholly.other]", "wholly.other is no section that is known: remove it"),
    ("max_files = 3", "max_files is not known: did you mean log.max_files?"),
    (
        "max_failures = 3",
        "max_failures is not known: did you mean circuit_breaker.max_failures or \
          heartbeat.max_failures?",
    ),
    ("zzzzzz = 1", "zzzzzz is not known: remove it"),
    ("heartbeat.max_failures = 0", "heartbeat.max_failures is 0, below 1: use 1 to 100"),
    ("heartbeat.max_failures = '3'", "heartbeat.max_failures is 3, a string, not a whole number: use 1 to 100"),
    ("heartbeat.max_failures = 2.5", "heartbeat.max_failures is 2.5, a number, not a whole number: use 1 to 100"),
    (
        "heartbeat.max_interval = '2s'",
        "heartbeat.max_interval is 2s, below heartbeat.interval (5s): raise it, or lower interval",
    ),
    ("reconnect.multiplier = 0.5", "reconnect.multiplier is 0.5, below 1.0: use 1.0 to 100.0"),
    ("reconnect.multiplier = 1e3", "reconnect.multiplier is 1e3, above 100.0: use 1.0 to 100.0"),
    ("reconnect.multiplier = nan", "reconnect.multiplier is nan, not a number: use 1.0 to 100.0"),
    ("reconnect.multiplier = inf", "reconnect.multiplier is inf, above 100.0: use 1.0 to 100.0"),
    ("reconnect.jitter = -0.1", "reconnect.jitter is -0.1, below 0.0: use 0.0 to 1.0"),
    (
        "reconnect.initial_delay = '2m'",
        "reconnect.initial_delay is 2m, above reconnect.max_delay (1m): lower it, or raise max_delay",
    ),
    (
        "reconnect.on_network_change = 'yes'",
        "reconnect.on_network_change is yes, a string, not true or false: use one of them, without quotes",
    ),
    ("masters = []", "masters is empty: name at least one, like [\"localhost:50050\"]"),
    ("masters = 'a'", "masters is a, a string, not a list of strings: write it like [\"one\", \"two\"]"),
    ("masters = ['a', 5]", "masters holds a number: put it in quotes"),
    ("masters = ['a', 'A:50050']", "masters names A:50050 more than once: leave one out"),
    ("masters = ['a b']", "masters holds \"a b\", with ' ' in the host name: use letters, digits, '.', '-' and '_'"),
    ("listen.port = 0", "listen.port is 0, below 1: use 1 to 65535"),
    ("listen.port = 70000", "listen.port is 70000, above 65535: use 1 to 65535"),
    (
        "listen.bind_address = 'eth0'",
        "listen.bind_address is eth0, not an IP address: write it like 0.0.0.0, \
          192.168.1.16 or ::",
    ),
    (
        "log.level = 'loud'",
        "log.level is loud, not a word for it: use \"off\", \"error\", \"warn\", \"info\", \
          \"debug\" or \"trace\"",
    ),
    ("log.max_size = '1kb'", "log.max_size is 1kb, in a unit that is not known: write \"1KiB\""),
    ("log.max_size = 10", "log.max_size is 10, below 4KiB: use 4KiB to 1TiB"),
    ("log.file = ''", "log.file is \"\", empty: give a path, or leave the key out"),
    ("commands.shell = 'sh'", "commands.shell is sh, not an absolute path: write it like /bin/sh"),
    (
        "commands.allow = ['/opt/*', 'deploy-*']",
        "commands.allow holds \"deploy-*\", no absolute path, or one with ..: write it like /opt/site/deploy or \
          /opt/site/*",
    ),
    (
        "commands.allow = ['bin/tool']",
        "commands.allow holds \"bin/tool\", no absolute path, or one with ..: write it like /opt/site/deploy or \
          /opt/site/*",
    ),
    (
        "commands.spool_limit = '1MiB'",
        "commands.spool_limit is 1MiB, below commands.output_limit (16MiB): raise it, or lower output_limit",
    ),
    (
        "http.listen = 'localhost'",
        "http.listen is localhost, not an IP address with a port: write it like \
          127.0.0.1:9100 or [::1]:9100",
    ),
    (
        "labels.\"a b\" = 'x'",
        "labels.a b is x, under a key that is not allowed: use 1 to 63 letters, digits, '.', \
          '_', '-' and '/'",
    ),
    ("labels.rack = 4", "labels.rack is 4, a number, not a string: put it in quotes"),
    (
        "auth.token = 'abc'",
        "auth.token is a secret and must not stand here: write it to a file of mode 0600 and \
          name that in auth.token_file",
    ),
    ("tls.enabled = false\ntls.ca_file = '/a'", "tls.enabled is false, but tls.ca_file is given: remove one of them"),
    ("name = 2024-01-01", "name is 2024-01-01, a date, not a string: put it in quotes"),
    (
        "name = ''",
        "name is \"\", empty: use 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or \
          digit",
    ),
    (
        "name = \"a\\nb\"",
        "name is \"a\\nb\", with a line break in it: use 1 to 63 letters, digits, '.', '_' and \
          '-', beginning with a letter or digit",
    ),
];

#[test]
fn each_bad_value_has_a_sentence_of_its_own() {
    for (text, sentence) in BAD_VALUES {
        assert_eq!(problems(text), [format!("agent.toml:1: {sentence}")], "{text}");
    }
    let long = problems(&format!("name = '{}'", "n".repeat(300)));
    assert_eq!(
        long,
        [format!(
            "agent.toml:1: name is {}… (300 characters), too long: use 1 to 63 letters, digits, '.', '_' and '-', \
             beginning with a letter or digit",
            "n".repeat(30)
        )]
    );
}

#[test]
fn one_wrong_value_does_not_make_its_neighbours_wrong() {
    // Judged against the default, the timeout would be too long.
    assert_eq!(problems("heartbeat.interval = 'x'\nheartbeat.timeout = '8s'").len(), 1);
}

#[test]
fn master_and_masters_together_are_refused_in_one_layer_and_overridden_between_layers() {
    assert_eq!(
        problems("master = 'a'\nmasters = ['b']"),
        ["agent.toml:1: master and masters are both given (masters at agent.toml:2): leave one out"]
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "masters = ['of-file:1', 'other:2']\n").unwrap();
    let mut sources = Sources { file: Some(file), ..Sources::default() };
    let masters = |sources: &Sources, surroundings: &Surroundings| {
        let masters = load(sources, surroundings).unwrap().config.masters;
        masters.iter().map(|master| master.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(masters(&sources, &surroundings()), "of-file:1 other:2");
    let with_variable = Surroundings { master: Some("[::1]:3".into()), ..surroundings() };
    assert_eq!(masters(&sources, &with_variable), "[::1]:3");
    sources.masters = vec!["flag:4".into(), "flag:5".into()];
    assert_eq!(masters(&sources, &with_variable), "flag:4 flag:5");
}

#[test]
fn flags_stand_above_the_file_and_set_above_flags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "heartbeat.interval = '2s'\nheartbeat.max_failures = 9\nlabels = { site = 'a', rack = '1' }")
        .unwrap();
    let sources = Sources {
        file: Some(file.clone()),
        flags: vec![
            ("--heartbeat-interval", "heartbeat.interval", "3s".into()),
            ("--max-failures", "heartbeat.max_failures", "4".into()),
        ],
        labels: vec!["site=b=c".into()],
        ..sets(&["heartbeat.interval=4s", "log={level=\"debug\", max_files = 7}", "reconnect.jitter=0"])
    };
    let loaded = load(&sources, &surroundings()).unwrap();
    let config = loaded.config;
    assert_eq!(config.heartbeat.interval, Duration::from_secs(4));
    assert_eq!(config.heartbeat.max_failures, 4);
    assert_eq!((config.log.level, config.log.max_files), (log::LevelFilter::Debug, 7));
    assert_eq!(config.reconnect.jitter, 0.0);
    assert_eq!(config.labels, [("rack", "1"), ("site", "b=c")].map(|(k, v)| (k.to_string(), v.to_string())).into());
    let shown: Vec<_> =
        loaded.shown.iter().map(|shown| format!("{} = {} ({})", shown.key, shown.value, shown.origin)).collect();
    assert_eq!(shown[0], "heartbeat.interval = 4s (--set heartbeat.interval)");
    assert_eq!(shown[1], "heartbeat.max_failures = 4 (--max-failures)");
    assert_eq!(shown[2], format!("labels.rack = 1 ({}:3)", file.display()));
}

#[test]
fn set_takes_toml_and_else_a_string() {
    let config = load(&sets(&["name=node-7", "log.timestamps=false", "masters=[\"a\", \"b\"]"]), &surroundings())
        .unwrap()
        .config;
    assert_eq!((config.name.as_str(), config.log.timestamps, config.masters.len()), ("node-7", false, 2));
    // Bare numbers are names as well.
    assert_eq!(load(&sets(&["name=42"]), &surroundings()).unwrap().config.name, "42");
    for (assignment, sentence) in [
        ("name", "--set: \"name\" has no '=': write it like --set heartbeat.interval=5s"),
        ("=5s", "--set: \"=5s\" has no key before the '=': write it like --set heartbeat.interval=5s"),
        (
            "heartbeat..x=1",
            "--set: \"heartbeat..x=1\" has no key before the '=': write it like --set \
          heartbeat.interval=5s",
        ),
        (
            "heartbeat.interval=5",
            "--set heartbeat.interval: heartbeat.interval is 5, a number without a unit: write \
          \"5s\" for seconds",
        ),
        (
            "heartbeat.intervl=5s",
            "--set heartbeat.intervl: heartbeat.intervl is not known: did you mean \
          heartbeat.interval?",
        ),
        (
            "auth.token=x",
            "--set auth.token: auth.token is a secret and must not stand here: write it to a file of \
          mode 0600 and name that in auth.token_file",
        ),
    ] {
        assert_eq!(load(&sets(&[assignment]), &surroundings()).unwrap_err().to_string(), sentence);
    }
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let message = |path: &Path| {
        // The limit below is wrong only as long as the file is not read: it must not be said.
        let sources = Sources { file: Some(path.into()), ..sets(&["reconnect.max_delay=2s"]) };
        load(&sources, &surroundings()).unwrap_err().to_string()
    };
    let shown = path.display();
    let start = format!("cannot read the configuration file {shown}: ");
    assert_eq!(message(&path), format!("{start}no such file or directory: check the path"));
    fs::write(&path, b"name = 'a'\n# \xff\n").unwrap();
    assert_eq!(message(&path), format!("{start}it is not UTF-8 (line 2): save it as UTF-8"));
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(message(&path), format!("{start}it is larger than 1048576 bytes: is it the right file?"));
    fs::write(&path, "name = 'a'\nmasters = [\n\nlog.level 'info'\n").unwrap();
    assert!(message(&path).starts_with(&format!("{shown}:4: is not TOML: ")), "{}", message(&path));
    fs::write(&path, "name = 'a'\nname = 'b'\n").unwrap();
    let twice = |line, key| {
        format!("{shown}:{line}: is not TOML: duplicate key {key}: it stands above already, remove one of them")
    };
    assert_eq!(message(&path), twice(2, "name"));
    fs::write(&path, "[log]\nlevel = 'info'\n[tls]\n[log]\n").unwrap();
    assert_eq!(message(&path), twice(4, "log"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(message(&path), format!("{start}it is a directory: name the file in it"));
}

#[test]
fn the_first_file_that_is_there_counts_even_if_it_is_bad() {
    let folder = tempfile::tempdir().unwrap();
    let (near, far) = (folder.path().join("near.toml"), folder.path().join("far.toml"));
    let surroundings = Surroundings { files: vec![near.clone(), far.clone()], ..surroundings() };
    assert_eq!(load(&Sources::default(), &surroundings).unwrap().file, None);
    fs::write(&far, "name = 'far'").unwrap();
    assert_eq!(load(&Sources::default(), &surroundings).unwrap().config.name, "far");
    fs::create_dir(&near).unwrap();
    assert!(load(&Sources::default(), &surroundings).is_err());
}

#[test]
fn tokens_come_from_private_files_variables_and_flags_and_never_show() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let sources = sets(&[&format!("auth.token_file={}", path.display())]);
    let message = || load(&sources, &surroundings()).unwrap_err().to_string();
    let start = format!("--set auth.token_file: auth.token_file is {}, ", path.display());
    assert_eq!(message(), format!("{start}which cannot be read (no such file or directory): check it"));
    let [of_file, of_variable, of_flag] = [1, 2, 3].map(|n| Token::new([7; 32], [n; 32]).text());
    fs::write(&path, format!("{of_file}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(message(), format!("{start}which others can read (mode 0640): run chmod 600 {}", path.display()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(load(&sources, &surroundings()).unwrap().config.token, Some(Secret(of_file)));
    fs::write(&path, "\n").unwrap();
    assert!(message().starts_with(&format!("{start}whose token is empty")), "{}", message());
    fs::write(&path, "s3cret\n").unwrap();
    assert!(message().starts_with(&format!("{start}whose token is no token: one begins with")), "{}", message());

    let with_variable = Surroundings { token: Some(of_variable.clone().into()), ..surroundings() };
    let loaded = load(&Sources::default(), &with_variable).unwrap();
    assert_eq!(loaded.config.token, Some(Secret(of_variable.clone())));
    assert!(!format!("{loaded:?}").contains(&of_variable));
    let flag = Sources { flags: vec![("--token", "auth.token", of_flag.clone())], ..Sources::default() };
    assert_eq!(load(&flag, &with_variable).unwrap().config.token, Some(Secret(of_flag)));
    let bad = Surroundings { token: Some("two words".into()), ..surroundings() };
    assert_eq!(
        load(&Sources::default(), &bad).unwrap_err().to_string(),
        "SLOTH_RUNNER_TOKEN: auth.token holds spaces or characters that no token has: copy it again"
    );
    let foreign = Sources { flags: vec![("--token", "auth.token", "zzz".into())], ..Sources::default() };
    assert_eq!(
        load(&foreign, &surroundings()).unwrap_err().to_string(),
        "--token: auth.token is no token: one begins with \"sloth1.\"; give what the master printed"
    );
}

#[test]
fn certificate_and_key_go_together() {
    let message = load(&sets(&["tls.cert_file=/c"]), &surroundings()).unwrap_err().to_string();
    assert_eq!(message, "--set tls.cert_file: tls.cert_file is given without tls.key_file: give both, or neither");
}
