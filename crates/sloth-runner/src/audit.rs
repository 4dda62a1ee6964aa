//! The audit file: who did what, and who was refused, one JSON object a line.

mod sync;

use crate::{
    access::{Caller, Who},
    bucket::Lines,
    clock,
    tool::time::rfc3339,
};
use fleet::AgentId;
use serde::Serialize;
use sloth_agent::logging::{OpenError, Rolling};
use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use sync::Syncer;

/// In the state directory.
pub const FILE: &str = "audit.log";

/// So many refusals are written at once, and then one for each [`REFUSAL_EVERY`], of those who show nothing that was
/// ever good, of agents and of people apart: whoever knocks without end writes 9 MB a day and not what the disk takes, and hides
/// nobody who has something to knock with. The others are counted.
const REFUSALS_MAX: u64 = 30;
const REFUSAL_EVERY: Duration = Duration::from_secs(2);

/// Lines are on the disk so long after they were written, at the latest: an fsync for each would hold up who runs
/// commands, and what is lost with a machine's power is told by the events.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Who it was in plain mode, where nobody can be told from anybody.
const INSECURE: &str = "insecure";

/// Of what somebody sent, characters: that has no bound of its own.
const SENT_MAX: usize = 200;

/// Shared by all that answer calls.
pub struct Audit {
    file: Rolling,
    syncer: Syncer,
    /// Of strangers, of agents, and of all others: one agent that goes wrong hides nothing of people.
    refusals: [Mutex<Lines>; 3],
}

/// A line. What is not known is null.
#[derive(Serialize)]
struct Line<'a> {
    time: Option<String>,
    action: &'a str,
    /// By which token or certificate.
    who: Option<&'a str>,
    address: Option<SocketAddr>,
    agent: Option<&'a str>,
    agent_id: Option<String>,
    what: String,
    /// Refusals before this one that were not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    unwritten: Option<u64>,
}

impl Audit {
    /// Opens or creates it, for its owner alone. Blocks.
    ///
    /// # Errors
    /// For people, with the remedy.
    pub fn open(path: &Path, size_max: u64, files_max: u32) -> Result<Self, String> {
        let file = Rolling::open_with(path, size_max, files_max, 0o600).map_err(|error| match error {
            OpenError::Held(path) => {
                format!("the audit file {} is written by another process: end that one", path.display())
            }
            OpenError::Io(path, error) => {
                let why = sloth_agent::config::describe(&error);
                format!("cannot write the audit file {}: {why}; make it writable", path.display())
            }
        })?;
        // One that was there before, too.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|error| format!("cannot keep the audit file {} from others: {error}", path.display()))?;
        let (synced, mut works) = (path.to_owned(), true);
        let syncer = Syncer::new(SYNC_EVERY, move || match make_durable(&synced) {
            Ok(()) => works = true,
            Err(error) if std::mem::take(&mut works) => {
                let why = sloth_agent::config::describe(&error);
                log::error!("The audit file {} cannot be brought to the disk: {why}", synced.display());
            }
            Err(_) => {}
        });
        let syncer = syncer.map_err(|error| format!("no thread for the audit file: {error}"))?;
        let refusals = refusals(clock::boottime());
        Ok(Self { file, syncer, refusals })
    }

    /// Something was done.
    pub fn done(&self, caller: Option<&Caller>, action: &str, agent: (&str, AgentId), what: &str) {
        self.write(&Line {
            agent: Some(agent.0).filter(|name| !name.is_empty()),
            agent_id: (agent.1 != AgentId::default()).then(|| fleet::hex(&agent.1)),
            ..line(caller, None, action, what.to_owned())
        });
    }

    /// A call was refused. Of many only some are written.
    pub fn refused(&self, caller: Option<&Caller>, address: Option<SocketAddr>, call: &str, why: &str) {
        let now = clock::boottime();
        let whose = match caller.filter(|caller| caller.is_known()) {
            None => 0,
            Some(caller) if caller.who == Some(Who::Agent) => 1,
            Some(_) => 2,
        };
        let unwritten = self.refusals[whose].lock().unwrap_or_else(PoisonError::into_inner).count(now);
        let Some(unwritten) = unwritten else { return };
        let what = format!("{}: {}", cut(call), cut(why));
        let unwritten = Some(unwritten).filter(|&count| count > 0);
        self.write(&Line { unwritten, ..line(caller, address, "refused", what) });
    }

    fn write(&self, line: &Line<'_>) {
        let mut text = serde_json::to_vec(line).expect("these types have string keys and no failing parts");
        text.push(b'\n');
        self.file.write_line(&text);
        self.syncer.mark();
    }
}

/// None yet, of all kinds.
fn refusals(now: Duration) -> [Mutex<Lines>; 3] {
    [(); 3].map(|()| Mutex::new(Lines::new(now, REFUSALS_MAX, REFUSAL_EVERY)))
}

