//! A copy of the database, made while the master runs.

use super::{error::OpenError, schema};
use rusqlite::{Connection, OpenFlags, backup::Backup};
use sloth_agent::config::describe;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// What was backed up, counted in the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub bytes: u64,
    pub agents: u64,
    pub commands: u64,
    pub events: u64,
}

/// Copies the database at `source` as it is at one moment, checks the copy, and puts it at `target`, whole or not at
/// all. A master that runs goes on writing.
///
/// # Errors
/// A sentence for people. An existing target is one, unless `force` is given.
pub fn backup(source: &Path, target: &Path, force: bool) -> Result<Summary, String> {
    let failed = |error: &io::Error| {
        format!(
            "cannot write {}: {}; name a file in a directory that is there and can be written",
            target.display(),
            describe(error)
        )
    };
    if !source.exists() {
        return Err(format!(
            "there is no database at {}: name its master's directory with --state-dir",
            source.display()
        ));
    }
    if !force && target.symlink_metadata().is_ok() {
        return Err(format!("{} exists already: name another file, or overwrite it with --force", target.display()));
    }
    let part = Part::create(target).map_err(|error| failed(&error))?;
    copy(source, &part.0)?;
    let summary = verify(&part.0).map_err(|error| format!("the copy of {} is damaged: {error}", source.display()))?;
    part.publish(target, force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{} has come into being meanwhile: use --force", target.display()),
        _ => failed(&error),
    })?;
    Ok(summary)
}

fn copy(source: &Path, part: &Path) -> Result<(), String> {
    let fails = |error: &rusqlite::Error| OpenError::sqlite(source, error).to_string();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(source, flags).map_err(|error| fails(&error))?;
    from.busy_timeout(Duration::from_secs(5)).map_err(|error| fails(&error))?;
    schema::check(&from).map_err(|why| OpenError::new(source, why).to_string())?;

    let writes = |error: &rusqlite::Error| OpenError::sqlite(part, error).to_string();
    let mut to = Connection::open(part).map_err(|error| writes(&error))?;
    let copying = Backup::new(&from, &mut to).map_err(|error| writes(&error))?;
    // All pages in one step: in between the source would change, and the copying start anew. In WAL mode the master
    // writes on meanwhile.
    match copying.step(-1).map_err(|error| writes(&error))? {
        rusqlite::backup::StepResult::Done => {}
        _ => return Err(format!("{} is locked by another program: try again", source.display())),
    }
    drop(copying);
    // The run goes on at the source, and who starts on the copy is not to say that it was cut off.
    let known = "SELECT count(*) FROM sqlite_schema WHERE name = 'run'";
    if to.query_row(known, [], |row| row.get::<_, i64>(0)).map_err(|error| writes(&error))? > 0 {
        to.execute_batch("DELETE FROM run").map_err(|error| writes(&error))?;
    }
    // One file, without a WAL beside it.
    to.pragma_update(None, "journal_mode", "DELETE").map_err(|error| writes(&error))
}

fn verify(part: &Path) -> Result<Summary, String> {
    let check = || {
        let connection = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        let count =
            |table| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
        let [agents, commands, events] = [count("agents")?, count("commands")?, count("events")?].map(|n| n as u64);
        Ok((found, Summary { bytes: 0, agents, commands, events }))
    };
    let (found, summary) = check().map_err(|error: rusqlite::Error| error.to_string())?;
    if found != "ok" {
        return Err(found);
    }
    let bytes = fs::metadata(part).map_err(|error| error.to_string())?.len();
    Ok(Summary { bytes, ..summary })
}

/// The copy while it is made: beside its target, and removed unless it becomes it.
struct Part(PathBuf);

impl Part {
    fn create(target: &Path) -> io::Result<Self> {
        let mut name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(name);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self(path))
    }

    fn publish(&self, target: &Path, force: bool) -> io::Result<()> {
        File::open(&self.0)?.sync_all()?;
        if force {
            fs::rename(&self.0, target)?;
        } else {
            // Unlike a rename, a link never takes another file's place.
            fs::hard_link(&self.0, target)?;
        }
        let directory = target.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
