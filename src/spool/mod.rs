//! The agent's record of its commands on disk, so that a crash neither runs one twice nor loses what it said.
//! `docs/spool.md` describes the files.

pub mod disk;
pub mod format;
pub mod frame;
pub mod replay;
pub mod store;
