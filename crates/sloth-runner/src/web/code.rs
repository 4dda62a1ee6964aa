//! One-time codes with which whoever may read the master's state directory signs in to its web page.
//!
//! `sloth-runner master web` makes one with a key that the master has left there, so no call has to be open for it. A
//! code is good once and for two minutes, and ends with the master: each start makes a new key.

use fleet::Now;
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use sloth_agent::state::hex;
use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Enough to copy it from a terminal into a browser.
pub const GOOD_FOR_S: u64 = 120;
/// Codes that were used and would still be good.
const USED_MAX: usize = 1024;

const NONCE: usize = 12;
const TAG: usize = 16;
const KEY: usize = 32;

/// The master's side.
pub struct Codes {
    key: hmac::Key,
    /// By when it is no longer good.
    used: Mutex<HashMap<[u8; NONCE], u64>>,
}

impl Codes {
    /// With a new key, which nobody else knows.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn new() -> io::Result<Self> {
        Ok(Self::with(&random()?))
    }

    fn with(key: &[u8; KEY]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), used: Mutex::default() }
    }

    /// With a new key, left in the state directory for whoever may read it, beside where the page is.
    ///
    /// # Errors
    /// The file cannot be written, or the kernel gives no random numbers.
    pub fn leave(state_dir: &Path, address: SocketAddr) -> io::Result<Self> {
        let key: [u8; KEY] = random()?;
        let (path, fresh) = (file(state_dir), state_dir.join("web.key.new"));
        remove(&fresh)?;
        let mut options = OpenOptions::new();
        let mut open = options.write(true).create_new(true).mode(0o600).open(&fresh)?;
        write!(open, "{address}\n{}\n", hex(&key))?;
        fs::rename(&fresh, &path)?;
        Ok(Self::with(&key))
    }

    /// Whether this lets somebody in: once.
    pub fn redeem(&self, now: Now, code: &str) -> bool {
        let now_s = now.unix_ms / 1000;
        let Some((nonce, until)) = check(&self.key, code).filter(|(_, until)| *until > now_s) else { return false };
        // One from a clock that was ahead would be good for longer, and be remembered for longer.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, until| *until > now_s);
        until <= now_s + GOOD_FOR_S && used.len() < USED_MAX && used.insert(nonce, until).is_none()
    }
}

/// Where the page is, and a code for it.
///
/// # Errors
/// `NotFound`: the master of this state directory serves no page. Otherwise why its key cannot be read.
pub fn make(state_dir: &Path, now_unix_ms: u64) -> io::Result<(SocketAddr, String)> {
    let text = fs::read_to_string(file(state_dir))?;
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let (address, key) = text.trim_end().split_once('\n').ok_or_else(invalid)?;
    let address = address.parse().map_err(|_| invalid())?;
    let key: [u8; KEY] = unhex(key).ok_or_else(invalid)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    Ok((address, sign(&key, random()?, now_unix_ms / 1000 + GOOD_FOR_S)))
}

/// No page, so no key for it.
///
/// # Errors
/// One is there and cannot be removed.
pub fn withdraw(state_dir: &Path) -> io::Result<()> {
    remove(&file(state_dir))
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("web.key")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sign(key: &hmac::Key, nonce: [u8; NONCE], until_s: u64) -> String {
    let mut bytes = [&nonce[..], &until_s.to_be_bytes()].concat();
    let tag = hmac::sign(key, &bytes);
    bytes.extend_from_slice(&tag.as_ref()[..TAG]);
    hex(&bytes)
}

/// Nonce and end of a code that was made with this key. Takes the same time wherever it differs.
fn check(key: &hmac::Key, code: &str) -> Option<([u8; NONCE], u64)> {
    let bytes: [u8; NONCE + 8 + TAG] = unhex(code)?;
    let (signed, tag) = bytes.split_at(NONCE + 8);
    let right = hmac::sign(key, signed);
    let differs = right.as_ref().iter().zip(tag).fold(0, |differs, (one, other)| differs | (one ^ other));
    let (nonce, until) = signed.split_at(NONCE);
    (std::hint::black_box(differs) == 0)
        .then(|| (nonce.try_into().expect("split there"), u64::from_be_bytes(until.try_into().expect("split there"))))
}

/// # Errors
/// The kernel gives none.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    Ok(bytes)
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::ZERO, unix_ms: seconds * 1000 }
    }

    #[test]
    fn a_code_is_good_once_for_two_minutes_and_only_for_the_master_that_left_the_key() {
        let folder = tempfile::TempDir::new().unwrap();
        let address = "127.0.0.1:50080".parse().unwrap();
        assert_eq!(make(folder.path(), 0).unwrap_err().kind(), io::ErrorKind::NotFound);
        let earlier = Codes::leave(folder.path(), address).unwrap();
        let (_, of_earlier) = make(folder.path(), 1_000_000).unwrap();
        let codes = Codes::leave(folder.path(), address).unwrap();
        let mode = fs::metadata(file(folder.path())).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let (found, code) = make(folder.path(), 1_000_000).unwrap();
        assert_eq!(found, address);
        assert!(!codes.redeem(at(1000), &of_earlier) && earlier.redeem(at(1000), &of_earlier));
        assert!(codes.redeem(at(1000), &code));
        assert!(!codes.redeem(at(1000), &code), "once");
        let (_, code) = make(folder.path(), 1_000_000).unwrap();
        assert!(!codes.redeem(at(1120), &code), "it has ended");
        assert!(!codes.redeem(at(999), &code), "it would last for longer");
        assert!(codes.redeem(at(1119), &code));
        withdraw(folder.path()).unwrap();
        assert!(make(folder.path(), 0).is_err());
    }

    #[test]
    fn no_byte_of_a_code_can_be_another() {
        let codes = Codes::with(&[1; KEY]);
        let code = sign(&codes.key, [2; NONCE], 100);
        for at_byte in 0..code.len() {
            let mut other = code.clone().into_bytes();
            other[at_byte] = if other[at_byte] == b'0' { b'1' } else { b'0' };
            assert!(!codes.redeem(at(1), &String::from_utf8(other).unwrap()), "{at_byte}");
        }
        for other in ["", "é", &code[1..], &format!("{code}0")] {
            assert!(!codes.redeem(at(1), other));
        }
        assert!(codes.redeem(at(1), &code));
    }
}
