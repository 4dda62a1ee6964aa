//! A log file of bounded size: when a line would make it too long it is set aside as `.1`, the older ones as `.2` and
//! so on, and the oldest goes.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::standard::Standard;
use crate::config::describe;

/// A log file that is shared by all that write to it, and held against other processes.
#[derive(Clone, Debug)]
pub struct Rolling(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    /// For its owner alone, at this very path.
    private: bool,
    size: u64,
    size_max: u64,
    /// The current one counted.
    files_max: u32,
    /// Standard output and error are this file, too.
    captures_stdio: bool,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

/// Why a log file cannot be used.
#[derive(Debug)]
pub enum OpenError {
    /// Another process writes it.
    Held(PathBuf),
    Io(PathBuf, io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(path) => write!(
                f,
                "the log file {} is written by another process: give this one its own with log.file",
                path.display()
            ),
            Self::Io(path, error) => write!(
                f,
                "cannot write the log file {}: {}; make it writable, or name another with log.file",
                path.display(),
                describe(error)
            ),
        }
    }
}

impl OpenError {
    /// Whether the box lacks something that it had when the agent was set up, or may have again. A setting that never
    /// worked is another matter.
    pub fn is_of_the_box(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self, Self::Io(_, error) if matches!(error.kind(), ReadOnlyFilesystem | StorageFull | QuotaExceeded))
    }
}

