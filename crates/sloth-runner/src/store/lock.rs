//! One process at a time: a file that names the one that holds it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

/// Held until it is dropped, or its process ends, however it ends. The file stays: only the kernel's lock counts.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

#[derive(Debug)]
pub enum LockError {
    /// By this process, if the file says so.
    Held(Option<u32>),
    Io(io::Error),
}

impl FileLock {
    /// Takes the lock without waiting, and writes the own process id into the file.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(LockError::Io)?;
        // SAFETY: flock only takes a descriptor, and this one is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(LockError::Io(error));
            }
            let mut holder = String::new();
            let _ = file.take(32).read_to_string(&mut holder);
            return Err(LockError::Held(holder.trim().parse().ok()));
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(LockError::Io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_first_and_a_stale_file_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        std::fs::write(&path, "4194304 left by a process that died\n").unwrap();
        let first = FileLock::take(&path).unwrap();
        let Err(LockError::Held(holder)) = FileLock::take(&path) else { panic!("two hold it") };
        assert_eq!(holder, Some(std::process::id()));
        drop(first);
        FileLock::take(&path).unwrap();
    }
}
