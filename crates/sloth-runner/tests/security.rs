//! TLS, joining and leaving, with the real binary on both sides.

mod secured;

use secured::{Agent, Master, program, run};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    let done = master.tool("agent run lady --wait 20s -- echo again").await;
    assert_eq!((done.code, done.out.as_str()), (0, "again\n"), "{}", done.err);
    let events = master.tool("agent events").await.out;
    let id =
        sloth_agent::token::Token::parse(fs::read_to_string(master.file("join.token")).unwrap().trim()).unwrap().id();
    assert!(events.contains("agent.joined") && events.contains(&format!("by token {id}, asked for by ")), "{events}");
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

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
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
    assert!(done.code == 1 && done.err.contains("with TLS?"), "{}", done.err);
}

#[tokio::test]
async fn certificates_are_renewed_while_the_session_lasts() {
    let master = Master::start(&["tls.agent_life=3s"]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let first = fs::read(state.path().join("identity.pem")).unwrap();
    agent.log.line("The certificate of this agent is renewed").await;
    agent.log.line("The certificate of this agent is renewed").await;
    assert!(!agent.log.seen.join("\n").contains("Lost"), "the session went on");
    assert_ne!(fs::read(state.path().join("identity.pem")).unwrap(), first);
    // The first one has ended by now.
    agent.kill().await;
    master.agent(state.path(), "lady", &[]).active().await;

    fs::write(state.path().join("identity.pem"), first).unwrap();
    let mut late = master.agent(state.path(), "lady", &[]);
    late.log.line("the master refuses this agent's certificate (it has expired or is not valid yet)").await;
}

#[tokio::test]
async fn the_place_of_another_agent_is_taken_only_by_a_token_for_its_name() {
    let master = Master::start(&[]).await;
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut agent = master.joins(one.path(), "lady");
    agent.active().await;
    agent.kill().await;
    let mut agent = master.joins(other.path(), "lady");
    agent.log.line("another agent has the name lady: to replace it").await;
    agent.kill().await;
    let token = master.token("--name lady --label site=a").await;
    master.agent(other.path(), "lady", &["--token", &token]).active().await;
    let row = master.tool("agent get lady").await.out;
    assert!(row.contains("site=a"), "{row}");
}

#[tokio::test]
async fn a_certificate_renewed_on_disk_is_used_for_the_next_connections() {
    let mut master = Master::start(&[]).await;
    let other = Master::start(&[]).await;
    assert_eq!(master.tool("agent list").await.code, 0);
    for name in ["master.pem", "master.key", "ca.pem"] {
        fs::copy(other.file(name), master.file(name)).unwrap();
    }
    // It is looked at once a second.
    for attempt in 0.. {
        let done = master.tool_with(&other.operator(), "agent list").await;
        if done.err.contains("does not know the token") {
            break;
        }
        assert!(attempt < 200, "{}", done.err);
    }
    master.log.line("TLS: the files have changed and are used from now on").await;
}

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

/// An agent whose wall clock is off by so many seconds; none without a C compiler.
fn with_clock(master: &Master, state: &Path, jump: i64) -> Option<Agent> {
    let (library, file) = (state.join("jump.so"), state.join("jump"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jump.c");
    let mut compiler = std::process::Command::new("cc");
    let made = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    if !made.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("SLOTH_TEST_ALL").is_none(), "no C compiler");
        return None;
    }
    fs::write(&file, jump.to_ne_bytes()).unwrap();
    let mut command = program();
    command.env("LD_PRELOAD", &library).env("JUMP", &file);
    let words = master.command.split(' ').skip(1).map(str::to_owned).collect();
    Some(Agent::start_as(command, words, state, "lady"))
}

fn now() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64
}

#[tokio::test]
async fn an_agent_whose_clock_begins_in_1970_joins_once_and_renews() {
    let master = Master::start(&["tls.agent_life=3s"]).await;
    let state = tempfile::tempdir().unwrap();
    let Some(mut agent) = with_clock(&master, state.path(), -now()) else { return };
    agent.active().await;
    for _ in 0..3 {
        agent.log.line("The certificate of this agent is renewed").await;
    }
    let said = agent.log.seen.join("\n");
    assert!(said.contains("1970-01-01T") && !said.contains("Lost"), "{said}");
    let done = master.tool("agent run lady -- echo hello").await;
    assert_eq!((done.code, done.out.as_str()), (0, "hello\n"), "{}", done.err);
    let events = master.tool("agent events").await.out;
    assert_eq!(events.matches("agent.joined").count(), 1, "{events}");
}

