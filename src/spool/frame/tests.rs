use super::*;

const ID: [u8; 16] = [7; 16];

/// A file with frames of these bodies, and where each of them begins.
fn file(bodies: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
    let mut file = header(Kind::Journal, ID).to_vec();
    let mut starts = Vec::new();
    for body in bodies {
        starts.push(file.len());
        let at = file.len() as u64;
        write(&ID, at, body, &mut file);
    }
    starts.push(file.len());
    (file, starts)
}

const BODIES: [&[u8]; 4] = [b"a", b"second", &[0; 40], b"the last of them"];

fn bodies(file: &[u8]) -> (Vec<&[u8]>, Scan) {
    let scan = scan(Kind::Journal, file);
    (scan.bodies.iter().map(|body| &file[body.clone()]).collect(), scan)
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc(&[b"1234", b"56789"]), 0xcbf4_3926);
}

#[test]
fn what_was_written_is_read() {
    let (file, _) = file(&BODIES);
    let (read, scan) = bodies(&file);
    assert_eq!(read, BODIES);
    assert!(scan.is_whole());
    assert_eq!(scan.head, Head::Good { spool_id: ID });
}

#[test]
fn a_file_that_is_cut_anywhere_keeps_every_whole_frame_and_is_no_damage() {
    let (file, starts) = file(&BODIES);
    for end in HEADER_LEN..=file.len() {
        let (read, scan) = bodies(&file[..end]);
        let whole = starts[1..].iter().filter(|frame_end| **frame_end <= end).count();
        assert_eq!(read, BODIES[..whole], "cut at {end}");
        assert_eq!((scan.damaged, scan.torn), (0, end - starts[whole]), "cut at {end}");
    }
    for end in 0..HEADER_LEN {
        let (read, scan) = bodies(&file[..end]);
        assert_eq!((read.len(), scan.head, scan.is_whole()), (0, Head::Bad, false), "cut at {end}");
    }
}

#[test]
fn a_tail_of_zeros_is_a_torn_write() {
    let (mut file, starts) = file(&BODIES);
    let end = file.len();
    file.resize(end + 4096, 0);
    let (read, scan) = bodies(&file);
    assert_eq!((read.len(), scan.damaged, scan.torn), (4, 0, 4096));
    // So is a frame of which only the room is there.
    file.truncate(end);
    file[starts[3]..].fill(0);
    let (read, scan) = bodies(&file);
    assert_eq!((read.len(), scan.damaged, scan.torn), (3, 0, end - starts[3]));
}

#[test]
fn every_flipped_bit_is_found_and_takes_one_frame_at_most_or_with_the_header_all() {
    let (good, starts) = file(&BODIES);
    for bit in 0..good.len() * 8 {
        let mut file = good.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        let (read, scan) = bodies(&file);
        assert!(scan.damaged > 0, "bit {bit} went unseen");
        if bit / 8 < HEADER_LEN {
            assert_eq!((read.len(), scan.damaged), (0, file.len()), "bit {bit}");
            continue;
        }
        let hit = starts.partition_point(|start| *start <= bit / 8);
        let left: Vec<_> = (0..4).filter(|frame| frame + 1 != hit).map(|frame| BODIES[frame]).collect();
        assert_eq!(read, left, "bit {bit}");
    }
}

#[test]
fn a_version_that_is_not_known_is_told_apart_from_damage() {
    let (mut file, _) = file(&BODIES);
    file[8..12].copy_from_slice(&9_u32.to_le_bytes());
    let check = crc(&[&file[..28]]);
    file[28..32].copy_from_slice(&check.to_le_bytes());
    let (read, scan) = bodies(&file);
    assert_eq!((read.len(), scan.head), (0, Head::OtherVersion(9)));
}

#[test]
fn a_file_of_the_other_kind_is_not_read() {
    let (file, _) = file(&BODIES);
    assert_eq!(scan(Kind::Output, &file).head, Head::Bad);
}

