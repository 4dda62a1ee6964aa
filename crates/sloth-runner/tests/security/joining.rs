//! Getting in by a token and being put out: agents that join, and who is not let in.

use crate::{
    files,
    secured::{Master, program, run},
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

#[tokio::test]
async fn an_agent_joins_by_the_printed_command_and_needs_the_token_no_more() {
    let mut master = Master::start(&[]).await;
    assert!(master.command.starts_with(&format!("sloth-agent start --master {} --token sloth1.", master.address)));
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.log.line("Joined with token ").await;
    agent.active().await;
    let done = master.tool("agent run lady -- echo hello").await;
    assert_eq!((done.code, done.out.as_str()), (0, "hello\n"), "{}", done.err);
    let identity = state.path().join("identity.pem");
    assert_eq!(fs::metadata(&identity).unwrap().mode() & 0o777, 0o600);

    agent.kill().await;
    let mut agent = master.agent(state.path(), "lady", &[]);
    agent.active().await;
    assert!(!agent.log.seen.join("\n").contains("Joined"), "it needed a token");
    master.restart().await;
    agent.active().await;
    let done = master.tool("agent run lady --wait 5m -- echo again").await;
    assert_eq!((done.code, done.out.as_str()), (0, "again\n"), "{}", done.err);
    let events = master.tool("agent events").await.out;
    let id =
        sloth_agent::token::Token::parse(fs::read_to_string(master.file("join.token")).unwrap().trim()).unwrap().id();
    assert!(events.contains("agent.joined") && events.contains(&format!("by token {id}, from 127.0.0.1:")), "{events}");
    assert!(events.contains("by operator with token "), "{events}");

    // Of all that was written nothing holds a secret, but for the files that are there to hold it.
    let said = [agent.log.seen.join("\n"), master.log.seen.join("\n"), events].concat();
    agent.kill().await;
    let join = fs::read_to_string(master.file("join.token")).unwrap();
    for token in [master.operator(), join.trim().to_owned()] {
        let secret = token.rsplit('.').next().unwrap();
        assert!(secret.len() > 40 && !said.contains(secret));
        let holds = |path: &Path| fs::read(path).unwrap().windows(secret.len()).any(|part| part == secret.as_bytes());
        let all = [files(state.path()), files(master.directory.path())].concat();
        let holding: Vec<_> = all.into_iter().filter(|path| holds(path)).collect();
        assert!(holding.len() == 1 && holding[0].extension().is_some_and(|end| end == "token"), "{holding:?}");
    }
}

#[tokio::test]
async fn nothing_is_told_to_a_master_that_is_not_the_tokens() {
    let (master, mut other) = (Master::start(&[]).await, Master::start(&[]).await);
    let token = master.token("").await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = other.agent(state.path(), "lady", &["--token", &token]);
    agent.log.line("the master shows another CA than the one that the token names").await;
    other.log.line("TLS with 127.0.0.1").await;
    assert!(!state.path().join("identity.pem").exists());
    assert!(!other.log.seen.join("\n").contains("does not join"), "it was asked to let it join");
    let done = other.tool_with(&master.operator(), "agent list").await;
    assert!(done.code == 1 && done.err.contains("shows another CA than the one that the token names"), "{}", done.err);
}

#[tokio::test]
async fn a_token_that_does_not_admit_says_why() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let once = master.token("--uses 1").await;
    let (first, second) = (state.path().join("a"), state.path().join("b"));
    fs::create_dir_all(&first).unwrap();
    fs::create_dir_all(&second).unwrap();
    master.agent(&first, "a", &["--token", &once]).active().await;
    master.agent(&second, "b", &["--token", &once]).log.line("the token is used up: make another with").await;

    let named = master.token("--name lady").await;
    master.agent(&second, "b", &["--token", &named]).log.line("start it with --name lady").await;

    let brief = master.token("--ttl 1ms").await;
    master.agent(&second, "b", &["--token", &brief]).log.line("the token has expired").await;

    let revoked = master.token("").await;
    let id = sloth_agent::token::Token::parse(&revoked).unwrap().id();
    assert_eq!(master.tool(&format!("token revoke {id}")).await.code, 0);
    master.agent(&second, "b", &["--token", &revoked]).log.line("the token is revoked").await;
    let list = master.tool("token list").await.out;
    for state in ["valid", "used up", "expired", "revoked"] {
        assert!(list.contains(state), "{state}: {list}");
    }

    let operator = master.operator();
    master.agent(&second, "b", &["--token", &operator]).log.line("of role operator and does not serve").await;

    let cut = &once[..once.len() - 5];
    master.agent(&second, "b", &["--token", cut]).log.line("is cut short or mistyped: copy all of it again").await;
}

