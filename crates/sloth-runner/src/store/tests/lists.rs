//! What is found of commands, and databases of earlier versions.

use super::*;
use crate::security::admission::Admission;

#[test]
fn commands_are_found_by_outcome_and_by_the_time_they_were_asked_for() {
    use proto::outcome::Kind;
    let world = World::new();
    let (store, _) = world.open();
    let outcomes = [
        (Kind::Exited, Outcome::Exited(0)),
        (Kind::Signaled, Outcome::Signaled(9)),
        (Kind::TimedOut, Outcome::TimedOut),
        (Kind::Cancelled, Outcome::Cancelled),
        (Kind::Interrupted, Outcome::Interrupted("x".into())),
        (Kind::Refused, Outcome::Refused(String::new())),
        (Kind::Expired, Outcome::Expired),
    ];
    let finished = |id: &str, outcome: &Outcome, created_unix_ms| CommandRecord {
        outcome: Some(outcome.clone()),
        created_unix_ms,
        ..command(id, CommandState::Finished)
    };
    for (_, outcome) in &outcomes {
        write(&store, vec![Change::PutCommand(finished(outcome.word(), outcome, 500))]).unwrap();
    }
    write(&store, vec![Change::PutCommand(finished("late", &Outcome::Exited(7), 501))]).unwrap();
    write(&store, vec![Change::PutCommand(command("running", CommandState::Accepted))]).unwrap();
    let find = |outcome, since_unix_ms| {
        let wanted = Wanted { outcome, since_unix_ms, ..Wanted::default() };
        store.commands(&wanted, None, 100).unwrap().unwrap()
    };
    for (kind, outcome) in &outcomes[1..] {
        assert_eq!(ids(&find(Some(*kind), 0)), [outcome.word()]);
    }
    assert_eq!(ids(&find(Some(Kind::Exited), 0)), ["late", "exited"]);
    assert_eq!(ids(&find(Some(Kind::Exited), 501)), ["late"]);
    assert_eq!(ids(&find(None, 501)), ["late"]);
    assert!(find(None, u64::MAX).is_empty());
}

/// What undoes each step after the first, the newest first.
const UNDONE: [(i64, &str); 9] = [
    (
        10,
        "ALTER TABLE certificates DROP COLUMN number; DROP INDEX events_refused_by_name; DROP INDEX events_refused_by_agent",
    ),
    (9, "DROP TABLE heard; DROP TABLE run"),
    (8, "ALTER TABLE deleted_agents DROP COLUMN name"),
    (7, "DROP INDEX commands_ended_by_agent"),
    (
        6,
        "DROP TABLE deleted_agents; ALTER TABLE certificates DROP COLUMN authority;
         ALTER TABLE joins DROP COLUMN certificate",
    ),
    (5, "DROP TABLE sessions; DROP TABLE told; DROP TABLE marks"),
    (4, "DROP TABLE tokens; DROP TABLE joins; DROP TABLE certificates"),
    (3, "ALTER TABLE commands DROP COLUMN expires_ms"),
    (2, "ALTER TABLE commands DROP COLUMN stdin_end; DROP INDEX events_by_name"),
];

#[test]
fn a_database_of_every_earlier_version_is_brought_to_this_one() {
    assert_eq!(UNDONE[0].0, schema::VERSION);
    for version in 1..schema::VERSION {
        let world = World::new();
        let (store, _) = world.open();
        write(&store, vec![Change::PutCommand(command("waits", CommandState::Queued))]).unwrap();
        drop(store);
        // As that version left it: without what came later.
        let database = Connection::open(world.path()).unwrap();
        for (_, undo) in UNDONE.iter().filter(|(step, _)| *step > version) {
            database.execute_batch(undo).unwrap();
        }
        database.pragma_update(None, "user_version", version).unwrap();
        drop(database);
        let (_store, snapshot) = world.open();
        assert_eq!(ids(&snapshot.commands), ["waits"], "version {version}");
        assert_eq!(snapshot.commands[0].expires_unix_ms.is_some(), version >= 3, "version {version}");
        let admission = Admission::open(&world.path(), || 0).expect("its tables are there");
        assert!(admission.tokens().is_empty());
    }
}
