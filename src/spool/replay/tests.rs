use super::*;
use crate::spool::format::Place;

const MARK: Mark = Mark { pid: 7, started: 8, boot_id: [9; 16] };

fn record(id: &str, change: Change) -> Record {
    Record { id: id.to_owned(), change }
}

fn accepted(id: &str) -> Record {
    record(id, Change::Accepted { at_unix_ms: 1, spec: id.as_bytes().to_vec() })
}

fn finish(code: i32) -> Finish {
    Finish { outcome: Outcome::Exited(code), total_bytes: 3, started_unix_ms: 2, finished_unix_ms: 4 }
}

fn finished(id: &str, code: i32) -> Record {
    record(id, Change::Finished { finish: finish(code), output: Rest { from: 3, place: Place::Here(Vec::new()) } })
}

fn acknowledged(id: &str, at_unix_ms: u64) -> Record {
    record(id, Change::Acknowledged { at_unix_ms })
}

fn stages(lives: &[Life]) -> Vec<(&str, &Stage)> {
    lives.iter().map(|life| (life.id.as_str(), &life.stage)).collect()
}

#[test]
fn each_command_stands_where_its_last_record_left_it_in_the_order_of_arrival() {
    let started = Change::Started { at_unix_ms: 5, mark: MARK };
    let records = [
        accepted("waits"),
        accepted("starts"),
        accepted("runs"),
        record("runs", Change::Starting),
        accepted("ended"),
        record("starts", Change::Starting),
        record("runs", started),
        finished("ended", 1),
    ];
    let lives = replay(records);
    let output = Rest { from: 3, place: Place::Here(Vec::new()) };
    let expected = [
        ("waits", &Stage::Accepted),
        ("starts", &Stage::MayRun { started: None }),
        ("runs", &Stage::MayRun { started: Some((5, MARK)) }),
        ("ended", &Stage::Finished { finish: finish(1), output }),
    ];
    assert_eq!(stages(&lives), expected);
}

#[test]
fn the_first_outcome_stays_and_a_start_after_the_end_is_none() {
    let records = [accepted("a"), finished("a", 1), finished("a", 2), record("a", Change::Starting), accepted("a")];
    let lives = replay(records);
    assert!(matches!(&lives[..], [Life { stage: Stage::Finished { finish, .. }, .. }] if *finish == self::finish(1)));
}

#[test]
fn an_id_that_comes_again_after_its_acknowledgement_is_a_command_of_its_own() {
    let records = [accepted("a"), finished("a", 1), acknowledged("a", 9), accepted("b"), accepted("a")];
    assert_eq!(stages(&replay(records)), [("b", &Stage::Accepted), ("a", &Stage::Accepted)]);
}

#[test]
fn what_lost_its_acceptance_to_damage_may_have_run_and_what_lost_its_end_does_not_run_again() {
    let lives = replay([record("a", Change::Starting), accepted("b"), acknowledged("b", 9)]);
    assert_eq!(lives[0].stage, Stage::MayRun { started: None });
    assert!(matches!(&lives[1].stage, Stage::Acknowledged { finish, .. } if finish.outcome.word() == "interrupted"));
}

#[test]
fn rewritten_records_say_the_same() {
    let records = [
        accepted("a"),
        accepted("b"),
        record("b", Change::Starting),
        accepted("c"),
        record("c", Change::Started { at_unix_ms: 5, mark: MARK }),
        accepted("d"),
        finished("d", 1),
        accepted("e"),
        finished("e", 2),
        acknowledged("e", 9),
        finished("refused", 3),
    ];
    let lives = replay(records);
    let mut again = replay(lives.iter().flat_map(Life::records));
    // Of a tombstone only id and outcome stay.
    assert_eq!(again[4].spec.take(), None);
    again[4].spec.clone_from(&lives[4].spec);
    again[4].accepted_unix_ms = 1;
    assert_eq!(again, lives);
}

#[test]
fn tombstones_go_by_age_and_number_and_nothing_else_goes() {
    let records = (0..5_u64).flat_map(|n| {
        let id = format!("t{n}");
        [accepted(&id), finished(&id, 0), acknowledged(&id, 100 * n)]
    });
    let mut lives = replay(records.chain([accepted("waits"), finished("unheard", 0)]));
    forget(&mut lives, 450, 300, 10);
    let ids = |lives: &[Life]| lives.iter().map(|life| life.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&lives), ["t2", "t3", "t4", "waits", "unheard"]);
    forget(&mut lives, 450, 300, 1);
    assert_eq!(ids(&lives), ["t4", "waits", "unheard"]);
    forget(&mut lives, 0, 300, 1);
    assert_eq!(ids(&lives), ["t4", "waits", "unheard"], "a clock that was set back");
    forget(&mut lives, u64::MAX, 0, 0);
    assert_eq!(ids(&lives), ["waits", "unheard"]);
}
