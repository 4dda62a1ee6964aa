//! Real processes, a real connection, a master that checks what it gets.

mod rig;

use super::*;
use crate::config::{Spool, WhenFull};
use rig::{Rig, find_finished};
use std::{fs, path::Path};

fn config() -> config::Commands {
    config::Commands {
        enabled: true,
        max_running: 16,
        shell: "/bin/sh".into(),
        kill_grace: Duration::from_secs(10),
        timeout: None,
        users: Vec::new(),
        allow: Vec::new(),
        output_limit: 16 << 20,
        when_full: WhenFull::Stall,
        spool_limit: 64 << 20,
        spool: Spool::Memory,
        remember: Duration::from_secs(7 * 86_400),
    }
}

fn shell(line: &str) -> CommandSpec {
    CommandSpec { shell: line.to_owned(), ..CommandSpec::default() }
}

fn argv<const N: usize>(argv: [&str; N]) -> CommandSpec {
    CommandSpec { argv: argv.map(|argument| argument.into()).into(), ..CommandSpec::default() }
}

fn with_stdin(spec: CommandSpec) -> CommandSpec {
    CommandSpec { stdin: true, ..spec }
}

/// Bytes of every value, in no order that a pipe or a decoder could mistake for text.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| byte()).collect()
}

fn noise_file(dir: &Path, length: usize, seed: u64) -> (String, Vec<u8>) {
    let path = dir.join(format!("noise-{seed}"));
    let noise = noise(length, seed);
    fs::write(&path, &noise).unwrap();
    (path.to_str().unwrap().to_owned(), noise)
}

/// A zombie that nobody has taken over yet does not live.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.to_owned())
}

#[tokio::test]
async fn both_outputs_arrive_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (out_file, out) = noise_file(dir.path(), 3_000_001, 1);
    let (err_file, err) = noise_file(dir.path(), 2_000_003, 2);
    let mut rig = Rig::new(config()).await;
    rig.run("a", shell(&format!("cat {out_file} & cat {err_file} >&2; wait")));
    let (stdout, stderr) = rig.output("a").await;
    assert!(stdout == out && stderr == err);
    assert_eq!(rig.finished("a").await.total_bytes, 5_000_004);
    let state = rig.master.state();
    assert_eq!(state.commands["a"].headers, ("ab".repeat(16), "1".to_owned()));
}

#[tokio::test]
async fn the_tail_of_a_command_that_ends_at_once_is_not_lost() {
    let mut rig = Rig::new(config()).await;
    for round in 0..150 {
        rig.run(&format!("c{round}"), argv(["/bin/echo", "-n", &format!("tail of {round}")]));
    }
    for round in 0..150 {
        assert_eq!(rig.text(&format!("c{round}")).await, format!("tail of {round}"));
    }
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_as_they_were() {
    let mut rig = Rig::new(config()).await;
    for (id, line, outcome) in [
        ("zero", "true", Outcome::Exited(0)),
        ("code", "exit 217", Outcome::Exited(217)),
        ("kill", "kill -9 $$", Outcome::Signaled(9)),
        ("term", "kill -TERM $$", Outcome::Signaled(15)),
    ] {
        rig.run(id, shell(line));
        assert_eq!(rig.outcome(id).await, outcome, "{line}");
    }
    let finished = rig.finished("zero").await;
    assert!(finished.started_unix_ms > 0 && finished.finished_unix_ms >= finished.started_unix_ms);
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() {
    let mut rig = Rig::new(config()).await;
    let timeout_ms = 300;
    rig.run("a", CommandSpec { timeout_ms, ..shell("sleep 1000 & echo $!; wait") });
    let sleeper = rig.first_line("a").await;
    assert!(lives(&sleeper));
    assert_eq!(rig.outcome("a").await, Outcome::TimedOut);
    assert!(!lives(&sleeper));
}

#[tokio::test]
async fn the_agents_own_timeout_holds_for_commands_that_state_none() {
    let mut rig = Rig::new(config::Commands { timeout: Some(Duration::from_millis(100)), ..config() }).await;
    rig.run("a", argv(["sleep", "1000"]));
    assert_eq!(rig.outcome("a").await, Outcome::TimedOut);
}

#[tokio::test]
async fn a_command_that_ignores_term_is_killed_after_the_grace() {
    let mut rig = Rig::new(config::Commands { kill_grace: Duration::from_millis(200), ..config() }).await;
    rig.run("a", shell("trap '' TERM; echo $$; while :; do sleep 1000; done"));
    let leader = rig.first_line("a").await;
    rig.commands.cancel("a");
    assert_eq!(rig.outcome("a").await, Outcome::Cancelled);
    assert!(!lives(&leader));
}

#[tokio::test]
async fn what_a_cancelled_leader_leaves_behind_is_killed_after_the_grace() {
    let mut rig = Rig::new(config::Commands { kill_grace: Duration::from_millis(200), ..config() }).await;
    rig.run("a", shell("(trap '' TERM; exec sleep 1000) & sleep 0.1; echo $!; wait"));
    let stubborn = rig.first_line("a").await;
    rig.commands.cancel("a");
    assert_eq!(rig.outcome("a").await, Outcome::Cancelled);
    assert!(!lives(&stubborn));
}

#[tokio::test]
async fn a_cancelled_command_that_cleans_up_is_left_its_time_and_its_last_words() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", shell("trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.01; done"));
    rig.first_line("a").await;
    rig.commands.cancel("a");
    assert_eq!(rig.outcome("a").await, Outcome::Cancelled);
    // Some shells report on standard error what the signal did to the rest of the group.
    assert_eq!(rig.output("a").await.0, b"hello\nbye\n");
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipes_does_not_hold_the_outcome() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", shell("sleep 1000 & echo $!"));
    assert_eq!(rig.outcome("a").await, Outcome::Exited(0));
    let daemon = rig.first_line("a").await;
    assert!(lives(&daemon), "what a command leaves behind by itself may stay");
    // SAFETY: the process was just seen, and nobody waits for it but init.
    unsafe { libc::kill(daemon.parse().unwrap(), libc::SIGKILL) };
}

#[tokio::test]
async fn what_a_left_process_says_right_after_its_leader_still_arrives() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", shell("(sleep 0.05; echo late) & echo early"));
    assert_eq!(rig.text("a").await, "early\nlate\n");
}

