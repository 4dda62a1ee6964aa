//! The agent's pure half: no clock, no socket, no file, no randomness that was not given as a seed.

mod command_id;
mod words;

pub use command_id::*;
pub use words::*;
