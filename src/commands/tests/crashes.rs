//! The spool keeps the promise over crashes of the agent at every change of the disk, and over disks that fail.

use super::*;
use crate::spool::store::{
    Store,
    faults::{Fault, FaultyDisk, LOSSES, Loss},
};
use std::collections::BTreeSet;

fn open(disk: &FaultyDisk) -> Option<Commands> {
    let opened = Store::open(disk.boxed(), recorded::keep(&config()), crate::spool::random_id(), unix_ms()).ok()?;
    Some(Commands::restored(&config(), &agent(), opened, |spool| spool))
}

async fn rig_on(disk: &FaultyDisk) -> Option<Rig> {
    Some(Rig::with(open(disk)?).await)
}

/// What the master keeps of one command: as it does, the first outcome stays.
#[derive(Default)]
struct Known {
    /// The spool that it was sent to last.
    sent_to: Option<[u8; 16]>,
    accepted: bool,
    outcome: Option<Outcome>,
}

/// The part of the master that decides, over several lives of the agent.
#[derive(Default)]
struct Ruler {
    known: HashMap<&'static str, Known>,
}

impl Ruler {
    /// A session begins: each command is sent, sent again, or given up.
    fn register(&mut self, rig: &mut Rig, commands: &[(&'static str, CommandSpec)]) {
        let spool = rig.commands.spool_id();
        let held: BTreeSet<_> = rig.commands.held().into_iter().map(|held| held.id).collect();
        for (id, spec) in commands {
            let known = self.known.entry(id).or_default();
            if known.outcome.is_some() || held.contains(*id) {
                known.accepted |= held.contains(*id);
            } else if known.accepted || known.sent_to.is_some_and(|sent_to| sent_to != spool) {
                known.outcome = Some(Outcome::Interrupted("not held any more".to_owned()));
            } else {
                known.sent_to = Some(spool);
                rig.run(id, spec.clone());
            }
        }
    }

    fn hear(&mut self, rig: &mut Rig) {
        for kind in std::mem::take(&mut rig.messages) {
            match kind {
                Kind::CommandAccepted(CommandAccepted { id, .. }) => self.of(&id).accepted = true,
                Kind::CommandFinished(finished) => {
                    let known = self.of(&finished.id);
                    let outcome = proto::outcome_from(&finished.outcome.unwrap()).unwrap();
                    let first = known.outcome.get_or_insert(outcome.clone()).clone();
                    // The same that was said before, or nobody could know any more.
                    let unknown = |outcome: &Outcome| matches!(outcome, Outcome::Interrupted(_));
                    let same = first == outcome || unknown(&first) || unknown(&outcome);
                    assert!(same, "{}: first {first:?}, then {outcome:?}", finished.id);
                    rig.commands.finished_ack(&finished.id);
                }
                _ => {}
            }
        }
    }

    fn of(&mut self, id: &str) -> &mut Known {
        self.known.iter_mut().find(|(known, _)| **known == id).expect("it was asked for").1
    }

    fn is_done(&self) -> bool {
        self.known.values().all(|known| known.outcome.is_some())
    }
}

/// Serves until everything has its outcome and is written, or the disk has died, or the session should be renewed.
async fn live(ruler: &mut Ruler, rig: &mut Rig, disk: &FaultyDisk, commands: &[(&'static str, CommandSpec)]) {
    rig.up().await;
    ruler.register(rig, commands);
    let patience = Instant::now() + Duration::from_secs(30);
    while !(disk.died() || ruler.is_done() && rig.commands.is_idle()) {
        assert!(Instant::now() < patience, "commands do not end");
        if let Ok(Some(kind)) = tokio::time::timeout(Duration::from_millis(5), rig.commands.next(true)).await {
            rig.messages.push(kind);
        }
        ruler.hear(rig);
        if rig.commands.takes_renewal() {
            rig.cut();
            rig.up().await;
            ruler.register(rig, commands);
        }
    }
}

/// Two commands, the disk failing at its n-th change; whether it did.
async fn fail_at(n: usize, fault: Fault, loss: Loss) -> bool {
    let what = format!("{fault:?} at {n}, {loss:?}");
    let dir = tempfile::tempdir().unwrap();
    let starts = |id: &str| fs::read_to_string(dir.path().join(id)).unwrap_or_default().lines().count();
    let line = |id: &str| shell(&format!("echo started >> {}/{id}; echo said", dir.path().display()));
    let commands = [("a", line("a")), ("b", line("b"))];
    let mut ruler = Ruler::default();
    let disk = FaultyDisk::default();
    disk.fail_at(n, fault);
    let first = rig_on(&disk).await;
    if first.is_none() && fault != Fault::Death {
        return true; // in memory from the start
    }
    disk.hang_when_dead(true);
    if let Some(mut rig) = first {
        live(&mut ruler, &mut rig, &disk, &commands).await;
    }
    disk.hang_when_dead(false);
    let failed = disk.counts().0 > n;
    let left = disk.after(loss);
    let mut rig = rig_on(&left).await.expect("it works again");
    live(&mut ruler, &mut rig, &left, &commands).await;
    for (id, _) in &commands {
        let outcome = ruler.of(id).outcome.clone().expect("each has one");
        let starts = starts(id);
        assert!(starts <= 1, "{what}: {id} was started {starts} times");
        match outcome {
            Outcome::Exited(0) => assert_eq!(starts, 1, "{what}: {id}"),
            Outcome::Refused(_) => assert_eq!(starts, 0, "{what}: {id}"),
            Outcome::Interrupted(_) => {}
            other => panic!("{what}: {id}: {other:?}"),
        }
    }
    assert_eq!(rig.commands.count(), 0, "{what}");
    failed
}

#[tokio::test]
async fn at_every_crash_a_command_starts_once_at_most_and_has_one_outcome() {
    for loss in LOSSES {
        let mut n = 0;
        while fail_at(n, Fault::Death, loss).await {
            n += 1;
        }
        assert!(n > 8, "changes of the disk were tried: {n}");
    }
}

#[tokio::test]
async fn on_a_disk_that_fills_up_commands_go_on_in_memory_and_keep_the_promise() {
    for loss in [Loss::Nothing, Loss::Unsynced] {
        let mut n = 0;
        while fail_at(n, Fault::Full, loss).await {
            n += 1;
        }
        assert!(n > 8, "changes of the disk were tried: {n}");
    }
}

#[tokio::test]
async fn a_spool_that_fails_refuses_what_it_could_not_record_and_takes_the_next_under_another_id() {
    let disk = FaultyDisk::default();
    let mut rig = rig_on(&disk).await.unwrap();
    rig.up().await;
    let before = rig.commands.spool_id();
    disk.fail_at(0, Fault::Full);
    rig.run("a", argv(["true"]));
    let reason = match rig.outcome("a").await {
        Outcome::Refused(reason) => reason,
        other => panic!("it is refused, not {other:?}"),
    };
    assert!(reason.contains("no storage space") && rig.commands.ready(), "{reason}");
    rig.run("b", argv(["true"]));
    assert!(matches!(rig.outcome("b").await, Outcome::Refused(_)), "it was meant for the spool that failed");
    assert!(rig.commands.takes_renewal() && !rig.commands.takes_renewal());
    rig.cut();
    rig.up().await;
    assert_ne!(rig.commands.spool_id(), before);
    rig.run("c", argv(["true"]));
    assert_eq!(rig.outcome("c").await, Outcome::Exited(0));
}

#[tokio::test]
async fn a_sync_that_takes_long_delays_the_promise_and_nothing_else() {
    let disk = FaultyDisk::default();
    let mut rig = rig_on(&disk).await.unwrap();
    rig.up().await;
    rig.run("runs", shell("echo a; read line; echo z"));
    rig.first_line("runs").await;
    disk.hold(true);
    rig.run("waits", argv(["true"]));
    let beats = async {
        for _ in 0..50 {
            tokio::task::yield_now().await;
            tokio::time::timeout(Duration::from_millis(2), rig.commands.next(true)).await.unwrap_or_default();
            rig.messages.retain(|kind| !matches!(kind, Kind::Heartbeat(_)));
            assert!(rig.commands.ready());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), beats).await.expect("nobody waits for the disk");
    let accepted = |messages: &[Kind]| {
        let accepted = |kind: &&Kind| matches!(kind, Kind::CommandAccepted(accepted) if accepted.id == "waits");
        messages.iter().find(accepted).map(drop)
    };
    assert_eq!(accepted(&rig.messages), None, "nothing is promised before it is durable");
    disk.hold(false);
    rig.until(|_, messages| accepted(messages)).await;
    assert_eq!(rig.outcome("waits").await, Outcome::Exited(0));
}

#[tokio::test]
async fn a_disk_that_hangs_is_not_given_more_and_more() {
    let disk = FaultyDisk::default();
    let mut rig = rig_on(&disk).await.unwrap();
    rig.run("runs", shell("while :; do echo x; sleep 0.005; done"));
    let end = |rig: &Rig| {
        let entry = rig.commands.entries.get("runs").filter(|entry| entry.on_disk);
        entry.and_then(|entry| entry.held.as_ref()).map_or(0, |held| held.output_end())
    };
    let says_more = async |rig: &mut Rig| {
        let before = end(rig);
        while end(rig) == before {
            let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
        }
    };
    says_more(&mut rig).await;
    disk.hold(true);
    rig.run("waits", argv(["true"]));
    for _ in 0..30 {
        says_more(&mut rig).await;
        rig.commands.spill();
    }
    let before = disk.counts().0;
    disk.hold(false);
    while !rig.commands.spool.is_idle() {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
    }
    let changes = disk.counts().0 - before;
    assert!((1..15).contains(&changes), "{changes} changes waited for the disk");
}

#[tokio::test]
async fn output_that_no_master_took_is_whole_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 200_000, 11);
    let disk = FaultyDisk::default();
    let mut rig = rig_on(&disk).await.unwrap();
    rig.run("ends", argv(["cat", &file]));
    rig.run("runs", shell(&format!("cat {file}; sleep 1000")));
    let written = |disk: &FaultyDisk| disk.files().contains(&"runs.out".to_owned());
    let finished = |rig: &Rig| rig.commands.held()[0].state() == held_command::State::Finished;
    while !(written(&disk) && finished(&rig) && rig.commands.spool.is_idle()) {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
    }
    drop(rig);
    // The end of one was promised; of the other nothing was, but the machine did not crash.
    let mut rig = rig_on(&disk.after(Loss::Unsynced)).await.unwrap();
    rig.up().await;
    assert!(rig.output("ends").await.0 == noise);
    let mut rig = rig_on(&disk.after(Loss::Nothing)).await.unwrap();
    rig.up().await;
    assert!(matches!(rig.outcome("runs").await, Outcome::Interrupted(_)));
    assert!(rig.output("runs").await.0 == noise);
    assert!(rig.output("ends").await.0 == noise);
    assert_eq!(rig.master.state().commands["runs"].gaps, []);
}

#[tokio::test]
async fn output_on_the_disk_goes_on_at_the_byte_that_the_master_has() {
    let dir = tempfile::tempdir().unwrap();
    let (file, noise) = noise_file(dir.path(), 100_000, 12);
    let disk = FaultyDisk::default();
    let mut rig = rig_on(&disk).await.unwrap();
    rig.run("a", argv(["cat", &file]));
    while rig.commands.held().first().is_none_or(|held| held.state() != held_command::State::Finished) {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
    }
    while !rig.commands.spool.is_idle() {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
    }
    drop(rig);
    let mut rig = rig_on(&disk.after(Loss::Unsynced)).await.unwrap();
    {
        let mut state = rig.master.state();
        let received = state.commands.entry("a".to_owned()).or_default();
        (received.bytes, received.stdout) = (70_001, noise[..70_001].to_vec());
    }
    rig.up().await;
    assert!(rig.output("a").await.0 == noise);
    let state = rig.master.state();
    assert_eq!((&state.commands["a"].calls[..], &state.commands["a"].gaps[..]), (&[70_001][..], &[][..]));
}

#[tokio::test]
async fn a_short_command_costs_three_syncs_and_few_bytes() {
    let disk = FaultyDisk::default();
    let mut rig = rig_on(&disk).await.unwrap();
    rig.up().await;
    let before = disk.counts();
    rig.run("a", shell("echo hello"));
    rig.text("a").await;
    rig.commands.finished_ack("a");
    while !rig.commands.is_idle() {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.commands.next(true)).await;
    }
    let after = disk.counts();
    assert_eq!(after.1 - before.1, 3, "accepted, starting, finished");
    assert!(after.0 - before.0 <= 8 && after.2 - before.2 < 400, "{before:?} {after:?}");
    assert_eq!(disk.files(), ["journal"]);
}
