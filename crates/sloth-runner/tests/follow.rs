//! The tool's calls against a scripted master whose connections break at the worst moments.

#[path = "../../../tests/common/place.rs"]
mod place;
mod scripted;

use bytes::Bytes;
use proto::{CommandSpec, OutputStream, RunStart};
use scripted::{Master, Script};
use sloth_runner::tool::{
    address::Address,
    connect::{self, Waits},
    ending::Ending,
    follow::{Call, Input, follow},
    output::Output,
    resume::Piece,
    writer::Gone,
};
use std::{collections::VecDeque, time::Duration};
use tokio::sync::{mpsc, watch};

fn tool(address: &str) -> connect::Master {
    let ms = Duration::from_millis;
    let waits = Waits { first: ms(1), longest: ms(10), quiet: ms(20) };
    connect::Master::new(Address::parse(address).unwrap(), waits)
}

fn call(from_offset: u64, stdin: bool) -> Call {
    let spec = CommandSpec { argv: vec![b"x".to_vec()], stdin, ..CommandSpec::default() };
    let start =
        RunStart { id: "c1".into(), agent: "lady".into(), spec: Some(spec), from_offset, ..RunStart::default() };
    Call::Run(Box::new(start))
}

/// Every byte value, in no order that repeats soon.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Keeps what it is given, and pulls the plug where told.
struct Probe<'a> {
    master: &'a Master,
    /// Cut when so much has come.
    cuts: VecDeque<usize>,
    cancel_at_cut: Option<watch::Sender<bool>>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    notices: Vec<String>,
}

impl<'a> Probe<'a> {
    fn new(master: &'a Master, cuts: impl Into<VecDeque<usize>>) -> Self {
        let (stdout, stderr, notices) = (Vec::new(), Vec::new(), Vec::new());
        Self { master, cuts: cuts.into(), cancel_at_cut: None, stdout, stderr, notices }
    }
}

impl Output for Probe<'_> {
    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        let Piece::Bytes { stream, data, .. } = piece else { panic!("no byte is missing") };
        match stream {
            OutputStream::Stdout => self.stdout.extend(&data),
            OutputStream::Stderr => self.stderr.extend(&data),
        }
        if self.cuts.front().is_some_and(|&at| self.stdout.len() + self.stderr.len() >= at) {
            self.cuts.pop_front();
            self.master.proxy.cut();
            if let Some(cancel) = &self.cancel_at_cut {
                cancel.send_replace(true);
            }
        }
        Ok(())
    }

    async fn notice(&mut self, line: String) {
        self.notices.push(line);
    }
}

async fn followed(
    master: &Master,
    call: Call,
    stdin: Option<mpsc::Receiver<Input>>,
    output: &mut impl Output,
) -> Ending {
    let (_keep, cancel) = watch::channel(false);
    let tool = tool(&master.address());
    tokio::time::timeout(Duration::from_secs(30), follow(&tool, call, stdin, cancel, output)).await.expect("it ends")
}

#[tokio::test]
async fn output_loses_and_repeats_no_byte_over_broken_connections() {
    let (first, second, third) = (noise(90_000, 1), noise(50_000, 2), noise(120_000, 3));
    let master = Master::start(Script {
        output: vec![
            (OutputStream::Stdout, first.clone()),
            (OutputStream::Stderr, second.clone()),
            (OutputStream::Stdout, third.clone()),
        ],
        outcome: Some(link::Outcome::Exited(3)),
        per_call: Some(60_000),
        ..Script::default()
    })
    .await;
    let mut probe = Probe::new(&master, [50_000, 100_000, 150_000, 200_000]);
    let ending = followed(&master, call(0, false), None, &mut probe).await;
    assert_eq!(ending.exit_code(), 3);
    assert!(probe.stdout == [first, third].concat(), "stdout differs");
    assert!(probe.stderr == second, "stderr differs");
    assert_eq!(probe.notices.len(), 8, "{:?}", probe.notices);
    for pair in probe.notices.chunks(2) {
        assert!(
            pair[0].starts_with("lost the master at 127.0.0.1:") && pair[0].ends_with("); trying again…"),
            "{pair:?}"
        );
        assert_eq!(pair[1], "back with the master");
    }
    master.seen(|script| {
        let offsets: Vec<u64> = script.starts.iter().map(|start| start.from_offset).collect();
        assert_eq!(offsets.len(), 5);
        assert!(offsets.is_sorted() && offsets[1] >= 50_000 && offsets[4] >= 200_000, "{offsets:?}");
        assert!(script.starts.iter().all(|start| start.id == "c1" && start.spec == script.starts[0].spec));
    });
}

