//! The agent's command line, with the real binary: configuration, one agent per state directory, life in the background.

use sloth_agent::token::Token;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Other processes are looked at so often, and for so long at most. A look ends the wait as soon as it finds what it
/// waits for.
const POLL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder of its own, with the state of each agent in it. What still runs in it at the end is ended.
struct Place {
    folder: tempfile::TempDir,
}

struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self, name: &str) -> PathBuf {
        self.path().join("state").join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sloth-agent"));
        command.current_dir(self.path()).args(args).stdin(Stdio::null());
        for variable in ["SLOTH_RUNNER_MASTER_ADDR", "SLOTH_RUNNER_TOKEN", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        Done::of(self.command(args).output().unwrap())
    }

    /// Runs a command for the agent `name`, with its state in this place.
    fn agent(&self, command: &str, name: &str, args: &[&str]) -> Done {
        let state = self.state(name);
        let mut all = vec![command, "--name", name, "--state-dir", state.to_str().unwrap()];
        // Nobody listens there.
        all.extend(["--master", "127.0.0.1:1", "--set", "reconnect.initial_delay=1h", "--max-reconnect-delay", "1h"]);
        all.extend(args);
        self.run(&all)
    }

    fn pid(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.state(name).join("agent.pid")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    fn log(&self, file: &str) -> String {
        fs::read_to_string(self.path().join(file)).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path().join("state")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            // What a test that failed has stopped would never end.
            let pid = fs::read_to_string(entry.path().join("agent.pid")).unwrap_or_default();
            if let Some(pid) = pid.split(' ').next().and_then(|pid| pid.parse().ok()) {
                for pid in children(pid).into_iter().chain([pid]) {
                    // SAFETY: plain integers are passed.
                    unsafe { libc::kill(pid.cast_signed(), libc::SIGCONT) };
                }
            }
            self.agent("stop", &name, &["--set", "shutdown.grace=0s"]);
        }
    }
}

impl Done {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

#[track_caller]
#[expect(clippy::disallowed_methods, reason = "other processes have no clock that could be handed in")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(POLL);
    }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: plain integers are passed.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// Direct children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn alive(pid: u32) -> bool {
    sloth_agent::state::start_time(pid).is_some()
}

#[test]
fn help_and_version_go_to_standard_output_and_no_command_is_wrong_usage() {
    let place = Place::new();
    assert!(place.run(&["--help"]).expect(0).out.contains("Usage: sloth-agent COMMAND"));
    assert!(place.run(&["agent", "start", "--help"]).expect(0).out.contains("Exit codes:"));
    assert_eq!(place.run(&["--version"]).expect(0).out, format!("sloth-agent {}\n", env!("CARGO_PKG_VERSION")));
    let nothing = place.run(&[]).expect(2);
    assert!(nothing.out.is_empty() && nothing.err.contains("Usage:"));
    assert_eq!(
        place.run(&["strat"]).expect(2).err,
        "sloth-agent: unknown command \"strat\": did you mean start?\nTry `sloth-agent --help`.\n"
    );
}

#[test]
fn check_shows_a_good_configuration_with_its_origins_and_no_secret() {
    let place = Place::new();
    fs::write(place.path().join("agent.toml"), "name = 'node7'\n\n[heartbeat]\ninterval = '2s'\n").unwrap();
    let mut command = place.command(&["check", "--max-failures", "4", "--state-dir", "/state"]);
    command
        .env("SLOTH_RUNNER_MASTER_ADDR", "[::1]:6000")
        .env("SLOTH_RUNNER_TOKEN", Token::new([7; 32], [8; 32]).text());
    assert_eq!(
        Done::of(command.output().unwrap()).expect(0).out,
        "The configuration of agent node7 is good.
  file             agent.toml
  master           [::1]:6000
  state directory  /state
  log              standard error; with --daemon ./agent.log, else ./agent-node7.log
Set, with everything else at its default:
  auth.token = ***            SLOTH_RUNNER_TOKEN
  heartbeat.interval = 2s     agent.toml:4
  heartbeat.max_failures = 4  --max-failures
  master = [::1]:6000         SLOTH_RUNNER_MASTER_ADDR
  name = node7                agent.toml:1
  state_dir = /state          --state-dir
"
    );
}

