//! The spool's files, written and read. Blocking: it belongs on the helper thread.
//!
//! After an error a store must not be written any more: nobody knows what is on the disk then. What was promised
//! before is read when it is opened the next time.

#[cfg(test)]
pub mod faults;
#[cfg(test)]
mod tests;

use super::{
    disk::Disk,
    format::{Change, Chunk, Content, Place, Record, Rest},
    frame::{self, Head, Kind, Scan},
    replay::{Life, Stage, forget, replay},
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    io::{self, ErrorKind},
    sync::Arc,
};

/// About so much is written at once: output may be far more than there should be in memory a second time.
const WRITE_MAX: usize = 256 * 1024;
const JOURNAL: &str = "journal";
const JOURNAL_NEW: &str = "journal.new";
const JOURNAL_BAD: &str = "journal.bad";
/// A journal that could not be written any more while its agent went on in memory.
const JOURNAL_STALE: &str = "journal.stale";
const OUTPUT: &str = ".out";
const OUTPUT_NEW: &str = ".out.new";

/// A journal is rewritten once it is so long and twice as long as after its last rewriting: so nothing is written more
/// than about twice.
const REWRITE_MIN: u64 = 256 * 1024;

pub struct Store {
    disk: Box<dyn Disk>,
    keep: Keep,
    spool_id: [u8; 16],
    /// Of the journal.
    length: u64,
    /// … when it was last rewritten.
    rewritten: u64,
    /// Lengths of the output files.
    outputs: BTreeMap<String, u64>,
}

/// For how long, and how many outcomes are remembered after their acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    pub remember_ms: u64,
    pub tombstones_max: usize,
}

/// A store and what was in it.
pub struct Opened {
    pub store: Store,
    pub lives: Vec<Life>,
    /// Output that the master may not have, by command, in its order. There may be holes where damage was.
    pub outputs: BTreeMap<String, Vec<Chunk>>,
    /// For people: what was found wrong.
    pub notices: Vec<String>,
}

/// What is to be written at once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub outputs: Vec<Written>,
    pub records: Vec<Record>,
    /// The records, and outputs that they speak of, are promised once this is done.
    pub durable: bool,
    /// Commands of which the output file is not needed any more.
    pub removed: Vec<String>,
}

/// Output of one command. It stays with whoever holds it until it is written: of what may be megabytes there is no
/// second copy, however long the disk takes.
#[derive(Clone, Debug)]
pub struct Written {
    pub id: String,
    pub output: Arc<dyn Output>,
    pub from: u64,
    pub to: u64,
    /// In the place of what the file held.
    pub fresh: bool,
    pub durable: bool,
}

/// Where output is held.
pub trait Output: Send + Sync + fmt::Debug {
    /// What stands at `from`, or behind it where the master has that meanwhile; `None`: nothing below `to`.
    fn chunk(&self, from: u64, to: u64) -> Option<Chunk>;
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.records.is_empty() && self.removed.is_empty()
    }
}

