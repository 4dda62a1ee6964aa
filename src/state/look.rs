//! Looking at the agent of a state directory from outside, as `stop` and `status` do.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    LOCK, PID, Process, RUNTIME, STATUS, StateDir, is_trusted,
    process::start_time,
    refuge::{self, Place},
};
use crate::logging::{is_unlocked, lock};

/// Whether an agent runs on a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// None. A pid file that is left is stale.
    Nobody,
    /// The process of the pid file, if there is one and it is that process.
    Running(Option<Process>),
}

impl StateDir {
    /// Who holds a state directory.
    ///
    /// # Errors
    /// When its lock cannot be examined.
    pub fn holder(path: &Path) -> io::Result<Holder> {
        let here = match is_trusted(path) {
            Ok(()) => lock_is_held(path),
            Err(_) => Ok(false),
        };
        let there = refuge::held(&Place::all(path));
        match (here, there) {
            (Ok(true), there) => {
                let elsewhere = || there.and_then(|place| read_process(&place));
                Ok(Holder::Running(read_process(path).or_else(elsewhere)))
            }
            (_, Some(place)) => Ok(Holder::Running(read_process(&place))),
            (here, None) => here.map(|_| Holder::Nobody),
        }
    }

    /// What the agent is called that holds a state directory, or has left its pid file there.
    pub fn holder_name(path: &Path) -> Option<String> {
        homes(path).iter().rev().find_map(|home| {
            let text = fs::read_to_string(home.join(PID)).ok()?;
            text.split_whitespace().nth(2).map(str::to_owned)
        })
    }

    /// Where pid and status are, if not in the state directory.
    pub fn refuge(path: &Path) -> Option<PathBuf> {
        refuge::held(&Place::all(path))
    }

    /// Removes a pid file that no agent stands behind, and returns the pid in it.
    pub fn remove_stale_pid(path: &Path) -> Option<u32> {
        // Under the lock: the file of an agent that is starting is not stale.
        let here = || {
            is_trusted(path).ok()?;
            let file = File::open(path.join(LOCK)).ok()?;
            if !lock(&file).ok()? {
                return None;
            }
            let text = fs::read_to_string(path.join(PID)).ok()?;
            fs::remove_file(path.join(PID)).ok()?;
            Some(text)
        };
        let there = refuge::reclaim(&Place::all(path), PID, &RUNTIME);
        here().or(there)?.split_whitespace().next()?.parse().ok()
    }

    /// What became of the link of this directory's agent, whether it runs or not.
    pub fn read_history_of(path: &Path) -> Vec<u8> {
        homes(path).iter().map(|home| super::read_history(home)).find(|kept| !kept.is_empty()).unwrap_or_default()
    }

    /// What the running agent last wrote by [`StateDir::write_status`].
    pub fn read_status(path: &Path) -> Option<String> {
        let written = |home: &PathBuf| Some((fs::metadata(home.join(STATUS)).ok()?.modified().ok()?, home.clone()));
        let (_, newest) = homes(path).iter().filter_map(written).max()?;
        fs::read_to_string(newest.join(STATUS)).ok()
    }
}

/// The process of the pid file, if it is alive and the one that wrote it.
pub(super) fn read_process(path: &Path) -> Option<Process> {
    let text = fs::read_to_string(path.join(PID)).ok()?;
    let mut words = text.split_whitespace();
    let process = Process { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? };
    (start_time(process.pid) == Some(process.started)).then_some(process)
}

/// Where an agent may have left pid and status.
fn homes(path: &Path) -> Vec<PathBuf> {
    let own = is_trusted(path).is_ok().then(|| path.to_path_buf());
    own.into_iter().chain(refuge::held(&Place::all(path))).collect()
}

/// False as well where there is no such directory.
fn lock_is_held(path: &Path) -> io::Result<bool> {
    const NO_SUCH_PATH: [i32; 4] = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::ENAMETOOLONG];
    let file = match File::open(path.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path),
        other => other,
    };
    match file {
        Ok(file) => is_unlocked(&file).map(|unlocked| !unlocked),
        Err(error) if error.raw_os_error().is_some_and(|number| NO_SUCH_PATH.contains(&number)) => Ok(false),
        Err(error) => Err(error),
    }
}
