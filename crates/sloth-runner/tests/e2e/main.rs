//! Real fleets: the binaries by their command lines, signals and sockets.
#![allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]

#[path = "../fleet/mod.rs"]
mod fleet;

mod audit;
mod bad_luck;
mod broken_wire;
mod browser;
mod control;
mod crash;
mod daemon;
mod demo;
mod every_change;
mod fleets;
mod full_disk;
mod goodbye;
mod history;
mod hostile_programs;
mod identities;
mod list_watch;
mod memory;
mod orphans;
mod outage;
mod pace;
mod port;
mod prometheus;
mod queue;
mod run;
mod scenarios;
mod upgrade;
mod watch;
mod web;