#[test]
fn a_bad_configuration_is_refused_everywhere_with_all_that_is_wrong() {
    let place = Place::new();
    let file = place.path().join("bad.toml");
    fs::write(&file, "[reconnect]\ninitial_delay = '5s'\nmax_delay = '2s'\n[hearbeat]\ninterval = '5s'\n").unwrap();
    let file = file.to_str().unwrap();
    let expected = format!(
        "{file}:3: reconnect.max_delay is 2s, below reconnect.initial_delay (5s): raise it, or lower initial_delay\n\
         {file}:5: hearbeat.interval is not known: did you mean heartbeat.interval?\n\
         --port: listen.port is 0, below 1: use 1 to 65535\n"
    );
    for command in ["check", "start", "stop", "status"] {
        let done = place.run(&[command, "--config", file, "--port", "0"]).expect(2);
        // The file says nowhere which agent is meant.
        let way_out = match command {
            "stop" | "status" => "to find the agent all the same, name its state directory: --state-dir DIR\n",
            _ => "",
        };
        assert_eq!((done.out, done.err), (String::new(), format!("{expected}{way_out}")), "{command}");
    }
    let daemon = place.run(&["start", "--daemon", "--config", file, "--port", "0"]).expect(2);
    assert_eq!(daemon.err, expected);
    assert_eq!(place.log("agent.log"), "");
}

#[test]
fn in_the_foreground_it_ends_by_sigterm_and_a_second_start_names_its_pid() {
    let place = Place::new();
    let state = place.state("front");
    let args = ["agent", "start", "--name", "front", "--master", "127.0.0.1:1", "--state-dir", state.to_str().unwrap()];
    let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the status file", || state.join("status.json").exists());
    let second = place.agent("start", "front", &[]).expect(1);
    assert_eq!(
        second.err,
        format!(
            "sloth-agent: agent front is running already (pid {}): it holds the state directory {}; stop it first, or \
             start this one with another --name\n",
            child.id(),
            state.display()
        )
    );
    place.agent("start", "front", &["--daemon"]).expect(1);
    assert!(place.agent("status", "front", &[]).expect(1).out.contains(&format!("pid              {}", child.id())));
    place.agent("stop", "front", &[]).expect(0);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{err}");
    assert!(!state.join("agent.pid").exists());
    assert!(place.agent("status", "front", &[]).expect(3).out.starts_with("agent front is not running"));
}

#[test]
fn in_the_background_it_starts_once_and_stops_as_a_whole() {
    let place = Place::new();
    let started = place.agent("start", "node1", &["--daemon"]).expect(0);
    let pid = place.pid("node1");
    let log = place.path().canonicalize().unwrap().join("agent.log");
    let (first, second) = started.out.split_once('\n').unwrap();
    assert_eq!(first, format!("Agent node1 runs in the background (pid {pid}), log: {}", log.display()));
    let shown = second
        .strip_prefix("Whether it has reached its master: `sloth-agent ")
        .and_then(|rest| rest.strip_suffix("`\n"));
    let status: Vec<_> = shown.unwrap_or_else(|| panic!("{second}")).split(' ').collect();
    let status = place.run(&status).expect(1);
    assert!(status.out.starts_with("agent node1"), "{}", status.out);
    eventually("a worker", || children(pid).len() == 1);
    let worker = children(pid)[0];
    // SAFETY: plain integers are passed.
    assert_eq!(unsafe { libc::getsid(pid.cast_signed()) }, pid.cast_signed(), "it leads a session of its own");
    for (process, what) in [(pid, "supervisor"), (worker, "worker")] {
        assert_eq!(fs::read_link(format!("/proc/{process}/fd/0")).unwrap(), Path::new("/dev/null"), "{what}");
        assert_eq!(fs::read_link(format!("/proc/{process}/fd/2")).unwrap(), log, "{what}");
        assert_eq!(fs::read_link(format!("/proc/{process}/cwd")).unwrap(), Path::new("/"), "{what}");
    }
    let second = place.agent("start", "node1", &["--daemon"]).expect(1);
    assert!(second.err.contains(&format!("agent node1 is running already (pid {pid})")), "{}", second.err);

    eventually("the status file", || place.state("node1").join("status.json").exists());
    let status = place.agent("status", "node1", &[]).expect(1);
    assert!(status.out.starts_with("agent node1: "), "{}", status.out);
    let pids = format!("\n  pid              {pid}\n  worker pid       {worker}\n");
    assert!(status.out.contains(&pids), "{}", status.out);

    assert_eq!(place.agent("stop", "node1", &[]).expect(0).out, format!("agent node1 has stopped (pid {pid})\n"));
    assert!(!alive(pid) && !alive(worker));
    place.agent("status", "node1", &[]).expect(3);
    place.agent("stop", "node1", &[]).expect(1);
}

