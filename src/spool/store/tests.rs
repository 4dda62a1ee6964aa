use super::{
    faults::{Fault, FaultyDisk, LOSSES, Loss},
    *,
};
use link::{Outcome, ledger::Finish};

const KEEP: Keep = Keep { remember_ms: 1_000_000, tombstones_max: 100 };
const ID: [u8; 16] = [1; 16];
const OTHER: [u8; 16] = [2; 16];

fn open(disk: &FaultyDisk) -> Opened {
    Store::open(disk.boxed(), KEEP, OTHER, 10).expect("the disk works")
}

fn fresh(disk: &FaultyDisk) -> io::Result<Store> {
    Store::open(disk.boxed(), KEEP, ID, 10).map(|opened| opened.store)
}

fn record(id: &str, change: Change) -> Record {
    Record { id: id.to_owned(), change }
}

fn accepted(id: &str) -> Record {
    record(id, Change::Accepted { at_unix_ms: 1, spec: id.as_bytes().to_vec() })
}

fn finish() -> Finish {
    Finish { outcome: Outcome::Exited(0), total_bytes: 8, started_unix_ms: 2, finished_unix_ms: 4 }
}

fn output(offset: u64, text: &str) -> Chunk {
    Chunk { offset, content: Content::Stdout(text.as_bytes().to_vec()) }
}

#[derive(Debug)]
struct Chunks(Vec<Chunk>);

impl Output for Chunks {
    fn chunk(&self, from: u64, to: u64) -> Option<Chunk> {
        self.0.iter().find(|chunk| (from..to).contains(&chunk.offset)).cloned()
    }
}

fn written(id: &str, chunks: Vec<Chunk>, fresh: bool, durable: bool) -> Written {
    let (from, to) = (chunks[0].offset, chunks.last().map_or(0, |last| last.offset + last.content.len()));
    Written { id: id.to_owned(), output: Arc::new(Chunks(chunks)), from, to, fresh, durable }
}

fn durable(records: Vec<Record>) -> Batch {
    Batch { records, durable: true, ..Batch::default() }
}

fn lazy(records: Vec<Record>) -> Batch {
    Batch { records, ..Batch::default() }
}

/// The life of two commands, one with much output.
fn script() -> Vec<Batch> {
    let mark = super::super::format::Mark { pid: 1, started: 2, boot_id: [3; 16] };
    let here = Place::Here(vec![Content::Stdout(b"whole of".to_vec())]);
    vec![
        durable(vec![accepted("a")]),
        durable(vec![record("a", Change::Starting), accepted("b")]),
        lazy(vec![record("a", Change::Started { at_unix_ms: 5, mark })]),
        Batch { outputs: vec![written("a", vec![output(0, "spil")], false, false)], ..Batch::default() },
        durable(vec![record("b", Change::Starting)]),
        durable(vec![finished("b".to_owned(), finish(), 0, here)]),
        Batch {
            outputs: vec![written("a", vec![output(4, "led.")], false, true)],
            records: vec![finished("a".to_owned(), finish(), 0, Place::File)],
            durable: true,
            removed: Vec::new(),
        },
        lazy(vec![record("b", Change::Acknowledged { at_unix_ms: 9 })]),
        Batch { removed: vec!["a".to_owned()], ..lazy(vec![record("a", Change::Acknowledged { at_unix_ms: 9 })]) },
        durable(vec![accepted("c")]),
    ]
}

fn rank(stage: &Stage) -> u32 {
    match stage {
        Stage::Accepted => 1,
        Stage::MayRun { .. } => 2,
        Stage::Finished { .. } => 3,
        Stage::Acknowledged { .. } => 4,
    }
}

fn ranks(lives: &[Life]) -> BTreeMap<String, u32> {
    lives.iter().map(|life| (life.id.clone(), rank(&life.stage))).collect()
}

/// How far each command is after these batches.
fn expected(batches: &[Batch]) -> BTreeMap<String, u32> {
    ranks(&replay(batches.iter().flat_map(|batch| batch.records.clone())))
}

/// Plays the script up to the fault; how many batches were done, and the index of the last durable one behind them.
fn play(disk: &FaultyDisk) -> (usize, usize) {
    let Ok(mut store) = fresh(disk) else { return (0, 0) };
    let script = script();
    let done = script.iter().take_while(|batch| store.apply(batch).is_ok()).count();
    let promised = script[..done].iter().rposition(|batch| batch.durable).map_or(0, |last| last + 1);
    (done, promised)
}

