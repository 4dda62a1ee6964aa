//! One command's output in one file.

use super::{
    format::{DATA_MAX, Gaps, HEAD, HEADER, Index, Kind, MAGIC, VERSION, Window, encode, header},
    lock, named,
};
use crate::master::ports::{OutputLog, Piece};
use bytes::Bytes;
use proto::OutputStream;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Pieces that one reading returns: bounds what a file full of gaps makes of it.
const PIECES_MAX: usize = 1024;

/// A disk writes whole sectors: eight bytes within one are changed as a whole or not at all.
const SECTOR: u64 = 512;

pub struct FileLog {
    path: PathBuf,
    keep: u64,
    inner: Mutex<Inner>,
    /// As in `inner`, for those who must not wait for a disk.
    received: AtomicU64,
    durable: AtomicU64,
    #[cfg(test)]
    pub sync_fails: std::sync::atomic::AtomicBool,
}

struct Inner {
    /// Made with the first piece: looking for output that does not exist leaves no file.
    file: Option<Arc<File>>,
    state: State,
    /// The directory's entry is on the disk, too.
    entry_durable: bool,
    received: u64,
    durable: u64,
    /// Data in the file, in bytes: what the limit is about.
    stored: u64,
    /// Where the next frame goes.
    end: u64,
    /// If the last frame is a gap.
    last_gap: Option<LastGap>,
    index: Index,
    gaps: Gaps,
    /// The file as it is known to be on the disk.
    mark: Mark,
    /// How often it was cut back.
    cuts: u32,
}

/// A point to cut back to.
#[derive(Clone, Copy)]
struct Mark {
    end: u64,
    last_gap: Option<LastGap>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Removed,
    /// The kernel could not write something, and may have forgotten what; and the file could not be cut back to where
    /// it is durable: nothing can be promised any more.
    SyncFailed,
}

#[derive(Clone, Copy)]
struct LastGap {
    /// Of the eight bytes that hold its size.
    position: u64,
    bytes: u64,
}

impl FileLog {
    /// Reads the heads of all frames, cuts what is torn, and makes durable what is left.
    pub fn open(path: &Path, keep: u64) -> io::Result<Self> {
        let mut inner = Inner::empty();
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                inner.scan(&file, path).map_err(|error| named(&error, "cannot read the output file", path))?;
                sync(&file, path, true)?;
                inner.entry_durable = true;
                inner.durable = inner.received;
                inner.mark = inner.mark();
                inner.file = Some(Arc::new(file));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(named(&error, "cannot open the output file", path)),
        }
        let (received, durable) = (inner.received.into(), inner.durable.into());
        Ok(Self {
            path: path.to_owned(),
            keep,
            inner: Mutex::new(inner),
            received,
            durable,
            #[cfg(test)]
            sync_fails: false.into(),
        })
    }

    /// The file is gone: nothing may be written that would make it again.
    pub fn mark_removed(&self) {
        lock(&self.inner).state = State::Removed;
    }

    fn sync_file(&self, file: &File, entry: bool) -> io::Result<()> {
        #[cfg(test)]
        if self.sync_fails.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        sync(file, &self.path, entry)
    }

    fn check(&self, state: State) -> io::Result<()> {
        let why = match state {
            State::Open => return Ok(()),
            State::Removed => "it was removed",
            State::SyncFailed => "the disk failed to take what was written before",
        };
        Err(io::Error::other(format!("cannot write the output file {}: {why}", self.path.display())))
    }

    fn hole(&self, offset: u64, received: u64) -> io::Error {
        let path = self.path.display();
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("output at {offset} for {path}, which ends at {received}: what lies between is missing"),
        )
    }

    fn write(&self, inner: &mut Inner, piece: Piece) -> io::Result<()> {
        let (offset, bytes) = match &piece {
            Piece::Data { offset, data, .. } => (*offset, data.len() as u64),
            Piece::Gap { offset, bytes } => (*offset, *bytes),
        };
        let end = offset.checked_add(bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{bytes} bytes of output at {offset}: no such offset"))
        })?;
        if offset > inner.received {
            return Err(self.hole(offset, inner.received));
        }
        if end <= inner.received {
            return Ok(());
        }
        let file = match &inner.file {
            Some(file) => file.clone(),
            None => inner.file.insert(Arc::new(create(&self.path)?)).clone(),
        };
        match piece {
            Piece::Gap { .. } => inner.add_gap(&file, end - inner.received),
            Piece::Data { stream, data, .. } => {
                let known = usize::try_from(inner.received - offset).expect("less than the piece's length");
                let data = data.slice(known..);
                let room = usize::try_from(self.keep.saturating_sub(inner.stored)).unwrap_or(usize::MAX);
                let (kept, dropped) = data.split_at(room.min(data.len()));
                for chunk in kept.chunks(DATA_MAX) {
                    inner.add_data(&file, stream, chunk)?;
                }
                if dropped.is_empty() { Ok(()) } else { inner.add_gap(&file, dropped.len() as u64) }
            }
        }
    }
}

