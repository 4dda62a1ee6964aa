//! The agent: stays with its master, runs commands, whatever the network does in between.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod descriptors;
pub mod doctor;
pub mod driver;
pub mod health;
pub mod helper;
pub mod history;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod notify;
pub mod reload;
pub mod report;
pub mod session;
pub mod spool;
pub mod state;
pub mod status;
pub mod transport;
pub mod watch;
