//! Store and output in memory, for tests. The store can be told to fail.

use super::{Change, Done, OutputLog, Outputs, Piece, Record, Store, Wanted};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, mpsc},
};

pub struct MemoryStore {
    tables: Mutex<Tables>,
    /// Answers are given in order, on a thread of their own.
    answers: mpsc::Sender<(Done, Result<(), String>)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let (answers, queue) = mpsc::channel::<(Done, Result<(), String>)>();
        std::thread::spawn(move || queue.into_iter().for_each(|(done, result)| done(result)));
        Self { tables: Mutex::default(), answers }
    }
}

#[derive(Default)]
struct Tables {
    agents: BTreeMap<fleet::AgentId, fleet::AgentRecord>,
    commands: BTreeMap<String, Record>,
    events: Vec<fleet::Event>,
    sessions: BTreeMap<(fleet::AgentId, u64), fleet::SessionRecord>,
    told: Vec<fleet::Told>,
    marks: BTreeMap<&'static str, u64>,
    run: Option<fleet::Run>,
    failure: Option<String>,
}

impl MemoryStore {
    /// From now on every write fails, or none does.
    pub fn fail(&self, failure: Option<&str>) {
        self.tables.lock().unwrap().failure = failure.map(str::to_owned);
    }

    /// What a master would find if it started now.
    pub fn snapshot(&self) -> super::Snapshot {
        let tables = self.tables.lock().unwrap();
        let unfinished = |record: &&Record| record.state != fleet::CommandState::Finished;
        super::Snapshot {
            agents: tables.agents.values().cloned().collect(),
            commands: tables.commands.values().filter(unfinished).cloned().collect(),
            next_event_seq: tables.events.last().map_or(0, |event| event.seq) + 1,
            last_run: tables.run,
        }
    }
}

impl Store for MemoryStore {
    fn write(&self, changes: Vec<Change>, done: Done) {
        let mut tables = self.tables.lock().unwrap();
        let result = tables.failure.clone().map_or(Ok(()), Err);
        if result.is_ok() {
            for change in changes {
                match change {
                    Change::PutAgent(record) => drop(tables.agents.insert(record.id, record)),
                    Change::DeleteAgent(id) => {
                        tables.agents.remove(&id);
                        tables.sessions.retain(|(agent, _), _| *agent != id);
                    }
                    Change::PutHeard(heard) => {
                        for (id, at) in heard {
                            if let Some(record) = tables.agents.get_mut(&id) {
                                record.last_heartbeat_unix_ms = at;
                            }
                        }
                    }
                    Change::PutRun(run) => tables.run = Some(run),
                    Change::BeginSession(record) => {
                        let key = (record.session.agent, record.session.epoch);
                        tables.sessions.insert(key, record);
                    }
                    Change::EndSession(session, end) => {
                        if let Some(record) = tables.sessions.get_mut(&(session.agent, session.epoch)) {
                            record.end.get_or_insert(end);
                        }
                    }
                    Change::EndSessions(end) => {
                        for record in tables.sessions.values_mut() {
                            record.end.get_or_insert_with(|| end.clone());
                        }
                    }
                    Change::AddTold(told) => tables.told.push(told),
                    Change::PutMark { reader, seq } => drop(tables.marks.insert(reader, seq)),
                    Change::PutCommand(record) => drop(tables.commands.insert(record.id.clone(), record)),
                    Change::AddEvent(event) => tables.events.push(event),
                }
            }
        }
        self.answers.send((done, result)).expect("the thread ends with the store");
    }

