//! The agent: stays with its master, runs commands, whatever the network does in between.

pub mod agent;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod logging;
pub mod state;
pub mod status;
pub mod transport;
