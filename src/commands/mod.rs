//! Commands on the agent: the ledger decides, this runs it. The driver of the link owns one [`Commands`].

use crate::{config, transport::Client};
use proto::{HeldCommand, RunCommand, agent_message};

/// What a registered session gives to the commands.
pub struct Uplink {
    /// For `SendOutput`, on the session's own connection.
    pub client: Client,
    /// For the calls' metadata.
    pub agent_id: [u8; 16],
    pub epoch: u64,
}

/// Everything about commands: what is held, what runs, what output is still to be delivered.
pub struct Commands {}

impl Commands {
    /// Nothing is held yet.
    pub fn new(_config: &config::Commands) -> Self {
        todo!()
    }

    /// Random, made with the spool.
    pub fn spool_id(&self) -> [u8; 16] {
        todo!()
    }

    /// A command could be accepted now.
    pub fn ready(&self) -> bool {
        todo!()
    }

    /// Commands held, for `Register`: whatever the master has not acknowledged as finished.
    pub fn held(&self) -> Vec<HeldCommand> {
        todo!()
    }

    /// A session is registered: outcomes without an acknowledgement are sent again, output calls are opened.
    pub fn session_up(&mut self, _uplink: Uplink) {
        todo!()
    }

    /// The session is over: commands go on, output is kept.
    pub fn session_down(&mut self) {
        todo!()
    }

    pub fn run(&mut self, _message: RunCommand) {
        todo!()
    }

    pub fn cancel(&mut self, _id: &str) {
        todo!()
    }

    pub fn finished_ack(&mut self, _id: &str) {
        todo!()
    }

    /// From now on new commands are refused, and waiting ones are not started.
    pub fn drain(&mut self) {
        todo!()
    }

    /// The grace is over: what runs is ended (TERM, then KILL) with the outcome `interrupted`.
    pub fn interrupt(&mut self) {
        todo!()
    }

    /// Number of commands held, for the status.
    pub fn count(&self) -> usize {
        todo!()
    }

    /// Nothing runs and nothing waits for an acknowledgement.
    pub fn is_idle(&self) -> bool {
        todo!()
    }

    /// The next message for the session. While there is no session, processes and their output are served all the
    /// same, and nothing is returned.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> agent_message::Kind {
        todo!()
    }
}
