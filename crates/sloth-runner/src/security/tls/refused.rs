//! Certificates that the handshake refuses: TLS itself says nothing of them but that it failed. Each leaves a line in the
//! log and in the audit file, and of many some.

use super::{Identity, Subject};
use crate::{access::Caller, audit::Audit, bucket::Lines, clock};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use sloth_agent::{state::hex, token::sha256};
use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// The call, as the audit file names it.
const CALL: &str = "TLS handshake";

/// Of what a certificate says of itself: characters, and bytes of its number.
const NAME_MAX: usize = 80;
const SERIAL_MAX: usize = 20;

tokio::task_local! {
    /// What the handshake of this task has refused.
    static REFUSED: RefCell<Option<Refused>>;
}

/// A certificate that was not taken.
#[derive(Debug)]
pub struct Refused {
    why: String,
    /// Whose it is, where a CA of this master's has made it: it was good once. Of all others nobody knows who made them.
    whose: Option<Identity>,
}

impl Refused {
    fn of(certificate: &CertificateDer<'_>, error: &Error, reason: &str) -> Self {
        // Whether one is revoked is only asked once its signature is known to be good.
        let genuine = matches!(error, Error::InvalidCertificate(CertificateError::Revoked));
        let whose = genuine.then(|| Identity {
            subject: Subject::of(certificate),
            fingerprint: sha256(certificate),
            expires_ms: 0,
            chain: Vec::new(),
            made_here: false,
        });
        Self { why: format!("a certificate {reason}{}", claimed(certificate)), whose }
    }
}

/// Runs a handshake. With what it refused, if it did.
pub async fn watching<R>(handshake: impl Future<Output = R>) -> (R, Option<Refused>) {
    REFUSED
        .scope(RefCell::new(None), async {
            let result = handshake.await;
            (result, REFUSED.with(|refused| refused.borrow_mut().take()))
        })
        .await
}

/// Where it is told.
pub struct Told {
    audit: Option<Arc<Audit>>,
    /// Lines of the log: of certificates that were never good here, and of those that were.
    lines: Mutex<[Lines; 2]>,
}

impl Told {
    pub fn new(audit: Option<Arc<Audit>>) -> Self {
        let none = || Lines::of_log(clock::boottime());
        Self { audit, lines: Mutex::new([none(), none()]) }
    }

    pub fn tell(&self, address: SocketAddr, refused: &Refused) {
        let known = usize::from(refused.whose.is_some());
        let written = self.lines.lock().unwrap_or_else(PoisonError::into_inner)[known].written(clock::boottime());
        if let Some(before) = written {
            log::warn!("{CALL} with {address}: {} was refused{before}", refused.why);
        }
        if let Some(audit) = &self.audit {
            let caller = refused.whose.as_ref().map(|identity| Caller::by_certificate(identity, Some(address)));
            audit.refused(caller.as_ref(), Some(address), CALL, &refused.why);
        }
    }
}

/// Judges as another does, and notes for [`watching`] what that refuses.
#[derive(Debug)]
pub struct Witness(pub Arc<dyn ClientCertVerifier>);

impl Witness {
    fn note<R>(
        certificate: &CertificateDer<'_>,
        result: Result<R, Error>,
        reason: impl FnOnce(&Error) -> String,
    ) -> Result<R, Error> {
        result.inspect_err(|error| {
            let refused = Refused::of(certificate, error, &reason(error));
            // Outside of a handshake nobody asks.
            let _ = REFUSED.try_with(|place| place.replace(Some(refused)));
        })
    }
}

impl ClientCertVerifier for Witness {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::note(certificate, self.0.verify_client_cert(certificate, intermediates, now), reason)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::note(certificate, self.0.verify_tls12_signature(message, certificate, signature), without_key)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::note(certificate, self.0.verify_tls13_signature(message, certificate, signature), without_key)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// After "a certificate ".
fn reason(error: &Error) -> String {
    use CertificateError as E;
    let Error::InvalidCertificate(error) = error else { return format!("that cannot be used ({error})") };
    let known = match error {
        E::Expired | E::ExpiredContext { .. } => "that has expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "that is not valid yet",
        E::Revoked => "that its CA has revoked",
        // The other one: of a CA that has only the name of one that is.
        E::UnknownIssuer | E::BadSignature => "of a CA that is not for this here",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "that is not for clients (extended key usage)",
        E::BadEncoding => "that cannot be read",
        error => return format!("that cannot be used ({error})"),
    };
    known.to_owned()
}

/// The same. It is good, and whoever shows it has not its key.
fn without_key(error: &Error) -> String {
    format!("whose key did not sign the handshake ({error})")
}

/// What it says of itself, true or not.
fn claimed(certificate: &CertificateDer<'_>) -> String {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return String::new() };
    let serial = parsed.serial();
    let serial = hex(&serial[..serial.len().min(SERIAL_MAX)]);
    match parsed.valid_uri_names().next() {
        Some(name) => {
            let name: String = name.chars().take(NAME_MAX).collect();
            format!(", for {name:?}, serial {serial},")
        }
        None => format!(", for nobody, serial {serial},"),
    }
}
