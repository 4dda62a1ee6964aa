//! The output of a command, from its file: readers stall nobody.

use super::{Replies, no_command, stored, waiting};
use crate::master::{
    core::Core,
    hub::Hub,
    ports::{OutputLog, Piece, Record, Spec},
    reads::{Lane, Reader},
    rows::{self, Eyes},
};
use fleet::View;
use proto::{RunReply, run_reply::Kind};
use std::{io, sync::Arc};
use tokio::sync::watch;
use tonic::Status;

/// Read at once.
const READ_MAX: usize = 256 * 1024;

/// A command that somebody wants to follow.
pub enum Target {
    Unfinished(Arc<Hub>),
    Finished(Box<Record>),
}

impl Target {
    /// # Errors
    /// There is no such command, or the store cannot be read.
    pub async fn find(core: &Arc<Core>, reader: &Reader, lane: Lane, id: &str) -> Result<Self, Status> {
        if let Some(hub) = core.hub(id) {
            return Ok(Self::Unfinished(hub));
        }
        stored(core, reader, lane, id)
            .await?
            .map(|record| Self::Finished(Box::new(record)))
            .ok_or_else(|| no_command(id))
    }
}

/// Who follows it.
#[derive(Clone, Copy)]
struct Whose<'a> {
    core: &'a Arc<Core>,
    reader: &'a Reader,
    replies: &'a Replies<RunReply>,
}

impl Whose<'_> {
    async fn read<R: Send + 'static>(
        self,
        read: impl FnOnce(&Core) -> io::Result<R> + Send + 'static,
    ) -> Result<R, String> {
        self.core.reading(self.reader, Lane::Output, |core| read(core).map_err(|error| error.to_string())).await
    }
}

/// Nobody reads it any more.
pub struct Gone;

/// Sends the row and the output from an offset on (`u64::MAX`: none); with `follow` until the outcome, which is in the
/// last row.
pub async fn send(
    core: Arc<Core>,
    reader: Reader,
    target: Target,
    from: u64,
    follow: bool,
    eyes: Eyes,
    replies: Replies<RunReply>,
) {
    let whose = Whose { core: &core, reader: &reader, replies: &replies };
    let following = async {
        match target {
            Target::Finished(record) => finished(whose, &record, from, eyes).await,
            Target::Unfinished(hub) => unfinished(whose, &hub, from, follow, eyes).await,
        }
    };
    let _ = tokio::select! {
        result = following => result,
        // Who has left is not read for.
        () = replies.closed() => return,
        () = core.ended() => {
            reply(&replies, Err(Status::unavailable("the master is shutting down"))).await
        }
    };
}

async fn finished(whose: Whose<'_>, record: &Record, from: u64, eyes: Eyes) -> Result<(), Gone> {
    let replies = whose.replies;
    let row = || Ok(Kind::Command(rows::command(record, record.output_bytes, eyes)));
    reply(replies, row()).await?;
    if from >= record.output_bytes {
        return Ok(());
    }
    let id = record.id.clone();
    let log = match whose.read(move |core| core.outputs.open(&id)).await {
        Ok(log) => log,
        Err(error) => return reply(replies, Err(no_output(&record.id, &error))).await,
    };
    let mut offset = from;
    while drain(whose, &log, &record.id, &mut offset).await? {}
    reply(replies, row()).await
}

async fn unfinished(whose: Whose<'_>, hub: &Arc<Hub>, from: u64, follow: bool, eyes: Eyes) -> Result<(), Gone> {
    let Whose { core, replies, .. } = whose;
    let mut view = hub.view.subscribe();
    let mut received = hub.received.subscribe();
    let opened = hub.clone();
    let wants_output = from != u64::MAX;
    let log = match wants_output {
        false => None,
        true => match whose.read(move |core| opened.open_log(core.outputs.as_ref())).await {
            Ok(log) => Some(log),
            Err(error) => return reply(replies, Err(no_output(&hub.id, &error))).await,
        },
    };
    let mut offset = from;
    let mut shown: Option<Record> = None;
    loop {
        let (seen, over) = look(&mut view);
        match seen {
            Some(View::Failed(error)) => return reply(replies, Err(Status::internal(error))).await,
            Some(View::Record(record)) if shown.is_none() || (!over && shown.as_ref() != Some(&record)) => {
                let bytes = *received.borrow();
                let row = waiting(core, &record, rows::command(&record, bytes, eyes));
                reply(replies, Ok(Kind::Command(row))).await?;
                shown = Some(record);
            }
            _ => {}
        }
        received.mark_unchanged();
        if let Some(log) = &log {
            // With an outcome all output is here: one read to the end after it is seen gives everything.
            while drain(whose, log, &hub.id, &mut offset).await? {}
        }
        if over {
            let last = hub.view.borrow().clone();
            if let Some(View::Record(record)) = last {
                reply(replies, Ok(Kind::Command(rows::command(&record, record.output_bytes, eyes)))).await?;
            }
            return Ok(());
        }
        if !follow && shown.is_some() {
            return Ok(());
        }
        tokio::select! {
            _ = view.changed() => {}
            _ = received.changed(), if wants_output => {}
            () = replies.closed() => return Err(Gone),
        }
    }
}

/// The command as it stands, and whether it is over.
fn look(view: &mut watch::Receiver<Option<View<Spec>>>) -> (Option<View<Spec>>, bool) {
    let seen = view.borrow_and_update().clone();
    let over = matches!(&seen, Some(View::Record(record)) if record.outcome.is_some());
    (seen, over)
}

/// Sends the next part of the output. `false`: there is no more for now.
async fn drain(whose: Whose<'_>, log: &Arc<dyn OutputLog>, id: &str, offset: &mut u64) -> Result<bool, Gone> {
    let replies = whose.replies;
    if log.received() <= *offset {
        return Ok(false);
    }
    let (reader, from) = (log.clone(), *offset);
    let read = whose.read(move |_| reader.read(from, READ_MAX)).await;
    let pieces: Vec<Piece> = match read {
        Ok(pieces) => pieces,
        Err(error) => {
            reply(replies, Err(no_output(id, &error))).await?;
            return Err(Gone);
        }
    };
    let any = !pieces.is_empty();
    for piece in pieces {
        let (kind, end) = rows::output(piece);
        reply(replies, Ok(kind)).await?;
        *offset = end;
    }
    Ok(any)
}

fn no_output(id: &str, error: &str) -> Status {
    Status::internal(format!("the output of {id} cannot be read: {error}"))
}

pub async fn reply(replies: &Replies<RunReply>, kind: Result<Kind, Status>) -> Result<(), Gone> {
    replies.send(kind.map(|kind| RunReply { kind: Some(kind) })).await.map_err(|_| Gone)
}
