//! The agent: stays with its master, runs commands, whatever the network does in between.

pub mod commands;
pub mod config;
pub mod logging;
pub mod state;
pub mod transport;
