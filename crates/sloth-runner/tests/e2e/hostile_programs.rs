//! Programs that behave badly: the agent, the master and the command's outcome are none the worse for it.

use crate::fleet::{Agent, Master, look, until};
use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What must be as before once the program is gone.
struct Before<'a> {
    master: &'a Master,
    agent: &'a Agent,
    files: usize,
}

impl<'a> Before<'a> {
    fn new(master: &'a Master, agent: &'a Agent) -> Self {
        // So that what the first command leaves open for the next ones is open already.
        master.tool(&["agent", "run", "lady", "-n", "--", "true"]).expect(0);
        until("the agent rests", || look::children(agent.running.pid()).is_empty().then_some(()));
        Self { master, agent, files: look::files(agent.running.pid()) }
    }

    #[track_caller]
    fn as_before(&self) {
        let pid = self.agent.running.pid();
        until("no child is left", || look::children(pid).is_empty().then_some(()));
        until("no file is left open", || (look::files(pid) <= self.files).then_some(()));
        assert_eq!(self.master.tool(&["agent", "run", "lady", "-n", "--", "echo", "well"]).expect(0).text(), "well\n");
        assert_eq!(self.agent.count("Lost connection"), 0, "{}", self.agent.running.err.text());
    }
}

/// Beyond this neither side's memory may grow, however much passes: the agent's 16 MiB of output, and room.
const MEMORY_MAX_KIB: u64 = 96 << 10;

