//! The agent's own ports are for a probe or two: few connections at a time, and none that only keeps its place shuts one
//! out.

use crate::config::describe;
use std::{collections::VecDeque, io, time::Duration};
use tokio::{net::TcpStream, task::AbortHandle};

/// The connections of one listener. A further one takes the place of the oldest.
pub struct Places {
    /// What the log calls the port, as in "cannot accept {port}".
    port: &'static str,
    max: usize,
    open: VecDeque<AbortHandle>,
    failed: bool,
}

impl Places {
    /// So many at a time, at least one.
    pub fn new(port: &'static str, max: usize) -> Self {
        Self { port, max, open: VecDeque::with_capacity(max), failed: false }
    }

    /// Serves who was accepted, in a task that ends with what `serve` gives. After a failure of the system, which is
    /// logged the first time in a row, it waits a second.
    ///
    /// # Cancel safety
    /// Safe: a connection has its task before anything is awaited.
    pub async fn take<F>(&mut self, accepted: io::Result<TcpStream>, serve: impl FnOnce(TcpStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match accepted {
            Ok(stream) => {
                self.failed = false;
                self.open.retain(|connection| !connection.is_finished());
                if self.open.len() == self.max
                    && let Some(oldest) = self.open.pop_front()
                {
                    oldest.abort();
                }
                self.open.push_back(tokio::spawn(serve(stream)).abort_handle());
            }
            // Out of descriptors, or a peer that left early: the next second may be better.
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    log::warn!("cannot accept {}: {}", self.port, describe(&error));
                }
                pause().await;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "no deadline: a pause after a failure of the system")]
async fn pause() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}
