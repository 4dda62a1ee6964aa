//! The agent's binary on a box that lacks something: it starts, says what is missing, and keeps its link and its beat.

mod common;

use common::{
    Agent, PATIENCE,
    cramped::{self, MemoryGroup, Mount, needs},
    master::{Master, OutputCall, Session},
};
use proto::{Heartbeat, Outcome, OutputAck, agent_message::Kind as Up, master_message::Kind as Down, outcome::Kind};
use sloth_agent::spool::{
    disk::Folder,
    format::{Change, Chunk, Content, Record},
    store::{self, Batch, Keep, Store, Written},
};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::Command,
    time::{Instant, timeout},
};

/// A heartbeat fails that the agent has no answer to within a second, and each failure is counted: what is slow must be
/// the agent, not the master that shares a busy machine with it.
const BEAT: [&str; 3] = ["heartbeat.interval=\"1s\"", "heartbeat.timeout=\"1s\"", "heartbeat.max_failures=20"];

/// Far above what a busy machine makes of that interval, below what is made to hang.
const GAP_MAX: Duration = Duration::from_secs(5);

fn folder() -> TempDir {
    TempDir::new().expect("temporary directory")
}

/// An agent with this beat; `settings` come after it.
fn start(state: TempDir, master: &Master, settings: &[&str], prepare: impl FnOnce(&mut Command)) -> Agent {
    start_at(state, &master.address(), settings, prepare)
}

fn start_at(state: TempDir, address: &str, settings: &[&str], prepare: impl FnOnce(&mut Command)) -> Agent {
    Agent::start_as(state, address, &[&BEAT, settings].concat(), prepare)
}

fn run(id: &str, shell: &str) -> Down {
    let spec = Some(proto::CommandSpec { shell: shell.into(), ..Default::default() });
    Down::RunCommand(proto::RunCommand { id: id.into(), spec })
}

/// Answers heartbeats until so many came, each in time.
async fn beats(session: &mut Session, count: u64) {
    for _ in 0..count {
        let before = Instant::now();
        let seq = session.beat().await;
        assert!(before.elapsed() < GAP_MAX, "heartbeat {seq} came after {:?}", before.elapsed());
        session.ack(seq).await;
    }
}

/// Runs a command whose output is of no interest; its outcome. Heartbeats are answered, and come in time.
async fn outcome(session: &mut Session, id: &str, shell: &str) -> Outcome {
    session.send(run(id, shell)).await;
    let mut last = Instant::now();
    loop {
        match session.next().await.expect("the session goes on") {
            Up::Heartbeat(beat) => {
                assert!(last.elapsed() < GAP_MAX, "heartbeat {} came after {:?}", beat.seq, last.elapsed());
                last = Instant::now();
                session.ack(beat.seq).await;
            }
            Up::CommandFinished(finished) => {
                session.send(Down::FinishedAck(proto::FinishedAck { id: finished.id })).await;
                return finished.outcome.expect("an outcome");
            }
            _ => {}
        }
    }
}

/// Takes all output of a call; how much it was.
async fn drain(mut call: OutputCall) -> u64 {
    let mut received = 0;
    loop {
        let ack = OutputAck { received, durable: received, stdin: None };
        let _ = call.outgoing.send(Ok(ack)).await;
        let message = timeout(PATIENCE, call.incoming.message()).await.expect("output comes");
        match message.expect("the call does not break off") {
            Some(message) => received += message.data.len() as u64,
            None => return received,
        }
    }
}

