//! Counts instructions: the program runs on valgrind's callgrind, which counts those outside of the kernel, the same on
//! every machine and whatever else runs there.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The program's command line behind that of callgrind, whose files come into `folder`.
pub fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new("valgrind");
    let option = |name, file: PathBuf| format!("--{name}={}", file.display());
    command.arg("--tool=callgrind").arg(option("vgdb-prefix", pipe(folder)));
    command.arg(option("callgrind-out-file", counts(folder))).arg(program);
    command
}

/// Counts anew from here on.
///
/// # Errors
/// Where it cannot be told so.
pub async fn zero(pid: u32, folder: &Path) -> io::Result<()> {
    tell(pid, folder, "zero").await
}

/// Instructions since [`zero`].
///
/// # Errors
/// Where it does not answer.
pub async fn count(pid: u32, folder: &Path) -> io::Result<u64> {
    tell(pid, folder, "dump").await?;
    // Dumps are numbered.
    let file = counts(folder).with_extension("1");
    let unreadable = || io::Error::new(ErrorKind::InvalidData, format!("no total in {}", file.display()));
    total(&fs::read_to_string(&file)?).ok_or_else(unreadable)
}

fn pipe(folder: &Path) -> PathBuf {
    folder.join("vgdb")
}

fn counts(folder: &Path) -> PathBuf {
    folder.join("callgrind")
}

/// On another thread: an answer takes a while, and others are being measured.
async fn tell(pid: u32, folder: &Path, what: &'static str) -> io::Result<()> {
    let prefix = format!("--vgdb-prefix={}", pipe(folder).display());
    let told = move || {
        let mut command = Command::new("vgdb");
        command.args([prefix.as_str(), &format!("--pid={pid}"), what]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    let status = tokio::task::spawn_blocking(told).await.map_err(io::Error::other)??;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("vgdb {what}: {status}"))) }
}

fn total(dump: &str) -> Option<u64> {
    dump.lines().find_map(|line| line.strip_prefix("summary: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_a_dump() {
        assert_eq!(total("events: Ir\nsummary: 35412\n\nfn=(1) main\n3 17\ntotals: 35412\n"), Some(35_412));
        assert_eq!(total("events: Ir\nfn=(1) main\n3 17\n"), None);
    }
}