#[tokio::test]
async fn standard_input_comes_back_through_cat() {
    let mut rig = Rig::new(config()).await;
    let input = noise(1_000_000, 3);
    rig.master.state().commands.entry("a".into()).or_default().stdin = input.clone();
    rig.run("a", with_stdin(argv(["cat"])));
    let (stdout, _) = rig.output("a").await;
    assert!(stdout == input);
    assert_eq!(rig.outcome("a").await, Outcome::Exited(0));
}

#[tokio::test]
async fn standard_input_goes_on_where_the_connection_was_cut() {
    let mut rig = Rig::new(config()).await;
    let input = noise(1_000_000, 4);
    rig.master.state().commands.entry("a".into()).or_default().stdin = input.clone();
    rig.run("a", with_stdin(argv(["cat"])));
    for bytes in [100_000, 500_000] {
        rig.until(|master, _| (master.commands["a"].stdin_received > bytes).then_some(())).await;
        rig.cut();
        rig.up().await;
    }
    let (stdout, _) = rig.output("a").await;
    assert!(stdout == input);
    assert_eq!(rig.master.state().commands["a"].calls.len(), 3);
}

#[tokio::test]
async fn standard_input_that_nobody_reads_is_swallowed() {
    let mut rig = Rig::new(config()).await;
    rig.master.state().commands.entry("a".into()).or_default().stdin = noise(1_000_000, 5);
    rig.run("a", with_stdin(shell("exec <&-; exec sleep 1000")));
    rig.until(|master, _| (master.commands["a"].stdin_received == 1_000_000).then_some(())).await;
    rig.commands.cancel("a");
    assert_eq!(rig.outcome("a").await, Outcome::Cancelled);
}

#[tokio::test]
async fn without_standard_input_a_command_reads_its_end() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", argv(["cat"]));
    assert_eq!(rig.outcome("a").await, Outcome::Exited(0));
}

#[tokio::test]
async fn output_goes_on_at_the_byte_where_the_connection_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 4_000_000, 6);
    let mut rig = Rig::new(config()).await;
    rig.run("a", argv(["cat", &file]));
    for bytes in [1, 700_000, 2_000_000] {
        rig.until(|master, _| (master.commands.get("a")?.bytes >= bytes).then_some(())).await;
        rig.cut();
        rig.up().await;
    }
    let (stdout, _) = rig.output("a").await;
    assert!(stdout == noise);
    let state = rig.master.state();
    assert_eq!(state.commands["a"].calls.len(), 4);
    assert_eq!(state.commands["a"].gaps, []);
}

