//! What the process of a command and its output call share.

use super::{
    output::{OutputQueue, Piece},
    stdin::{Refused, Stdin},
};
use crate::{
    config::WhenFull,
    spool::{
        format::{Chunk, Place},
        store::Output,
    },
};
use proto::{OutputStream, StdinChunk};
use std::io::{self, ErrorKind};
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use tokio::sync::Notify;

/// The limits that all commands share.
#[derive(Debug)]
pub struct Pool {
    /// Of one command.
    pub output_limit: u64,
    /// Of all commands together.
    pub spool_limit: u64,
    pub when_full: WhenFull,
    cost: AtomicU64,
    link_up: AtomicBool,
    /// Room was made somewhere, or the link came or went. Wakes every waiting process.
    pub changed: Notify,
    /// Some output is neither with the master nor on the disk.
    dirty: AtomicBool,
    /// … which was not so before.
    pub dirtied: Notify,
}

/// What to write to a command's output file: what stands between these offsets.
#[derive(Debug, PartialEq, Eq)]
pub struct Spill {
    pub from: u64,
    pub to: u64,
    /// In the place of what the file holds: the master has that.
    pub fresh: bool,
}

/// A command's output file shrinks to what is needed once it holds so much beside twice that.
const FILE_SLACK: u64 = 1024 * 1024;

/// Output so short stands in the record of a command's end: a file of its own would cost two syncs more.
pub const INLINE_MAX: u64 = 16 * 1024;

/// What may be done with output that waits in a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many bytes may be read, at least one.
    Read(usize),
    Discard,
    Stall,
}

/// Output and input of one command that has started.
#[derive(Debug)]
pub struct Held {
    pub id: String,
    pub pool: Arc<Pool>,
    state: Mutex<State>,
    /// There is standard input to write. The process's task waits for it.
    pub to_process: Notify,
    /// There is something to send, or the command has ended. The delivering task waits for it.
    pub to_call: Notify,
}

#[derive(Debug)]
struct State {
    output: OutputQueue,
    /// `None`: the command has none.
    stdin: Option<Stdin>,
    ended: bool,
    /// The master holds outcome and output.
    forgotten: bool,
    file: OutputFile,
}

/// What the command's file in the spool holds.
#[derive(Debug, Default)]
struct OutputFile {
    /// Everything below is in it, or with the master.
    upto: u64,
    /// All that was written to it since it was fresh.
    bytes: u64,
    /// Where the output ended when it was looked at before.
    seen: u64,
}

impl Pool {
    pub fn new(output_limit: u64, spool_limit: u64, when_full: WhenFull) -> Self {
        Self {
            output_limit,
            spool_limit,
            when_full,
            cost: AtomicU64::new(0),
            link_up: AtomicBool::new(false),
            changed: Notify::new(),
            dirty: AtomicBool::new(false),
            dirtied: Notify::new(),
        }
    }

    /// Output held by all commands together.
    pub fn held_bytes(&self) -> u64 {
        self.cost.load(Relaxed)
    }

    /// From now on new output is told of again.
    pub fn look_again(&self) {
        self.dirty.store(false, Relaxed);
    }

    fn soil(&self) {
        if !self.dirty.swap(true, Relaxed) {
            self.dirtied.notify_one();
        }
    }

    pub fn set_link(&self, up: bool) {
        self.link_up.store(up, Relaxed);
        self.changed.notify_waiters();
    }
}

impl Held {
    pub fn new(id: String, pool: Arc<Pool>, stdin: bool) -> Self {
        let stdin = stdin.then(Stdin::default);
        Self::with_state(id, pool, OutputQueue::default(), stdin, false)
    }

    /// Of an earlier run of the agent.
    pub fn restored(id: String, pool: Arc<Pool>, output: OutputQueue) -> Self {
        pool.cost.fetch_add(output.cost(), Relaxed);
        Self::with_state(id, pool, output, None, true)
    }

    /// Of a command that ended, was acknowledged, and is asked for again.
    pub fn released(id: String, pool: Arc<Pool>, total_bytes: u64) -> Self {
        Self::with_state(id, pool, OutputQueue::released(total_bytes), None, true)
    }

    fn with_state(id: String, pool: Arc<Pool>, output: OutputQueue, stdin: Option<Stdin>, ended: bool) -> Self {
        let state = State { output, stdin, ended, forgotten: false, file: OutputFile::default() };
        Self { id, pool, state: Mutex::new(state), to_process: Notify::new(), to_call: Notify::new() }
    }

    pub fn room(&self) -> Room {
        let pool = &self.pool;
        let own = pool.output_limit.saturating_sub(self.lock().output.cost());
        let free = own.min(pool.spool_limit.saturating_sub(pool.cost.load(Relaxed)));
        if free > 0 {
            Room::Read(usize::try_from(free).unwrap_or(usize::MAX))
        } else if pool.when_full == WhenFull::Drop && !pool.link_up.load(Relaxed) {
            Room::Discard
        } else {
            Room::Stall
        }
    }

    pub fn push(&self, stream: OutputStream, data: &[u8]) {
        self.change_output(|output| output.push(stream, data));
        self.pool.soil();
        self.to_call.notify_one();
    }

    pub fn push_gap(&self, bytes: u64) {
        self.change_output(|output| output.push_gap(bytes));
        self.pool.soil();
        self.to_call.notify_one();
    }

    pub fn piece(&self, offset: u64, max: usize) -> Option<Piece> {
        self.lock().output.piece(offset, max)
    }

