//! The folder of the spool: the seam where tests put a disk that is slow, full, or dies.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How often, and how far apart, a file is tried to be opened while all descriptors are taken: by commands that start,
/// for the most part, and give them back in a moment. Not to be confused with a disk that fails.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Files of one folder, by name. Every call may block for as long as a disk can hang.
pub trait Disk: Send {
    fn read(&mut self, file: &str) -> io::Result<Vec<u8>>;
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// Makes the file, or empties it, and writes this into it.
    fn create(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file if it is missing.
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()>;
    /// The content of the file would survive a crash of the machine. Of a new file, the folder has to be synced, too.
    fn sync(&mut self, file: &str) -> io::Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, file: &str) -> io::Result<()>;
    /// What was made, renamed and removed would survive a crash of the machine.
    fn sync_folder(&mut self) -> io::Result<()>;
}

/// A real folder, its files readable by their owner alone.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The file that was written last: it is the journal nearly always.
    open: Option<(String, File)>,
}

impl Folder {
    /// Makes the folder if it is missing, durably.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                if let Some(parent) = path.parent() {
                    patiently(|| File::open(parent))?.sync_all()?;
                }
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Self { path: path.to_owned(), open: None })
    }

    fn opened(&mut self, file: &str) -> io::Result<&mut File> {
        if self.open.as_ref().is_none_or(|(name, _)| name != file) {
            let path = self.path.join(file);
            let opened = patiently(|| OpenOptions::new().append(true).create(true).mode(0o600).open(&path))?;
            self.open = Some((file.to_owned(), opened));
        }
        Ok(&mut self.open.as_mut().expect("it was just opened").1)
    }
}

impl Disk for Folder {
    fn read(&mut self, file: &str) -> io::Result<Vec<u8>> {
        patiently(|| fs::read(self.path.join(file)))
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.open = None;
        let path = self.path.join(file);
        patiently(|| OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path))?
            .write_all(bytes)
    }

    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.opened(file)?.write_all(bytes)
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.opened(file)?.set_len(length)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        self.opened(file)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open = None;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.open = None;
        match fs::remove_file(self.path.join(file)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        patiently(|| File::open(&self.path))?.sync_all()
    }
}

fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let no_descriptor = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    for _ in 1..TRIES {
        match open() {
            Err(error) if no_descriptor(&error) => thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
    open()
}
