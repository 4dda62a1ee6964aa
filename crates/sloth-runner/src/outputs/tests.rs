use super::*;
use crate::master::ports::Piece;
use bytes::Bytes;
use proto::OutputStream::{Stderr, Stdout};
use std::os::unix::fs::PermissionsExt;

/// One byte of output, or one that is missing.
type Cell = Option<(proto::OutputStream, u8)>;

/// xorshift: the same pieces at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Pieces of 0 to 40 bytes, one after the other, and what they stand for.
    fn pieces(&mut self, count: usize) -> (Vec<Piece>, Vec<Cell>) {
        let (mut pieces, mut cells) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let offset = cells.len() as u64;
            let length = self.below(41);
            if self.below(6) == 0 {
                cells.extend((0..length).map(|_| None));
                pieces.push(Piece::Gap { offset, bytes: length });
            } else {
                let stream = if self.below(3) == 0 { Stderr } else { Stdout };
                let data: Vec<u8> = (0..length).map(|_| self.below(256) as u8).collect();
                cells.extend(data.iter().map(|byte| Some((stream, *byte))));
                pieces.push(Piece::Data { offset, stream, data: Bytes::from(data) });
            }
        }
        (pieces, cells)
    }
}

fn outputs(keep: u64) -> (tempfile::TempDir, FileOutputs) {
    // In memory where there is such a place: thousands of openings make their files durable.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let outputs = FileOutputs::new(&directory.path().join("output"), keep).unwrap();
    (directory, outputs)
}

fn data(offset: u64, stream: proto::OutputStream, data: &[u8]) -> Piece {
    Piece::Data { offset, stream, data: Bytes::copy_from_slice(data) }
}

/// Everything from an offset on, read in steps, each checked to go on where the last one ended.
fn read_all(log: &dyn OutputLog, mut offset: u64, step: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    loop {
        let pieces = log.read(offset, step).unwrap();
        if pieces.is_empty() {
            return cells;
        }
        let mut bytes = 0;
        for piece in pieces {
            match piece {
                Piece::Data { offset: at, stream, data } => {
                    assert_eq!(at, offset);
                    assert!(!data.is_empty());
                    offset += data.len() as u64;
                    bytes += data.len();
                    cells.extend(data.iter().map(|byte| Some((stream, *byte))));
                }
                Piece::Gap { offset: at, bytes } => {
                    assert_eq!(at, offset);
                    assert!(bytes > 0);
                    offset += bytes;
                    cells.extend((0..bytes).map(|_| None));
                }
            }
        }
        assert!(bytes <= step, "{bytes} bytes where {step} were asked for");
    }
}

fn gaps_of(cells: &[Cell]) -> Vec<(u64, u64)> {
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    for (offset, _) in cells.iter().enumerate().filter(|(_, cell)| cell.is_none()) {
        match gaps.last_mut() {
            Some(last) if last.0 + last.1 == offset as u64 => last.1 += 1,
            _ => gaps.push((offset as u64, 1)),
        }
    }
    gaps
}

#[test]
fn what_was_appended_is_read_from_every_offset_in_every_step() {
    let (_directory, outputs) = outputs(u64::MAX);
    let (pieces, cells) = Random(7).pieces(60);
    let log = outputs.open("c").unwrap();
    for piece in pieces {
        log.append(piece).unwrap();
    }
    assert_eq!(log.received(), cells.len() as u64);
    assert_eq!(log.gaps(), gaps_of(&cells));
    for offset in (0..=cells.len()).step_by(3) {
        assert_eq!(read_all(&*log, offset as u64, 1 + offset % 50), cells[offset..], "from {offset}");
    }
}

#[test]
fn a_file_torn_at_any_byte_opens_and_takes_the_same_pieces_again() {
    for seed in 1..=2 {
        let (directory, outputs) = outputs(u64::MAX);
        let (pieces, cells) = Random(seed).pieces(12);
        let log = outputs.open("c").unwrap();
        for piece in &pieces {
            log.append(piece.clone()).unwrap();
        }
        let whole = fs::read(directory.path().join("output/c")).unwrap();
        for cut in 0..=whole.len() {
            fs::write(directory.path().join("output/torn"), &whole[..cut]).unwrap();
            let log = outputs.open("torn").unwrap();
            let received = log.received();
            assert_eq!(log.durable(), received);
            assert_eq!(read_all(&*log, 0, 100), cells[..received as usize], "seed {seed}, cut at {cut}");
            if cut == whole.len() {
                assert_eq!(received, cells.len() as u64, "nothing whole is cut");
            }
            for piece in &pieces {
                log.append(piece.clone()).unwrap();
            }
            assert_eq!(log.received(), cells.len() as u64);
            assert_eq!(read_all(&*log, 0, 33), cells, "seed {seed}, cut at {cut}");
            assert_eq!(log.sync().unwrap(), cells.len() as u64);
            drop(log);
            let log = outputs.open("torn").unwrap();
            assert_eq!(read_all(&*log, 0, 33), cells, "seed {seed}, cut at {cut}, opened again");
            assert_eq!(log.gaps(), gaps_of(&cells));
        }
    }
}

