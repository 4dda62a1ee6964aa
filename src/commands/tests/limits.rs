//! Limits hold, and what a master sends is not trusted.

use super::*;

#[tokio::test]
async fn a_full_limit_stalls_the_command_and_it_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 1_000_000, 7);
    let mut rig = Rig::without_session(config::Commands { output_limit: 100_000, ..config() }).await;
    rig.run("a", argv(["cat", &file]));
    while rig.commands.held()[0].spooled_bytes < 99_000 {
        let _ = tokio::time::timeout(Duration::from_millis(5), rig.commands.next(true)).await;
    }
    let _ = tokio::time::timeout(Duration::from_millis(100), rig.commands.next(true)).await;
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
        let _ = tokio::time::timeout(Duration::from_millis(5), rig.commands.next(true)).await;
    }
    let _ = tokio::time::timeout(Duration::from_millis(100), rig.commands.next(true)).await;
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
        let _ = tokio::time::timeout(Duration::from_millis(5), rig.commands.next(true)).await;
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

#[tokio::test]
async fn what_a_pipe_holds_at_the_end_is_taken_without_room_and_the_outcome_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 5_000, 10);
    let mut rig = Rig::without_session(config::Commands { output_limit: 1_000, ..config() }).await;
    rig.run("a", argv(["cat", &file]));
    while rig.commands.held()[0].state() != held_command::State::Finished {
        let _ = tokio::time::timeout(Duration::from_millis(5), rig.commands.next(true)).await;
    }
    rig.up().await;
    let (stdout, _) = rig.output("a").await;
    assert!(stdout == noise);
}
