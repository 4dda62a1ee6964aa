mod upgrade;

use super::*;
use fleet::{AgentRecord, Status};
use link::Outcome;
use std::{
    fs,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

mod heard;
mod lists;
mod sessions;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A directory, a clock that is set by hand, and a list of the outputs that were removed.
struct World {
    directory: tempfile::TempDir,
    clock: Arc<AtomicU64>,
    removed: Arc<Mutex<Vec<String>>>,
    history: History,
}

impl World {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: Arc::new(AtomicU64::new(100 * DAY_MS)),
            removed: Arc::default(),
            history: History::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sloth.db")
    }

    fn try_open(&self) -> Result<(SqliteStore, Snapshot), OpenError> {
        let (clock, removed) = (self.clock.clone(), self.removed.clone());
        let environment = Environment {
            clock: Box::new(move || clock.load(Ordering::Relaxed)),
            remove_output: Box::new(move |id| {
                removed.lock().unwrap().push(id.to_owned());
                true
            }),
        };
        SqliteStore::open(&self.path(), self.history, environment)
    }

    fn open(&self) -> (SqliteStore, Snapshot) {
        self.try_open().unwrap()
    }

    fn refused(&self) -> OpenError {
        self.try_open().err().expect("it does not open")
    }
}

fn write(store: &SqliteStore, changes: Vec<Change>) -> Result<(), String> {
    let (sender, answer) = mpsc::channel();
    store.write(changes, Box::new(move |result| sender.send(result).unwrap()));
    answer.recv().expect("every call is answered")
}

fn agent(number: u8) -> AgentRecord {
    AgentRecord {
        id: [number; 16],
        name: format!("agent-{number}"),
        host: "höst".into(),
        version: "1".into(),
        address: "[::1]:50051".into(),
        labels: [("a".into(), "b \"c\"".into())].into(),
        spool_id: [9; 16],
        epoch: u64::MAX,
        status: Status::Active,
        reason: String::new(),
        detail: String::new(),
        since_unix_ms: 7,
        last_heartbeat_unix_ms: 8,
    }
}

#[test]
fn ids_are_found_by_their_beginning() {
    let world = World::new();
    let (store, _) = world.open();
    for id in ["ab-1", "ab-2", "ab", "b", "aB-3"] {
        write(&store, vec![Change::PutCommand(command(id, CommandState::Sent))]).unwrap();
    }
    assert_eq!(store.ids_beginning("ab-", 10).unwrap(), ["ab-1", "ab-2"]);
    assert_eq!(store.ids_beginning("ab", 2).unwrap(), ["ab", "ab-1"]);
    assert_eq!(store.ids_beginning("ab-%", 10).unwrap(), [] as [String; 0]);
}

fn command(id: &str, state: CommandState) -> CommandRecord<Spec> {
    CommandRecord {
        id: id.into(),
        agent_id: [1; 16],
        agent: "agent-1".into(),
        spec: Spec { argv: vec![vec![0xff, 0]], timeout_ms: u64::MAX, ..Spec::default() },
        state,
        spool_id: Some([9; 16]),
        outcome: (state == CommandState::Finished).then_some(Outcome::Exited(3)),
        cancel_asked: true,
        stdin_end: Some(u64::MAX),
        created_unix_ms: 1,
        started_unix_ms: 2,
        finished_unix_ms: 3,
        output_bytes: u64::MAX,
        gaps: vec![(5, u64::MAX)],
        expires_unix_ms: Some(u64::MAX),
    }
}

fn event(seq: u64, number: u8, time_unix_ms: u64) -> Event {
    Event {
        seq,
        time_unix_ms,
        kind: "agent.lost".into(),
        agent: format!("agent-{number}"),
        agent_id: [number; 16],
        epoch: 4,
        reason: "heartbeat_timeout".into(),
        message: "gone".into(),
    }
}

fn ids(commands: &[CommandRecord<Spec>]) -> Vec<&str> {
    commands.iter().map(|command| command.id.as_str()).collect()
}

