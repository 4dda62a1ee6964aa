//! The audit file: who did what, and who was refused, one JSON object a line.

mod allowance;
mod sync;

pub use allowance::Kind;

use crate::{
    access::{Caller, Who},
    clock,
    listen::places::Source,
    tool::time::rfc3339,
};
use allowance::Allowances;
use fleet::AgentId;
use serde::Serialize;
use sloth_agent::logging::{OpenError, Rolling};
use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use sync::Syncer;

/// In the state directory.
pub const FILE: &str = "audit.log";

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
    /// For lines of those who change nothing.
    allowances: Mutex<Allowances>,
    /// Whether the last line could not be written.
    fails: AtomicBool,
    /// Lines that could not be, since the start.
    lost: AtomicU64,
    /// … of an outage that is over, to be told as an event.
    untold: AtomicU64,
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
    /// So many lines of this kind before this one were not written: more than there is room for, or none was writable.
    #[serde(skip_serializing_if = "Option::is_none")]
    unwritten: Option<u64>,
}

impl Audit {
    /// Opens or creates it, for its owner alone. Blocks.
    ///
    /// # Errors
    /// For people, with the remedy.
    pub fn open(path: &Path, size_max: u64, files_max: u32) -> Result<Self, String> {
        let file = Rolling::open_private(path, size_max, files_max).map_err(|error| match error {
            OpenError::Held(path) => {
                format!("the audit file {} is written by another process: end that one", path.display())
            }
            OpenError::Io(path, error) if error.raw_os_error() == Some(libc::ELOOP) => format!(
                "the audit file {} is a link to another file: remove it, and see who else can write that directory",
                path.display()
            ),
            OpenError::Io(path, error) => {
                let why = sloth_agent::config::describe(&error);
                format!("cannot write the audit file {}: {why}; make it writable", path.display())
            }
        })?;
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
        Ok(Self::new(file, syncer))
    }

    fn new(file: Rolling, syncer: Syncer) -> Self {
        let allowances = Mutex::new(Allowances::new(clock::boottime()));
        Self { file, syncer, allowances, fails: false.into(), lost: 0.into(), untold: 0.into() }
    }

    /// Something was done that changes something.
    pub fn done(&self, caller: Option<&Caller>, action: &str, agent: (&str, AgentId), what: &str) {
        self.write(&done(caller, action, agent, what));
    }

    /// Somebody came or went, and changed nothing. Of many such lines only some are written, `whose` apart from those of
    /// others. Returns whether this one is.
    pub fn came(
        &self,
        (kind, whose): (Kind, &str),
        caller: Option<&Caller>,
        action: &str,
        agent: (&str, AgentId),
        what: &str,
    ) -> bool {
        let Some(unwritten) = self.count(kind, whose) else { return false };
        self.write(&Line { unwritten, ..done(caller, action, agent, what) });
        true
    }

    /// A call was refused. Of many only some are written.
    pub fn refused(&self, caller: Option<&Caller>, address: Option<SocketAddr>, call: &str, why: &str) {
        let unwritten = match caller.filter(|caller| caller.is_known()) {
            None => {
                let address = caller.and_then(|caller| caller.address).or(address);
                let source = address.map(|address| Source::of(address.ip()));
                self.count(Kind::Stranger, &format!("{source:?}"))
            }
            Some(caller) if caller.who == Some(Who::Agent) => self.count(Kind::Agent, &caller.name),
            Some(caller) => self.count(Kind::Person, &caller.name),
        };
        let Some(unwritten) = unwritten else { return };
        let what = format!("{}: {}", cut(call), cut(why));
        self.write(&Line { unwritten, ..line(caller, address, "refused", what) });
    }

    /// Lines that could not be written, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many could not be written in outages that are over; of each only once.
    pub fn lost_before(&self) -> Option<u64> {
        Some(self.untold.swap(0, Ordering::Relaxed)).filter(|&lost| lost > 0)
    }

    /// None: not to be written.
    fn count(&self, kind: Kind, whose: &str) -> Option<Option<u64>> {
        let now = clock::boottime();
        let unwritten = self.allowances.lock().unwrap_or_else(PoisonError::into_inner).count(now, kind, whose)?;
        Some(Some(unwritten).filter(|&count| count > 0))
    }

