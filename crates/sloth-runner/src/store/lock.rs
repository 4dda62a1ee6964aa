//! One process at a time: a file that names the one that holds it.

use sloth_agent::state::{Process, start_time};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::Duration,
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

/// Who holds a lock.
#[derive(Debug, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    /// This process, if the file says so.
    Running(Option<u32>),
}

/// Who looks at a lock holds it for an instant: who wants it tries again after this, …
const LOOKED_AT: Duration = Duration::from_millis(10);
/// … so often. Both make a second master wait for a tenth of a second before it is told about the first.
const TRIES: u32 = 10;

impl FileLock {
    /// Takes the lock without waiting, and writes into the file who has it: process id, and when that began.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(LockError::Io)?;
        let mut tries = 1;
        while !try_lock(&file, libc::LOCK_EX).map_err(LockError::Io)? {
            if tries == TRIES {
                return Err(LockError::Held(pid(file)));
            }
            tries += 1;
            std::thread::sleep(LOOKED_AT);
        }
        let own = Process::own().map(|own| format!("\n{}", own.started)).unwrap_or_default();
        let own = format!("{}{own}\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(own.as_bytes()));
        written.map_err(LockError::Io)?;
        Ok(Self { _file: file })
    }

    /// Who holds it now. A file that is not there is held by nobody.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn holder(path: &Path) -> io::Result<Holder> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Holder::Nobody),
            Err(error) => Err(error),
            // Let go of with the file.
            Ok(file) if try_lock(&file, libc::LOCK_SH)? => Ok(Holder::Nobody),
            Ok(file) => Ok(Holder::Running(pid(file))),
        }
    }
}

/// False if somebody else holds it.
fn try_lock(file: &File, kind: libc::c_int) -> io::Result<bool> {
    // SAFETY: flock only takes a descriptor, and this one is open.
    if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// The process that the file names, if it is that one that runs here: the lock may be held by another host or in another
/// container, and what an earlier holder wrote stands there until a new one has written its own.
fn pid(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(64).read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    let (pid, started) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (start_time(pid) == Some(started)).then_some(pid)
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
        assert_eq!(FileLock::holder(&path).unwrap(), Holder::Running(Some(std::process::id())));
        drop(first);
        assert_eq!(FileLock::holder(&path).unwrap(), Holder::Nobody);
        assert_eq!(FileLock::holder(&directory.path().join("none")).unwrap(), Holder::Nobody);
        FileLock::take(&path).unwrap();
    }

    #[test]
    fn a_process_that_did_not_write_the_file_is_never_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let _held = FileLock::take(&path).unwrap();
        let own = std::fs::read_to_string(&path).unwrap();
        let began: u64 = own.lines().nth(1).unwrap().parse().unwrap();
        // Of another host or container, with the number of a process of this one; half written; of nobody.
        for left in [
            format!("{}\n{}\n", std::process::id(), began + 1),
            format!("{}\n", std::process::id()),
            "0\n0\n".to_owned(),
            "4194304\n7\n".to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, &left).unwrap();
            assert_eq!(FileLock::holder(&path).unwrap(), Holder::Running(None), "{left:?}");
        }
        std::fs::write(&path, own).unwrap();
        assert_eq!(FileLock::holder(&path).unwrap(), Holder::Running(Some(std::process::id())));
    }

    #[test]
    fn whoever_only_looks_keeps_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        drop(FileLock::take(&path).unwrap());
        let looking = File::open(&path).unwrap();
        assert!(try_lock(&looking, libc::LOCK_SH).unwrap());
        let taking = std::thread::spawn(move || FileLock::take(&path));
        drop(looking);
        taking.join().unwrap().unwrap();
    }
}
