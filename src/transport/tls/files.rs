//! The files that `tls` names: each is read whole, checked, and refused with the remedy.

use crate::config::{Tls, describe, exposed};
use rustls::{
    InconsistentKeys, RootCertStore,
    crypto::CryptoProvider,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fs::{Metadata, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where systems keep the certificates that they trust, the first that is there. `SSL_CERT_FILE` names another.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Largest file that is read, bytes: all that a system trusts are some 250 KB.
const SIZE_MAX: u64 = 2 << 20;

/// A setting of `tls` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub key: &'static str,
    /// Reads after "key ": the value, the rule, the remedy.
    pub text: String,
}

/// Whom to trust. Never empty. Reads a file, which may block.
///
/// # Errors
/// What cannot be used, with the remedy.
pub fn roots(tls: &Tls) -> Result<RootCertStore, Unusable> {
    let file = match &tls.ca_file {
        Some(path) => File::named("tls.ca_file", path),
        None => system_roots()?,
    };
    let mut roots = RootCertStore::empty();
    for certificate in file.certificates()? {
        // A system's file may hold ones of forms that are not known here; one's own must all be usable.
        if let (Err(error), Some(_)) = (roots.add(certificate), &tls.ca_file) {
            return Err(file.unusable(&format!("holds what is no certificate of a CA: {error}: take it out")));
        }
    }
    if roots.is_empty() {
        return Err(file.unusable("holds no certificate of a form that is known here: name another"));
    }
    Ok(roots)
}

/// Who we are. None where nothing is set, and where something cannot be used.
pub(super) fn identity(tls: &Tls, provider: &CryptoProvider, unusable: &mut Vec<Unusable>) -> Option<CertifiedKey> {
    let (cert_path, key_path) = (tls.cert_file.as_ref()?, tls.key_file.as_ref()?);
    let cert_file = File::named("tls.cert_file", cert_path);
    let chain = cert_file.certificates().map_err(|error| unusable.push(error));
    let key = private_key(&File::named("tls.key_file", key_path), provider).map_err(|error| unusable.push(error));
    let identity = CertifiedKey::new(chain.ok()?, key.ok()?);
    let text = match identity.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => return Some(identity),
        Err(rustls::Error::InconsistentKeys(_)) => {
            format!("does not go with tls.key_file ({}): name the key of this certificate", key_path.display())
        }
        Err(error) => format!("holds what is no certificate ({error}): name another"),
    };
    unusable.push(cert_file.unusable(&text));
    None
}

/// The first certificate of `tls.cert_file`, if it can be read.
pub(super) fn own_certificate(tls: &Tls) -> Option<CertificateDer<'static>> {
    let file = File::named("tls.cert_file", tls.cert_file.as_ref()?);
    file.certificates().ok()?.into_iter().next()
}

fn private_key(file: &File, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, Unusable> {
    let (text, metadata) = file.read()?;
    if let Some(problem) = exposed(&metadata, &file.path) {
        return Err(file.unusable(&problem));
    }
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| file.unusable("holds no private key in PEM, or an encrypted one: name one without a password"))?;
    let unknown = |_| file.unusable("holds a key that is none of RSA, ECDSA (P-256, P-384) and Ed25519: make another");
    provider.key_provider.load_private_key(key).map_err(unknown)
}

fn system_roots() -> Result<File, Unusable> {
    let path = match std::env::var_os("SSL_CERT_FILE") {
        Some(named) => Some(PathBuf::from(named)),
        None => SYSTEM_ROOTS.map(PathBuf::from).into_iter().find(|path| path.is_file()),
    };
    let key = "tls.ca_file";
    let Some(path) = path else {
        let text = "is not set, and this system has no file of trusted certificates: name one".to_owned();
        return Err(Unusable { key, text });
    };
    Ok(File { key, subject: format!("is not set, and what this system trusts, {},", path.display()), path })
}

struct File {
    key: &'static str,
    path: PathBuf,
    /// What its faults are told of.
    subject: String,
}

impl File {
    fn named(key: &'static str, path: &Path) -> Self {
        Self { key, path: path.to_owned(), subject: format!("is {}, which", path.display()) }
    }

    fn unusable(&self, fault: &str) -> Unusable {
        Unusable { key: self.key, text: format!("{} {fault}", self.subject) }
    }

    /// At least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        let (text, _) = self.read()?;
        match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
            Ok(found) if !found.is_empty() => Ok(found),
            _ => Err(self.unusable("holds no certificate in PEM: name one that does")),
        }
    }

    /// Content and whose it is.
    fn read(&self) -> Result<(Vec<u8>, Metadata), Unusable> {
        let unreadable =
            |error| self.unusable(&format!("cannot be read: {}: mend that, or name another", describe(&error)));
        // Opening a pipe would wait for its writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(self.unusable("is no file: name one"));
        }
        let mut content = Vec::new();
        file.take(SIZE_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
        if content.len() as u64 > SIZE_MAX {
            return Err(self.unusable(&format!("is larger than {SIZE_MAX} bytes: is it the right one?")));
        }
        Ok((content, metadata))
    }
}