#[test]
fn a_crash_at_any_change_loses_nothing_that_was_promised_and_invents_nothing() {
    let script = script();
    for fault in [Fault::Death, Fault::Full, Fault::Broken] {
        for n in 0.. {
            let disk = FaultyDisk::default();
            disk.fail_at(n, fault);
            let (done, promised) = play(&disk);
            for loss in LOSSES {
                let what = format!("{fault:?} at {n}, {loss:?}");
                let opened = open(&disk.after(loss));
                let damage: Vec<_> = opened.notices.iter().filter(|notice| notice.contains(JOURNAL_BAD)).collect();
                assert_eq!(damage, [] as [&String; 0], "{what}");
                // Set aside, or not.
                let goes_on = fault != Fault::Full || done == script.len();
                if done > 0 && goes_on {
                    assert_eq!(opened.store.spool_id(), ID, "{what}: nothing was forgotten");
                }
                let ranks = ranks(&opened.lives);
                for (id, rank) in expected(&script[..promised]) {
                    assert!(ranks.get(&id).is_some_and(|now| *now >= rank), "{what}: {id} is {ranks:?}");
                }
                // One more batch may be on the disk, without anybody having been told.
                let most = expected(&script[..script.len().min(done + 1)]);
                for (id, rank) in &ranks {
                    let doubted = !goes_on && *rank == 2;
                    assert!(
                        most.get(id).is_some_and(|most| rank <= most || doubted),
                        "{what}: {id} is {rank}, at most {most:?}"
                    );
                }
                for life in &opened.lives {
                    // After the acknowledgement the output may go before the record of it is durable.
                    if let (Stage::Finished { finish, .. }, Some(3)) = (&life.stage, most.get(&life.id)) {
                        let length: u64 = opened.outputs[&life.id].iter().map(|chunk| chunk.content.len()).sum();
                        assert_eq!(length, finish.total_bytes, "{what}: output of {}", life.id);
                    }
                }
            }
            if done == script.len() {
                assert!(n > 20, "every change was tried: {n}");
                break;
            }
        }
    }
}

#[test]
fn a_second_crash_while_the_spool_is_opened_loses_nothing_either() {
    let disk = FaultyDisk::default();
    play(&disk);
    disk.change_file(JOURNAL, |journal| journal.extend_from_slice(&[9; 5]));
    let before = ranks(&open(&disk.after(Loss::Nothing)).lives);
    for n in 0.. {
        let again = disk.after(Loss::Nothing);
        again.fail_at(n, Fault::Death);
        let done = Store::open(again.boxed(), KEEP, OTHER, 10).is_ok();
        for loss in LOSSES {
            assert_eq!(ranks(&open(&again.after(loss)).lives), before, "death at {n}, {loss:?}");
        }
        if done {
            assert!(n > 2);
            return;
        }
    }
}

#[test]
fn a_damaged_journal_gets_another_id_keeps_what_is_readable_and_is_set_aside() {
    let disk = FaultyDisk::default();
    let mut store = fresh(&disk).unwrap();
    store.apply(&durable(vec![accepted("a")])).unwrap();
    let at = store.length as usize;
    store.apply(&durable(vec![accepted("b")])).unwrap();
    store.apply(&durable(vec![accepted("c")])).unwrap();
    disk.change_file(JOURNAL, |journal| journal[at + 15] ^= 4);
    let opened = open(&disk);
    assert_eq!(opened.store.spool_id(), OTHER);
    assert_eq!(ranks(&opened.lives).into_keys().collect::<Vec<_>>(), ["a", "c"]);
    assert!(opened.notices[0].contains("damaged") && opened.notices[0].contains(JOURNAL_BAD), "{:?}", opened.notices);
    assert!(disk.files().contains(&JOURNAL_BAD.to_owned()));
    // What was mended stays so.
    let opened = Store::open(disk.boxed(), KEEP, [3; 16], 10).unwrap();
    assert_eq!((opened.store.spool_id(), opened.notices.len()), (OTHER, 0));
}