/// The file, those that were set aside last, and that they are there.
fn make_durable(path: &Path) -> io::Result<()> {
    let aside = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    File::open(path)?.sync_data()?;
    for path in [aside(1), aside(2)] {
        match File::open(path) {
            Ok(file) => file.sync_data()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn line<'a>(caller: Option<&'a Caller>, address: Option<SocketAddr>, action: &'a str, what: String) -> Line<'a> {
    Line {
        time: rfc3339(clock::unix_ms()),
        action,
        who: match caller {
            Some(caller) if caller.who.is_none() => Some(INSECURE),
            caller => caller.map(|caller| caller.name.as_str()).filter(|name| !name.is_empty()),
        },
        address: caller.and_then(|caller| caller.address).or(address),
        agent: None,
        agent_id: None,
        what,
        unwritten: None,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(SENT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Who;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn who_knocks_without_end_writes_little_and_is_counted() {
        let at = Duration::from_millis;
        let mut refusals = Lines::new(at(0), REFUSALS_MAX, REFUSAL_EVERY);
        let written = (0..1_000).filter(|_| refusals.count(at(0)) == Some(0)).count();
        assert_eq!(written, 30);
        assert_eq!(refusals.count(at(1_999)), None);
        assert_eq!(refusals.count(at(2_000)), Some(971));
        assert_eq!(refusals.count(at(2_001)), None);
        assert_eq!(refusals.count(at(3_999)), None);
        assert_eq!(refusals.count(at(4_000)), Some(2), "the halves before were not lost");
        let written = (0..1_000).filter(|_| refusals.count(at(1_000_000)).is_some()).count();
        assert_eq!(written, 30, "a quiet time fills it again, and no more than that");
    }

    #[test]
    fn each_line_is_brought_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (done, seen) = std::sync::mpsc::channel();
        let lines = path.clone();
        let syncer = Syncer::new(SYNC_EVERY, move || {
            make_durable(&lines).unwrap();
            done.send(fs::read_to_string(&lines).unwrap().lines().count()).unwrap();
        });
        let file = Rolling::open_with(&path, 1_000, 2, 0o600).unwrap();
        let refusals = refusals(Duration::ZERO);
        let audit = Audit { file, syncer: syncer.unwrap(), refusals };
        audit.done(None, "run", ("lady", [1; 16]), "command a");
        assert_eq!(seen.recv_timeout(Duration::from_secs(30)), Ok(1), "not only at the end");
        audit.refused(None, None, "/x", "no");
        drop(audit);
        assert_eq!(seen.iter().last(), Some(2));
        assert!(make_durable(&folder.path().join("none")).is_err());
    }

    #[test]
    fn who_has_nothing_to_show_hides_nobody_who_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let audit = Audit::open(&path, 1 << 20, 2).unwrap();
        let stranger = Caller::new(Some(Who::Anonymous), "somebody".to_owned(), None);
        for caller in [Some(&stranger), None] {
            (0..500).for_each(|_| audit.refused(caller, None, "List", "no"));
        }
        for who in [Who::Operator, Who::Viewer, Who::Agent] {
            audit.refused(Some(&Caller::new(Some(who), "eva".to_owned(), None)), None, "Delete", "no");
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("eva")).count(), 3, "{text}");
        let strangers = text.lines().count() - 3;
        assert!((30..40).contains(&strangers), "{strangers}");
    }

    #[test]
    fn an_agent_that_goes_wrong_hides_nobody_who_is_a_person() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let audit = Audit::open(&path, 1 << 20, 2).unwrap();
        let wrong = Caller::new(Some(Who::Agent), "agent lady".to_owned(), None);
        (0..500).for_each(|_| audit.refused(Some(&wrong), None, "Run", "no"));
        for who in [Who::Operator, Who::Viewer] {
            audit.refused(Some(&Caller::new(Some(who), "eva".to_owned(), None)), None, "Delete", "no");
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("eva")).count(), 2, "{text}");
    }

    #[test]
    fn lines_are_json_for_the_owner_alone_and_old_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let audit = Audit::open(&path, 500, 2).unwrap();
        let address = Some("127.0.0.1:7".parse().unwrap());
        let who = Some(crate::access::Who::Operator);
        let caller = Caller { who, name: "operator \"eva\"".to_owned(), address, agent: None, credential: None };
        for _ in 0..10 {
            audit.done(Some(&caller), "run", ("lady", [1; 16]), "command a\nb");
        }
        audit.refused(None, address, &"x".repeat(10_000), "no");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let text: String = names.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(names.iter().all(|path| fs::metadata(path).unwrap().mode() & 0o777 == 0o600));
        let done = lines.iter().find(|line| line["action"] == "run").unwrap();
        assert_eq!((&done["who"], &done["agent"]), (&"operator \"eva\"".into(), &"lady".into()), "{done}");
        assert_eq!(done["agent_id"], "01".repeat(16));
        let refused = lines.iter().find(|line| line["action"] == "refused").unwrap();
        assert_eq!((&refused["address"], &refused["who"]), (&"127.0.0.1:7".into(), &serde_json::Value::Null));
        assert!(refused["what"].as_str().unwrap().len() < 300, "{refused}");
    }
}
