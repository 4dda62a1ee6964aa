//! What comes from outside, damaged in every way that chance finds: readers answer, and never panic or hang.
//!
//! The same inputs each time. For longer, and with others: `SLOTH_FUZZ_SEED=7 SLOTH_FUZZ_SECONDS=600 cargo test
//! -p sloth-runner --test fuzz`. A failure names target, seed and round.
//!
//! What is damaged is made by the real writers, and lies in `fuzz/`, a folder for each target: a file that is put there
//! is tried as it is, and damaged, from then on. `UPDATE=1` writes those that writers make.

#![allow(clippy::disallowed_methods, reason = "it runs for a real while")]

use prost::Message;
use sloth_agent::{
    config::{self, Surroundings},
    spool::{
        format::{Change, Chunk, Content, Record},
        frame::{self, Head, Kind},
    },
    token::Token,
};
use sloth_runner::{master_config, patience::Framing};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// A folder of `fuzz/`, and what the writers of today make of it: both are tried, so that what an earlier version has
/// written stays known.
fn corpus(name: &str, written: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (file, bytes) in written {
            fs::write(folder.join(file), bytes).unwrap();
        }
    }
    let entries = fs::read_dir(&folder).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // In the same order everywhere.
    files.sort();
    assert!(!files.is_empty() || !written.is_empty(), "{} is empty", folder.display());
    let kept = files.iter().map(|file| fs::read(file).unwrap());
    kept.chain(written.iter().map(|(_, bytes)| bytes.clone())).collect()
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One of the corpus with some of its bytes changed, taken out, repeated, or with a piece of another.
    fn damage(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'.', b'\n'];
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = EDGES[self.below(EDGES.len())],
                2 => bytes.insert(at, self.next() as u8),
                3 => bytes.truncate(at),
                4 => drop(bytes.drain(at..bytes.len().min(at + 1 + self.below(8)))),
                5 => {
                    let end = bytes.len().min(at + 1 + self.below(32));
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    bytes.splice(at.., other[from..].iter().copied());
                }
            }
        }
        bytes
    }
}

/// Tries `target` on damaged inputs, as many as `rounds`, or for as long as the environment says.
fn fuzz(name: &str, rounds: u64, corpus: &[Vec<u8>], mut target: impl FnMut(&[u8])) {
    let number = |variable| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SLOTH_FUZZ_SEED").unwrap_or(1);
    let end = number("SLOTH_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    for input in corpus {
        target(input);
    }
    let mut round = 0;
    while end.map_or(round < rounds, |end| Instant::now() < end) {
        // Each round of its own seed: it can be tried again alone.
        let input = Random(seed ^ (round << 20)).damage(corpus);
        let began = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| target(&input)));
        assert!(done.is_ok(), "{name}, seed {seed}, round {round}: {input:02x?}");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{name}, seed {seed}, round {round}: took {:?}",
            began.elapsed()
        );
        round += 1;
    }
    println!("{name}: {round} inputs");
}

#[test]
fn spool_files() {
    let id = [7; 16];
    let record = |change| Record { id: "c1".to_owned(), change }.encode();
    let bodies = [
        record(Change::Accepted { at_unix_ms: 1, spec: b"spec".to_vec() }),
        record(Change::Starting),
        record(Change::Acknowledged { at_unix_ms: 2 }),
        Chunk { offset: 0, content: Content::Stdout(b"hello".to_vec()) }.encode(),
        Chunk { offset: 5, content: Content::Gap(9) }.encode(),
    ];
    let file = |kind| {
        let mut file = frame::header(kind, id).to_vec();
        for body in &bodies {
            let at = file.len() as u64;
            frame::write(&id, at, body, &mut file);
        }
        file
    };
    let corpus = corpus(
        "spool",
        &[
            ("journal.bin", file(Kind::Journal)),
            ("output.bin", file(Kind::Output)),
            ("empty.bin", frame::header(Kind::Journal, id).to_vec()),
        ],
    );
    fuzz("spool files", 4_000, &corpus, |input| {
        for kind in [Kind::Journal, Kind::Output] {
            let scan = frame::scan(kind, input);
            let read: usize = scan.bodies.iter().map(|body| body.len() + frame::HEAD_LEN).sum();
            if let Head::Good { .. } = scan.head {
                assert_eq!(
                    frame::HEADER_LEN + read + scan.torn + scan.damaged,
                    input.len(),
                    "every byte is accounted for"
                );
            }
            for body in scan.bodies {
                assert!(bodies.contains(&input[body].to_vec()), "what was never written is taken for a frame");
            }
        }
    });
    // A frame that is whole can hold anything.
    fuzz("records", 20_000, &bodies, |input| {
        if let Some(record) = Record::decode(input) {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        if let Some(chunk) = Chunk::decode(input) {
            assert_eq!(chunk.encode(), input);
        }
    });
}

#[test]
fn tokens() {
    let written = ["0.txt", "1.txt", "2.txt", "3.txt"].into_iter().zip(0_u8..);
    let written: Vec<_> =
        written.map(|(file, n)| (file, Token::new([n; 32], [n ^ 3; 32]).text().into_bytes())).collect();
    let corpus = corpus("tokens", &written);
    fuzz("tokens", 20_000, &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(token) = Token::parse(text) {
            assert_eq!(token.text(), text, "one text for each token");
            assert!(corpus.contains(&input.to_vec()), "a damaged token is taken for a whole one: {text}");
        }
    });
}

