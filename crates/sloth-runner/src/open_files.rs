//! The limit of open files: each agent holds one, and operators must always find some left.

/// Descriptors that sessions leave alone: these for operators, and 50 for the database, outputs and the process.
const KEPT: u64 = OPERATORS + 50;
const OPERATORS: u64 = 100;

/// Below this the process itself does not get along.
const OWN_MIN: u64 = 20;

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

/// So many connections of agents and operators the present limit has room for.
pub fn connections_max() -> usize {
    usize::try_from(connections_within(get().rlim_cur)).unwrap_or(usize::MAX)
}

/// What sessions leave to operators, and not the last ones: a file that cannot be opened is worse than a wait.
fn connections_within(limit: u64) -> u64 {
    sessions_within(limit).saturating_add(OPERATORS).min(limit.saturating_sub(OWN_MIN)).max(limit / 2)
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
        assert_eq!([20_000, 170, 60, 30].map(connections_within), [19_950, 142, 40, 15]);
        assert_eq!(sessions_within(libc::RLIM_INFINITY), u64::MAX - 150);
    }
}