#[tokio::test]
async fn a_command_goes_on_without_a_session_and_its_outcome_is_told_in_the_next_ones() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", shell("echo before; sleep 0.2; echo after"));
    assert_eq!(rig.first_line("a").await, "before");
    rig.cut();
    while rig.commands.held()[0].state() != held_command::State::Finished {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next()).await;
    }
    let held = rig.commands.held();
    assert_eq!((held.len(), held[0].spooled_bytes, held[0].spec.is_some()), (1, 13, true));
    for _ in 0..2 {
        rig.up().await;
        rig.messages.clear();
        assert_eq!(rig.outcome("a").await, Outcome::Exited(0));
        assert_eq!(rig.text("a").await, "before\nafter\n");
        rig.cut();
    }
    rig.commands.finished_ack("a");
    assert!(rig.commands.is_idle() && rig.commands.held().is_empty());
}

#[tokio::test]
async fn a_full_limit_stalls_the_command_and_it_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 1_000_000, 7);
    let mut rig = Rig::without_session(config::Commands { output_limit: 100_000, ..config() }).await;
    rig.run("a", argv(["cat", &file]));
    while rig.commands.held()[0].spooled_bytes < 99_000 {
        let _ = tokio::time::timeout(Duration::from_millis(5), rig.commands.next()).await;
    }
    let _ = tokio::time::timeout(Duration::from_millis(100), rig.commands.next()).await;
    let held = rig.commands.held();
    assert!(held[0].spooled_bytes <= 100_000 && held[0].state() == held_command::State::Running);
    rig.up().await;
    let (stdout, _) = rig.output("a").await;
    assert!(stdout == noise);
}

#[tokio::test]
async fn all_commands_together_hold_no_more_than_the_spool_may() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 300_000, 8);
    let mut rig = Rig::without_session(config::Commands { spool_limit: 150_000, ..config() }).await;
    for id in ["a", "b", "c"] {
        rig.run(id, argv(["cat", &file]));
    }
    let spooled = |rig: &Rig| rig.commands.held().iter().map(|held| held.spooled_bytes).sum::<u64>();
    while spooled(&rig) < 149_000 {
        let _ = tokio::time::timeout(Duration::from_millis(5), rig.commands.next()).await;
    }
    let _ = tokio::time::timeout(Duration::from_millis(100), rig.commands.next()).await;
    assert!(spooled(&rig) <= 150_000);
    rig.up().await;
    for id in ["a", "b", "c"] {
        let (stdout, _) = rig.output(id).await;
        assert!(stdout == noise);
    }
}

#[tokio::test]
async fn where_dropping_is_allowed_a_full_limit_leaves_a_marked_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 1_000_000, 9);
    let config = config::Commands { output_limit: 100_000, when_full: WhenFull::Drop, ..config() };
    let mut rig = Rig::without_session(config).await;
    rig.run("a", argv(["cat", &file]));
    while rig.commands.held()[0].state() != held_command::State::Finished {
        let _ = tokio::time::timeout(Duration::from_millis(5), rig.commands.next()).await;
    }
    rig.up().await;
    let (stdout, _) = rig.output("a").await;
    assert_eq!(rig.finished("a").await.total_bytes, 1_000_000);
    let state = rig.master.state();
    let [(offset, bytes)] = state.commands["a"].gaps[..] else { panic!("{:?}", state.commands["a"].gaps) };
    let (offset, bytes) = (offset as usize, bytes as usize);
    assert!(offset > 90_000 && stdout[..offset] == noise[..offset]);
    assert!(stdout[offset..] == noise[offset + bytes..]);
}

#[tokio::test]
async fn many_at_once_run_sixteen_at_a_time() {
    let mut rig = Rig::new(config()).await;
    let ids: Vec<_> = (0..50).map(|number| format!("c{number}")).collect();
    for id in &ids {
        rig.run(id, shell(&format!("sleep 0.02; echo {id}")));
    }
    let mut most = 0;
    while ids.iter().any(|id| find_finished(&rig.messages, id).is_none()) {
        let held = rig.commands.held();
        most = most.max(held.iter().filter(|held| held.state() == held_command::State::Running).count());
        let count = rig.messages.len();
        rig.until(|_, messages| (messages.len() > count).then_some(())).await;
    }
    assert_eq!(most, 16);
    for id in &ids {
        assert_eq!(rig.text(id).await, format!("{id}\n"));
    }
}

