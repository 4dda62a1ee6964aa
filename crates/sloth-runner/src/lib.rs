//! The master of a fleet of agents, and the operator's tool.

pub mod master;