    /// The master holds everything below `durable`, or says so.
    pub fn release(&self, durable: u64) {
        self.change_output(|output| output.release(durable));
    }

    pub fn output_end(&self) -> u64 {
        self.lock().output.end()
    }

    /// What has waited for the master since the last call, and is not in the file yet; without a link, whatever waits.
    /// Whether there is more to look for later.
    pub fn spill(&self) -> (Option<Spill>, bool) {
        let link_up = self.pool.link_up.load(Relaxed);
        let mut state = self.lock();
        let State { output, file, forgotten, .. } = &mut *state;
        let end = output.end();
        let to = if link_up { file.seen } else { end };
        file.seen = end;
        let spill = (!*forgotten).then(|| file.spill(output, to)).flatten();
        let more = !*forgotten && file.upto.max(output.durable()) < end;
        (spill, more)
    }

    /// The output that the master may not have, to be recorded with the command's end: where it begins, where it
    /// stands, and what is to be written to the file for that.
    pub fn rest(&self) -> (u64, Place, Option<Spill>) {
        let mut state = self.lock();
        let State { output, file, .. } = &mut *state;
        let (from, end) = (output.durable(), output.end());
        // Megabytes are not copied to be measured.
        if output.cost() <= 4 * INLINE_MAX {
            let chunks = output.chunks(from, end);
            let data: usize = chunks.iter().map(|chunk| chunk.encode().len()).sum();
            if data as u64 <= INLINE_MAX {
                return (from, Place::Here(chunks.into_iter().map(|chunk| chunk.content).collect()), None);
            }
        }
        // Also with nothing new to write, for what was written before was not synced.
        let spill = file.spill(output, end).unwrap_or(Spill { from: end, to: end, fresh: false });
        (from, Place::File, Some(spill))
    }

    /// Calls `write` with the standard input that waits for the command until it would block. After any other error
    /// the command reads no more.
    pub fn write_stdin(&self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
        let mut state = self.lock();
        let Some(stdin) = &mut state.stdin else { return };
        while let Some(front) = stdin.front() {
            match write(front) {
                Ok(bytes) => stdin.wrote(bytes),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(_) => stdin.close(),
            }
        }
        drop(state);
        self.to_call.notify_one();
    }

    /// There is standard input to write.
    pub fn stdin_waits(&self) -> bool {
        self.lock().stdin.as_ref().is_some_and(|stdin| stdin.front().is_some())
    }

    /// Nothing follows for the command to read.
    pub fn stdin_is_over(&self) -> bool {
        self.lock().stdin.as_ref().is_none_or(Stdin::is_over)
    }

    /// # Errors
    /// The call should be made again. A command without standard input takes, and ignores, everything.
    pub fn offer_stdin(&self, chunk: StdinChunk) -> Result<(), Refused> {
        if let Some(stdin) = &mut self.lock().stdin {
            stdin.offer(chunk.offset, chunk.data, chunk.eof)?;
        }
        self.to_process.notify_one();
        self.to_call.notify_one();
        Ok(())
    }

    pub fn stdin_taken(&self) -> u64 {
        self.lock().stdin.as_ref().map_or(0, Stdin::taken)
    }

    /// The command has ended: all of its output is here. Returns how much that was.
    pub fn end(&self) -> u64 {
        let mut state = self.lock();
        state.ended = true;
        if let Some(stdin) = &mut state.stdin {
            stdin.close();
        }
        self.to_call.notify_one();
        state.output.end()
    }

    /// The master holds everything: nothing is to be delivered any more.
    pub fn forget(&self) {
        self.lock().forgotten = true;
        self.release(u64::MAX);
        self.to_call.notify_one();
    }

    /// All of its output is here.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// There is output to deliver, or standard input to receive.
    pub fn needs_call(&self) -> bool {
        let state = self.lock();
        let stdin_open = !state.ended && state.stdin.as_ref().is_some_and(Stdin::is_open);
        !state.forgotten && (stdin_open || !state.output.is_delivered())
    }

    /// Nothing will ever be to be delivered again.
    pub fn is_complete(&self) -> bool {
        let state = self.lock();
        state.forgotten || (state.ended && state.output.is_delivered())
    }

    /// Keeps the pool's sum.
    fn change_output(&self, change: impl FnOnce(&mut OutputQueue)) {
        let mut state = self.lock();
        let before = state.output.cost();
        change(&mut state.output);
        let after = state.output.cost();
        drop(state);
        if after >= before {
            self.pool.cost.fetch_add(after - before, Relaxed);
        } else {
            self.pool.cost.fetch_sub(before - after, Relaxed);
            self.pool.changed.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl Output for Held {
    fn chunk(&self, from: u64, to: u64) -> Option<Chunk> {
        self.lock().output.chunk(from, to)
    }
}

impl OutputFile {
    fn spill(&mut self, output: &OutputQueue, to: u64) -> Option<Spill> {
        let durable = output.durable();
        if self.upto.max(durable) >= to {
            return None;
        }
        let fresh = self.bytes == 0 || durable >= self.upto || self.bytes > 2 * (to - durable) + FILE_SLACK;
        let from = if fresh { durable } else { self.upto };
        // What the master takes before it is written is not written, so this is the most that it may be.
        self.bytes = output.encoded(from, to) + if fresh { 0 } else { self.bytes };
        self.upto = to;
        Some(Spill { from, to, fresh })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(u64::MAX);
    }
}
