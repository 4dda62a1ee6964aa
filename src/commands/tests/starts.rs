//! What a command is started with, and what is not started.

use super::*;

#[tokio::test]
async fn a_command_runs_in_the_stated_environment() {
    let mut rig = Rig::new(config()).await;
    let env = vec![b"LANG=de_DE".to_vec(), b"EMPTY=".to_vec(), b"BYTES=\xff=\n".to_vec()];
    rig.run("env", CommandSpec { env, ..argv(["env", "-0"]) });
    let (stdout, _) = rig.output("env").await;
    let mut entries: Vec<_> = stdout.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()).collect();
    entries.sort_unstable();
    let names: Vec<_> = entries.iter().map(|entry| entry.split(|byte| *byte == b'=').next().unwrap()).collect();
    let expected = "BYTES EMPTY HOME LANG LOGNAME PATH SHELL SLOTH_RUNNER_AGENT SLOTH_RUNNER_COMMAND_ID USER";
    assert_eq!(names, expected.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    let agent = format!("SLOTH_RUNNER_AGENT={}", agent());
    for entry in [&b"LANG=de_DE"[..], b"EMPTY=", b"BYTES=\xff=\n", agent.as_bytes()] {
        assert!(entries.contains(&entry), "{}", String::from_utf8_lossy(entry));
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let here = CommandSpec { dir: path.to_str().unwrap().into(), ..shell("pwd -P; umask") };
    rig.run("here", here);
    assert_eq!(rig.text("here").await, format!("{}\n0022\n", path.display()));
    rig.run("root", argv(["pwd"]));
    assert_eq!(rig.text("root").await, "/\n");
}

#[tokio::test]
async fn a_command_inherits_no_signals_and_no_descriptors() {
    // SAFETY: makes a descriptor that children would inherit, and an ignored signal.
    let leaked = unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::dup(2)
    };
    let mut rig = Rig::new(config()).await;
    rig.run("signals", argv(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]));
    let text = rig.text("signals").await;
    let masks: Vec<_> = text.lines().map(|line| u64::from_str_radix(&line[8..], 16).unwrap()).collect();
    // Signals 32 to 34 belong to the C library, which lets nobody set them.
    assert_eq!(masks.iter().map(|mask| mask & !(7 << 31)).collect::<Vec<_>>(), [0, 0], "{text}");
    rig.run("descriptors", shell("echo /proc/self/fd/*"));
    let text = rig.text("descriptors").await;
    // The shell itself opens the directory that it lists.
    assert!(!text.contains(&format!("/fd/{leaked} ")) || leaked == 3, "{leaked} in {text}");
    // SAFETY: its own descriptor.
    unsafe { libc::close(leaked) };
}

#[tokio::test]
async fn arguments_reach_a_program_as_they_are() {
    let mut rig = Rig::new(config()).await;
    let argv = vec!["printf".into(), b"[%s]".to_vec(), b"$HOME *".to_vec(), b"\xff\n".to_vec(), Vec::new()];
    rig.run("a", CommandSpec { argv, ..CommandSpec::default() });
    assert_eq!(rig.output("a").await.0, b"[$HOME *][\xff\n][]");
}

#[tokio::test]
async fn a_command_runs_as_another_user_with_that_users_groups() {
    // SAFETY: has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("SLOTH_TEST_ALL").is_none(), "needs root");
        eprintln!("skipped: needs root");
        return;
    }
    let mut rig = Rig::new(config()).await;
    rig.run("a", CommandSpec { user: "nobody".into(), ..shell("id -un; id -u; id -G; echo $USER") });
    let nobody = account::Account::by_name("nobody").unwrap().unwrap();
    let text = rig.text("a").await;
    assert_eq!(text, format!("nobody\n{}\n{}\nnobody\n", nobody.uid, nobody.gid));
}

#[tokio::test]
async fn what_cannot_or_may_not_run_is_refused_with_the_reason() {
    let own = account::Account::own().unwrap().name.into_string().unwrap();
    let spec = CommandSpec::default;
    let limited = config::Commands { users: vec!["deploy".into()], ..config() };
    let allowing = config::Commands { allow: vec!["/bin/true".into()], ..config() };
    let disabled = config::Commands { enabled: false, ..config() };
    let users_text = format!("commands.users on the agent does not permit {own}, only deploy");
    let cases = [
        (config(), argv(["no-such"]), "cannot start 'no-such': no such file or directory"),
        (config(), argv(["/etc/passwd"]), "cannot start '/etc/passwd': permission denied"),
        (
            config(),
            CommandSpec { dir: "/no/such".into(), ..argv(["pwd"]) },
            "cannot enter directory '/no/such': no such file or directory",
        ),
        (
            config(),
            CommandSpec { dir: "srv/x".into(), ..argv(["pwd"]) },
            "directory 'srv/x' is relative, and there is nothing to go on from: begin with /",
        ),
        (config(), spec(), "no program is given"),
        (config(), argv([""]), "the program's name is empty"),
        (
            config(),
            CommandSpec { shell: "pwd".into(), ..argv(["pwd"]) },
            "a program and a shell line are given; one of them can run",
        ),
        (config(), argv(["echo", "a\0b"]), "cannot start 'echo': nul byte found in provided data"),
        (config(), CommandSpec { env: vec!["=x".into()], ..argv(["pwd"]) }, "environment entry '=x' is not NAME=value"),
        (limited.clone(), argv(["pwd"]), &users_text),
        (
            limited.clone(),
            CommandSpec { user: "\nx".repeat(1_000_000), ..argv(["pwd"]) },
            &format!("commands.users on the agent does not permit {}…, only deploy", "\\nx".repeat(100)),
        ),
        (
            limited,
            CommandSpec { user: "root2".into(), ..argv(["pwd"]) },
            "commands.users on the agent does not permit root2, only deploy",
        ),
        (allowing.clone(), shell("true"), "commands.allow on the agent does not permit a shell line, only /bin/true"),
        (allowing.clone(), argv(["true"]), "commands.allow on the agent does not permit 'true', only /bin/true"),
        (
            allowing,
            CommandSpec { env: vec!["LD_PRELOAD=/x".into()], ..argv(["/bin/true"]) },
            "with commands.allow the agent takes no such environment variable 'LD_PRELOAD'",
        ),
        (disabled, argv(["true"]), "commands.enabled is false in the agent's configuration"),
    ];
    for (config, spec, reason) in cases {
        let mut rig = Rig::new(config).await;
        rig.run("a", spec);
        assert_eq!(rig.outcome("a").await, refused(reason));
        let finished = rig.finished("a").await;
        assert_eq!((finished.total_bytes, finished.started_unix_ms), (0, 0));
    }
    let user = if own == "root" { "no-such-user" } else { "root" };
    let mut rig = Rig::new(config()).await;
    rig.run("a", CommandSpec { user: user.into(), ..argv(["pwd"]) });
    let reason = match user {
        "root" => format!("cannot run as root: the agent runs as {own}, and only root can change users"),
        user => format!("there is no user {user} on the agent's host"),
    };
    assert_eq!(rig.outcome("a").await, refused(&reason));
}

#[tokio::test]
async fn an_allowed_program_and_an_allowed_user_run() {
    let own = account::Account::own().unwrap().name.into_string().unwrap();
    let config = config::Commands { allow: vec!["/bin/echo".into()], users: vec![own], ..config() };
    let mut rig = Rig::new(config).await;
    rig.run("a", CommandSpec { env: vec!["LC_ALL=C".into()], ..argv(["/bin/echo", "hello"]) });
    assert_eq!(rig.text("a").await, "hello\n");
}
