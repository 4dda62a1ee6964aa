//! `status` of an agent that runs: how it stands at this moment. What changes all the time is on no disk: the agent is
//! asked for it by a signal, and writes its status anew.

use std::{fs, path::Path, thread, time::Duration};

use crate::{
    clock::unix_ms,
    config::units::{ShowDuration, ShowSize},
    logging::utc::Utc,
    state::{StateDir, is_stopped},
    status::{self, CERTIFICATE_ENDS, Field, SHUTTING_DOWN, SPOOL_IN_MEMORY, STATE_IN_MEMORY},
};

/// For so long an answer is waited for. An agent that is at work needs a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);

type Fields = Vec<(String, String)>;

/// Fields that are numbers in JSON, too.
const NUMBERS: [&str; 9] = [
    "pid",
    "attempt",
    "in_state",
    "next_attempt_in",
    "round_trip",
    "heartbeats",
    "sessions",
    "commands_held",
    "spool_bytes",
];

/// Fields for programs alone.
const INTERNAL: [&str; 2] = ["asked_at", "instance"];

/// The status as of now, or as it was last written where the agent cannot be asked. `holder` is the process of the pid
/// file.
pub(super) fn fresh(state_dir: &Path, written: Fields, holder: Option<u32>) -> Fields {
    let old = field(&written, "asked_at").map(str::to_owned);
    let worker = field(&written, "pid").and_then(|pid| pid.parse().ok()).filter(|pid| is_of(*pid, holder));
    let Some(pid) = worker.filter(|pid| listens(*pid) && !is_stopped(*pid)) else { return written };
    // SAFETY: plain integers are passed; the process is the agent's, and was seen to expect this signal.
    if unsafe { libc::kill(pid.cast_signed(), libc::SIGUSR1) } != 0 {
        return written;
    }
    let mut waited = Duration::ZERO;
    while waited < PATIENCE {
        let now = StateDir::read_status(state_dir).and_then(|text| status::read(&text)).unwrap_or_default();
        if field(&now, "asked_at").is_some_and(|at| Some(at) != old.as_deref()) {
            return now;
        }
        thread::sleep(POLL);
        waited += POLL;
    }
    written
}

/// The agent itself, or the child of the parent that stands in the pid file: not somebody who got its pid later.
fn is_of(pid: u32, holder: Option<u32>) -> bool {
    let parent = || process_line(pid, "PPid:").and_then(|parent| parent.parse().ok());
    holder.is_some_and(|holder| pid == holder || parent() == Some(holder))
}

/// It expects the signal, which would end a process that does not, such as an agent of an earlier version.
fn listens(pid: u32) -> bool {
    let caught = process_line(pid, "SigCgt:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    caught.is_some_and(|mask| mask >> (libc::SIGUSR1 - 1) & 1 == 1)
}

fn process_line(pid: u32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
}

fn field<'a>(fields: &'a Fields, wanted: &str) -> Option<&'a str> {
    fields.iter().find(|(key, value)| key == wanted && !value.is_empty()).map(|(_, value)| value.as_str())
}

/// What is known of a running agent.
pub(super) struct Shown<'a> {
    pub agent: &'a str,
    pub path: &'a Path,
    /// Of the pid file.
    pub pid: Option<u32>,
    pub fields: Fields,
}