impl Store {
    /// Reads what is there, and makes what is missing. `fresh_id` is the spool's id if it has none, or if so much is
    /// damaged that accepted commands may have been forgotten. Durable when it returns.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn open(mut disk: Box<dyn Disk>, keep: Keep, fresh_id: [u8; 16], now_unix_ms: u64) -> io::Result<Opened> {
        let mut notices = Vec::new();
        let mut stale = false;
        let file = match read(&mut *disk, JOURNAL)? {
            Some(file) => Some(file),
            None => {
                let left = read(&mut *disk, JOURNAL_STALE)?;
                stale = left.is_some();
                left
            }
        };
        let scan = file.as_ref().map(|file| frame::scan(Kind::Journal, file));
        let (records, unknown) = file.as_ref().zip(scan.as_ref()).map_or((Vec::new(), 0), |(f, s)| records(f, s));
        let found = records.len();
        let mut lives = replay(records);
        forget(&mut lives, now_unix_ms, keep.remember_ms, keep.tombstones_max);
        if stale {
            notices.push(
                "it could not be written any more in an earlier run: what is not known to have ended is interrupted"
                    .to_owned(),
            );
            lives.iter_mut().for_each(Life::doubt);
        }
        let (spool_id, damaged) = match &scan {
            Some(Scan { head: Head::Good { spool_id }, damaged: 0, .. }) if unknown == 0 => (Some(*spool_id), false),
            Some(_) => (None, true),
            None => (None, false),
        };
        let spool_id = spool_id.filter(|_| !stale).unwrap_or(fresh_id);
        if let Some(what) = scan.as_ref().and_then(|scan| wrong(scan, unknown)) {
            if damaged {
                disk.create(JOURNAL_BAD, file.as_deref().unwrap_or_default())?;
                notices.push(format!("{what}; it is kept as {JOURNAL_BAD}, and {} commands were read", lives.len()));
            } else {
                notices.push(what);
            }
        }
        let length = file.as_ref().map_or(0, |file| file.len() as u64);
        let mut store = Self { disk, keep, spool_id, length, rewritten: 0, outputs: BTreeMap::new() };
        let outputs = store.read_outputs(&lives, &mut notices)?;
        let needed: usize = lives.iter().map(|life| life.records().len()).sum();
        let whole = scan.as_ref().is_some_and(Scan::is_whole) && unknown == 0;
        if !whole || stale || found > 2 * needed + 64 {
            store.rewrite(&lives)?;
        } else {
            store.rewritten = length;
        }
        store.disk.remove(JOURNAL_STALE)?;
        Ok(Opened { store, lives, outputs, notices })
    }

    pub fn spool_id(&self) -> [u8; 16] {
        self.spool_id
    }

    /// # Errors
    /// The store must not be used any more. Its journal is set aside, as far as that can still be done, for the next
    /// start not to take for the truth what this one knows better.
    pub fn apply(&mut self, batch: &Batch) -> io::Result<()> {
        let written = self.write(batch);
        self.set_aside_after(written)
    }

    fn set_aside_after(&mut self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            let _ = self.disk.rename(JOURNAL, JOURNAL_STALE).and_then(|()| self.disk.sync_folder());
        }
        result
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut made = false;
        for output in &batch.outputs {
            made |= self.write_output(output)?;
        }
        if made {
            self.disk.sync_folder()?;
        }
        if !batch.records.is_empty() {
            let before = self.length;
            let appended = self.append(batch);
            if appended.is_err() {
                // What was refused for want of a record should not have one.
                let _ = self.disk.truncate(JOURNAL, before);
            }
            appended?;
        }
        for id in &batch.removed {
            if self.outputs.remove(id).is_some() {
                self.disk.remove(&format!("{id}{OUTPUT}"))?;
            }
        }
        Ok(())
    }

    /// Enough of the journal is of no use any more.
    pub fn wants_rewrite(&self) -> bool {
        self.length > REWRITE_MIN.max(2 * self.rewritten)
    }

    /// Writes the journal anew with what is still needed.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn compact(&mut self, now_unix_ms: u64) -> io::Result<()> {
        let compacted = self.write_anew(now_unix_ms);
        self.set_aside_after(compacted)
    }

    fn write_anew(&mut self, now_unix_ms: u64) -> io::Result<()> {
        let file = self.disk.read(JOURNAL)?;
        let scan = frame::scan(Kind::Journal, &file);
        let (records, unknown) = records(&file, &scan);
        if !scan.is_whole() || unknown > 0 {
            return Err(io::Error::new(ErrorKind::InvalidData, "its journal is not what was written to it"));
        }
        let mut lives = replay(records);
        forget(&mut lives, now_unix_ms, self.keep.remember_ms, self.keep.tombstones_max);
        self.rewrite(&lives)
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in &batch.records {
            frame::write(&self.spool_id, self.length + bytes.len() as u64, &record.encode(), &mut bytes);
        }
        self.disk.append(JOURNAL, &bytes)?;
        self.length += bytes.len() as u64;
        if batch.durable {
            self.disk.sync(JOURNAL)?;
        }
        Ok(())
    }

    /// Whether the folder has to be synced for it.
    fn write_output(&mut self, written: &Written) -> io::Result<bool> {
        let name = format!("{}{OUTPUT}", written.id);
        let held = self.outputs.get(&written.id).copied().filter(|_| !written.fresh);
        // Never without what it held before, should this be the last that is written.
        let new = format!("{}{OUTPUT_NEW}", written.id);
        let mut bytes = Vec::new();
        if held.is_none() {
            self.disk.create(&new, &[])?;
            bytes.extend_from_slice(&frame::header(Kind::Output, self.spool_id));
        }
        let file = if held.is_some() { &name } else { &new };
        let mut at = held.unwrap_or(0);
        let mut from = written.from;
        while let Some(chunk) = written.output.chunk(from, written.to) {
            from = chunk.offset + chunk.content.len();
            frame::write(&self.spool_id, at + bytes.len() as u64, &chunk.encode(), &mut bytes);
            if bytes.len() >= WRITE_MAX {
                self.disk.append(file, &bytes)?;
                at += bytes.len() as u64;
                bytes.clear();
            }
        }
        self.disk.append(file, &bytes)?;
        if held.is_none() {
            if written.durable {
                self.disk.sync(&new)?;
            }
            self.disk.rename(&new, &name)?;
        }
        self.outputs.insert(written.id.clone(), at + bytes.len() as u64);
        if written.durable && held.is_some() {
            self.disk.sync(&name)?;
        }
        // A file that was made before without a sync has its name synced only now, too.
        Ok(written.durable)
    }

    fn rewrite(&mut self, lives: &[Life]) -> io::Result<()> {
        let mut bytes = frame::header(Kind::Journal, self.spool_id).to_vec();
        for record in lives.iter().flat_map(Life::records) {
            let at = bytes.len() as u64;
            frame::write(&self.spool_id, at, &record.encode(), &mut bytes);
        }
        self.disk.create(JOURNAL_NEW, &bytes)?;
        self.disk.sync(JOURNAL_NEW)?;
        self.disk.rename(JOURNAL_NEW, JOURNAL)?;
        self.disk.sync_folder()?;
        self.length = bytes.len() as u64;
        self.rewritten = self.length;
        Ok(())
    }

    /// Removes the files that belong to nothing.
    fn read_outputs(&mut self, lives: &[Life], notices: &mut Vec<String>) -> io::Result<BTreeMap<String, Vec<Chunk>>> {
        let mut wanted: HashSet<&str> = HashSet::new();
        let mut outputs = BTreeMap::new();
        for life in lives {
            match &life.stage {
                Stage::MayRun { .. } => _ = wanted.insert(&life.id),
                Stage::Finished { output: Rest { place: Place::File, .. }, .. } => _ = wanted.insert(&life.id),
                Stage::Finished { output: Rest { from, place: Place::Here(contents) }, .. } => {
                    outputs.insert(life.id.clone(), placed(*from, contents));
                }
                Stage::Accepted | Stage::Acknowledged { .. } => {}
            }
        }
        for name in self.disk.list()? {
            let id = name.strip_suffix(OUTPUT);
            if id.is_none() && !name.ends_with(OUTPUT_NEW) {
                continue;
            }
            let Some(id) = id.filter(|id| wanted.contains(id)) else {
                self.disk.remove(&name)?;
                continue;
            };
            let file = self.disk.read(&name)?;
            self.outputs.insert(id.to_owned(), file.len() as u64);
            let scan = frame::scan(Kind::Output, &file);
            let chunks = chunks(file, &scan);
            let unknown = scan.bodies.len() - chunks.len();
            if let Some(what) = wrong(&scan, unknown) {
                notices.push(format!("{name}: {what}"));
            }
            outputs.insert(id.to_owned(), chunks);
        }
        Ok(outputs)
    }
}

