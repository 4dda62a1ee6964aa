//! Ids of commands.

use super::time::now_unix_ms;
use std::io;

/// A new id: the time in hex, so that ids sort by age, then 64 random bits.
///
/// # Errors
/// When the system has no randomness to give.
pub fn new() -> io::Result<String> {
    let mut random = [0u8; 8];
    // SAFETY: writes at most the given length to memory that is ours.
    let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    // Up to 256 bytes are given whole or not at all.
    if usize::try_from(got) != Ok(random.len()) {
        return Err(io::Error::last_os_error());
    }
    Ok(format(now_unix_ms(), u64::from_ne_bytes(random)))
}

fn format(unix_ms: u64, random: u64) -> String {
    format!("{unix_ms:012x}-{random:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_differ() {
        assert_eq!(format(1_700_000_000_000, 7), "018bcfe56800-0000000000000007");
        assert!(format(1, u64::MAX) < format(2, 0));
        assert_ne!(new().unwrap(), new().unwrap());
    }
}