#[tokio::test]
async fn a_deleted_agent_is_out_at_once_and_comes_back_by_a_new_token() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let older = master.token("").await;
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let done = master.tool("agent delete lady --force").await;
    assert_eq!(done.code, 0, "{}", done.err);
    agent.log.line("this agent's certificate is revoked: an operator deleted it").await;
    agent.kill().await;
    let mut agent = master.agent(state.path(), "lady", &[]);
    agent.log.line("this agent's certificate is revoked").await;
    agent.kill().await;
    assert!(master.tool("agent list").await.out.lines().all(|line| !line.contains("lady")));
    let mut agent = master.agent(state.path(), "lady", &["--token", &older]);
    agent.log.line("an operator has deleted this agent, and the token was made before that").await;
    agent.kill().await;

    let token = master.token("").await;
    let mut agent = master.agent(state.path(), "lady", &["--token", &token]);
    agent.log.line("Joined with token ").await;
    agent.active().await;
}

#[tokio::test]
async fn who_speaks_in_the_clear_is_told_so() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.agent(state.path(), "lady", &[]);
    agent.log.line("the master speaks TLS, and this agent is not told to: set tls.ca_file, give it a token").await;
    let mut tool = program();
    tool.args(["--master", &master.address, "agent", "list"]);
    let done = run(tool).await;
    assert!(done.code == 1 && done.err.contains("one with TLS (then give a token"), "{}", done.err);
}

#[tokio::test]
async fn the_place_of_another_agent_is_taken_only_by_a_token_for_its_name() {
    let master = Master::start(&[]).await;
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut agent = master.joins(one.path(), "lady");
    agent.active().await;
    agent.kill().await;
    let mut agent = master.joins(other.path(), "lady");
    agent.log.line("another agent has the name lady: give this one another name").await;
    agent.kill().await;
    let token = master.token("--name lady --label site=a").await;
    master.agent(other.path(), "lady", &["--token", &token]).active().await;
    let row = master.tool("agent get lady").await.out;
    assert!(row.contains("site=a"), "{row}");
}

/// What `agent explain` says of one, as JSON.
async fn explained(master: &Master, name: &str) -> serde_json::Value {
    let done = master.tool(&format!("-o json agent explain {name}")).await;
    assert_eq!(done.code, 0, "{}", done.err);
    serde_json::from_str(&done.out).unwrap()
}

#[tokio::test]
async fn why_an_agent_is_not_let_in_is_explained_whether_or_not_it_ever_was() {
    let master = Master::start(&[]).await;
    let [known, stranger] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let used = master.token("--uses 1").await;
    let mut agent = master.agent(known.path(), "lady", &["--token", &used]);
    agent.active().await;
    agent.kill().await;

    // It never was.
    let mut newcomer = master.agent(stranger.path(), "kei", &["--token", &used]);
    newcomer.log.line("the token is used up").await;
    let told = explained(&master, "kei").await;
    assert_eq!((&told["status"], &told["reason"]), (&"Unknown".into(), &"not_joined".into()));
    assert!(told["detail"].as_str().unwrap().starts_with("the token is used up"), "{told}");
    assert!(told["advice"].as_str().unwrap().starts_with("It asks to join and is not let in"), "{told}");
    let read = master.tool("agent explain kei").await.out;
    assert!(read.contains("somebody who calls himself kei (id "), "{read}");
    let events = master.tool("agent events kei").await.out;
    assert!(events.contains("agent.rejected") && events.contains("who calls himself kei asked to join"), "{events}");

    // It was, and has lost its certificate.
    std::fs::remove_file(known.path().join("identity.pem")).unwrap();
    let mut agent = master.agent(known.path(), "lady", &["--token", &used]);
    agent.log.line("the token is used up").await;
    let told = explained(&master, "lady").await;
    assert_eq!(told["attempts"][0]["reason"], "not_joined");
    assert!(told["advice"].as_str().unwrap().starts_with("It asks to join and is not let in"), "{told}");
    agent.kill().await;

    // It was deleted.
    let again = master.token("--name lady").await;
    let mut agent = master.agent(known.path(), "lady", &["--token", &again]);
    agent.active().await;
    assert_eq!(master.tool("agent delete lady --force").await.code, 0);
    agent.log.line("this agent's certificate is revoked").await;
    let told = explained(&master, "lady").await;
    assert_eq!((&told["status"], &told["reason"]), (&"Unknown".into(), &"unauthorized".into()));
    assert!(told["advice"].as_str().unwrap().contains("whether it was deleted here on purpose"), "{told}");
}

#[tokio::test]
async fn who_joins_by_a_token_for_the_name_puts_out_who_had_its_id_at_once() {
    let master = Master::start(&[]).await;
    let [state, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut before = master.joins(state.path(), "lady");
    before.active().await;
    std::fs::copy(state.path().join("agent-id"), other.path().join("agent-id")).unwrap();
    let token = master.token("--name lady").await;
    let mut agent = master.agent(other.path(), "lady", &["--token", &token]);
    agent.active().await;
    before.log.line("this agent's certificate is revoked").await;
    before.kill().await;
    let mut before = master.agent(state.path(), "lady", &[]);
    before.log.line("this agent's certificate is revoked").await;
    assert!(!agent.log.seen.join("\n").contains("Lost connection"), "{}", agent.log.seen.join("\n"));
}