#[test]
fn a_worker_that_is_killed_comes_back_under_the_same_lock() {
    let place = Place::new();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let pid = place.pid("node1");
    eventually("a worker", || children(pid).len() == 1);
    let first = children(pid)[0];
    kill(first, libc::SIGKILL);
    eventually("the line about it", || place.log("agent.log").contains("killed by signal 9"));
    place.agent("start", "node1", &["--daemon"]).expect(1);
    eventually("another worker", || children(pid).iter().any(|child| *child != first));
    let second = *children(pid).iter().find(|child| **child != first).unwrap();
    let started = format!(" started: sloth-agent {}, pid {second}, state directory ", env!("CARGO_PKG_VERSION"));
    eventually("its first line", || place.log("agent.log").contains(&started));
    let log = place.log("agent.log");
    let line = log.lines().find(|line| line.contains("killed by signal 9")).unwrap();
    let (timestamp, text) = line.split_once(' ').unwrap();
    assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{line}");
    assert!(text.starts_with("ERROR The worker process was killed by signal 9 (SIGKILL"), "{line}");
    assert!(text.ends_with("starting it again in 1s"), "{line}");
}

#[test]
fn the_status_of_an_agent_that_stands_still_says_so() {
    let place = Place::new();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let pid = place.pid("node1");
    eventually("a worker", || children(pid).len() == 1);
    let worker = children(pid)[0];
    eventually("its status", || place.agent("status", "node1", &[]).out.starts_with("agent node1: Reconnecting\n"));
    kill(worker, libc::SIGSTOP);
    let stopped = format!("agent node1: Reconnecting, but process {worker} is stopped and does nothing: `kill -CONT ");
    eventually("that it is stopped", || place.agent("status", "node1", &[]).expect(1).out.starts_with(&stopped));
    kill(worker, libc::SIGCONT);
    eventually("that it is not", || place.agent("status", "node1", &[]).out.starts_with("agent node1: Reconnecting\n"));
}

#[test]
fn while_no_worker_is_there_it_stops_at_once() {
    let place = Place::new();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let pid = place.pid("node1");
    // It is without one for a second, and for longer each time: on a busy machine the first look may come after that.
    eventually("that it starts another", || {
        let [worker] = children(pid)[..] else { return false };
        kill(worker, libc::SIGKILL);
        eventually("the line about it", || place.log("agent.log").contains("killed by signal 9"));
        let status = place.agent("status", "node1", &[]);
        status.out.starts_with("agent node1: Restarting\n") && status.code == Some(1)
    });
    place.agent("stop", "node1", &[]).expect(0);
    assert!(!alive(pid));
}