    fn write(&self, line: &Line<'_>) {
        let written = self.file.try_write_line(&json(line), lost);
        let failed_before = self.fails.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Ok(0) => {}
            Ok(lost) => {
                self.untold.fetch_add(lost, Ordering::Relaxed);
                log::warn!("The audit file is written again: {lost} lines could not be, and are not in it");
            }
            Err(error) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                if !failed_before {
                    let (path, why) = (self.file.path(), sloth_agent::config::describe(&error));
                    log::error!(
                        "The audit file {} cannot be written: {why}; lines are lost until it can",
                        path.display()
                    );
                }
            }
        }
        self.syncer.mark();
    }
}

/// The line that stands for so many.
fn lost(lines: u64) -> Vec<u8> {
    let what = "these lines could not be written".to_owned();
    json(&Line { unwritten: Some(lines), ..line(None, None, "lost", what) })
}

fn json(line: &Line<'_>) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("these types have string keys and no failing parts");
    text.push(b'\n');
    text
}

fn done<'a>(caller: Option<&'a Caller>, action: &'a str, agent: (&'a str, AgentId), what: &str) -> Line<'a> {
    Line {
        agent: Some(agent.0).filter(|name| !name.is_empty()),
        agent_id: (agent.1 != AgentId::default()).then(|| fleet::hex(&agent.1)),
        ..line(caller, None, action, what.to_owned())
    }
}

/// The file, those that were set aside last, and that they are there.
fn make_durable(path: &Path) -> io::Result<()> {
    let aside = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    // While it is being set aside there is none of its name for a moment.
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path),
        opened => opened,
    };
    file?.sync_data()?;
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
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

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
        let audit = Audit::new(Rolling::open_private(&path, 1_000, 2).unwrap(), syncer.unwrap());
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
    fn who_signs_in_or_joins_without_end_hides_nothing_that_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let audit = Audit::open(&path, 1 << 20, 2).unwrap();
        let person = |name: &str| Caller::new(Some(Who::Viewer), name.to_owned(), None);
        let (eva, otto) = (person("eva"), person("otto"));
        audit.done(Some(&eva), "token_created", ("", [0; 16]), "x");
        let came = |kind, whose: &str, by| audit.came((kind, whose), Some(by), "came", ("", [0; 16]), "in");
        let written = |kind, of| (0..of).filter(|_| came(kind, "otto", &otto)).count();
        assert_eq!((written(Kind::SignedIn, 17_514), written(Kind::Joined, 16_515)), (30, 500));
        assert!(came(Kind::SignedIn, "eva", &eva), "of others");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("token_created")).count(), 1);
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&last["who"], &last["unwritten"]), (&"eva".into(), &17_484.into()));
        for _ in 0..1_000 {
            audit.done(Some(&eva), "delete", ("lady", [1; 16]), "what changes something");
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("\"delete\"")).count(), 1_000, "never left out");
    }

    #[test]
    fn a_viewer_who_is_refused_without_end_hides_no_other_person_and_a_stranger_no_other_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let audit = Audit::open(&path, 1 << 20, 2).unwrap();
        let person = |name: &str| Caller::new(Some(Who::Viewer), name.to_owned(), None);
        (0..500).for_each(|_| audit.refused(Some(&person("otto")), None, "Run", "no"));
        audit.refused(Some(&person("eva")), None, "Delete", "no");
        let stranger = |n: u8| Some(SocketAddr::from(([10, 0, 0, n], 1)));
        (0..500).for_each(|_| audit.refused(None, stranger(1), "Run", "no"));
        audit.refused(None, stranger(2), "Run", "no");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("eva") && text.contains("10.0.0.2:1"), "{text}");
        assert_eq!(text.lines().count(), 62, "{text}");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join(FILE), folder.path().join("mine"));
        fs::write(&target, "kept").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
        symlink(&target, &path).unwrap();
        let refused = Audit::open(&path, 1 << 20, 2).err().expect("refused");
        let shown = path.display();
        assert_eq!(
            refused,
            format!(
                "the audit file {shown} is a link to another file: remove it, and see who else can write that directory"
            )
        );
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o644);
        fs::remove_file(&path).unwrap();
        // Nor is one where the next file is to be made.
        symlink(&target, folder.path().join("audit.log.new")).unwrap();
        let audit = Audit::open(&path, 100, 2).unwrap();
        for _ in 0..3 {
            audit.done(None, "run", ("lady", [1; 16]), "command a");
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3, "it grows");
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