#[tokio::test]
async fn standard_input_is_delivered_once_over_broken_connections() {
    let input = noise(400_000, 4);
    let master = Master::start(Script {
        outcome: Some(link::Outcome::Exited(0)),
        cut_at_stdin: [1, 100_000, 390_000, 400_000].into(),
        ..Script::default()
    })
    .await;
    let (sender, receiver) = mpsc::channel(1);
    let chunks: Vec<Bytes> = input.chunks(15_000).map(|chunk| chunk.to_vec().into()).collect();
    tokio::spawn(async move {
        for chunk in chunks {
            sender.send(Ok(chunk)).await.unwrap();
        }
        sender.send(Ok(Bytes::new())).await.unwrap();
    });
    let ending = followed(&master, call(0, true), Some(receiver), &mut Probe::new(&master, [])).await;
    assert_eq!(ending.exit_code(), 0, "{ending:?}");
    master.seen(|script| {
        assert!(script.stdin == input, "{} bytes came", script.stdin.len());
        assert!(script.stdin_ended && script.cut_at_stdin.is_empty());
        assert_eq!(script.starts.len(), 5);
    });
}

#[tokio::test]
async fn no_end_is_told_of_a_standard_input_that_could_not_be_read() {
    let master = Master::start(Script { outcome: Some(link::Outcome::Exited(0)), ..Script::default() }).await;
    let (sender, receiver) = mpsc::channel(1);
    sender.send(Err(std::io::ErrorKind::IsADirectory.into())).await.unwrap();
    let ending = followed(&master, call(0, true), Some(receiver), &mut Probe::new(&master, [])).await;
    assert!(matches!(&ending, Ending::Failed(why) if why.starts_with("cannot read standard input: ")), "{ending:?}");
    assert!(!master.seen(|script| script.stdin_ended));
}

#[tokio::test]
async fn a_cancellation_that_is_asked_for_in_an_outage_arrives_after_it() {
    let master = Master::start(Script {
        output: vec![(OutputStream::Stdout, noise(100_000, 5))],
        stall_at: Some(50_000),
        ..Script::default()
    })
    .await;
    let (ask, cancel) = watch::channel(false);
    let mut probe = Probe::new(&master, [40_000]);
    probe.cancel_at_cut = Some(ask);
    let tool = tool(&master.address());
    let ending = follow(&tool, call(0, false), None, cancel, &mut probe).await;
    assert!(matches!(&ending, Ending::Finished(row) if row.outcome == Some((&link::Outcome::Cancelled).into())));
    master.seen(|script| assert_eq!((script.cancelled, script.starts.len()), (1, 2)));
}

#[tokio::test]
async fn a_command_that_waits_for_its_agent_can_be_cancelled() {
    let master = Master::start(Script { holds_starts: true, ..Script::default() }).await;
    let (ask, cancel) = watch::channel(false);
    let tool = tool(&master.address());
    let mut probe = Probe::new(&master, []);
    let asking = async {
        while master.seen(|script| script.starts.is_empty()) {
            sloth_runner::clock::sleep(Duration::from_millis(1)).await;
        }
        ask.send_replace(true);
    };
    let (ending, ()) = tokio::join!(follow(&tool, call(0, false), None, cancel, &mut probe), asking);
    let why = "cancelled before the command was started";
    assert!(matches!(&ending, Ending::Never(text) if text == why), "{ending:?}");
    assert_eq!(master.seen(|script| script.cancelled), 1);
}