    fn events_begin(
        &self,
        agent: Option<fleet::AgentId>,
        name: Option<&str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<u64, String> {
        let events = self.events_from(agent, name, after_seq, usize::MAX)?;
        Ok(events.len().checked_sub(limit).and_then(|from| events.get(from)).map_or(after_seq, |event| event.seq - 1))
    }

    fn events_from(
        &self,
        agent: Option<fleet::AgentId>,
        name: Option<&str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<fleet::Event>, String> {
        let tables = self.tables.lock().unwrap();
        let all = agent.is_none() && name.is_none();
        let concerns = |event: &fleet::Event| agent == Some(event.agent_id) || name == Some(event.agent.as_str());
        let matching = |event: &&fleet::Event| event.seq > after_seq && (all || concerns(event));
        let mut events: Vec<_> = tables.events.iter().filter(matching).cloned().collect();
        events.sort_by_key(|event| event.seq);
        events.truncate(limit);
        Ok(events)
    }

    fn refusals(
        &self,
        agent: Option<fleet::AgentId>,
        name: &str,
        since_unix_ms: u64,
        limit: usize,
    ) -> Result<Vec<fleet::Event>, String> {
        let tables = self.tables.lock().unwrap();
        let concerns = |event: &&fleet::Event| agent == Some(event.agent_id) || event.agent == name;
        let refusal = |event: &&fleet::Event| event.kind == "agent.rejected" && event.time_unix_ms >= since_unix_ms;
        Ok(tables.events.iter().rev().filter(refusal).filter(concerns).take(limit).cloned().collect())
    }

    fn sessions(&self, agent: fleet::AgentId, limit: usize) -> Result<Vec<fleet::SessionRecord>, String> {
        let tables = self.tables.lock().unwrap();
        let range = tables.sessions.range((agent, 0)..=(agent, u64::MAX)).rev();
        Ok(range.map(|(_, record)| record.clone()).take(limit).collect())
    }

    fn told(&self, agent: fleet::AgentId, limit: usize) -> Result<Vec<fleet::Told>, String> {
        let tables = self.tables.lock().unwrap();
        let mut told: Vec<_> = tables.told.iter().rev().filter(|told| told.agent == agent).cloned().collect();
        told.truncate(limit);
        Ok(told)
    }

    fn mark(&self, reader: &str) -> Result<Option<u64>, String> {
        Ok(self.tables.lock().unwrap().marks.get(reader).copied())
    }

    fn command(&self, id: &str) -> Result<Option<Record>, String> {
        Ok(self.tables.lock().unwrap().commands.get(id).cloned())
    }

    fn ids_beginning(&self, prefix: &str, limit: usize) -> Result<Vec<String>, String> {
        let tables = self.tables.lock().unwrap();
        let mut ids: Vec<_> = tables.commands.keys().filter(|id| id.starts_with(prefix)).cloned().collect();
        ids.sort();
        ids.truncate(limit);
        Ok(ids)
    }

    fn commands(&self, wanted: &Wanted, before_id: Option<&str>, limit: usize) -> Result<Option<Vec<Record>>, String> {
        let tables = self.tables.lock().unwrap();
        if before_id.is_some_and(|id| !tables.commands.contains_key(id)) {
            return Ok(None);
        }
        let mut records: Vec<_> = tables
            .commands
            .values()
            .filter(|record| wanted.agent.as_ref().is_none_or(|name| record.agent == *name))
            .filter(|record| wanted.state.is_none_or(|state| record.state == state))
            .filter(|record| {
                let kind = record.outcome.as_ref().map(|outcome| proto::Outcome::from(outcome).kind());
                wanted.outcome.is_none_or(|wanted| kind == Some(wanted))
            })
            .filter(|record| record.created_unix_ms >= wanted.since_unix_ms)
            .cloned()
            .collect();
        records.sort_by(|a, b| (b.created_unix_ms, &b.id).cmp(&(a.created_unix_ms, &a.id)));
        if let Some(before) = before_id {
            let end = records.iter().position(|record| record.id == before).map_or(records.len(), |at| at + 1);
            records.drain(..end);
        }
        records.truncate(limit);
        Ok(Some(records))
    }
}

#[derive(Default)]
pub struct MemoryOutputs {
    logs: Mutex<HashMap<String, Arc<MemoryLog>>>,
}

impl Outputs for MemoryOutputs {
    fn open(&self, id: &str) -> io::Result<Arc<dyn OutputLog>> {
        Ok(self.logs.lock().unwrap().entry(id.to_owned()).or_default().clone())
    }

    fn remove(&self, id: &str) -> io::Result<()> {
        self.logs.lock().unwrap().remove(id);
        Ok(())
    }
}

#[derive(Default)]
struct MemoryLog {
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    pieces: Vec<Piece>,
    received: u64,
    durable: u64,
}

fn span(piece: &Piece) -> (u64, u64) {
    match piece {
        Piece::Data { offset, data, .. } => (*offset, data.len() as u64),
        Piece::Gap { offset, bytes } => (*offset, *bytes),
    }
}

fn cut(piece: &Piece, from: u64) -> Piece {
    let (at, _) = span(piece);
    let skip = from.saturating_sub(at);
    match piece {
        Piece::Data { offset, stream, data } => {
            Piece::Data { offset: offset + skip, stream: *stream, data: data.slice(skip as usize..) }
        }
        Piece::Gap { offset, bytes } => Piece::Gap { offset: offset + skip, bytes: bytes - skip },
    }
}

impl OutputLog for MemoryLog {
    fn received(&self) -> u64 {
        self.content.lock().unwrap().received
    }

    fn durable(&self) -> u64 {
        self.content.lock().unwrap().durable
    }

    fn append(&self, piece: Piece) -> io::Result<u64> {
        let mut content = self.content.lock().unwrap();
        let (offset, bytes) = span(&piece);
        if offset > content.received {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a hole"));
        }
        if offset + bytes > content.received {
            let piece = cut(&piece, content.received);
            content.pieces.push(piece);
            content.received = offset + bytes;
        }
        Ok(content.received)
    }

    fn sync(&self) -> io::Result<u64> {
        let mut content = self.content.lock().unwrap();
        content.durable = content.received;
        Ok(content.durable)
    }

    fn read(&self, offset: u64, max_bytes: usize) -> io::Result<Vec<Piece>> {
        let content = self.content.lock().unwrap();
        let mut read = 0;
        let mut pieces = Vec::new();
        for piece in &content.pieces {
            let (at, bytes) = span(piece);
            if at + bytes > offset && read < max_bytes as u64 {
                pieces.push(cut(piece, offset.max(at)));
                read += bytes;
            }
        }
        Ok(pieces)
    }

    fn gaps(&self) -> Vec<(u64, u64)> {
        let content = self.content.lock().unwrap();
        let gaps = content.pieces.iter().filter(|piece| matches!(piece, Piece::Gap { .. }));
        gaps.map(span).collect()
    }
}
