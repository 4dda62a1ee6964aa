//! The file that holds an agent's key, certificate and CA: one, so that it is replaced whole or not at all.

use crate::{
    config::{describe, is_anothers},
    state::write_atomically,
    token::{Alphabet, encode},
    transport::tls::{Certificate, Own},
};
use rustls::{
    crypto::ring::default_provider,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    ffi::OsStr,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

/// In the state directory.
pub const NAME: &str = "identity.pem";

/// What comes before the id of the token that this was given for.
pub(super) const TOKEN: &str = "Token: ";

/// How PEM calls a key in PKCS #8.
pub(super) const KEY: &str = "PRIVATE KEY";

/// Largest file that is read, bytes: what is written has some two thousand.
const SIZE_MAX: u64 = 64 << 10;

/// A key and what goes with it.
pub struct Identity {
    /// Of the token with which the agent joined.
    pub token_id: String,
    pub certified: CertifiedKey,
    pub ca: CertificateDer<'static>,
    pkcs8: Vec<u8>,
}

impl Identity {
    /// # Errors
    /// Certificate and key do not go together, or are none.
    pub fn new(
        token_id: String,
        pkcs8: &[u8],
        certificate: CertificateDer<'static>,
        ca: CertificateDer<'static>,
    ) -> Result<Self, String> {
        let key = PrivateKeyDer::Pkcs8(pkcs8.to_vec().into());
        let key: Arc<dyn SigningKey> =
            default_provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
        let certified = CertifiedKey::new(vec![certificate], key);
        certified.keys_match().map_err(|_| "the certificate does not go with the key".to_owned())?;
        Ok(Self { token_id, certified, ca, pkcs8: pkcs8.to_vec() })
    }

    /// What it says; none: it cannot be read here.
    pub fn certificate(&self) -> Option<Certificate> {
        Certificate::read(self.certified.cert.first()?)
    }

    /// The same, as it is told of.
    pub fn own(&self) -> Option<Own> {
        Own::of(self.certified.cert.first()?, true)
    }
}

/// What tells a file from the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

/// None where there is no such file, or nothing is to be known of it.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let of = |metadata: Metadata| Stamp {
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        size: metadata.size(),
    };
    fs::metadata(path).ok().map(of)
}

/// What a file holds, and its stamp.
pub type Found = (Result<Option<Identity>, String>, Option<Stamp>);

/// As [`read`], with the file's stamp; none where it is the one that is known.
pub fn read_new(path: &Path, known: Option<Stamp>) -> Option<Found> {
    // Taken first: what changes meanwhile is read once more.
    let stamp = stamp(path);
    (stamp.is_none() || stamp != known).then(|| (read(path), stamp))
}

/// None where there is no such file.
///
/// # Errors
/// For people: it cannot be used, and the remedy.
pub fn read(path: &Path) -> Result<Option<Identity>, String> {
    let shown = path.display();
    let Some(text) = read_secret(path)? else { return Ok(None) };
    let parsed = text.and_then(|text| parse(&text));
    parsed.map(Some).map_err(|error| {
        format!("{shown} does not hold this agent's key and certificate ({error}): remove it and join with a new token")
    })
}

/// What a file holds that is this user's alone, or what its disk said; none where there is no such file.
///
/// # Errors
/// For people: nobody can rely on it, and the remedy.
pub(super) fn read_secret(path: &Path) -> Result<Option<Result<String, String>>, String> {
    let shown = path.display();
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown} cannot be read: {}", describe(&error))),
    };
    let metadata = file.metadata().map_err(|error| describe(&error))?;
    if is_anothers(&metadata) {
        return Err(format!(
            "{shown} is of another user (uid {}), who would decide whom this agent obeys: remove it and join with a new \
             token",
            metadata.uid()
        ));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown} holds this agent's key, and others can read it (mode {mode:04o}): remove it and join with a new \
             token; or run chmod 600 {shown}, if nobody has"
        ));
    }
    let mut text = String::new();
    let read = file.take(SIZE_MAX).read_to_string(&mut text).map_err(|error| describe(&error));
    Ok(Some(read.map(|_| text)))
}

/// 0600, whole, and durable before it returns.
///
/// # Errors
/// The disk's; the file is as it was then.
pub fn write(path: &Path, identity: &Identity) -> io::Result<()> {
    write_secret(path, &text(identity))
}

/// The same of any text.
pub(super) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let (folder, name) = (path.parent(), path.file_name().and_then(OsStr::to_str));
    let (folder, name) = folder.zip(name).ok_or(io::ErrorKind::InvalidInput)?;
    // One that a crash left would keep the mode that it has.
    match fs::remove_file(folder.join(format!("{name}.new"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_atomically(folder, name, text.as_bytes(), true)
}

fn text(identity: &Identity) -> String {
    let mut text = format!("{TOKEN}{}\n", identity.token_id);
    let certificate: &[u8] = identity.certified.cert.first().map_or(&[], |certificate| certificate);
    for (label, der) in [(KEY, &identity.pkcs8[..]), ("CERTIFICATE", certificate), ("CERTIFICATE", &identity.ca)] {
        add_pem(&mut text, label, der);
    }
    text
}

pub(super) fn add_pem(text: &mut String, label: &str, der: &[u8]) {
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let encoded = encode(Alphabet::Pem, der);
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
}

/// Of the token that this was given for, or is to be.
pub(super) fn token_id(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix(TOKEN)).unwrap_or_default().trim()
}

fn parse(text: &str) -> Result<Identity, String> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| "no key")?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match certificates.as_deref() {
        Ok([certificate, ca]) => {
            Identity::new(token_id(text).to_owned(), key.secret_der(), certificate.clone(), ca.clone())
        }
        _ => Err("not two certificates".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::os::unix::fs::PermissionsExt;

    fn identity() -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap().der().clone();
        Identity::new("0a1b".to_owned(), &key.serialize_der(), certificate.clone(), certificate).unwrap()
    }

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        assert!(read(&path).unwrap().is_none());
        let written = identity();
        write(&path, &identity()).unwrap();
        write(&path, &written).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let found = read(&path).unwrap().expect("it is there");
        assert_eq!((found.token_id.as_str(), &found.ca, &found.pkcs8), ("0a1b", &written.ca, &written.pkcs8));
        assert_eq!(found.certified.cert, written.certified.cert);
    }

    #[test]
    fn one_that_others_can_read_or_that_was_cut_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        write(&path, &identity()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = read(&path).err().expect("refused");
        assert!(said.contains("others can read it (mode 0640)"), "{said}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let said = read(&path).err().expect("refused");
        assert!(said.contains("remove it and join with a new token"), "{said}");
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let (one, other) = (identity(), identity());
        let certificate = one.certified.cert[0].clone();
        assert!(Identity::new(String::new(), &other.pkcs8, certificate.clone(), certificate).is_err());
    }
}
