//! Standard input.

use super::*;

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
