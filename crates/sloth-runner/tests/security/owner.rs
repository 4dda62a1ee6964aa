//! The node's owner has the last word: what his configuration refuses is the command's outcome, and names the key.

use crate::secured::Master;

#[tokio::test]
async fn what_the_nodes_owner_refuses_is_the_commands_outcome_and_names_the_key() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let path = state.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let token = master.token("").await;
    let agent = |name: &str, setting: &str| master.agent(&folder(name), name, &["--token", &token, "--set", setting]);
    let mut agents = [
        agent("closed", "commands.enabled=false"),
        agent("users", "commands.users=[\"nobody-here\"]"),
        agent("allow", "commands.allow=[\"/bin/echo\", \"/usr/bin/e*v\"]"),
    ];
    for agent in &mut agents {
        agent.active().await;
    }
    for (line, text) in [
        ("closed -- /bin/echo a", "commands.enabled is false in the agent's configuration"),
        ("users -- /bin/echo a", "commands.users on the agent does not permit "),
        (
            "allow -- /bin/cat /etc/hostname",
            "commands.allow on the agent does not permit '/bin/cat', only /bin/echo, /usr",
        ),
        ("allow -- echo a", "commands.allow on the agent does not permit 'echo', only /bin/echo"),
        ("allow -- /usr/bin/../bin/env", "commands.allow on the agent does not permit '/usr/bin/../bin/env', only"),
        ("allow --shell true", "commands.allow on the agent does not permit a shell line, only /bin/echo"),
        (
            "allow --env LD_PRELOAD=/x -- /bin/echo a",
            "with commands.allow the agent takes no such environment variable",
        ),
    ] {
        let done = master.tool(&format!("-o json agent run {line}")).await;
        assert_eq!(done.code, 255, "{line}: {}", done.err);
        let said: serde_json::Value =
            serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("{line}: {}", done.out));
        assert_eq!((&said["outcome"], &said["state"]), (&"refused".into(), &"finished".into()), "{line}: {said}");
        assert!(said["reason"].as_str().is_some_and(|reason| reason.starts_with(text)), "{line}: {said}");
        let done = master.tool(&format!("agent run {line}")).await;
        assert!(done.code == 255 && done.err.contains(text), "{line}: {}", done.err);
        // It is kept as any outcome.
        let id = said["id"].as_str().unwrap();
        let kept = master.tool(&format!("command get {id}")).await;
        assert!(kept.code == 0 && kept.out.contains(text), "{line}: {}", kept.out);
    }
    for line in ["allow -- /bin/echo a", "allow -- /usr/bin/env"] {
        let done = master.tool(&format!("agent run {line}")).await;
        assert!(done.code == 0 && !done.out.is_empty(), "{line}: {}", done.err);
    }
}
