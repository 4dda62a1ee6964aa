//! How the node does, read from the kernel.

use proto::NodeStatus;
use std::{ffi::CString, fs::File, os::unix::ffi::OsStrExt, os::unix::fs::FileExt, path::Path};

/// Reads the node's status; keeps `/proc/meminfo` open, so that a look costs one read.
pub struct Node {
    meminfo: Option<File>,
}

/// Room on a file system, KiB. What cannot be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub total_kib: u64,
    pub free_kib: u64,
}

impl Disk {
    /// The file system that this directory is on. Blocks for as long as that does, for ever on one that hangs.
    pub fn of(directory: &Path) -> Self {
        let Ok(directory) = CString::new(directory.as_os_str().as_bytes()) else { return Self::default() };
        // SAFETY: all-zero is a valid statvfs; the path ends with a zero byte; the pointer is to a local.
        let (done, disk) = unsafe {
            let mut disk: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(directory.as_ptr(), &raw mut disk), disk)
        };
        if done != 0 {
            return Self::default();
        }
        #[allow(clippy::unnecessary_cast, reason = "this field is narrower on 32-bit targets")]
        let kib = |blocks: u64| blocks.saturating_mul(disk.f_frsize as u64) / 1024;
        #[allow(clippy::useless_conversion, reason = "these fields are narrower on 32-bit targets")]
        Self { total_kib: kib(u64::from(disk.f_blocks)), free_kib: kib(u64::from(disk.f_bavail)) }
    }
}

impl Node {
    #[expect(clippy::new_without_default, reason = "it opens a file")]
    pub fn new() -> Self {
        Self { meminfo: File::open("/proc/meminfo").ok() }
    }

    /// What cannot be read is 0. Never blocks: the disk was looked at elsewhere.
    pub fn status(&self, commands_held: usize, disk: Disk) -> NodeStatus {
        let mut status = NodeStatus {
            commands_held: u32::try_from(commands_held).unwrap_or(u32::MAX),
            disk_total_kib: disk.total_kib,
            disk_free_kib: disk.free_kib,
            time_unix_ms: crate::clock::unix_ms(),
            ..NodeStatus::default()
        };
        self.memory(&mut status);
        load(&mut status);
        status
    }

    fn memory(&self, status: &mut NodeStatus) {
        let mut text = [0_u8; 512];
        let read = self.meminfo.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        status.memory_total_kib = kib(&text, "MemTotal:");
        status.memory_available_kib = kib(&text, "MemAvailable:");
    }
}

fn load(status: &mut NodeStatus) {
    // SAFETY: all-zero is a valid sysinfo; the pointer is to a local.
    let (done, info) = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        (libc::sysinfo(&raw mut info), info)
    };
    if done == 0 {
        // Fixed point with 16 bits behind the point.
        #[allow(clippy::useless_conversion, reason = "32 bits wide on 32-bit targets")]
        let load = u64::from(info.loads[0]) * 1000 / 65_536;
        status.load_1m_milli = u32::try_from(load).unwrap_or(u32::MAX);
        status.uptime_s = u64::try_from(info.uptime).unwrap_or(0);
    }
}

fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_how_the_node_does() {
        let status = Node::new().status(3, Disk::of(Path::new("/")));
        assert!(status.memory_total_kib > status.memory_available_kib && status.memory_available_kib > 0);
        assert!(status.disk_total_kib > 0 && status.disk_total_kib >= status.disk_free_kib);
        assert!(status.uptime_s > 0);
        assert_eq!(status.commands_held, 3);
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24689788 kB\nMemFree:  1 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!((kib(text, "MemTotal:"), kib(text, "MemAvailable:")), (24_689_788, 23_000_000));
        assert_eq!(kib("", "MemTotal:"), 0);
    }
}
