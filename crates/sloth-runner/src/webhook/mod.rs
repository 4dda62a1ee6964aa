//! Events that are posted to somebody else's HTTP server.
//!
//! The store's events are the queue, so nothing is lost by a restart, and a receiver that hangs costs no memory and
//! stalls nobody: each event goes out at least once, in order for each agent, and is tried again until it is taken,
//! refused, or too old. What was delivered is noted in the store.

mod post;
mod target;

pub use post::Answer;
pub use target::Target;

use crate::{
    clock::sleep,
    master::{Core, ports::Change, reads::Lane, rows},
    tool::json,
};
use fleet::{AgentId, Event};
use post::Post;
use serde::Serialize;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

/// The name of the mark in the store.
const READER: &str = "webhook";

/// Events that are looked at together. The next ones wait until all of these are through.
const BATCH: usize = 256;

/// Agents whose events are under way at once; each agent's go one after the other.
const LANES: usize = 8;

/// So many events that concern nobody may be looked through again after a restart.
const UNMARKED_MAX: u64 = 1_000;

/// The kinds that are posted unless others are named.
pub const KINDS_DEFAULT: [&str; 5] =
    ["agent.connected", "agent.lost", "agent.stopped", "agent.replaced", "command.finished"];

/// Every kind that can be posted.
pub const KINDS: [&str; 10] = [
    "agent.connected",
    "agent.lost",
    "agent.stopped",
    "agent.replaced",
    "agent.deleted",
    "agent.rejected",
    "command.finished",
    "command.output_failed",
    "command.not_adopted",
    "master.started",
];

/// How patient the sender is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one attempt: name, connection, TLS, request and answer.
    pub attempt: Duration,
    /// First wait after an attempt that failed; doubled each time, …
    pub wait_min: Duration,
    /// … up to this.
    pub wait_max: Duration,
    /// An event that is older is given up.
    pub age_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        Self { attempt: 10 * SECOND, wait_min: SECOND, wait_max: 300 * SECOND, age_max: 24 * 3600 * SECOND }
    }
}

/// Whom to tell, and of what.
pub struct Webhook {
    pub post: Post,
    pub kinds: Vec<String>,
    pub patience: Patience,
}

impl Webhook {
    /// # Errors
    /// For people: the files that it names cannot be used.
    pub fn new(
        target: Target,
        secret: Option<Vec<u8>>,
        ca_file: Option<std::path::PathBuf>,
        kinds: Vec<String>,
        patience: Patience,
    ) -> Result<Self, String> {
        Ok(Self { post: Post::new(target, secret, ca_file)?, kinds, patience })
    }
}

/// What is posted.
#[derive(Serialize)]
struct Posted<'a> {
    /// The same each time that this event is sent.
    id: &'a str,
    master: &'a str,
    #[serde(flatten)]
    event: json::Event<'a>,
}

/// How far the sender has come.
struct Progress {
    /// Everything up to here is through.
    seq: u64,
    /// … and noted in the store.
    marked: u64,
}

/// Posts events until the master goes.
pub async fn run(core: Arc<Core>, webhook: Webhook) {
    let ended = core.clone();
    tokio::select! {
        () = post_all(core, Arc::new(webhook)) => {}
        () = ended.ended() => {}
    }
}

async fn post_all(core: Arc<Core>, webhook: Arc<Webhook>) {
    let mut newest = core.events.subscribe();
    let Some(mut progress) = begin(&core, &webhook).await else { return };
    let reader = core.reads.reader(None);
    loop {
        newest.borrow_and_update();
        let after = progress.seq;
        let events = match core
            .reading(&reader, Lane::History, move |core| core.store.events_from(None, None, after, BATCH))
            .await
        {
            Ok(events) => events,
            Err(error) => {
                log::error!("The webhook cannot read the events, and tries again: {error}");
                sleep(webhook.patience.wait_max).await;
                continue;
            }
        };
        let Some(last) = events.last().map(|event| event.seq) else {
            if newest.changed().await.is_err() {
                return;
            }
            continue;
        };
        let posted = deliver_batch(&core, &webhook, events).await;
        progress.seq = last;
        if posted || progress.seq - progress.marked >= UNMARKED_MAX {
            mark(&core, progress.seq).await;
            progress.marked = progress.seq;
        }
    }
}

