use super::*;
use crate::{
    listen::{self, places::Limits},
    security::{pki, testing::files},
};
use rustls::{ClientConfig, RootCertStore};
use std::{fs::Permissions, os::unix::fs::PermissionsExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

#[test]
fn a_certificate_names_one_agent_one_operator_or_nobody() {
    let id = "00112233445566778899aabbccddeeff";
    assert_eq!(Subject::from_uri(&format!("sloth:agent:{id}")), Some(Subject::Agent(fleet::id_from_hex(id).unwrap())));
    assert_eq!(Subject::from_uri("sloth:operator:eva"), Some(Subject::Operator("eva".to_owned())));
    assert_eq!(Subject::from_uri("sloth:viewer:a:b"), Some(Subject::Viewer("a:b".to_owned())));
    for uri in ["sloth:agent:", "sloth:agent:00", "sloth:operator:", "sloth:root:eva", "operator:eva", "sloth:"] {
        assert_eq!(Subject::from_uri(uri), None, "{uri}");
    }
}

pub(super) fn secured(files: TlsFiles) -> (Secured, SocketAddr) {
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (
        Secured::new(
            listen::Incoming::new(listener, usize::MAX, Limits::NONE),
            Some(Arc::new(Acceptor::new(files).unwrap())),
            Duration::from_secs(30),
        ),
        address,
    )
}

async fn client(address: SocketAddr, files: &TlsFiles) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(files.ca_file.as_ref().unwrap()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let (_folder, files) = files();
    let (mut secured, address) = secured(files.clone());
    let mut silent = Vec::new();
    // More than have their handshakes at once.
    for _ in 0..HANDSHAKES_EACH + 50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let (connection, mut client) = tokio::join!(secured.next(), client(address, &files));
    let mut connection = connection.unwrap().unwrap();
    assert_eq!(connection.connect_info().identity, None);
    let exported = client.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
    assert_eq!(connection.connect_info().exported, Some(exported), "both ends know it");
    connection.write_all(b"hello").await.unwrap();
    connection.flush().await.unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let (_folder, files) = files();
    let (mut secured, address) = secured(files);
    let mut silent = TcpStream::connect(address).await.unwrap();
    let accepted = async {
        let mut heard = [0; 16];
        tokio::select! {
            biased;
            _ = secured.next() => panic!("nobody came"),
            read = silent.read(&mut heard) => read.unwrap_or(0),
        }
    };
    // From here on time passes as soon as there is nothing else to do.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    assert_eq!(timeout(HANDSHAKE_TIMEOUT * 10, accepted).await.expect("it is closed"), 0);
    assert!(start.elapsed() >= HANDSHAKE_TIMEOUT);
}

#[test]
fn files_that_cannot_be_used_are_told_with_the_remedy() {
    let (folder, files) = files();
    let problem = |files: TlsFiles| Acceptor::new(files).err().expect("refused");
    let key = folder.path().join("ca.key");
    let said = problem(TlsFiles { key_file: key.clone(), ..files.clone() });
    assert!(said.contains("m.pem, which does not go with tls.key_file"), "{said}");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let said = problem(TlsFiles { key_file: key.clone(), ..files.clone() });
    assert!(said.ends_with(&format!("which others can read (mode 0640): run chmod 600 {}", key.display())), "{said}");
    let said = problem(TlsFiles { cert_file: "/nowhere".into(), ..files.clone() });
    assert_eq!(said, "tls.cert_file is /nowhere, which cannot be read: no such file or directory");
    let ca = files.ca_file.clone().unwrap();
    let said = pki::Authority::load(&ca, &files.key_file, files.agent_life).err().unwrap();
    assert!(said.ends_with("m.key, which is not the key of tls.ca_file: name the right one"), "{said}");
    let said = pki::Authority::load(&files.cert_file, &files.key_file, files.agent_life).err().unwrap();
    assert!(said.contains("which `sloth-runner master init` did not make"), "{said}");
}

/// A CA of somebody's own, and clients with what it has signed.
struct Company {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Company {
    fn new(name: &str) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// Good from the year 2020 on, up to that one.
    fn sign(&self, uri: &str, serial: u64, until: i32, server: bool) -> (CertificateDer<'static>, rcgen::KeyPair) {
        use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType, SerialNumber, date_time_ymd};
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let purpose = if server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![purpose];
        params.serial_number = Some(SerialNumber::from(serial));
        let from = if until > 2100 { until - 1 } else { 2020 };
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }

    fn revokes(&self, serial: u64) -> String {
        use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd};
        let revoked_certs = vec![RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }];
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Shows it whatever the master asks for, and with whatever key.
#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Until the master has closed.
async fn shows(address: SocketAddr, files: &TlsFiles, certificate: CertificateDer<'static>, key: &rcgen::KeyPair) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(files.ca_file.as_ref().unwrap()).unwrap()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let shows = Arc::new(Shows(Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key))));
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(roots);
    let config = builder.with_client_cert_resolver(shows);
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let mut rest = Vec::new();
    let _ = connected.unwrap().read_to_end(&mut rest).await; // an alert says what was wrong
}

#[tokio::test]
async fn certificates_that_are_refused_leave_a_line_each_and_of_many_some() {
    const EVA: &str = "sloth:operator:eva";
    const LADY: &str = "sloth:agent:01010101010101010101010101010101";
    let (folder, mut files) = files();
    let [own, alike, other] = ["A company", "A company", "Another"].map(Company::new);
    for (name, text) in [("own.pem", own.pem.clone()), ("own.crl", own.revokes(7))] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    files.client_ca_file = Some(folder.path().join("own.pem"));
    files.client_crl_file = Some(folder.path().join("own.crl"));
    let audit = folder.path().join("audit.log");
    let acceptor = Acceptor::new(files.clone()).unwrap();
    let acceptor = acceptor.with_audit(Arc::new(Audit::open(&audit, 1 << 20, 2).unwrap()));
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = listen::Incoming::new(listener, usize::MAX, Limits::NONE);
    let mut secured = Secured::new(incoming, Some(Arc::new(acceptor)), Duration::from_secs(30));
    let serving = tokio::spawn(async move { while secured.next().await.is_some() {} });

    let lines = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&audit).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let revoked = own.sign(EVA, 7, 2100, false);
    let good = own.sign(EVA, 8, 2100, false);
    let stranger = rcgen::KeyPair::generate().unwrap();
    for ((certificate, key), who, why) in [
        (own.sign(EVA, 1, 2021, false), None, "that has expired"),
        (own.sign(LADY, 1, 2200, false), None, "that is not valid yet"),
        (own.sign(EVA, 1, 2100, true), None, "that is not for clients (extended key usage)"),
        (other.sign(LADY, 1, 2100, false), None, "of a CA that is not for this here"),
        (alike.sign(LADY, 1, 2100, false), None, "of a CA that is not for this here"),
        (
            (good.0.clone(), stranger),
            None,
            "whose key did not sign the handshake (invalid peer certificate: BadSignature)",
        ),
        ((revoked.0.clone(), rcgen::KeyPair::generate().unwrap()), Some(EVA), "that its CA has revoked"),
    ] {
        let before = lines().len();
        shows(address, &files, certificate, &key).await;
        let lines = lines();
        assert_eq!(lines.len(), before + 1, "{why}: {lines:?}");
        let line = lines.last().unwrap();
        let what = line["what"].as_str().unwrap();
        assert!(what.starts_with(&format!("TLS handshake: a certificate {why}, for \"sloth:")), "{what}");
        assert!(what.contains("serial 0"), "{what}");
        assert_eq!(line["who"].as_str().is_some(), who.is_some(), "{line}");
        assert!(line["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    assert_eq!(lines().last().unwrap()["who"], "operator eva with a certificate");

    let before = lines().len();
    for _ in 0..40 {
        let (certificate, key) = other.sign(EVA, 1, 2100, false);
        shows(address, &files, certificate, &key).await;
    }
    assert_eq!(lines().len() - before, 24, "of an address, 30 in all");
    shows(address, &files, revoked.0, &revoked.1).await;
    assert_eq!(lines().len() - before, 25, "who was let in once is hidden by nobody else");
    serving.abort();
}
