//! Which CA may speak for whom. An authority that `master init` has made, and those of `tls.client_ca_file`, speak for
//! agents, operators and viewers. Another CA in `tls.ca_file` is there so that agents find it: people are not its
//! business, whatever it has signed.

use super::{pki, tls::Subject};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use sloth_agent::transport::tls::{Certificate, not_before};
use std::{sync::Arc, time::Duration};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

#[derive(Debug)]
pub struct Verifier {
    /// Authorities that `master init` has made.
    ours: Vec<TrustAnchor<'static>>,
    /// Agents have no other CAs.
    is_only_ours: bool,
    algorithms: WebPkiSupportedAlgorithms,
    agents: Arc<dyn ClientCertVerifier>,
    /// None: nobody comes by a certificate.
    people: Option<Arc<dyn ClientCertVerifier>>,
    /// When the newest authority of ours was made. A clock that is behind it is wrong, and agents' certificates are good
    /// from then on.
    earliest: Duration,
}

/// Who lets clients in: `own` is `tls.ca_file`, `clients` is `tls.client_ca_file`, and what `lists` have revoked is not
/// good. None: there is no CA.
///
/// # Errors
/// What is no certificate of a CA, or no list.
pub fn verifier(
    own: &[CertificateDer<'static>],
    clients: &[CertificateDer<'static>],
    lists: Vec<CertificateRevocationListDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<Verifier>>, String> {
    let (mut agents, mut people) = (RootCertStore::empty(), RootCertStore::empty());
    for ca in own.iter().chain(clients) {
        agents.add(ca.clone()).map_err(|error| error.to_string())?;
    }
    for ca in own.iter().filter(|ca| pki::is_ours(ca)).chain(clients) {
        people.add(ca.clone()).map_err(|error| error.to_string())?;
    }
    let build = |roots: RootCertStore| {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        // Of a CA without a list nothing is revoked. A list that is out of date is better than none.
        let builder = builder.with_crls(lists.clone()).only_check_end_entity_revocation();
        let builder = builder.allow_unknown_revocation_status().allow_unauthenticated();
        builder.build().map_err(|error| error.to_string())
    };
    if agents.is_empty() {
        return Ok(None);
    }
    let people = if people.is_empty() { None } else { Some(build(people)?) };
    let made = || own.iter().filter(|ca| pki::is_ours(ca));
    let earliest = made().filter_map(|ca| not_before(ca)).max().unwrap_or_default();
    let ours: Vec<_> = made().filter_map(|ca| Some(anchor_from_trusted_cert(ca).ok()?.to_owned())).collect();
    let is_only_ours = clients.is_empty() && ours.len() == own.len();
    let algorithms = provider.signature_verification_algorithms;
    Ok(Some(Arc::new(Verifier { ours, is_only_ours, algorithms, agents: build(agents)?, people, earliest })))
}

/// Extended key usage clientAuth.
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

impl Verifier {
    /// Whether an authority of ours has made this certificate of an agent, which was let in.
    pub fn made_here(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        if self.is_only_ours {
            return true;
        }
        let Ok(parsed) = EndEntityCert::try_from(certificate) else { return false };
        let usage = KeyUsage::required(CLIENT_AUTH);
        let (algorithms, now) = (self.algorithms.all, self.not_before(now));
        parsed.verify_for_usage(algorithms, &self.ours, &[], now, usage, None, None).is_ok()
    }

    /// Whether a list says that a certificate is revoked, which was let in. As of when it was good: whoever is revoked is
    /// not let off because it has ended, and one that has only ended is not revoked.
    pub fn revokes(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
        // Of the whole chain: one that has ended is found before a list is looked at.
        let chain = std::iter::once(certificate).chain(intermediates);
        let (from, to) = chain
            .filter_map(|one| Certificate::read(one))
            .fold((0, u64::MAX), |(from, to), read| (read.not_before.max(from), read.not_after.min(to)));
        let then = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(from).min(to)));
        let judged = self.agents.verify_client_cert(certificate, intermediates, then);
        matches!(judged, Err(Error::InvalidCertificate(CertificateError::Revoked)))
    }

    fn not_before(&self, now: UnixTime) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()).max(self.earliest))
    }
}

