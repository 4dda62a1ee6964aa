//! The agent's binary and TLS: whom it trusts, what it shows, and what it says when that does not fit.

mod common;

use common::{
    Agent, PATIENCE,
    master::Master,
    tls::{self, Authority, Identity, VALID},
};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};
use tokio::time::timeout;

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
    other.line("(attempt 1): the master refuses this agent's certificate").await;
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_told_apart() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (identity, text) in [
        (stranger.issue("master.test", VALID), "the master's certificate is of an unknown CA: see tls.ca_file"),
        (authority.issue("other.test", VALID), "the master's certificate is for another name: see tls.server_name"),
        (authority.issue("master.test", (2020, 2021)), "the master's certificate has expired, or this machine's clock"),
        (authority.issue("master.test", (2089, 2090)), "the master's certificate is not valid yet, or this machine's"),
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
    agent.line("(attempt 2): ").await;
    assert!(timeout(std::time::Duration::ZERO, master.session()).await.is_err(), "a session came about");
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

#[test]
fn files_that_cannot_be_used_are_found_before_the_start() {
    let authority = Authority::new();
    let Identity { certificate, key } = authority.issue("lady", VALID);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("our own file");
    let mut check = Command::new(env!("CARGO_BIN_EXE_sloth-agent"));
    check.arg("check");
    for setting in ["tls.ca_file=\"/nowhere/ca.pem\"".to_owned(), set("cert_file", &certificate), set("key_file", &key)]
    {
        check.args(["--set", &setting]);
    }
    let output = check.env_remove("SLOTH_RUNNER_MASTER_ADDR").output().expect("the agent's binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("tls.ca_file is /nowhere/ca.pem, which cannot be read: no such file or directory"), "{said}");
    let rule = format!("tls.key_file is {0}, which others may read (mode 644): chmod 600 {0}", key.display());
    assert!(said.contains(&rule), "{said}");
}
