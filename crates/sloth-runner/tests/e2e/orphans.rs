//! Nothing of a command outlives it, and no dead child is left lying.

use crate::fleet::{Agent, Master, look, until};

/// Of the worst sort: does not listen to SIGTERM, has children, and a child in the background of which its parent is
/// gone.
const STUBBORN: &str =
    "trap '' TERM; (sleep 600 & sleep 600 & wait) & (sleep 600 &); echo ready; while :; do sleep 0.05; done";

/// Runs it on the agent, does something about it, and returns the finished command once nothing of it is left.
fn end_of_stubborn(master: &Master, agent: &Agent, id: &str, more: &[&str], end: impl FnOnce()) {
    let mark = look::mark();
    let run = ["agent", "run", "lady", "-n", "--id", id, "--env", &mark, "--shell", STUBBORN];
    let tool = master.tool_started(&run.into_iter().chain(more.iter().copied()).collect::<Vec<_>>());
    tool.out.line("ready");
    until("all of it runs", || (look::marked(&mark).len() >= 5).then_some(()));
    end();
    tool.done().expect(255);
    assert_eq!(look::marked(&mark), [] as [i32; 0], "{id}");
    until("the dead are waited for", || look::zombies(agent.running.pid()).is_empty().then_some(()));
}

#[test]
fn a_command_that_does_not_listen_is_killed_with_all_that_it_started() {
    let master = Master::start();
    let agent = master.agent("lady");
    end_of_stubborn(&master, &agent, "cancelled", &[], || {
        master.tool(&["command", "cancel", "cancelled"]).expect(0);
    });
    assert_eq!(master.until_finished("cancelled")["outcome"], "cancelled");
    end_of_stubborn(&master, &agent, "timed-out", &["--timeout", "5s"], || {});
    assert_eq!(master.until_finished("timed-out")["outcome"], "timed_out");
    assert_eq!(look::children(agent.running.pid()), [] as [i32; 0]);
}

#[test]
fn an_agent_that_is_told_to_end_leaves_no_process_and_delivers_the_outcome() {
    let master = Master::start();
    let mut agent = master.agent("lady");
    let mark = look::mark();
    let tool = master.tool_started(&["agent", "run", "lady", "-n", "--id", "x", "--env", &mark, "--shell", STUBBORN]);
    tool.out.line("ready");
    until("all of it runs", || (look::marked(&mark).len() >= 5).then_some(()));
    agent.running.signal(libc::SIGTERM);
    assert_eq!(agent.running.wait(), 0, "{}", agent.running.err.text());
    assert_eq!(look::marked(&mark), [] as [i32; 0]);
    let done = tool.done().expect(255);
    assert!(done.stderr.contains("the command was"), "{}", done.stderr);
    assert_eq!(master.until_finished("x")["state"], "finished");
    master.until_status("lady", "Stopped");
}

#[test]
fn an_agent_that_is_told_to_end_lets_a_command_finish_within_its_grace() {
    let master = Master::start();
    let mut agent = master.agent_with("lady", &["--set", "shutdown.grace=\"1m\""]);
    let dir = master.folder.path().to_str().unwrap();
    let line = "echo a; until [ -e gate ]; do sleep 0.02; done; echo z; exit 3";
    let tool = master.tool_started(&["agent", "run", "lady", "--dir", dir, "--shell", line]);
    tool.out.line("a");
    agent.running.signal(libc::SIGTERM);
    agent.line("Shutting down: waiting up to");
    let refused = master.tool(&["agent", "run", "lady", "--", "true"]).expect(255);
    assert!(!refused.stderr.is_empty());
    std::fs::write(master.path("gate"), "").unwrap();
    assert_eq!(tool.done().expect(3).text(), "a\nz\n");
    assert_eq!(agent.running.wait(), 0);
    master.until_status("lady", "Stopped");
}

#[test]
fn a_daemon_that_a_command_leaves_does_not_hold_its_outcome() {
    let master = Master::start();
    let agent = master.agent("lady");
    let mark = look::mark();
    // In a session of its own, and holding both pipes.
    let line = "setsid sleep 600 & echo started";
    let done = master.tool(&["agent", "run", "lady", "--env", &mark, "--shell", line]).expect(0);
    assert_eq!(done.text(), "started\n");
    for pid in look::marked(&mark) {
        // SAFETY: a signal to a process of this test.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    until("the dead are waited for", || look::zombies(agent.running.pid()).is_empty().then_some(()));
}