#[test]
fn zeros_behind_the_last_frame_are_cut() {
    let (directory, outputs) = outputs(u64::MAX);
    let log = outputs.open("c").unwrap();
    log.append(data(0, Stdout, b"kept")).unwrap();
    drop(log);
    let path = directory.path().join("output/c");
    let mut grown = fs::read(&path).unwrap();
    let whole = grown.len();
    grown.extend([0; 4096]);
    fs::write(&path, grown).unwrap();
    assert_eq!(outputs.open("c").unwrap().received(), 4);
    assert_eq!(fs::metadata(&path).unwrap().len(), whole as u64);
}

#[test]
fn pieces_that_overlap_what_is_there_add_only_what_is_new() {
    let (_directory, outputs) = outputs(u64::MAX);
    let log = outputs.open("c").unwrap();
    assert_eq!(log.append(data(0, Stdout, b"hello")).unwrap(), 5);
    assert_eq!(log.append(data(0, Stdout, b"hello")).unwrap(), 5);
    assert_eq!(log.append(data(3, Stdout, b"lo wo")).unwrap(), 8);
    assert_eq!(log.append(Piece::Gap { offset: 6, bytes: 4 }).unwrap(), 10);
    assert_eq!(log.gaps(), [(8, 2)]);
    assert_eq!(log.append(data(10, Stdout, b"")).unwrap(), 10);
    assert_eq!(
        log.read(0, 100).unwrap(),
        [data(0, Stdout, b"hello wo"), Piece::Gap { offset: 8, bytes: 2 }],
        "neighbours of one stream are one piece"
    );
}

#[test]
fn a_hole_and_an_impossible_offset_are_refused_and_change_nothing() {
    let (_directory, outputs) = outputs(u64::MAX);
    let log = outputs.open("c").unwrap();
    log.append(data(0, Stdout, b"hello")).unwrap();
    let error = log.append(data(6, Stdout, b"x")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("output at 6"), "{error}");
    assert!(log.append(Piece::Gap { offset: 5, bytes: u64::MAX }).is_err());
    assert_eq!(log.received(), 5);
}

#[test]
fn above_the_limit_data_become_one_growing_gap() {
    let (directory, outputs) = outputs(10);
    let log = outputs.open("c").unwrap();
    for offset in 0..500 {
        log.append(data(offset * 4, Stdout, b"abcd")).unwrap();
    }
    assert_eq!(log.received(), 2000);
    assert_eq!(log.gaps(), [(10, 1990)]);
    let expected = [data(0, Stdout, b"abcdabcdab"), Piece::Gap { offset: 10, bytes: 1990 }];
    assert_eq!(log.read(0, 100).unwrap(), expected);
    assert_eq!(log.read(1000, 100).unwrap(), [Piece::Gap { offset: 1000, bytes: 1000 }]);
    drop(log);
    assert!(fs::metadata(directory.path().join("output/c")).unwrap().len() < 100);

    let log = outputs.open("c").unwrap();
    assert_eq!(log.read(0, 100).unwrap(), expected);
    log.append(data(2000, Stderr, b"still too much")).unwrap();
    assert_eq!(log.gaps(), [(10, 2004)]);
}

#[test]
fn a_gap_that_would_straddle_two_sectors_is_not_changed_in_place() {
    let (directory, outputs) = outputs(u64::MAX);
    for filler in 470..500 {
        let log = outputs.open("c").unwrap();
        log.append(data(0, Stdout, &vec![b'x'; filler])).unwrap();
        let start = filler as u64;
        log.append(Piece::Gap { offset: start, bytes: 1 }).unwrap();
        let before = fs::read(directory.path().join("output/c")).unwrap();
        log.append(Piece::Gap { offset: start + 1, bytes: 1 }).unwrap();
        let after = fs::read(directory.path().join("output/c")).unwrap();
        let straddles = (before.len() - 8) / 512 != (before.len() - 1) / 512;
        assert_eq!(after.starts_with(&before), straddles, "with {filler} bytes before it");
        assert_eq!(log.read(start, 9).unwrap(), [Piece::Gap { offset: start, bytes: 2 }]);
        outputs.remove("c").unwrap();
    }
}

