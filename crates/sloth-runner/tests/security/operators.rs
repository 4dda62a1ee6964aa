//! People: their tokens, contexts and sessions on the web page, and what the audit file says of them.

use crate::secured::{Log, Master, PATIENCE, program, run};
use std::{fs, os::unix::fs::MetadataExt};

#[tokio::test]
async fn a_viewer_is_told_why_an_agent_is_as_it_is() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let viewer = master.token("--role viewer").await;
    let done = master.tool_with(&viewer, "agent explain lady").await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("lady"), "{}", done.out);
}

#[tokio::test]
async fn what_goes_on_under_a_token_ends_when_it_is_revoked_and_its_command_goes_on() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let operator = master.token("--role operator").await;
    let start = |line: &str| {
        let mut tool = program();
        tool.env("SLOTH_RUNNER_MASTER_ADDR", &master.address).env("SLOTH_RUNNER_TOKEN", &operator);
        tool.args(line.split(' ')).spawn().unwrap()
    };
    let mut events = start("agent events --follow");
    let mut run = start("agent run -n lady --shell echo${IFS}begun;exec${IFS}sleep${IFS}1000");
    // Read to the end: one that nobody reads any more ends by itself.
    let (mut shown, mut printed) = (Log::of(events.stdout.take().unwrap()), Log::of(run.stdout.take().unwrap()));
    shown.line("audit.run").await;
    printed.line("begun").await;
    let id = sloth_agent::token::Token::parse(&operator).unwrap().id();
    let done = master.tool(&format!("token revoke {id}")).await;
    assert_eq!(done.code, 0, "{}", done.err);
    for (mut tool, code) in [(events, 1), (run, 255)] {
        let said = Log::of(tool.stderr.take().unwrap()).whole().await;
        let ended = tokio::time::timeout(PATIENCE, tool.wait()).await.unwrap().unwrap();
        assert!(ended.code() == Some(code) && said.contains("the token is revoked"), "{ended}: {said}");
    }
    let commands = master.tool("command list -o json").await;
    assert!(commands.out.contains(r#""outcome": null"#), "{}", commands.out);
}

/// Status and body of a request to the web page.
async fn page(address: &str, method: &str, headers: &str, body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let path = if method == "GET" { "/api/fleet" } else { "/api/session" };
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[tokio::test]
async fn tokens_of_viewers_and_operators_sign_in_to_the_web_page_and_a_revoked_one_ends_its_session() {
    let mut master = Master::start(&["http.listen=\"127.0.0.1:0\""]).await;
    let line = master.log.line("Health and metrics on http://").await;
    let address = line.rsplit_once("http://").unwrap().1.to_owned();
    let post = "origin: http://localhost\r\ncontent-type: application/json\r\n";
    let viewer = master.token("--role viewer").await;
    let agent = master.token("--role agent").await;
    let shown = |token: &str| serde_json::json!({"token": token}).to_string();
    assert_eq!(page(&address, "POST", post, &shown(&master.operator())).await.0, 200);
    for bad in [agent.as_str(), "sloth1.no.token", ""] {
        assert_eq!(page(&address, "POST", post, &shown(bad)).await.0, 401, "{bad}");
    }
    let (status, answer) = page(&address, "POST", post, &shown(&viewer)).await;
    assert!(status == 200 && answer.contains(r#""role":"viewer""#), "{answer}");
    let between = |begin: &str, end: &str| answer.split_once(begin).unwrap().1.split_once(end).unwrap().0.to_owned();
    let (cookie, key) = (between("set-cookie: ", ";"), between(r#""key":""#, "\""));
    let both = format!("cookie: {cookie}\r\nsloth-key: {key}\r\n");
    assert_eq!(page(&address, "GET", &both, "").await.0, 200);
    let id = sloth_agent::token::Token::parse(&viewer).unwrap().id();
    let done = master.tool(&format!("token revoke {id}")).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(page(&address, "GET", &both, "").await.0, 401);
    assert_eq!(page(&address, "POST", post, &shown(&viewer)).await.0, 401);

    // Who comes and goes leaves a trace, and who is not let in.
    let (_, answer) = page(&address, "POST", post, &shown(&master.operator())).await;
    let between = |begin: &str, end: &str| answer.split_once(begin).unwrap().1.split_once(end).unwrap().0.to_owned();
    let (cookie, key) = (between("set-cookie: ", ";"), between(r#""key":""#, "\""));
    let leaves = format!("origin: http://localhost\r\ncookie: {cookie}\r\nsloth-key: {key}\r\n");
    assert_eq!(page(&address, "DELETE", &leaves, "").await.0, 204);
    let text = fs::read_to_string(master.audit()).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let who =
        |token: &str, role: &str| format!("{role}token {}", sloth_agent::token::Token::parse(token).unwrap().id());
    let operator = who(&master.operator(), "operator with ");
    for (action, who, what, times) in [
        ("signed_in", operator.clone(), "signed in to the web page", 2),
        ("signed_in", who(&viewer, "viewer with "), "signed in to the web page", 1),
        ("signed_out", operator, "signed out of the web page", 1),
        ("refused", who(&viewer, "viewer with "), "web page: this token does not let anybody look", 1),
        ("refused", who(&agent, "agent with "), "web page: this token does not let anybody look", 1),
        ("refused", "somebody without a credential".to_owned(), "web page: this token does not let anybody look", 2),
    ] {
        let is_it = |line: &&serde_json::Value| {
            line["action"] == action
                && line["who"].as_str().is_some_and(|text| text.starts_with(&who))
                && line["what"].as_str().is_some_and(|text| text.starts_with(what))
                && line["address"].as_str().is_some_and(|text| text.starts_with("127.0.0.1:"))
        };
        assert_eq!(lines.iter().filter(is_it).count(), times, "{action} {who}: {text}");
    }
    master.event("audit.signed_in").await;
    master.event("audit.signed_out").await;
}

#[tokio::test]
async fn the_tool_keeps_contexts_and_works_by_them() {
    let (master, other) = (Master::start(&[]).await, Master::start(&[]).await);
    let home = tempfile::tempdir().unwrap();
    let tool = |line: &str| {
        let mut tool = program();
        tool.env("XDG_CONFIG_HOME", home.path()).args(line.split(' '));
        tool
    };
    // From a file, and from standard input.
    let token_file = master.file("operator.token");
    let add = format!("context add one --master {} --token-file {}", master.address, token_file.display());
    let done = run(tool(&add)).await;
    assert_eq!((done.code, done.out.as_str()), (0, "context one added, and used from now on\n"), "{}", done.err);
    let mut add = tool(&format!("--master {} context add two", other.address));
    add.stdin(fs::File::open(other.file("operator.token")).unwrap());
    let done = run(add).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("`sloth-runner context use two` has it used"), "{}", done.out);

    // What admits agents is no operator's: said now, not when it is used.
    let joins = master.file("join.token");
    let add = format!("context add three --master {} --token-file {}", master.address, joins.display());
    let done = run(tool(&add)).await;
    assert!(done.code == 2 && done.err.contains("context three is not added"), "{}", done.err);
    assert!(done.err.contains("it lets agents join; `sloth-runner token create --role operator`"), "{}", done.err);

    let file = home.path().join("sloth-runner/contexts.json");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let done = run(tool("context list -o json")).await;
    let listed: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["current"]), (&"one".into(), &true.into()), "{listed}");
    let known: Vec<String> = [&master, &other].iter().map(|master| master.operator()).collect();
    assert!(known.iter().all(|token| !done.out.contains(token.rsplit('.').next().unwrap())), "{}", done.out);

    // Each reaches its own master, which an agent of one alone shows.
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let lists = async |line: &str| {
        let done = run(tool(line)).await;
        assert_eq!(done.code, 0, "{line}: {}", done.err);
        done.out.contains("lady")
    };
    assert!(lists("agent list").await);
    assert!(!lists("agent list --context two").await);
    assert_eq!(run(tool("context use two")).await.code, 0);
    assert!(!lists("agent list").await);
    assert!(lists("--context one agent list").await);
    // The environment counts before it, and takes nothing of it.
    let mut elsewhere = tool("agent list");
    elsewhere.env("SLOTH_RUNNER_MASTER_ADDR", &other.address);
    let done = run(elsewhere).await;
    assert!(done.code == 1 && done.err.contains("one with TLS (then give a token"), "{}", done.err);

    assert_eq!(run(tool("context remove one")).await.out, "context one removed\n");
    for line in ["context use one", "context remove one"] {
        let done = run(tool(line)).await;
        assert!(done.code == 2 && done.err.contains("there is no context one; there are: two"), "{line}: {}", done.err);
    }
    let taken = format!("context add two --master {} --token-file {}", master.address, token_file.display());
    assert_eq!(run(tool(&taken)).await.code, 2);
    let done = run(tool("agent list --context one")).await;
    assert!(done.code == 2 && done.err.contains("there is no context one; there are: two"), "{}", done.err);
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let done = run(tool("agent list")).await;
    assert!(done.code == 2 && done.err.contains("others can read them (mode 0644): run chmod 600 "), "{}", done.err);
}

#[tokio::test]
async fn a_token_goes_to_standard_output_alone_or_to_a_file_alone_and_its_id_is_said() {
    let master = Master::start(&[]).await;
    let id = |token: &str| sloth_agent::token::Token::parse(token.trim()).unwrap().id();
    let done = master.tool("token create").await;
    let ends = format!("token {0}; `sloth-runner token revoke {0}` ends it\n", id(&done.out));
    assert_eq!((done.code, done.out.lines().count(), done.err), (0, 1, ends));

    let folder = tempfile::tempdir().unwrap();
    let (file, taken) = (folder.path().join("new.token"), folder.path().join("taken"));
    fs::write(&taken, "mine").unwrap();
    let done = master.tool(&format!("token create --role viewer --file {}", file.display())).await;
    let token = fs::read_to_string(&file).unwrap();
    assert!(
        done.out.starts_with(&format!("token {} is in ", id(&token))) && !done.out.contains("sloth1."),
        "{}",
        done.out
    );
    assert_eq!(master.tool_with(token.trim(), "agent list").await.code, 0);
    let before = master.tool("token list").await.out.lines().count();
    let done = master.tool(&format!("token create --file {}", taken.display())).await;
    assert!(done.code == 1 && done.err.contains("taken is there already, and is not overwritten"), "{}", done.err);
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
    assert_eq!(master.tool("token list").await.out.lines().count(), before, "no token was made");

    let revoke = format!("token revoke {}", id(&token));
    assert_eq!(master.tool(&revoke).await.out, format!("token {} is revoked\n", id(&token)));
    let again = master.tool(&revoke).await;
    let already = format!("token {} is revoked already, since 20", id(&token));
    assert!(again.code == 0 && again.out.starts_with(&already), "{}", again.out);

    let own = master.token("--role operator").await;
    let done = master.tool_with(&own, &format!("token revoke {}", id(&own))).await;
    assert_eq!(
        (done.code, done.out),
        (0, format!("token {} is revoked\n", id(&own))),
        "who revokes his own hears of it"
    );
    let after = master.tool_with(&own, "agent list").await;
    assert!(after.code == 1 && after.err.contains("ask an operator for another"), "{}", after.err);
}

#[tokio::test]
async fn who_did_what_and_who_was_refused_is_in_the_audit_file() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let viewer = master.token("--role viewer --name eva").await;
    assert_eq!(master.tool("agent run lady -- echo hidden-argument").await.code, 0);
    assert_eq!(master.tool_with(&viewer, "agent delete lady --force").await.code, 1);
    let id = sloth_agent::token::Token::parse(&viewer).unwrap().id();
    assert_eq!(master.tool(&format!("token revoke {id}")).await.code, 0);
    assert_eq!(master.tool_with(&viewer, "agent list").await.code, 1);
    let once = master.token("--ttl 1ms").await;
    let other = tempfile::tempdir().unwrap();
    master.agent(other.path(), "other", &["--token", &once]).log.line("the token has expired").await;
    assert_eq!(master.tool("agent delete lady --force").await.code, 0);

    let file = master.audit();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |action: &str, who: &str, what: &str| {
        let holds = |line: &&serde_json::Value, key: &str, part: &str| {
            line[key].as_str().is_some_and(|text| text.contains(part))
        };
        let mut found = lines.iter().filter(|line| line["action"] == action);
        let found = found.find(|line| holds(line, "who", who) && holds(line, "what", what));
        let found = found.unwrap_or_else(|| panic!("no {action} by {who}: {what} in\n{text}"));
        assert!(found["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{found}");
        assert!(found["time"].is_string(), "{found}");
        found.clone()
    };
    let joined = with("agent.joined", "somebody without a credential", "certificate given by token ");
    assert_eq!(joined["agent"], "lady");
    assert_eq!(with("run", "operator with token ", "echo")["agent"], "lady");
    with("token_created", "operator with token ", "of role viewer");
    with("refused", &format!("viewer with token {id} (eva)"), "/agent.Fleet/Delete: a viewer may only look");
    with("token_revoked", "operator with token ", &id);
    // A token that was good once is named, also where it is good no more.
    let [known, expired] = [&viewer, &once].map(|token| sloth_agent::token::Token::parse(token).unwrap().id());
    with("refused", &format!("agent with token {expired}"), "/agent.AgentRegistry/Join: the token has expired");
    with("refused", &format!("viewer with token {known} (eva)"), "/agent.Fleet/List: the token is revoked");
    assert_eq!(with("delete", "operator with token ", "certificates revoked")["agent"], "lady");
    for secret in [&viewer, &once, &master.operator()].map(|token| token.rsplit('.').next().unwrap().to_owned()) {
        assert!(!text.contains(&secret), "a secret");
    }
    assert!(!text.contains("hidden-argument"), "arguments may be secrets");
}
