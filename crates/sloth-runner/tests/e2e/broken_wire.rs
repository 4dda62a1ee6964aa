//! Output over wires that break again and again.

use crate::fleet::{Cable, Master, Running, Wire, program, until};
use std::{
    fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const BYTES: usize = 50 << 20;

/// A bound for what hangs: it takes some seconds on a machine at rest.
const LONGEST: Duration = Duration::from_secs(120);

/// Bytes that repeat in no way that an offset could hide in.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

fn tool_over(cable: &Cable, master: &Master, args: &[&str]) -> Running {
    let mut command = program(master.folder.path());
    command.args(["--master", &cable.address()]).args(args);
    Running::start(command, Stdio::null())
}

/// Breaks a wire every so often, from its making to its end.
struct Breaking {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Breaking {
    fn start(cable: Arc<Cable>, every: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let thread = std::thread::spawn(move || {
            for breaks in 0.. {
                std::thread::sleep(every);
                if ends.load(Ordering::Relaxed) {
                    return breaks;
                }
                cable.set(if breaks % 3 == 0 { Wire::Reset } else { Wire::Closed });
                std::thread::sleep(Duration::from_millis(5));
                cable.set(Wire::Through);
            }
            unreachable!("nobody counts so far")
        });
        Self { over, thread: Some(thread) }
    }

    /// How often it broke.
    fn end(mut self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("it ends once").join().unwrap()
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn fifty_megabytes_arrive_whole_over_wires_that_break_on_both_sides_of_the_master() {
    let master = Master::start();
    let (to_agent, to_tool) = (Arc::new(Cable::to(&master)), Arc::new(Cable::to(&master)));
    let agent = crate::fleet::Agent::start(master.folder.path(), "lady", &to_agent.address(), &[]);
    agent.line("Agent registered with master");
    master.until_status("lady", "Active");
    let noise = noise(BYTES / 2);
    fs::write(master.path("noise"), &noise).unwrap();
    let dir = master.folder.path().to_str().unwrap();
    let run = ["agent", "run", "lady", "-n", "--id", "x", "--dir", dir, "--shell", "cat noise; cat noise >&2; exit 5"];
    let agents_wire = Breaking::start(to_agent, Duration::from_millis(1_500));
    let tools_wire = Breaking::start(to_tool.clone(), Duration::from_millis(400));
    let mut tool = tool_over(&to_tool, &master, &run);
    until("the master has it", || (master.tool(&["command", "get", "x"]).code == 0).then_some(()));
    // Another terminal, which comes later and sees it from the start.
    let mut follower = tool_over(&to_tool, &master, &["command", "logs", "x", "--follow"]);
    let end = Instant::now() + LONGEST;
    while tool.is_running() || follower.is_running() {
        assert!(Instant::now() < end, "not within {LONGEST:?}: {}", master.json(&["command", "get", "x"]));
        std::thread::sleep(Duration::from_millis(100));
    }
    let breaks = (agents_wire.end(), tools_wire.end());
    assert!(breaks.0 >= 1 && breaks.1 >= 5, "only {breaks:?} breaks: nothing was tried");
    let row = master.json(&["command", "get", "x"]);
    assert_eq!((&row["code"], &row["output_bytes"]), (&5.into(), &(2 * noise.len()).into()), "{row}");
    for (mut running, code) in [(tool, 5), (follower, 0)] {
        assert_eq!(running.wait(), code);
        assert!(running.out.all() == noise, "standard output differs");
        assert!(without_notices(&running.err.all()) == noise, "standard error differs");
    }
    // What is kept is the same.
    let kept = master.tool_started(&["command", "logs", "x"]);
    assert!(kept.out.all() == noise && kept.err.all() == noise);
}

/// Standard error without the lines in which the tool tells of the wire: they stand between the bytes of the command.
fn without_notices(bytes: &[u8]) -> Vec<u8> {
    let starts: [&[u8]; 3] =
        [b"lost the master at 127.", b"no answer from the master at 127.", b"back with the master\n"];
    let mut rest = bytes;
    let mut out = Vec::with_capacity(bytes.len());
    while let Some(byte) = rest.first() {
        if starts.iter().any(|start| rest.starts_with(start)) {
            let end = rest.iter().position(|byte| *byte == b'\n').expect("a notice is a line");
            rest = &rest[end + 1..];
        } else {
            out.push(*byte);
            rest = &rest[1..];
        }
    }
    out
}
