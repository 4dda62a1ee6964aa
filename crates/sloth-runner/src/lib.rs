//! The master of a fleet of agents, and the operator's tool.

pub mod listen;
pub mod master;
pub mod master_cli;
pub mod master_config;
pub mod outputs;
pub mod store;
