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
