//! Tokens: what a master prints once, and what admits agents and operators.
//!
//! ```text
//! sloth1.<SHA-256 of the CA's certificate>.<32 random bytes and a checksum of 4>
//! ```
//! Both parts in base64url without padding: a token survives shells, files and chat windows. The checksum tells one that
//! was cut or mistyped from one that is wrong, before anything is asked of a master.

mod base64;

pub use base64::{Alphabet, decode, encode};

use crate::state::hex;
use ring::digest::{SHA256, digest};
use std::fmt;

const PREFIX: &str = "sloth1";
const CHECKSUM: usize = 4;

/// A token that is whole. Its secret shows nowhere but in [`Token::text`].
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the certificate (DER) of the CA to trust, and no other.
    pub fingerprint: [u8; 32],
    secret: [u8; 32],
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It does not begin as one.
    Foreign,
    /// Characters are missing or others than they were.
    Damaged,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "is no token: one begins with \"sloth1.\"; give what the master printed",
            Self::Damaged => "is cut short or mistyped: copy all of it again",
        })
    }
}

impl Token {
    pub fn new(fingerprint: [u8; 32], secret: [u8; 32]) -> Self {
        Self { fingerprint, secret }
    }

    /// Reads what [`Token::text`] wrote.
    ///
    /// # Errors
    /// [`Malformed`], which reads after "the token".
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')).ok_or(Malformed::Foreign)?;
        let (fingerprint, secret) = rest.split_once('.').ok_or(Malformed::Damaged)?;
        let bytes = |text: &str| decode(Alphabet::Url, text).ok_or(Malformed::Damaged);
        let fingerprint: [u8; 32] = bytes(fingerprint)?.try_into().map_err(|_| Malformed::Damaged)?;
        let checked: [u8; 32 + CHECKSUM] = bytes(secret)?.try_into().map_err(|_| Malformed::Damaged)?;
        let (secret, checksum) = checked.split_at(32);
        let token = Self { fingerprint, secret: secret.try_into().expect("split at 32") };
        if token.checksum() == checksum { Ok(token) } else { Err(Malformed::Damaged) }
    }

    /// The whole token. A secret: shown once, never logged.
    pub fn text(&self) -> String {
        let checked = [&self.secret[..], &self.checksum()].concat();
        format!("{PREFIX}.{}.{}", encode(Alphabet::Url, &self.fingerprint), encode(Alphabet::Url, &checked))
    }

    /// What a master keeps of it. One round of SHA-256 is enough: 32 random bytes are beyond guessing, so there is
    /// nothing for a slow hash to slow down.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// What it is called in lists and logs: the hash's first six bytes. Says nothing of the secret.
    pub fn id(&self) -> String {
        id_of(&self.hash())
    }

    fn checksum(&self) -> [u8; CHECKSUM] {
        let of = [PREFIX.as_bytes(), &self.fingerprint, &self.secret].concat();
        sha256(&of)[..CHECKSUM].try_into().expect("a hash is longer")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id())
    }
}

/// See [`Token::id`].
pub fn id_of(hash: &[u8; 32]) -> String {
    hex(&hash[..6])
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::new([7; 32], std::array::from_fn(|n| n as u8))
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let text = token().text();
        assert_eq!(text.len(), "sloth1".len() + 1 + 43 + 1 + 48);
        assert_eq!(Token::parse(&text), Ok(token()));
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{text}");
    }

    #[test]
    fn one_that_was_cut_anywhere_is_recognised() {
        let text = token().text();
        for end in 0.."sloth1.".len() {
            assert_eq!(Token::parse(&text[..end]), Err(Malformed::Foreign));
        }
        for end in "sloth1.".len()..text.len() {
            assert_eq!(Token::parse(&text[..end]), Err(Malformed::Damaged), "{end}");
        }
        assert_eq!(Token::parse(&format!("{text}A")), Err(Malformed::Damaged));
    }

    #[test]
    fn one_with_another_character_anywhere_is_recognised() {
        let text = token().text();
        for at in "sloth1.".len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(Token::parse(&other), Err(Malformed::Damaged), "{other}");
        }
    }

    #[test]
    fn its_secret_does_not_show() {
        let shown = format!("{:?} {}", token(), token().id());
        let secret = token().text().split_off("sloth1.".len() + 44);
        assert!(!shown.contains(&secret[..8]) && token().id().len() == 12, "{shown}");
        assert_ne!(token().hash()[..], token().secret[..]);
    }
}
