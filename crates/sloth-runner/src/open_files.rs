//! The limit of open files: each agent holds one, and operators must always find some left.

/// Descriptors that sessions leave alone: about 100 for operators, the rest for the database, outputs and the process.
const KEPT: u64 = 150;

/// Raises the soft limit to the hard one and returns it. Where that is refused, it stays as it is.
pub fn raise_limit() -> u64 {
    let mut limit = get();
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the pointer is to a local, which the call only reads.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    get().rlim_cur
}

/// So many sessions of agents the present limit has room for.
pub fn sessions_max() -> usize {
    usize::try_from(sessions_within(get().rlim_cur)).unwrap_or(usize::MAX)
}

/// A limit that is too low for that leaves a quarter for agents.
fn sessions_within(limit: u64) -> u64 {
    limit.saturating_sub(KEPT).max(limit / 4)
}

fn get() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local, which the call only writes.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(done, 0, "getrlimit knows the limit of open files");
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_find_descriptors_left() {
        assert_eq!(sessions_within(20_000), 19_850);
        assert_eq!(sessions_within(1_024), 874);
        assert_eq!(sessions_within(160), 40);
        assert_eq!(sessions_within(libc::RLIM_INFINITY), u64::MAX - 150);
    }
}
