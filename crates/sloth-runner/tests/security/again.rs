//! Agents whose certificate has ended or was replaced on disk, and tokens that are named later or are gone.

use crate::secured::{Agent, Master, PATIENCE, program, run};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};
use tempfile::TempDir;
use tokio::time::timeout;

/// An agent, its state directory and its configuration file.
struct Node {
    folder: TempDir,
    state: PathBuf,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.path().join("agent.toml"), "").unwrap();
        Self { folder, state }
    }

    fn identity(&self) -> PathBuf {
        self.state.join("identity.pem")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("new.token")
    }

    fn start(&self, master: &Master, options: &[&str]) -> Agent {
        let config = self.config().display().to_string();
        let options = [&["--config", &config][..], options].concat();
        master.agent(&self.state, "lady", &options)
    }

    /// Names a file with this token in the configuration.
    fn give(&self, token: &str) {
        let file = self.token_file();
        fs::write(&file, token).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        fs::write(self.config(), format!("auth.token_file = {:?}\n", file.display().to_string())).unwrap();
    }

    /// `sloth-runner agent WORD`, with the agent's configuration.
    async fn says(&self, master: &Master, word: &str) -> (i32, String) {
        let mut command = program();
        command.args(["agent", word, "--name", "lady", "--master", &master.address, "--config"]).arg(self.config());
        command.arg("--state-dir").arg(&self.state).current_dir(self.folder.path());
        let done = run(command).await;
        (done.code, done.out + &done.err)
    }

    fn replace(&self, with: &[u8]) {
        let new = self.folder.path().join("new.pem");
        fs::write(&new, with).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.identity()).unwrap();
    }
}

/// A master, and what an agent of it was given and has ended; from now on others are good for long.
async fn expired(node: &Node) -> (Master, Vec<u8>) {
    let mut master = Master::start(&["tls.agent_life=12s"]).await;
    let mut agent = master.joins(&node.state, "lady");
    agent.active().await;
    let first = fs::read(node.identity()).unwrap();
    for _ in 0..2 {
        agent.log.line("The certificate of this agent is renewed").await;
    }
    agent.kill().await;
    master.restart().await;
    fs::write(node.identity(), &first).unwrap();
    (master, first)
}

fn hangup(agent: &Agent) {
    let pid = agent.process.id().expect("it runs").cast_signed();
    // SAFETY: plain integers; the process is the test's own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGHUP) }, 0);
}

async fn joined(master: &Master) -> usize {
    master.tool("agent events").await.out.matches("agent.joined").count()
}

const ENDED: &str = "the certificate of this agent ended on 20";

