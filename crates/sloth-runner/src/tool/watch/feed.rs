//! Where the rows come from: the list, asked for again whenever the stream of events says that something happened.

use crate::{
    clock::sleep,
    tool::{
        agents,
        connect::{Client, Master, PATIENCE, Trouble},
        follow::{GOOD, UNANSWERED_MAX},
    },
};
use proto::{AgentRow, EventsReply, EventsRequest, ListRequest};
use std::time::Duration;
use tokio::{select, sync::mpsc, time::Instant};
use tonic::Streaming;

/// Between two lists at least, and so many times as long as the last one took: events that come in a flood, as when a
/// large fleet comes back, cost the master no more than a part of its time.
const PAUSE: Duration = Duration::from_millis(200);
const SHARE: u32 = 4;

/// What is new.
pub enum News {
    /// All that match, ordered by name.
    Rows(Vec<AgentRow>),
    /// The master is away: the line that says so.
    Lost(String),
    Back(String),
}

/// Tells what is new until it cannot any more, over lost connections.
///
/// # Cancel safety
/// Dropping it ends it.
pub async fn feed(master: &Master, request: ListRequest, news: mpsc::Sender<News>) -> Trouble {
    let (mut answered, mut unanswered, mut failures) = (false, 0, 0);
    loop {
        let began = Instant::now();
        let trouble = match attach(master, &request, &news, &mut answered).await {
            Ok(()) => master.hung_up(),
            Err(trouble) => trouble,
        };
        unanswered += u32::from(!answered);
        let refused = !answered && matches!(trouble, Trouble::Unreachable { .. });
        if refused || unanswered == UNANSWERED_MAX || !trouble.is_passing() {
            return trouble;
        }
        if let Some(line) = master.say_lost(&trouble) {
            let _ = news.send(News::Lost(line)).await;
        }
        failures = if began.elapsed() >= GOOD { 1 } else { failures + 1 };
        sleep(master.waits().before(failures)).await;
    }
}

/// One connection's worth.
async fn attach(
    master: &Master,
    request: &ListRequest,
    news: &mpsc::Sender<News>,
    answered: &mut bool,
) -> Result<(), Trouble> {
    let (number, client) = master.patiently(PATIENCE, master.client()).await?;
    let told = async {
        // The events first: what happens while the list is on its way is then told, too.
        let mut events = coming(client).await.map_err(|status| master.trouble(&status))?;
        loop {
            let asked = Instant::now();
            let rows = agents::list(master, request.clone()).await?;
            *answered = true;
            if let Some(line) = master.say_back() {
                let _ = news.send(News::Back(line)).await;
            }
            let _ = news.send(News::Rows(rows)).await;
            let pause = PAUSE.max(asked.elapsed().saturating_mul(SHARE));
            if !happened(&mut events).await.map_err(|status| master.trouble(&status))? {
                return Ok(());
            }
            // What follows at once is seen by the same look.
            let until = sleep(pause);
            tokio::pin!(until);
            loop {
                select! {
                    () = &mut until => break,
                    more = happened(&mut events) => {
                        if !more.map_err(|status| master.trouble(&status))? {
                            return Ok(());
                        }
                    }
                }
            }
        }
    };
    let outcome = told.await;
    master.forget(number).await;
    outcome
}

/// The stream of all events that are still to come.
async fn coming(mut client: Client) -> Result<Streaming<EventsReply>, tonic::Status> {
    let newest = EventsRequest { last: 1, ..EventsRequest::default() };
    let mut past = client.events(newest).await?.into_inner();
    let mut after_seq = 0;
    while let Some(reply) = past.message().await? {
        after_seq = reply.events.iter().map(|event| event.seq).max().unwrap_or(0).max(after_seq);
    }
    Ok(client.events(EventsRequest { after_seq, follow: true, ..EventsRequest::default() }).await?.into_inner())
}

/// Waits for an event about an agent; false when no more will come. Of commands nothing shows in the list.
///
/// # Cancel safety
/// Safe: what has come of a message is kept in the stream.
async fn happened(events: &mut Streaming<EventsReply>) -> Result<bool, tonic::Status> {
    while let Some(reply) = events.message().await? {
        if reply.events.iter().any(|event| event.kind.starts_with("agent.")) {
            return Ok(true);
        }
    }
    Ok(false)
}
