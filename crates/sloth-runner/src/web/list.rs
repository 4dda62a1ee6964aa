//! `/api/fleet`: how many agents are how, and one page of rows.

use super::{
    Web,
    guard::{json, refuse},
};
use crate::{
    master::{Core, rows},
    tool::json::agent,
};
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use fleet::{AgentId, AgentRecord, Status};
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Agents looked at under one lock.
const SCAN: usize = 200;
const ROWS_DEFAULT: usize = 100;
const ROWS_MAX: usize = 200;
/// Of a search.
const TEXT_MAX: usize = 200;
const WORDS_MAX: usize = 8;
const LABELS_MAX: usize = 8;
/// Labels and values that are counted. One with more values, or none that two agents have, makes no groups.
const KEYS_MAX: usize = 32;
const VALUES_MAX: usize = 100;
/// Of these, shown: the ones that most agents have.
const KEYS_SHOWN: usize = 8;
const VALUES_SHOWN: usize = 12;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wish {
    status: String,
    /// Words, all of which must be in name, host, address, version, reason or a label.
    q: String,
    /// A JSON object of labels, all of which an agent must have.
    labels: String,
    /// `name`, `changed` (latest first), or `trouble`: lost ones first, the latest before.
    sort: String,
    offset: usize,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    active: usize,
    inactive: usize,
    stopped: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Label {
    key: String,
    values: Vec<Value>,
    /// There are more.
    more: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Value {
    value: String,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize)]
struct Page {
    now: u64,
    counts: Counts,
    labels: Vec<Label>,
    /// Agents that match.
    matching: usize,
    offset: usize,
    rows: Vec<serde_json::Value>,
}

pub async fn serve(State(web): State<Arc<Web>>, Query(wish): Query<Wish>) -> Response {
    let (choice, sort) = match (Choice::new(&wish), Sort::from_word(&wish.sort)) {
        (Ok(choice), Some(sort)) => (choice, sort),
        (Err(why), _) => return refuse(StatusCode::BAD_REQUEST, why),
        (_, None) => return refuse(StatusCode::BAD_REQUEST, "sort by name, changed or trouble"),
    };
    let limit = wish.limit.unwrap_or(ROWS_DEFAULT).clamp(1, ROWS_MAX);
    let _one_at_a_time = web.scan.acquire().await.expect("nobody closes it");
    match web.core.blocking(move |core| Ok(page(core, &choice, sort, wish.offset, limit))).await {
        Ok(page) => json(StatusCode::OK, &page),
        Err(why) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
}

fn page(core: &Core, choice: &Choice, sort: Sort, offset: usize, limit: usize) -> Page {
    let tally = RefCell::new(Tally::default());
    let mut after = None;
    loop {
        let look = |record: &AgentRecord| {
            tally.borrow_mut().add(record, choice.matches(record));
            false
        };
        after = core.read(|fleet| fleet.registry().page(after.as_deref(), SCAN, look)).1;
        if after.is_none() {
            break;
        }
    }
    let Tally { counts, labels, mut found } = tally.into_inner();
    sort.apply(&mut found);
    let ids = found.iter().skip(offset).take(limit).map(|found| found.id);
    let views: Vec<_> = core.read(|fleet| ids.filter_map(|id| fleet.registry().view(id)).collect());
    let row = |view| serde_json::to_value(agent(&rows::agent(view))).expect("string keys, no failing parts");
    Page {
        now: core.now().unix_ms,
        counts,
        labels: groups(labels),
        matching: found.len(),
        offset,
        rows: views.into_iter().map(row).collect(),
    }
}

/// Which agents.
#[derive(Debug, Default)]
struct Choice {
    status: Option<Status>,
    words: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl Choice {
    fn new(wish: &Wish) -> Result<Self, &'static str> {
        let status = match wish.status.as_str() {
            "" => None,
            word => Some(rows::status_from(word).ok_or("there is no such status")?),
        };
        let labels = match wish.labels.as_str() {
            "" => BTreeMap::new(),
            text => serde_json::from_str(text).map_err(|_| "labels are an object of texts")?,
        };
        let words: Vec<String> = wish.q.split_whitespace().map(str::to_owned).collect();
        if wish.q.len() > TEXT_MAX || words.len() > WORDS_MAX || labels.len() > LABELS_MAX {
            return Err("search for less");
        }
        Ok(Self { status, words, labels })
    }

    fn matches(&self, record: &AgentRecord) -> bool {
        self.status.is_none_or(|status| record.status == status)
            && self.labels.iter().all(|(key, value)| record.labels.get(key) == Some(value))
            && self.words.iter().all(|word| {
                let of_itself = [&record.name, &record.host, &record.address, &record.version, &record.reason];
                of_itself.iter().any(|text| contains(text, word))
                    || record.labels.iter().any(|(key, value)| match word.split_once('=') {
                        Some((of, part)) => key.eq_ignore_ascii_case(of) && contains(value, part),
                        None => contains(key, word) || contains(value, word),
                    })
            })
    }
}

/// In any case, as far as ASCII goes.
fn contains(text: &str, part: &str) -> bool {
    part.is_empty() || text.as_bytes().windows(part.len()).any(|found| found.eq_ignore_ascii_case(part.as_bytes()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Name,
    Changed,
    Trouble,
}

impl Sort {
    fn from_word(word: &str) -> Option<Self> {
        match word {
            "name" => Some(Self::Name),
            "changed" => Some(Self::Changed),
            "" | "trouble" => Some(Self::Trouble),
            _ => None,
        }
    }

    /// They come by name.
    fn apply(self, found: &mut [Found]) {
        let latest = |found: &Found| std::cmp::Reverse(found.since_unix_ms);
        match self {
            Self::Name => {}
            Self::Changed => found.sort_by_key(latest),
            Self::Trouble => found.sort_by_key(|found| match found.status {
                Status::Inactive => (0, latest(found)),
                Status::Active => (1, std::cmp::Reverse(0)),
                Status::Stopped => (2, std::cmp::Reverse(0)),
            }),
        }
    }
}

/// As much of an agent as is sorted by.
#[derive(Clone, Debug)]
struct Found {
    id: AgentId,
    status: Status,
    since_unix_ms: u64,
}

type Labels = BTreeMap<String, HashMap<String, Counts>>;

#[derive(Default)]
struct Tally {
    counts: Counts,
    labels: Labels,
    found: Vec<Found>,
}

impl Tally {
    fn add(&mut self, record: &AgentRecord, matches: bool) {
        self.counts.add(record.status);
        for (key, value) in &record.labels {
            if !self.labels.contains_key(key) {
                if self.labels.len() >= KEYS_MAX {
                    continue;
                }
                self.labels.insert(key.clone(), HashMap::new());
            }
            let values = self.labels.get_mut(key).expect("put there if it was not");
            if let Some(counts) = values.get_mut(value) {
                counts.add(record.status);
            } else if values.len() <= VALUES_MAX {
                let mut counts = Counts::default();
                counts.add(record.status);
                values.insert(value.clone(), counts);
            }
        }
        if matches {
            let AgentRecord { id, status, since_unix_ms, .. } = *record;
            self.found.push(Found { id, status, since_unix_ms });
        }
    }
}

impl Counts {
    fn add(&mut self, status: Status) {
        *match status {
            Status::Active => &mut self.active,
            Status::Inactive => &mut self.inactive,
            Status::Stopped => &mut self.stopped,
        } += 1;
    }

    fn all(self) -> usize {
        self.active + self.inactive + self.stopped
    }
}

/// The labels that make groups, and their greatest groups.
fn groups(labels: Labels) -> Vec<Label> {
    let mut groups: Vec<(usize, Label)> = labels
        .into_iter()
        .filter(|(_, values)| values.len() <= VALUES_MAX && values.values().any(|counts| counts.all() > 1))
        .map(|(key, values)| {
            let all = values.values().map(|counts| counts.all()).sum();
            let more = values.len() > VALUES_SHOWN;
            let mut values: Vec<Value> = values.into_iter().map(|(value, counts)| Value { value, counts }).collect();
            values.sort_by(|one, other| (other.counts.all(), &one.value).cmp(&(one.counts.all(), &other.value)));
            values.truncate(VALUES_SHOWN);
            (all, Label { key, values, more })
        })
        .collect();
    groups.sort_by_key(|(all, _)| std::cmp::Reverse(*all));
    groups.into_iter().take(KEYS_SHOWN).map(|(_, label)| label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u8, name: &str, status: Status, since_unix_ms: u64, labels: &[(&str, &str)]) -> AgentRecord {
        AgentRecord {
            id: [n; 16],
            name: name.to_owned(),
            host: "pi".to_owned(),
            version: String::new(),
            address: String::new(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            spool_id: [0; 16],
            epoch: 1,
            status,
            reason: String::new(),
            detail: String::new(),
            since_unix_ms,
            last_heartbeat_unix_ms: 0,
        }
    }

    fn choice(q: &str, status: &str, labels: &str) -> Choice {
        let wish = Wish { q: q.to_owned(), status: status.to_owned(), labels: labels.to_owned(), ..Wish::default() };
        Choice::new(&wish).unwrap()
    }

    #[test]
    fn every_word_of_a_search_must_be_found_somewhere() {
        let one = record(1, "Lady", Status::Inactive, 1, &[("site", "Lisbon-2"), ("serial", "7")]);
        for (q, found) in [
            ("", true),
            ("lad", true),
            ("lad PI", true),
            ("lad mari", false),
            ("lisbon", true),
            ("site=lis", true),
            ("serial=lis", false),
            ("site", true),
            ("=", false),
        ] {
            assert_eq!(choice(q, "", "").matches(&one), found, "{q}");
        }
        assert!(choice("", "inactive", r#"{"site":"Lisbon-2"}"#).matches(&one));
        assert!(!choice("", "active", "").matches(&one) && !choice("", "", r#"{"site":"Lisbon"}"#).matches(&one));
        for wish in [
            Wish { q: "a ".repeat(9), ..Wish::default() },
            Wish { q: "a".repeat(201), ..Wish::default() },
            Wish { status: "asleep".to_owned(), ..Wish::default() },
            Wish { labels: "[1]".to_owned(), ..Wish::default() },
        ] {
            assert!(Choice::new(&wish).is_err(), "{wish:?}");
        }
    }

    #[test]
    fn the_lost_come_first_the_latest_before_then_the_others_by_name() {
        let mut tally = Tally::default();
        for (n, status, since) in [
            (1, Status::Active, 5),
            (2, Status::Inactive, 1),
            (3, Status::Stopped, 9),
            (4, Status::Inactive, 2),
            (5, Status::Active, 7),
        ] {
            tally.add(&record(n, "x", status, since, &[]), n != 5);
        }
        let order = |sort: Sort| {
            let mut found = tally.found.clone();
            sort.apply(&mut found);
            found.iter().map(|found| found.id[0]).collect::<Vec<_>>()
        };
        assert_eq!(order(Sort::Trouble), [4, 2, 1, 3]);
        assert_eq!(order(Sort::Changed), [3, 1, 4, 2]);
        assert_eq!(order(Sort::Name), [1, 2, 3, 4]);
        assert_eq!(tally.counts, Counts { active: 2, inactive: 2, stopped: 1 }, "of all, not of those that match");
    }

    #[test]
    fn labels_are_grouped_by_their_greatest_values_and_what_tells_agents_apart_makes_no_group() {
        let mut tally = Tally::default();
        for n in 0..150u8 {
            let (serial, site) = (n.to_string(), format!("s{}", n % 20));
            let labels = [("serial", serial.as_str()), ("site", site.as_str()), ("os", "linux")];
            tally.add(&record(n, "x", Status::Active, 0, &labels), true);
        }
        tally.add(&record(200, "x", Status::Inactive, 0, &[("os", "linux"), ("alone", "1")]), true);
        let groups = groups(tally.labels);
        let keys: Vec<_> = groups.iter().map(|label| (label.key.as_str(), label.values.len(), label.more)).collect();
        assert_eq!(keys, [("os", 1, false), ("site", 12, true)]);
        assert_eq!(groups[0].values[0].counts, Counts { active: 150, inactive: 1, stopped: 0 });
        let mut many = Tally::default();
        for n in 0..200 {
            let key = format!("k{n}");
            many.add(&record(1, "x", Status::Active, 0, &[(&key, "v")]), true);
        }
        assert_eq!(many.labels.len(), KEYS_MAX);
    }
}
