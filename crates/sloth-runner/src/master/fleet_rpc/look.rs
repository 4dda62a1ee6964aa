//! A part of a command's output, for who looks at it and goes away again.

use super::{follow::Target, row, waiting};
use crate::master::{
    core::Core,
    ports::Piece,
    reads::Lane,
    rows::{self, Eyes},
};
use fleet::View;
use proto::CommandRow;
use std::sync::Arc;
use tonic::Status;

/// A command, and output of it.
pub struct Look {
    pub row: CommandRow,
    /// Where `pieces` begin, and where what is here ends.
    pub from: u64,
    pub end: u64,
    pub pieces: Vec<Piece>,
}

/// Reads about `bytes_max` from an offset on, or the last ones.
///
/// # Errors
/// There is no such command, or its output cannot be read.
pub async fn look_at_output(core: &Arc<Core>, id: &str, from: Option<u64>, bytes_max: usize) -> Result<Look, Status> {
    let reader = core.reads.reader(None);
    let (row, hub) = match Target::find(core, &reader, Lane::Lookup, id).await? {
        Target::Finished(record) => (row(core, &record, Eyes::Viewer), None),
        Target::Unfinished(hub) => {
            let seen = hub.view.borrow().clone();
            let row = match seen {
                Some(View::Record(record)) => {
                    waiting(core, &record, rows::command(&record, *hub.received.borrow(), Eyes::Viewer))
                }
                Some(View::Failed(error)) => return Err(Status::internal(error)),
                None => return Err(Status::unavailable(format!("command {id} is being recorded"))),
            };
            (row, Some(hub))
        }
    };
    if hub.is_none() && row.output_bytes == 0 {
        return Ok(Look { row, from: 0, end: 0, pieces: Vec::new() });
    }
    let key = id.to_owned();
    let read = move |core: &Core| {
        let log = match &hub {
            Some(hub) => hub.open_log(core.outputs.as_ref()),
            None => core.outputs.open(&key),
        };
        let log = log.map_err(|error| error.to_string())?;
        let end = log.received();
        let from = from.unwrap_or(end.saturating_sub(bytes_max as u64)).min(end);
        let pieces = log.read(from, bytes_max).map_err(|error| error.to_string())?;
        Ok((from, end, pieces))
    };
    let read = core.reading(&reader, Lane::Output, read).await;
    let (from, end, pieces) =
        read.map_err(|error| Status::internal(format!("the output of {id} cannot be read: {error}")))?;
    Ok(Look { row: CommandRow { output_bytes: row.output_bytes.max(end), ..row }, from, end, pieces })
}
