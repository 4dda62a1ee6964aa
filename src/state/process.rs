//! Processes, told apart although pids are used again.

use std::fs;

/// One process: pids are used again, start times are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks since the machine started.
    pub started: u64,
}

impl Process {
    /// This process; none without `/proc`.
    pub fn own() -> Option<Self> {
        let pid = std::process::id();
        Some(Self { pid, started: start_time(pid)? })
    }
}

/// When a process started, in clock ticks since the machine did; none if there is no such process, or it has ended and
/// only waits for its parent.
pub fn start_time(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether a process stands still, by SIGSTOP or a debugger.
pub fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with(['T', 't']))
}

/// The name of this run of the machine; empty without `/proc`.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_string()).unwrap_or_default()
}

fn parse_stat(stat: &str) -> Option<u64> {
    // The command's name may hold anything, parentheses and spaces included; what follows the last one does not.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    // Field 22 of the whole; the state was field 3.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21";
        assert_eq!(parse_stat(&format!("7 (sloth) {rest}")), Some(424_242));
        assert_eq!(parse_stat(&format!("7 (a) R 1) {rest}")), Some(424_242));
        assert_eq!(parse_stat(&format!("7 (gone) {}", rest.replacen('S', "Z", 1))), None);
        assert_eq!(parse_stat("7 (short) S 1"), None);
    }

    #[test]
    fn this_process_is_alive_and_no_process_has_the_highest_pid() {
        assert_eq!(Process::own().map(|process| process.pid), Some(std::process::id()));
        assert_eq!(start_time(u32::MAX), None);
    }
}
