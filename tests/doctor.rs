//! `sloth-agent doctor`: the binary, against masters that are well, away, or say no.

mod common;

use common::{
    Agent, PATIENCE,
    master::Master,
    place::Refusing,
    program,
    tls::{self, Authority, VALID},
};
use std::path::Path;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
    time::timeout,
};

struct Said {
    code: Option<i32>,
    out: String,
}

impl Said {
    fn line(&self, step: &str) -> &str {
        let line = self.out.lines().find(|line| line.split_whitespace().any(|word| word == step));
        line.unwrap_or_else(|| panic!("no {step} in:\n{}", self.out))
    }

    fn last(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }
}

async fn doctor(state: &Path, name: &str, masters: &[&str], settings: &[&str]) -> Said {
    doctor_with(state, name, masters, settings, &[]).await
}

async fn doctor_with(state: &Path, name: &str, masters: &[&str], settings: &[&str], more: &[&str]) -> Said {
    let mut command = Command::from(program());
    command.args(["doctor", "--name", name, "--state-dir"]).arg(state);
    command.args(masters.iter().flat_map(|master| ["--master", master]));
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    command.args(more);
    // A state directory may be one that cannot be made.
    let folder = state.ancestors().find(|folder| folder.is_dir()).expect("the root is one");
    command.env_remove("SLOTH_RUNNER_MASTER_ADDR").current_dir(folder);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("the agent's binary starts");
    Said { code: output.status.code(), out: String::from_utf8(output.stdout).expect("UTF-8") }
}

#[tokio::test]
async fn a_configuration_that_works_is_said_to_work_step_by_step() {
    let master = Master::start().await;
    let state = TempDir::new().unwrap();
    let said = doctor(state.path(), "lady", &[&master.address()], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.out);
    for step in ["configuration", "name", "directory", "files", "DNS", "TCP", "clock", "registration"] {
        assert!(said.line(step).starts_with("  ok  "), "{}", said.line(step));
    }
    assert_eq!(said.last(), "Nothing is wrong: agent lady can be with its master.");
    let left: Vec<_> = std::fs::read_dir(state.path()).unwrap().collect();
    assert!(left.is_empty(), "it leaves nothing: {left:?}");
}

#[tokio::test]
async fn an_agent_that_was_stopped_is_not_well_whatever_its_master_says() {
    let mut master = Master::start().await;
    let agent = Agent::start(&master.address(), &[]);
    let _session = master.active(1).await;
    agent.contains("status.json", "Active").await;
    agent.signal(libc::SIGSTOP);
    agent.stands_still().await;
    let said = doctor(agent.state.path(), "lady", &[&master.address()], &[]).await;
    assert!(said.code == Some(1) && said.out.contains("is stopped and does nothing: kill -CONT "));
    agent.signal(libc::SIGCONT);
}

#[tokio::test]
async fn the_first_cause_stands_last_and_all_masters_are_tried() {
    let (master, nobody) = (Master::start().await, Refusing::new());
    let away = nobody.address();
    let state = TempDir::new().unwrap();
    let said = doctor(state.path(), "lady", &[&away, "no-such-host.invalid", &master.address()], &[]).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    let cause = format!("Cause: TCP with master at {away}: {away}: connection refused: does the master run");
    assert!(said.last().starts_with(&cause), "{}", said.last());
    assert!(said.out.contains("failed     DNS              cannot resolve no-such-host.invalid: "), "{}", said.out);
    assert!(said.line("registration").starts_with("  ok  "), "{}", said.out);
}

#[tokio::test]
async fn what_a_master_would_refuse_is_told_before_anything_is_registered() {
    let mut master = Master::start().await;
    let state = TempDir::new().unwrap();
    let said = doctor(state.path(), "taken", &[&master.address()], &[]).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    let cause =
        format!("Cause: registration with master at {}: name_taken: the name belongs to another", master.address());
    assert_eq!(said.last(), cause);
    let older = doctor(state.path(), "older", &[&master.address()], &[]).await;
    assert_eq!(older.code, Some(0), "{}", older.out);
    assert!(older.line("registration").starts_with("  warning  "), "{}", older.out);
    let asked = timeout(std::time::Duration::ZERO, master.session()).await;
    assert!(asked.is_err(), "nothing was registered");
}

#[tokio::test]
async fn tls_is_tried_with_the_names_and_dates_of_the_certificate() {
    let authority = Authority::new();
    let master = tls::master(&authority.issue("master.test", VALID), None).await;
    let state = TempDir::new().unwrap();
    let ca = format!("tls.ca_file={:?}", authority.file().display().to_string());
    let said = doctor(state.path(), "lady", &[&master.address()], &[&ca, "tls.server_name=\"master.test\""]).await;
    assert_eq!(said.code, Some(0), "{}", said.out);
    let certificate = "master.test, from 2020-01-01T00:00:00.000Z to 2090-01-01T00:00:00.000Z; ";
    assert!(said.line("TLS").contains(certificate), "{}", said.line("TLS"));
    let wrong = doctor(state.path(), "lady", &[&master.address()], &[&ca, "tls.server_name=\"other.test\""]).await;
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.last().contains("TLS with master at ") && wrong.last().contains("other.test was looked for"),
        "{}",
        wrong.out
    );
    let plain = doctor(state.path(), "lady", &[&master.address()], &[]).await;
    assert!(plain.last().contains("the master speaks TLS, and this agent is not told to"), "{}", plain.out);
}

