//! How much memory output may take: limits that suit a server must not be the end of a box with 64 MB.

use std::{fs, path::Path};

/// Output that is held for the master takes at most one part in so many of the memory that there is: the rest is for
/// the agent itself, what it runs, and the system.
const SHARE: u64 = 4;

/// `limit`, or the share of the memory where that is less.
pub fn bounded(limit: u64) -> u64 {
    let share = available(Path::new("/sys/fs/cgroup")) / SHARE;
    if share < limit {
        const MIB: u64 = 1024 * 1024;
        let (limit, share) = (limit / MIB, share / MIB);
        log::info!("All commands together hold {share} MiB of output, a quarter of the memory here, not {limit} MiB");
    }
    share.min(limit)
}

/// Bytes that this process may use: the machine's, or what its control group is allowed. Unlimited where nobody says.
fn available(groups: &Path) -> u64 {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine().min(group(groups, &own))
}

fn machine() -> u64 {
    // SAFETY: all-zero is a valid sysinfo; the pointer is to a local.
    let (done, info) = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        (libc::sysinfo(&raw mut info), info)
    };
    #[allow(clippy::useless_conversion, reason = "this field is narrower on 32-bit targets")]
    let total = u64::from(info.totalram).saturating_mul(info.mem_unit.into());
    if done == 0 && total > 0 { total } else { u64::MAX }
}

/// The least that is allowed to the groups named in `own`, a process's `/proc/PID/cgroup`, and to those around them.
fn group(groups: &Path, own: &str) -> u64 {
    let mut least = u64::MAX;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (groups.to_owned(), "memory.max"),
            "memory" => (groups.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
            // "max", or no such file: no limit.
            let limit = fs::read_to_string(root.join(ancestor).join(file)).ok();
            least = least.min(limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(u64::MAX));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_group_counts_in_both_versions_of_control_groups() {
        let root = tempfile::tempdir().unwrap();
        let set = |file: &str, value: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, value).unwrap();
        };
        set("slice/agent/memory.max", "max\n");
        set("slice/memory.max", "67108864\n");
        set("memory/box/memory.limit_in_bytes", "9223372036854771712\n");
        set("memory/memory.limit_in_bytes", "33554432\n");
        let group = |own| group(root.path(), own);
        assert_eq!(group("0::/slice/agent\n"), 67_108_864);
        assert_eq!(group("9:name=systemd:/slice\n4:memory:/box\n0::/slice/agent\n"), 33_554_432);
        assert_eq!(group("0::/elsewhere\n1:cpu:/slice\nnonsense\n"), u64::MAX);
        assert_eq!(group(""), u64::MAX);
    }

    #[test]
    fn a_limit_that_fits_stays() {
        assert!(available(Path::new("/nowhere")) < u64::MAX, "the machine has an end");
        assert_eq!(bounded(1), 1);
        assert!(bounded(u64::MAX) <= machine() / SHARE);
    }
}
