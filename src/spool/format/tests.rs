use super::*;

fn finish(outcome: Outcome) -> Finish {
    Finish { outcome, total_bytes: 1 << 40, started_unix_ms: 5, finished_unix_ms: 6 }
}

fn finished(outcome: Outcome, place: Place) -> Change {
    Change::Finished { finish: finish(outcome), output: Rest { from: 17, place } }
}

fn records() -> Vec<Record> {
    let here = vec![Content::Stdout(b"out\0\xff".to_vec()), Content::Gap(1 << 33), Content::Stderr(b"err".to_vec())];
    let changes = [
        Change::Accepted { at_unix_ms: 1, spec: b"spec".to_vec() },
        Change::Accepted { at_unix_ms: 1, spec: Vec::new() },
        Change::Starting,
        Change::Started { at_unix_ms: 2, mark: Mark { pid: 77, started: 88, boot_id: [9; 16] } },
        finished(Outcome::Exited(3), Place::Here(here)),
        finished(Outcome::Exited(-1), Place::File),
        finished(Outcome::Signaled(9), Place::Here(Vec::new())),
        finished(Outcome::TimedOut, Place::File),
        finished(Outcome::Cancelled, Place::File),
        finished(Outcome::Interrupted("the agent died".to_owned()), Place::File),
        finished(Outcome::Refused("größer".to_owned()), Place::File),
        finished(Outcome::Expired, Place::File),
        Change::Acknowledged { at_unix_ms: u64::MAX },
    ];
    let id = |index: usize| if index == 0 { "x".repeat(64) } else { format!("id-{index}") };
    changes.into_iter().enumerate().map(|(index, change)| Record { id: id(index), change }).collect()
}

#[test]
fn records_and_chunks_are_read_as_they_were_written() {
    for record in records() {
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }
    for content in [Content::Stdout(vec![0; 70_000]), Content::Stderr(Vec::new()), Content::Gap(7)] {
        let chunk = Chunk { offset: 1 << 50, content };
        assert_eq!(Chunk::decode(&chunk.encode()), Some(chunk));
    }
}

#[test]
fn a_body_that_is_cut_or_changed_gives_another_record_or_none_and_never_a_panic() {
    for record in records() {
        let good = record.encode();
        for end in 0..good.len() {
            let read = Record::decode(&good[..end]);
            assert_ne!(read.as_ref(), Some(&record), "a part is not the whole");
        }
        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Reasons of no number have a number that nobody reads.
            if let Some(read) = Record::decode(&changed) {
                assert!(link::valid_command_id(&read.id));
            }
        }
    }
}

#[test]
fn an_id_that_leads_elsewhere_is_no_record() {
    let mut body = vec![2, 4];
    body.extend_from_slice(b"../x");
    assert_eq!(Record::decode(&body), None);
}

#[test]
fn random_bodies_are_decoded_without_a_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut body: Vec<u8> = (0..random() % 80).map(|_| random() as u8).collect();
        if let [kind, length, id, ..] = &mut body[..] {
            (*kind, *length, *id) = (*kind % 7, 1, b'a');
        }
        let _ = (Record::decode(&body), Chunk::decode(&body));
    }
}

#[test]
fn a_chunk_that_ends_beyond_the_largest_offset_is_none() {
    let chunk = Chunk { offset: u64::MAX, content: Content::Gap(1) };
    assert_eq!(Chunk::decode(&chunk.encode()), None);
}
