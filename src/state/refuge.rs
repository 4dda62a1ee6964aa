//! Where an agent says that it runs while its state directory cannot hold that: a folder which `start`, `stop` and
//! `status` find alike, from the path of the state directory.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{identity::fnv_1a, patient_lock};
use crate::{
    config::{describe, temporary_folder},
    logging::{is_unlocked, lock},
};

/// How often a place is tried anew that its last holder removed in the same instant.
const TRIES: u32 = 5;

/// One folder that may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Ours alone: what lies below it is nobody else's doing.
    base: PathBuf,
    pub path: PathBuf,
}

/// A place that is held, for as long as this or a copy of it in another process lives.
#[derive(Debug)]
pub(super) struct Refuge {
    pub path: PathBuf,
    _lock: File,
}

/// What became of the wish for a place.
#[derive(Debug)]
pub(super) enum Taken {
    Ours(Refuge),
    /// Another agent of the same state directory is there.
    Held,
    /// No place can be written; why not, for people.
    Nowhere(String),
}

impl Place {
    /// For the agent of a state directory, best first.
    pub fn all(state_dir: &Path) -> Vec<Self> {
        let uid = own_uid();
        let key = key(state_dir);
        let mut places = Vec::new();
        if uid == 0 {
            places.push(Self::below("/run/sloth-runner".into(), "", &key));
        }
        // Before the user's runtime directory: that goes when the user logs out, and the agent stays.
        places.push(Self::below(temporary_folder(uid), "run", &key));
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        places.extend(runtime.map(|runtime| Self::below(runtime.join("sloth-runner"), "", &key)));
        places
    }

    pub(super) fn below(base: PathBuf, folder: &str, key: &str) -> Self {
        let path = base.join(folder).join(key);
        Self { base, path }
    }