#[tokio::test]
async fn explain_knows_that_the_certificate_of_an_agent_that_is_away_has_ended() {
    let node = Node::new();
    let (master, _) = expired(&node).await;
    let mut agent = node.start(&master, &[]);
    agent.log.line(ENDED).await;
    // The one that it had after that may be good for some seconds more.
    let told = async {
        loop {
            let explained = master.tool("agent explain lady").await.out;
            if explained.contains("Its certificate has ended") {
                return explained;
            }
        }
    };
    let explained = timeout(PATIENCE, told).await.expect("it is told");
    assert!(
        explained.contains("ended while it was away") && explained.contains("token create --name lady"),
        "{explained}"
    );
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_told_and_a_new_token_is_joined_with_at_a_reload() {
    let node = Node::new();
    let (master, _) = expired(&node).await;
    // With a wait that is soon the longest it would fall silent after a while; a hangup ends any wait.
    let mut agent = node.start(&master, &["--set", "reconnect.max_delay=\"1h\""]);
    for attempt in 1..=3 {
        let line = agent.log.line(&format!("(attempt {attempt}): {ENDED}")).await;
        assert!(
            line.contains("Z: join again with a new token: `sloth-runner token create --name NAME`, NAME being"),
            "{line}"
        );
    }
    let (code, said) = node.says(&master, "status").await;
    assert!(code == 1 && said.contains(ENDED) && said.contains("(it has ended: join again with a new token"), "{said}");
    let (code, said) = node.says(&master, "check").await;
    assert!(code == 0 && said.contains(&format!("certificate      {ENDED}")), "{said}");
    let (code, said) = node.says(&master, "doctor").await;
    let cause = said.lines().find(|line| line.starts_with("Cause: registration with master at")).unwrap_or_default();
    assert!(code == 1 && cause.contains(ENDED), "{said}");
    assert!(said.contains(&format!("warning    certificate      {ENDED}")), "{said}");
    assert_eq!(joined(&master).await, 1, "it does not join by itself");

    // A token that admits nobody changes nothing, one that does is all that it needs.
    node.give(&master.token("--ttl 1ms").await);
    hangup(&agent);
    agent.log.line("The new token is of no use, the certificate stays: the token has expired").await;
    agent.log.line(ENDED).await;
    // Ids are no secret: it must be for the agent's name.
    node.give(&master.token("--uses 1").await);
    hangup(&agent);
    agent.log.line("The new token is of no use, the certificate stays: this agent id is that of lady").await;
    node.give(&master.token("--uses 1 --name lady").await);
    hangup(&agent);
    agent.log.line("Joined with token ").await;
    agent.active().await;
    assert_eq!(joined(&master).await, 2);
    let (code, said) = node.says(&master, "check").await;
    assert!(code == 0 && said.contains("certificate      given for a token, good until 20"), "{said}");
}

#[tokio::test]
async fn a_certificate_replaced_on_disk_is_used_for_the_next_connection() {
    let node = Node::new();
    let (mut master, ended) = expired(&node).await;
    let token = master.token("--name lady").await;
    let mut agent = node.start(&master, &["--token", &token]);
    agent.active().await;
    agent.kill().await;
    let good = fs::read(node.identity()).unwrap();
    let mut agent = node.start(&master, &[]);
    agent.active().await;
    node.replace(&ended);
    assert_eq!(master.tool("agent run lady -- true").await.code, 0, "the session goes on");
    master.restart().await;
    agent.log.line("identity.pem is another than before: used from now on").await;
    agent.log.line(ENDED).await;
    node.replace(&good);
    agent.active().await;

    // What is of no use is told, and the one in memory is as good as it was.
    node.replace(b"half a fi");
    master.restart().await;
    let line = agent.log.line("does not hold this agent's key and certificate").await;
    assert!(line.contains("goes on with the certificate that it has"), "{line}");
    agent.active().await;
    assert_eq!(joined(&master).await, 2);
}

#[tokio::test]
async fn an_agent_that_has_joined_needs_no_token_file_and_another_does() {
    let master = Master::start(&[]).await;
    let node = Node::new();
    node.give(&master.token("").await);
    let mut agent = node.start(&master, &[]);
    agent.active().await;
    fs::remove_file(node.token_file()).unwrap();
    // A reload is told, and the session stays.
    hangup(&agent);
    agent.log.line("config: the token changed").await;
    agent.kill().await;
    let mut agent = node.start(&master, &[]);
    agent.log.line("INFO  auth.token_file is ").await;
    agent.active().await;
    let (code, said) = node.says(&master, "check").await;
    assert!(code == 0 && said.contains("is not there: this agent has joined, and needs no token"), "{said}");
    agent.kill().await;

    fs::remove_file(node.identity()).unwrap();
    let mut agent = node.start(&master, &[]);
    agent.log.line("which cannot be read (no such file or directory): check it").await;
    assert_eq!(agent.process.wait().await.unwrap().code(), Some(2));
}

#[tokio::test]
async fn an_agent_that_has_joined_comes_back_after_its_disk_has_become_read_only() {
    let master = Master::start(&[]).await;
    let node = Node::new();
    let once = master.token("--uses 1").await;
    let mut agent = node.start(&master, &["--token", &once]);
    agent.active().await;
    agent.kill().await;
    // What is not a file cannot be opened to be written, for root neither.
    let lock = node.state.join("lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let (code, said) = node.says(&master, "doctor").await;
    assert!(code == 0 && said.contains("ok         certificate      given to this agent for a token"), "{said}");
    let mut agent = node.start(&master, &[]);
    agent.log.line("going on with state in memory").await;
    agent.active().await;
    assert_eq!(joined(&master).await, 1, "it is the same one");
}

#[tokio::test]
async fn a_token_named_while_the_agent_runs_is_joined_with_at_the_reload() {
    let master = Master::start(&[]).await;
    let node = Node::new();
    let mut agent = node.start(&master, &[]);
    agent.log.line("the master speaks TLS, and this agent is not told to").await;
    let once = master.token("--uses 1").await;
    node.give(&once);
    hangup(&agent);
    let line = agent.log.line("Joined with token ").await;
    assert!(line.contains(&sloth_agent::token::Token::parse(&once).unwrap().id()), "{line}");
    agent.active().await;

    // Another one, while there is a session: it is joined with, and no command notices.
    let id = master.tool("agent run lady --detach -- sleep 300").await.out.trim().to_owned();
    node.give(&master.token("--name lady --label site=a").await);
    hangup(&agent);
    agent.log.line("Joined with token ").await;
    agent.active().await;
    assert!(!agent.log.seen.join("\n").contains("Lost connection"), "{}", agent.log.seen.join("\n"));
    let row = master.tool("agent get lady").await.out;
    assert!(row.contains("site=a"), "{row}");
    let done = master.tool(&format!("command get {id}")).await;
    assert!(done.out.contains("Outcome   -"), "it has ended: {}", done.out);
    assert_eq!(master.tool(&format!("command cancel {id}")).await.code, 0);
    assert_eq!(joined(&master).await, 2);
}
