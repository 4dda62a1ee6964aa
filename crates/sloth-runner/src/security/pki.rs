//! The authority of one master: it makes the master's certificate, the agents', and those of people.

use super::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sloth_agent::{joining::agent_uri, token::sha256, transport::tls::not_before};
use std::{fmt, path::Path, time::Duration};
use time::OffsetDateTime;

/// The same for every authority: its certificate is found by fingerprint, never by name.
/// By it an authority that [`make`] made is known.
pub const CA_NAME: &str = "Sloth Runner CA";

const DAY: Duration = Duration::from_secs(86_400);
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Replaced by hand, before: see docs/security.md.
const SERVER_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of those who judge may be behind by so much.
const BACKDATED: Duration = DAY;

/// What `master init` makes, in PEM.
pub struct Made {
    pub ca: String,
    pub ca_key: String,
    pub certificate: String,
    pub key: String,
    pub fingerprint: [u8; 32],
}

/// Makes an authority, and a certificate of it for a master with these names and addresses.
///
/// # Errors
/// A name that no certificate can have.
pub fn make(names: &[String], now_unix_ms: u64) -> Result<Made, rcgen::Error> {
    let now = Duration::from_millis(now_unix_ms);
    let ca_key = KeyPair::generate()?;
    let mut params = ca_params();
    (params.not_before, params.not_after) = (moment(now.saturating_sub(BACKDATED)), moment(now + CA_LIFE));
    let ca = params.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca_params(), &ca_key);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "Sloth Runner master");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (moment(now.saturating_sub(BACKDATED)), moment(now + SERVER_LIFE));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Made {
        fingerprint: sha256(ca.der()),
        ca: ca.pem(),
        ca_key: ca_key.serialize_pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn moment(since_1970: Duration) -> OffsetDateTime {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// An authority that admits agents.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Of its own certificate.
    pub fingerprint: [u8; 32],
    not_before: Duration,
    life: Duration,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({:02x?})", &self.fingerprint[..4])
    }
}

impl Authority {
    /// Reads what [`make`] made. Blocks.
    ///
    /// # Errors
    /// For people, with the key of the setting.
    pub fn load(ca_file: &Path, key_file: &Path, life: Duration) -> Result<Self, String> {
        let of_ca = |what: &str| format!("tls.ca_file is {}, {what}", ca_file.display());
        let of_key = |what: &str| format!("tls.ca_key_file is {}, {what}", key_file.display());
        let ca = CertificateDer::from_pem_slice(&super::tls::read_public(ca_file).map_err(|why| of_ca(&why))?);
        let ca = ca.map_err(|_| of_ca("which holds no certificate in PEM"))?;
        let key = super::tls::read_secret(key_file).map_err(|why| of_key(&why))?;
        let key = std::str::from_utf8(&key).ok().and_then(|text| KeyPair::from_pem(text).ok());
        let key = key.ok_or_else(|| of_key("which holds no private key in PEM that can sign"))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|error| of_ca(&format!("which holds no certificate of a CA ({error})")))?;
        let anchor = &roots.roots[0];
        if !is_ours(&ca) {
            return Err(of_ca(
                "which `sloth-runner master init` did not make, and only such a CA can admit agents: remove \
                 tls.ca_key_file, and name this one in tls.client_ca_file",
            ));
        }
        if !has(&anchor.subject_public_key_info, key.public_key_raw()) {
            return Err(of_key("which is not the key of tls.ca_file: name the right one"));
        }
        let not_before = not_before(&ca).unwrap_or_default();
        Ok(Self { issuer: Issuer::new(ca_params(), key), fingerprint: sha256(&ca), not_before, life })
    }

    /// When it was made, or a day earlier: milliseconds since 1970.
    pub fn not_before_ms(&self) -> u64 {
        u64::try_from(self.not_before.as_millis()).unwrap_or(u64::MAX)
    }

    /// How long the certificates are good that it makes, milliseconds.
    pub fn life_ms(&self) -> u64 {
        u64::try_from(self.life.as_millis()).unwrap_or(u64::MAX)
    }

    /// A certificate (DER) for an agent and its public key, a point of P-256; and until when it is good, Unix
    /// milliseconds. It is good from the beginning of the authority on: clocks of nodes are often behind.
    ///
    /// # Errors
    /// For people.
    pub fn issue(&self, agent_id: &[u8; 16], public_key: &[u8], now_unix_ms: u64) -> Result<(Vec<u8>, u64), String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Sloth Runner agent");
        let uri = agent_uri(agent_id).try_into().map_err(|error: rcgen::Error| error.to_string())?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        // A clock from before the authority was made is wrong, and would make one that was never good.
        let until = Duration::from_millis(now_unix_ms).max(self.not_before) + self.life;
        (params.not_before, params.not_after) = (moment(self.not_before), moment(until));
        let certificate = params.signed_by(&Point(public_key), &self.issuer).map_err(|error| error.to_string())?;
        Ok((certificate.der().to_vec(), until.as_secs() * 1000))
    }
}

/// Whether this is the certificate of an authority that [`make`] made.
pub fn is_ours(ca: &CertificateDer<'_>) -> bool {
    webpki::anchor_from_trusted_cert(ca).is_ok_and(|anchor| has(&anchor.subject, CA_NAME.as_bytes()))
}

impl Authority {
    /// A certificate of a person, and its key, both in PEM; good for so long.
    ///
    /// # Errors
    /// For people.
    pub fn issue_to(
        &self,
        role: Role,
        name: &str,
        life: Duration,
        now_unix_ms: u64,
    ) -> Result<(String, String), String> {
        let explained = |error: rcgen::Error| error.to_string();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Sloth Runner {} {name}", role.word()));
        params.subject_alt_names = vec![SanType::URI(uri_of(role, name).try_into().map_err(explained)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let now = Duration::from_millis(now_unix_ms);
        (params.not_before, params.not_after) = (moment(now.saturating_sub(BACKDATED)), moment(now + life));
        let key = KeyPair::generate().map_err(explained)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(explained)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// How a certificate names a person, as a URI.
fn uri_of(role: Role, name: &str) -> String {
    format!("sloth:{}:{name}", role.word())
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
