//! The archive: a compressed tar, for its owner alone.

use super::Part;
use crate::tool::time::rfc3339;
use flate2::{Compression, write::GzEncoder};
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

pub(super) struct Archive;

impl Archive {
    /// Writes a new file and returns its size. What could not be written whole is removed.
    ///
    /// # Errors
    /// When the file is there already, or cannot be written.
    pub fn write(file: &Path, folder: &str, unix_s: u64, parts: &[Part]) -> io::Result<u64> {
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        let written = fill(&out, folder, unix_s, parts).and_then(|()| Ok(out.metadata()?.len()));
        if written.is_err() {
            let _ = fs::remove_file(file);
        }
        written
    }
}

fn fill(out: &fs::File, folder: &str, unix_s: u64, parts: &[Part]) -> io::Result<()> {
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(unix_s);
        tar.append_data(&mut header, format!("{folder}/{}", part.path), part.text.as_bytes())?;
    }
    tar.into_inner()?.finish()?;
    out.sync_all()
}

/// What the file is called, without its ending, and the folder in it.
pub(super) fn name(agent: &str, unix_ms: u64) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
    let agent: String = agent.chars().map(plain).take(64).collect();
    let time: String = rfc3339(unix_ms).unwrap_or_default().chars().take(19).filter(|c| !"-:".contains(*c)).collect();
    format!("sloth-runner-support-{agent}-{time}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_name_is_a_file_name_whatever_the_agent_is_called() {
        assert_eq!(name("../a b\n", 951_782_400_000), "sloth-runner-support-___a_b_-20000229T000000Z");
    }

    #[test]
    fn the_archive_is_its_owners_and_never_takes_anothers_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar.gz");
        let parts = [Part { path: "x/y.txt".to_owned(), text: "hello".to_owned() }];
        let bytes = Archive::write(&file, "f", 7, &parts).unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, bytes));
        let kind = Archive::write(&file, "f", 7, &[]).unwrap_err().kind();
        assert_eq!((kind, fs::metadata(&file).unwrap().len()), (io::ErrorKind::AlreadyExists, bytes));
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(&file).unwrap()));
        let mut entries = tar.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("f/x/y.txt"));
        assert_eq!(io::read_to_string(&mut entry).unwrap(), "hello");
    }
}
