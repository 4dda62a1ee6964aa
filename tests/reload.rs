//! The agent's binary, when it is told to read its configuration again or to connect now, and what a service manager
//! hears of it.

mod common;

use common::{Agent, PATIENCE, master::Master, place::Refusing};
use proto::{agent_message::Kind as Up, master_message::Kind as Down};
use std::{fs, path::Path, time::Duration};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UnixDatagram},
    process::Command,
    time::timeout,
};

/// Quick, and as it stands in a file.
const QUICK: &str =
    "[heartbeat]\ninterval = '200ms'\nmax_failures = 50\n[reconnect]\ninitial_delay = '100ms'\njitter = 0.0\n";

fn write(state: &Path, master: &str, rest: &str) {
    fs::write(state.join("agent.toml"), format!("master = '{master}'\n{rest}")).expect("a configuration");
}

/// An agent that has everything from the file in its directory.
fn agent(master: &str, rest: &str) -> Agent {
    let state = TempDir::new().expect("temporary directory");
    write(state.path(), master, rest);
    Agent::start_with(state, &[], &[])
}

fn reload(agent: &Agent, master: &str, rest: &str) {
    write(agent.state.path(), master, rest);
    agent.signal(libc::SIGHUP);
}

/// `sloth-agent reconnect`: exit code, standard output, standard error.
async fn reconnect(state: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sloth-agent"));
    command.args(["reconnect", "--name", "lady", "--state-dir"]).arg(state).current_dir(state);
    let output = command.output().await.expect("the agent's binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn what_the_master_was_told_is_told_anew() {
    let mut master = Master::start().await;
    let mut agent = agent(&master.address(), QUICK);
    let first = master.active(1).await;
    let changed = "labels.site = 'berlin'\n[heartbeat]\ninterval = '300ms'\nmax_failures = 7\n";
    reload(&agent, &master.address(), changed);
    let mut session = master.session().await;
    let register = session.register(2).await;
    assert_eq!((register.interval_ms, register.timeout_ms, register.max_failures), (300, 300, 7));
    assert_eq!(register.labels.get("site").map(String::as_str), Some("berlin"));
    agent.line("INFO  config: heartbeat.interval changed from 200ms to 300ms").await;
    agent.line("INFO  config: heartbeat.max_failures changed from 50 to 7").await;
    agent.line("INFO  Registering again with the new parameters").await;
    agent.line("INFO  Agent registered").await;
    assert_eq!(agent.count("Lost connection"), 0);
    drop(first);
}

#[tokio::test]
async fn the_old_session_stays_until_the_new_one_is_registered() {
    let mut master = Master::start().await;
    let agent = agent(&master.address(), QUICK);
    let mut first = master.active(1).await;
    reload(&agent, &master.address(), "[heartbeat]\ninterval = '300ms'\nmax_failures = 50\n");
    let mut second = master.session().await;
    second.registration().await;
    // A reset would have come before the dial, and so before this registration.
    while let Ok(said) = timeout(Duration::from_millis(100), first.next()).await {
        assert!(matches!(said, Some(Up::Heartbeat(_))), "the master would take it for a loss: {said:?}");
    }
    second.send(Down::Registered(proto::Registered { epoch: 2, ..Default::default() })).await;
    // A beat of the old session may have been on its way.
    while let Some(said) = first.next().await {
        assert!(matches!(said, Up::Heartbeat(_)), "the master would take it for a loss: {said:?}");
    }
    second.beat().await;
}

#[tokio::test]
async fn an_agent_that_ends_between_two_sessions_says_goodbye_on_the_old_one() {
    let mut master = Master::start().await;
    let mut agent = agent(&master.address(), QUICK);
    let mut first = master.active(1).await;
    reload(&agent, &master.address(), "[heartbeat]\ninterval = '300ms'\nmax_failures = 50\n");
    let mut second = master.session().await;
    second.registration().await;
    agent.signal(libc::SIGTERM);
    let mut said = first.next().await;
    while matches!(said, Some(Up::Heartbeat(_))) {
        said = first.next().await;
    }
    assert!(matches!(said, Some(Up::Goodbye(_))), "the master would take it for a loss: {said:?}");
    drop(first);
    assert_eq!(agent.exit().await, 0);
}

#[tokio::test]
async fn a_master_that_is_not_there_costs_no_session() {
    let (mut master, mut other) = (Master::start().await, Master::start().await);
    let mut agent = agent(&master.address(), QUICK);
    let mut session = master.active(1).await;
    reload(&agent, "127.0.0.1:1", QUICK);
    agent.line("WARN  Cannot connect to master at 127.0.0.1:1 (attempt 1): connection refused. Retrying in ").await;
    agent.line(&format!("WARN  Staying with master at {} until another", master.address())).await;
    agent.line("(attempt 3): connection refused. Retrying in ").await;
    let spec = proto::CommandSpec { argv: vec![b"/bin/true".to_vec()], ..Default::default() };
    session.send(Down::RunCommand(proto::RunCommand { id: "c".into(), spec: Some(spec) })).await;
    loop {
        match session.next().await.expect("the session goes on") {
            Up::CommandFinished(finished) => break session.send(Down::FinishedAck(finished_ack(&finished.id))).await,
            Up::Heartbeat(beat) => session.ack(beat.seq).await,
            _ => {}
        }
    }
    // The way back needs no other session.
    reload(&agent, &master.address(), QUICK);
    agent.line(&format!("INFO  Staying with master at {}", master.address())).await;
    let seq = session.beat().await;
    session.ack(seq).await;
    // And one that leads somewhere is gone.
    reload(&agent, &other.address(), QUICK);
    other.active(2).await;
    while session.next().await.is_some() {}
    agent.line(&format!("INFO  Agent registered with master at {}", other.address())).await;
    assert_eq!((agent.count("Lost connection"), agent.count("INFO  Agent registered")), (0, 2));
}

fn finished_ack(id: &str) -> proto::FinishedAck {
    proto::FinishedAck { id: id.into() }
}

#[tokio::test]
async fn a_registration_that_comes_to_nothing_gives_the_session_back_what_waited_for_it() {
    let (mut master, mut other) = (Master::start().await, Master::start().await);
    let mut agent = agent(&master.address(), QUICK);
    let mut session = master.active(1).await;
    reload(&agent, &other.address(), QUICK);
    let mut refuses = other.session().await;
    assert!(refuses.registration().await.held.is_empty());
    let spec = proto::CommandSpec { argv: vec![b"/bin/true".to_vec()], ..Default::default() };
    session.send(Down::RunCommand(proto::RunCommand { id: "c".into(), spec: Some(spec) })).await;
    for _ in 0..2 {
        match session.next().await.expect("the session goes on") {
            Up::Heartbeat(beat) => session.ack(beat.seq).await,
            other => panic!("the other master was told of no command: {other:?}"),
        }
    }
    refuses.reject(proto::rejected::Reason::NameTaken, "taken").await;
    agent.line("taken. Retrying in ").await;
    while !matches!(session.next().await.expect("the session goes on"), Up::CommandAccepted(_)) {}
}

#[tokio::test]
async fn a_session_that_is_lost_before_another_is_there_is_told_as_lost() {
    let mut master = Master::start().await;
    let place = Refusing::new();
    let address = place.address;
    let mut agent = agent(&master.address(), QUICK);
    let session = master.active(1).await;
    reload(&agent, &address.to_string(), QUICK);
    agent.line("Staying with master").await;
    drop(session);
    agent.line("ERROR Lost connection to master: stream closed by master. Reconnecting...").await;
    let mut other = Master::on(place.listen());
    let serving = tokio::spawn(other.active(2).await.serve());
    agent.line(&format!("INFO  Agent registered with master at {address}")).await;
    agent.contains("status.json", "\"Active\"").await;
    agent.contains("status.json", &address.to_string()).await;
    serving.abort();
}

#[tokio::test]
async fn a_session_goes_on_under_what_the_master_need_not_know() {
    let mut master = Master::start().await;
    let mut agent = agent(&master.address(), QUICK);
    let mut session = master.active(1).await;
    let changed = "[heartbeat]\ninterval = '200ms'\nmax_failures = 50\n[reconnect]\ninitial_delay = '300ms'\njitter = 0.0\n\
                   [commands]\nenabled = false\n[listen]\nport = 65535\n[log]\nlevel = 'debug'\n";
    reload(&agent, &master.address(), changed);
    agent.line("INFO  config: commands.enabled changed from the default to false").await;
    agent.line("WARN  config: listen.port changed from the default to 65535: needs a restart").await;
    agent.line("INFO  config: reconnect.initial_delay changed from 100ms to 300ms").await;
    let spec = proto::CommandSpec { argv: vec![b"/bin/true".to_vec()], ..Default::default() };
    session.send(Down::RunCommand(proto::RunCommand { id: "c".into(), spec: Some(spec) })).await;
    let finished = loop {
        match session.next().await.expect("the session goes on") {
            Up::CommandFinished(finished) => break finished,
            Up::Heartbeat(beat) => session.ack(beat.seq).await,
            _ => {}
        }
    };
    let refused = format!("{:?}", finished.outcome);
    assert!(refused.contains("commands.enabled is false"), "{refused}");
    drop(session);
    agent.line("INFO  🔄 Reconnecting to master in 0.3s...").await;
    agent.line("DEBUG Connecting to master").await;
}

#[tokio::test]
async fn a_bad_or_missing_file_leaves_everything_as_it_is() {
    let mut master = Master::start().await;
    let mut agent = agent(&master.address(), QUICK);
    let mut session = master.active(1).await;
    reload(&agent, "127.0.0.1:1", "[heartbeat]\ninterval = 2\n[recconnect]\njitter = 0.0\n");
    let file = agent.state.path().canonicalize().expect("it is there").join("agent.toml");
    agent.line(&format!("ERROR config: {}:3: heartbeat.interval is 2, ", file.display())).await;
    agent.line(&format!("ERROR config: {}:5: recconnect.jitter is not known", file.display())).await;
    agent.line("ERROR config: not taken over, the running configuration stays").await;
    let seq = session.beat().await;
    session.ack(seq).await;
    fs::remove_file(&file).expect("it was there");
    agent.signal(libc::SIGHUP);
    agent.line("ERROR config: cannot read the configuration file").await;
    agent.line("the running configuration stays").await;
    assert!(session.beat().await > seq);
    // And a good one is taken.
    reload(&agent, &master.address(), "[heartbeat]\ninterval = '400ms'\nmax_failures = 50\n");
    assert_eq!(master.session().await.registration().await.interval_ms, 400);
    assert_eq!(agent.count("Registering again"), 0, "not before the good one");
}

#[tokio::test]
async fn another_master_is_gone_to_at_once() {
    let (mut first, mut second) = (Master::start().await, Master::start().await);
    let mut agent = agent(&first.address(), QUICK);
    let held = first.active(1).await;
    reload(&agent, &second.address(), QUICK);
    second.active(2).await;
    agent.line(&format!("INFO  Agent registered with master at {}", first.address())).await;
    agent.line(&format!("INFO  config: master changed from {} to {}", first.address(), second.address())).await;
    agent.line(&format!("INFO  Agent registered with master at {}", second.address())).await;
    drop(held);
}

#[tokio::test]
async fn a_wait_ends_for_a_master_that_is_configured_meanwhile() {
    let mut master = Master::start().await;
    let slow = "[reconnect]\ninitial_delay = '1h'\nmax_delay = '1h'\n";
    let mut agent = agent("127.0.0.1:1", slow);
    agent.line("(attempt 1): connection refused. Retrying in ").await;
    reload(&agent, &master.address(), slow);
    master.active(1).await;
    agent.line("INFO  Reconnecting now, as asked").await;
}

#[tokio::test]
async fn fewer_masters_while_one_of_those_that_go_is_dialled_leave_no_attempt_behind() {
    // They take the connection and say nothing.
    let silent = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
    let [one, other] = silent.map(|listener| listener.expect("a free port"));
    let mut master = Master::start().await;
    let list = [&one, &other].map(|listener| listener.local_addr().expect("bound").to_string());
    let state = TempDir::new().expect("temporary directory");
    let masters = format!("masters = ['{}', '{}', '{}']\n", list[0], list[1], master.address());
    let patient = format!("{QUICK}[connection]\ntimeout = '1h'\n");
    fs::write(state.path().join("agent.toml"), format!("{masters}{patient}")).expect("a configuration");
    let mut agent = Agent::start_with(state, &[], &[]);
    let (held, _) = timeout(PATIENCE, one.accept()).await.expect("it dials the first").expect("accepted");
    reload(&agent, &master.address(), &patient);
    let session = master.active(1).await;
    agent.line(&format!("INFO  Agent registered with master at {}", master.address())).await;
    let mut rest = Vec::new();
    let mut held = held;
    let closed = timeout(PATIENCE, tokio::io::AsyncReadExt::read_to_end(&mut held, &mut rest)).await;
    assert!(closed.is_ok(), "the attempt that was under way is over");
    assert_eq!(agent.count("Lost connection"), 0);
    drop((session, other));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_to_its_end_keeps_nobody_from_connecting_now() {
    let place = Refusing::new();
    let address = place.address();
    let slow = "[reconnect]\ninitial_delay = '1h'\nmax_delay = '1h'\n";
    let mut agent = agent(&address, slow);
    agent.line("(attempt 1): connection refused. Retrying in ").await;
    let file = agent.state.path().join("agent.toml");
    fs::remove_file(&file).expect("it was there");
    let made = Command::new("mkfifo").arg(&file).status().await.expect("mkfifo starts");
    assert!(made.success());
    agent.signal(libc::SIGHUP);
    // Opening it waits for the agent, which then waits for what is written.
    let hangs = tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(file));
    let mut hangs = timeout(PATIENCE, hangs).await.expect("the agent reads").expect("no panic").expect("it opens");
    agent.signal(libc::SIGHUP);
    agent.line("INFO  Reconnecting now, as asked").await;
    agent.line("(attempt 2): connection refused.").await;
    assert_eq!(agent.count("config: "), 0);
    std::io::Write::write_all(&mut hangs, b"nonsense").expect("the agent still reads");
    drop(hangs);
    agent.line("ERROR config: not taken over").await;
}

#[tokio::test]
async fn an_agent_that_is_leaving_takes_no_other_configuration() {
    let mut master = Master::start().await;
    let mut agent = agent(&master.address(), QUICK);
    let mut session = master.active(1).await;
    let argv = ["/bin/sh", "-c", "read line"].map(|word| word.as_bytes().to_vec()).into();
    let spec = proto::CommandSpec { argv, stdin: true, ..Default::default() };
    session.send(Down::RunCommand(proto::RunCommand { id: "c".into(), spec: Some(spec) })).await;
    while !matches!(session.next().await, Some(Up::CommandAccepted(_))) {}
    // One that has not started would be refused, and its end be passed over below while a heartbeat is waited for.
    agent.line("INFO  Command c started: ").await;
    agent.signal(libc::SIGTERM);
    agent.line("INFO  Shutting down: waiting up to 30s for 1 command(s)").await;
    reload(&agent, "127.0.0.1:1", "labels.site = 'berlin'\n");
    // What it reads next after a signal that it has taken.
    agent.signal(libc::SIGHUP);
    let seq = session.beat().await;
    session.ack(seq).await;
    session.send(Down::CancelCommand(proto::CancelCommand { id: "c".into() })).await;
    loop {
        match session.next().await.expect("the session goes on to the goodbye") {
            Up::CommandFinished(finished) => {
                session.send(Down::FinishedAck(proto::FinishedAck { id: finished.id })).await
            }
            Up::Heartbeat(beat) => session.ack(beat.seq).await,
            Up::Goodbye(_) => break,
            _ => {}
        }
    }
    drop(session);
    assert_eq!(agent.exit().await, 0);
    assert_eq!((agent.count("config: "), agent.count("Registering again")), (0, 0), "{:#?}", agent.log);
}

#[tokio::test]
async fn reconnect_ends_a_wait_and_leaves_a_session_alone() {
    let place = Refusing::new();
    let address = place.address;
    let mut agent =
        Agent::start(&address.to_string(), &["reconnect.initial_delay=\"1h\"", "reconnect.max_delay=\"1h\""]);
    agent.line("(attempt 1): connection refused. Retrying in 3600s...").await;
    let mut master = Master::on(place.listen());
    let pid = agent.child.id().expect("it runs");
    let done = reconnect(agent.state.path()).await;
    assert_eq!(
        done,
        (
            Some(0),
            format!("agent lady (pid {pid}) was told to read its configuration again and to connect now\n"),
            String::new()
        )
    );
    agent.line("config: read again, nothing has changed").await;
    let serving = tokio::spawn(master.active(1).await.serve());
    let state = agent.state.path().join("status.json");
    timeout(PATIENCE, async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !fs::read_to_string(&state).is_ok_and(|text| text.contains("\"Active\"")) {
            look.tick().await;
        }
    })
    .await
    .expect("it becomes Active");
    let done = reconnect(agent.state.path()).await;
    let connected = format!(
        "agent lady (pid {pid}) is connected already, to {address}; it was told to read its configuration again: its \
         log says what came of that\n"
    );
    assert_eq!(done, (Some(0), connected, String::new()));
    agent.line("config: read again, nothing has changed").await;
    agent.signal(libc::SIGTERM);
    agent.exit().await;
    assert_eq!(agent.count("config: "), 2, "two SIGHUPs came: {:#?}", agent.log);
    assert_eq!(agent.count("INFO  Agent registered"), 1, "the session stayed: {:#?}", agent.log);
    serving.abort();
    let (code, _, said) = reconnect(agent.state.path()).await;
    assert_eq!(code, Some(3));
    assert!(said.starts_with("agent lady is not running"), "{said}");
}

