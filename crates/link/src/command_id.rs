//! Which ids a command may have.

/// Longest id of a command, in bytes.
pub const COMMAND_ID_MAX: usize = 64;

/// 1 to 64 of ASCII letters, digits, `.`, `_` and `-`, the first not a `.`: an id is a file's name on both sides, and
/// must lead nowhere else.
pub fn valid_command_id(id: &str) -> bool {
    (1..=COMMAND_ID_MAX).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_leave_their_directory_are_refused() {
        for id in ["a", "deploy-1", "x..y", "-", "_", &"a".repeat(64)] {
            assert!(valid_command_id(id), "{id}");
        }
        for id in ["", ".", "..", "../x", "a/b", "/a", ".hidden", "a b", "a\n", "a\0", "é", &"a".repeat(65)] {
            assert!(!valid_command_id(id), "{id:?}");
        }
    }
}
