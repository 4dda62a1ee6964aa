//! What commands wrote: one file each, `state_dir/output/<id>`, beside the database, not in it.
//!
//! # Format of a file
//!
//! A header of 12 bytes: `slothout`, then the version of the format (1) as a little-endian u32. Then frames:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | kind: 1 standard output, 2 standard error, 3 gap |
//! | 4 | length of what follows, little-endian; 1 byte to 1 MiB for data, 8 for a gap |
//! | … | the data; or the number of bytes that are missing here, little-endian u64 |
//!
//! Frames stand in the order of arrival, and the offset of a frame in the output is the sum of what the frames before
//! it stand for. Only the last frame is ever changed: a gap that grows. A frame that the file's end cuts, and anything
//! that is no frame (a file that grew before its data were written holds zeros there), is cut off when the file is
//! opened: the agent sends again from where the file then ends.

mod format;
mod log;
#[cfg(test)]
mod tests;

use crate::master::ports::{OutputLog, Outputs};
use log::FileLog;
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Bytes of output that are kept of one command, unless the configuration says otherwise: 1 GiB.
pub const OUTPUT_KEEP_DEFAULT: u64 = 1 << 30;

/// The files of a directory.
pub struct FileOutputs {
    directory: PathBuf,
    keep: u64,
    slots: Mutex<Slots>,
}

/// The logs that somebody holds. Each has a lock of its own: while a long one is scanned, others are opened.
#[derive(Default)]
struct Slots {
    by_id: HashMap<String, Arc<Mutex<Weak<FileLog>>>>,
    /// With so many entries the dead ones are looked for.
    sweep_at: usize,
}

impl FileOutputs {
    /// Keeps up to `keep` bytes of each command's data in files of `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// The directory cannot be made; the message names it.
    pub fn new(directory: &Path, keep: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| named(&error, "cannot make the directory", directory))?;
        Ok(Self { directory: directory.to_owned(), keep, slots: Mutex::default() })
    }

    fn path(&self, id: &str) -> io::Result<PathBuf> {
        if link::valid_command_id(id) {
            Ok(self.directory.join(id))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{id:?} is no command's id")))
        }
    }

    fn slot(&self, id: &str) -> Arc<Mutex<Weak<FileLog>>> {
        let mut slots = lock(&self.slots);
        if slots.by_id.len() >= slots.sweep_at {
            slots.by_id.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0);
            slots.sweep_at = slots.by_id.len() * 2 + 64;
        }
        slots.by_id.entry(id.to_owned()).or_default().clone()
    }
}

impl Outputs for FileOutputs {
    fn open(&self, id: &str) -> io::Result<Arc<dyn OutputLog>> {
        let path = self.path(id)?;
        let slot = self.slot(id);
        let mut slot = lock(&slot);
        if let Some(log) = slot.upgrade() {
            return Ok(log);
        }
        let log = Arc::new(FileLog::open(&path, self.keep)?);
        *slot = Arc::downgrade(&log);
        Ok(log)
    }

    fn remove(&self, id: &str) -> io::Result<()> {
        let path = self.path(id)?;
        let slot = self.slot(id);
        let mut slot = lock(&slot);
        if let Some(log) = std::mem::take(&mut *slot).upgrade() {
            log.mark_removed();
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(&error, "cannot remove", &path)),
            _ => Ok(()),
        }
    }
}

/// What a panicking holder leaves behind is whole: every change of it is a single assignment or is made last.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn named(error: &io::Error, what: &str, path: &Path) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{what} {}: {error}{remedy}", path.display()))
}
