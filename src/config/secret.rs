//! Files that hold secrets.

use std::{
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{Secret, layers::describe};
use crate::token::Token;

/// Longest token, in bytes: the ones that masters make have some hundred.
const TOKEN_MAX: usize = 4096;

/// Why a file is no place for a secret, and the remedy: others can read it, or could put another in its place. None: it
/// is this user's, or root's, alone. Reads after "which ".
pub fn exposed(file: &Metadata, path: &Path) -> Option<String> {
    exposed_to(own_uid(), looks_only(), file.uid(), file.mode() & 0o777, path)
}

/// Whether another user, who is not root, could replace what is in a file. Root may look at what is a service's.
pub fn is_anothers(file: &Metadata) -> bool {
    is_of_another(own_uid(), looks_only(), file.uid())
}

fn is_of_another(us: u32, looks_only: bool, owner: u32) -> bool {
    owner != us && owner != 0 && !(us == 0 && looks_only)
}

fn own_uid() -> u32 {
    // SAFETY: it has no preconditions, and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether this process only looks, and nobody decides by what it reads whom it obeys.
static LOOKS_ONLY: AtomicBool = AtomicBool::new(false);

/// From now on root may read what is a service's: `sudo sloth-agent check` is not to tell root to take its files away
/// from it. Of a process that is no agent and no master.
pub fn look_only() {
    LOOKS_ONLY.store(true, Relaxed);
}

fn looks_only() -> bool {
    LOOKS_ONLY.load(Relaxed)
}

fn exposed_to(us: u32, looks_only: bool, owner: u32, mode: u32, path: &Path) -> Option<String> {
    let path = path.display();
    if mode & 0o077 != 0 {
        return Some(format!("others can read (mode {mode:04o}): run chmod 600 {path}"));
    }
    is_of_another(us, looks_only, owner)
        .then(|| format!("another user (uid {owner}) could replace, as its owner: run chown {us} {path}"))
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
    // No master gives any other, so this one could never admit.
    if let Err(malformed) = Token::parse(text) {
        return Err(malformed.to_string());
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
    if let Some(problem) = exposed(&metadata, path) {
        return Err(format!("which {problem}"));
    }
    let mut text = String::new();
    file.take(TOKEN_MAX as u64 * 2)
        .read_to_string(&mut text)
        .map_err(|error| format!("which cannot be read ({}): check it", describe(&error)))?;
    check_token(&text).map_err(|rule| format!("whose token {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_its_user_s_alone_or_root_s() {
        let of = |us, owner, mode| exposed_to(us, false, owner, mode, Path::new("a.token"));
        assert_eq!([of(7, 7, 0o600), of(7, 7, 0o400), of(7, 0, 0o600), of(0, 0, 0o600)], [None, None, None, None]);
        assert_eq!(of(7, 7, 0o640).unwrap(), "others can read (mode 0640): run chmod 600 a.token");
        assert_eq!(of(7, 8, 0o600).unwrap(), "another user (uid 8) could replace, as its owner: run chown 7 a.token");
        assert!(of(0, 8, 0o600).is_some());
        let looks = |us| exposed_to(us, true, 8, 0o600, Path::new("a.token")).is_none();
        assert_eq!([looks(0), looks(7)], [true, false], "`sudo sloth-agent check` of a service that is not root");
    }
}
