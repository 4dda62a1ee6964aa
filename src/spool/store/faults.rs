//! A disk in memory that knows what a crash would leave of it, and fails where a test wants it to.

use crate::spool::disk::Disk;
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

/// The same disk for all its clones.
#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Default)]
struct Inner {
    contents: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes so far: writes, syncs, renames, removals.
    changes: usize,
    pub syncs: usize,
    pub written: usize,
    fault: Option<(usize, Fault)>,
    died: bool,
    held: bool,
    hangs: bool,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// From this change on there is no room: what is written is written in part, and does not get synced.
    Full,
    /// From this change on none is made.
    Broken,
    /// Nothing comes after half of this change, and nobody hears of it.
    Death,
}

/// What is left of a disk after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process died, the machine did not.
    Nothing,
    /// What was not synced.
    Unsynced,
    /// Half of what was written since the sync.
    Half,
    /// What was written since the sync is zeros.
    Zeros,
    /// What was not synced, but for names.
    Contents,
}

pub const LOSSES: [Loss; 5] = [Loss::Nothing, Loss::Unsynced, Loss::Half, Loss::Zeros, Loss::Contents];

impl FaultyDisk {
    pub fn boxed(&self) -> Box<dyn Disk> {
        Box::new(self.clone())
    }

    /// The n-th change from now on, from 0.
    pub fn fail_at(&self, n: usize, fault: Fault) {
        let mut inner = self.lock();
        inner.fault = Some((inner.changes + n, fault));
    }

    /// Whether nobody hears of it when the disk has died, as after a death of the whole process.
    pub fn hang_when_dead(&self, hangs: bool) {
        self.lock().hangs = hangs;
        self.0.1.notify_all();
    }

    pub fn died(&self) -> bool {
        self.lock().died
    }

    /// Changes, syncs and bytes so far.
    pub fn counts(&self) -> (usize, usize, usize) {
        let inner = self.lock();
        (inner.changes, inner.syncs, inner.written)
    }

    /// Syncs wait until this is undone.
    pub fn hold(&self, hold: bool) {
        self.lock().held = hold;
        self.0.1.notify_all();
    }

    /// The disk as the next start finds it.
    pub fn after(&self, loss: Loss) -> Self {
        let inner = self.lock();
        let left = |content: &Content| {
            let since = content.bytes.strip_prefix(&content.durable[..]).unwrap_or_default();
            let bytes = match loss {
                Loss::Nothing => content.bytes.clone(),
                Loss::Unsynced | Loss::Contents => content.durable.clone(),
                Loss::Half => [&content.durable[..], &since[..since.len() / 2]].concat(),
                Loss::Zeros => [&content.durable[..], &vec![0; since.len()][..]].concat(),
            };
            Content { durable: bytes.clone(), bytes }
        };
        let names = if matches!(loss, Loss::Nothing | Loss::Contents) { &inner.names } else { &inner.durable_names };
        let after = Inner {
            contents: inner.contents.iter().map(left).collect(),
            names: names.clone(),
            durable_names: names.clone(),
            ..Inner::default()
        };
        Self(Arc::new((Mutex::new(after), Condvar::new())))
    }

    pub fn change_file(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        let index = inner.names[file];
        change(&mut inner.contents[index].bytes);
        inner.contents[index].durable = inner.contents[index].bytes.clone();
    }

    pub fn files(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap()
    }

    /// Counts a change; how much of it is to be done, and what it returns.
    fn change(&self) -> (MutexGuard<'_, Inner>, usize, io::Result<()>) {
        let inner = self.lock();
        let mut inner = self.0.1.wait_while(inner, |inner| inner.died && inner.hangs).unwrap();
        let now = inner.changes;
        inner.changes += 1;
        match inner.fault {
            _ if inner.died => (inner, 0, Err(ErrorKind::NotConnected.into())),
            Some((at, Fault::Full)) if now >= at => (inner, 1, Err(ErrorKind::StorageFull.into())),
            Some((at, Fault::Broken)) if now >= at => (inner, 0, Err(ErrorKind::ReadOnlyFilesystem.into())),
            Some((at, Fault::Death)) if now == at => {
                inner.died = true;
                (inner, 1, Err(ErrorKind::NotConnected.into()))
            }
            _ => (inner, 2, Ok(())),
        }
    }

    /// The result, unless the disk has died with it and nobody is to hear.
    fn hear(&self, result: io::Result<()>) -> io::Result<()> {
        let _inner = self.0.1.wait_while(self.lock(), |inner| inner.died && inner.hangs).unwrap();
        result
    }

    fn write(&self, file: &str, bytes: &[u8], empty: bool) -> io::Result<()> {
        let (mut inner, halves, result) = self.change();
        if halves == 0 {
            return result;
        }
        let next = inner.contents.len();
        let index = *inner.names.entry(file.to_owned()).or_insert(next);
        if index == next {
            inner.contents.push(Content::default());
        }
        let part = &bytes[..bytes.len() * halves / 2];
        inner.written += part.len();
        let content = &mut inner.contents[index];
        if empty {
            content.bytes.clear();
        }
        content.bytes.extend_from_slice(part);
        drop(inner);
        self.hear(result)
    }
}

impl Inner {
    fn is_full(&self) -> bool {
        matches!(self.fault, Some((_, Fault::Full))) && !self.died
    }
}

impl Disk for FaultyDisk {
    fn read(&mut self, file: &str) -> io::Result<Vec<u8>> {
        let inner = self.lock();
        let index = inner.names.get(file).ok_or(ErrorKind::NotFound)?;
        Ok(inner.contents[*index].bytes.clone())
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files())
    }

    fn create(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(file, bytes, true)
    }

    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(file, bytes, false)
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        let (mut inner, halves, result) = self.change();
        if halves == 2 || inner.is_full() {
            let index = inner.names[file];
            inner.contents[index].bytes.truncate(length as usize);
            return Ok(());
        }
        drop(inner);
        self.hear(result)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        let (mut inner, halves, result) = self.change();
        inner.syncs += 1;
        let mut inner = self.0.1.wait_while(inner, |inner| inner.held).unwrap();
        if halves == 2 {
            let index = inner.names[file];
            inner.contents[index].durable = inner.contents[index].bytes.clone();
        }
        drop(inner);
        self.hear(result)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (mut inner, halves, result) = self.change();
        if halves == 2 || inner.is_full() {
            let index = inner.names.remove(from).ok_or(ErrorKind::NotFound)?;
            inner.names.insert(to.to_owned(), index);
            return Ok(());
        }
        drop(inner);
        self.hear(result)
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        let (mut inner, halves, result) = self.change();
        if halves == 2 || inner.is_full() {
            inner.names.remove(file);
            return Ok(());
        }
        drop(inner);
        self.hear(result)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        let (mut inner, halves, result) = self.change();
        inner.syncs += 1;
        if halves == 2 || inner.is_full() {
            inner.durable_names = inner.names.clone();
            return Ok(());
        }
        drop(inner);
        self.hear(result)
    }
}