fn read(disk: &mut dyn Disk, file: &str) -> io::Result<Option<Vec<u8>>> {
    match disk.read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The records of a journal, and how many frames hold none.
fn records(file: &[u8], scan: &Scan) -> (Vec<Record>, usize) {
    let records: Vec<_> = scan.bodies.iter().filter_map(|body| Record::decode(&file[body.clone()])).collect();
    let unknown = scan.bodies.len() - records.len();
    (records, unknown)
}

/// The output in a file. From its end, which is given back as it is read: a box whose memory all of it fills once must
/// be able to start again.
fn chunks(mut file: Vec<u8>, scan: &Scan) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for body in scan.bodies.iter().rev() {
        chunks.extend(Chunk::decode(&file[body.clone()]));
        file.truncate(body.start);
        if file.capacity() - file.len() > 4 * WRITE_MAX {
            file.shrink_to_fit();
        }
    }
    chunks.reverse();
    chunks
}

/// In words; `None`: nothing is.
fn wrong(scan: &Scan, unknown: usize) -> Option<String> {
    if let Head::OtherVersion(version) = scan.head {
        return Some(format!("it is of version {version}, and this program reads version {}", frame::VERSION));
    }
    let mut found = Vec::new();
    if scan.torn > 0 {
        found.push(format!(
            "the last write did not come to its end ({} bytes, of which nothing was promised)",
            scan.torn
        ));
    }
    if scan.damaged > 0 {
        found.push(format!("{} bytes are damaged", scan.damaged));
    }
    if unknown > 0 {
        found.push(format!("{unknown} records are of no known kind"));
    }
    (!found.is_empty()).then(|| found.join(", "))
}

fn placed(from: u64, contents: &[Content]) -> Vec<Chunk> {
    let mut offset = from;
    let place = |content: &Content| {
        let chunk = Chunk { offset, content: content.clone() };
        offset = offset.saturating_add(content.len());
        chunk
    };
    contents.iter().map(place).collect()
}

/// Says that a command finished, with this output behind `from`.
pub fn finished(id: String, finish: link::ledger::Finish, from: u64, place: Place) -> Record {
    Record { id, change: Change::Finished { finish, output: Rest { from, place } } }
}