/// No line of the log so far speaks of a heartbeat that failed or a session that was lost.
fn was_steady(agent: &Agent) {
    let failures = agent.count("Heartbeat failed") + agent.count("Lost connection");
    assert_eq!(failures, 0, "{}", agent.log.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_passes_in_64_megabytes_of_memory() {
    const MEMORY: u64 = 64 << 20;
    const OUTPUT: u64 = 20 << 20;
    let group = MemoryGroup::new(MEMORY);
    let mut master = Master::start().await;
    let mut agent = start(folder(), &master, &[], |command| match &group {
        Some(group) => group.hold(command),
        None => cramped::limit(command, libc::RLIMIT_DATA, MEMORY),
    });
    let mut session = master.active(1).await;
    session.send(run("c", &format!("head -c {OUTPUT} /dev/zero"))).await;
    let printing = tokio::spawn(async move { drain(master.output().await).await });
    let total = loop {
        match session.next().await.expect("the session goes on") {
            Up::Heartbeat(beat) => session.ack(beat.seq).await,
            Up::CommandFinished(finished) => break finished.total_bytes,
            _ => {}
        }
    };
    let (received, ()) = tokio::join!(printing, beats(&mut session, 2));
    assert_eq!((received.expect("the output is taken"), total), (OUTPUT, OUTPUT));
    session.send(Down::FinishedAck(proto::FinishedAck { id: "c".into() })).await;
    agent.signal(libc::SIGTERM);
    timeout(PATIENCE, session.serve()).await.expect("the agent leaves");
    assert_eq!(agent.exit().await, 0);
    was_steady(&agent);
}

/// Of the process, KiB: the most that it ever had in memory.
fn peak(agent: &Agent) -> u64 {
    let pid = agent.child.id().expect("still running");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_printed_is_held_once_while_it_is_written_to_the_disk() {
    const OUTPUT: u64 = 14 << 20;
    let mut master = Master::start().await;
    let agent = start(folder(), &master, &[], |_| {});
    let mut session = master.active(1).await;
    let before = peak(&agent);
    // Nobody takes it, so all of it has to be on the disk before the outcome is told.
    let outcome = outcome(&mut session, "c", &format!("head -c {OUTPUT} /dev/zero")).await;
    assert_eq!((outcome.kind(), outcome.code), (Kind::Exited, 0));
    let grown = (peak(&agent) - before) * 1024;
    assert!(grown >= OUTPUT, "it was held: {grown}");
    assert!(grown < OUTPUT / 2 * 3, "{grown} bytes for {OUTPUT} of output");
}

/// Bytes of the output files in the spool.
fn spilled(state: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(state.join("spool")).into_iter().flatten().flatten();
    let outputs = files.filter(|file| file.file_name().to_string_lossy().ends_with(".out"));
    outputs.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_outputs_that_nobody_takes_fit_into_64_megabytes_also_after_a_crash() {
    const MEMORY: u64 = 64 << 20;
    let Some(group) = MemoryGroup::new(MEMORY) else {
        needs("right to make a control group", false);
        return;
    };
    let mut master = Master::start().await;
    let mut agent = start(folder(), &master, &[], |command| group.hold(command));
    let mut session = master.active(1).await;
    agent.line("All commands together hold 16 MiB of output, a quarter of the memory here, not 64 MiB").await;
    for number in 0..7 {
        session.send(run(&format!("c{number}"), &format!("head -c {} /dev/zero", 12 << 20))).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while spilled(agent.state.path()) < MEMORY / 4 - (1 << 20) {
        assert!(Instant::now() < deadline, "{} bytes are written", spilled(agent.state.path()));
        beats(&mut session, 1).await;
    }
    beats(&mut session, 4).await;
    agent.signal(libc::SIGKILL);
    agent.exit().await;
    was_steady(&agent);
    let mut agent = start(agent.state, &master, &[], |command| group.hold(command));
    let mut session = master.session().await;
    let register = session.register(2).await;
    assert!(register.held.iter().map(|held| held.spooled_bytes).sum::<u64>() > MEMORY / 5, "{register:?}");
    beats(&mut session, 4).await;
    agent.signal(libc::SIGKILL);
    agent.exit().await;
    was_steady(&agent);
}

/// Output of an earlier agent: so many whole chunks of the largest size.
#[derive(Debug)]
struct Earlier;

impl store::Output for Earlier {
    fn chunk(&self, from: u64, to: u64) -> Option<Chunk> {
        const SIZE: u64 = 64 << 10;
        (from < to).then(|| Chunk { offset: from, content: Content::Stdout(vec![7; SIZE.min(to - from) as usize]) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_output_on_the_disk_is_taken_up_in_64_megabytes() {
    const MEMORY: u64 = 64 << 20;
    // Twice the limit of one command, and what a file may have beside that.
    const OUTPUT: u64 = 33 << 20;
    let Some(group) = MemoryGroup::new(MEMORY) else {
        needs("right to make a control group", false);
        return;
    };
    let state = folder();
    let disk = Folder::open(&state.path().join("spool")).expect("our own folder");
    let keep = Keep { remember_ms: 1_000_000, tombstones_max: 10 };
    let mut opened = Store::open(Box::new(disk), keep, [1; 16], 0).expect("a new spool");
    // It is ended by its id, wherever on the machine it runs: nobody else's may be called so.
    let id = format!("longest-{}", std::process::id());
    let written =
        Written { id: id.clone(), output: Arc::new(Earlier), from: 0, to: OUTPUT, fresh: true, durable: true };
    let record = |change| Record { id: id.clone(), change };
    let records = vec![record(Change::Accepted { at_unix_ms: 1, spec: Vec::new() }), record(Change::Starting)];
    opened.store.apply(&Batch { outputs: vec![written], records, durable: true, removed: vec![] }).expect("a disk");

    let mut master = Master::start().await;
    let mut agent = start(state, &master, &[], |command| group.hold(command));
    let mut session = master.session().await;
    let register = session.register(1).await;
    assert_eq!(register.held.iter().map(|held| held.spooled_bytes).sum::<u64>(), OUTPUT);
    let taking = tokio::spawn(async move { drain(master.output().await).await });
    let (received, ()) = tokio::join!(taking, beats(&mut session, 4));
    assert_eq!(received.expect("the output is taken"), OUTPUT);
    agent.signal(libc::SIGKILL);
    agent.exit().await;
    was_steady(&agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_holds_nothing_up() {
    if !needs("right to mount", cramped::may_mount()) {
        return;
    }
    let mut master = Master::start().await;
    let state = folder();
    let path = state.path().to_owned();
    let mut agent = start(state, &master, &[], |command| {
        cramped::mount(command, &path, Mount::Full);
    });
    let mut session = master.active(1).await;
    let said = agent.line("going on with state in memory").await;
    let expected = format!(
        "WARN  the state directory {} cannot be written (no space left on device): going on with state in memory, \
         which a restart forgets",
        path.display()
    );
    assert!(said.contains(&expected), "{said}");
    beats(&mut session, 2).await;
    let outcome = outcome(&mut session, "c", "exit 3").await;
    assert_eq!((outcome.kind(), outcome.code), (Kind::Exited, 3));
    // The master is told what a crash would lose, with the first beat that carries how the node does.
    let told = loop {
        if let Some(Up::Heartbeat(Heartbeat { seq, status, .. })) = session.next().await {
            session.ack(seq).await;
            if let Some(status) = status {
                break status.in_memory;
            }
        }
    };
    assert!(told);
    // Its epoch is kept in memory: the next session must still be a newer one.
    drop(session);
    agent.line("Lost connection").await;
    let register = master.session().await.registration().await;
    assert_eq!(register.highest_epoch, 1);
    assert_eq!(agent.count("going on with state in memory"), 1, "said once:\n{}", agent.log.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_log_is_said_elsewhere() {
    if !needs("right to mount", cramped::may_mount()) {
        return;
    }
    let (mut master, logs) = (Master::start().await, folder());
    let file = logs.path().join("agent.log");
    let setting = format!("log.file={:?}", file.display().to_string());
    let mut agent = start(folder(), &master, &[&setting], |command| {
        cramped::mount(command, logs.path(), Mount::Full);
    });
    let mut session = master.active(1).await;
    beats(&mut session, 2).await;
    agent.line(&format!("the log {} cannot be written (no space left on device)", file.display())).await;
    let outcome = outcome(&mut session, "c", "exit 3").await;
    assert_eq!((outcome.kind(), outcome.code), (Kind::Exited, 3));
    // Once there is room, it is used.
    let fill = agent.beneath(&logs.path().join("fill"));
    std::fs::remove_file(&fill).expect("the file that fills it");
    drop(session);
    master.active(2).await;
    let log = agent.beneath(&file);
    let written = timeout(PATIENCE, async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("lines were lost")) {
            look.tick().await;
        }
    });
    assert!(written.await.is_ok(), "{:?}", std::fs::read_to_string(&log));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_is_said_and_holds_nothing_up() {
    if !needs("right to mount", cramped::may_mount()) {
        return;
    }
    let (mut master, state) = (Master::start().await, folder());
    let path = state.path().to_owned();
    // A log as well, as a service may be set up.
    let log = format!("log.file={:?}", path.join("agent.log").display().to_string());
    let mut agent = start(state, &master, &[&log], |command| {
        cramped::mount(command, "/".as_ref(), Mount::ReadOnly);
        cramped::mount(command, &path, Mount::ReadOnly);
    });
    let mut session = master.active(1).await;
    beats(&mut session, 2).await;
    let outcome = outcome(&mut session, "c", "exit 3").await;
    assert_eq!((outcome.kind(), outcome.code), (Kind::Exited, 3));
    agent.line("Agent registered").await;
    let path = path.display();
    for said in [
        format!("WARN  cannot write the log file {path}/agent.log: read-only file system"),
        format!("WARN  the state directory {path} cannot be written (read-only file system): going on with state in"),
    ] {
        assert_eq!(agent.count(&said), 1, "{said}: {:#?}", agent.log);
    }
    was_steady(&agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_routing_socket_it_warns_once_and_goes_on() {
    let mut master = Master::start().await;
    let mut agent = start(folder(), &master, &[], cramped::without_netlink);
    let mut session = master.active(1).await;
    beats(&mut session, 2).await;
    drop(session);
    master.active(2).await;
    agent.signal(libc::SIGTERM);
    agent.line("INFO  Agent stopped").await;
    assert_eq!(agent.count("WARN  cannot watch the network: "), 1, "{}", agent.log.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_open_files_commands_are_refused_and_the_link_stays() {
    let ((refused, exited), _) = tokio::join!(with_open_files(30), with_open_files(20));
    assert!(refused > 0 && exited > 0, "{refused} refused, {exited} exited");
}

/// Has an agent with so many open files run many commands at once; how many it refused and ran.
async fn with_open_files(limit: u64) -> (usize, usize) {
    const COMMANDS: usize = 12;
    let mut master = Master::start().await;
    let mut agent = start(folder(), &master, &[], |command| {
        cramped::limit(command, libc::RLIMIT_NOFILE, limit);
    });
    let mut session = master.active(1).await;
    for number in 0..COMMANDS {
        session.send(run(&format!("c{number}"), "sleep 1")).await;
    }
    let (mut refused, mut exited, mut last) = (0, 0, Instant::now());
    while refused + exited < COMMANDS {
        match session.next().await.expect("the session goes on") {
            Up::Heartbeat(beat) => {
                assert!(last.elapsed() < GAP_MAX, "heartbeat {} came after {:?}", beat.seq, last.elapsed());
                last = Instant::now();
                session.ack(beat.seq).await;
            }
            Up::CommandFinished(finished) => {
                let outcome = finished.outcome.expect("an outcome");
                match outcome.kind() {
                    Kind::Exited => exited += 1,
                    Kind::Refused => {
                        assert!(outcome.reason.contains("too many open files"), "{}", outcome.reason);
                        refused += 1;
                    }
                    other => panic!("{other:?}: {}", outcome.reason),
                }
                session.send(Down::FinishedAck(proto::FinishedAck { id: finished.id })).await;
            }
            _ => {}
        }
    }
    if exited > 0 {
        // What was taken is given back.
        let outcome = outcome(&mut session, "later", "exit 3").await;
        assert_eq!((outcome.kind(), outcome.code), (Kind::Exited, 3), "{}", outcome.reason);
    }
    // Also for a session that is new.
    drop(session);
    beats(&mut master.active(2).await, 3).await;
    agent.line("Agent registered").await;
    agent.line("Agent registered").await;
    assert_eq!(agent.count("Heartbeat failed"), 0);
    (refused, exited)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_too_few_open_files_to_start_it_says_so() {
    let master = Master::start().await;
    let mut agent = start(folder(), &master, &[], |command| {
        cramped::limit(command, libc::RLIMIT_NOFILE, 8);
    });
    assert_eq!(agent.exit().await, 1);
    let expected = "ERROR cannot start: too many open files: the limit is 8, an agent needs 20";
    assert_eq!(agent.count(expected), 1, "{:#?}", agent.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_program_has_taken_all_processes_it_waits_for_one_and_keeps_its_link() {
    // Nobody else's, and not root, who is above such a limit.
    let user = 1_000_000 + std::process::id();
    let done_as = |mut command: std::process::Command| {
        std::os::unix::process::CommandExt::gid(&mut command, user);
        std::os::unix::process::CommandExt::uid(&mut command, user);
        command.output().is_ok_and(|done| done.status.success())
    };
    let mut trial = common::program();
    trial.arg("--version");
    if !needs("right to become another user", done_as(trial)) {
        return;
    }
    // Whoever may change it is the user itself.
    let limit_processes = |agent: &Agent, most: &str| {
        let mut prlimit = std::process::Command::new("prlimit");
        prlimit.args(["--pid", &agent.pid().to_string(), &format!("--nproc={most}:")]);
        assert!(done_as(prlimit));
    };
    let state = folder();
    std::os::unix::fs::chown(state.path(), Some(user), Some(user)).expect("we are root");
    let gate = state.path().join("gate");
    let mut master = Master::start().await;
    let mut agent = start(state, &master, &[], |command| {
        command.uid(user).gid(user);
    });
    let mut session = master.active(1).await;
    session.send(run("runs", &format!("until [ -e {} ]; do sleep 0.02; done; exit 3", gate.display()))).await;
    agent.line("Command runs started").await;
    limit_processes(&agent, "1");
    std::fs::write(gate, "").expect("our own folder");
    session.send(run("comes", "exit 4")).await;
    // The node's status, which a helper looks for, is due among them.
    beats(&mut session, 13).await;
    agent.line("There is no thread to be had").await;
    limit_processes(&agent, "1000");
    agent.line("Command comes exited with code 4").await;
    assert_eq!(agent.count("Command runs exited with code 3"), 1);
    beats(&mut session, 3).await;
    was_steady(&agent);
}

/// Each of them takes longer than [`GAP_MAX`].
const SLOW_SYNC: &str = "
#include <unistd.h>
int fsync(int fd) { usleep(5200000); return 0; }
int fdatasync(int fd) { usleep(5200000); return 0; }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_seconds_delays_no_heartbeat() {
    let libraries = folder();
    let library = cramped::library(libraries.path(), SLOW_SYNC);
    if !needs("C compiler", library.is_some()) {
        return;
    }
    let mut master = Master::start().await;
    let mut agent = start(folder(), &master, &[], |command| {
        command.env("LD_PRELOAD", library.expect("just made"));
    });
    let mut session = master.active(1).await;
    // The epoch is being made durable meanwhile: file and directory.
    beats(&mut session, 7).await;
    let outcome = outcome(&mut session, "c", "exit 3").await;
    assert_eq!((outcome.kind(), outcome.code), (Kind::Exited, 3));
    agent.kept("epoch", "1\n").await;
    agent.line("Agent registered").await;
    was_steady(&agent);
}

const HANGING_NAMES: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    for (int i = 0; i < 6000 && access(getenv("HANGS"), F_OK) == 0; i++) usleep(5000);
    return real("127.0.0.1", service, hints, found);
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_hangs_is_said_and_holds_nothing_else_up() {
    let libraries = folder();
    let library = cramped::library(libraries.path(), HANGING_NAMES);
    if !needs("C compiler", library.is_some()) {
        return;
    }
    // Where the resolver of this test finds every name.
    let mut master = Master::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
    let hangs = libraries.path().join("hangs");
    let address = format!("master.test:{}", master.address.port());
    let mut agent = start_at(folder(), &address, &["connection.timeout=\"10s\""], |command| {
        command.env("LD_PRELOAD", library.expect("just made")).env("HANGS", &hangs);
    });
    let mut session = master.active(1).await;
    std::fs::write(&hangs, "").expect("our own folder");
    beats(&mut session, 2).await;
    drop(session);
    agent.line("Lost connection").await;
    agent.line("(attempt 1): cannot resolve master.test: no answer from the resolver within 8s").await;
    // The disk has a thread of its own.
    agent.contains("status.json", "Reconnecting").await;
    std::fs::remove_file(&hangs).expect("it is there");
    let mut session = master.active(2).await;
    beats(&mut session, 2).await;
    assert_eq!(agent.count("Heartbeat failed"), 0);
}