#[test]
fn garbage_is_never_taken_for_frames() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2_000 {
        let length = (random() % 600) as usize;
        let mut garbage: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        let with_header = random() % 2 == 0;
        if with_header {
            garbage.splice(..0, header(Kind::Journal, ID));
        }
        let (read, scan) = bodies(&garbage);
        assert!(read.is_empty());
        let accounted = scan.damaged + scan.torn + if with_header { HEADER_LEN } else { 0 };
        assert_eq!(accounted, garbage.len());
    }
}

#[test]
fn what_a_command_prints_is_not_taken_for_a_frame_when_the_one_around_it_is_damaged() {
    let mut forged = Vec::new();
    let at = HEADER_LEN + HEAD_LEN;
    write(&[0; 16], at as u64, b"forged", &mut forged);
    let (mut file, _) = file(&[&forged, b"next"]);
    file[HEADER_LEN] ^= 1;
    assert_eq!(bodies(&file).0, [b"next"]);
}

#[test]
fn damage_among_many_zeros_is_passed_quickly() {
    let (mut file, _) = file(&BODIES);
    let at = file.len() + 1_000_000;
    file.resize(at, 0);
    write(&ID, at as u64, b"beyond", &mut file);
    let (read, scan) = bodies(&file);
    assert_eq!((read.last(), scan.damaged), (Some(&&b"beyond"[..]), 1_000_000));
}

#[test]
fn a_frame_elsewhere_is_none() {
    let (good, starts) = file(&BODIES);
    let mut file = good[..starts[1]].to_vec();
    file.extend_from_slice(&good[starts[2]..]);
    let (read, scan) = bodies(&file);
    assert_eq!(read, [BODIES[0]]);
    assert!(scan.damaged > 0);
}

/// Files of random frames with random damage: what is read was written, where it stands; and what no damage touched is
/// read. A failure names its seed.
#[test]
fn whatever_happens_to_a_file_what_is_read_was_written_and_what_is_whole_is_read() {
    for seed in 1..=3_000_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % bound.max(1)
        };
        let bodies: Vec<Vec<u8>> = (0..1 + below(12))
            .map(|_| {
                let length = 1 + if below(4) == 0 { below(3_000) } else { below(60) };
                // Much of it is zeros, as in what was never written.
                (0..length).map(|_| if below(3) == 0 { 0 } else { below(256) as u8 }).collect()
            })
            .collect();
        let (good, starts) = file(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut file = good.clone();
        for _ in 0..1 + below(3) {
            let from = below(file.len());
            let to = (from + 1 + below(100)).min(file.len());
            match below(5) {
                0 if !file.is_empty() => file[from] ^= 1 << below(8),
                1 => file[from..to].fill(0),
                2 => file[from..to].iter_mut().for_each(|byte| *byte = below(256) as u8),
                3 => file.truncate(from),
                _ => {
                    let block = file[from..to].to_vec();
                    let at = below(file.len() + 1 - block.len());
                    file[at..at + block.len()].copy_from_slice(&block);
                }
            }
        }
        let same = |range: &Range<usize>| file.get(range.clone()) == Some(&good[range.clone()]);
        let scan = scan(Kind::Journal, &file);
        if !same(&(0..HEADER_LEN)) {
            assert_ne!(scan.head, Head::Good { spool_id: ID }, "seed {seed}");
            assert!(scan.bodies.is_empty(), "seed {seed}");
            continue;
        }
        let whole: Vec<_> = starts
            .windows(2)
            .filter(|frame| same(&(frame[0]..frame[1])))
            .map(|frame| frame[0] + HEAD_LEN..frame[1])
            .collect();
        assert_eq!(scan.bodies, whole, "seed {seed}");
        let read: usize = scan.bodies.iter().map(|body| HEAD_LEN + body.len()).sum();
        assert_eq!(HEADER_LEN + read + scan.torn + scan.damaged, file.len(), "seed {seed}");
    }
}
