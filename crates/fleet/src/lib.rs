//! The master's pure half: who is known and alive ([`registry`]), and what they were told to do ([`dispatch`]).
//! [`Fleet`] holds both together.
//!
//! Everything takes `now` and returns effects: no clock, no socket, no file. What must survive a restart of the master
//! is an effect, too: a [`Change`] for the store, and what may happen only after it is durable waits for that.

pub mod advice;
mod change;
pub mod dispatch;
mod effect;
mod fleet;
pub mod gate;
#[cfg(test)]
mod histories;
pub mod pace;
pub mod registry;
#[cfg(test)]
mod testing;

pub use change::*;
pub use dispatch::{Cancelled, Finish, Held, HeldState, Refusal, Submit, Submitted};
pub use effect::*;
pub use fleet::*;
pub use registry::{
    AgentView, Attempt, Beat, DeleteRefused, Forecast, Heard, NodeStatus, Register, Timing, Turned, hex, id_from_hex,
};