#[test]
fn configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let config = |name: &str| fs::read(format!("{}/../../config/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let shipped = ["master.toml", "agent.toml", "agent-tls.toml", "agent-minimal.toml"].map(config);
    let corpus = [corpus("configuration", &[]), shipped.to_vec()].concat();
    fuzz("configuration", 1_500, &corpus, |input| {
        fs::write(&path, input).unwrap();
        let surroundings = Surroundings { host_name: "host".to_owned(), ..Surroundings::default() };
        let sources = config::Sources { file: Some(path.clone()), ..config::Sources::default() };
        if let Err(problems) = config::load(&sources, &surroundings) {
            assert!(!problems.to_string().is_empty());
        }
        let sources = master_config::Sources { file: Some(path.clone()), ..master_config::Sources::default() };
        if let Err(problems) = master_config::load(&sources, &surroundings) {
            assert!(!problems.to_string().is_empty());
        }
    });
}

#[test]
fn messages() {
    let register = proto::Register {
        agent_id: vec![1; 16],
        instance_id: vec![2; 16],
        spool_id: vec![3; 16],
        name: "lady".to_owned(),
        labels: [("site".to_owned(), "a".to_owned())].into(),
        held: vec![proto::HeldCommand { id: "c1".to_owned(), ..Default::default() }],
        past: vec![proto::PastEvent::default()],
        ..Default::default()
    };
    let join = proto::JoinRequest { agent_id: vec![1; 16], name: "lady".to_owned(), ..Default::default() };
    let up = proto::AgentMessage { kind: Some(proto::agent_message::Kind::Register(register)) };
    let finished = proto::CommandFinished { id: "c1".to_owned(), ..Default::default() };
    let end = proto::AgentMessage { kind: Some(proto::agent_message::Kind::CommandFinished(finished)) };
    let rejected = proto::Rejected { message: "no".to_owned(), ..Default::default() };
    let down = proto::MasterMessage { kind: Some(proto::master_message::Kind::Rejected(rejected)) };
    let corpus = corpus(
        "messages",
        &[
            ("join.bin", join.encode_to_vec()),
            ("register.bin", up.encode_to_vec()),
            ("finished.bin", end.encode_to_vec()),
            ("rejected.bin", down.encode_to_vec()),
        ],
    );
    /// Fuzzed as one kind.
    fn whole<M: Message + Default + PartialEq>(input: &[u8]) {
        if let Ok(message) = M::decode(input) {
            let again = message.encode_to_vec();
            assert!(M::decode(&again[..]).is_ok(), "what was read is written so that it is read again");
        }
    }
    fuzz("messages", 20_000, &corpus, |input| {
        whole::<proto::AgentMessage>(input);
        whole::<proto::MasterMessage>(input);
        whole::<proto::JoinRequest>(input);
        whole::<proto::RunRequest>(input);
        whole::<proto::OutputMessage>(input);
        if let Some(outcome) = proto::Outcome::decode(input).ok().and_then(|message| proto::outcome_from(&message)) {
            assert_eq!(proto::outcome_from(&proto::Outcome::from(&outcome)), Some(outcome));
        }
    });
}

#[test]
fn frames() {
    let framed = |bodies: &[usize]| -> Vec<u8> {
        let frame = |body: &usize| [&[0][..], &u32::try_from(*body).unwrap().to_be_bytes(), &vec![7; *body]].concat();
        bodies.iter().flat_map(frame).collect()
    };
    let corpus = corpus(
        "frames",
        &[
            ("one.bin", framed(&[30])),
            ("many.bin", framed(&[0, 1, 0, 300, 5])),
            ("announced.bin", vec![0, 255, 255, 255, 255, 1]),
        ],
    );
    fuzz("frames", 20_000, &corpus, |input| {
        let mut whole = Framing::default();
        let (begun, ended) = whole.pass(input);
        assert!(ended <= begun && ended <= input.len(), "no more is whole than came");
        // However the network cuts it.
        for cut in [1, 2, 7, 100] {
            let mut cut_up = Framing::default();
            let parts = input.chunks(cut).map(|part| cut_up.pass(part));
            let sums = parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
            assert_eq!(
                (sums, cut_up.is_unfinished(), cut_up.whole),
                ((begun, ended), whole.is_unfinished(), whole.whole)
            );
        }
    });
}
