//! What waits for the writer.

use crate::master::ports::{Change, Done};
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Calls that wait at most; the next ones fail at once. Some seconds of the highest rate that a disk takes.
const CALLS_MAX: usize = 65_536;

/// Calls that share a transaction at most: bounds how long the first one waits.
pub const GROUP_MAX: usize = 4096;

pub struct Call {
    pub changes: Vec<Change>,
    pub done: Done,
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Call>,
    closed: Option<&'static str>,
}

/// What the writer is to do next.
pub enum Next {
    Write(VecDeque<Call>),
    /// Nothing came in time.
    Idle,
    /// Everything is written, and nothing will come.
    End,
}

impl Queue {
    /// Adds a call; one that there is no room for is answered here.
    pub fn push(&self, call: Call) {
        let mut state = self.lock();
        let refused = match state.closed {
            Some(why) => why,
            None if state.calls.len() >= CALLS_MAX => {
                "the disk is too slow: too much waits to be stored, try again later"
            }
            None => {
                state.calls.push_back(call);
                drop(state);
                self.filled.notify_one();
                return;
            }
        };
        drop(state);
        (call.done)(Err(refused.to_owned()));
    }

    /// Waits for calls.
    pub fn next(&self, patience: Duration) -> Next {
        let state = self.lock();
        let empty = |state: &mut State| state.calls.is_empty() && state.closed.is_none();
        let waited = self.filled.wait_timeout_while(state, patience, empty);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !state.calls.is_empty() {
            let group = state.calls.len().min(GROUP_MAX);
            return Next::Write(state.calls.drain(..group).collect());
        }
        if state.closed.is_some() { Next::End } else { Next::Idle }
    }

    /// Lets nothing more in; what waits is still taken.
    pub fn close(&self, why: &'static str) {
        self.lock().closed.get_or_insert(why);
        self.filled.notify_one();
    }

    /// Takes out what nobody will write any more.
    pub fn drain(&self) -> VecDeque<Call> {
        std::mem::take(&mut self.lock().calls)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
