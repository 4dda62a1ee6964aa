//! When agents were last heard of, who was turned away, and the master's own run.

use super::*;
use fleet::Run;

fn heard(snapshot: &Snapshot) -> Vec<(u8, u64)> {
    snapshot.agents.iter().map(|agent| (agent.id[0], agent.last_heartbeat_unix_ms)).collect()
}

fn run(written_unix_ms: u64, ended: bool) -> Run {
    Run { started_unix_ms: 50, written_unix_ms, ended }
}

#[test]
fn what_was_heard_last_survives_restarts_and_the_agents_own_row_is_newer_when_it_is_written_later() {
    let world = World::new();
    let (store, _) = world.open();
    let there = |number, last_heartbeat_unix_ms| {
        let status = if number == 2 { Status::Inactive } else { Status::Active };
        Change::PutAgent(AgentRecord { status, last_heartbeat_unix_ms, ..agent(number) })
    };
    write(&store, vec![there(1, 100), there(2, 100), there(3, 100), there(4, 100)]).unwrap();
    let first = (1..=4).map(|number| ([number; 16], 160)).collect();
    write(&store, vec![Change::PutHeard(first)]).unwrap();
    write(&store, vec![Change::PutHeard(vec![([1; 16], 220)])]).unwrap();
    // One whose session has ended, by a clock that was set back; and one that is forgotten and comes anew.
    write(&store, vec![there(3, 150), Change::DeleteAgent([4; 16])]).unwrap();
    write(&store, vec![there(4, 0)]).unwrap();
    drop(store);
    for _ in 0..2 {
        let (store, snapshot) = world.open();
        assert_eq!(heard(&snapshot), [(1, 220), (2, 160), (3, 150), (4, 0)]);
        drop(store);
    }
    // Of 10,000 they are one statement each, and one transaction.
    let (store, _) = world.open();
    let all = (0..10_000u32).map(|number| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        (id, 7)
    });
    write(&store, vec![Change::PutHeard(all.collect())]).unwrap();
}

#[test]
fn how_the_last_run_ended_is_known_and_told_to_those_who_were_there() {
    let world = World::new();
    let (store, snapshot) = world.open();
    assert_eq!(snapshot.last_run, None);
    write(&store, vec![Change::PutAgent(agent(1)), Change::PutRun(run(60, true))]).unwrap();
    drop(store);
    let (store, snapshot) = world.open();
    assert_eq!(snapshot.last_run, Some(run(60, true)));
    assert_eq!(snapshot.agents[0].detail, "the master was restarted, and it has not registered since");
    write(&store, vec![Change::PutAgent(agent(1)), Change::PutRun(run(60_000, false))]).unwrap();
    drop(store);
    let (store, snapshot) = world.open();
    assert_eq!(snapshot.last_run, Some(run(60_000, false)));
    assert_eq!(
        snapshot.agents[0].detail,
        "the master was not stopped cleanly (last written at 1970-01-01T00:01:00.000Z) and was started again, and it \
         has not registered since"
    );
    // An event is written, too.
    write(&store, vec![Change::AddEvent(event(1, 1, 61_000))]).unwrap();
    drop(store);
    assert_eq!(world.open().1.last_run, Some(run(61_000, false)));
}

#[test]
fn a_backup_does_not_say_that_its_master_was_cut_off() {
    let world = World::new();
    let (store, _) = world.open();
    let changes =
        vec![Change::PutAgent(agent(1)), Change::PutHeard(vec![([1; 16], 9)]), Change::PutRun(run(60, false))];
    write(&store, changes).unwrap();
    let copy = World::new();
    backup(&world.path(), &copy.path(), false).unwrap();
    let (_store, snapshot) = copy.open();
    assert_eq!((heard(&snapshot), snapshot.last_run), (vec![(1, 9)], None));
}

#[test]
fn refusals_are_found_by_name_and_by_id_newest_first() {
    let world = World::new();
    let (store, _) = world.open();
    let refusal = |seq, number, agent: &str, time| {
        let (kind, agent) = ("agent.rejected".to_owned(), agent.to_owned());
        Change::AddEvent(Event { kind, agent, ..event(seq, number, 100 * DAY_MS + time) })
    };
    let changes = vec![
        refusal(1, 1, "a", 1),
        Change::AddEvent(event(2, 1, 100 * DAY_MS)),
        refusal(3, 2, "a", 2),
        refusal(4, 1, "b", 3),
        refusal(5, 0, "c", 4),
    ];
    write(&store, changes).unwrap();
    let found = |agent, name, since, limit| -> Vec<u64> {
        let found = store.refusals(agent, name, 100 * DAY_MS + since, limit).unwrap();
        found.into_iter().map(|event| event.seq).collect()
    };
    assert_eq!(found(Some([1; 16]), "a", 0, 9), [4, 3, 1]);
    assert_eq!(found(Some([1; 16]), "a", 2, 9), [4, 3]);
    assert_eq!(found(Some([1; 16]), "a", 0, 1), [4]);
    assert_eq!(found(None, "a", 0, 9), [3, 1]);
    assert_eq!(found(None, "c", 0, 9), [5]);
    assert!(found(None, "nobody", 0, 9).is_empty());
    // What was refused before the agent was deleted says nothing of who comes in its name since.
    let (kind, agent) = ("agent.deleted".to_owned(), "a".to_owned());
    let deleted = Change::AddEvent(Event { kind, agent, ..event(6, 1, 100 * DAY_MS + 5) });
    write(&store, vec![deleted, refusal(7, 1, "a", 6)]).unwrap();
    assert_eq!((found(None, "a", 0, 9), found(Some([1; 16]), "b", 0, 9)), (vec![7], vec![7]));
}