#[tokio::test]
async fn a_master_that_wants_a_certificate_is_told_by_its_refusal() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let master = tls::master(&servers.issue("master.test", VALID), Some(&clients)).await;
    let state = TempDir::new().unwrap();
    let ca = format!("tls.ca_file={:?}", servers.file().display().to_string());
    let without = doctor(state.path(), "lady", &[&master.address()], &[&ca, "tls.server_name=\"master.test\""]).await;
    assert_eq!(without.code, Some(1));
    assert!(without.last().contains("the master wants a certificate of this agent"), "{}", without.out);
}

#[tokio::test]
async fn a_configuration_that_does_not_hold_is_the_cause() {
    let state = TempDir::new().unwrap();
    let said = doctor(state.path(), "lady", &[], &["heartbeat.interval=0s"]).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(
        said.last().starts_with("Cause: configuration: ") && said.last().contains("heartbeat.interval"),
        "{}",
        said.out
    );
}

#[tokio::test]
async fn json_is_one_document() {
    let nobody = Refusing::new();
    let away = nobody.address();
    let state = TempDir::new().unwrap();
    let said = doctor_with(state.path(), "lady", &[&away], &[], &["-o", "json"]).await;
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.starts_with("{\n  \"agent\": \"lady\",\n  \"ok\": false,\n  \"cause\": \"TCP with master at "),
        "{}",
        said.out
    );
    assert!(said.out.ends_with("\n  ]\n}\n") || said.out.ends_with("]\n}\n"), "{}", said.out);
}

#[tokio::test]
async fn an_agent_whose_state_would_live_in_memory_is_tried_as_it_would_go() {
    let master = Master::start().await;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let said = doctor(&folder.path().join("file/state"), "lady", &[&master.address()], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.out);
    assert!(said.line("directory").starts_with("  warning ") && said.line("directory").contains("go on in memory"));
    assert!(said.line("registration").starts_with("  ok  "), "{}", said.out);
}

#[tokio::test]
async fn what_cannot_be_shown_to_a_master_keeps_none_from_being_tried() {
    let (master, nobody) = (Master::start().await, Refusing::new());
    let state = TempDir::new().unwrap();
    std::fs::write(state.path().join("identity.pem"), "half a fi").unwrap();
    let said = doctor(state.path(), "lady", &[&nobody.address(), &master.address()], &[]).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(
        said.last().starts_with("Cause: certificate: ") && said.last().contains("/identity.pem "),
        "{}",
        said.last()
    );
    assert!(said.out.contains(&format!("failed     TCP              {}: connection refused", nobody.address())));
    assert!(said.out.contains(&format!("ok         TCP              {}", master.address())), "{}", said.out);
    assert!(said.line("registration").starts_with("  not tried  "), "{}", said.out);
}

#[tokio::test]
async fn a_master_that_says_nothing_is_told_from_one_that_closes_and_from_a_web_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let talker = tokio::spawn(async move {
        let mut open = Vec::new();
        for answer in [None, Some(""), Some("HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n")] {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(answer) = answer {
                stream.read_u8().await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            // Dropped with something unread it would be reset.
            open.push(stream);
        }
        open
    });
    let state = TempDir::new().unwrap();
    for (limit, says) in [
        ("0.5s", "connection_timeout: no answer within 0.5s"),
        (
            "1m",
            "stream_closed: connection closed by master (is this the port of `listen` in the master's configuration, and \
             not of a web page?)",
        ),
        ("1m", "protocol: it does not serve agents (is this a Sloth Runner master?)"),
    ] {
        let said = doctor(state.path(), "lady", &[&address], &[&format!("connection.timeout={limit:?}")]).await;
        assert_eq!(
            (said.code, said.last()),
            (Some(1), &*format!("Cause: registration with master at {address}: {says}"))
        );
    }
    talker.await.unwrap();
}

#[tokio::test]
async fn a_log_file_is_tried_as_the_agent_opens_it_and_not_left_behind() {
    let master = Master::start().await;
    let state = TempDir::new().unwrap();
    let said = doctor(state.path(), "lady", &[&master.address()], &["log.file=\"/proc/x/y\""]).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.last().starts_with("Cause: log.file: cannot write the log file /proc/x/y: "), "{}", said.last());
    let file = state.path().join("agent.log");
    let setting = format!("log.file={:?}", file.display().to_string());
    let said = doctor(state.path(), "lady", &[&master.address()], &[&setting]).await;
    assert!(said.line("log.file").starts_with("  ok  ") && said.code == Some(0) && !file.exists(), "{}", said.out);
    std::fs::write(&file, "kept\n").unwrap();
    doctor(state.path(), "lady", &[&master.address()], &[&setting]).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept\n");
}