impl Inner {
    fn empty() -> Self {
        Self {
            file: None,
            state: State::Open,
            entry_durable: false,
            received: 0,
            durable: 0,
            stored: 0,
            end: HEADER,
            last_gap: None,
            index: Index::new(),
            gaps: Gaps::default(),
            mark: Mark { end: HEADER, last_gap: None },
            cuts: 0,
        }
    }

    fn mark(&self) -> Mark {
        Mark { end: self.end, last_gap: self.last_gap }
    }

    /// Drops what could not be made durable: after a failed sync the kernel may show bytes that never reach the disk, and
    /// call the next sync a success. Nobody was told that they are safe, so the agent has them, and sends them again.
    fn cut_back(&mut self, file: &File, path: &Path) -> io::Result<()> {
        let Mark { end, last_gap } = self.mark;
        file.set_len(end)?;
        // Also what was never on the disk, or has changed in place since.
        file.write_all_at(&header(), 0)?;
        if let Some(gap) = last_gap {
            file.write_all_at(&gap.bytes.to_le_bytes(), gap.position)?;
        }
        let mut inner = Self::empty();
        inner.scan(file, path)?;
        if inner.received != self.durable {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what was durable is not there any more"));
        }
        inner.durable = inner.received;
        inner.mark = self.mark;
        inner.entry_durable = self.entry_durable;
        inner.cuts = self.cuts + 1;
        inner.file = self.file.take();
        *self = inner;
        Ok(())
    }

    fn scan(&mut self, file: &File, path: &Path) -> io::Result<()> {
        let length = file.metadata()?.len();
        let mut window = Window::new(file, Window::SIZE_MAX);
        check_header(window.peek(0, HEADER as usize)?)?;
        if length < HEADER {
            file.set_len(0)?;
            return file.write_all_at(&header(), 0);
        }
        while let Some(frame) = window.frame(self.end, length)? {
            let Some(received) = self.received.checked_add(frame.bytes) else { break };
            self.index.note(self.received, self.end);
            self.last_gap = None;
            if frame.kind == Kind::Gap {
                self.gaps.add(self.received, frame.bytes);
                self.last_gap = Some(LastGap { position: frame.position, bytes: frame.bytes });
            } else {
                self.stored += frame.bytes;
            }
            self.received = received;
            self.end = frame.end;
        }
        if self.end < length {
            log::info!("Cut {} torn bytes off the end of {}", length - self.end, path.display());
            file.set_len(self.end)?;
        }
        Ok(())
    }

    fn add_data(&mut self, file: &File, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        let kind = match stream {
            OutputStream::Stdout => Kind::Stdout,
            OutputStream::Stderr => Kind::Stderr,
        };
        self.add_frame(file, kind, data)?;
        self.received += data.len() as u64;
        self.stored += data.len() as u64;
        self.last_gap = None;
        Ok(())
    }

