//! The agent: stays with its master, runs commands, whatever the network does in between.

pub mod clock;
pub mod commands;
pub mod config;
pub mod driver;
pub mod health;
pub mod node;
pub mod report;
pub mod session;
pub mod transport;
