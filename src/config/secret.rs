//! Files that hold secrets.

use std::{fs::File, io::Read, os::unix::fs::PermissionsExt, path::Path};

use super::{Secret, layers::describe};
use crate::token::{Malformed, Token};

/// Longest token, in bytes: the ones that masters make have some hundred.
const TOKEN_MAX: usize = 4096;

/// Why a file of this mode is no place for a secret, and the remedy. None: only its owner can read it.
pub fn readable_by_others(mode: u32, path: &Path) -> Option<String> {
    let mode = mode & 0o777;
    (mode & 0o077 != 0).then(|| format!("others can read (mode {mode:04o}): run chmod 600 {}", path.display()))
}

/// Checks a token as it stands in a flag, a variable or a file.
pub(super) fn check_token(text: &str) -> Result<Secret, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty: give the token that the master printed, or leave it out".into());
    }
    if text.len() > TOKEN_MAX {
        return Err(format!("is longer than {TOKEN_MAX} bytes: give the token that the master printed"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds spaces or characters that no token has: copy it again".into());
    }
    if let Err(Malformed::Damaged) = Token::parse(text) {
        return Err(Malformed::Damaged.to_string());
    }
    Ok(Secret(text.to_string()))
}

/// Reads a token from a file that nobody but its owner can read.
pub(super) fn read_token_file(path: &Path) -> Result<Secret, String> {
    let file = File::open(path).map_err(|error| format!("which cannot be read ({}): check it", describe(&error)))?;
    let metadata = file.metadata().map_err(|error| format!("which cannot be read ({}): check it", describe(&error)))?;
    if metadata.is_dir() {
        return Err("a directory: name the file in it".into());
    }
    if let Some(problem) = readable_by_others(metadata.permissions().mode(), path) {
        return Err(format!("which {problem}"));
    }
    let mut text = String::new();
    file.take(TOKEN_MAX as u64 * 2)
        .read_to_string(&mut text)
        .map_err(|error| format!("which cannot be read ({}): check it", describe(&error)))?;
    check_token(&text).map_err(|rule| format!("whose token {rule}"))
}
