//! What became of the link: its last transitions, for whoever asks why this agent was away. Pure: the driver says what
//! happened and when, and keeps the text where it survives a restart.
//!
//! A run of failed attempts at one master, for one reason, is one entry, however long it takes: an outage of a night
//! does not push out what went before it.

mod text;

use std::{collections::VecDeque, time::Duration};

pub use text::{FILE_MAX, read};

/// Entries that are kept: the older ones go.
pub const KEPT: usize = 64;

/// Entries that a master is told at a registration.
pub const TOLD_MAX: usize = 16;

/// Longest detail that is kept, bytes.
const DETAIL_MAX: usize = 200;

/// Reasons that are none of a loss.
pub const SHUTDOWN: &str = "shutdown";
pub const RENEWED: &str = "renewed";
pub const AGENT_DIED: &str = "agent_died";
pub const RETRY_LATER: &str = "retry_later";
pub const STARTED: &str = "started";
pub const REBOOTED: &str = "rebooted";

/// A moment by both clocks: the wall's, which people read and which may be wrong, and the one since the machine's
/// start, which only goes forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    pub unix_ms: u64,
    pub boot_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The agent's process began.
    Started,
    /// A session began.
    Registered,
    /// A session ended.
    Ended,
    /// Attempts failed.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts all that ever happened to this agent.
    pub number: u64,
    pub kind: Kind,
    /// Of attempts: of the last one.
    pub at: Moment,
    /// Tells one run of the machine from another: the beginning of its boot id.
    pub boot: String,
    /// A fixed word; empty for a registration.
    pub reason: String,
    pub detail: String,
    pub master: String,
    /// Of the session.
    pub epoch: u64,
    /// A session: how long it was. Attempts: from the first to the last. A registration: the outage before it.
    pub lasted_ms: u64,
    /// Failed ones, or those that a registration took.
    pub attempts: u32,
}

/// The last [`KEPT`] entries, and which of them a master knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: VecDeque<Entry>,
    /// Number of the latest entry.
    latest: u64,
    /// Entries up to this one a master has been told of.
    told: u64,
    /// … or is being told of.
    telling: u64,
    boot: String,
    changed: bool,
}

impl History {
    /// Goes on from what was kept. A session that has no end in it ended with the process that had it; `before` says what
    /// became of that, if it is known.
    pub fn start(kept: &[u8], boot_id: &str, now: Moment, before: Option<&str>) -> Self {
        let mut history = read(kept);
        history.boot = boot_id.chars().filter(|c| c.is_ascii_alphanumeric()).take(8).collect();
        let rebooted = history.entries.back().is_some_and(|last| last.boot != history.boot);
        if let Some(open) = history.open() {
            let lasted_ms = history.since(open, now);
            let (master, epoch) = (open.master.clone(), open.epoch);
            let detail = match before {
                _ if rebooted => "the machine was started again".to_owned(),
                Some(before) => plain(&format!("its process {before}")),
                None => "its process ended without a word".to_owned(),
            };
            history.push(Kind::Ended, now, |entry| {
                entry.reason = AGENT_DIED.to_owned();
                entry.detail = detail;
                (entry.master, entry.epoch, entry.lasted_ms) = (master, epoch, lasted_ms);
            });
        }
        let reason = if rebooted { REBOOTED } else { STARTED };
        history.push(Kind::Started, now, |entry| entry.reason = reason.to_owned());
        history
    }

    /// A master has registered this agent: it knows what it was told at that.
    pub fn registered(&mut self, now: Moment, master: &str, epoch: u64, attempts: u32, outage: Option<Duration>) {
        self.ended(now, RENEWED, "");
        self.told = self.telling.max(self.told);
        self.push(Kind::Registered, now, |entry| {
            entry.master = master.to_owned();
            (entry.epoch, entry.attempts) = (epoch, attempts);
            entry.lasted_ms = outage.map_or(0, millis);
        });
    }

    /// The session is over; nothing, where there is none.
    pub fn ended(&mut self, now: Moment, reason: &str, detail: &str) {
        let Some(open) = self.open() else { return };
        let (lasted_ms, master, epoch) = (self.since(open, now), open.master.clone(), open.epoch);
        self.push(Kind::Ended, now, |entry| {
            entry.reason = reason.to_owned();
            entry.detail = plain(detail);
            (entry.master, entry.epoch, entry.lasted_ms) = (master, epoch, lasted_ms);
        });
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Moment, master: &str, reason: &str, detail: &str) {
        let boot = &self.boot;
        let run = self.entries.iter_mut().rev().take_while(|entry| entry.kind == Kind::Failed);
        let mut same = run.filter(|entry| entry.master == master && entry.reason == reason && entry.boot == *boot);
        if let Some(entry) = same.next() {
            entry.attempts = entry.attempts.saturating_add(1);
            entry.lasted_ms += now.boot_ms.saturating_sub(entry.at.boot_ms);
            entry.at = now;
            entry.detail = plain(detail);
            // Twice as many since the last time that it was written.
            self.changed |= entry.attempts.is_power_of_two();
            return;
        }
        self.push(Kind::Failed, now, |entry| {
            entry.reason = reason.to_owned();
            entry.detail = plain(detail);
            entry.master = master.to_owned();
            entry.attempts = 1;
        });
    }

    /// What no master has heard of, the latest [`TOLD_MAX`], oldest first: to be told with a registration. When that
    /// succeeds ([`Self::registered`]), it is told.
    pub fn tell(&mut self) -> Vec<Entry> {
        self.telling = self.latest;
        let news = |entry: &&Entry| entry.number > self.told && entry.kind != Kind::Registered;
        let mut found: Vec<Entry> = self.entries.iter().rev().filter(news).take(TOLD_MAX).cloned().collect();
        found.reverse();
        found
    }

    /// What to keep, where that is worth a write: at each start, registration and end of a session, and when a run of
    /// failed attempts begins or is twice as long.
    pub fn take_changed(&mut self) -> Option<String> {
        std::mem::take(&mut self.changed).then(|| text::write(self))
    }

    /// How long before `now` it was.
    pub fn ago(&self, entry: &Entry, now: Moment) -> Duration {
        Duration::from_millis(self.since(entry, now))
    }

    /// Oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The registration that began the session of now.
    fn open(&self) -> Option<&Entry> {
        let session = |entry: &&Entry| matches!(entry.kind, Kind::Registered | Kind::Ended);
        self.entries.iter().rev().find(session).filter(|entry| entry.kind == Kind::Registered)
    }

    fn since(&self, entry: &Entry, now: Moment) -> u64 {
        if entry.boot == self.boot {
            now.boot_ms.saturating_sub(entry.at.boot_ms)
        } else {
            now.unix_ms.saturating_sub(entry.at.unix_ms)
        }
    }

    fn push(&mut self, kind: Kind, at: Moment, fill: impl FnOnce(&mut Entry)) {
        self.latest += 1;
        let mut entry = Entry {
            number: self.latest,
            kind,
            at,
            boot: self.boot.clone(),
            reason: String::new(),
            detail: String::new(),
            master: String::new(),
            epoch: 0,
            lasted_ms: 0,
            attempts: 0,
        };
        fill(&mut entry);
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.changed = true;
    }
}

/// The word of a kind, in the file and in JSON.
impl Kind {
    const ALL: [Self; 4] = [Self::Started, Self::Registered, Self::Ended, Self::Failed];

    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Registered => "registered",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }
}

/// On one line, and not longer than is kept.
fn plain(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + c.len_utf8() > DETAIL_MAX {
            break;
        }
        kept.push(c);
    }
    kept
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
