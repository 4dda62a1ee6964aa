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

/// The key that was made for this token. None: there is none that can be used, and another is made.
pub fn read(path: &Path, token: &str) -> Option<Key> {
    let text = match read_secret(path) {
        Ok(text) => text?.ok()?,
        // Whoever could read it may ask in this agent's place, but only with the token, too.
        Err(text) => {
            log::warn!("{text}: it is not used");
            return None;
        }
    };
    if token_id(&text) != token {
        return None;
    }
    Key::from_pkcs8(PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?.secret_der())
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

/// It has served. What cannot be removed is of no use without its token.
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
        assert!(read(&path, "0a1b").is_none());
        let key = Key::generate().unwrap_or_else(|_| panic!("the kernel has random numbers"));
        write(&path, "0a1b", &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(read(&path, "0a1b").expect("it is there").pkcs8 == key.pkcs8);
        assert!(read(&path, "0a1c").is_none());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path, "0a1b").is_none(), "others have seen it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(read(&path, "0a1b").is_none(), "it was cut");
        remove(&path);
        assert!(!path.exists());
    }
}
