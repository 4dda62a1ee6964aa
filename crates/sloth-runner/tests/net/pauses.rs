//! Machines that sleep, and clocks that jump.

use crate::{
    fleet::{Running, needs, program},
    harness::cases,
    site::{MASTER, PORT, QUICK, Site, lasts, lasts_until},
    time::{now, secs, since, stamp},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

cases![
    an_agent_that_slept_for_a_minute_is_lost_and_soon_back,
    an_agent_that_slept_for_eight_seconds_is_held,
    clocks_that_jump_by_a_day_change_nothing,
];

fn an_agent_that_slept_for_a_minute_is_lost_and_soon_back() -> String {
    let site = Site::new();
    let agent = site.agent(&site.host(1), "lady", &[]);
    let (began, start) = (Instant::now(), now());
    agent.running.signal(libc::SIGSTOP);
    lasts_until(began + Duration::from_secs(60));
    let row = site.get("lady");
    assert_eq!((&row["status"], &row["reason"]), (&"Inactive".into(), &"heartbeat_timeout".into()), "{row}");
    let found = since(start, stamp(row["since"].as_str().unwrap()));
    assert!(found <= Duration::from_millis(20_500), "{found:?}");
    agent.running.signal(libc::SIGCONT);
    let start = now();
    let back = since(start, agent.when("Agent registered with master"));
    // The first wait at most.
    assert!(back <= Duration::from_millis(5_500), "{back:?}");
    site.until_status("lady", "Active");
    agent.was_lost(1);
    site.serves("lady");
    format!("found by the master after {}, back {} after it woke", secs(found), secs(back))
}

fn an_agent_that_slept_for_eight_seconds_is_held() -> String {
    let site = Site::new();
    let agent = site.agent(&site.host(1), "lady", &[]);
    let began = Instant::now();
    agent.running.signal(libc::SIGSTOP);
    lasts_until(began + Duration::from_secs(8));
    agent.running.signal(libc::SIGCONT);
    lasts_until(began + Duration::from_secs(18));
    agent.was_never_lost();
    assert_eq!(agent.count("Heartbeat failed"), 0, "{}", agent.running.err.text());
    assert_eq!(site.get("lady")["epoch"], 1);
    site.serves("lady");
    "held, no heartbeat counted as failed".to_owned()
}

/// What the program sees as the wall clock goes by the number of seconds in the file that `JUMP` names.
const SHIM: &str = include_str!("../jump.c");

/// A wall clock that can be set.
struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    fn new(folder: &Path, name: &str, library: &Path) -> Self {
        let clock = Self { library: library.to_owned(), file: folder.join(name) };
        clock.jump(0);
        clock
    }

    /// In place: the file is mapped.
    fn jump(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&self.file).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn hang_in(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("JUMP", &self.file);
    }
}

fn shim(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("jump.c"), folder.join("jump.so"));
    fs::write(&source, SHIM).unwrap();
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    needs("C compiler", done.is_ok_and(|done| done.status.success())).then_some(library)
}

fn clocks_that_jump_by_a_day_change_nothing() -> String {
    const DAY: i64 = 86_400;
    let mut site = Site::new();
    let Some(library) = shim(site.folder.path()) else { return "skipped".to_owned() };
    let [masters, agents] = ["masters", "agents"].map(|name| WallClock::new(site.folder.path(), name, &library));
    site.master.kill();
    let mut command = program(site.folder.path());
    site.host.put(&mut command);
    masters.hang_in(&mut command);
    command.args([
        "master",
        "start",
        "--insecure",
        "--set",
        "http.listen=\"\"",
        "--listen",
        &format!("{MASTER}:{PORT}"),
        "--state-dir",
    ]);
    command.arg(site.path("master"));
    site.master = Running::start(command, Stdio::null());
    site.master.out.line("listening on");
    let host = site.host(1);
    let mut command = program(site.folder.path());
    host.space.put(&mut command);
    agents.hang_in(&mut command);
    command.args(["agent", "start", "--name", "lady", "--master", &format!("{MASTER}:{PORT}"), "--state-dir"]);
    command.arg(site.path("lady")).args(QUICK.iter().flat_map(|setting| ["--set", setting]));
    let agent = Running::start(command, Stdio::null());
    agent.err.line("Agent registered with master");
    site.until_status("lady", "Active");
    let tool = site.tool_started(&["agent", "run", "lady", "--shell", "echo a; sleep 10; echo z"]);
    for (clock, jump) in
        [(&masters, DAY), (&agents, DAY), (&masters, -DAY), (&agents, -DAY), (&agents, 0), (&masters, 0)]
    {
        clock.jump(jump);
        // Four verdicts' worth.
        lasts(Duration::from_secs(2));
        assert_eq!(agent.err.count("Heartbeat failed"), 0, "{jump}: {}", agent.err.text());
        assert_eq!(site.get("lady")["status"], "Active", "{jump}");
    }
    assert_eq!(tool.done().expect(0).text(), "a\nz\n");
    let text = agent.err.text();
    assert_eq!((agent.err.count("Lost connection"), site.get("lady")["epoch"].as_u64()), (0, Some(1)), "{text}");
    // It did see the jump: that this test tests.
    agents.jump(DAY);
    masters.jump(-DAY);
    // A loss is found, and waits last, as ever.
    let start = Instant::now();
    host.port.both(crate::switch::Way::DEAD);
    let line = agent.err.line("Lost connection to master after 3 failed heartbeats");
    let found = start.elapsed();
    assert!((1.3..=2.8).contains(&found.as_secs_f64()), "{found:?}");
    assert!(stamp(&line) > now() + Duration::from_secs(86_000), "its clock is a day ahead: {line}");
    host.port.both(crate::switch::Way::OPEN);
    let start = Instant::now();
    agent.err.line("Agent registered with master");
    let back = start.elapsed();
    assert!(back <= Duration::from_millis(3_500), "{back:?}");
    site.until_status("lady", "Active");
    format!(
        "six jumps on either side: no heartbeat failed; then a loss found after {}, back after {}",
        secs(found),
        secs(back)
    )
}
