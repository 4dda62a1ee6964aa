//! What this node has to have.

use super::{Notes, Running, Verdict};
use crate::{
    agent,
    config::{Loaded, Log, Surroundings, describe, units::ShowSize},
    logging::Rolling,
    node::Disk,
    state::{self, may_write},
};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Below so much room commands may have no place for their output.
const DISK_MIN_KIB: u64 = 16 * 1024;

pub(super) fn examine(loaded: &Loaded, running: &Running, notes: &mut Notes<'_>) {
    let config = &loaded.config;
    let file =
        loaded.file.as_ref().map_or_else(|| "no file, so defaults and flags".into(), |file| file.display().to_string());
    notes.note("configuration", Verdict::Ok, file);
    let from = loaded.shown.iter().find(|shown| shown.key == "name");
    let from = from.map_or_else(|| "the host's name".to_owned(), |shown| shown.origin.to_string());
    let runs = running.agent.as_ref().map_or_else(|| "; none runs here".to_owned(), |agent| format!("; {agent} runs"));
    notes.note("name", Verdict::Ok, format!("{} ({from}){runs}", config.name));
    if let Some(pid) = running.stopped {
        let text = format!("process {pid} is stopped and does nothing: kill -CONT {pid}");
        notes.note("running agent", Verdict::Failed, text);
    }
    if let Some(refused) = &running.refused {
        let text = format!(
            "{refused}; when that is mended `sloth-agent reconnect {}` lets it try at once. With another token stop it \
             first, or name the token's file in auth.token_file",
            Surroundings::of_process().finds(&config.name, &config.state_dir)
        );
        notes.note("running agent", Verdict::Failed, text);
    }
    if let Some(deferred) = &running.deferred {
        notes.note("running agent", Verdict::Warning, deferred.clone());
    }
    state_directory(&config.state_dir, running, notes);
    open_files(config.commands.max_running as u64, notes);
    if running.agent.is_none() {
        log_file(&config.log, notes);
        ports(loaded, notes);
    }
}

fn state_directory(path: &Path, running: &Running, notes: &mut Notes<'_>) {
    const NAME: &str = "state directory";
    let shown = path.display();
    notes.begin();
    let missing = matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound);
    if missing {
        let above = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        return match may_write(above) {
            Ok(()) => notes.note(NAME, Verdict::Ok, format!("{shown} is made at the first start")),
            Err(error) => notes.note(NAME, Verdict::Warning, memory(path, &error)),
        };
    }
    // An agent that runs writes there itself, and a disk that hangs would hold this up.
    let written = if running.agent.is_some() { may_write(path) } else { try_to_write(path) };
    if let Err(error) = written {
        return notes.note(NAME, Verdict::Warning, memory(path, &error));
    }
    let Disk { total_kib, free_kib } = Disk::of(path);
    let room = format!("{}KiB", free_kib);
    let free = ShowSize(free_kib / 1024 * 1024 * 1024);
    let free = if free_kib < 1024 { room } else { free.to_string() };
    if total_kib > 0 && free_kib < DISK_MIN_KIB {
        let text = format!("{shown} has {free} of room: output of commands may not fit; make room");
        return notes.note(NAME, Verdict::Warning, text);
    }
    let id = if state::agent_id_at(path).is_some() { "" } else { ", no agent id yet" };
    notes.note(NAME, Verdict::Ok, format!("{shown} can be written, {free} free{id}"));
}

fn memory(path: &Path, error: &io::Error) -> String {
    format!(
        "{} cannot be written ({}): the agent would go on in memory, and a restart would forget its id and its \
         commands; set another state_dir, or mend that",
        path.display(),
        describe(error)
    )
}

/// With a sync, as an accepted command needs it.
fn try_to_write(folder: &Path) -> io::Result<()> {
    let path = folder.join("doctor.new");
    let tried = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(b"tried\n")?;
        file.sync_all()
    })();
    let _ = fs::remove_file(&path);
    tried
}

/// Opened as the agent does it. One that runs has it.
fn log_file(log: &Log, notes: &mut Notes<'_>) {
    let Some(path) = &log.file else { return };
    // Also a link that leads nowhere yet is somebody's.
    let is_new = path.symlink_metadata().is_err();
    match Rolling::open(path, log.max_size, log.max_files) {
        Ok(_) => {
            if is_new {
                let _ = fs::remove_file(path);
            }
            notes.note("log.file", Verdict::Ok, format!("{} can be written", path.display()))
        }
        // The agent would go on with its log on standard error, but not in the background.
        Err(error) if error.is_of_the_box() => notes.note("log.file", Verdict::Warning, error.to_string()),
        Err(error) => notes.note("log.file", Verdict::Failed, error.to_string()),
    }
}

fn open_files(running_max: u64, notes: &mut Notes<'_>) {
    let limit = agent::open_files_max();
    let (least, most) = (agent::OPEN_FILES_MIN, agent::OPEN_FILES_MIN + 8 * running_max);
    let remedy = "raise it (`ulimit -n`, or LimitNOFILE= of the service)";
    let (verdict, text) = if limit < least {
        (Verdict::Failed, format!("the limit is {limit}, an agent needs {least}: {remedy}"))
    } else if limit < most {
        let text = format!("the limit is {limit}, and {running_max} commands at once may need {most}: {remedy}");
        (Verdict::Warning, text)
    } else {
        (Verdict::Ok, format!("the limit is {limit}, at most {most} are needed"))
    };
    notes.note("open files", verdict, text);
}

fn ports(loaded: &Loaded, notes: &mut Notes<'_>) {
    let config = &loaded.config;
    if config.listen.port.is_some() {
        match agent::bind(config) {
            Ok(_) => notes.note("own port", Verdict::Ok, "it is free"),
            Err(text) => notes.note("own port", Verdict::Failed, text),
        }
    }
    if let Some(address) = config.http_listen {
        match std::net::TcpListener::bind(address) {
            Ok(_) => notes.note("http.listen", Verdict::Ok, format!("{address} is free")),
            Err(error) => notes.note("http.listen", Verdict::Warning, crate::http::unusable(address, &error)),
        }
    }
}
