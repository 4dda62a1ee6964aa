//! Trust in one CA, known by its fingerprint: that of the token, or that of the master that admitted this agent.

use super::time::latest_of;
use crate::token::sha256;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Nothing is sent before it has found, in what the master shows, the CA with this fingerprint, and a certificate for
/// the master's name that this CA has signed.
#[derive(Debug)]
pub(super) struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
    /// The CA, once seen.
    ca: Arc<OnceLock<CertificateDer<'static>>>,
}

impl Pinned {
    pub fn new(
        fingerprint: [u8; 32],
        provider: Arc<CryptoProvider>,
        ca: Arc<OnceLock<CertificateDer<'static>>>,
    ) -> Self {
        Self { fingerprint, provider, ca }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = intermediates.iter().find(|shown| sha256(shown) == self.fingerprint);
        // Its text is in `errors`, where all of them are.
        let ca = shown.ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        // A box without a battery begins in 1970; it is at least as late as the CA is old.
        let now = latest_of(now, not_before(ca).unwrap_or(Duration::ZERO));
        let verified = verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let _ = self.ca.set(ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// From when on a certificate is valid, since 1970. Reads no more of it than the way there; none for what is no
/// certificate. Only for one whose fingerprint is known.
pub fn not_before(certificate: &[u8]) -> Option<Duration> {
    const SEQUENCE: u8 = 0x30;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // Version, serial number, algorithm, issuer; the version may be missing.
    let mut sequences = 0;
    let validity = loop {
        let (tag, content, after) = element(rest)?;
        sequences += usize::from(tag == SEQUENCE);
        if sequences == 3 {
            break content;
        }
        rest = after;
    };
    let (tag, time, _) = element(validity)?;
    let digits = |from: usize, len: usize| std::str::from_utf8(time.get(from..from + len)?).ok()?.parse::<u64>().ok();
    let (year, at) = match tag {
        // Two digits of the year: 50 to 99 are of the last century.
        0x17 => (digits(0, 2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        0x18 => (digits(0, 4)?, 4),
        _ => return None,
    };
    let [month, day, hour, minute, second] =
        [0, 2, 4, 6, 8].map(|offset| digits(at + offset, 2)).map(|part| part.unwrap_or(u64::MAX));
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute.min(59) * 60 + second.min(59);
    Some(Duration::from_secs(seconds))
}

/// Tag, content and what comes after of the first element of DER.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (len, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(len)?;
    Some((tag, content, after))
}

/// Since 1970, of a day of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // A year that begins in March ends with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    year * 365 + leaps(year) + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
    };
    use rustls::crypto::ring::default_provider;

    fn certificate(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(["master.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(year, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_beginning_of_a_certificate_is_found() {
        for (year, month, day, seconds) in [
            (1970, 1, 1, 0),
            (1999, 12, 31, 946_598_400),
            (2024, 2, 29, 1_709_164_800),
            (2026, 11, 24, 1_795_478_400),
            (2049, 12, 31, 2_524_521_600),
            (2100, 3, 1, 4_107_542_400),
        ] {
            let der = certificate(year, month, day);
            assert_eq!(not_before(&der), Some(Duration::from_secs(seconds)), "{year}-{month}-{day}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_beginning() {
        let der = certificate(2026, 1, 1);
        for end in 0..der.len() {
            assert_eq!(not_before(&der[..end]), None, "{end}");
        }
        for at in 0..der.len().min(200) {
            let mut other = der.clone();
            other[at] ^= 0x85;
            let _ = not_before(&other); // must end
        }
        assert_eq!(not_before(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
    }

    /// A CA that began in 2026, and a certificate of it for master.test and this use.
    fn issued(usage: ExtendedKeyUsagePurpose) -> [CertificateDer<'static>; 2] {
        let years = |params: &mut CertificateParams| {
            (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
        };
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.distinguished_name.push(DnType::CommonName, "CA");
        years(&mut ca);
        let ca_key = KeyPair::generate().unwrap();
        let ca_der = ca.self_signed(&ca_key).unwrap().der().clone();
        let mut params = CertificateParams::new(["master.test".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        years(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        [certificate.der().clone(), ca_der]
    }

    /// What comes of this certificate and the rest of the chain, where `ca` is the one to trust.
    fn verify(
        ca: &CertificateDer<'_>,
        shown: [&CertificateDer<'_>; 2],
        name: &str,
        now: u64,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = Pinned::new(sha256(ca), Arc::new(default_provider()), Arc::default());
        let rest = [shown[1].clone().into_owned()];
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        pinned.verify_server_cert(shown[0], &rest, &ServerName::try_from(name.to_owned()).unwrap(), &[], now)
    }

    const IN_2027: u64 = 1_800_000_000;

    #[test]
    fn only_the_ca_of_the_token_is_trusted() {
        let [master, ca] = issued(ExtendedKeyUsagePurpose::ServerAuth);
        let [others, other_ca] = issued(ExtendedKeyUsagePurpose::ServerAuth);
        assert!(verify(&ca, [&master, &ca], "master.test", IN_2027).is_ok());
        let unknown = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        assert_eq!(verify(&ca, [&others, &other_ca], "master.test", IN_2027).err(), Some(unknown));
        // Anybody can show the CA's certificate: it must have signed the other one, too.
        assert!(verify(&ca, [&others, &ca], "master.test", IN_2027).is_err());
        assert!(verify(&ca, [&master, &ca], "other.test", IN_2027).is_err());
    }

    #[test]
    fn an_agent_cannot_stand_in_for_the_master() {
        let [agent, ca] = issued(ExtendedKeyUsagePurpose::ClientAuth);
        assert!(verify(&ca, [&agent, &ca], "master.test", IN_2027).is_err());
    }

    #[test]
    fn a_clock_at_1970_is_taken_for_the_beginning_of_the_ca_and_one_at_2100_is_told() {
        let [master, ca] = issued(ExtendedKeyUsagePurpose::ServerAuth);
        assert!(verify(&ca, [&master, &ca], "master.test", 0).is_ok());
        let late = verify(&ca, [&master, &ca], "master.test", 4_102_444_800).err();
        assert!(matches!(late, Some(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))), "{late:?}");
    }
}
