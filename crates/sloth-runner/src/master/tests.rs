//! The whole master over loopback, with scripted agents and tools.

mod bench;
mod commands;
mod queue;
mod sessions;
