//! What `check` and `doctor` find in the files of TLS.

use crate::secured::{Master, program, run};
use std::{fs, os::unix::fs::PermissionsExt};

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
    // Its certificate is lost, and the token is used up.
    let identity = state.path().join("identity.pem");
    let kept = fs::read(&identity).unwrap();
    fs::remove_file(&identity).unwrap();
    let mut agent = master.agent(state.path(), "lady", &["--token", &once]);
    agent.log.line("identity.pem is gone, by which a master knew this agent if it had joined").await;
    agent.log.line("(attempt 1): the token is used up").await;
    let done = doctor(&["--token", &once]).await;
    assert!(done.code == 1 && done.out.contains("warning    certificate      "), "{}", done.out);
    let last = done.out.lines().last().unwrap_or_default();
    assert!(last.starts_with("Cause: running agent: ") && last.contains("the token is used up"), "{}", done.out);
    agent.kill().await;
    // Without that token, too: what follows from the loss is said to, and not that the agent was never told to use TLS.
    let done = doctor(&[]).await;
    let last = done.out.lines().last().unwrap_or_default();
    assert!(
        last.contains("by the certificate that is gone: ") && last.contains("token create --name lady`"),
        "{}",
        done.out
    );
    assert!(!done.out.contains("is not told to") && !done.out.contains("NAME"), "{}", done.out);
    fs::write(&identity, kept).unwrap();
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();

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