    fn add_gap(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.last_gap = Some(match self.last_gap {
            Some(gap) if gap.position / SECTOR == (gap.position + 7) / SECTOR => {
                let bytes = gap.bytes + bytes;
                file.write_all_at(&bytes.to_le_bytes(), gap.position)?;
                LastGap { bytes, ..gap }
            }
            _ => {
                let position = self.end + HEAD;
                self.add_frame(file, Kind::Gap, &bytes.to_le_bytes())?;
                LastGap { position, bytes }
            }
        });
        self.gaps.add(self.received, bytes);
        self.received += bytes;
        Ok(())
    }

    fn add_frame(&mut self, file: &File, kind: Kind, content: &[u8]) -> io::Result<()> {
        let frame = encode(kind, content);
        if let Err(error) = file.write_all_at(&frame, self.end) {
            // What was written of it must not stand behind a shorter frame that comes next. If even this fails the
            // next opening cuts it, or finds the same bytes overwritten by the same frame, sent again.
            let _ = file.set_len(self.end);
            return Err(error);
        }
        self.index.note(self.received, self.end);
        self.end += frame.len() as u64;
        Ok(())
    }
}

impl OutputLog for FileLog {
    fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    fn append(&self, piece: Piece) -> io::Result<u64> {
        let mut inner = lock(&self.inner);
        self.check(inner.state)?;
        let written = self.write(&mut inner, piece);
        // Also after an error: a part may have been taken.
        self.received.store(inner.received, Ordering::Release);
        written.map(|()| inner.received).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => error,
            _ => named(&error, "cannot write the output file", &self.path),
        })
    }

    fn sync(&self) -> io::Result<u64> {
        let (file, received, mark, first, cuts) = {
            let inner = lock(&self.inner);
            self.check(inner.state)?;
            match &inner.file {
                Some(file) if inner.durable < inner.received => {
                    (file.clone(), inner.received, inner.mark(), !inner.entry_durable, inner.cuts)
                }
                _ => return Ok(inner.durable),
            }
        };
        // Without the lock: what comes in meanwhile waits for the next one.
        let synced = self.sync_file(&file, first);
        let mut inner = lock(&self.inner);
        if inner.cuts != cuts {
            // Another one failed meanwhile: what this one wrote is cut off, and comes again.
            return synced.map(|()| inner.durable);
        }
        match synced {
            Ok(()) => {
                if received > inner.durable {
                    (inner.durable, inner.mark) = (received, mark);
                }
                self.durable.store(inner.durable, Ordering::Release);
                inner.entry_durable = true;
                Ok(inner.durable)
            }
            Err(error) => {
                if inner.state == State::Open && inner.cut_back(&file, &self.path).is_err() {
                    inner.state = State::SyncFailed;
                }
                self.received.store(inner.received, Ordering::Release);
                Err(error)
            }
        }
    }

    fn read(&self, offset: u64, max_bytes: usize) -> io::Result<Vec<Piece>> {
        let (file, end, last_gap, start, cuts) = {
            let inner = lock(&self.inner);
            match &inner.file {
                Some(file) if offset < inner.received => {
                    (file.clone(), inner.end, inner.last_gap, inner.index.find(offset), inner.cuts)
                }
                _ => return Ok(Vec::new()),
            }
        };
        let read = Reading {
            window: Window::new(&file, max_bytes),
            end,
            last_gap,
            offset,
            left: max_bytes.max(1),
            pieces: Vec::new(),
        }
        .run(start);
        match read {
            // What was read was cut off meanwhile, and comes again.
            _ if lock(&self.inner).cuts != cuts => Ok(Vec::new()),
            read => read.map_err(|error| named(&error, "cannot read the output file", &self.path)),
        }
    }

    fn gaps(&self) -> Vec<(u64, u64)> {
        lock(&self.inner).gaps.0.clone()
    }
}

