use super::*;
use crate::{config::Secret, token::Token};
use std::fs;

fn loaded(settings: &[&str]) -> Loaded {
    let sources = Sources { assignments: settings.iter().map(ToString::to_string).collect(), ..Sources::default() };
    load(&sources, &Surroundings { host_name: "n".into(), ..Surroundings::default() }).unwrap()
}

fn reload(of: &Loaded) -> Reload {
    Reload::new(Given::new(Sources::default(), Surroundings::default(), None), of.shown.clone())
}

fn said(changes: &[Change]) -> Vec<String> {
    let text = |line| match line {
        Line::Log(level, text) => format!("{level} {text}"),
        Line::Console(text) => text,
    };
    told(changes).into_iter().map(text).collect()
}

#[test]
fn changes_are_named_with_both_values_and_when_they_count() {
    let old = loaded(&["heartbeat.interval=5s", "labels.a=1", "log.level=debug"]);
    let new = loaded(&["heartbeat.interval=7s", "labels.a=1", "listen.port=5"]);
    let mut reload = reload(&old);
    let expected = [
        "INFO config: heartbeat.interval changed from 5s to 7s",
        "WARN config: listen.port changed from the default to 5: needs a restart",
        "INFO config: log.level changed from debug to the default",
    ];
    assert_eq!(said(&reload.replace(&old.config, &new)), expected);
    let merged = merged(&old.config, new.config.clone());
    assert_eq!((merged.listen.port, &merged.heartbeat), (None, &new.config.heartbeat));
    // What waits is named again, what was taken over is not.
    assert_eq!(said(&reload.replace(&merged, &new)), expected[1..2]);
    let back = loaded(&["heartbeat.interval=7s", "labels.a=1"]);
    assert_eq!(said(&reload.replace(&merged, &back)), ["INFO config: read again, nothing has changed"]);
}

#[test]
fn secrets_are_masked_and_a_new_one_is_told_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let with = |text: u8| {
        use std::os::unix::fs::PermissionsExt;
        fs::write(&path, Token::new([7; 32], [text; 32]).text()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        loaded(&[&format!("auth.token_file={:?}", path.to_str().unwrap())])
    };
    let (none, one, other) = (loaded(&[]), with(1), with(2));
    let mut reload = reload(&none);
    let expected = format!("INFO config: auth.token_file changed from the default to {}", path.display());
    assert_eq!(said(&reload.replace(&none.config, &one)), [expected]);
    assert_eq!(said(&reload.replace(&one.config, &other)), ["INFO config: the token changed"]);
}

#[test]
fn every_setting_that_waits_is_kept_as_it_was() {
    let old = loaded(&[]);
    let new = loaded(&[
        "name=b",
        "state_dir=/s",
        "listen.port=5",
        "listen.bind_address=127.0.0.1",
        "log.file=/l",
        "log.timestamps=false",
        "commands.output_limit=1MiB",
        "commands.when_full=drop",
        "commands.spool_limit=2MiB",
        "commands.spool=memory",
    ]);
    let changes = changes(&old.shown, &new.shown, waits);
    assert_eq!(changes.iter().filter(|change| change.waits).count(), AT_START.len(), "{changes:?}");
    assert_eq!(merged(&old.config, new.config), old.config);
}

#[test]
fn every_other_setting_is_taken_over() {
    let new = loaded(&[
        "masters=[\"a\"]",
        "labels.a=1",
        "listen.report_address=h",
        "connection.timeout=1s",
        "heartbeat.interval=2s",
        "heartbeat.timeout=1s",
        "heartbeat.max_failures=9",
        "heartbeat.max_interval=9s",
        "reconnect.initial_delay=1s",
        "reconnect.max_delay=2s",
        "reconnect.multiplier=3.0",
        "reconnect.jitter=0.1",
        "reconnect.reset_after=1s",
        "reconnect.on_network_change=false",
        "circuit_breaker.max_failures=2",
        "circuit_breaker.open_for=1s",
        "commands.enabled=false",
        "commands.max_running=3",
        "commands.shell=/bin/x",
        "commands.kill_grace=1s",
        "commands.timeout=1s",
        "commands.users=[\"u\"]",
        "commands.allow=[\"p\"]",
        "commands.remember=1d",
        "shutdown.grace=1s",
        "log.level=debug",
        "log.max_size=2MiB",
        "log.max_files=9",
        "http.listen=127.0.0.1:1",
    ]);
    assert!(new.shown.iter().all(|shown| !waits(&shown.key)));
    assert_eq!(merged(&loaded(&[]).config, new.config.clone()), new.config);
}