#[tokio::test]
async fn an_agent_whose_clock_is_at_2100_says_so_and_does_not_join_again_and_again() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    agent.kill().await;
    let Some(mut agent) = with_clock(&master, state.path(), 4_102_444_800 - now()) else { return };
    for _ in 0..3 {
        let line = agent.log.line("certificate").await;
        assert!(line.contains("2100-01-01"), "{line}");
    }
    let events = master.tool("agent events").await.out;
    assert_eq!(events.matches("agent.joined").count(), 1, "{events}");
}

#[tokio::test]
async fn renewing_and_new_files_of_the_master_end_no_session_and_no_command() {
    let mut master = Master::start(&["tls.agent_life=3s"]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let serial = |master: &Master| fs::read(master.file("master.pem")).unwrap();
    let before = serial(&master);
    let commands = async {
        let mut numbers = 0;
        // For as long as it takes to renew three times.
        for _ in 0..8 {
            let done = master.tool("agent run lady -- sh -c seq${IFS}20000;sleep${IFS}1").await;
            assert_eq!((done.code, done.out.lines().count()), (0, 20_000), "{}", done.err);
            numbers += done.out.lines().count();
        }
        numbers
    };
    let renewed = async {
        for _ in 0..3 {
            agent.log.line("The certificate of this agent is renewed").await;
        }
    };
    let replaced = async {
        // Another key and certificate of the same authority.
        let ca = rcgen::KeyPair::from_pem(&fs::read_to_string(master.file("ca.key")).unwrap()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Sloth Runner CA");
        let issuer = rcgen::Issuer::new(params, ca);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(master.file("master.key"), key.serialize_pem()).unwrap();
        fs::write(master.file("master.pem"), certificate.pem()).unwrap();
    };
    let (numbers, (), ()) = tokio::join!(commands, renewed, replaced);
    assert_eq!(numbers, 160_000);
    assert_ne!(serial(&master), before);
    master.log.line("TLS: the files have changed and are used from now on").await;
    agent.process.kill().await.unwrap();
    let said = agent.log.whole().await;
    assert!(!said.contains("Lost"), "{said}");
}

/// A secret as it could stand somewhere: as it is, in hex, and in base64 wherever in a longer text it begins.
fn shapes(secret: &[u8]) -> Vec<Vec<u8>> {
    use sloth_agent::token::{Alphabet, encode};
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = (0..3).map(|from| &secret[from..from + (secret.len() - from) / 3 * 3]);
    let base64 = parts.flat_map(|part| [Alphabet::Url, Alphabet::Pem].map(|of| encode(of, part).into_bytes()));
    [secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()].into_iter().chain(base64).collect()
}

/// The secret of a token.
fn secret_of(token: &str) -> Vec<u8> {
    let bytes = sloth_agent::token::decode(sloth_agent::token::Alphabet::Url, token.trim().rsplit('.').next().unwrap());
    bytes.unwrap()[..32].to_vec()
}

/// The number that is the private key, of a file that has one.
fn key_of(file: &Path) -> Vec<u8> {
    use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
    let key = PrivateKeyDer::from_pem_file(file).unwrap();
    let der = key.secret_der();
    // An octet string of 32 bytes: of P-256, as of Ed25519.
    let at = der.windows(2).position(|part| part == [0x04, 0x20]).expect("a key of 32 bytes");
    der[at + 2..at + 34].to_vec()
}

#[tokio::test]
async fn no_secret_is_written_but_where_it_belongs() {
    let mut master = Master::start(&["tls.agent_life=3s"]).await;
    let state = tempfile::tempdir().unwrap();
    let (good, bad) = (state.path().join("good"), state.path().join("bad"));
    fs::create_dir_all(&good).unwrap();
    fs::create_dir_all(&bad).unwrap();
    let mut said = Vec::new();
    let mut keys = ["ca.key", "master.key"].map(|name| (master.file(name), key_of(&master.file(name)))).to_vec();
    let mut agent = master.joins(&good, "lady");
    agent.active().await;
    keys.push((good.join("identity.pem"), key_of(&good.join("identity.pem"))));
    agent.log.line("The certificate of this agent is renewed").await;
    keys.push((good.join("identity.pem"), key_of(&good.join("identity.pem"))));

    // Each of them fails in its way.
    let mut tokens = vec![master.operator(), fs::read_to_string(master.file("join.token")).unwrap()];
    let [revoked, brief, viewer] = ["", "--ttl 1ms", "--role viewer --name eva"].map(|options| master.token(options));
    let (revoked, brief, viewer) = (revoked.await, brief.await, viewer.await);
    let id = sloth_agent::token::Token::parse(&revoked).unwrap().id();
    assert_eq!(master.tool(&format!("token revoke {id}")).await.code, 0);
    let cut = viewer[..viewer.len() - 1].to_owned();
    for (token, why) in
        [(&revoked, "is revoked"), (&brief, "has expired"), (&viewer, "of role viewer"), (&cut, "cut short")]
    {
        let mut agent = master.agent(&bad, "b", &["--token", token]);
        agent.log.line(why).await;
        agent.process.kill().await.unwrap();
        said.push(agent.log.whole().await);
    }
    for token in [&revoked, &brief, &cut] {
        let done = master.tool_with(token, "agent list").await;
        assert_ne!(done.code, 0, "{}", done.err);
        said.extend([done.out, done.err]);
    }
    let done = master.tool_with(&viewer, "agent run lady -- true").await;
    said.extend([done.out, done.err]);
    tokens.extend([revoked, brief, viewer]);

    for line in ["agent run lady -- env", "agent events", "agent explain lady", "token list", "command list"] {
        for line in [line.to_owned(), format!("-o json {line}")] {
            let done = master.tool(&line).await;
            assert_eq!(done.code, 0, "{line}: {}", done.err);
            said.extend([done.out, done.err]);
        }
    }
    for words in [vec!["agent", "doctor"], vec!["agent", "status"], vec!["agent", "check"]] {
        let mut command = program();
        command.args(&words).args(["--master", &master.address, "--name", "lady", "--state-dir"]).arg(&good);
        command.env("SLOTH_RUNNER_TOKEN", tokens[1].trim());
        let done = run(command).await;
        said.extend([done.out, done.err]);
    }
    agent.process.kill().await.unwrap();
    master.kill().await;
    said.extend([agent.log.whole().await, master.log.whole().await]);
    let said = said.join("\n").into_bytes();
    assert!(said.len() > 10_000, "little was said: {}", said.len());

    let own: Vec<_> = tokens.iter().map(|token| (PathBuf::new(), secret_of(token))).chain(keys).collect();
    let written: Vec<_> = [files(state.path()), files(master.directory.path())].concat();
    let written: Vec<_> = written.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let holds = |text: &[u8], shape: &[u8]| text.windows(shape.len()).any(|part| part == shape);
    for (n, (home, secret)) in own.iter().enumerate() {
        for shape in shapes(secret) {
            assert!(!holds(&said, &shape), "secret {n} was said");
            for (text, path) in &written {
                let belongs = path == home || path.extension().is_some_and(|end| end == "token");
                assert!(belongs || !holds(text, &shape), "secret {n} is in {}", path.display());
            }
        }
    }
    // The search finds what there is to find.
    let operator = fs::read(master.file("operator.token")).unwrap();
    assert!(shapes(&own[0].1).iter().any(|shape| holds(&operator, shape)));
}

#[tokio::test]
async fn doctor_goes_the_way_of_its_agent_and_uses_no_token_up() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let once = master.token("--role agent --uses 1").await;
    let doctor = async |options: &[&str]| {
        let mut doctor = program();
        doctor.args(["agent", "doctor", "--name", "lady", "--master", &master.address]).args(options);
        doctor.arg("--state-dir").arg(state.path()).current_dir(state.path());
        run(doctor).await
    };
    let done = doctor(&["--token", &once]).await;
    let id = sloth_agent::token::Token::parse(&once).unwrap().id();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    for part in [format!("{id} is whole"), "the master's certificate: ".into(), "not tried  registration".into()] {
        assert!(done.out.contains(&part), "{part:?} is not in {}", done.out);
    }
    assert!(!done.out.contains(&once), "{}", done.out);
    let mut agent = master.agent(state.path(), "lady", &["--token", &once]);
    agent.active().await;
    // It has a certificate now, and needs no word of TLS in its configuration.
    let mut running = Some(agent);
    for _ in 0..2 {
        let done = doctor(&[]).await;
        assert_eq!(done.code, 0, "{}{}", done.out, done.err);
        for part in ["certificate      given to this agent for a token: ", "knows this agent and would register it"] {
            assert!(done.out.contains(part), "{part:?} is not in {}", done.out);
        }
        if let Some(agent) = running.take() {
            agent.kill().await;
        }
    }
    assert_eq!(master.tool("agent delete lady --force").await.code, 0);
    let done = doctor(&[]).await;
    assert!(done.code == 1 && done.out.contains("Cause: registration"), "{}", done.out);
}

#[tokio::test]
async fn files_of_tls_that_cannot_be_used_are_found_by_check() {
    let master = Master::start(&[]).await;
    let check = || {
        let mut check = program();
        check.args(["master", "check", "--config"]).arg(master.file("master.toml"));
        check
    };
    assert_eq!(run(check()).await.code, 0);
    fs::copy(master.file("ca.key"), master.file("master.key")).unwrap();
    let done = run(check()).await;
    assert!(done.code == 2 && done.err.contains("which does not go with tls.key_file"), "{}", done.err);
    assert_eq!(done.out, "", "it is not valid");
    let mut check = check();
    check.args(["-o", "json"]);
    let done = run(check).await;
    let said: serde_json::Value = serde_json::from_str(&done.out).expect("one document");
    assert!(done.code == 2 && said["valid"] == false && said["problems"][0].as_str().unwrap().contains("tls.key_file"));
}

/// Status and body of a request to the web page.
async fn page(address: &str, method: &str, headers: &str, body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let path = if method == "POST" { "/api/session" } else { "/api/fleet" };
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(secured::PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
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
}

#[tokio::test]
async fn when_certificates_end_is_shown() {
    let mut master = Master::start(&["http.listen=\"127.0.0.1:0\""]).await;
    let line = master.log.line("Health and metrics on http://").await;
    let (_, address) = line.split_once("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address.trim()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let ends = |kind: &str| {
        let name = format!("sloth_master_certificate_expires_timestamp_seconds{{kind=\"{kind}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse::<u64>().unwrap()
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(ends("server") > now && ends("ca") > now, "{page}");

    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let said = master.tool("agent explain lady").await;
    assert!(said.out.contains("89 days left, until "), "{}{}", said.out, said.err);
    // A viewer may look, too.
    let viewer = master.token("--role viewer").await;
    let said = master.tool_with(&viewer, "agent explain lady -o json").await;
    let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert!(said["certificate_expires"].is_string(), "{said}");
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
    assert!(done.code == 1 && done.err.contains("with TLS?"), "{}", done.err);

    assert_eq!(run(tool("context remove one")).await.code, 0);
    let done = run(tool("agent list --context one")).await;
    assert!(done.code == 2 && done.err.contains("there is no context one; there are: two"), "{}", done.err);
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let done = run(tool("agent list")).await;
    assert!(done.code == 2 && done.err.contains("others can read them (mode 0644): run chmod 600 "), "{}", done.err);
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

    let file =
        files(master.directory.path()).into_iter().find(|path| path.ends_with("audit.log")).expect("it is there");
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
    with("refused", "somebody without a credential", "/agent.AgentRegistry/Join: the token has expired");
    assert_eq!(with("delete", "operator with token ", "certificates revoked")["agent"], "lady");
    let revoked =
        lines.iter().find(|line| line["what"].as_str().unwrap().starts_with("/agent.Fleet/List: the token is revoked"));
    assert!(revoked.is_some(), "{text}");
    for secret in [&viewer, &once, &master.operator()].map(|token| token.rsplit('.').next().unwrap().to_owned()) {
        assert!(!text.contains(&secret), "a secret");
    }
    assert!(!text.contains("hidden-argument"), "arguments may be secrets");
}
