//! How commands end, and what ends with them.

use super::*;

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
    let timeout_ms = 3_000;
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