#[test]
fn everything_comes_back_as_it_was_written() {
    let world = World::new();
    let (store, empty) = world.open();
    assert!(empty.agents.is_empty() && empty.commands.is_empty());
    assert_eq!(empty.next_event_seq, 1);
    let stopped = AgentRecord { status: Status::Stopped, reason: "goodbye".into(), ..agent(2) };
    let changes = vec![
        Change::PutAgent(agent(1)),
        Change::PutAgent(stopped.clone()),
        Change::PutAgent(agent(3)),
        Change::DeleteAgent([3; 16]),
        Change::PutCommand(command("queued", CommandState::Queued)),
        Change::PutCommand(command("done", CommandState::Accepted)),
        Change::PutCommand(command("done", CommandState::Finished)),
        Change::AddEvent(event(1, 1, 5)),
    ];
    write(&store, changes).unwrap();
    assert_eq!(store.command("done").unwrap(), Some(command("done", CommandState::Finished)), "readers see it at once");
    drop(store);

    let (store, snapshot) = world.open();
    let lost = AgentRecord {
        status: Status::Inactive,
        reason: "master_restarted".into(),
        detail: "the master was restarted, and it has not registered since".into(),
        since_unix_ms: 100 * DAY_MS,
        ..agent(1)
    };
    assert_eq!(snapshot.agents, [lost.clone(), stopped.clone()]);
    assert_eq!(snapshot.commands, [command("queued", CommandState::Queued)]);
    assert_eq!(snapshot.next_event_seq, 2);
    assert_eq!(store.command("done").unwrap(), Some(command("done", CommandState::Finished)));
    assert_eq!(store.command("none").unwrap(), None);
    drop(store);

    world.clock.fetch_add(1000, Ordering::Relaxed);
    assert_eq!(world.open().1.agents, [lost, stopped], "since when is not moved by another restart");
}

#[test]
fn commands_are_listed_newest_first_and_page_on() {
    let world = World::new();
    let (store, _) = world.open();
    let finished = CommandState::Finished;
    for id in ["a", "b", "c", "d"] {
        write(&store, vec![Change::PutCommand(command(id, CommandState::Sent))]).unwrap();
    }
    let other = CommandRecord { agent: "other".into(), ..command("e", finished) };
    write(&store, vec![Change::PutCommand(command("b", finished)), Change::PutCommand(other)]).unwrap();

    let list = |agent: Option<&str>, state, before, limit| {
        let wanted = Wanted { agent: agent.map(str::to_owned), state, ..Wanted::default() };
        store.commands(&wanted, before, limit).unwrap().unwrap()
    };
    assert_eq!(ids(&list(None, None, None, 10)), ["e", "d", "c", "b", "a"]);
    assert_eq!(ids(&list(None, None, Some("d"), 2)), ["c", "b"]);
    assert_eq!(ids(&list(Some("agent-1"), Some(finished), None, 10)), ["b"]);
    assert_eq!(ids(&list(Some("agent-1"), Some(CommandState::Sent), Some("d"), 10)), ["c", "a"]);
    assert_eq!(ids(&list(Some("other"), None, None, usize::MAX)), ["e"]);
    assert_eq!(list(Some("nobody"), None, None, 10), []);
    assert_eq!(store.commands(&Wanted::default(), Some("gone"), 1).unwrap(), None, "nothing to go on from");
}