#[test]
fn a_worker_goes_on_when_its_supervisor_is_killed_and_is_found_and_stopped() {
    let place = Place::new();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let pid = place.pid("node1");
    eventually("a worker", || children(pid).len() == 1);
    let worker = children(pid)[0];
    kill(pid, libc::SIGKILL);
    eventually("the worker's own pid file", || place.pid("node1") == worker);
    let line =
        format!("WARN  The parent process {pid}, which would start this agent again, is gone: going on without it");
    assert!(place.log("agent.log").contains(&line), "{}", place.log("agent.log"));
    let second = place.agent("start", "node1", &["--daemon"]).expect(1);
    assert!(second.err.contains(&format!("agent node1 is running already (pid {worker})")), "{}", second.err);
    let status = place.agent("status", "node1", &[]).expect(1).out;
    assert!(status.contains(&format!("\n  pid              {worker}\n")), "{status}");
    assert_eq!(place.agent("stop", "node1", &[]).expect(0).out, format!("agent node1 has stopped (pid {worker})\n"));
    assert!(!alive(worker) && !place.state("node1").join("agent.pid").exists());
    place.agent("start", "node1", &["--daemon"]).expect(0);
}

#[test]
fn an_agent_that_was_killed_leaves_a_stale_pid_file() {
    let place = Place::new();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let pid = place.pid("node1");
    eventually("a worker", || children(pid).len() == 1);
    let worker = children(pid)[0];
    // Alone it could not start another.
    kill(pid, libc::SIGSTOP);
    kill(worker, libc::SIGKILL);
    kill(pid, libc::SIGKILL);
    eventually("the end of both", || !alive(worker) && !alive(pid));
    let stale = format!("agent node1 is not running; the pid file of process {pid}, which is gone, was removed\n");
    assert_eq!(place.agent("status", "node1", &[]).expect(3).out, stale);
    place.agent("start", "node1", &["--daemon"]).expect(0);
}

#[test]
fn a_pid_file_of_another_process_is_recognised() {
    let place = Place::new();
    let state = place.state("node1");
    fs::create_dir_all(&state).unwrap();
    // The pid is alive, and was used again since.
    fs::write(state.join("agent.pid"), format!("{} 1\n", std::process::id())).unwrap();
    place.agent("status", "node1", &[]).expect(3);
    fs::write(state.join("agent.pid"), format!("{} 1\n", std::process::id())).unwrap();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    assert_ne!(place.pid("node1"), std::process::id());
}

#[test]
fn two_agents_from_one_folder_get_logs_of_their_own() {
    let place = Place::new();
    place.agent("start", "a", &["--daemon"]).expect(0);
    let second = place.agent("start", "b", &["--daemon"]).expect(0);
    assert!(second.out.contains("/agent-b.log\n"), "{}", second.out);
    assert!(place.path().join("agent.log").exists() && place.path().join("agent-b.log").exists());
    place.agent("stop", "a", &[]).expect(0);
    place.agent("status", "b", &[]).expect(1);
}

#[test]
fn a_log_that_cannot_be_written_is_an_error_with_its_name_and_leaves_nothing_running() {
    let place = Place::new();
    let done = place.agent("start", "node1", &["--daemon", "--log-file", "/proc/none/agent.log"]).expect(1);
    assert_eq!(
        done.err,
        "sloth-agent: cannot write the log file /proc/none/agent.log: no such file or directory; make it writable, or \
         name another with log.file\n"
    );
    place.agent("status", "node1", &[]).expect(3);
}

#[test]
fn a_log_that_is_a_pipe_without_a_reader_does_not_hold_the_start() {
    let place = Place::new();
    let pipe = place.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let done = place.agent("start", "node1", &["--daemon", "--log-file", "pipe"]).expect(1);
    assert!(done.err.contains("/pipe: no such device or address; make it writable"), "{}", done.err);
}

