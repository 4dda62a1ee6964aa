//! Certificates that end, are renewed, or are judged by a clock that is wrong.

use crate::{
    files,
    secured::{Agent, Master, PATIENCE, program},
};
use std::{cell::Cell, fs, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[tokio::test]
async fn certificates_are_renewed_while_the_session_lasts() {
    let master = Master::start(&["tls.agent_life=12s"]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let first = fs::read(state.path().join("identity.pem")).unwrap();
    agent.log.line("The certificate of this agent is renewed").await;
    agent.log.line("The certificate of this agent is renewed").await;
    assert!(!agent.log.seen.join("\n").contains("Lost"), "the session went on");
    assert_ne!(fs::read(state.path().join("identity.pem")).unwrap(), first);
    // The first one has ended by now.
    agent.kill().await;
    master.agent(state.path(), "lady", &[]).active().await;

    fs::write(state.path().join("identity.pem"), first).unwrap();
    let mut late = master.agent(state.path(), "lady", &[]);
    late.log.line("the certificate of this agent ended on 20").await;
}

#[tokio::test]
async fn an_agent_that_a_master_has_forgotten_is_renewed_all_the_same() {
    let mut master = Master::start(&["tls.agent_life=12s"]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    master.kill().await;
    for file in files(master.directory.path()) {
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sloth.db")) {
            fs::remove_file(file).unwrap();
        }
    }
    master.restart_with(&["tls.agent_life=12s"]).await;
    agent.active().await;
    agent.log.line("The certificate of this agent is renewed").await;
}

#[tokio::test]
async fn a_certificate_renewed_on_disk_is_used_for_the_next_connections() {
    let mut master = Master::start(&[]).await;
    // For the same address.
    let other = Master::start_on((master.ip(), 0).into(), &[]).await;
    assert_eq!(master.tool("agent list").await.code, 0);
    for name in ["master.pem", "master.key", "ca.pem"] {
        fs::copy(other.file(name), master.file(name)).unwrap();
    }
    // It is looked at once a second.
    let used = async {
        while !master.tool_with(&other.operator(), "agent list").await.err.contains("does not know the token") {}
    };
    timeout(PATIENCE, used).await.expect("the new files are used");
    master.log.line("TLS: the files have changed and are used from now on").await;
}

/// An agent whose wall clock is off by so many seconds; none without a C compiler.
fn with_clock(master: &Master, state: &Path, jump: i64) -> Option<Agent> {
    let (library, file) = (state.join("jump.so"), state.join("jump"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jump.c");
    let mut compiler = std::process::Command::new("cc");
    let made = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    if !made.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("SLOTH_TEST_ALL").is_none(), "no C compiler");
        return None;
    }
    fs::write(&file, jump.to_ne_bytes()).unwrap();
    let mut command = program();
    command.env("LD_PRELOAD", &library).env("JUMP", &file);
    let words = master.command.split(' ').skip(1).map(str::to_owned).collect();
    Some(Agent::start_as(command, words, state, "lady"))
}

fn now() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64
}

#[tokio::test]
async fn an_agent_whose_clock_begins_in_1970_joins_once_and_renews() {
    let master = Master::start(&["tls.agent_life=12s"]).await;
    let state = tempfile::tempdir().unwrap();
    let Some(mut agent) = with_clock(&master, state.path(), -now()) else { return };
    agent.active().await;
    for _ in 0..3 {
        agent.log.line("The certificate of this agent is renewed").await;
    }
    // What its master says is known at the next start, before there is a master.
    let heard: i64 = fs::read_to_string(state.path().join("heard")).unwrap().trim().parse().unwrap();
    assert!((heard - now()).abs() < 3600, "{heard}");
    let said = agent.log.seen.join("\n");
    assert!(said.contains("1970-01-01T") && !said.contains("Lost"), "{said}");
    let done = master.tool("agent run lady -- echo hello").await;
    assert_eq!((done.code, done.out.as_str()), (0, "hello\n"), "{}", done.err);
    let events = master.tool("agent events").await.out;
    assert_eq!(events.matches("agent.joined").count(), 1, "{events}");
}

#[tokio::test]
async fn an_agent_whose_clock_is_at_2100_says_so_and_does_not_join_again_and_again() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    agent.kill().await;
    let Some(mut agent) = with_clock(&master, state.path(), 4_102_444_800 - now()) else { return };
    for _ in 0..3 {
        let line = agent.log.line("certificate").await;
        assert!(line.contains("2100-01-01"), "{line}");
    }
    let events = master.tool("agent events").await.out;
    assert_eq!(events.matches("agent.joined").count(), 1, "{events}");
}

#[tokio::test]
async fn renewing_and_new_files_of_the_master_end_no_session_and_no_command() {
    let mut master = Master::start(&["tls.agent_life=12s"]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let serial = |master: &Master| fs::read(master.file("master.pem")).unwrap();
    let before = serial(&master);
    let renewals = Cell::new(0);
    let commands = async {
        let (mut numbers, mut runs) = (0, 0);
        while renewals.get() < 3 {
            runs += 1;
            let done = master.tool("agent run lady -- sh -c seq${IFS}20000;sleep${IFS}1").await;
            assert_eq!((done.code, done.out.lines().count()), (0, 20_000), "{}", done.err);
            numbers += done.out.lines().count();
        }
        (numbers, runs)
    };
    let renewed = async {
        while renewals.get() < 3 {
            agent.log.line("The certificate of this agent is renewed").await;
            renewals.set(renewals.get() + 1);
        }
    };
    let replaced = async {
        // Another key and certificate of the same authority.
        let ca = rcgen::KeyPair::from_pem(&fs::read_to_string(master.file("ca.key")).unwrap()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Sloth Runner CA");
        let issuer = rcgen::Issuer::new(params, ca);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec![master.ip().to_string(), "localhost".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(master.file("master.key"), key.serialize_pem()).unwrap();
        fs::write(master.file("master.pem"), certificate.pem()).unwrap();
    };
    let ((numbers, runs), (), ()) = tokio::join!(commands, renewed, replaced);
    assert!(runs > 3 && numbers == runs * 20_000, "{numbers} lines of {runs} commands");
    assert_ne!(serial(&master), before);
    master.log.line("TLS: the files have changed and are used from now on").await;
    agent.process.kill().await.unwrap();
    let said = agent.log.whole().await;
    assert!(!said.contains("Lost"), "{said}");
}

#[tokio::test]
async fn when_certificates_end_is_shown() {
    let mut master = Master::start(&["http.listen=\"127.0.0.1:0\""]).await;
    let line = master.log.line("Health and metrics on http://").await;
    let (_, address) = line.split_once("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address.trim()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let ends = |kind: &str| {
        let name = format!("sloth_master_certificate_expires_timestamp_seconds{{kind=\"{kind}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse::<u64>().unwrap()
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(ends("server") > now && ends("ca") > now, "{page}");

    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let said = master.tool("agent explain lady").await;
    assert!(said.out.contains("89 days left, until "), "{}{}", said.out, said.err);
    // A viewer may look, too.
    let viewer = master.token("--role viewer").await;
    let said = master.tool_with(&viewer, "agent explain lady -o json").await;
    let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert!(said["certificate_expires"].is_string(), "{said}");
}