#[test]
fn garbage_and_other_versions_are_reported_and_never_fatal() {
    for (garbage, said) in
        [(b"".to_vec(), None), (vec![0; 4096], Some("damaged")), (b"hello".to_vec(), Some("damaged"))]
    {
        let disk = FaultyDisk::default();
        fresh(&disk).unwrap();
        disk.change_file(JOURNAL, |journal| *journal = garbage.clone());
        let opened = open(&disk);
        assert_eq!((opened.store.spool_id(), opened.lives.len()), (OTHER, 0));
        assert_eq!(
            opened.notices.first().is_some_and(|n| n.contains("damaged")),
            said.is_some(),
            "{:?}",
            opened.notices
        );
    }
}

#[test]
fn damaged_output_leaves_a_hole_and_the_rest() {
    let disk = FaultyDisk::default();
    let mut store = fresh(&disk).unwrap();
    store.apply(&durable(vec![accepted("a"), record("a", Change::Starting)])).unwrap();
    let chunks = vec![output(0, "one"), output(3, "two"), output(6, "three")];
    let batch = Batch { outputs: vec![written("a", chunks.clone(), true, true)], ..Batch::default() };
    store.apply(&batch).unwrap();
    disk.change_file("a.out", |file| {
        let at = file.windows(3).position(|bytes| bytes == b"two").unwrap();
        file[at] ^= 1;
    });
    let opened = open(&disk);
    assert_eq!(opened.outputs["a"], [chunks[0].clone(), chunks[2].clone()]);
    assert!(opened.notices[0].contains("a.out"), "{:?}", opened.notices);
    assert_eq!(opened.store.spool_id(), ID, "the journal is whole");
}

#[test]
fn files_that_belong_to_nothing_are_removed() {
    let disk = FaultyDisk::default();
    play(&disk);
    let mut other = disk.boxed();
    for file in ["gone.out", "half.out.new", "notes.txt"] {
        other.create(file, b"x").unwrap();
    }
    open(&disk);
    assert_eq!(disk.files(), [JOURNAL, "notes.txt"]);
}

#[test]
fn a_journal_is_rewritten_when_most_of_it_is_of_no_use_and_says_the_same_then() {
    let disk = FaultyDisk::default();
    let mut store = fresh(&disk).unwrap();
    let mut total = 0;
    for n in 0..4_000 {
        let id = format!("command-{n}");
        let place = Place::Here(vec![Content::Stdout(vec![b'x'; 100])]);
        let done = Finish { total_bytes: 100, ..finish() };
        let mut batch = durable(vec![accepted(&id), finished(id.clone(), done, 0, place)]);
        if n > 2 {
            batch.records.push(record(&id, Change::Acknowledged { at_unix_ms: 10 }));
        }
        store.apply(&batch).unwrap();
        if store.wants_rewrite() {
            store.compact(10).unwrap();
            total += 1;
        }
        assert!(store.length < 2 * REWRITE_MIN);
    }
    assert!((2..20).contains(&total), "{total} times");
    let lives = open(&disk).lives;
    assert_eq!(lives.iter().filter(|life| rank(&life.stage) == 3).count(), 3, "unacknowledged outcomes never go");
    assert!(lives.len() <= KEEP.tombstones_max + 1_500, "{}", lives.len());
    let (_, _, bytes) = disk.counts();
    assert!(bytes < 4_000 * 2 * 400, "{bytes}");
}

#[test]
fn a_real_folder_does_what_the_disk_of_the_tests_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let disk = || Box::new(crate::spool::disk::Folder::open(&path).unwrap());
    let mut store = Store::open(disk(), KEEP, ID, 10).unwrap().store;
    for batch in script() {
        store.apply(&batch).unwrap();
    }
    store.compact(10).unwrap();
    store.apply(&durable(vec![accepted("d")])).unwrap();
    let opened = Store::open(disk(), KEEP, OTHER, 10).unwrap();
    let ranks: Vec<_> = ranks(&opened.lives).into_iter().collect();
    let expected = [("a", 4), ("b", 4), ("c", 1), ("d", 1)].map(|(id, rank)| (id.to_owned(), rank));
    assert_eq!((ranks, opened.store.spool_id()), (expected.to_vec(), ID));
    let mode = |file: &str| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path.join(file)).unwrap()) & 0o777;
    assert_eq!((mode(""), mode(JOURNAL)), (0o700, 0o600));
}
