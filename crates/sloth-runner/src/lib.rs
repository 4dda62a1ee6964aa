//! The master of a fleet of agents, and the operator's tool.

pub mod listen;
pub mod master;
pub mod outputs;
pub mod store;
