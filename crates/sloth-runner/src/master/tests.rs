//! The whole master over loopback, with scripted agents and tools.

mod bench;
mod commands;
mod pace;
mod queue;
mod reads;
mod sessions;
mod trace;
mod watch;
mod web;
mod webhook;
