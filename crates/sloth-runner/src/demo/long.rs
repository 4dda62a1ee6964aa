//! The command that lasts through the outage, followed by a task of its own.

use super::{
    counting::{self, Counting},
    errand,
};
use crate::tool::{connect::Master, ending::Ending, follow::follow, output::Output, resume::Piece, writer::Gone};
use proto::CommandSpec;
use std::sync::Arc;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// The command that lasts through the outage.
#[derive(Default)]
pub struct Long {
    pub counting: Counting,
    /// Lines that were told of.
    pub shown: u32,
    /// How far it was when the last agent came back.
    pub all_back_at_line: Option<u32>,
    pub ending: Option<Ending>,
}

/// What the long command does, from the task that follows it.
pub enum Told {
    Output(Piece),
    Notice(String),
    Ended(Ending),
}

/// Starts it on `agent`. Dropping the set ends the following, not the command.
///
/// # Errors
/// When there is no randomness for its id.
pub fn start(master: Arc<Master>, agent: &str) -> Result<(JoinSet<()>, mpsc::Receiver<Told>), String> {
    let call = errand::call(agent, CommandSpec { shell: counting::shell_line(), ..CommandSpec::default() })?;
    let (to, told) = mpsc::channel(64);
    let mut follower = JoinSet::new();
    follower.spawn(async move {
        let (_keep, cancel) = watch::channel(false);
        let ending = follow(&master, call, None, cancel, &mut Tell(to.clone())).await;
        let _ = to.send(Told::Ended(ending)).await;
    });
    Ok((follower, told))
}

struct Tell(mpsc::Sender<Told>);

impl Output for Tell {
    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        self.0.send(Told::Output(piece)).await.map_err(|_| Gone)
    }

    async fn notice(&mut self, line: String) {
        let _ = self.0.send(Told::Notice(line)).await;
    }
}
