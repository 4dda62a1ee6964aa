//! Databases that an earlier version of the master has left.

use super::*;

/// A fleet as the first version knew it: an agent, a command that runs, an event.
const FIRST: &str = "
    INSERT INTO agents VALUES (x'01010101010101010101010101010101', 'node1', 'h', '0.1.0', '10.0.0.1', '{}',
        x'09090909090909090909090909090909', 7, 'Active', '', '', 1, 2);
    INSERT INTO commands VALUES (1, 'c', x'01010101010101010101010101010101', 'node1', x'', 'accepted',
        x'09090909090909090909090909090909', NULL, 0, 1, 2, 0, 5, '[]', NULL);
    INSERT INTO events VALUES
        (3, 4, 'agent.connected', 'node1', x'01010101010101010101010101010101', 7, '', 'came');
";

#[test]
fn a_database_of_the_first_version_is_brought_up_with_all_that_is_in_it() {
    let world = World::new();
    let old = Connection::open(world.path()).unwrap();
    schema::make(&old, 1);
    old.execute_batch(FIRST).unwrap();
    drop(old);
    let (store, snapshot) = world.open();
    let agents: Vec<_> = snapshot.agents.iter().map(|agent| (agent.name.as_str(), agent.epoch)).collect();
    assert_eq!((agents, snapshot.next_event_seq), (vec![("node1", 7)], 4));
    let [running] = &snapshot.commands[..] else { panic!("{:?}", snapshot.commands) };
    assert_eq!((running.id.as_str(), running.output_bytes, running.stdin_end), ("c", 5, None));
    // And it takes what the first version did not know.
    write(&store, vec![Change::PutCommand(CommandRecord { stdin_end: Some(3), ..running.clone() })]).unwrap();
    drop(store);
    assert_eq!(world.open().1.commands[0].stdin_end, Some(3));
    let made_now = World::new();
    drop(made_now.open());
    let version = |world: &World| -> i64 {
        let database = Connection::open(world.path()).unwrap();
        database.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    assert_eq!(version(&world), version(&made_now));
}
