//! Sessions on record.

use super::*;
use fleet::{SessionId, Told, ToldKind};

fn begin(number: u8, epoch: u64, started_unix_ms: u64) -> Change {
    let session = SessionId { agent: [number; 16], epoch };
    Change::BeginSession(SessionRecord { session, started_unix_ms, address: "10.0.0.1".into(), end: None })
}

fn end(number: u8, epoch: u64, unix_ms: u64, reason: &str) -> Change {
    let end = SessionEnd { unix_ms, reason: reason.into(), detail: "d".into(), closed_by: ClosedBy::Network };
    Change::EndSession(SessionId { agent: [number; 16], epoch }, end)
}

/// Epoch, start, and end with reason and who.
type Row = (u64, u64, Option<(u64, String, ClosedBy)>);

fn told(store: &SqliteStore, number: u8) -> Vec<Row> {
    let told = |record: SessionRecord| {
        let end = record.end.map(|end| (end.unix_ms, end.reason, end.closed_by));
        (record.session.epoch, record.started_unix_ms, end)
    };
    store.sessions([number; 16], 100).unwrap().into_iter().map(told).collect()
}

#[test]
fn sessions_survive_a_restart_with_their_ends_newest_first() {
    let world = World::new();
    let (store, _) = world.open();
    let first =
        vec![begin(1, 1, 5), end(1, 1, 9, "stream_closed"), end(1, 1, 10, "late"), begin(1, 2, 11), begin(2, 7, 3)];
    write(&store, first).unwrap();
    let ended = (1, 5, Some((9, "stream_closed".to_owned(), ClosedBy::Network)));
    assert_eq!(told(&store, 1), [(2, 11, None), ended.clone()]);
    drop(store);
    let (store, _) = world.open();
    let cut = Some((100 * DAY_MS, "master_restarted".to_owned(), ClosedBy::Master));
    assert_eq!(told(&store, 1), [(2, 11, cut.clone()), ended]);
    assert_eq!(told(&store, 2), [(7, 3, cut)]);
    // A master that was told to end has said when.
    let at = SessionEnd {
        unix_ms: 99,
        reason: "master_shutdown".into(),
        detail: String::new(),
        closed_by: ClosedBy::Master,
    };
    write(&store, vec![begin(1, 3, 98), Change::EndSessions(at)]).unwrap();
    drop(store);
    let (store, _) = world.open();
    assert_eq!(told(&store, 1)[0], (3, 98, Some((99, "master_shutdown".to_owned(), ClosedBy::Master))));
    write(&store, vec![Change::DeleteAgent([1; 16])]).unwrap();
    assert_eq!((told(&store, 1).len(), told(&store, 2).len()), (0, 1));
}

#[test]
fn a_session_whose_end_was_lost_ends_when_the_next_begins() {
    let world = World::new();
    let (store, _) = world.open();
    write(&store, vec![begin(1, 1, 5), begin(2, 1, 5), begin(1, 2, 20)]).unwrap();
    let lost = (1, 5, Some((20, "superseded".to_owned(), ClosedBy::Master)));
    assert_eq!(told(&store, 1), [(2, 20, None), lost]);
    assert_eq!(told(&store, 2), [(1, 5, None)]);
}

#[test]
fn of_each_agent_no_more_sessions_are_kept_than_configured() {
    let mut world = World::new();
    world.history.sessions_keep = 10;
    let (store, _) = world.open();
    let all: Vec<_> = (1..=1_000).flat_map(|epoch| [begin(1, epoch, epoch), end(1, epoch, epoch, "x")]).collect();
    write(&store, vec![begin(2, 1, 1)]).unwrap();
    for changes in all.chunks(7) {
        write(&store, changes.to_vec()).unwrap();
    }
    let epochs: Vec<_> = told(&store, 1).into_iter().map(|(epoch, ..)| epoch).collect();
    assert!((10..10 + usize::try_from(prune::SESSIONS_SLACK).unwrap()).contains(&epochs.len()), "{epochs:?}");
    assert_eq!(epochs[..10], (991..=1_000).rev().collect::<Vec<_>>());
    assert_eq!(told(&store, 2).len(), 1);
}

#[test]
fn events_are_read_from_the_oldest_on_and_a_mark_is_kept() {
    let world = World::new();
    let (store, _) = world.open();
    write(&store, (1..=9).map(|seq| Change::AddEvent(event(seq, 1, 100 * DAY_MS))).collect()).unwrap();
    let seqs = |after, limit| -> Vec<u64> {
        store.events_from(None, None, after, limit).unwrap().into_iter().map(|event| event.seq).collect()
    };
    assert_eq!(seqs(0, 3), [1, 2, 3]);
    assert_eq!(seqs(7, 3), [8, 9]);
    assert_eq!(store.mark("hook").unwrap(), None);
    write(&store, vec![Change::PutMark { reader: "hook", seq: 4 }]).unwrap();
    write(&store, vec![Change::PutMark { reader: "hook", seq: 5 }]).unwrap();
    drop(store);
    assert_eq!(world.open().0.mark("hook").unwrap(), Some(5));
}

#[test]
fn what_an_agent_tells_twice_is_recorded_once_and_goes_with_it() {
    let world = World::new();
    let (store, _) = world.open();
    let told = |unix_ms, attempts| {
        Change::AddTold(Told {
            agent: [1; 16],
            unix_ms,
            kind: ToldKind::Attempts,
            reason: "dns".into(),
            detail: "no such name".into(),
            duration_ms: u64::MAX,
            attempts,
            master: "m:1".into(),
            epoch: 0,
        })
    };
    write(&store, vec![told(50_000, 3), told(50_400, 3), told(50_400, 4), told(90_000, 3)]).unwrap();
    drop(store);
    let (store, _) = world.open();
    let rows: Vec<_> = store.told([1; 16], 9).unwrap().into_iter().map(|one| (one.unix_ms, one.attempts)).collect();
    assert_eq!(rows, [(90_000, 3), (50_400, 4), (50_000, 3)]);
    let one = &store.told([1; 16], 1).unwrap()[0];
    assert_eq!(Change::AddTold(one.clone()), told(90_000, 3));
    write(&store, vec![Change::DeleteAgent([1; 16])]).unwrap();
    assert!(store.told([1; 16], 9).unwrap().is_empty());
}
