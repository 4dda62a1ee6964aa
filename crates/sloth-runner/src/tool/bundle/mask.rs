//! Takes secrets out of a text. Pure.

use std::borrow::Cow;

const MASKED: &str = "***";
/// How every token begins.
const TOKEN: &str = "sloth1.";

/// What must not be in a bundle.
pub(super) struct Mask {
    /// Word by word.
    known: Vec<String>,
}

impl Mask {
    /// Tokens and private keys, whoever's they are; and this token even where it was cut or wrapped otherwise.
    pub fn new(token: Option<String>) -> Self {
        let secret = token.map(|token| token.trim().rsplit('.').next().unwrap_or_default().to_owned());
        Self { known: secret.into_iter().filter(|secret| !secret.is_empty()).collect() }
    }

    pub fn masked(&self, text: &str) -> String {
        let mut text = keys(&passwords(&tokens(text))).into_owned();
        for secret in &self.known {
            text = text.replace(secret, MASKED);
        }
        text
    }
}

/// Every token, without what makes it one.
fn tokens(text: &str) -> Cow<'_, str> {
    replaced(text, TOKEN, |rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(rest.len());
        Some((end, MASKED))
    })
}

/// Every private key, in one line or in many.
fn keys(text: &str) -> Cow<'_, str> {
    const END: &str = "-----END ";
    replaced(text, "-----BEGIN ", |rest| {
        let head = rest.find("-----").filter(|end| rest[..*end].ends_with("PRIVATE KEY"))?;
        // One that breaks off is no less a key.
        let end = rest[head..].find(END).map_or(rest.len(), |at| head + at);
        Some((end, MASKED))
    })
}

/// What stands between `://` and `@`.
fn passwords(text: &str) -> Cow<'_, str> {
    replaced(text, "://", |rest| {
        let end = rest.find(|c: char| c.is_whitespace() || "/?#\"'<>".contains(c)).unwrap_or(rest.len());
        rest[..end].rfind('@').map(|at| (at, MASKED))
    })
}

/// Behind each `mark`, what `of` finds to be so many bytes long is replaced by what it says.
fn replaced<'a>(text: &'a str, mark: &str, of: impl Fn(&str) -> Option<(usize, &'static str)>) -> Cow<'a, str> {
    if !text.contains(mark) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(mark) {
        let (before, after) = rest.split_at(at + mark.len());
        out.push_str(before);
        let (length, instead) = of(after).unwrap_or((0, ""));
        out.push_str(instead);
        rest = &after[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_nothing_else() {
        let mask = Mask::new(Some("sloth1.abc.SECRET".to_owned()));
        for (text, masked) in [
            ("nothing here", "nothing here"),
            ("--token sloth1.Abc-_9.xyz, and sloth1.q", "--token sloth1.***, and sloth1.***"),
            ("\"argv\": [\"curl\", \"https://eva:pass@host/x@y\"]", "\"argv\": [\"curl\", \"https://***@host/x@y\"]"),
            ("http://host:1/a see me@home", "http://host:1/a see me@home"),
            (
                "key -----BEGIN EC PRIVATE KEY-----\nAAA\n-----END EC PRIVATE KEY----- x",
                "key -----BEGIN ***-----END EC PRIVATE KEY----- x",
            ),
            ("-----BEGIN PRIVATE KEY-----\\nAAA", "-----BEGIN ***"),
            ("-----BEGIN CERTIFICATE-----\nAAA\n", "-----BEGIN CERTIFICATE-----\nAAA\n"),
            ("cut: SECRET", "cut: ***"),
        ] {
            assert_eq!(mask.masked(text), masked);
        }
    }
}
