//! What a certificate says of itself: for whom it is, and from when to when. For people: nothing is decided by it, for
//! TLS itself has judged it. Just enough of DER (X.690) for that.

use super::files;
use crate::{config::Tls, logging::utc::Utc};
use std::{fmt, time::Duration};

/// How many names are told.
const NAMES_MAX: usize = 8;

/// Names and dates of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// DNS names and addresses; where there are none, the common name.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_before: u64,
    pub not_after: u64,
}

/// This agent's own, if it has one that can be read. Blocks.
pub fn own(tls: &Tls) -> Option<Certificate> {
    let der = files::own_certificate(tls)?;
    Certificate::read(&der)
}

impl Certificate {
    /// `None`: it is of a form that is not known here.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (whole, _) = element(der, SEQUENCE)?;
        let (mut tbs, _) = element(whole, SEQUENCE)?;
        if let Some((_, rest)) = element(tbs, VERSION) {
            tbs = rest;
        }
        let (_serial, tbs) = any(tbs)?;
        let (_algorithm, tbs) = any(tbs)?;
        let (_issuer, tbs) = any(tbs)?;
        let (validity, tbs) = element(tbs, SEQUENCE)?;
        let (subject, tbs) = element(tbs, SEQUENCE)?;
        let (_key, mut rest) = any(tbs)?;
        let (from, validity) = any(validity)?;
        let (to, _) = any(validity)?;
        let mut names = Vec::new();
        while let Some(((tag, content), more)) = any(rest) {
            if tag == EXTENSIONS {
                names = alternative_names(content).unwrap_or_default();
            }
            rest = more;
        }
        if names.is_empty() {
            names.extend(common_name(subject));
        }
        Some(Self { names, not_before: seconds(from)?, not_after: seconds(to)? })
    }
}

/// `a.test, 10.0.0.1, from 2026-01-01T00:00:00Z to 2027-01-01T00:00:00Z`
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        let date = |seconds| Utc(Duration::from_secs(seconds)).to_string();
        let (names, from, to) =
            (if shown.is_empty() { "no name" } else { &shown }, date(self.not_before), date(self.not_after));
        write!(f, "{names}, from {from} to {to}")
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERAL_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// subjectAltName, 2.5.29.17.
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 0x11];
/// commonName, 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

type Element<'a> = (u8, &'a [u8]);

/// The next element, tag and content, and what follows it.
fn any(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The length's own length; more than three bytes are no certificate.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(((tag, content), rest))
}

/// The content of the next element, if it has this tag, and what follows it.
fn element(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let ((tag, content), rest) = any(der)?;
    (tag == wanted).then_some((content, rest))
}

fn alternative_names(extensions: &[u8]) -> Option<Vec<String>> {
    let (mut list, _) = element(extensions, SEQUENCE)?;
    while !list.is_empty() {
        let (extension, rest) = element(list, SEQUENCE)?;
        list = rest;
        let (id, value) = element(extension, OBJECT_ID)?;
        if id != ALTERNATIVE_NAMES {
            continue;
        }
        // A flag may stand before it: critical.
        let value = element(value, OCTETS).or_else(|| element(any(value)?.1, OCTETS))?.0;
        let (mut list, _) = element(value, SEQUENCE)?;
        let mut names = Vec::new();
        while let Some(((tag, content), rest)) = any(list) {
            names.extend(match (tag, content) {
                (0x82, name) => Some(plain(name)),
                (0x87, &[a, b, c, d]) => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
                (0x87, address) => <[u8; 16]>::try_from(address).ok().map(|a| std::net::Ipv6Addr::from(a).to_string()),
                _ => None,
            });
            list = rest;
        }
        return Some(names);
    }
    None
}

fn common_name(mut subject: &[u8]) -> Option<String> {
    while !subject.is_empty() {
        let (set, rest) = element(subject, SET)?;
        subject = rest;
        let (pair, _) = element(set, SEQUENCE)?;
        let (id, value) = element(pair, OBJECT_ID)?;
        if id == COMMON_NAME {
            return any(value).map(|((_, text), _)| plain(text));
        }
    }
    None
}

/// What a peer calls itself, without what could make lines of its own.
fn plain(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(255).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` as seconds since 1970; before that, 0.
fn seconds((tag, text): Element<'_>) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, at) = match (tag, text.len()) {
        (UTC_TIME, 12) => (number(0, 2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        (GENERAL_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |index: usize| number(at + 2 * index, at + 2 * index + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
    // Days since 1970 in the Gregorian calendar, years beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok().or(Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made(names: &[&str], from: (i32, u8, u8), to: (i32, u8, u8)) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_dates_are_read() {
        let der = made(&["a.test", "10.0.0.1", "::1"], (2024, 2, 29), (2077, 12, 31));
        let read = Certificate::read(&der).unwrap();
        assert_eq!(read.names, ["a.test", "10.0.0.1", "::1"]);
        assert_eq!((read.not_before, read.not_after), (1_709_164_800, 3_408_134_400));
        let shown = read.to_string();
        assert!(shown.starts_with("a.test, 10.0.0.1, ::1, from 2024-02-29T00:00:00"), "{shown}");
        let bare = made(&[], (1950, 1, 1), (1971, 1, 1));
        let read = Certificate::read(&bare).unwrap();
        assert_eq!((read.not_before, read.not_after), (0, 31_536_000));
        assert_eq!(read.names.len(), 1, "the common name: {:?}", read.names);
    }

    #[test]
    fn what_is_no_certificate_is_none_wherever_it_breaks() {
        let whole = made(&["a.test"], (2024, 1, 1), (2034, 1, 1));
        for end in 0..whole.len() {
            assert_eq!(Certificate::read(&whole[..end]), None, "{end}");
        }
        for place in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = whole.clone();
                bad[place] ^= flip;
                let _ = Certificate::read(&bad);
            }
        }
    }
}
