//! What an agent that died has left running: found again, and ended.

use super::{group::Group, process::Signal};
use crate::{
    spool::format::Mark,
    state::{boot_id, start_time},
};
use std::{fs, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// How often what was told to end is looked at. Doubles.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(320);

/// How long processes may take to go after KILL.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// The process groups of one command. The number of a group is never enough to say that it is the command's: it may be
/// somebody else's by now.
pub struct Orphan {
    command: String,
    agent: String,
    mark: Option<Mark>,
}

impl Orphan {
    /// `mark` is of the command's process; without it, the agent died before it could write it down.
    pub fn new(command: String, agent: String, mark: Option<Mark>) -> Self {
        Self { command, agent, mark }
    }

    /// Returns when nothing of it lives, or KILL did not help. Nothing is sent to what is not surely the command's.
    pub async fn end(self, mut signals: mpsc::Receiver<Signal>) {
        let mut killed: Option<Instant> = None;
        let mut look = LOOK_MIN;
        let groups = self.groups();
        if !groups.is_empty() {
            let shown: Vec<_> = groups.iter().map(i32::to_string).collect();
            log::warn!("Command {} outlived the agent: ending process group {}", self.command, shown.join(", "));
        }
        while !self.groups().is_empty() && killed.is_none_or(|at| at.elapsed() < KILL_WAIT) {
            tokio::select! {
                signal = signals.recv() => {
                    let Some(signal) = signal else { return };
                    if signal == Signal::Kill {
                        killed = Some(Instant::now());
                    }
                    look = LOOK_MIN;
                    for group in self.groups() {
                        send(group, signal);
                    }
                }
                () = sleep_until(Instant::now() + look) => look = (look * 2).min(LOOK_MAX),
            }
        }
    }

    /// Those that live.
    fn groups(&self) -> Vec<libc::pid_t> {
        let found = match &self.mark {
            Some(mark) if mark.boot_id != this_boot() => Vec::new(),
            Some(mark) => {
                let leader = libc::pid_t::try_from(mark.pid).ok().filter(|pid| *pid > 1);
                let ours = |leader: &libc::pid_t| {
                    start_time(mark.pid) == Some(mark.started) || self.members(Some(*leader)).contains(leader)
                };
                leader.filter(ours).into_iter().collect()
            }
            None => self.members(None),
        };
        // A command may have started this very agent.
        // SAFETY: has no preconditions.
        let own = unsafe { libc::getpgrp() };
        found.into_iter().filter(|group| *group != own && Group::borrowed(*group).lives()).collect()
    }

    /// Groups with a living process whose environment says that it is of this command; `only` this one, if given.
    fn members(&self, only: Option<libc::pid_t>) -> Vec<libc::pid_t> {
        let mut groups = Vec::new();
        let Ok(processes) = fs::read_dir("/proc") else { return groups };
        for process in processes.flatten() {
            if !process.file_name().as_encoded_bytes()[0].is_ascii_digit() {
                continue;
            }
            let stat = fs::read(process.path().join("stat")).unwrap_or_default();
            let Some(group) = super::group::of(&stat).filter(|group| only.is_none_or(|only| only == *group)) else {
                continue;
            };
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            if !groups.contains(&group) && self.is_named_in(&environment) {
                groups.push(group);
            }
        }
        groups
    }

    fn is_named_in(&self, environment: &[u8]) -> bool {
        let has = |name: &str, value: &str| {
            let entry = format!("{name}={value}");
            environment.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
        };
        has("SLOTH_RUNNER_COMMAND_ID", &self.command) && has("SLOTH_RUNNER_AGENT", &self.agent)
    }
}

/// This process of a command that has just started; `None` if it has ended already.
pub fn mark(pid: u32) -> Option<Mark> {
    Some(Mark { pid, started: start_time(pid)?, boot_id: this_boot() })
}

/// All zeros without `/proc`.
fn this_boot() -> [u8; 16] {
    let digits: String = boot_id().chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}

fn send(group: libc::pid_t, signal: Signal) {
    let group = Group::borrowed(group);
    match signal {
        Signal::Terminate => {
            group.send(libc::SIGTERM);
            // A stopped process does not see TERM before it goes on.
            group.send(libc::SIGCONT);
        }
        Signal::Kill => _ = group.send(libc::SIGKILL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::process::CommandExt,
        process::{Child, Command, Stdio},
    };

    /// A command of an agent; nothing of it is left when this is dropped.
    struct Started {
        child: Child,
        group: Group,
        id: String,
        pid: libc::pid_t,
    }

    impl Started {
        fn new(id: &str, script: &str) -> Self {
            let id = format!("{id}-{}", std::process::id());
            let mut command = Command::new("sh");
            command.args(["-c", script]).process_group(0);
            command.env("SLOTH_RUNNER_COMMAND_ID", &id).env("SLOTH_RUNNER_AGENT", "lady");
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let pid = child.id() as libc::pid_t;
            Self { child, group: Group::led_by(pid), id, pid }
        }

        fn orphan(&self, mark: Option<Mark>) -> Orphan {
            Orphan::new(self.id.clone(), "lady".to_owned(), mark)
        }
    }

    const NONE: [libc::pid_t; 0] = [];

    #[test]
    fn a_process_is_known_by_more_than_its_pid() {
        let mut started = Started::new("known", "exec sleep 1000");
        let pid = started.pid;
        let mark = mark(pid as u32).unwrap();
        assert_eq!(started.orphan(Some(mark)).groups(), [pid]);
        let other = |mark| Orphan::new("other".to_owned(), "lady".to_owned(), Some(mark)).groups();
        assert_eq!(other(mark), [pid]);
        assert_eq!(other(Mark { started: mark.started + 1, ..mark }), NONE, "its pid was used again");
        assert_eq!(other(Mark { boot_id: [1; 16], ..mark }), NONE, "the machine was started again");
        // Without a mark, by what its environment says.
        assert_eq!(started.orphan(None).groups(), [pid]);
        assert_eq!(Orphan::new(started.id.clone(), "tramp".to_owned(), None).groups(), NONE);
        started.group.send(libc::SIGKILL);
        started.child.wait().unwrap();
        assert_eq!(started.orphan(Some(mark)).groups(), NONE);
    }

    #[tokio::test]
    async fn a_group_without_its_leader_is_found_and_what_ignores_term_is_killed() {
        let mut started = Started::new("leaderless", "trap '' TERM; sleep 1000 & exit 0");
        started.child.wait().unwrap();
        let pid = started.pid;
        let orphan = started.orphan(Some(Mark { pid: pid as u32, started: 0, boot_id: this_boot() }));
        assert_eq!(orphan.groups(), [pid]);
        let (signals, received) = mpsc::channel(2);
        signals.try_send(Signal::Terminate).unwrap();
        signals.try_send(Signal::Kill).unwrap();
        tokio::time::timeout(Duration::from_secs(30), orphan.end(received)).await.unwrap();
        assert!(!Group::borrowed(pid).lives());
    }
}
