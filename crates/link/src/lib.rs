//! The agent's pure half: no clock, no socket, no file, no randomness that was not given as a seed.
//!
//! [`link`] decides when to dial, to register, to beat, to give up a session and how long to wait; [`ledger`] decides
//! about the agent's commands. Time is a
//! [`std::time::Duration`] since some fixed moment, usually the start of the process.

mod backoff;
mod breaker;
mod command_id;
pub mod ledger;
pub mod link;
mod words;

pub use backoff::Backoff;
pub use breaker::{Breaker, BreakerChange};
pub use command_id::*;
pub use link::{Close, Input, Link, Output, Params, Phase, Reply, Report, Seconds, Session, WakeReason};
pub use words::*;
