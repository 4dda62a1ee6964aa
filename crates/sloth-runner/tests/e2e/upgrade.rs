//! An agent's binary is replaced through the agent itself, as `docs/upgrading.md` says it, with `cross/upgrade.sh`.

use crate::fleet::{Master, Running, needs, running::feed, until};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// An agent in the background whose "binary" is a file of the test, which becomes the real one.
struct Node<'a> {
    master: &'a Master,
    binary: PathBuf,
}

impl<'a> Node<'a> {
    fn start(master: &'a Master) -> Self {
        let node = Self { master, binary: master.path("sloth-agent") };
        // By a child: what this process writes to, others that it starts meanwhile have open for a moment, and nobody
        // can run what somebody has open to write.
        let draft = master.path("draft");
        fs::write(&draft, becomes("--label made=old")).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new("cp").arg(&draft).arg(&node.binary).status().unwrap().success());
        let mut command = Command::new("sh");
        command.args(["-c", &node.start_line()]);
        Running::start(command, Stdio::null()).done().expect(0);
        node.is_made("old");
        node
    }

    fn start_line(&self) -> String {
        let (folder, binary) = (self.master.folder.path().display(), self.binary.display());
        let start = format!("agent start --daemon --name lady --state-dir {folder}/lady");
        let quick = "--set reconnect.initial_delay=\"100ms\" --set heartbeat.interval=\"200ms\"";
        format!("cd {folder} && {binary} {start} --master {} {quick}", self.master.address)
    }

    fn is_made(&self, how: &str) -> Value {
        until(&format!("lady is made {how} and Active"), || {
            let rows = self.master.json(&["agent", "list", "--status", "Active"]);
            rows.as_array().unwrap().iter().find(|row| row["labels"]["made"] == how).cloned()
        })
    }

    /// Sends a binary to the node and has it take over there: by two commands of the agent.
    /// The new one has so many seconds to connect.
    fn upgrade(&self, binary: &str, wait: &str) -> String {
        let folder = self.master.folder.path().display();
        let send = format!("cat > {folder}/new");
        let mut tool = self.master.tool_fed(&["agent", "run", "lady", "--shell", &send]);
        feed(tool.input.take().unwrap(), binary.as_bytes().to_vec());
        tool.done().expect(0);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cross/upgrade.sh");
        let restart = format!("{} agent stop --state-dir {folder}/lady; {}", self.binary.display(), self.start_line());
        let (new, target) = (format!("{folder}/new"), self.binary.to_str().unwrap());
        let which = format!("--state-dir {folder}/lady");
        let script = [script.to_str().unwrap(), "--binary", &new, "--target", target, "--which", &which];
        let words =
            [&["agent", "run", "lady", "-n", "--", "sh"], &script[..], &["--wait", wait, "--restart", &restart]];
        self.master.tool(&words.concat()).expect(0).text()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.master.path("sloth-agent.upgrade")).unwrap_or_default()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let mut stop = Command::new(env!("CARGO_BIN_EXE_sloth-runner"));
        let _ = stop.args(["agent", "stop", "--state-dir"]).arg(self.master.path("lady")).output();
    }
}

/// A binary that becomes the real one, and starts it with these options behind those that it is given.
fn becomes(options: &str) -> String {
    let real = env!("CARGO_BIN_EXE_sloth-runner");
    format!("#!/bin/sh\ncase $* in *start*) exec {real} \"$@\" {options} ;; *) exec {real} \"$@\" ;; esac\n")
}

#[test]
fn a_binary_that_connects_stays_and_one_that_does_not_is_taken_back() {
    if !needs("setsid (Debian: util-linux)", Path::new("/usr/bin/setsid").exists()) {
        return;
    }
    if Path::new("/run/systemd/system").exists() {
        // There the script hands over to systemd, which is this machine's and not the test's.
        eprintln!("skipped: systemd runs here");
        return;
    }
    let master = Master::start();
    let node = Node::start(&master);
    let id = node.is_made("old")["id"].clone();

    let said = node.upgrade(&becomes("--label made=new"), "60");
    assert!(said.contains("takes over in a moment"), "{said}");
    assert_eq!(node.is_made("new")["id"], id, "it is the same agent");
    until("it is told", || node.log().contains("the new one is connected").then_some(()));

    // It runs, and what it can be asked before looks well; only it never reaches its master.
    node.upgrade(&becomes("--set tls.enabled=true"), "5");
    until("the old one is put back", || node.log().contains("the old one is connected").then_some(()));
    assert_eq!(node.is_made("new")["id"], id);
    assert!(node.log().contains("is not connected after 5 s: the old one is put back"), "{}", node.log());

    // What does not run at all never takes the place.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cross/upgrade.sh");
    fs::write(master.path("new"), "no program").unwrap();
    let (new, target) = (master.path("new"), master.path("sloth-agent"));
    let words = ["agent", "run", "lady", "-n", "--", "sh", script.to_str().unwrap(), "--binary", new.to_str().unwrap()];
    let done = master.tool(&[&words[..], &["--target", target.to_str().unwrap()]].concat());
    assert!(done.code == 1 && done.stderr.contains("does not run here"), "{} {}", done.code, done.stderr);
}
