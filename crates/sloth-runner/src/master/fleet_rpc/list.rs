//! Lists, in messages of bounded size.

use super::{row, unreadable};
use crate::master::{
    core::Core,
    ports::{Record, Wanted},
    reads::{Lane, Reader},
    rows::{self, Eyes},
};
use fleet::{AgentRecord, Status as AgentStatus};
use proto::{ListCommandsReply, ListCommandsRequest, ListReply, ListRequest};
use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// Rows in one message, and agents looked at under one lock.
const ROWS: usize = 200;
const COMMANDS_DEFAULT: usize = 100;
/// Rows in one message, and in memory at once: specifications can be long.
const COMMAND_ROWS: usize = 20;
/// Such messages on their way to somebody who does not read them.
const QUEUED_MAX: usize = 1;

/// The fleet by name, page by page as it is read.
pub struct List {
    core: Arc<Core>,
    labels: HashMap<String, String>,
    status: Option<AgentStatus>,
    after: Option<String>,
    done: bool,
    /// Who was refused, too.
    told: bool,
}

/// How long ago is lately: who is refused tries again every minute or so.
const LATELY: Duration = Duration::from_secs(600);
/// Names of those who were refused.
const NAMES: usize = 3;

/// Who was refused lately; none if nobody was.
fn refused(core: &Core) -> Option<ListReply> {
    let now = core.now().monotonic;
    core.read(|fleet| {
        let refused = fleet.registry().shut_out(now, LATELY);
        let names = refused.iter().take(NAMES).map(|name| (*name).to_owned()).collect();
        let refused_lately = u32::try_from(refused.len()).unwrap_or(u32::MAX);
        (refused_lately > 0).then(|| ListReply { refused_lately, refused_names: names, ..ListReply::default() })
    })
}

impl List {
    /// # Errors
    /// There is no such status.
    pub fn new(core: Arc<Core>, request: ListRequest) -> Result<Self, Status> {
        let status = match request.status.as_str() {
            "" => None,
            word => Some(rows::status_from(word).ok_or_else(|| {
                Status::invalid_argument(format!("no status {word:?}: use Active, Inactive or Stopped"))
            })?),
        };
        Ok(Self { core, labels: request.labels, status, after: None, done: false, told: false })
    }

    fn matches(&self, record: &AgentRecord) -> bool {
        self.status.is_none_or(|status| record.status == status)
            && self.labels.iter().all(|(key, value)| record.labels.get(key) == Some(value))
    }
}

impl Stream for List {
    type Item = Result<ListReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.done {
            let (views, after) = self
                .core
                .read(|fleet| fleet.registry().page(self.after.as_deref(), ROWS, |record| self.matches(record)));
            self.done = after.is_none();
            self.after = after;
            if !views.is_empty() {
                let agents = views.into_iter().map(rows::agent).collect();
                return Poll::Ready(Some(Ok(ListReply { agents, ..ListReply::default() })));
            }
        }
        Poll::Ready(if std::mem::replace(&mut self.told, true) { None } else { refused(&self.core).map(Ok) })
    }
}

/// Commands, newest first.
///
/// # Errors
/// There is no such state, or the store cannot be read.
pub async fn commands(
    core: Arc<Core>,
    reader: Reader,
    request: ListCommandsRequest,
    eyes: Eyes,
) -> Result<mpsc::Receiver<Result<ListCommandsReply, Status>>, Status> {
    let state = match request.state.as_str() {
        "" => None,
        word => Some(rows::state_from(word).ok_or_else(|| {
            Status::invalid_argument(format!("no state {word:?}: use queued, sent, accepted or finished"))
        })?),
    };
    let outcome = match request.outcome.as_str() {
        "" => None,
        word => Some(rows::outcome_from(word).ok_or_else(|| {
            Status::invalid_argument(format!(
                "no outcome {word:?}: use exited, signaled, timed_out, cancelled, interrupted, refused or expired"
            ))
        })?),
    };
    let limit = match request.limit {
        0 => COMMANDS_DEFAULT,
        limit => limit as usize,
    };
    let given = |text: String| (!text.is_empty()).then_some(text);
    let wanted = Wanted { agent: given(request.agent), state, outcome, since_unix_ms: request.since_unix_ms };
    let mut page = Page { core, reader, wanted, before: given(request.before_id), left: limit };
    let mut records = page.read().await?;
    let (sender, receiver) = mpsc::channel(QUEUED_MAX);
    tokio::spawn(async move {
        while !records.is_empty() {
            let commands = records.iter().map(|record| row(&page.core, record, eyes)).collect();
            let Ok(room) = sender.reserve().await else { return };
            room.send(Ok(ListCommandsReply { commands }));
            // Once there is room for it: what is read is in memory until somebody takes it.
            let Ok(room) = sender.reserve().await else { return };
            let read = tokio::select! {
                read = page.read() => read,
                () = sender.closed() => return,
            };
            records = match read {
                Ok(records) => records,
                Err(status) => return room.send(Err(status)),
            };
        }
    });
    Ok(receiver)
}

/// What is still to be read of a list of commands.
struct Page {
    core: Arc<Core>,
    reader: Reader,
    wanted: Wanted,
    before: Option<String>,
    left: usize,
}

impl Page {
    /// The next few; none at the end.
    async fn read(&mut self) -> Result<Vec<Record>, Status> {
        let (wanted, before) = (self.wanted.clone(), self.before.clone());
        let limit = self.left.min(COMMAND_ROWS);
        let read = move |core: &Core| core.store.commands(&wanted, before.as_deref(), limit);
        let records = self.core.reading(&self.reader, Lane::History, read).await.map_err(|error| unreadable(&error))?;
        let records = records.ok_or_else(|| {
            let id = self.before.as_deref().unwrap_or_default();
            Status::not_found(format!(
                "no command {id:?} to go on below: --before takes a whole id, as `sloth-runner command list` shows them"
            ))
        })?;
        self.left -= records.len();
        if let Some(last) = records.last() {
            self.before = Some(last.id.clone());
        }
        Ok(records)
    }
}