#[tokio::test]
async fn a_service_manager_hears_how_the_agent_stands() {
    let place = Refusing::new();
    let address = place.address;
    let state = TempDir::new().expect("temporary directory");
    let path = state.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let heard = async || {
        let mut text = [0; 512];
        let n = timeout(PATIENCE, manager.recv(&mut text)).await.expect("the agent says it").expect("a message");
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    let until = async |wanted: &str| {
        let mut said = Vec::new();
        while !said.last().is_some_and(|text: &String| text.starts_with(wanted)) {
            said.push(heard().await);
        }
        said
    };
    write(state.path(), &address.to_string(), QUICK);
    let variables = [("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "400000")];
    let mut agent = Agent::start_with(state, &[], &variables);
    assert_eq!(heard().await, "READY=1", "before any master is there");
    until(&format!("STATUS=Reconnecting to master at {address}, next attempt at 2")).await;
    until("WATCHDOG=1").await;
    let mut master = Master::on(place.listen());
    let serving = tokio::spawn(master.active(1).await.serve());
    until(&format!("STATUS=Active, with master at {address}")).await;
    until("WATCHDOG=1").await;
    agent.signal(libc::SIGHUP);
    until("RELOADING=1\nMONOTONIC_USEC=").await;
    until("READY=1").await;
    agent.signal(libc::SIGTERM);
    until("STOPPING=1").await;
    assert_eq!(agent.exit().await, 0);
    serving.abort();
}

#[tokio::test]
async fn a_master_that_is_left_on_purpose_is_told_so() {
    let (mut master, mut other) = (Master::start().await, Master::start().await);
    let agent = agent(&master.address(), QUICK);
    let mut first = master.session().await;
    assert!(!first.register(1).await.renews, "there is none before it");
    let seq = first.beat().await;
    first.ack(seq).await;
    agent.contains("status.json", "\"Active\"").await;
    // The same master knows by the registration; its session of before needs no goodbye, and is over for it.
    reload(&agent, &master.address(), "[heartbeat]\ninterval = '300ms'\nmax_failures = 50\n");
    let mut second = master.session().await;
    assert!(second.register(2).await.renews);
    let seq = second.beat().await;
    second.ack(seq).await;
    reload(&agent, &other.address(), QUICK);
    let third = other.active(3).await;
    let farewell = loop {
        match second.next().await {
            Some(Up::Heartbeat(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(&farewell, Some(Up::Goodbye(goodbye)) if goodbye.reason == "moved"), "{farewell:?}");
    assert!(second.next().await.is_none());
    drop((first, third));
}
