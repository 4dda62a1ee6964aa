//! No secret is anywhere but where it belongs: all that was said and written is searched.

use crate::{
    files,
    secured::{Master, program, run},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A secret as it could stand somewhere: as it is, in hex, and in base64 wherever in a longer text it begins.
pub fn shapes(secret: &[u8]) -> Vec<Vec<u8>> {
    use sloth_agent::token::{Alphabet, encode};
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = (0..3).map(|from| &secret[from..from + (secret.len() - from) / 3 * 3]);
    let base64 = parts.flat_map(|part| [Alphabet::Url, Alphabet::Pem].map(|of| encode(of, part).into_bytes()));
    [secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()].into_iter().chain(base64).collect()
}

/// The secret of a token.
pub fn secret_of(token: &str) -> Vec<u8> {
    let bytes = sloth_agent::token::decode(sloth_agent::token::Alphabet::Url, token.trim().rsplit('.').next().unwrap());
    bytes.unwrap()[..32].to_vec()
}

/// The number that is the private key, of a file that has one.
pub fn key_of(file: &Path) -> Vec<u8> {
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
