//! Who reads, and who has left, is in nobody's way. The store hangs for one name.

use super::bench::soon;
use crate::{
    access::{Caller, Who},
    master::{
        FleetService, Options,
        core::Core,
        ports::{
            Change, Done, Record, Store, Wanted,
            memory::{MemoryOutputs, MemoryStore},
        },
        start as start_core,
    },
    security::testing,
};
use fleet::{AgentId, Event, SessionRecord, Told};
use proto::{CancelRequest, CreateTokenRequest, EventsRequest, fleet_server::Fleet};
use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

/// More than there are threads for what blocks.
const MANY: usize = 600;

/// Events of this one are read when the store is let go on.
const SLOW: &str = "slow";

#[derive(Default)]
struct Hanging {
    inner: MemoryStore,
    goes_on: Mutex<bool>,
    changed: Condvar,
    begun: AtomicUsize,
}

impl Hanging {
    fn go_on(&self) {
        *self.goes_on.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Store for Hanging {
    fn write(&self, changes: Vec<Change>, done: Done) {
        self.inner.write(changes, done);
    }

    fn events_begin(&self, id: Option<AgentId>, name: Option<&str>, after: u64, limit: usize) -> Result<u64, String> {
        self.inner.events_begin(id, name, after, limit)
    }

    fn events_from(
        &self,
        id: Option<AgentId>,
        name: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, String> {
        if name == Some(SLOW) {
            self.begun.fetch_add(1, SeqCst);
            drop(self.changed.wait_while(self.goes_on.lock().unwrap(), |goes_on| !*goes_on).unwrap());
        }
        self.inner.events_from(id, name, after, limit)
    }

    fn refusals(&self, id: Option<AgentId>, name: &str, since: u64, limit: usize) -> Result<Vec<Event>, String> {
        self.inner.refusals(id, name, since, limit)
    }

    fn sessions(&self, agent: AgentId, limit: usize) -> Result<Vec<SessionRecord>, String> {
        self.inner.sessions(agent, limit)
    }

    fn told(&self, agent: AgentId, limit: usize) -> Result<Vec<Told>, String> {
        self.inner.told(agent, limit)
    }

    fn mark(&self, reader: &str) -> Result<Option<u64>, String> {
        self.inner.mark(reader)
    }

    fn command(&self, id: &str) -> Result<Option<Record>, String> {
        self.inner.command(id)
    }

    fn ids_beginning(&self, prefix: &str, limit: usize) -> Result<Vec<String>, String> {
        self.inner.ids_beginning(prefix, limit)
    }

    fn commands(&self, wanted: &Wanted, before_id: Option<&str>, limit: usize) -> Result<Option<Vec<Record>>, String> {
        self.inner.commands(wanted, before_id, limit)
    }
}

struct Rig {
    core: Arc<Core>,
    store: Arc<Hanging>,
    _folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let (folder, security) = testing::with_authority();
        let options = Options { security: Some(security), ..Options::named("test") };
        let store = Arc::new(Hanging::default());
        let snapshot = store.inner.snapshot();
        let outputs = Arc::new(MemoryOutputs::default());
        let core = start_core(store.clone(), outputs, snapshot, options, Duration::from_millis(1));
        Self { core, store, _folder: folder }
    }

    /// All events of this name, as so many a caller is told of them.
    fn events(&self, who: &str, name: &str) -> impl Future<Output = Result<usize, Status>> + Send + use<> {
        let service = FleetService { core: self.core.clone() };
        let request = by(who, EventsRequest { name: name.to_owned(), ..EventsRequest::default() });
        async move {
            let mut replies = service.events(request).await?.into_inner();
            let mut count = 0;
            while let Some(reply) = replies.next().await {
                count += reply?.events.len();
            }
            Ok(count)
        }
    }

    /// Many calls of one caller that read what hangs; the first read has begun.
    async fn many_slow(&self, who: &str) -> Vec<JoinHandle<Result<usize, Status>>> {
        let many = (0..MANY).map(|_| tokio::spawn(self.events(who, SLOW))).collect();
        soon(async {
            while self.begun() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        many
    }

    fn begun(&self) -> usize {
        self.store.begun.load(SeqCst)
    }
}

fn by<T>(who: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::new(Some(Who::Viewer), who.to_owned(), None));
    request
}

#[tokio::test]
async fn readers_that_hang_are_in_the_way_of_nobody_who_reads_runs_or_makes_tokens() {
    let rig = Rig::new();
    let many = rig.many_slow("eva").await;
    let service = FleetService { core: rig.core.clone() };
    assert!(soon(rig.events("otto", "")).await.unwrap() > 0, "the start of the master is one");
    let asked = soon(service.cancel(by("operator", CancelRequest { id: "c".to_owned() }))).await;
    assert_eq!(asked.unwrap_err().code(), Code::NotFound);
    let token = CreateTokenRequest { role: "viewer".to_owned(), ..CreateTokenRequest::default() };
    soon(service.create_token(by("operator", token))).await.unwrap();
    assert_eq!(rig.begun(), 1, "of all of one caller's");
    rig.store.go_on();
    for one in many {
        assert_eq!(soon(one).await.unwrap().unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn for_who_has_left_nothing_more_is_read() {
    let rig = Rig::new();
    let many = rig.many_slow("eva").await;
    for one in many {
        one.abort();
        assert!(soon(one).await.unwrap_err().is_cancelled());
    }
    rig.store.go_on();
    assert_eq!(soon(rig.events("eva", SLOW)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.begun(), 2, "what had begun, and the last one");
}

#[tokio::test]
async fn a_list_that_nobody_takes_is_read_a_page_at_a_time_and_taken_it_is_whole() {
    let rig = Rig::new();
    for n in 0..2_000 {
        rig.core.decide(|fleet, now| fleet.note(now, "note", "lady", [1; 16], n.to_string()));
    }
    let mut newest = rig.core.events.subscribe();
    soon(newest.wait_for(|newest| *newest > 2_000)).await.unwrap();
    let service = FleetService { core: rig.core.clone() };
    let wanted = |last| by("eva", EventsRequest { name: "lady".to_owned(), last, ..EventsRequest::default() });
    let mut replies = soon(service.events(wanted(1_001))).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(reply) = soon(replies.next()).await {
        let events = reply.unwrap().events;
        assert!(events.len() <= 200);
        told.extend(events.into_iter().map(|event| event.message.parse::<u32>().unwrap()));
    }
    assert_eq!(told, (999..2_000).collect::<Vec<_>>());
}
