//! The agent's id: random, or where nothing can be kept, the same for the same machine and name.

use std::{fs, io, path::Path};

/// 16 bytes from the kernel.
///
/// # Errors
/// On a kernel without getrandom(2).
pub fn random() -> io::Result<[u8; 16]> {
    let mut id = [0_u8; 16];
    // SAFETY: the buffer is writable for the length given.
    let count = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    // Up to 256 bytes come whole, or not at all.
    if count == id.len() as isize { Ok(id) } else { Err(io::Error::last_os_error()) }
}

/// As ids and hashes are written and shown.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] wrote.
pub fn parse(bytes: &[u8]) -> Option<[u8; 16]> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u128::from_str_radix(text, 16).ok()?;
    // All zeros is what a disk gives back that lost the file's content.
    (number != 0).then(|| number.to_be_bytes())
}

/// The id of an agent that cannot keep one, from the machine's id, else its lowest MAC, and the agent's name.
///
/// `root` is `/`, but for tests.
pub(super) fn derive(root: &Path, name: &str) -> [u8; 16] {
    let machine = machine_id(root).or_else(|| lowest_mac(root)).unwrap_or_default();
    fnv_1a(format!("{machine}\0{name}").as_bytes()).to_be_bytes()
}

fn machine_id(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("etc/machine-id")).ok()?;
    let text = text.trim();
    // While an image is made, systemd writes "uninitialized".
    (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_string())
}

fn lowest_mac(root: &Path) -> Option<String> {
    let interfaces = fs::read_dir(root.join("sys/class/net")).ok()?;
    interfaces
        .filter_map(|interface| fs::read_to_string(interface.ok()?.path().join("address")).ok())
        .map(|mac| mac.trim().to_string())
        .filter(|mac| mac.len() == 17 && mac != "00:00:00:00:00:00")
        .min()
}

/// FNV-1a of 128 bits: spreads well, and stays the same in every version.
pub(super) fn fnv_1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv_1a(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv_1a(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
    }

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let id = random().unwrap();
        assert_eq!(parse(format!("{}\n", hex(&id)).as_bytes()), Some(id));
        assert_ne!(random().unwrap(), id);
        for bad in [&b""[..], b"\n", b"+123456789abcdef0123456789abcdef", &[0; 33], &[b'0'; 32], &[0xff; 32]] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn a_derived_id_depends_on_machine_and_name_alone() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let of = |name: &str| derive(root.path(), name);
        write("sys/class/net/lo/address", "00:00:00:00:00:00\n");
        let nothing = of("a");
        write("sys/class/net/eth1/address", "52:54:00:00:00:02\n");
        write("sys/class/net/eth0/address", "52:54:00:00:00:01\n");
        let mac = of("a");
        assert_ne!(mac, nothing);
        fs::remove_dir_all(root.path().join("sys/class/net/eth1")).unwrap();
        assert_eq!(of("a"), mac, "a higher MAC changes nothing");
        write("etc/machine-id", "uninitialized\n");
        assert_eq!(of("a"), mac);
        write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        assert_ne!(of("a"), mac);
        assert_ne!(of("a"), of("b"));
    }
}
