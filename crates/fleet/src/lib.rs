//! The master's pure half: who is known and alive ([`registry`]), and what they were told to do ([`dispatch`]).
//!
//! Everything takes `now` and returns effects: no clock, no socket, no file. What must survive a restart of the master
//! is an effect, too: a [`Change`] for the store, and what may happen only after it is durable waits for that.

mod change;

pub use change::*;