#[test]
fn events_are_the_newest_ones_in_ascending_order() {
    let world = World::new();
    let (store, _) = world.open();
    let events = (1..=6).map(|seq| Change::AddEvent(event(seq, 1 + (seq % 2) as u8, 100 * DAY_MS))).collect();
    write(&store, events).unwrap();
    let numbers = |agent, after, limit| {
        store.events(agent, None, after, limit).unwrap().iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!(numbers(None, 0, 100), [1, 2, 3, 4, 5, 6]);
    assert_eq!(numbers(None, 0, 2), [5, 6]);
    assert_eq!(numbers(None, 4, 100), [5, 6]);
    assert_eq!(numbers(Some([1; 16]), 2, 100), [4, 6]);
    assert!(numbers(None, u64::MAX, 100).is_empty());
    write(&store, vec![Change::AddEvent(Event { agent: "other".into(), ..event(7, 1, 100 * DAY_MS) })]).unwrap();
    let named = |agent, name| store.events(agent, Some(name), 0, 9).unwrap().iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(named(None, "other"), [7]);
    assert_eq!(named(Some([2; 16]), "other"), [1, 3, 5, 7]);
    assert!(named(None, "nobody").is_empty());
    // In pages from where the newest ones begin, of all and of either.
    let begin = |agent, name, after, limit| store.events_begin(agent, name, after, limit).unwrap();
    assert_eq!([begin(None, None, 0, 3), begin(None, None, 0, 100), begin(None, None, 6, 100)], [4, 0, 6]);
    assert_eq!([begin(Some([2; 16]), Some("other"), 0, 3), begin(Some([2; 16]), None, 2, 1)], [2, 4]);
    let page = |agent, name, after| {
        store.events_from(agent, name, after, 2).unwrap().iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!(page(None, None, 4), [5, 6]);
    assert_eq!([page(Some([2; 16]), Some("other"), 2), page(Some([2; 16]), Some("other"), 5)], [vec![3, 5], vec![7]]);
    assert_eq!(store.events(None, None, 5, 1).unwrap(), [Event { agent: "other".into(), ..event(7, 1, 100 * DAY_MS) }]);
}

#[test]
fn calls_are_answered_in_order_and_one_that_fails_spoils_no_other() {
    let world = World::new();
    let (store, _) = world.open();
    write(&store, vec![Change::AddEvent(event(1, 1, 100 * DAY_MS))]).unwrap();
    let (sender, answers) = mpsc::channel();
    // The first is held until the others wait, so that they share a group.
    let (release, held) = mpsc::channel::<()>();
    store.write(Vec::new(), Box::new(move |_| held.recv().unwrap()));
    for number in 0..5 {
        let sender = sender.clone();
        // The third one uses a number twice, which nothing of ours may do.
        let seq = if number == 2 { 1 } else { 10 + number };
        let id = format!("c{number}");
        let changes =
            vec![Change::PutCommand(command(&id, CommandState::Queued)), Change::AddEvent(event(seq, 1, 100 * DAY_MS))];
        store.write(changes, Box::new(move |result| sender.send((number, result.is_ok())).unwrap()));
    }
    release.send(()).unwrap();
    let answers: Vec<_> = answers.iter().take(5).collect();
    assert_eq!(answers, [(0, true), (1, true), (2, false), (3, true), (4, true)]);
    assert_eq!(
        ids(&store.commands(&Wanted::default(), None, 9).unwrap().unwrap()),
        ["c4", "c3", "c1", "c0"],
        "all of a call or nothing"
    );
}

#[test]
fn dropping_writes_what_waits() {
    let world = World::new();
    let (store, _) = world.open();
    let (sender, answers) = mpsc::channel();
    for number in 0..100 {
        let sender = sender.clone();
        let change = Change::PutCommand(command(&format!("c{number}"), CommandState::Queued));
        store.write(vec![change], Box::new(move |result| sender.send(result).unwrap()));
    }
    drop((store, sender));
    assert_eq!(answers.iter().filter(Result::is_ok).count(), 100);
    assert_eq!(world.open().1.commands.len(), 100);
}

#[test]
fn when_the_writer_has_died_every_write_says_so() {
    let world = World::new();
    let (store, _) = world.open();
    let (sender, answers) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    store.write(Vec::new(), Box::new(move |_| held.recv().unwrap()));
    store.write(Vec::new(), Box::new(|_| panic!("on purpose")));
    for _ in 0..3 {
        let sender = sender.clone();
        store.write(Vec::new(), Box::new(move |result| sender.send(result).unwrap()));
    }
    release.send(()).unwrap();
    for answer in answers.iter().take(3) {
        assert!(answer.unwrap_err().contains("has died: restart the master"));
    }
    assert!(write(&store, vec![Change::PutAgent(agent(1))]).unwrap_err().contains("has died"));
    drop(store);
    assert!(world.open().1.agents.is_empty());
}

#[test]
fn what_is_old_by_the_masters_clock_is_forgotten_with_its_output() {
    let world = World::new();
    let (store, _) = world.open();
    // Whatever the agent's clock said: `finished_unix_ms` is 3 in all of them.
    write(&store, vec![Change::PutCommand(command("old", CommandState::Finished))]).unwrap();
    write(&store, vec![Change::PutCommand(command("running", CommandState::Accepted))]).unwrap();
    write(&store, vec![Change::AddEvent(event(1, 1, 100 * DAY_MS)), Change::AddEvent(event(2, 1, 100 * DAY_MS))])
        .unwrap();
    drop(store);
    world.clock.fetch_add(29 * DAY_MS, Ordering::Relaxed);
    let (store, _) = world.open();
    // Written again, it does not become younger.
    write(&store, vec![Change::PutCommand(command("old", CommandState::Finished))]).unwrap();
    write(&store, vec![Change::PutCommand(command("young", CommandState::Finished))]).unwrap();
    assert_eq!(store.events(None, None, 0, 9).unwrap().len(), 2);
    drop(store);
    world.clock.fetch_add(2 * DAY_MS, Ordering::Relaxed);
    let (store, snapshot) = world.open();
    write(&store, Vec::new()).unwrap();
    assert_eq!(ids(&store.commands(&Wanted::default(), None, 9).unwrap().unwrap()), ["young", "running"]);
    assert_eq!(*world.removed.lock().unwrap(), ["old"]);
    assert_eq!(store.events(None, None, 0, 9).unwrap(), []);
    assert_eq!(snapshot.next_event_seq, 3);
    drop(store);
    assert_eq!(world.open().1.next_event_seq, 3, "numbers are not used again after their events are forgotten");
    assert_eq!(*world.removed.lock().unwrap(), ["old"], "once");
}

#[test]
fn agents_that_flap_push_out_no_trace_of_what_people_did() {
    let world = World::new();
    let (store, _) = world.open();
    let of = |kind: &str, seq| Change::AddEvent(Event { kind: kind.into(), ..event(seq, 1, 100 * DAY_MS) });
    let many = prune::AUDIT_MAX + 3;
    write(&store, (1..=many).map(|seq| of("audit.delete", seq)).collect()).unwrap();
    let flapping = |from: u64| (from..from + 5).map(|seq| of("agent.lost", seq)).collect();
    write(&store, flapping(many + 1)).unwrap();
    write(&store, flapping(prune::EVENTS_MAX + 2 * many)).unwrap();
    drop(store);
    let (store, _) = world.open();
    let connection = rusqlite::Connection::open(world.path()).unwrap();
    let seqs = |kind: &str| {
        let look = "SELECT count(*), min(seq) FROM events WHERE kind = ?1";
        connection.query_row(look, [kind], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?))).unwrap()
    };
    while seqs("agent.lost").0 > 5 || seqs("audit.delete").0 > prune::AUDIT_MAX {
        write(&store, Vec::new()).unwrap();
        std::thread::yield_now();
    }
    drop(store);
    assert_eq!(seqs("audit.delete"), (prune::AUDIT_MAX, 4), "the newest");
    assert_eq!(seqs("agent.lost"), (5, prune::EVENTS_MAX + 2 * many));
}