#[test]
fn stop_sees_the_end_where_it_may_not_look() {
    let place = Place::new();
    // A path that leads nowhere, for root as well.
    let state = place.path().join("loop");
    std::os::unix::fs::symlink("loop", &state).unwrap();
    let run = |args: &[&str]| place.run(&[args, &["--name", "node1", "--state-dir", state.to_str().unwrap()]].concat());
    run(&["start", "--daemon", "--master", "127.0.0.1:1"]).expect(0);
    let stopped = run(&["stop"]).expect(0).out;
    assert!(stopped.starts_with("agent node1 has stopped"), "{stopped}");
    run(&["status"]).expect(3);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_said_and_the_agent_runs() {
    let place = Place::new();
    fs::write(place.path().join("state"), "").unwrap();
    let state = place.state("node1");
    let args = ["start", "--name", "node1", "--master", "127.0.0.1:1", "--log-file", "a.log", "--state-dir"];
    let mut child = place.command(&args).arg(&state).stdout(Stdio::null()).spawn().unwrap();
    let expected = format!(
        "WARN  the state directory {} cannot be written (not a directory): going on with state in memory, which a \
         restart forgets\n",
        state.display()
    );
    eventually("the warning", || place.log("a.log").contains(&expected));
    assert!(child.try_wait().unwrap().is_none());
    kill(child.id(), libc::SIGTERM);
    child.wait().unwrap();
}

#[test]
fn in_the_background_a_reload_finds_its_file_and_a_new_worker_keeps_what_it_said() {
    let place = Place::new();
    let file = place.path().join("agent.toml");
    let write = |delay: &str, level: &str| {
        let text = format!(
            "name = 'node1'\nmaster = '127.0.0.1:1'\nstate_dir = 'state/node1'\n[reconnect]\nmax_delay = '{delay}'\n\
             [log]\nlevel = '{level}'\n"
        );
        fs::write(&file, text).unwrap();
    };
    write("70s", "info");
    place.run(&["start", "--daemon"]).expect(0);
    let pid = place.pid("node1");
    eventually("a worker", || children(pid).len() == 1);
    eventually("a wait", || place.log("agent.log").contains("(attempt 1)"));
    write("80s", "debug");
    // To the supervisor, as the pid file says.
    let told = place.run(&["reconnect"]).expect(0);
    assert_eq!(
        told.out,
        format!("agent node1 (pid {pid}) was told to read its configuration again and to connect now\n")
    );
    eventually("the change", || {
        place.log("agent.log").contains("INFO  config: reconnect.max_delay changed from 70s to 80s\n")
    });
    eventually("the attempt", || place.log("agent.log").contains("DEBUG Connecting to master at 127.0.0.1:1"));
    assert!(!place.log("agent.log").contains("state_dir changed"), "{}", place.log("agent.log"));
    kill(children(pid)[0], libc::SIGKILL);
    eventually("the same in a new worker", || {
        place.log("agent.log").matches("config: reconnect.max_delay changed from 70s to 80s\n").count() == 2
    });
    place.agent("reconnect", "other", &[]).expect(3);

    let worker = children(pid)[0];
    // Which process it is others know from what it writes.
    let status = place.state("node1").join("status.json");
    let written = || fs::read_to_string(&status).unwrap_or_default();
    eventually("its status", || written().contains(&format!("\"pid\": {worker},")));
    kill(worker, libc::SIGSTOP);
    eventually("that it is stopped", || sloth_agent::state::is_stopped(worker));
    let told = place.run(&["reconnect"]).expect(1);
    assert!(
        told.err.contains(&format!("process {worker} is stopped and does nothing; `kill -CONT {worker}`")),
        "{}",
        told.err
    );
    kill(worker, libc::SIGCONT);
    place.run(&["reconnect"]).expect(0);
}

#[test]
fn an_agent_that_can_keep_nothing_is_found_stopped_and_started_once_all_the_same() {
    let place = Place::new();
    fs::create_dir(place.path().join("state")).unwrap();
    // A file in the way stands for a disk that cannot be written: it holds for root as well.
    fs::write(place.state("node1"), "").unwrap();
    let started = place.agent("start", "node1", &["--daemon"]).expect(0);
    let pid: u32 = started.out.split("(pid ").nth(1).unwrap().split(')').next().unwrap().parse().unwrap();
    for args in [["--daemon"].as_slice(), &[]] {
        let second = place.agent("start", "node1", args).expect(1);
        assert!(second.err.contains(&format!("agent node1 is running already (pid {pid})")), "{}", second.err);
    }
    let status = place.agent("status", "node1", &[]).expect(1).out;
    assert!(
        status.starts_with("agent node1: ") && status.contains(&format!("\n  pid              {pid}\n")),
        "{status}"
    );
    assert!(status.contains("\n  pid and status   "), "{status}");
    eventually("what that means in words", || {
        let status = place.agent("status", "node1", &[]).out;
        status.contains(", which cannot be written: a restart forgets id and commands\n")
            && status.contains(", in memory: a crash of the agent loses what it holds\n")
    });
    eventually("a worker", || children(pid).len() == 1);
    let worker = children(pid)[0];
    kill(pid, libc::SIGKILL);
    eventually("its end", || !alive(pid));
    let named = format!("\n  pid              {worker}\n");
    eventually("the worker's pid", || place.agent("status", "node1", &[]).out.contains(&named));
    kill(worker, libc::SIGKILL);
    eventually("the worker's end", || place.agent("status", "node1", &[]).code == Some(3));
    place.agent("start", "node1", &["--daemon"]).expect(0);
    place.agent("stop", "node1", &[]).expect(0);
    place.agent("status", "node1", &[]).expect(3);
}

#[test]
fn the_log_begins_with_who_runs_here() {
    let place = Place::new();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let (version, pid) = (env!("CARGO_PKG_VERSION"), place.pid("node1"));
    let state = place.state("node1");
    let expected =
        format!("INFO  Agent node1 started: sloth-agent {version}, pid {pid}, state directory {}", state.display());
    let log = place.log("agent.log");
    assert_eq!(log.lines().next().and_then(|line| line.split_once(' ')).map(|(_, text)| text), Some(expected.as_str()));
}

#[test]
fn stop_and_status_say_the_name_of_the_agent_that_they_find() {
    let place = Place::new();
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let state = place.state("node1");
    let here = ["--state-dir", state.to_str().unwrap()];
    let run = |command, name: &[&str]| place.run(&[&[command], here.as_slice(), name].concat());
    assert!(run("status", &[]).expect(1).out.starts_with("agent node1: "));
    let other = format!("agent b is not running: its state directory {} is held by agent node1\n", state.display());
    assert_eq!(run("status", &["--name", "b"]).expect(3).out, other);
    assert_eq!(run("stop", &["--name", "b"]).expect(1).err, other);
    assert!(run("stop", &[]).expect(0).out.starts_with("agent node1 has stopped"));
    assert!(run("stop", &[]).expect(1).err.starts_with(&format!("the agent of {} is not running", state.display())));
}

#[test]
fn a_typo_in_the_configuration_hides_no_agent_that_is_named() {
    let place = Place::new();
    let state = place.state("node1");
    let typo = format!("nmae = 'x'\nstate_dir = '{}'\n", state.display());
    let run = |command, config: &str| {
        fs::write(place.path().join("agent.toml"), config).unwrap();
        let mut command = place.command(&[command, "--name", "node1"]);
        // The default place is below it for all but root.
        Done::of(command.env("XDG_STATE_HOME", place.path()).output().unwrap())
    };
    place.agent("start", "node1", &["--daemon"]).expect(0);
    let status = run("status", &typo).expect(1);
    assert!(status.out.starts_with("agent node1: ") && status.err.is_empty(), "{}", status.err);
    let broken = run("status", "nmae =").expect(3);
    assert!(broken.err.contains("agent.toml:1: is not TOML: "), "{}", broken.err);
    assert!(broken.err.contains("\nlooking in the default place all the same: /"), "{}", broken.err);
    let unnamed = |command, config: &str| {
        fs::write(place.path().join("agent.toml"), config).unwrap();
        Done::of(place.command(&[command, "--config", "agent.toml"]).output().unwrap())
    };
    let lost = unnamed("stop", "nmae =").expect(2);
    let way_out = "\nto find the agent all the same, name its state directory: --state-dir DIR\n";
    assert!(lost.err.ends_with(way_out), "{}", lost.err);
    let stopped = unnamed("stop", &typo).expect(0);
    assert!(stopped.err.starts_with("agent.toml:1: nmae is not known"), "{}", stopped.err);
    let goes_on = format!("\ngoing on all the same, with the state directory {}\n", state.display());
    assert!(stopped.err.ends_with(&goes_on) && stopped.out.starts_with("agent node1 has stopped"), "{}", stopped.err);
}
