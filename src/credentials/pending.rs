//! The key that an agent asks with for a certificate, kept until it has one. The master counts the same key with the same
//! token as one use: an agent that ended before it had its answer asks again with it, and is answered.

use super::{
    Key,
    file::{KEY, TOKEN, add_pem, read_secret, token_id, write_secret},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use std::{fs, io, path::Path};

/// In the state directory.
pub const NAME: &str = "joining.pem";

/// The key that was made for this token. None: there is none.
///
/// # Errors
/// There may be one, and it cannot be used: with another the token may be of no use any more. For people.
pub fn read(path: &Path, token: &str) -> Result<Option<Key>, String> {
    let Some(text) = read_secret(path)? else { return Ok(None) };
    let unusable =
        |why: &str| format!("{} cannot be used ({why}): remove it and join with a new token", path.display());
    let text = text.map_err(|error| unusable(&error))?;
    if token_id(&text) != token {
        return Ok(None);
    }
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok();
    let key = key.and_then(|key| Key::from_pkcs8(key.secret_der()));
    key.map(Some).ok_or_else(|| unusable("it holds no key"))
}

/// 0600, and durable before it returns.
///
/// # Errors
/// The disk's.
pub fn write(path: &Path, token: &str, key: &Key) -> io::Result<()> {
    let mut text = format!("{TOKEN}{token}\n");
    add_pem(&mut text, KEY, &key.pkcs8);
    write_secret(path, &text)
}

/// It has served: its key is in the file of the certificate now.
pub fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_key_is_found_again_for_its_token_and_for_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let found = |token| read(&path, token).map(|key| key.map(|key| key.pkcs8));
        assert_eq!(found("0a1b"), Ok(None));
        let key = Key::generate().unwrap_or_else(|_| panic!("the kernel has random numbers"));
        write(&path, "0a1b", &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(found("0a1b"), Ok(Some(key.pkcs8.clone())));
        assert_eq!(found("0a1c"), Ok(None));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(found("0a1b").unwrap_err().contains("others can read it"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(found("0a1b").unwrap_err().contains("it holds no key"), "it was cut");
        remove(&path);
        assert!(!path.exists());
    }
}