/// Says so, and does not leave it out: a certificate that was made for something else is not to be shown here.
fn is_for_clients(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    // Without any CA, for who has made it is judged elsewhere: what it is for is looked at first.
    match parsed.verify_for_usage(&[], &[], &[], now, KeyUsage::required(CLIENT_AUTH), None, None) {
        Err(webpki::Error::UnknownIssuer) => Ok(()),
        _ => Err(Error::InvalidCertificate(CertificateError::InvalidPurpose)),
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.agents.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = match Subject::of(certificate) {
            Subject::Operator(_) | Subject::Viewer(_) => {
                self.people.as_ref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?
            }
            Subject::Agent(_) | Subject::Nobody => &self.agents,
        };
        let now = self.not_before(now);
        let verified = verifier.verify_client_cert(certificate, intermediates, now)?;
        is_for_clients(certificate, now)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.agents.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.agents.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.agents.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
    };
    use rustls::crypto::ring::default_provider;
    use rustls_pki_types::pem::PemObject;
    use time::OffsetDateTime;

    struct Ca {
        der: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    /// Any CA, or with `ours` one as `master init` makes it.
    fn ca(ours: bool) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = if ours { pki::CA_NAME } else { "Some company" };
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let der = params.self_signed(&key).unwrap().der().clone();
        Ca { der, issuer: Issuer::new(params, key) }
    }

    const LADY: &str = "sloth:agent:01010101010101010101010101010101";
    const EVA: &str = "sloth:operator:eva";
    const OTTO: &str = "sloth:viewer:otto";

    impl Ca {
        fn sign(&self, uri: &str, serial: u64) -> CertificateDer<'static> {
            self.sign_for(uri, serial, &[ExtendedKeyUsagePurpose::ClientAuth], 2090)
        }

        fn sign_for(
            &self,
            uri: &str,
            serial: u64,
            usages: &[ExtendedKeyUsagePurpose],
            until: i32,
        ) -> CertificateDer<'static> {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
            params.extended_key_usages = usages.to_vec();
            params.serial_number = Some(SerialNumber::from(serial));
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
            params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
        }

        fn revokes(&self, serial: u64) -> CertificateRevocationListDer<'static> {
            let at = |days| OffsetDateTime::UNIX_EPOCH + time::Duration::days(days);
            let revoked = RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: at(1),
                reason_code: None,
                invalidity_date: None,
            };
            let params = CertificateRevocationListParams {
                this_update: at(1),
                // Out of date for long.
                next_update: at(2),
                crl_number: SerialNumber::from(1_u64),
                issuing_distribution_point: None,
                revoked_certs: vec![revoked],
                key_identifier_method: KeyIdMethod::Sha256,
            };
            params.signed_by(&self.issuer).unwrap().der().clone()
        }
    }

    /// Which of an agent, an operator and a viewer it lets in that `by` has signed.
    fn lets_in(own: &[&Ca], clients: &[&Ca], by: &Ca) -> [bool; 3] {
        let ders = |cas: &[&Ca]| cas.iter().map(|ca| ca.der.clone()).collect::<Vec<_>>();
        let verifier = verifier(&ders(own), &ders(clients), Vec::new(), &Arc::new(default_provider()));
        let verifier = verifier.unwrap().expect("there is a CA");
        [LADY, EVA, OTTO].map(|uri| verifier.verify_client_cert(&by.sign(uri, 1), &[], UnixTime::now()).is_ok())
    }

    #[test]
    fn a_ca_speaks_for_people_if_it_is_an_authority_of_ours_or_named_for_clients() {
        let (ours, company, stranger) = (ca(true), ca(false), ca(false));
        assert_eq!(lets_in(&[&ours], &[], &ours), [true; 3]);
        assert_eq!(lets_in(&[&company], &[], &company), [true, false, false]);
        assert_eq!(lets_in(&[&company], &[&company], &company), [true; 3]);
        assert_eq!(lets_in(&[&ours], &[&company], &company), [true; 3]);
        assert_eq!(lets_in(&[&ours], &[&company], &stranger), [false; 3]);
        let none = verifier(&[], &[], Vec::new(), &Arc::new(default_provider())).unwrap();
        assert!(none.is_none());
    }

    #[test]
    fn a_clock_from_before_the_authority_was_made_lets_its_agents_in_and_one_from_after_their_end_does_not() {
        let made = pki::make(&["localhost".to_owned()], 1_700_000_000_000).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (ca_file, key_file) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        std::fs::write(&ca_file, &made.ca).unwrap();
        std::fs::write(&key_file, &made.ca_key).unwrap();
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let authority = pki::Authority::load(&ca_file, &key_file, Duration::from_secs(1_000)).unwrap();
        let key = KeyPair::generate().unwrap();
        let (der, expires_ms) = authority.issue(&[1; 16], key.public_key_raw(), 1_700_000_000_000).unwrap();
        assert_eq!(expires_ms, 1_700_001_000_000);
        let ca = CertificateDer::from_pem_slice(made.ca.as_bytes()).unwrap();
        let verifier = verifier(&[ca], &[], Vec::new(), &Arc::new(default_provider())).unwrap().unwrap();
        let good = |seconds| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verifier.verify_client_cert(&der.clone().into(), &[], now).is_ok()
        };
        assert_eq!([0, 1_700_000_999, 1_700_001_001].map(good), [true, true, false]);
    }

    #[test]
    fn what_a_list_revokes_is_refused_and_nothing_else() {
        let (ours, company) = (ca(true), ca(false));
        let lists = vec![company.revokes(7)];
        let (own, clients) = ([ours.der.clone()], [company.der.clone()]);
        let verifier = verifier(&own, &clients, lists, &Arc::new(default_provider())).unwrap().unwrap();
        let check = |certificate: CertificateDer<'_>| verifier.verify_client_cert(&certificate, &[], UnixTime::now());
        let revoked = check(company.sign(EVA, 7)).unwrap_err();
        assert_eq!(revoked, Error::InvalidCertificate(CertificateError::Revoked));
        assert!(check(company.sign(EVA, 8)).is_ok() && check(ours.sign(EVA, 7)).is_ok());
    }

    #[test]
    fn who_is_revoked_is_out_also_once_he_has_expired_and_who_has_only_expired_is_not_revoked() {
        let (ours, company) = (ca(true), ca(false));
        let (own, clients) = ([ours.der.clone()], [company.der.clone()]);
        let lists = vec![company.revokes(7)];
        let verifier = verifier(&own, &clients, lists, &Arc::new(default_provider())).unwrap().unwrap();
        let client = [ExtendedKeyUsagePurpose::ClientAuth];
        let revokes =
            |by: &Ca, serial, until| verifier.revokes(&by.sign_for(LADY, serial, &client, until), &[], UnixTime::now());
        assert_eq!([revokes(&company, 7, 2090), revokes(&company, 7, 2021)], [true; 2]);
        assert_eq!([revokes(&company, 8, 2090), revokes(&company, 8, 2021), revokes(&ours, 7, 2090)], [false; 3]);
    }

    #[test]
    fn what_the_masters_own_authority_has_made_is_told_from_what_others_have() {
        let (ours, company) = (ca(true), ca(false));
        let made_here = |own: &[&Ca], clients: &[&Ca], by: &Ca| {
            let ders = |cas: &[&Ca]| cas.iter().map(|ca| ca.der.clone()).collect::<Vec<_>>();
            let verifier = verifier(&ders(own), &ders(clients), Vec::new(), &Arc::new(default_provider()));
            verifier.unwrap().unwrap().made_here(&by.sign(LADY, 1), UnixTime::now())
        };
        assert!(made_here(&[&ours], &[], &ours) && made_here(&[&ours], &[&company], &ours));
        assert!(!made_here(&[&ours], &[&company], &company) && !made_here(&[&ours, &company], &[], &company));
        // Of the same name, with another key.
        assert!(!made_here(&[&ours], &[&company], &ca(true)));
    }

    #[test]
    fn a_certificate_that_does_not_say_that_it_is_for_clients_is_refused() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let (ours, company) = (ca(true), ca(false));
        let (own, clients) = ([ours.der.clone()], [company.der.clone()]);
        let verifier = verifier(&own, &clients, Vec::new(), &Arc::new(default_provider())).unwrap().unwrap();
        for uri in [LADY, EVA, OTTO] {
            let is_good = |usages: &[ExtendedKeyUsagePurpose]| {
                let certificate = company.sign_for(uri, 1, usages, 2090);
                verifier.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok()
            };
            assert!(is_good(&[ClientAuth]) && is_good(&[ServerAuth, ClientAuth]));
            assert!(!is_good(&[]) && !is_good(&[ServerAuth]) && !is_good(&[ExtendedKeyUsagePurpose::Any]));
        }
    }
}
