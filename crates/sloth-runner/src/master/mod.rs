//! The master: what it serves, and through which doors it reaches what is kept.

pub mod ports;
