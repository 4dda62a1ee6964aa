//! Output arrives complete, whatever happens to the link.

use super::*;

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
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
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
async fn calls_that_the_master_holds_open_without_a_word_make_way() {
    let mut rig = Rig::new(config::Commands { max_running: 20, ..config() }).await;
    rig.master.state().silent = Some("held");
    for number in 0..16 {
        rig.run(&format!("held{number}"), shell("echo here; exec sleep 1000"));
    }
    rig.until(|master, _| (master.open == 16).then_some(())).await;
    rig.run("a", argv(["echo", "hello"]));
    assert_eq!(rig.text("a").await, "hello\n");
}

#[tokio::test]
async fn a_call_that_fails_is_made_again() {
    let mut rig = Rig::new(config()).await;
    rig.master.state().failures = 2;
    rig.run("a", argv(["echo", "hello"]));
    assert_eq!(rig.text("a").await, "hello\n");
}

#[tokio::test]
async fn a_master_that_lost_all_it_had_of_a_finished_command_gets_to_its_end() {
    let mut rig = Rig::new(config()).await;
    rig.run("a", argv(["echo", "hello"]));
    assert_eq!(rig.text("a").await, "hello\n");
    assert_eq!(rig.outcome("a").await, Outcome::Exited(0));
    while !rig.commands.entries["a"].held.as_ref().unwrap().is_complete() {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
    }
    rig.cut();
    rig.master.state().commands.clear();
    rig.up().await;
    assert_eq!(rig.output("a").await, (Vec::new(), Vec::new()));
    assert_eq!(rig.master.state().commands["a"].gaps, [(0, 6)]);
    // One that still has it says so, and nothing is sent.
    rig.cut();
    rig.up().await;
    rig.until(|master, _| (master.commands["a"].calls.len() == 2).then_some(())).await;
    assert_eq!(rig.master.state().commands["a"].gaps, [(0, 6)]);
    rig.commands.finished_ack("a");
    assert!(rig.commands.is_idle() && rig.commands.entries.is_empty() && rig.commands.specs == 0);
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
async fn a_command_that_says_nothing_for_a_day_is_heard_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let line = format!("echo a; until [ -e {} ]; do sleep 0.02; done; cat; echo z; exit 4", gate.display());
    let mut rig = Rig::new(config()).await;
    // With an input that stays open its call does, too.
    for (id, spec) in [("silent", shell(&line)), ("listens", with_stdin(shell(&line)))] {
        rig.run(id, spec);
        assert_eq!(rig.first_line(id).await, "a");
    }
    tokio::time::pause();
    for _ in 0..24 {
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let _ = tokio::time::timeout(Duration::from_secs(60), rig.commands.next(true)).await;
    }
    tokio::time::resume();
    assert_eq!(rig.commands.held().iter().filter(|held| held.state() == held_command::State::Running).count(), 2);
    fs::write(gate, "").unwrap();
    assert_eq!(rig.text("silent").await, "a\nz\n");
    assert_eq!(rig.outcome("silent").await, Outcome::Exited(4));
    rig.commands.cancel("listens");
    assert_eq!(rig.outcome("listens").await, Outcome::Cancelled);
}
