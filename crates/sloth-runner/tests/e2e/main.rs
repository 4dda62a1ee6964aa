//! Real fleets: the binaries by their command lines, signals and sockets.
#![allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]

#[path = "../fleet/mod.rs"]
mod fleet;

mod control;
mod demo;
mod identities;
mod memory;
mod orphans;
mod outage;
mod port;
mod run;
mod scenarios;