#[tokio::test]
async fn an_answer_is_final_and_what_is_no_master_is_given_up() {
    let master = Master::start(Script { refusal: Some("lady is away since 3s"), ..Script::default() }).await;
    let ending = followed(&master, call(0, false), None, &mut Probe::new(&master, [])).await;
    assert!(matches!(&ending, Ending::Never(why) if why == "lady is away since 3s"), "{ending:?}");
    assert_eq!(master.seen(|script| script.starts.len()), 1);

    // Something that accepts connections and closes them.
    let listener = tokio::net::TcpListener::bind(place::own()).await.unwrap();
    let tool = tool(&listener.local_addr().unwrap().to_string());
    let accepting = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let (_keep, cancel) = watch::channel(false);
    let ending = follow(&tool, call(0, false), None, cancel, &mut Probe::new(&master, [])).await;
    assert!(matches!(&ending, Ending::Failed(why) if why.contains("command get c1")), "{ending:?}");
    accepting.abort();

    let _ = accepting.await;
    let (_keep, cancel) = watch::channel(false);
    let ending = follow(&tool, call(0, false), None, cancel, &mut Probe::new(&master, [])).await;
    assert!(matches!(&ending, Ending::Never(why) if why.contains("connection refused")), "{ending:?}");
}

#[tokio::test]
async fn who_does_not_wait_leaves_with_the_first_answer() {
    let master = Master::start(Script { outcome: None, ..Script::default() }).await;
    let ending = followed(&master, call(u64::MAX, false), None, &mut Probe::new(&master, [])).await;
    assert!(matches!(&ending, Ending::Detached(row) if row.id == "c1"), "{ending:?}");
}

#[tokio::test]
async fn output_that_the_master_has_lost_is_missed_once_and_said() {
    let master = Master::start(Script {
        output: vec![(OutputStream::Stdout, b"abc".to_vec())],
        output_missing: 7,
        outcome: Some(link::Outcome::Exited(0)),
        ..Script::default()
    })
    .await;
    let mut probe = Probe::new(&master, []);
    let ending = followed(&master, call(0, false), None, &mut probe).await;
    assert_eq!((ending.exit_code(), probe.stdout.as_slice()), (0, &b"abc"[..]));
    assert_eq!(probe.notices.last().unwrap(), "the last 7 bytes of output are missing on the master");
    assert_eq!(master.seen(|script| script.starts.len()), 2);
}

/// Brings the agent back as soon as it is said to be away, and goes on then.
struct Patient<'a>(&'a Master, Vec<String>);

impl Output for Patient<'_> {
    async fn piece(&mut self, _: Piece) -> Result<(), Gone> {
        Ok(())
    }

    async fn notice(&mut self, line: String) {
        self.1.push(line);
        let mut script = self.0.script.lock().unwrap();
        script.agents[0].status = "Active".to_owned();
        script.stall_at = None;
        if self.1.len() == 2 {
            script.outcome = Some(link::Outcome::Exited(0));
            self.0.proxy.cut();
        }
    }
}

