//! Standard input of one command on its way from the tool to the agent. Kept until the agent has taken it over, so that
//! a call that breaks is resumed at the byte.

use bytes::Bytes;
use proto::StdinChunk;
use std::{collections::VecDeque, sync::Mutex};
use tokio::sync::watch;

/// So much is kept; the tool waits for room.
pub const BUFFER_MAX: usize = 64 * 1024;
/// What an agent tells above this is taken for this: there is room to count on.
const OFFSET_MAX: u64 = 1 << 62;
/// Largest chunk towards the agent.
const CHUNK_MAX: usize = 16 * 1024;

pub struct Stdin {
    state: Mutex<State>,
    /// Counts changes of any kind.
    changed: watch::Sender<u64>,
}

struct State {
    /// Taken over by the agent: the offset of the first kept byte. `None` until the agent has told, after a restart of
    /// the master.
    base: Option<u64>,
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    eof: bool,
    /// Tools that feed it.
    feeders: usize,
    /// Counts the times at which the last feeder left.
    left: u64,
    /// Where it ends, as an earlier run of the master has heard.
    end: Option<u64>,
    /// Somebody waits already for a tool to come back after a restart.
    awaited: bool,
}

/// Whether a command that was not fed from its start in this run of the master may still wait for input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// A tool feeds it, or has done so; or it has all of its input.
    Settled,
    /// The agent has yet to tell how much of the input it has.
    Unknown,
    /// There is more to come, and nobody here who has it.
    Orphaned,
}

/// What a tool did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedError {
    /// There are bytes missing before this chunk.
    Hole { expected: u64 },
    /// The input has ended already, elsewhere.
    AfterEof,
}

/// Where a chunk went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    Taken,
    /// Come again when something has changed.
    Full,
    /// Its bytes are taken. Record that the input ends there, and come again: an agent that knows of the end must not
    /// meet a master that has forgotten it.
    Ends(u64),
}

