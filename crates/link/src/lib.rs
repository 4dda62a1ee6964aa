//! The agent's pure half: no clock, no socket, no file, no randomness that was not given as a seed.

pub mod ledger;
mod words;
pub use words::*;