/// One walk over the frames, as they stood when it began.
struct Reading<'a> {
    window: Window<'a>,
    end: u64,
    /// The one frame that may change meanwhile, as it was.
    last_gap: Option<LastGap>,
    /// Wanted next.
    offset: u64,
    left: usize,
    pieces: Vec<(u64, Content)>,
}

enum Content {
    Data(OutputStream, Vec<u8>),
    Gap(u64),
}

impl Reading<'_> {
    fn run(mut self, (mut offset, mut position): (u64, u64)) -> io::Result<Vec<Piece>> {
        while position < self.end && self.left > 0 && self.pieces.len() < PIECES_MAX {
            let Some(mut frame) = self.window.frame(position, self.end)? else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no frame at byte {position}")));
            };
            if let Some(gap) = self.last_gap.filter(|gap| gap.position == frame.position) {
                frame.bytes = gap.bytes;
            }
            let next = offset + frame.bytes;
            if next > self.offset {
                let skip = self.offset - offset;
                match frame.kind {
                    Kind::Gap => self.gap(frame.bytes - skip),
                    Kind::Stdout => self.data(OutputStream::Stdout, frame.position + skip, frame.bytes - skip)?,
                    Kind::Stderr => self.data(OutputStream::Stderr, frame.position + skip, frame.bytes - skip)?,
                }
            }
            offset = next;
            position = frame.end;
        }
        Ok(self.pieces.into_iter().map(|(offset, content)| content.into_piece(offset)).collect())
    }

    fn gap(&mut self, bytes: u64) {
        match self.pieces.last_mut() {
            Some((_, Content::Gap(last))) => *last += bytes,
            _ => self.pieces.push((self.offset, Content::Gap(bytes))),
        }
        self.offset += bytes;
    }

    /// Takes from a frame what is still wanted. Neighbours of the same stream become one piece: a command that writes
    /// byte by byte costs its readers no message for each.
    fn data(&mut self, stream: OutputStream, mut position: u64, bytes: u64) -> io::Result<()> {
        let mut wanted = usize::try_from(bytes).map_or(self.left, |bytes| bytes.min(self.left));
        if !matches!(self.pieces.last(), Some((_, Content::Data(last, _))) if *last == stream) {
            self.pieces.push((self.offset, Content::Data(stream, Vec::with_capacity(wanted))));
        }
        let Some((_, Content::Data(_, data))) = self.pieces.last_mut() else { unreachable!("pushed above") };
        while wanted > 0 {
            let found = self.window.peek(position, wanted)?;
            if found.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            data.extend_from_slice(found);
            wanted -= found.len();
            position += found.len() as u64;
            self.left -= found.len();
            self.offset += found.len() as u64;
        }
        Ok(())
    }
}

impl Content {
    fn into_piece(self, offset: u64) -> Piece {
        match self {
            Self::Gap(bytes) => Piece::Gap { offset, bytes },
            Self::Data(stream, data) => Piece::Data { offset, stream, data: Bytes::from(data) },
        }
    }
}

fn check_header(found: &[u8]) -> io::Result<()> {
    let torn = found.len() < HEADER as usize && header().starts_with(found);
    if torn || found == header() {
        return Ok(());
    }
    let message = match found.strip_prefix(MAGIC).and_then(|version| version.try_into().ok()) {
        Some(version) => format!(
            "it has format version {}, this master knows up to {VERSION}: start the newer one",
            u32::from_le_bytes(version)
        ),
        None => "it is no output file; move it away".to_owned(),
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    if let Err(error) = file.write_all_at(&header(), 0) {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

fn sync(file: &File, path: &Path, entry: bool) -> io::Result<()> {
    let synced = file.sync_data().and_then(|()| match path.parent() {
        Some(directory) if entry => File::open(directory)?.sync_all(),
        _ => Ok(()),
    });
    synced.map_err(|error| named(&error, "cannot make durable the output file", path))
}
