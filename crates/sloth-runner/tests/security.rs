//! TLS, joining and leaving, with the real binary on both sides.

mod secured;

use secured::{Agent, Master, program, run};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

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
