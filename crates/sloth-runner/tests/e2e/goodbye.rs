//! A master that ends on purpose.

use crate::fleet::Master;
use std::fs;

#[test]
fn a_master_that_is_told_to_end_sends_its_agents_away_and_its_commands_go_on() {
    let mut master = Master::start();
    let agent = master.agent("lady");
    let dir = master.folder.path().to_str().unwrap().to_owned();
    let line = "echo a; until [ -e gate ]; do sleep 0.02; done; echo z";
    let tool = master.tool_started(&["agent", "run", "lady", "--dir", &dir, "--shell", line]);
    tool.out.line("a");
    master.running.signal(libc::SIGTERM);
    assert_eq!(master.running.wait(), 0, "{}", master.running.err.text());
    tool.err.line("lost the master at");
    master.again();
    agent.line("Agent registered with master");
    fs::write(master.path("gate"), "").unwrap();
    assert_eq!(tool.done().expect(0).text(), "a\nz\n");
}