#[test]
fn a_session_is_kept_unless_it_rests_on_what_changed() {
    let old = loaded(&["masters=[\"a\", \"b\"]"]).config;
    let renewed = |settings: &[&str]| needs_a_new_session(&old, &loaded(settings).config, "a:50050");
    for kept in ["reconnect.max_delay=9m", "connection.timeout=1s", "commands.max_running=3", "log.level=debug"] {
        assert!(!renewed(&["masters=[\"a\", \"b\"]", kept]), "{kept}");
    }
    assert!(!renewed(&["masters=[\"c\", \"a\"]"]), "its master is still one of them");
    assert!(renewed(&["masters=[\"b\", \"c\"]"]), "its master is none any more");
    for told in ["heartbeat.interval=4s", "heartbeat.max_failures=4", "labels.a=1", "listen.report_address=h"] {
        assert!(renewed(&["master=a", told]), "{told}");
    }
    let with = |text: &str| Config { token: Some(Secret(text.to_owned())), ..old.clone() };
    assert!(
        needs_a_new_session(&old, &with("one"), "a:50050") && needs_a_new_session(&with("one"), &with("b"), "a:50050")
    );
    assert!(
        !needs_a_new_session(&with("one"), &old, "a:50050") && !needs_a_new_session(&with("b"), &with("b"), "a:50050")
    );
}

#[test]
fn a_file_that_was_read_must_be_there_and_one_that_was_not_may_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let surroundings = Surroundings { files: vec![path.clone()], host_name: "n".into(), ..Surroundings::default() };
    let given = Given::new(Sources::default(), surroundings, None);
    let before = given.load().unwrap();
    assert_eq!(before.file, None);
    fs::write(&path, "heartbeat.interval = '2s'\n").unwrap();
    let read = given.load().unwrap();
    assert_eq!(read.config.heartbeat.interval.as_secs(), 2);
    let mut reload = Reload::new(given, before.shown);
    reload.replace(&before.config, &read);
    fs::remove_file(&path).unwrap();
    let gone = reload.given.load().unwrap_err().to_string();
    assert!(gone.starts_with(&format!("cannot read the configuration file {}: ", path.display())), "{gone}");
}

#[test]
fn paths_mean_what_they_meant_at_the_start_wherever_the_process_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    fs::write(&path, "log.file = 'logs/agent.log'\n").unwrap();
    let mut given = Given::new(Sources::default(), Surroundings::default(), Some(&path));
    assert_eq!(given.surroundings.directory, std::env::current_dir().ok());
    given.surroundings.directory = Some(folder.path().into());
    assert_eq!(given.load().unwrap().config.log.file, Some(folder.path().join("logs/agent.log")));
    assert!(
        Given::new(Sources::default(), Surroundings::default(), Some(Path::new("a")))
            .sources
            .file
            .unwrap()
            .is_absolute()
    );
}

#[tokio::test]
async fn a_request_while_one_is_under_way_reads_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    fs::write(&path, "heartbeat.interval = '2s'\n").unwrap();
    let given = Given::new(Sources::default(), Surroundings::default(), Some(&path));
    let mut reload = Reload::new(given, Vec::new());
    for _ in 0..3 {
        reload.begin();
    }
    assert_eq!(reload.done().await.unwrap().config.heartbeat.interval.as_secs(), 2);
    fs::write(&path, "heartbeat.interval = 2\nname = ''\n").unwrap();
    reload.begin();
    reload.done().await.ok();
    let problems = reload.done().await.unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with(&format!("{}:1: heartbeat.interval is 2", path.display())), "{problems:?}");
    assert!(reload.reading.is_none());
}