impl Shown<'_> {
    pub fn is_active(&self) -> bool {
        self.state() == "Active" && self.stopped().is_none() && !self.is_shutting_down()
    }

    /// It takes no commands any more.
    fn is_shutting_down(&self) -> bool {
        self.has(SHUTTING_DOWN)
    }

    fn has(&self, flag: &str) -> bool {
        field(&self.fields, flag) == Some("true")
    }

    fn state(&self) -> &str {
        field(&self.fields, "state").unwrap_or("Starting")
    }

    /// Of the process that has the connection; the other one may be its parent.
    fn worker(&self) -> Option<u32> {
        field(&self.fields, "pid").and_then(|pid| pid.parse().ok())
    }

    /// A process that does nothing, for it was stopped.
    fn stopped(&self) -> Option<u32> {
        self.worker().or(self.pid).filter(|pid| is_stopped(*pid))
    }

    /// Everything else, in the order in which it is written.
    fn rest(&self) -> impl Iterator<Item = &(String, String)> {
        let apart = ["name", "pid", "state", SHUTTING_DOWN];
        self.fields.iter().filter(move |(key, value)| {
            !apart.contains(&key.as_str()) && !INTERNAL.contains(&key.as_str()) && !value.is_empty()
        })
    }

    pub fn text(&self) -> String {
        let stands = self.stopped().map_or_else(String::new, |pid| {
            format!(", but process {pid} is stopped and does nothing: `kill -CONT {pid}` lets it go on")
        });
        let ending = match field(&self.fields, "commands_held") {
            _ if !self.is_shutting_down() => String::new(),
            Some(left) => format!(", shutting down: {left} command(s) left"),
            None => ", shutting down".to_owned(),
        };
        let mut text = format!("{}: {}{ending}{stands}\n", self.agent, self.state());
        // A master may have written what stands here: it stays on its line, and steers no terminal.
        let mut line = |key: &str, value: &str| {
            let value = value.replace(char::is_control, "\u{fffd}");
            text.push_str(&format!("  {:<16} {value}\n", key.replace('_', " ")));
        };
        if let Some(pid) = self.pid {
            line("pid", &pid.to_string());
        }
        if let Some(worker) = self.worker().filter(|worker| self.pid.is_some_and(|pid| pid != *worker)) {
            line("worker pid", &worker.to_string());
        }
        for (key, value) in self.rest() {
            match key.as_str() {
                "since" => line(key, &with(value, self.seconds("in_state").map(|at| format!("{} ago", coarse(at))))),
                "next_attempt" => {
                    let wait = self.seconds("next_attempt_in");
                    line(key, &with(value, wait.map(|wait| format!("in {}", link::Seconds(wait)))));
                }
                "in_state" | "next_attempt_in" => {}
                // None in this outage yet: a goodbye of the master is no failure.
                "attempt" if value == "0" => {}
                // Both are written the same way, so they compare as texts.
                CERTIFICATE_ENDS => {
                    let now = Utc(Duration::from_millis(unix_ms())).to_string();
                    let ended = || "it has ended: join again with a new token, or renew tls.cert_file".to_owned();
                    line(key, &with(value, (*value <= now).then(ended)));
                }
                "round_trip" => {
                    let micros = self.seconds(key).unwrap_or_default().as_micros();
                    line(key, &format!("{}.{}ms", micros / 1000, micros % 1000 / 100));
                }
                "spool_bytes" => {
                    let held = value.parse().map_or_else(|_| value.clone(), size);
                    let lost = ", in memory: a crash of the agent loses what it holds";
                    line("spool", &(held + if self.has(SPOOL_IN_MEMORY) { lost } else { "" }));
                }
                SPOOL_IN_MEMORY | STATE_IN_MEMORY => {}
                _ => line(key, value),
            }
        }
        let lost = ", which cannot be written: a restart forgets id and commands";
        let lost = if self.has(STATE_IN_MEMORY) { lost } else { "" };
        line("state directory", &format!("{}{lost}", self.path.display()));
        if let Some(refuge) = StateDir::refuge(self.path) {
            line("pid and status", &refuge.display().to_string());
        }
        text
    }

    pub fn json(&self) -> String {
        let (worker, directory) = (self.worker(), self.path.display().to_string());
        let mut fields = vec![("name", Field::Text(field(&self.fields, "name").unwrap_or_default()))];
        fields.push(("state", Field::Text(self.state())));
        fields.extend(self.pid.map(|pid| ("pid", Field::Number(pid.into()))));
        fields.extend(worker.map(|pid| ("worker_pid", Field::Number(pid.into()))));
        fields.push(("stopped", Field::Boolean(self.stopped().is_some())));
        fields.push((SHUTTING_DOWN, Field::Boolean(self.is_shutting_down())));
        for (key, value) in self.rest() {
            if [SPOOL_IN_MEMORY, STATE_IN_MEMORY].contains(&key.as_str()) {
                fields.push((key, Field::Boolean(value == "true")));
                continue;
            }
            let number = NUMBERS.contains(&key.as_str()) && value.parse::<f64>().is_ok();
            fields.push((key, if number { Field::Json(value) } else { Field::Text(value) }));
        }
        fields.push(("state_directory", Field::Text(&directory)));
        status::write(&fields)
    }

    fn seconds(&self, key: &str) -> Option<Duration> {
        field(&self.fields, key)?.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }
}