fn kill(marked: &str) {
    for pid in look::marked(marked) {
        // SAFETY: a signal to a process of this test.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

#[test]
fn daemons_that_hold_and_fill_its_pipes_do_not_hold_its_outcome() {
    let master = Master::start();
    let agent = master.agent("lady");
    let before = Before::new(&master, &agent);
    let mark = look::mark();
    let line = "for n in 1 2 3 4 5 6 7 8; do setsid sh -c 'while sleep 0.01; do echo $$; echo $$ >&2; done' & done; \
                for n in 1 2 3 4 5 6 7 8; do setsid sleep 600 & done; echo over; exit 3";
    let done = master.tool(&["agent", "run", "lady", "-n", "--env", &mark, "--shell", line]).expect(3);
    assert!(done.text().contains("over\n"));
    kill(&mark);
    before.as_before();
}

#[test]
fn one_that_closes_its_output_and_goes_on_is_over_when_it_ends() {
    let master = Master::start();
    let agent = master.agent("lady");
    let before = Before::new(&master, &agent);
    let dir = master.folder.path().to_str().unwrap();
    let line = "echo said; exec >&- 2>&- <&-; touch closed; until [ -e gate ]; do sleep 0.02; done; exit 9";
    let tool = master.tool_started(&["agent", "run", "lady", "-n", "--id", "x", "--dir", dir, "--shell", line]);
    until("it has closed them", || master.path("closed").exists().then_some(()));
    assert_eq!(master.json(&["command", "get", "x"])["outcome"], serde_json::Value::Null);
    fs::write(master.path("gate"), "").unwrap();
    assert_eq!(tool.done().expect(9).text(), "said\n");
    before.as_before();
}

#[test]
fn two_hundred_megabytes_that_nobody_reads_cost_no_memory_and_no_heartbeat() {
    let master = Master::start();
    let agent = master.agent("lady");
    let before = Before::new(&master, &agent);
    // One that nobody follows, and one whose reader takes nothing.
    let line = "head -c 200000000 /dev/zero";
    master.tool(&["agent", "run", "lady", "--detach", "--id", "x", "--shell", line]).expect(0);
    let mut stuck = Command::new(env!("CARGO_BIN_EXE_sloth-runner"))
        .args(["--master", &master.address.to_string(), "agent", "run", "lady", "-n", "--id", "y", "--shell", line])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut agents, mut masters, mut tools) = (0, 0, 0);
    for id in ["x", "y"] {
        until(&format!("the end of {id}"), || {
            agents = agents.max(look::anonymous_kib(agent.running.pid()));
            masters = masters.max(look::anonymous_kib(master.running.pid()));
            tools = tools.max(look::anonymous_kib(stuck.id().cast_signed()));
            (master.json(&["command", "get", id])["state"] == "finished").then_some(())
        });
        let row = master.until_finished(id);
        assert_eq!((&row["output_bytes"], row["gaps"].as_array().unwrap().len()), (&200_000_000.into(), 0), "{row}");
    }
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    for (who, kib) in [("agent", agents), ("master", masters), ("tool", tools)] {
        assert!(kib < MEMORY_MAX_KIB, "the {who} took {kib} KiB");
    }
    before.as_before();
}

/// As a command that prints without an end does: what is beyond the master's `commands.output_keep` is counted and
/// let go.
#[test]
#[ignore = "takes minutes"]
fn ten_gigabytes_cost_no_memory_and_what_is_not_kept_is_a_gap() {
    const BYTES: u64 = 10_000_000_000;
    const KEPT: u64 = 1 << 30;
    let master = Master::start();
    let agent = master.agent("lady");
    let before = Before::new(&master, &agent);
    let line = format!("head -c {BYTES} /dev/zero");
    let began = Instant::now();
    master.tool(&["agent", "run", "lady", "--detach", "--id", "x", "--shell", &line]).expect(0);
    let (mut agents, mut masters) = (0, 0);
    let row = loop {
        agents = agents.max(look::anonymous_kib(agent.running.pid()));
        masters = masters.max(look::anonymous_kib(master.running.pid()));
        let row = master.json(&["command", "get", "x"]);
        if row["state"] == "finished" {
            break row;
        }
        assert!(began.elapsed() < Duration::from_secs(1_800), "it does not end: {row}");
        std::thread::sleep(Duration::from_millis(100));
    };
    eprintln!("{:?}: the agent took {agents} KiB, the master {masters} KiB", began.elapsed());
    assert_eq!((&row["code"], &row["output_bytes"]), (&0.into(), &BYTES.into()), "{row}");
    assert_eq!(row["gaps"], serde_json::json!([{"offset": KEPT, "bytes": BYTES - KEPT}]));
    assert!(agents < MEMORY_MAX_KIB && masters < MEMORY_MAX_KIB, "{agents}, {masters} KiB");
    before.as_before();
}

#[test]
fn a_line_of_a_hundred_megabytes_passes_through_in_pieces() {
    a_line_passes_through_in_pieces(100_000_000);
}

#[test]
#[ignore = "takes a minute or more, and 2 GB of room"]
fn a_line_of_a_gigabyte_passes_through_in_pieces() {
    a_line_passes_through_in_pieces(1_000_000_000);
}

fn a_line_passes_through_in_pieces(bytes: u64) {
    let master = Master::start();
    let agent = master.agent("lady");
    let _other = master.agent("mari");
    let before = Before::new(&master, &agent);
    // On two agents: there lines are put together, each with its name before it.
    let line = &format!("head -c {bytes} /dev/zero | tr '\\0' x");
    let mut tool = Command::new(env!("CARGO_BIN_EXE_sloth-runner"))
        .args(["--master", &master.address.to_string(), "agent", "run", "lady", "mari", "--shell", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = tool.stdout.take().unwrap();
    let (mut letters, mut most, mut buffer) = (0_u64, 0, vec![0; 1 << 20]);
    loop {
        let count = std::io::Read::read(&mut out, &mut buffer).unwrap();
        if count == 0 {
            break;
        }
        letters += buffer[..count].iter().filter(|byte| **byte == b'x').count() as u64;
        most = most.max(look::anonymous_kib(tool.id().cast_signed()));
    }
    assert!(tool.wait().unwrap().success());
    assert_eq!(letters, 2 * bytes);
    assert!(most < MEMORY_MAX_KIB, "the tool took {most} KiB");
    before.as_before();
}

#[test]
fn one_that_leaves_its_group_and_session_does_not_hold_its_outcome() {
    let master = Master::start();
    let agent = master.agent("lady");
    let before = Before::new(&master, &agent);
    let mark = look::mark();
    let line = "setsid sh -c 'trap \"\" TERM HUP; echo away; while :; do sleep 0.05; done' & wait";
    let run = ["agent", "run", "lady", "-n", "--id", "x", "--env", &mark, "--shell", line];
    let tool = master.tool_started(&run);
    tool.out.line("away");
    master.tool(&["command", "cancel", "x"]).expect(0);
    tool.done().expect(255);
    assert_eq!(master.until_finished("x")["outcome"], "cancelled");
    kill(&mark);
    before.as_before();
}

#[test]
fn three_hundred_processes_of_one_command_end_with_it() {
    let master = Master::start();
    let agent = master.agent("lady");
    let before = Before::new(&master, &agent);
    let mark = look::mark();
    let line = "n=0; while [ $n -lt 300 ]; do sleep 600 & n=$((n+1)); done; echo all; wait";
    let run = ["agent", "run", "lady", "-n", "--id", "x", "--env", &mark, "--shell", line];
    let tool = master.tool_started(&run);
    tool.out.line("all");
    assert!(look::marked(&mark).len() > 300);
    // Beside them others run.
    assert_eq!(master.tool(&["agent", "run", "lady", "-n", "--", "echo", "me"]).expect(0).text(), "me\n");
    master.tool(&["command", "cancel", "x"]).expect(0);
    tool.done().expect(255);
    until("all of them are gone", || look::marked(&mark).is_empty().then_some(()));
    before.as_before();
}

#[test]
fn one_that_may_start_no_process_says_so_and_the_agent_goes_on() {
    let master = Master::start();
    let agent = master.agent("lady");
    let before = Before::new(&master, &agent);
    // Root is above this limit, so the command runs as nobody, of whom there are processes enough already: itself.
    let line = "ulimit -p 1 2>/dev/null || ulimit -u 1; (true) || echo refused; sleep 0 & wait; echo done";
    let user: &[&str] = if rooted() { &["--user", "nobody"] } else { &[] };
    let args: Vec<&str> =
        ["agent", "run", "lady", "-n"].iter().chain(user).chain(&["--shell", line]).copied().collect();
    let done = master.tool(&args);
    assert_ne!(done.code, 0, "it was let do what it may not: {}", done.text());
    assert!(done.stderr.to_lowercase().contains("fork"), "{}", done.stderr);
    before.as_before();
}

fn rooted() -> bool {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
