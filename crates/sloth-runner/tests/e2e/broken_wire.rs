//! Output over wires that break again and again.

use crate::fleet::{Cable, Master, Running, Wire, program, until};
use std::{
    fs,
    io::{BufWriter, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    so_far: Arc<AtomicUsize>,
    thread: Option<JoinHandle<usize>>,
}

impl Breaking {
    fn start(cable: Arc<Cable>, every: Duration) -> Self {
        Self::after(cable, move || every)
    }

    /// After times up to so long, drawn from a seed.
    fn at_random(cable: Arc<Cable>, longest: Duration, seed: u64) -> Self {
        let mut state = seed.max(1);
        Self::after(cable, move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Duration::from_millis(state % longest.as_millis() as u64)
        })
    }

    fn after(cable: Arc<Cable>, mut pause: impl FnMut() -> Duration + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let so_far = Arc::new(AtomicUsize::new(0));
        let (ends, counted) = (over.clone(), so_far.clone());
        let thread = std::thread::spawn(move || {
            for breaks in 0.. {
                std::thread::sleep(pause());
                if ends.load(Ordering::Relaxed) {
                    return breaks;
                }
                cable.set(if breaks % 3 == 0 { Wire::Reset } else { Wire::Closed });
                std::thread::sleep(Duration::from_millis(5));
                cable.set(Wire::Through);
                counted.store(breaks + 1, Ordering::Relaxed);
            }
            unreachable!("nobody counts so far")
        });
        Self { over, so_far, thread: Some(thread) }
    }

    fn so_far(&self) -> usize {
        self.so_far.load(Ordering::Relaxed)
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
    // The second half waits for so many breaks that a fast machine doesn't get it all through between two of them.
    let line = "cat noise; until [ -e gate ]; do sleep 0.02; done; cat noise >&2; exit 5";
    let run = ["agent", "run", "lady", "-n", "--id", "x", "--dir", dir, "--shell", line];
    let agents_wire = Breaking::start(to_agent, Duration::from_millis(1_500));
    let tools_wire = Breaking::start(to_tool.clone(), Duration::from_millis(400));
    let mut tool = tool_over(&to_tool, &master, &run);
    until("the master has it", || (master.tool(&["command", "get", "x"]).code == 0).then_some(()));
    // Another terminal, which comes later and sees it from the start.
    let mut follower = tool_over(&to_tool, &master, &["command", "logs", "x", "--follow"]);
    let end = Instant::now() + LONGEST;
    while tool.is_running() || follower.is_running() {
        assert!(Instant::now() < end, "not within {LONGEST:?}: {}", master.json(&["command", "get", "x"]));
        if agents_wire.so_far() >= 1 && tools_wire.so_far() >= 5 {
            fs::write(master.path("gate"), "").unwrap();
        }
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

/// Output of this size arrives with its checksum over wires on both sides of the master that break at random. How often
/// they broke, and how long it took.
fn arrives_whole(bytes: usize, longest: Duration, seed: u64) -> ((usize, usize), Duration) {
    let master = Master::start();
    let (to_agent, to_tool) = (Arc::new(Cable::to(&master)), Arc::new(Cable::to(&master)));
    let quick = ["--set", "reconnect.initial_delay=\"20ms\"", "--set", "reconnect.max_delay=\"100ms\""];
    let agent = crate::fleet::Agent::start(master.folder.path(), "lady", &to_agent.address(), &quick);
    agent.line("Agent registered with master");
    master.until_status("lady", "Active");
    write_noise(&master.path("noise"), bytes);
    let sum = |input: Stdio| Command::new("sha256sum").stdin(input).stdout(Stdio::piped()).spawn().unwrap();
    let sent = sum(fs::File::open(master.path("noise")).unwrap().into());
    let dir = master.folder.path().to_str().unwrap();
    let began = Instant::now();
    let mut tool = program(master.folder.path())
        .args([
            "--master",
            &to_tool.address(),
            "agent",
            "run",
            "lady",
            "-n",
            "--id",
            "x",
            "--dir",
            dir,
            "--",
            "cat",
            "noise",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let came = sum(tool.stdout.take().unwrap().into());
    // The wires break once the command is known: one that its master never heard of is the tool's to ask for again.
    until("the master has it", || (master.tool(&["command", "get", "x"]).code == 0).then_some(()));
    let breaking = (Breaking::at_random(to_agent, longest, seed), Breaking::at_random(to_tool, longest, seed ^ 0x5555));
    let text = |child: Child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let (sent, came) = (text(sent), text(came));
    assert!(tool.wait().unwrap().success());
    let (took, breaks) = (began.elapsed(), (breaking.0.end(), breaking.1.end()));
    assert_eq!(sent, came, "{bytes} bytes, seed {seed}");
    let row = master.json(&["command", "get", "x"]);
    assert_eq!((&row["output_bytes"], row["gaps"].as_array().map(Vec::len)), (&bytes.into(), Some(0)), "{row}");
    (breaks, took)
}

fn write_noise(path: &Path, bytes: usize) {
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    let mut left = bytes;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_le_bytes();
        file.write_all(&word[..left.min(8)]).unwrap();
        left -= left.min(8);
    }
    file.flush().unwrap();
}

#[test]
fn output_of_any_size_arrives_with_its_checksum_over_wires_that_break_at_random() {
    let seed = u64::from(std::process::id());
    let mut breaks = 0;
    for bytes in [0, 1, 65_535, 65_536, 65_537, 16_777_217, 40_000_000] {
        let (broke, _) = arrives_whole(bytes, Duration::from_millis(300), seed);
        breaks += broke.0;
    }
    assert!(breaks > 0, "nothing was tried");
}

#[test]
#[ignore = "takes a minute or more, and 2 GB of room"]
fn a_gigabyte_arrives_with_its_checksum_over_wires_that_break_at_random() {
    let seed = u64::from(std::process::id());
    let (breaks, took) = arrives_whole(1_000_000_000, Duration::from_secs(2), seed);
    eprintln!("seed {seed}: the wires broke {breaks:?} times in {took:?}");
    assert!(breaks.0 >= 5 && breaks.1 >= 5, "{breaks:?}");
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
