//! When agents were last heard of, as far as that is on record.

use super::*;

type Written = (Vec<(AgentId, u64)>, Option<(u64, bool)>);

/// What was written of it since the first so many changes: who was heard of, and the run.
fn written(bench: &Bench, from: usize) -> Vec<Written> {
    let mut all: Vec<Written> = Vec::new();
    for change in &bench.durable[from..] {
        match change {
            Change::PutHeard(heard) => all.push((heard.clone(), None)),
            Change::PutRun(run) if all.is_empty() => assert_eq!(run.written_unix_ms, run.started_unix_ms, "its start"),
            Change::PutRun(run) => all.last_mut().expect("not empty").1 = Some((run.written_unix_ms, run.ended)),
            _ => {}
        }
    }
    all
}

fn run() -> Bench {
    let mut bench = Bench::new();
    bench.fleet.begin_run(bench.now, "", "started".to_owned());
    bench.settle();
    bench
}

#[test]
fn who_was_heard_of_is_written_now_and_then_for_all_of_them_together() {
    let mut bench = run();
    for n in [3, 1, 2] {
        bench.register(u64::from(n), register(n, 1, &n.to_string()));
    }
    let from = bench.durable.len();
    assert_eq!(RECORD_EVERY, MS(15_000));
    for beat in 1..=10 {
        bench.advance(MS(5_000));
        for n in [1, 2, 3] {
            // The third one is silent after 5 s and lost at 25; the second one's connection ends after 30 s.
            let last = [10, 6, 1][usize::from(n) - 1];
            if beat <= last {
                assert_eq!(bench.beat(session(n, 1), beat, beat - 1), Heard::Live);
            }
        }
        bench.timeout();
        if beat == 6 {
            bench.close(2);
        }
    }
    let at = |seconds: u64| 1_000_000 + seconds * 1_000;
    assert_eq!(
        written(&bench, from),
        [
            (vec![(id(1), at(15)), (id(2), at(15)), (id(3), at(5))], Some((at(15), false))),
            // What the third one's record says need not be written again; nor that of the second one later.
            (vec![(id(1), at(30)), (id(2), at(30))], Some((at(30), false))),
            (vec![(id(1), at(45))], Some((at(45), false))),
        ]
    );
    let lost = bench.durable.iter().rev().find_map(|change| match change {
        Change::PutAgent(record) if record.id == id(3) => Some(record.last_heartbeat_unix_ms),
        _ => None,
    });
    assert_eq!(lost, Some(at(5)), "with the end of its session");

    // And what came since then at the end of the master.
    let from = bench.durable.len();
    bench.fleet.retire(bench.now);
    bench.settle();
    assert_eq!(written(&bench, from), [(vec![(id(1), at(50))], Some((at(50), true)))]);
    assert!(matches!(bench.durable.last(), Some(Change::EndSessions(_))));
    bench.advance(MS(120_000));
    bench.timeout();
    assert_eq!(written(&bench, from).len(), 1, "nothing says that it goes on");
}

#[test]
fn a_silent_minute_writes_of_nobody_and_one_that_failed_is_made_up_for() {
    let mut bench = run();
    let slow = Timing { interval: Duration::from_secs(3_600), ..Timing::default() };
    bench.register(1, Register { timing: slow, ..register(1, 1, "a") });
    let beaten = bench.now.unix_ms + 1_000;
    bench.advance(MS(1_000));
    let _ = bench.beat(session(1, 1), 1, 0);
    bench.settle();
    let from = bench.durable.len();
    bench.advance(MS(59_000));
    bench.fleet.timeout(bench.now);
    assert_eq!(bench.effects(), []);
    assert!(bench.answer_write(Err("disk full".to_owned())));
    for _ in 0..2 {
        bench.advance(MS(60_000));
        bench.timeout();
    }
    let heard: Vec<_> = written(&bench, from).into_iter().map(|(heard, _)| heard).collect();
    assert_eq!(heard, [vec![(id(1), beaten)], vec![]]);
}

#[test]
fn an_agent_that_is_being_deleted_is_not_written_of() {
    let mut bench = run();
    bench.register(1, register(1, 1, "a"));
    bench.advance(MS(5_000));
    let _ = bench.beat(session(1, 1), 1, 0);
    bench.fleet.delete(bench.now, id(1), true, 7).unwrap();
    bench.fleet.retire(bench.now);
    bench.settle();
    let heard: Vec<_> = written(&bench, 0).into_iter().map(|(heard, _)| heard).collect();
    assert_eq!(heard, [vec![]], "its row would outlive it");
}