    fn take(&self) -> io::Result<Option<Refuge>> {
        make_private(&self.base)?;
        for _ in 0..TRIES {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
            make_private(&self.path)?;
            let lock = File::open(&self.path)?;
            if !patient_lock(&lock)? {
                return Ok(None);
            }
            let node = |found: fs::Metadata| (found.dev(), found.ino());
            let locked = node(lock.metadata()?);
            if fs::symlink_metadata(&self.path).is_ok_and(|here| node(here) == locked) {
                return Ok(Some(Refuge { path: self.path.clone(), _lock: lock }));
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn is_held(&self) -> bool {
        is_ours(&self.base).is_ok()
            && File::open(&self.path).is_ok_and(|folder| is_unlocked(&folder).is_ok_and(|unlocked| !unlocked))
    }
}

/// Takes the best place that can be had, without the `files` that an earlier agent has left there.
pub(super) fn take(places: &[Place], files: &[&str]) -> Taken {
    // First of all: another environment, or a file system that can be written again, would lead to another place.
    if held(places).is_some() {
        return Taken::Held;
    }
    let mut failures = Vec::new();
    for place in places {
        match place.take() {
            Ok(Some(refuge)) => {
                remove(&refuge.path, files);
                return Taken::Ours(refuge);
            }
            Ok(None) => return Taken::Held,
            Err(error) => failures.push(format!("{} ({})", place.path.display(), describe(&error))),
        }
    }
    Taken::Nowhere(failures.join(", "))
}

/// The place that an agent holds.
pub(super) fn held(places: &[Place]) -> Option<PathBuf> {
    places.iter().find(|place| place.is_held()).map(|place| place.path.clone())
}

/// Removes what an agent leaves in its place, and the place.
pub(super) fn clear(places: &[Place], files: &[&str]) {
    for place in places.iter().filter(|place| is_ours(&place.base).is_ok()) {
        remove(&place.path, files);
        let _ = fs::remove_dir(&place.path);
    }
}

/// Clears places that nobody holds; what stood in the first `wanted` file that was there.
pub(super) fn reclaim(places: &[Place], wanted: &str, files: &[&str]) -> Option<String> {
    let left = places.iter().filter(|place| is_ours(&place.base).is_ok()).filter_map(|place| {
        let folder = File::open(&place.path).ok()?;
        // Under the lock: what an agent writes that is starting is not left over.
        lock(&folder).ok()?.then(|| {
            let text = fs::read_to_string(place.path.join(wanted)).ok();
            clear(std::slice::from_ref(place), files);
            text
        })?
    });
    // All of them are cleared, whichever has it.
    left.collect::<Vec<_>>().into_iter().next()
}

fn remove(folder: &Path, files: &[&str]) {
    for file in files {
        let _ = fs::remove_file(folder.join(file));
    }
}

/// Whom this process runs as.
pub(super) fn own_uid() -> u32 {
    // SAFETY: has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// Makes sure that a folder is there, ours, and closed to everybody else.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if is_ours(folder)? & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The mode of a folder that is ours, and no link to one.
pub(super) fn is_ours(folder: &Path) -> io::Result<u32> {
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if found.uid() != own_uid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(found.mode())
}

/// A name for a state directory, the same whichever way its path is written.
fn key(state_dir: &Path) -> String {
    const NAME_MAX: usize = 63;
    let path = real(state_dir);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().filter(plain).take(NAME_MAX).collect();
    let hash = fnv_1a(path.as_os_str().as_encoded_bytes()) as u64;
    format!("{name}-{hash:016x}")
}

/// Without links, as far as the path exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let found = path.ancestors().find_map(|ancestor| {
        let rest = path.strip_prefix(ancestor).ok()?;
        fs::canonicalize(ancestor).ok().map(|real| if rest.as_os_str().is_empty() { real } else { real.join(rest) })
    });
    found.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(base: &Path) -> Place {
        Place::below(base.join("base"), "run", "node1")
    }

    #[test]
    fn a_place_is_private_held_once_and_gone_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let places = [place(folder.path())];
        let Taken::Ours(refuge) = take(&places, &[]) else { panic!("it can be written") };
        for path in [folder.path().join("base"), refuge.path.clone()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(held(&places), Some(refuge.path.clone()));
        assert!(matches!(take(&places, &[]), Taken::Held));
        clear(&places, &[]);
        assert!(!refuge.path.exists());
        drop(refuge);
        assert_eq!(held(&places), None);
        assert!(matches!(take(&places, &[]), Taken::Ours(_)));
    }

    #[test]
    fn the_next_place_serves_where_the_best_cannot_and_is_found_by_those_who_could_have_the_best() {
        let folder = tempfile::tempdir().unwrap();
        let second = place(folder.path());
        // A link to a folder of ours may be somebody else's trap.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let first = Place::below(link.clone(), "", "node1");
        let Taken::Ours(refuge) = take(&[first.clone(), second.clone()], &[]) else {
            panic!("the second can be written")
        };
        assert_eq!(refuge.path, second.path);
        fs::remove_file(&link).unwrap();
        assert!(matches!(take(&[first.clone(), second.clone()], &[]), Taken::Held));
        drop(refuge);
        fs::write(&link, "").unwrap();
        let Taken::Nowhere(text) = take(std::slice::from_ref(&first), &[]) else { panic!("there is a file") };
        assert_eq!(text, format!("{} (not a directory)", first.path.display()));
    }

    #[test]
    fn what_was_left_behind_is_read_and_cleared_unless_somebody_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let places = [place(folder.path())];
        let Taken::Ours(refuge) = take(&places, &[]) else { panic!("it can be written") };
        fs::write(refuge.path.join("pid"), "7").unwrap();
        assert_eq!(reclaim(&places, "pid", &["pid"]), None);
        drop(refuge);
        assert_eq!(reclaim(&places, "pid", &["pid"]).as_deref(), Some("7"));
        assert!(!places[0].path.exists());
    }

    #[test]
    fn a_folder_of_ours_that_is_open_to_others_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        make_private(folder.path()).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("theirs");
        fs::create_dir(&other).unwrap();
        if std::os::unix::fs::chown(&other, Some(own_uid() + 1), None).is_err() {
            assert!(std::env::var_os("SLOTH_TEST_ALL").is_none(), "only root can give a folder away");
            println!("skipped: only root can give a folder away");
            return;
        }
        assert_eq!(make_private(&other).unwrap_err().to_string(), "it belongs to another user");
    }

    #[test]
    fn the_key_does_not_depend_on_how_a_path_is_written_and_differs_between_paths() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let of = |path: &Path| key(&path.join("no/node 1"));
        assert_eq!(of(&link), of(folder.path()));
        assert!(of(&link).starts_with("node1-"), "{}", of(&link));
        assert_ne!(of(folder.path()), key(&folder.path().join("on/node 1")));
    }
}