#[test]
fn above_the_number_that_is_kept_the_oldest_finished_ones_go() {
    let mut world = World::new();
    let (store, _) = world.open();
    let finished = |number: u32| Change::PutCommand(command(&format!("c{number}"), CommandState::Finished));
    write(&store, vec![Change::PutCommand(command("running", CommandState::Sent))]).unwrap();
    write(&store, (0..1203).map(finished).collect()).unwrap();
    drop(store);
    world.history.commands_keep_max = 3;
    let (store, _) = world.open();
    // A batch at a time, with writers in between.
    while world.removed.lock().unwrap().len() < 1200 {
        write(&store, Vec::new()).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(
        ids(&store.commands(&Wanted::default(), None, 9).unwrap().unwrap()),
        ["c1202", "c1201", "c1200", "running"]
    );
}

#[test]
fn an_agent_with_a_crowd_of_commands_pushes_out_its_own_and_not_those_of_others() {
    let mut world = World::new();
    let (store, _) = world.open();
    let of = |number: u8, id: &str| {
        Change::PutCommand(CommandRecord { agent_id: [number; 16], ..command(id, CommandState::Finished) })
    };
    write(&store, vec![of(1, "a"), of(2, "b"), of(1, "c")]).unwrap();
    write(&store, (0..2_000).map(|n| of(3, &format!("crowd{n}"))).collect()).unwrap();
    drop(store);
    world.history.commands_keep_max = 6;
    let (store, _) = world.open();
    while world.removed.lock().unwrap().len() < 1_997 {
        write(&store, Vec::new()).unwrap();
        std::thread::yield_now();
    }
    let left = store.commands(&Wanted::default(), None, 9).unwrap().unwrap();
    assert_eq!(ids(&left), ["crowd1999", "crowd1998", "crowd1997", "c", "b", "a"]);
}

#[test]
fn an_output_whose_id_was_given_anew_is_not_removed() {
    let world = World::new();
    let (store, _) = world.open();
    write(&store, vec![Change::PutCommand(command("again", CommandState::Queued))]).unwrap();
    drop(store);
    let database = Connection::open(world.path()).unwrap();
    database.execute_batch("INSERT INTO outputs_to_remove VALUES ('again'), ('gone')").unwrap();
    drop(database);
    let (store, _) = world.open();
    write(&store, Vec::new()).unwrap();
    assert_eq!(*world.removed.lock().unwrap(), ["gone"]);
}

#[test]
fn a_second_master_is_refused_with_the_firsts_process_id() {
    let world = World::new();
    let (_store, _) = world.open();
    let pid = std::process::id();
    assert_eq!(
        world.refused().to_string(),
        format!(
            "{} is in use by another master (process {pid}): stop it, or give this one a state_dir of its own",
            world.path().display()
        )
    );
}

#[test]
fn a_database_that_another_program_locks_is_named() {
    let world = World::new();
    drop(world.open());
    let other = Connection::open(world.path()).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let error = world.refused();
    assert_eq!(error.why, Why::Busy, "{error}");
}

#[test]
fn a_damaged_database_is_left_as_it_is() {
    for (start, garbage) in [(0, 4096), (4096, 60_000)] {
        let world = World::new();
        let (store, _) = world.open();
        write(&store, (0..200).map(|number| Change::PutAgent(agent(number))).collect()).unwrap();
        drop(store);
        let mut damaged = fs::read(world.path()).unwrap();
        let end = damaged.len().min(start + garbage);
        damaged[start..end].fill(0x5a);
        fs::write(world.path(), &damaged).unwrap();
        let error = world.refused();
        assert!(matches!(error.why, Why::Corrupt(_)), "{error:?}");
        assert!(error.to_string().contains("nothing was changed: restore a backup"), "{error}");
        assert!(fs::read(world.path()).unwrap() == damaged, "changed");
    }
}

#[test]
fn a_row_that_cannot_be_read_refuses_the_database_unchanged() {
    let world = World::new();
    let (store, _) = world.open();
    write(&store, vec![Change::PutAgent(agent(1))]).unwrap();
    drop(store);
    let database = Connection::open(world.path()).unwrap();
    database.execute_batch("UPDATE agents SET labels = '{'").unwrap();
    drop(database);
    let before = fs::read(world.path()).unwrap();
    assert!(matches!(world.refused().why, Why::Corrupt(_)));
    assert!(fs::read(world.path()).unwrap() == before);
}

#[test]
fn a_newer_schema_and_a_strangers_database_are_left_as_they_are() {
    let world = World::new();
    drop(world.open());
    let database = Connection::open(world.path()).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let before = fs::read(world.path()).unwrap();
    let error = world.refused();
    assert_eq!(error.why, Why::Newer { found: 99, known: schema::VERSION });
    let known = format!("schema version 99, this master knows versions up to {}", schema::VERSION);
    assert!(error.to_string().contains(&known), "{error}");
    assert!(fs::read(world.path()).unwrap() == before);

    let world = World::new();
    Connection::open(world.path()).unwrap().execute_batch("CREATE TABLE notes (text)").unwrap();
    assert_eq!(world.refused().why, Why::Foreign);
}

#[test]
fn a_missing_directory_is_named() {
    let world = World::new();
    fs::remove_dir(world.directory.path()).unwrap();
    let error = world.refused();
    assert_eq!(error.why, Why::NoDirectory);
    assert!(error.to_string().contains(&world.directory.path().display().to_string()));
}

#[test]
fn a_full_disk_fails_the_write_and_the_next_one_may_succeed() {
    let world = World::new();
    let (store, _) = world.open();
    drop(store);
    // The limit of pages stands in for the disk's size: SQLite reports both alike.
    let mut connection = connect(&world.path(), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    let attempt = |connection: &mut Connection| {
        let transaction = connection.transaction().unwrap();
        for number in 0..200 {
            rows::apply(&transaction, &Change::PutAgent(agent(number)), 0)?;
        }
        transaction.commit()
    };
    let error = attempt(&mut connection).unwrap_err();
    assert_eq!(Why::of(&error), Why::Full);
    assert!(error::explain(&world.path(), &error).ends_with("is full: make room"));
    connection.pragma_update_and_check(None, "max_page_count", 100_000, |_| Ok(())).unwrap();
    attempt(&mut connection).unwrap();
}

#[test]
fn a_backup_is_made_while_the_master_writes_and_opens_as_a_database() {
    let world = World::new();
    let (store, _) = world.open();
    write(&store, vec![Change::PutAgent(agent(1)), Change::AddEvent(event(1, 1, 100 * DAY_MS))]).unwrap();
    let target = world.directory.path().join("backup.db");
    let summary = backup(&world.path(), &target, false).unwrap();
    assert_eq!((summary.agents, summary.commands, summary.events), (1, 0, 1));
    write(&store, vec![Change::PutAgent(agent(2))]).unwrap();

    let refused = backup(&world.path(), &target, false).unwrap_err();
    assert!(
        refused.ends_with("backup.db exists already: name another file, or overwrite it with --force"),
        "{refused}"
    );
    let before = fs::read(&target).unwrap();
    let restored = World { directory: tempfile::tempdir().unwrap(), ..World::new() };
    fs::copy(&target, restored.path()).unwrap();
    let (copy, snapshot) = restored.open();
    assert_eq!(snapshot.agents.len(), 1);
    assert_eq!(snapshot.agents[0].name, "agent-1");
    write(&copy, vec![Change::PutAgent(agent(7))]).unwrap();

    assert_eq!(backup(&world.path(), &target, true).unwrap().agents, 2);
    assert!(fs::read(&target).unwrap() != before);
    let names: Vec<_> = fs::read_dir(world.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("part")), "{names:?}");
    let missing = backup(&world.directory.path().join("no.db"), &target, true).unwrap_err();
    assert!(missing.contains("there is no database at"), "{missing}");
    assert!(
        backup(&world.path(), Path::new("/nowhere/x.db"), false)
            .unwrap_err()
            .contains("cannot write /nowhere/x.db: no such file or directory; name")
    );
}

#[test]
fn files_that_hold_environments_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let (store, _) = world.open();
    write(&store, vec![Change::PutAgent(agent(1))]).unwrap();
    for name in ["sloth.db", "sloth.db-wal", "sloth.db.lock"] {
        let mode = fs::metadata(world.directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_database_that_was_read_and_closed_leaves_no_files_beside_it() {
    let world = World::new();
    let (store, _) = world.open();
    write(&store, vec![Change::PutAgent(agent(1))]).unwrap();
    // Only one that has read has the files of the WAL open.
    assert_eq!(store.command("none").unwrap(), None);
    drop(store);
    let mut left: Vec<_> =
        fs::read_dir(world.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["sloth.db", "sloth.db.lock"]);
}
