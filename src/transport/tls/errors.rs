//! What went wrong with TLS, and what can be done about it.

use super::Own;
use crate::{logging::utc::Utc, transport::Failure};
use link::LossReason;
use rustls::{AlertDescription as Alert, CertificateError, Error};
use std::{io, time::Duration};

/// How many names of a certificate are told.
const NAMES_MAX: usize = 4;

/// What TLS found wrong. `own` is what was shown.
pub(in crate::transport) fn failure(error: &Error, own: Option<Own>) -> Failure {
    let text = match error {
        Error::InvalidCertificate(error) => certificate_text(error),
        Error::InvalidMessage(_) => {
            "it does not answer in TLS: it speaks plain TCP (then leave out the token and tls.*), or is no master".to_owned()
        }
        Error::AlertReceived(Alert::NoApplicationProtocol) => return not_http2(),
        Error::AlertReceived(Alert::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!("the master does not speak TLS 1.3 as this agent does ({error})")
        }
        Error::AlertReceived(Alert::CertificateRequired) => {
            "the master wants a certificate of this agent: set tls.cert_file and tls.key_file, or give it a token to join with".to_owned()
        }
        Error::AlertReceived(alert) => match (refusal(*alert), own) {
            (Some(_), Some(own)) if *alert == Alert::CertificateExpired => own.refused(),
            (Some(why), _) => format!(
                "the master refuses this agent's certificate ({why}): see tls.cert_file, or have it join again by a new \
                 token"
            ),
            (None, _) => format!("the master ended TLS ({alert:?}): its log may say why"),
        },
        other => other.to_string(),
    };
    Failure::new(LossReason::Tls, text)
}

/// Why a handshake failed.
pub(super) fn of_handshake(error: &io::Error) -> Failure {
    let failure = Failure::of(error);
    match failure.reason {
        LossReason::StreamClosed => {
            Failure::new(LossReason::Tls, "it closed the connection in the TLS handshake (does it speak TLS?)")
        }
        // Of what cuts connections a peer without TLS is only one.
        LossReason::ConnectionReset => {
            Failure::new(failure.reason, format!("{} in the TLS handshake (does it speak TLS?)", failure.detail))
        }
        _ => failure,
    }
}

pub(super) fn not_http2() -> Failure {
    Failure::new(LossReason::Tls, "it speaks TLS, but not HTTP/2 (is this a Sloth Runner master?)")
}

/// Whether the first bytes from a peer are a record of TLS, an alert or a handshake: in HTTP/2 they would begin a frame
/// of more than a mebibyte.
pub(in crate::transport) fn is_a_record(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// A master that answers in TLS what was not asked in TLS.
pub(in crate::transport) fn spoken_in_the_clear() -> Failure {
    let text = "the master speaks TLS, and this agent is not told to: set tls.ca_file, give it a token to join with, or set tls.enabled to true";
    Failure::new(LossReason::Tls, text)
}

fn refusal(alert: Alert) -> Option<&'static str> {
    Some(match alert {
        Alert::UnknownCA => "its CA is not one that the master trusts",
        Alert::CertificateExpired => "it has expired or is not valid yet",
        Alert::CertificateRevoked => "it is revoked",
        Alert::BadCertificate | Alert::UnsupportedCertificate => "it is not of the form that the master wants",
        Alert::AccessDenied => "it has no right to this",
        // Where its CA has the name of the master's, but another key.
        Alert::DecryptError => "it is not signed by the master's CA",
        Alert::CertificateUnknown => "the master does not say why",
        _ => return None,
    })
}

fn certificate_text(error: &CertificateError) -> String {
    use CertificateError as Kind;
    match error {
        // The second where the issuers have one name.
        Kind::UnknownIssuer | Kind::BadSignature => {
            "the master's certificate is of an unknown CA: see tls.ca_file".to_owned()
        }
        Kind::ExpiredContext { time, not_after } => format!(
            "the master's certificate has expired (at {}; this machine's clock says {}): renew it, or set the clock",
            Seconds(not_after.as_secs()),
            Seconds(time.as_secs())
        ),
        Kind::NotValidYetContext { time, not_before } => format!(
            "the master's certificate is not valid yet (from {} on; this machine's clock says {}): set the clock, if \
             that is wrong",
            Seconds(not_before.as_secs()),
            Seconds(time.as_secs())
        ),
        Kind::NotValidForNameContext { expected, presented } => format!(
            "the master's certificate is for another name: {} was looked for, it has {}: see tls.server_name",
            expected.to_str(),
            names(presented)
        ),
        // What the pin says.
        Kind::ApplicationVerificationFailure => "the master shows another CA than the one that the token names: it is \
             not the master that made the token, or somebody stands between (nothing was told it): check the address, \
             or get a token of this master"
            .to_owned(),
        other => format!("the master's certificate cannot be used: {other}"),
    }
}

/// Names as webpki shows them, `DnsName("a.test")`, without its wrapping.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    };
    let shown: Vec<_> = presented.iter().take(NAMES_MAX).map(bare).collect();
    match presented.len().saturating_sub(NAMES_MAX) {
        0 if shown.is_empty() => "none".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Since 1970; shows itself as `2026-11-23T10:00:00Z`.
pub struct Seconds(pub u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = Utc(Duration::from_secs(self.0)).to_string();
        f.write_str(shown.split('.').next().unwrap_or(&shown))?;
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_people_write_them_and_not_without_end() {
        let shown = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&shown(&[])), "none");
        assert_eq!(names(&shown(&["DnsName(\"a.test\")", "IpAddress(10.0.0.1)"])), "a.test, 10.0.0.1");
        assert_eq!(names(&shown(&["DirectoryName"; 6])), [&["DirectoryName"; 4].join(", "), " and 2 more"].concat());
    }

    #[test]
    fn a_record_of_tls_is_told_from_a_frame() {
        assert!(is_a_record(&[0x15, 3, 3, 0, 2, 2, 10]) && is_a_record(&[0x16, 3]));
        // The settings with which HTTP/2 begins; nothing yet; an answer of HTTP/1.
        for bytes in [&[0, 0, 0x12, 4, 0, 0, 0, 0, 0][..], &[], b"HTTP/1.1 400"] {
            assert!(!is_a_record(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn what_a_peer_without_tls_does_in_a_handshake_is_told() {
        let of = |kind: io::ErrorKind| of_handshake(&kind.into());
        let closed = of(io::ErrorKind::UnexpectedEof);
        assert_eq!(closed.reason, LossReason::Tls);
        assert!(closed.detail.contains("does it speak TLS?"), "{}", closed.detail);
        let reset = of(io::ErrorKind::ConnectionReset);
        assert_eq!(reset.reason, LossReason::ConnectionReset);
        assert!(reset.detail.ends_with("in the TLS handshake (does it speak TLS?)"), "{}", reset.detail);
    }
}