#[test]
fn long_output_is_found_again_in_the_middle() {
    let (_directory, outputs) = outputs(u64::MAX);
    let log = outputs.open("c").unwrap();
    let chunk: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    log.append(data(0, Stdout, &chunk)).unwrap();
    log.append(data(3_000_000, Stderr, &chunk)).unwrap();
    let [Piece::Data { offset, stream, data }] = &log.read(4_567_890, 100_000).unwrap()[..] else { panic!() };
    assert_eq!((*offset, *stream, data.len()), (4_567_890, Stderr, 100_000));
    assert!(data[..] == chunk[1_567_890..1_667_890]);
}

#[test]
fn one_log_is_shared_while_somebody_holds_it() {
    let (_directory, outputs) = outputs(u64::MAX);
    let first = outputs.open("c").unwrap();
    first.append(data(0, Stdout, b"x")).unwrap();
    let second = outputs.open("c").unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(second.received(), 1);
    drop((first, second));
    for id in 0..1000 {
        outputs.open(&format!("c{id}")).unwrap();
    }
    assert!(lock(&outputs.slots).by_id.len() <= 130, "entries nobody holds are dropped");
}

#[test]
fn what_was_removed_is_not_made_again_by_who_still_holds_it() {
    let (directory, outputs) = outputs(u64::MAX);
    let held = outputs.open("c").unwrap();
    held.append(data(0, Stdout, b"x")).unwrap();
    outputs.remove("c").unwrap();
    outputs.remove("c").expect("twice is fine");
    assert!(held.append(data(1, Stdout, b"y")).is_err());
    assert_eq!(held.read(0, 9).unwrap(), [data(0, Stdout, b"x")], "a reader reads to its end");
    assert!(!directory.path().join("output/c").exists());
    assert_eq!(outputs.open("c").unwrap().received(), 0);
}

#[test]
fn looking_for_output_leaves_no_file_and_files_are_private() {
    let (directory, outputs) = outputs(u64::MAX);
    let log = outputs.open("c").unwrap();
    assert_eq!(log.read(0, 9).unwrap(), []);
    assert_eq!(log.sync().unwrap(), 0);
    let path = directory.path().join("output/c");
    assert!(!path.exists());
    log.append(data(0, Stdout, b"x")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn durable_follows_sync_only() {
    let (_directory, outputs) = outputs(u64::MAX);
    let log = outputs.open("c").unwrap();
    log.append(data(0, Stdout, b"abc")).unwrap();
    assert_eq!((log.received(), log.durable()), (3, 0));
    assert_eq!(log.sync().unwrap(), 3);
    assert_eq!(log.durable(), 3);
}

#[test]
fn what_a_failing_disk_did_not_take_is_cut_off_and_taken_again() {
    let (folder, _) = outputs(1 << 20);
    let path = folder.path().join("c");
    // The second keeps so little that there is a gap that grows in place.
    for keep in [1 << 20, 8] {
        let _ = std::fs::remove_file(&path);
        let log = FileLog::open(&path, keep).unwrap();
        let fails = |fails| log.sync_fails.store(fails, std::sync::atomic::Ordering::Relaxed);
        log.append(data(0, Stdout, b"lost")).unwrap();
        fails(true);
        assert!(log.sync().is_err());
        assert_eq!((log.received(), log.durable()), (0, 0), "nothing of a new file is believed");

        fails(false);
        log.append(data(0, Stdout, b"first, kept")).unwrap();
        assert_eq!(log.sync().unwrap(), 11);
        log.append(data(11, Stderr, b" second")).unwrap();
        assert_eq!(log.received(), 18);
        fails(true);
        assert!(log.sync().is_err());
        assert_eq!((log.received(), log.durable()), (11, 11));
        assert_eq!(log.gaps(), if keep == 8 { vec![(8, 3)] } else { vec![] });
        assert!(log.read(11, 100).unwrap().is_empty());

        fails(false);
        log.append(data(11, Stderr, b" second, once more")).unwrap();
        assert_eq!(log.sync().unwrap(), 29);
        let before = read_all(&log, 0, 100);
        drop(log);
        let again = FileLog::open(&path, keep).unwrap();
        assert!(read_all(&again, 0, 100) == before && again.received() == 29);
    }
}

#[test]
fn ids_that_leave_the_directory_are_refused() {
    let (_directory, outputs) = outputs(u64::MAX);
    for id in ["../x", "", ".", "a/b"] {
        assert_eq!(outputs.open(id).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        assert!(outputs.remove(id).is_err());
    }
}

#[test]
fn a_file_of_another_kind_or_version_is_left_as_it_is() {
    let (directory, outputs) = outputs(u64::MAX);
    let path = directory.path().join("output/c");
    for (content, message) in [
        (&b"somebody's notes"[..], "it is no output file; move it away"),
        (b"slothout\x02\0\0\0\x09", "it has format version 2, this master knows up to 1"),
        (b"short", "it is no output file"),
    ] {
        fs::write(&path, content).unwrap();
        let error = outputs.open("c").err().unwrap().to_string();
        assert!(error.contains(message) && error.contains("output/c"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}
