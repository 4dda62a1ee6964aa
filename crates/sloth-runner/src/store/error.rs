//! What can be wrong with a database, in words for the one who starts the master.

use super::lock::LockError;
use rusqlite::ErrorCode;
use std::{fmt, io, path::Path, path::PathBuf};

/// Why the store cannot be opened. Nothing was changed then.
#[derive(Debug)]
pub struct OpenError {
    pub path: PathBuf,
    pub why: Why,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Why {
    /// By another master, with this process id if it is known.
    Locked(Option<u32>),
    /// By a program that is no master.
    Busy,
    /// What SQLite, or the reading of a row, says.
    Corrupt(String),
    /// A database of some other program.
    Foreign,
    /// Its schema is of a later version than this program knows.
    Newer {
        found: i64,
        known: i64,
    },
    /// Its directory is not there.
    NoDirectory,
    PermissionDenied,
    ReadOnly,
    Full,
    Other(String),
}

impl OpenError {
    pub fn new(path: &Path, why: Why) -> Self {
        Self { path: path.to_owned(), why }
    }

    pub fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        Self::new(path, Why::of(error))
    }

    pub fn io(path: &Path, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Why::NoDirectory,
            io::ErrorKind::PermissionDenied => Why::PermissionDenied,
            io::ErrorKind::ReadOnlyFilesystem => Why::ReadOnly,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Why::Full,
            _ => Why::Other(error.to_string()),
        };
        Self::new(path, why)
    }

    pub fn lock(path: &Path, error: &LockError) -> Self {
        match error {
            LockError::Held(holder) => Self::new(path, Why::Locked(*holder)),
            LockError::Io(error) => Self::io(path, error),
        }
    }
}

impl Why {
    pub fn of(error: &rusqlite::Error) -> Self {
        match error {
            // What is stored has a form that nothing of ours has written.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => return Self::Corrupt(error.to_string()),
            _ => {}
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Self::PermissionDenied,
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let directory = self.path.parent().unwrap_or(Path::new(".")).display();
        match &self.why {
            Why::Locked(Some(pid)) => {
                write!(
                    f,
                    "{path} is in use by another master (process {pid}): stop it, or give this one a state_dir of its own"
                )
            }
            Why::Locked(None) => {
                write!(f, "{path} is in use by another master: stop it, or give this one a state_dir of its own")
            }
            Why::Busy => write!(f, "{path} is locked by another program: close it (fuser {path} names it)"),
            Why::Corrupt(detail) => write!(
                f,
                "{path} is damaged ({detail}); nothing was changed: restore a backup, or move the file away to start \
                 with an empty fleet"
            ),
            Why::Foreign => {
                write!(f, "{path} belongs to another program; nothing was changed: name another file with store")
            }
            Why::Newer { found, known } => write!(
                f,
                "{path} has schema version {found}, this master knows versions up to {known}; nothing was changed: \
                 start the newer master, or restore a backup made before it"
            ),
            Why::NoDirectory => {
                write!(f, "{directory}, the directory of {path}, is not there: make it, or correct store")
            }
            Why::PermissionDenied => write!(
                f,
                "{path} cannot be opened, permission denied: give this user the directory {directory}, or another \
                 state_dir"
            ),
            Why::ReadOnly => {
                write!(
                    f,
                    "{path} cannot be written, it or its file system is read-only: make it writable, or give another state_dir"
                )
            }
            Why::Full => write!(f, "{path} cannot be written, the disk is full: make room in {directory}"),
            Why::Other(detail) => write!(f, "{path} cannot be opened: {detail}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why a running store could not do something: a fragment for people.
pub fn explain(path: &Path, error: &rusqlite::Error) -> String {
    let path = path.display();
    match Why::of(error) {
        Why::Full => format!("the disk that holds {path} is full: make room"),
        Why::ReadOnly => format!("{path} has become read-only: make its file system writable"),
        Why::Busy => format!("{path} is locked by another program: close it"),
        Why::Corrupt(detail) => format!("{path} is damaged ({detail}): stop the master and restore a backup"),
        _ => format!("{path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn every_reason_names_the_file_and_the_remedy() {
        let path = Path::new("/var/lib/x/sloth.db");
        for (error, expected) in [
            (OpenError::sqlite(path, &failure(ffi::SQLITE_FULL)), "the disk is full: make room in /var/lib/x"),
            (OpenError::sqlite(path, &failure(ffi::SQLITE_READONLY)), "read-only: make it writable"),
            (OpenError::sqlite(path, &failure(ffi::SQLITE_BUSY)), "is locked by another program: close it"),
            (OpenError::sqlite(path, &failure(ffi::SQLITE_CANTOPEN)), "permission denied: give this user"),
            (OpenError::sqlite(path, &failure(ffi::SQLITE_CORRUPT)), "nothing was changed: restore a backup"),
            (OpenError::io(path, &io::Error::from_raw_os_error(libc::ENOSPC)), "the disk is full"),
            (OpenError::io(path, &io::Error::from_raw_os_error(libc::EROFS)), "read-only"),
            (OpenError::io(path, &io::Error::from_raw_os_error(libc::EACCES)), "permission denied"),
            (OpenError::io(path, &io::Error::from_raw_os_error(libc::ENOENT)), "is not there: make it"),
            (OpenError::lock(path, &LockError::Held(Some(42))), "another master (process 42): stop it"),
        ] {
            let message = error.to_string();
            assert!(message.contains(expected) && message.contains("/var/lib/x/sloth.db"), "{message}");
        }
    }
}