#[tokio::test]
async fn who_waits_for_a_command_is_told_when_its_agent_is_away_and_when_it_is_back() {
    let lady = |status: &str| proto::AgentRow {
        name: "lady".to_owned(),
        status: status.to_owned(),
        reason: "stream_closed".to_owned(),
        since_unix_ms: 1_000,
        ..proto::AgentRow::default()
    };
    let logs = Call::Logs { id: "c1".into(), follow: true };
    for (call, status) in [(call(0, false), "Inactive"), (logs, "Stopped")] {
        let output = vec![(OutputStream::Stdout, b"one".to_vec())];
        let master =
            Master::start(Script { output, stall_at: Some(0), agents: vec![lady(status)], ..Script::default() }).await;
        let mut patient = Patient(&master, Vec::new());
        let ending = followed(&master, call, None, &mut patient).await;
        assert!(matches!(ending, Ending::Finished(_)), "{ending:?}");
        let away =
            format!("agent lady is {status} since 1970-01-01T00:00:01.000Z (stream_closed): waiting for its return");
        assert_eq!(patient.1[..2], [away, "agent lady is back".to_owned()]);
    }
}

/// What is said of waiting while the agent holds these, with their starts: until it was looked at three times.
async fn told_while_it_waits(held: &[(&str, u64)]) -> Vec<String> {
    let row = |(id, started_unix_ms): &(&str, u64)| proto::CommandRow {
        id: (*id).to_owned(),
        agent: "lady".to_owned(),
        state: "accepted".to_owned(),
        started_unix_ms: *started_unix_ms,
        ..proto::CommandRow::default()
    };
    let lady = proto::AgentRow { name: "lady".into(), status: "Active".into(), ..proto::AgentRow::default() };
    let output = vec![(OutputStream::Stdout, b"one".to_vec())];
    let held = held.iter().map(row).collect();
    let master =
        Master::start(Script { output, held, stall_at: Some(0), agents: vec![lady], ..Script::default() }).await;
    let mut probe = Probe::new(&master, []);
    let goes_on = async {
        while master.seen(|script| script.looked_at_held) < 3 {
            tokio::task::yield_now().await;
        }
        let mut script = master.script.lock().unwrap();
        (script.stall_at, script.outcome) = (None, Some(link::Outcome::Exited(0)));
        drop(script);
        master.proxy.cut();
    };
    let (ending, ()) = tokio::join!(followed(&master, call(0, false), None, &mut probe), goes_on);
    assert!(matches!(ending, Ending::Finished(_)) && probe.stdout == b"one", "{ending:?}");
    probe.notices.into_iter().filter(|line| line.starts_with("waiting")).collect()
}

#[tokio::test]
async fn who_waits_for_a_command_is_told_once_that_others_run_first() {
    assert_eq!(
        told_while_it_waits(&[("c1", 0), ("c0", 5)]).await,
        ["waiting for its turn on lady, where another command runs"]
    );
    let two = [("c1", 0), ("c0", 5), ("b", 4), ("a", 0)];
    assert_eq!(told_while_it_waits(&two).await, ["waiting for its turn on lady, where 2 others run"]);
    // An agent of an earlier version starts them and does not say so; and one that runs does not wait.
    assert_eq!(told_while_it_waits(&[("c1", 0), ("c0", 0)]).await, [] as [&str; 0]);
    assert_eq!(told_while_it_waits(&[("c1", 6), ("c0", 5)]).await, [] as [&str; 0]);
}

#[tokio::test]
async fn logs_are_followed_over_broken_connections_and_end_where_the_master_does() {
    let output = noise(140_000, 6);
    let master = Master::start(Script {
        output: vec![(OutputStream::Stderr, output.clone())],
        outcome: Some(link::Outcome::Exited(9)),
        per_call: Some(60_000),
        ..Script::default()
    })
    .await;
    let mut probe = Probe::new(&master, [40_000, 80_000]);
    let logs = |follow| Call::Logs { id: "c1".into(), follow };
    let ending = followed(&master, logs(true), None, &mut probe).await;
    assert!(matches!(ending, Ending::Finished(_)) && probe.stderr == output);
    assert_eq!(master.seen(|script| script.logs.len()), 3);

    master.script.lock().unwrap().per_call = None;
    let mut probe = Probe::new(&master, []);
    let ending = followed(&master, logs(false), None, &mut probe).await;
    assert!(matches!(ending, Ending::Detached(_)) && probe.stderr == output);
}