/// Where to go on from: a webhook that is new begins with what happens from now on.
async fn begin(core: &Arc<Core>, webhook: &Webhook) -> Option<Progress> {
    loop {
        let now = *core.events.borrow();
        match core.blocking(|core| core.store.mark(READER)).await {
            Ok(Some(seq)) => return Some(Progress { seq, marked: seq }),
            Ok(None) => {
                mark(core, now).await;
                return Some(Progress { seq: now, marked: now });
            }
            Err(error) => {
                log::error!("The webhook cannot read where it was, and tries again: {error}");
                sleep(webhook.patience.wait_max).await;
            }
        }
    }
}

/// Where that fails, what was delivered is sent once more after a restart.
async fn mark(core: &Arc<Core>, seq: u64) {
    let (done, answer) = oneshot::channel();
    let done = Box::new(move |result: Result<(), String>| _ = done.send(result));
    core.store.write(vec![Change::PutMark { reader: READER, seq }], done);
    if let Ok(Err(error)) = answer.await {
        log::warn!("What the webhook has delivered cannot be noted: {error}");
    }
}

/// Returns when all of them are through, and whether there was one to be sent.
async fn deliver_batch(core: &Arc<Core>, webhook: &Arc<Webhook>, events: Vec<Event>) -> bool {
    let mut lanes: HashMap<AgentId, Vec<Event>> = HashMap::new();
    for event in events.into_iter().filter(|event| webhook.kinds.contains(&event.kind)) {
        lanes.entry(event.agent_id).or_default().push(event);
    }
    let any = !lanes.is_empty();
    let places = Arc::new(Semaphore::new(LANES));
    // Dropped with this, so that none of them outlives the master.
    let mut tasks = JoinSet::new();
    for lane in lanes.into_values() {
        let (core, webhook, places) = (core.clone(), webhook.clone(), places.clone());
        tasks.spawn(async move {
            let _place = places.acquire().await.expect("nobody closes it");
            for event in lane {
                deliver(&core, &webhook, event).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    any
}

/// Until it is taken, refused, or too old.
async fn deliver(core: &Core, webhook: &Webhook, event: Event) {
    let Patience { attempt, wait_min, wait_max, age_max } = webhook.patience;
    let id = format!("{}-{:x}", event.seq, event.time_unix_ms);
    let (kind, time, seq) = (event.kind.clone(), event.time_unix_ms, event.seq);
    let row = rows::event(event);
    let body = json::line(&Posted { id: &id, master: core.name(), event: json::event(&row) });
    let mut wait = wait_min;
    loop {
        let failure = match tokio::time::timeout(attempt, webhook.post.send(&id, &kind, &body)).await {
            Ok(Ok(Answer::Taken)) => return core.meters.webhook("delivered"),
            Ok(Ok(Answer::Refused(status))) => {
                core.meters.webhook("dropped");
                return log::error!("The webhook's receiver refuses event {seq} ({kind}) for good: status {status}");
            }
            Ok(Ok(Answer::NotNow(status))) => format!("status {status}"),
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {} s", attempt.as_secs_f64()),
        };
        core.meters.webhook("failed");
        let age = Duration::from_millis(core.now().unix_ms.saturating_sub(time));
        if age + wait > age_max {
            core.meters.webhook("dropped");
            return log::error!("The webhook gives up event {seq} ({kind}), which is too old: {failure}");
        }
        log::warn!(
            "The webhook could not deliver event {seq} ({kind}), next attempt in {} s: {failure}",
            wait.as_secs_f64()
        );
        sleep(wait).await;
        wait = (wait * 2).min(wait_max);
    }
}
