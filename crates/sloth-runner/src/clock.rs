//! The only clock of the master and the tool; on the store's thread and in the demo, too.

use std::time::Duration;

pub use sloth_agent::clock::{boottime, unix_ms};

/// Waits, by tokio's clock: paused where a test has paused it.
///
/// # Cancel safety
/// Safe.
#[expect(clippy::disallowed_methods, reason = "the one wait, which everything else here goes through")]
pub fn sleep(duration: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(duration)
}