impl Rolling {
    /// Opens or creates the file and takes hold of it.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub fn open(path: &Path, size_max: u64, files_max: u32) -> Result<Self, OpenError> {
        Self::open_with(path, size_max, files_max, false)
    }

    /// As [`Rolling::open`], for a file that is its owner's alone, whatever it was before, and no link to another one.
    /// Who writes it says what was lost.
    ///
    /// # Errors
    /// As there.
    pub fn open_private(path: &Path, size_max: u64, files_max: u32) -> Result<Self, OpenError> {
        Self::open_with(path, size_max, files_max, true)
    }

    fn open_with(path: &Path, size_max: u64, files_max: u32, private: bool) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io(path.to_path_buf(), error);
        let file = open_to_append(path, private).map_err(failed)?;
        if !lock(&file).map_err(failed)? {
            return Err(OpenError::Held(path.to_path_buf()));
        }
        let size = file.metadata().map_err(failed)?.len();
        let (path, captures_stdio, lost) = (path.to_path_buf(), false, 0);
        Ok(Self(Arc::new(Mutex::new(Inner { path, file, private, size, size_max, files_max, captures_stdio, lost }))))
    }

    pub fn path(&self) -> PathBuf {
        self.inner().path.clone()
    }

    /// Writes one line, its end included. What cannot be written is counted and said once writing works again.
    pub fn write_line(&self, line: &[u8]) {
        let mut inner = self.inner();
        let first = inner.lost == 0;
        let note = |lost| format!("({lost} lines were lost: the log could not be written)\n").into_bytes();
        if let (Err(error), true) = (inner.write_line(line, note), first) {
            inner.complain(&error);
        }
    }

    /// The same, where who writes says for himself what was lost: `note` makes a line of that. Returns how many were, where
    /// that is written now.
    ///
    /// # Errors
    /// The line is one of those that are lost.
    pub fn try_write_line(&self, line: &[u8], note: impl FnOnce(u64) -> Vec<u8>) -> io::Result<u64> {
        self.inner().write_line(line, note)
    }

    /// Other limits from the next line on. Files beyond a smaller number stay where they are.
    pub fn set_limits(&self, size_max: u64, files_max: u32) {
        let mut inner = self.inner();
        (inner.size_max, inner.files_max) = (size_max, files_max);
    }

    /// From now on standard output and standard error are this file, after each rotation the new one: the message of a
    /// panic lands here.
    pub fn capture_stdio(&self) {
        let mut inner = self.inner();
        inner.captures_stdio = true;
        inner.renew_stdio();
    }

    /// Goes over to the file that stands at the path now: another process of this agent may have set the old one aside.
    pub fn refresh(&self) {
        self.inner().refresh();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while a line was written leaves nothing that the next line depends on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write_line(&mut self, line: &[u8], note: impl FnOnce(u64) -> Vec<u8>) -> io::Result<u64> {
        if self.size > 0 && self.size + line.len() as u64 > self.size_max {
            // What can't be set aside goes on growing; the next try comes after another `size_max`.
            self.size = 0;
            let _ = self.rotate();
        }
        let lost = self.lost;
        // Until it is there.
        self.lost = lost.saturating_add(1);
        match lost {
            0 => self.put(line)?,
            // As one: a note that is there alone would have counted what is told once more later.
            lost => self.put(&[&note(lost), line].concat())?,
        }
        self.lost = 0;
        Ok(lost)
    }

    /// All of it or nothing: half a line would be one with what comes next.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(written) if written > 0 => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    let begun = (bytes.len() - rest.len()) as u64;
                    if begun > 0 {
                        let _ =
                            self.file.metadata().and_then(|found| self.file.set_len(found.len().saturating_sub(begun)));
                    }
                    return Err(result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn complain(&self, error: &io::Error) {
        if self.captures_stdio {
            return;
        }
        let text = format!(
            "the log {} cannot be written ({}): lines are lost until it can\n",
            self.path.display(),
            describe(error)
        );
        Standard::new(io::stderr()).write_line(text.as_bytes());
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.files_max <= 1 {
            return self.file.set_len(0);
        }
        // Made and locked under another name, so that nobody takes hold of it on the way.
        let fresh_path = numbered(&self.path, "new");
        let fresh = open_to_append(&fresh_path, self.private)?;
        fresh.set_len(0)?;
        lock(&fresh)?;
        for number in (1..self.files_max - 1).rev() {
            let (from, to) = (numbered(&self.path, number), numbered(&self.path, number + 1));
            match std::fs::rename(from, to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(&self.path, 1))?;
        std::fs::rename(fresh_path, &self.path)?;
        self.file = fresh;
        self.renew_stdio();
        Ok(())
    }

    fn refresh(&mut self) {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let here = self.file.metadata().map(id).ok();
        let there = std::fs::metadata(&self.path).map(id).ok();
        if here != there
            && let Ok(file) = open_to_append(&self.path, self.private)
        {
            // Held by a process of this same agent, or by nobody: the answer changes nothing.
            let _ = lock(&file);
            self.file = file;
            self.renew_stdio();
        }
        self.size = self.file.metadata().map_or(self.size, |metadata| metadata.len());
    }

    fn renew_stdio(&self) {
        if self.captures_stdio {
            for descriptor in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
                // SAFETY: the file is open; the two descriptors are nobody's property but the process's.
                unsafe { libc::dup2(self.file.as_raw_fd(), descriptor) };
            }
        }
    }
}

fn open_to_append(path: &Path, private: bool) -> io::Result<File> {
    let (mode, links) = if private { (0o600, libc::O_NOFOLLOW) } else { (0o640, 0) };
    // A named pipe without a reader must not hold the start, nor a full one the agent; to a file it means nothing.
    let flags = libc::O_NONBLOCK | links;
    let file = OpenOptions::new().append(true).create(true).mode(mode).custom_flags(flags).open(path)?;
    if private {
        // One that was there before, too.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    Ok(file)
}

/// Takes the lock on a file, without waiting; false if another process has it.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    flock(file, libc::LOCK_EX)
}

/// Whether nobody holds the lock on a file. Others who look at the same moment are not in the way.
pub(crate) fn is_unlocked(file: &File) -> io::Result<bool> {
    flock(file, libc::LOCK_SH)
}

fn flock(file: &File, operation: libc::c_int) -> io::Result<bool> {
    loop {
        // SAFETY: the descriptor is open for as long as `file` lives.
        if unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(false),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

fn numbered(path: &Path, suffix: impl fmt::Display) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".{suffix}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(log: &Rolling, lines: &[&str]) {
        for line in lines {
            log.write_line(format!("{line}\n").as_bytes());
        }
    }

    fn files(folder: &Path) -> Vec<(String, String)> {
        let read = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
        };
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(read).collect();
        files.sort();
        files
    }

    fn owned(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
    }

    #[test]
    fn files_are_set_aside_before_a_line_makes_them_too_long_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let log = Rolling::open(&folder.path().join("agent.log"), 10, 3).unwrap();
        write(&log, &["one", "four", "x", "seven", "eleven", "thirteen-is-too-long", "z"]);
        let expected = [("agent.log", "z\n"), ("agent.log.1", "thirteen-is-too-long\n"), ("agent.log.2", "eleven\n")];
        assert_eq!(files(folder.path()), owned(&expected));
    }

    #[test]
    fn a_file_may_be_full_to_the_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let log = Rolling::open(&folder.path().join("a"), 10, 3).unwrap();
        write(&log, &["1234", "5678", "9"]);
        assert_eq!(files(folder.path()), owned(&[("a", "9\n"), ("a.1", "1234\n5678\n")]));
    }

    #[test]
    fn what_is_there_already_counts_and_one_file_alone_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old line\n").unwrap();
        let log = Rolling::open(&path, 12, 1).unwrap();
        write(&log, &["12", "next"]);
        assert_eq!(files(folder.path()), owned(&[("a", "next\n")]));
    }

    #[test]
    fn other_limits_hold_from_the_next_line_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = Rolling::open(&folder.path().join("a"), 1_000, 1).unwrap();
        write(&log, &["one", "two"]);
        log.set_limits(11, 2);
        write(&log, &["three", "four"]);
        assert_eq!(files(folder.path()), owned(&[("a", "three\nfour\n"), ("a.1", "one\ntwo\n")]));
    }

    #[test]
    fn a_held_file_is_refused_also_after_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        let log = Rolling::open(&path, 10, 3).unwrap();
        assert!(matches!(Rolling::open(&path, 10, 3), Err(OpenError::Held(_))));
        write(&log, &["12345678", "12345678"]);
        let error = Rolling::open(&path, 10, 3).unwrap_err().to_string();
        let shown = path.display();
        assert_eq!(
            error,
            format!("the log file {shown} is written by another process: give this one its own with log.file")
        );
    }

    #[test]
    fn one_that_cannot_be_opened_says_so_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/agent.log");
        let error = Rolling::open(&path, 10, 3).unwrap_err().to_string();
        let shown = path.display();
        assert_eq!(
            error,
            format!(
                "cannot write the log file {shown}: no such file or directory; make it writable, or name another with \
                 log.file"
            )
        );
    }

    #[test]
    fn a_folder_that_is_gone_does_not_stop_the_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner/agent.log");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let log = Rolling::open(&path, 10, 3).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        write(&log, &["12345678", "12345678", "12345678"]);
        fs::create_dir(path.parent().unwrap()).unwrap();
        log.refresh();
        write(&log, &["again"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "again\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        let log = Rolling::open(&path, 1_000, 3).unwrap();
        let good = std::mem::replace(&mut log.inner().file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        write(&log, &["lost", "lost as well"]);
        log.inner().file = good;
        write(&log, &["found"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "(2 lines were lost: the log could not be written)\nfound\n");
    }

    #[test]
    fn a_private_file_is_its_owners_alone_and_its_writer_says_what_was_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let log = Rolling::open_private(&path, 1_000, 3).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let write = |line: &[u8]| log.try_write_line(line, |lost| format!("{{\"lost\": {lost}}}\n").into_bytes());
        assert_eq!(write(b"one\n").unwrap(), 0);
        let good = std::mem::replace(&mut log.inner().file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        for _ in 0..2 {
            assert_eq!(write(b"lost\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
        log.inner().file = good;
        assert_eq!((write(b"two\n").unwrap(), write(b"three\n").unwrap()), (2, 0));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n{\"lost\": 2}\ntwo\nthree\n");

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Rolling::open_private(&link, 1_000, 3), Err(OpenError::Io(..))));
    }
}