#[tokio::test]
async fn idle_calls_make_way_for_commands_that_have_output() {
    let mut rig = Rig::new(config::Commands { max_running: 20, ..config() }).await;
    for number in 0..20 {
        rig.run(&format!("c{number}"), shell("echo here; exec sleep 1000"));
    }
    for number in 0..20 {
        assert_eq!(rig.first_line(&format!("c{number}")).await, "here");
    }
    assert_eq!(rig.master.state().open_max, 16);
}

#[tokio::test]
async fn a_call_that_fails_is_made_again() {
    let mut rig = Rig::new(config()).await;
    rig.master.state().failures = 2;
    rig.run("a", argv(["echo", "hello"]));
    assert_eq!(rig.text("a").await, "hello\n");
}

#[tokio::test]
async fn a_master_that_lies_about_what_it_has_harms_nobody() {
    for lie in [u64::MAX, 2] {
        let mut rig = Rig::new(config()).await;
        rig.master.state().lie = Some(lie);
        rig.run("a", shell("echo hello; sleep 0.1; echo world"));
        assert_eq!(rig.outcome("a").await, Outcome::Exited(0));
        assert_eq!(rig.finished("a").await.total_bytes, 12);
        rig.run("b", argv(["echo", "hello"]));
        assert_eq!(rig.outcome("b").await, Outcome::Exited(0));
    }
}

#[tokio::test]
async fn a_master_that_lost_acknowledged_output_is_told_that_it_is_gone() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", argv(["echo", "hello"]));
    rig.text("a").await;
    rig.commands.finished_ack("a");
    rig.master.state().commands.clear();
    rig.messages.clear();
    rig.run("a", argv(["echo", "hello"]));
    assert_eq!(rig.outcome("a").await, Outcome::Exited(0));
    assert_eq!(rig.output("a").await, (Vec::new(), Vec::new()));
    assert_eq!(rig.master.state().commands["a"].gaps, [(0, 6)]);
    rig.commands.finished_ack("a");
    assert!(rig.commands.is_idle() && rig.commands.entries.is_empty() && rig.commands.specs == 0);
}

#[tokio::test]
async fn an_interrupt_ends_what_runs() {
    let mut rig = Rig::new(config::Commands { max_running: 1, ..config() }).await;
    rig.run("a", shell("echo $$; sleep 1000"));
    rig.run("b", argv(["echo"]));
    let leader = rig.first_line("a").await;
    rig.commands.drain();
    assert!(!rig.commands.ready());
    assert_eq!(rig.outcome("b").await, refused("the agent was shut down before it started"));
    rig.commands.interrupt();
    assert_eq!(rig.outcome("a").await, Outcome::Interrupted("the agent was shut down".into()));
    assert!(!lives(&leader));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the kernel tells nobody of the end of a process that is no child")]
async fn processes_end_with_their_agent() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", shell("sleep 1000 & echo $!; wait"));
    let sleeper = rig.first_line("a").await;
    drop(rig);
    while lives(&sleeper) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

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
    for entry in [&b"LANG=de_DE"[..], b"EMPTY=", b"BYTES=\xff=\n", b"SLOTH_RUNNER_AGENT=sloth"] {
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
            limited,
            CommandSpec { user: "root2".into(), ..argv(["pwd"]) },
            "commands.users on the agent does not permit root2, only deploy",
        ),
        (allowing.clone(), shell("true"), "commands.allow on the agent does not permit a shell line, only /bin/true"),
        (allowing.clone(), argv(["true"]), "commands.allow on the agent does not permit 'true', only /bin/true"),
        (
            allowing,
            CommandSpec { env: vec!["LD_PRELOAD=/x".into()], ..argv(["/bin/true"]) },
            "with commands.allow the agent takes no environment variable 'LD_PRELOAD'",
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

#[tokio::test]
async fn malformed_requests_are_refused_and_not_held() {
    let mut rig = Rig::new(config()).await;
    for id in ["", "a b", "a\nb", "../a", &"x".repeat(65)] {
        rig.run(id, argv(["true"]));
        assert!(matches!(rig.outcome(id).await, Outcome::Refused(reason) if reason.contains("1 to 64 letters")));
    }
    rig.commands.run(RunCommand { id: "a".into(), spec: None });
    assert_eq!(rig.outcome("a").await, refused("the request does not say what to run"));
    rig.run("b", argv(["true", &"x".repeat(SPECS_MAX)]));
    assert_eq!(rig.outcome("b").await, refused("the commands on the agent take 0 bytes already"));
    assert!(rig.commands.is_idle() && rig.commands.entries.is_empty());
}