fn with(value: &str, more: Option<String>) -> String {
    more.map_or_else(|| value.to_owned(), |more| format!("{value} ({more})"))
}

fn coarse(duration: Duration) -> ShowDuration {
    ShowDuration(Duration::from_secs(duration.as_secs()))
}

/// In a unit of which there are at least ten, if it is not bytes.
fn size(bytes: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    let unit = if bytes >= 10 * MIB {
        MIB
    } else if bytes >= 10 * KIB {
        KIB
    } else {
        1
    };
    ShowSize(bytes / unit * unit).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_is_in_memory_alone_is_said_in_words_and_nothing_steers_the_terminal() {
        let fields = [
            ("state", "Reconnecting"),
            (STATE_IN_MEMORY, "true"),
            ("last_loss_detail", "closed by \x1b[2J\nmaster"),
            ("spool_bytes", "2048"),
            (SPOOL_IN_MEMORY, "true"),
        ];
        let fields = fields.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let shown = |fields| Shown { agent: "agent a", path: Path::new("/nowhere"), pid: None, fields };
        assert_eq!(
            shown(fields.clone()).text(),
            "agent a: Reconnecting\n  last loss detail closed by \u{fffd}[2J\u{fffd}master\n  \
             spool            2KiB, in memory: a crash of the agent loses what it holds\n  \
             state directory  /nowhere, which cannot be written: a restart forgets id and commands\n"
        );
        let json = status::read(&shown(fields.clone()).json()).unwrap();
        assert!(json.contains(&(SPOOL_IN_MEMORY.to_owned(), "true".to_owned())));
        let well = fields.into_iter().filter(|(key, _)| key != STATE_IN_MEMORY && key != SPOOL_IN_MEMORY).collect();
        assert!(shown(well).text().ends_with("  spool            2KiB\n  state directory  /nowhere\n"));
    }

    #[test]
    fn sizes_are_told_in_a_unit_that_one_can_read_and_no_attempt_is_none() {
        let of = [9, 10_239, 10_241, 16_777_286, 5_000_000_000].map(size);
        assert_eq!(of, ["9B", "10239B", "10KiB", "16MiB", "4768MiB"]);
        let fields = [("state", "Reconnecting"), ("attempt", "0"), ("attempt", "2")];
        let fields = fields.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let shown = Shown { agent: "agent a", path: Path::new("/nowhere"), pid: None, fields };
        assert_eq!(shown.text().matches("attempt").count(), 1, "{}", shown.text());
    }

    #[test]
    fn a_process_that_does_not_expect_the_signal_is_not_sent_it() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap()
        };
        let (mut deaf, listening) = (shell("read line"), shell("trap : USR1; read line"));
        while !listens(listening.id()) {
            thread::sleep(POLL);
        }
        let fields = |pid: u32| vec![("pid".to_owned(), pid.to_string()), ("state".to_owned(), "Active".to_owned())];
        let nowhere = Path::new("/nowhere");
        let of = |pid: u32| fresh(nowhere, fields(pid), Some(pid));
        assert_eq!(of(deaf.id()), fields(deaf.id()));
        assert!(deaf.try_wait().unwrap().is_none(), "it would have ended");
        // Somebody else's process is left alone, too.
        assert!(!is_of(listening.id(), Some(deaf.id())) && is_of(listening.id(), Some(std::process::id())));
        for mut child in [deaf, listening] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
