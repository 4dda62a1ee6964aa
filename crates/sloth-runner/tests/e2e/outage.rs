//! Commands that last through an outage of the master.

use crate::fleet::{Agent, Master, all_bytes, until};
use std::fs;

/// A command whose parts wait for the test: `a`, then, when `gate-1` is there, everything of `bytes`, then, when
/// `gate-2` is there, `z`. It says what it has done by making `made`.
struct Long {
    master: Master,
    agent: Agent,
}

const SCRIPT: &str = "echo a; until [ -e gate-1 ]; do sleep 0.02; done; cat bytes; echo err >&2; touch made; \
                      until [ -e gate-2 ]; do sleep 0.02; done; echo z; exit 7";

impl Long {
    fn new() -> Self {
        let master = Master::start();
        let agent = master.agent("lady");
        fs::write(master.path("bytes"), all_bytes()).unwrap();
        Self { master, agent }
    }

    fn run<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let dir = self.master.folder.path().to_str().unwrap();
        let start = ["agent", "run", "lady", "--dir", dir, "--shell", SCRIPT];
        start.into_iter().chain(more.iter().copied()).collect()
    }

    /// The master dies, the command writes, the master starts again, the command goes on to its end.
    fn outage(&mut self) {
        self.master.kill();
        self.agent.line("Lost connection to master");
        fs::write(self.master.path("gate-1"), "").unwrap();
        until("the output of the outage", || self.master.path("made").exists().then_some(()));
        self.master.again();
        self.agent.line("Agent registered with master");
        fs::write(self.master.path("gate-2"), "").unwrap();
    }
}

fn whole() -> Vec<u8> {
    [b"a\n", &all_bytes()[..], b"z\n"].concat()
}

#[test]
fn who_follows_a_command_over_the_masters_death_gets_its_whole_output_and_its_code() {
    let mut long = Long::new();
    let tool = long.master.tool_started(&long.run(&[]));
    tool.out.line("a");
    long.outage();
    let done = tool.done().expect(7);
    assert!(done.stdout == whole(), "{} bytes", done.stdout.len());
    assert_eq!(done.stderr.matches("lost the master").count(), 1, "{}", done.stderr);
    assert_eq!(done.stderr.matches("back with the master").count(), 1, "{}", done.stderr);
    assert_eq!(done.stderr.matches("err\n").count(), 1, "{}", done.stderr);
}

#[test]
fn a_detached_command_is_followed_over_the_masters_death_and_kept_after_it() {
    let mut long = Long::new();
    let id = long.master.tool(&long.run(&["--detach"])).expect(0).text().trim().to_owned();
    let follower = long.master.tool_started(&["command", "logs", &id, "--follow"]);
    follower.out.line("a");
    long.outage();
    let done = follower.done().expect(0);
    assert!(done.stdout == whole(), "{} bytes", done.stdout.len());
    let row = long.master.until_finished(&id);
    assert_eq!((&row["outcome"], &row["code"]), (&"exited".into(), &7.into()), "{row}");
    assert_eq!(row["output_bytes"], (whole().len() + "err\n".len()) as u64);
    assert!(row["gaps"].as_array().unwrap().is_empty());
    assert!(long.master.tool(&["command", "logs", &id]).expect(0).stdout == whole());
}

#[test]
fn a_command_that_ends_while_the_master_is_away_is_told_once_it_is_back() {
    let mut long = Long::new();
    let id = long.master.tool(&long.run(&["--detach"])).expect(0).text().trim().to_owned();
    long.agent.line("started");
    long.master.kill();
    for gate in ["gate-1", "gate-2"] {
        fs::write(long.master.path(gate), "").unwrap();
    }
    long.agent.line(&format!("Command {id} exited"));
    long.master.again();
    let row = long.master.until_finished(&id);
    assert_eq!(row["code"], 7, "{row}");
    assert!(long.master.tool(&["command", "logs", &id]).expect(0).stdout == whole());
    assert_eq!(long.master.events("lady", "command.finished").len(), 1);
}
