//! A process under measurement, and what the kernel says of it.

use crate::callgrind;
use std::{
    fs, io,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running program. Dropping it kills it.
pub struct Process {
    child: Child,
}

/// How a program is run.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    Itself,
    /// On callgrind: many times slower, with its instructions counted, and nothing else of it worth measuring.
    Counted,
}

/// Memory, KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub rss: u64,
    pub pss: u64,
    pub dirty: u64,
    /// The largest RSS since the start or the last [`Process::reset_peak`].
    pub peak: u64,
}

/// What a process has done since its start.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// Times that the main thread gave up its processor to wait.
    pub wakeups: u64,
    /// Of all threads.
    pub cpu: Duration,
}

impl Process {
    /// Starts a copy of the program: what processes share of one file is divided among them in their PSS.
    ///
    /// # Errors
    /// Among others where callgrind is asked for, and missing.
    pub fn start(run: Run, program: &Path, arguments: &[&str], folder: &Path) -> io::Result<Self> {
        let copy = folder.join("program");
        fs::copy(program, &copy)?;
        // Pages of a file that are not on the disk yet would count as the process's own dirty ones.
        fs::File::open(&copy)?.sync_all()?;
        let mut command = match run {
            Run::Itself => Command::new(copy),
            Run::Counted => callgrind::command(&copy, folder),
        };
        let child = command
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn memory(&self) -> io::Result<Memory> {
        Memory::of(self.pid())
    }

    /// From here on the peak is counted anew.
    pub fn reset_peak(&self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")
    }

    pub fn threads(&self) -> io::Result<u64> {
        field(&read(self.pid(), "status")?, "Threads:")
    }

    pub fn activity(&self) -> io::Result<Activity> {
        let wakeups = field(&read(self.pid(), "status")?, "voluntary_ctxt_switches:")?;
        Ok(Activity { wakeups, cpu: cpu_time(self.pid())? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Memory {
    pub fn of(pid: u32) -> io::Result<Self> {
        let map = read(pid, "smaps_rollup")?;
        let peak = field(&read(pid, "status")?, "VmHWM:")?;
        let (rss, pss, dirty) = (field(&map, "Rss:")?, field(&map, "Pss:")?, field(&map, "Private_Dirty:")?);
        Ok(Self { rss, pss, dirty, peak })
    }

    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            rss: self.rss.max(other.rss),
            pss: self.pss.max(other.pss),
            dirty: self.dirty.max(other.dirty),
            peak: self.peak.max(other.peak),
        }
    }
}

fn read(pid: u32, file: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}"))
}

fn field(text: &str, key: &str) -> io::Result<u64> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("this kernel does not tell {key}"));
    number(text, key).ok_or_else(missing)
}

/// The first number behind `key` at the beginning of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// To the nanosecond, where `/proc/PID/stat` counts in hundredths of a second.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).expect("the kernel's own pids fit");
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the clock is the one that was just given, the pointer is to a local.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below 10^9")))
}

/// What all processes of the machine have used so far, and what its host has withheld.
pub fn busy_time() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "this kernel does not tell the processors' times");
    let ticks = busy_ticks(&text).ok_or_else(unreadable)?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Of the first line, in hundredths of a second: all but idle and waiting for disks. Time of guests is part of others.
fn busy_ticks(text: &str) -> Option<u64> {
    let times: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    let busy = times.iter().enumerate().take(8).filter(|(column, _)| ![3, 4].contains(column));
    (times.len() >= 8).then(|| busy.map(|(_, ticks)| ticks).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_processors_are_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 32 64 64\ncpu0 9 9\n"), Some(63));
        assert_eq!(busy_ticks("cpu  1 2\n"), None);
    }

    #[test]
    fn a_key_is_not_found_in_the_middle_of_another() {
        let status = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t4\nVmHWM:\t  2048 kB\n";
        assert_eq!(number(status, "voluntary_ctxt_switches:"), Some(4));
        assert_eq!(number(status, "VmHWM:"), Some(2048));
        assert_eq!(number(status, "Threads:"), None);
    }

    #[test]
    fn a_process_that_works_is_seen_to() {
        let folder = tempfile::tempdir().unwrap();
        let endless =
            Process::start(Run::Itself, Path::new("/bin/sh"), &["-c", "while :; do :; done"], folder.path()).unwrap();
        let before = endless.activity().unwrap().cpu;
        while endless.activity().unwrap().cpu < before + Duration::from_millis(5) {
            std::thread::yield_now();
        }
        let memory = endless.memory().unwrap();
        assert!(memory.rss >= memory.dirty && memory.peak >= memory.rss && memory.pss > 0, "{memory:?}");
        assert_eq!(endless.threads().unwrap(), 1);
    }
}
