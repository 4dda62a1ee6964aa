//! A master's files and database, made for one test.

use super::{
    Security, TlsFiles,
    admission::Admission,
    pki,
    tls::{Acceptor, Peer},
};
use crate::{
    clock,
    listen::{
        Open,
        places::{Limits, Source},
    },
    store::{Environment, History, SqliteStore},
};
use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

/// Files of a master called localhost.
pub fn files() -> (TempDir, TlsFiles) {
    let folder = tempfile::tempdir().unwrap();
    let made = pki::make(&["localhost".to_owned()], clock::unix_ms()).unwrap();
    for (name, text) in
        [("ca.pem", &made.ca), ("ca.key", &made.ca_key), ("m.pem", &made.certificate), ("m.key", &made.key)]
    {
        fs::write(folder.path().join(name), text).unwrap();
        fs::set_permissions(folder.path().join(name), Permissions::from_mode(0o600)).unwrap();
    }
    let path = |name: &str| folder.path().join(name);
    let files = TlsFiles {
        cert_file: path("m.pem"),
        key_file: path("m.key"),
        ca_file: Some(path("ca.pem")),
        ca_key_file: Some(path("ca.key")),
        client_ca_file: None,
        client_crl_file: None,
        agent_life: Duration::from_secs(3600),
    };
    (folder, files)
}

/// All that a master with TLS has, and nobody in it.
pub fn security() -> (TempDir, Arc<Security>) {
    let (folder, files) = files();
    let database = folder.path().join("sloth.db");
    let environment = Environment { clock: Box::new(clock::unix_ms), remove_output: Box::new(|_| true) };
    drop(SqliteStore::open(&database, History::default(), environment).unwrap());
    let acceptor = Arc::new(Acceptor::new(files).unwrap());
    let admission = Admission::open(&database, clock::unix_ms).unwrap();
    (folder, Arc::new(Security { acceptor, authority: None, admission, audit: None }))
}

/// The same for a master that makes certificates.
pub fn with_authority() -> (TempDir, Arc<Security>) {
    let (folder, security) = security();
    let security = Arc::into_inner(security).expect("nobody else has it yet");
    let path = |name: &str| folder.path().join(name);
    let authority = pki::Authority::load(&path("ca.pem"), &path("ca.key"), Duration::from_secs(3600)).unwrap();
    (folder, Arc::new(Security { authority: Some(authority), ..security }))
}

/// Somebody there, who has shown nothing.
pub fn peer(address: SocketAddr) -> Peer {
    let place = Open::default().take(Source::of(address.ip()), Limits::NONE).unwrap();
    Peer { address, shown: place.shown(), identity: None, exported: Some([0; 32]) }
}
