//! The agent's binary and TLS: whom it trusts, what it shows, and what it says when that does not fit.

mod common;

use common::{
    Agent, PATIENCE,
    master::Master,
    tls::{self, Authority, Identity, VALID},
};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use tokio::{net::TcpListener, time::timeout};

fn set(key: &str, path: &Path) -> String {
    format!("tls.{key}={:?}", path.display().to_string())
}

/// An agent that reaches the master by address, so that its certificate's name is told it.
fn agent(master: &Master, settings: &[String]) -> Agent {
    let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    settings.push("tls.server_name=\"master.test\"");
    Agent::start(&master.address(), &settings)
}

#[tokio::test]
async fn registers_and_beats_over_tls() {
    let authority = Authority::new();
    let mut master = tls::master(&authority.issue("master.test", VALID), None).await;
    let mut agent = agent(&master, &[set("ca_file", &authority.file())]);
    let session = master.active(1).await;
    let serving = tokio::spawn(session.serve());
    agent.line("Agent registered with master at 127.0.0.1").await;
    agent.signal(libc::SIGTERM);
    timeout(PATIENCE, serving).await.expect("the agent leaves").expect("the session is served");
    assert_eq!(agent.exit().await, 0);
}

#[tokio::test]
async fn shows_its_own_certificate_to_a_master_that_wants_one() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let mut master = tls::master(&servers.issue("master.test", VALID), Some(&clients)).await;
    let own = clients.issue("lady", VALID);
    let files = [set("ca_file", &servers.file()), set("cert_file", &own.certificate), set("key_file", &own.key)];
    let mut first = agent(&master, &files);
    let _session = master.active(1).await;
    first.line("Agent registered").await;

    let mut without = agent(&master, &files[..1]);
    without.line("(attempt 1): the master wants a certificate of this agent: set tls.cert_file and tls.key_file").await;

    let stranger = servers.issue("lady", VALID);
    let files =
        [set("ca_file", &servers.file()), set("cert_file", &stranger.certificate), set("key_file", &stranger.key)];
    let mut other = agent(&master, &files);
    other.line("(attempt 1): the master refuses this agent's certificate (it is not signed by the master's CA)").await;
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_told_apart() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (identity, text) in [
        (stranger.issue("master.test", VALID), "the master's certificate is of an unknown CA: see tls.ca_file"),
        (
            authority.issue("other.test", VALID),
            "the master's certificate is for another name: master.test was looked for, it has other.test: see \
             tls.server_name",
        ),
        (
            authority.issue("master.test", (2020, 2021)),
            "the master's certificate has expired (at 2021-01-01T00:00:00Z; this machine's clock says 20",
        ),
        (
            authority.issue("master.test", (2089, 2090)),
            "the master's certificate is not valid yet (from 2089-01-01T00:00:00Z on; this machine's clock says 20",
        ),
    ] {
        let master = tls::master(&identity, None).await;
        let mut agent = agent(&master, &[set("ca_file", &authority.file())]);
        let line = agent.line("(attempt 1): ").await;
        assert!(line.contains(&format!("WARN  Cannot connect to master at {}", master.address())), "{line}");
        assert!(line.contains(text), "{line}");
        agent.line("(attempt 2): ").await;
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_master_in_the_clear() {
    let authority = Authority::new();
    let mut master = Master::start().await;
    let mut agent = agent(&master, &[set("ca_file", &authority.file())]);
    agent.line("(attempt 1): it does not answer in TLS: it speaks plain TCP").await;
    agent.line("(attempt 2): ").await;
    assert!(timeout(std::time::Duration::ZERO, master.session()).await.is_err(), "a session came about");
}

#[tokio::test]
async fn speaking_in_the_clear_with_another_machine_is_warned_of() {
    // Of TEST-NET-1: nobody is there.
    let mut agent = Agent::start("192.0.2.1:50050", &["connection.timeout=\"100ms\""]);
    agent.line("WARN  The connection to 192.0.2.1:50050 is not secured").await;
    let mut local = Agent::start("127.0.0.1:1", &[]);
    local.line("Cannot connect to master at 127.0.0.1:1").await;
    assert!(!local.log.join("\n").contains("is not secured"), "{:?}", local.log);
}

#[tokio::test]
async fn a_master_that_wants_tls_is_told_from_one_that_is_broken() {
    let authority = Authority::new();
    let master = tls::master(&authority.issue("master.test", VALID), None).await;
    let mut agent = Agent::start(&master.address(), &[]);
    agent.line("(attempt 1): the master speaks TLS, and this agent is not told to: set tls.ca_file").await;
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_with_the_connection_timeout() {
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("a bound socket").to_string();
    let mut agent = Agent::start(&address, &[&set("ca_file", &authority.file()), "connection.timeout=\"300ms\""]);
    let _held = silent.accept().await.expect("the agent dials");
    agent.line("(attempt 1): no answer within 0.3").await;
    let _held_too = silent.accept().await.expect("the agent dials again");
}

#[tokio::test]
async fn a_certificate_renewed_on_disk_is_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut master = tls::master(&new.issue("master.test", VALID), None).await;
    let file = old.file();
    let mut agent = agent(&master, &[set("ca_file", &file)]);
    agent.line("is of an unknown CA").await;
    fs::copy(new.file(), &file).expect("it can be replaced");
    let _session = master.active(1).await;
    agent.line("Agent registered").await;
}

/// What `check` says with these settings, and its exit code.
fn check(settings: &[String], roots: Option<&Path>) -> (i32, String) {
    let mut check = common::program();
    check.arg("check").env_remove("SLOTH_RUNNER_MASTER_ADDR").env_remove("SSL_CERT_FILE");
    if let Some(path) = roots {
        check.env("SSL_CERT_FILE", path);
    }
    for setting in settings {
        check.args(["--set", setting]);
    }
    let output = check.output().expect("the agent's binary starts");
    (output.status.code().expect("no signal"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn files_that_cannot_be_used_are_found_before_the_start() {
    let authority = Authority::new();
    let Identity { certificate, key } = authority.issue("lady", VALID);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("our own file");
    let nowhere = "tls.ca_file=\"/nowhere/ca.pem\"".to_owned();
    let (code, said) = check(&[nowhere, set("cert_file", &certificate), set("key_file", &key)], None);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("tls.ca_file is /nowhere/ca.pem, which cannot be read: no such file or directory"), "{said}");
    let rule = format!("tls.key_file is {0}, which others can read (mode 0644): run chmod 600 {0}", key.display());
    assert!(said.contains(&rule), "{said}");
}

#[test]
fn files_that_do_not_go_together_are_found_before_the_start() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one", VALID), authority.issue("other", VALID));
    let files = |ca: &Path, certificate: &Path, key: &Path| {
        [set("ca_file", ca), set("cert_file", certificate), set("key_file", key)]
    };
    let ca = authority.file();
    let (code, said) = check(&files(&ca, &one.certificate, &one.key), None);
    assert_eq!((code, said.as_str()), (0, ""));
    for (settings, text) in [
        (
            files(&ca, &one.certificate, &other.key),
            format!("which does not go with tls.key_file ({})", other.key.display()),
        ),
        (
            files(&one.key, &one.certificate, &one.key),
            "which holds no certificate in PEM: name one that does".to_owned(),
        ),
        (files(&ca, &one.certificate, &one.certificate), "which others can read (mode 0644)".to_owned()),
        (
            files(Path::new("/dev/null"), &one.certificate, &one.key),
            "tls.ca_file is /dev/null, which is no file".to_owned(),
        ),
    ] {
        let (code, said) = check(&settings, None);
        assert!(code == 2 && said.contains(&text), "{text}: {said}");
    }
}

#[test]
fn what_the_system_trusts_is_used_where_no_ca_is_named() {
    let authority = Authority::new();
    let file = authority.file();
    for setting in ["tls.enabled=true", "tls.server_name=master.test"] {
        let (code, said) = check(&[setting.to_owned()], Some(&file));
        assert_eq!((code, said.as_str()), (0, ""));
        let (code, said) = check(&[setting.to_owned()], Some(Path::new("/nowhere/ca.pem")));
        let text = "tls.ca_file is not set, and what this system trusts, /nowhere/ca.pem, cannot be read: no such file";
        assert!(code == 2 && said.contains(text), "{said}");
        assert!(said.contains(&format!("--set {}: ", setting.split('=').next().expect("a key"))), "{said}");
    }
}