impl Stdin {
    /// `end`: where it ends, if an earlier run of the master has heard that.
    pub fn new(fresh: bool, end: Option<u64>) -> Self {
        let state = State {
            base: fresh.then_some(0),
            kept: VecDeque::new(),
            kept_bytes: 0,
            eof: false,
            feeders: 0,
            left: 0,
            end,
            awaited: false,
        };
        Self { state: Mutex::new(state), changed: watch::Sender::new(0) }
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What the agent has taken over, if that is known.
    pub fn taken(&self) -> Option<u64> {
        self.lock().base
    }

    /// Takes a chunk from a tool, all of it or nothing, but for an end that is not yet recorded. What is known already is
    /// skipped.
    ///
    /// # Errors
    /// The chunk does not fit to what came before.
    pub fn feed(&self, chunk: &StdinChunk, end_recorded: bool) -> Result<Fed, FeedError> {
        let (fed, changed) = {
            let mut state = self.lock();
            let Some(base) = state.base else { return Ok(Fed::Full) };
            let end = base + state.kept_bytes as u64;
            if chunk.offset > end {
                return Err(FeedError::Hole { expected: end });
            }
            let skip = usize::try_from(end - chunk.offset).unwrap_or(usize::MAX).min(chunk.data.len());
            let data = chunk.data.slice(skip..);
            if state.eof {
                return if data.is_empty() { Ok(Fed::Taken) } else { Err(FeedError::AfterEof) };
            }
            if !data.is_empty() && state.kept_bytes > 0 && state.kept_bytes + data.len() > BUFFER_MAX {
                return Ok(Fed::Full);
            }
            let ends = chunk.eof && end_recorded;
            let changed = !data.is_empty() || ends;
            if !data.is_empty() {
                state.kept_bytes += data.len();
                state.kept.push_back(data);
            }
            state.eof |= ends;
            let end = base + state.kept_bytes as u64;
            (if chunk.eof && !ends { Fed::Ends(end) } else { Fed::Taken }, changed)
        };
        // Who fed it is woken, too: not for what it knows.
        if changed {
            self.wake();
        }
        Ok(fed)
    }

    /// The agent has everything below `offset`.
    pub fn took(&self, offset: u64) {
        {
            let mut state = self.lock();
            let base = *state.base.get_or_insert(offset.min(OFFSET_MAX));
            // What it cannot have been sent, it cannot have taken.
            let mut taken = offset.saturating_sub(base).min(state.kept_bytes as u64) as usize;
            state.base = Some(base + taken as u64);
            state.kept_bytes -= taken;
            while taken > 0 {
                let first = state.kept.front_mut().expect("kept_bytes counts what is kept");
                if first.len() > taken {
                    let _ = first.split_to(taken);
                    break;
                }
                taken -= first.len();
                state.kept.pop_front();
            }
            // Its end was heard before a restart, and the agent has all before it: nobody has to say it again.
            state.eof |= state.kept_bytes == 0 && state.end.is_some() && state.base == state.end;
        }
        self.wake();
    }

    /// The next chunk from `offset` on; `None` if there is nothing new. `eof_sent`: the end was told in this call.
    pub fn next(&self, offset: u64, eof_sent: bool) -> Option<StdinChunk> {
        let state = self.lock();
        let mut skip = usize::try_from(offset.checked_sub(state.base?)?).ok()?;
        let end = offset - skip as u64 + state.kept_bytes as u64;
        for piece in &state.kept {
            if skip < piece.len() {
                let data = piece.slice(skip..piece.len().min(skip + CHUNK_MAX));
                let eof = state.eof && offset + data.len() as u64 == end;
                return Some(StdinChunk { offset, data, eof });
            }
            skip -= piece.len();
        }
        (state.eof && !eof_sent && skip == 0).then(|| StdinChunk { offset, data: Bytes::new(), eof: true })
    }

    /// A tool feeds it from now on.
    pub fn attach(&self) {
        self.lock().feeders += 1;
    }

    /// A tool feeds it no more. If it was the last one and the input is unfinished: a number that
    /// [`abandoned`](Self::abandoned) takes after the grace.
    pub fn detach(&self) -> Option<u64> {
        let mut state = self.lock();
        state.feeders -= 1;
        if state.feeders > 0 || state.eof {
            return None;
        }
        state.left += 1;
        Some(state.left)
    }

    /// Nobody has come back to feed it since `left`.
    pub fn abandoned(&self, left: u64) -> bool {
        let state = self.lock();
        state.feeders == 0 && !state.eof && state.left == left
    }

    /// True once, if nobody has fed it yet in this run of the master: then somebody should see to it.
    pub fn await_tool(&self) -> bool {
        let mut state = self.lock();
        let first = !state.awaited && state.feeders == 0 && state.left == 0;
        state.awaited |= first;
        first
    }

    /// What has become of it. A tool that came and left has a grace of its own.
    pub fn outlook(&self) -> Outlook {
        let state = self.lock();
        match (state.eof || state.feeders > 0 || state.left > 0, state.base, state.end) {
            (true, ..) => Outlook::Settled,
            (_, None, Some(_)) => Outlook::Unknown,
            _ => Outlook::Orphaned,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, data: &'static [u8], eof: bool) -> StdinChunk {
        StdinChunk { offset, data: Bytes::from_static(data), eof }
    }

    #[test]
    fn what_the_agent_has_not_taken_is_given_again() {
        let stdin = Stdin::new(true, None);
        assert_eq!(stdin.feed(&chunk(0, b"hello", false), true), Ok(Fed::Taken));
        assert_eq!(stdin.feed(&chunk(5, b" world", true), true), Ok(Fed::Taken));
        assert_eq!(stdin.next(0, false), Some(chunk(0, b"hello", false)));
        assert_eq!(stdin.next(5, false), Some(chunk(5, b" world", true)));
        assert_eq!(stdin.next(11, true), None);
        stdin.took(7);
        assert_eq!(stdin.taken(), Some(7));
        assert_eq!(stdin.next(7, false), Some(chunk(7, b"orld", true)), "another call resumes");
        assert_eq!(stdin.next(3, false), None, "what was taken is gone");
        stdin.took(11);
        assert_eq!(stdin.next(11, false), Some(chunk(11, b"", true)), "the end is told in each call");
    }

    #[test]
    fn a_tool_that_repeats_itself_adds_nothing_and_one_that_skips_is_told() {
        let stdin = Stdin::new(true, None);
        assert_eq!(stdin.feed(&chunk(0, b"abc", false), true), Ok(Fed::Taken));
        assert_eq!(stdin.feed(&chunk(1, b"bcd", false), true), Ok(Fed::Taken));
        assert_eq!(stdin.feed(&chunk(9, b"x", false), true), Err(FeedError::Hole { expected: 4 }));
        assert_eq!(stdin.feed(&chunk(4, b"", true), true), Ok(Fed::Taken));
        assert_eq!(stdin.feed(&chunk(4, b"x", false), true), Err(FeedError::AfterEof));
        assert_eq!(stdin.next(0, false), Some(chunk(0, b"abc", false)));
        assert_eq!(stdin.next(3, false), Some(chunk(3, b"d", true)));
    }

    #[test]
    fn the_end_is_passed_on_only_once_it_is_recorded() {
        let stdin = Stdin::new(true, None);
        assert_eq!(stdin.feed(&chunk(0, b"abc", true), false), Ok(Fed::Ends(3)));
        assert_eq!(stdin.next(0, false), Some(chunk(0, b"abc", false)), "its bytes need not wait");
        assert_eq!(stdin.next(3, false), None);
        assert_eq!(stdin.feed(&chunk(0, b"abc", true), true), Ok(Fed::Taken));
        assert_eq!(stdin.next(3, false), Some(chunk(3, b"", true)));
    }

    #[test]
    fn a_full_buffer_takes_nothing_until_the_agent_has_taken_some() {
        static BIG: [u8; BUFFER_MAX] = [7; BUFFER_MAX];
        let stdin = Stdin::new(true, None);
        assert_eq!(stdin.feed(&chunk(0, &BIG, false), true), Ok(Fed::Taken));
        assert_eq!(stdin.feed(&chunk(BUFFER_MAX as u64, b"x", true), true), Ok(Fed::Full));
        assert_eq!(stdin.next(0, false).unwrap().data.len(), CHUNK_MAX);
        stdin.took(1);
        assert_eq!(stdin.feed(&chunk(BUFFER_MAX as u64, b"x", true), true), Ok(Fed::Taken));
    }

    #[test]
    fn after_a_restart_the_agent_says_where_to_go_on() {
        let stdin = Stdin::new(false, None);
        assert_eq!(stdin.taken(), None);
        assert_eq!(stdin.feed(&chunk(0, b"abc", false), true), Ok(Fed::Full));
        stdin.took(2);
        assert_eq!(stdin.feed(&chunk(0, b"abc", false), true), Ok(Fed::Taken));
        assert_eq!(stdin.next(2, false), Some(chunk(2, b"c", false)));
    }

    #[test]
    fn an_end_that_was_heard_before_a_restart_counts_once_the_agent_has_all_before_it() {
        let whole = Stdin::new(false, Some(5));
        assert_eq!(whole.outlook(), Outlook::Unknown);
        whole.took(5);
        assert_eq!(whole.outlook(), Outlook::Settled);
        assert_eq!(whole.next(5, false), Some(chunk(5, b"", true)), "told again: it may have been under way");

        let part = Stdin::new(false, Some(5));
        part.took(3);
        assert_eq!(part.outlook(), Outlook::Orphaned);
        assert_eq!(part.next(3, false), None, "no false end");
        part.attach();
        assert_eq!(part.outlook(), Outlook::Settled);
        assert_eq!(part.feed(&chunk(0, b"abcde", true), true), Ok(Fed::Taken));
        assert_eq!(part.next(3, false), Some(chunk(3, b"de", true)));

        let open = Stdin::new(false, None);
        assert_eq!(open.outlook(), Outlook::Orphaned);
        assert!(open.await_tool() && !open.await_tool());
    }

    #[test]
    fn no_offset_that_an_agent_tells_leads_over_the_end_of_numbers() {
        let stdin = Stdin::new(false, None);
        stdin.took(u64::MAX);
        assert_eq!(stdin.feed(&chunk(OFFSET_MAX, b"abc", true), true), Ok(Fed::Taken));
        assert_eq!(stdin.next(OFFSET_MAX, false), Some(chunk(OFFSET_MAX, b"abc", true)));
        assert_eq!(stdin.next(u64::MAX, false), None);
        stdin.took(u64::MAX);
        assert_eq!(stdin.taken(), Some(OFFSET_MAX + 3));
    }

    #[test]
    fn an_input_is_abandoned_only_if_nobody_came_back_and_it_has_no_end() {
        let stdin = Stdin::new(true, None);
        stdin.attach();
        let left = stdin.detach().expect("unfinished");
        assert!(stdin.abandoned(left));
        stdin.attach();
        assert!(!stdin.abandoned(left));
        let again = stdin.detach().expect("unfinished");
        assert!(!stdin.abandoned(left), "a later leaving has a grace of its own");
        assert!(stdin.abandoned(again));
        stdin.attach();
        assert_eq!(stdin.feed(&chunk(0, b"", true), true), Ok(Fed::Taken));
        assert_eq!(stdin.detach(), None);
    }
}
