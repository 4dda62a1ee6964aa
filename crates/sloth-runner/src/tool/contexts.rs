//! The file of contexts: which masters an operator works with, and by what he is let in there.

use super::credential::Said;
use serde::{Deserialize, Serialize};
use sloth_agent::config::describe;
use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

const FOLDER: &str = "sloth-runner";
const FILE: &str = "contexts.json";

/// Larger files are not read, bytes: thousands of contexts.
const SIZE_MAX: u64 = 1 << 20;

/// Longest name of a context.
const NAME_MAX: usize = 64;

/// All contexts, and which one is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// Used where neither a flag nor a variable says which master. None: no one is.
    #[serde(default)]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A master, and how to talk to it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub master: String,
    /// Absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Instead of a token: files of a certificate and its key, absolute. The key stays in its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Context {
    pub fn said(&self) -> Said {
        let Self { ca, token, cert, key, .. } = self.clone();
        Said { token, ca, cert, key }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "***");
        f.debug_struct("Context")
            .field("master", &self.master)
            .field("ca", &self.ca)
            .field("token", &token)
            .field("cert", &self.cert)
            .finish()
    }
}

/// Where the file is: below `$XDG_CONFIG_HOME`, else `~/.config`. None: there is no home. The specification wants a
/// relative `$XDG_CONFIG_HOME` to be ignored.
pub fn path(config_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let config_home = config_home.map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || home.map(PathBuf::from).filter(|path| path.is_absolute()).map(|home| home.join(".config"));
    Some(config_home.or_else(home)?.join(FOLDER).join(FILE))
}

/// As [`path`], of this process.
pub fn own_path() -> Option<PathBuf> {
    path(env::var_os("XDG_CONFIG_HOME"), env::var_os("HOME"))
}

/// None in the file where there is no file.
///
/// # Errors
/// For people: it cannot be used, or others can read it; with the remedy.
pub fn read(path: &Path) -> Result<Contexts, String> {
    let shown = path.display();
    let unreadable = |error: io::Error| format!("the contexts in {shown} cannot be read: {}", describe(&error));
    let file = match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Contexts::default());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o777;
    // SAFETY: it has no arguments, and cannot fail.
    let me = unsafe { libc::geteuid() };
    if metadata.uid() != me && me != 0 {
        return Err(format!("the contexts in {shown} belong to another user: whoever writes them says whom to trust"));
    }
    if mode & 0o077 != 0 {
        return Err(format!(
            "the contexts in {shown} hold tokens, and others can read them (mode {mode:04o}): run chmod 600 {shown}; \
             have tokens that others may have seen revoked"
        ));
    }
    if !metadata.is_file() || metadata.len() > SIZE_MAX {
        return Err(format!("the contexts in {shown} are no file of at most {SIZE_MAX} bytes: remove it"));
    }
    let mut text = String::new();
    file.take(SIZE_MAX).read_to_string(&mut text).map_err(unreadable)?;
    // What serde says can quote the text, and with it a token.
    let broken = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        format!("the contexts in {shown} are damaged at line {line}, column {column}: correct that, or remove the file")
    };
    serde_json::from_str(&text).map_err(broken)
}

/// Reads, changes and replaces the file, one process at a time: of two that add each its own, neither is lost.
///
/// # Errors
/// For people; what `change` says, and then the file is as it was.
pub fn change<R>(path: &Path, change: impl FnOnce(&mut Contexts) -> Result<R, String>) -> Result<R, String> {
    let _held = hold(path).map_err(|error| {
        format!("the contexts in {} cannot be held against others: {}", path.display(), describe(&error))
    })?;
    let mut contexts = read(path)?;
    let done = change(&mut contexts)?;
    write(path, &contexts)?;
    Ok(done)
}

/// Waits until no other process changes the file: that takes it milliseconds. Let go of by dropping, and by the end of
/// the process, whatever that is. Beside the file, which is another one after each change.
fn hold(path: &Path) -> io::Result<File> {
    let folder = path.parent().expect("the path has a folder");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let lock = path.with_extension("lock");
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
    // SAFETY: the descriptor is open for as long as `file` is.
    while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(file)
}

/// Replaces the file whole, 0600, in a folder that is made if it is missing.
///
/// # Errors
/// For people.
pub fn write(path: &Path, contexts: &Contexts) -> Result<(), String> {
    let folder = path.parent().expect("the path has a folder");
    let replace = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let text = serde_json::to_string_pretty(contexts).expect("these types have string keys and no failing parts");
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    replace().map_err(|error: io::Error| {
        format!("the contexts in {} cannot be written: {}", path.display(), describe(&error))
    })
}

/// # Errors
/// The rule, for people.
pub fn check_name(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fits) || name.starts_with(['.', '-']) {
        return Err(format!(
            "a name is 1 to {NAME_MAX} of letters, digits, `.`, `_`, `-`, the first a letter, digit or `_`"
        ));
    }
    Ok(name.to_owned())
}

impl Contexts {
    /// The one with this name.
    ///
    /// # Errors
    /// There is none; for people.
    pub fn named(&self, name: &str) -> Result<&Context, String> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            match known.as_slice() {
                [] => format!("there is no context {name}: none was added (`sloth-runner context add`)"),
                known => format!("there is no context {name}; there are: {}", known.join(", ")),
            }
        })
    }

    /// Adds one; the first is used from now on. `true`: this is the one that is used.
    ///
    /// # Errors
    /// The name is taken; for people.
    pub fn add(&mut self, name: &str, context: Context) -> Result<bool, String> {
        if self.contexts.contains_key(name) {
            return Err(format!("there is a context {name} already: `sloth-runner context remove {name}` removes it"));
        }
        // Else the next command would go to localhost.
        if self.current.is_none() {
            self.current = Some(name.to_owned());
        }
        self.contexts.insert(name.to_owned(), context);
        Ok(self.current.as_deref() == Some(name))
    }

    /// # Errors
    /// There is none; for people.
    pub fn set_current(&mut self, name: &str) -> Result<(), String> {
        self.named(name)?;
        self.current = Some(name.to_owned());
        Ok(())
    }

    /// Where it was the one that is used, none is from now on: another master must not be worked on by surprise. `true`:
    /// it was.
    ///
    /// # Errors
    /// There is none; for people.
    pub fn remove(&mut self, name: &str) -> Result<bool, String> {
        self.named(name)?;
        self.contexts.remove(name);
        Ok(self.current.take_if(|current| current == name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn some(master: &str) -> Context {
        Context { master: master.to_owned(), token: Some("sloth1.secret".to_owned()), ..Context::default() }
    }

    #[test]
    fn it_lies_below_the_configuration_of_the_user() {
        let of = |one: &str, other: &str| path(Some(one.into()), Some(other.into()));
        assert_eq!(of("/c", "/h"), Some("/c/sloth-runner/contexts.json".into()));
        assert_eq!(of("c", "/h"), Some("/h/.config/sloth-runner/contexts.json".into()));
        assert_eq!(of("", "/h"), Some("/h/.config/sloth-runner/contexts.json".into()));
        assert_eq!(of("", ""), None);
        assert_eq!(path(None, None), None);
    }

    #[test]
    fn what_is_written_is_read_and_only_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/sloth-runner/contexts.json");
        assert_eq!(read(&path), Ok(Contexts::default()));
        let mut contexts = Contexts::default();
        assert_eq!(contexts.add("a", some("a:1")), Ok(true));
        assert_eq!(contexts.add("b", some("b:1")), Ok(false));
        write(&path, &contexts).unwrap();
        write(&path, &contexts).unwrap();
        assert_eq!(read(&path), Ok(contexts.clone()));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(!format!("{contexts:?}").contains("secret"));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = read(&path).unwrap_err();
        assert!(said.contains("others can read them (mode 0640): run chmod 600 "), "{said}");
    }

    #[test]
    fn of_many_that_add_at_once_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/contexts.json");
        let add = |n: usize| change(&path, |contexts| contexts.add(&format!("c{n}"), some("a:1"))).unwrap();
        std::thread::scope(|scope| {
            let adding: Vec<_> = (0..16).map(|n| scope.spawn(move || add(n))).collect();
            let used = adding.into_iter().filter(|_| true).map(|one| one.join().unwrap()).filter(|used| *used).count();
            assert_eq!(used, 1, "one was the first");
        });
        assert_eq!(read(&path).unwrap().contexts.len(), 16);
        assert_eq!(fs::metadata(path.with_extension("lock")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_named_without_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.json");
        write(&path, &Contexts::default()).unwrap();
        fs::write(&path, "{\"sloth1.secret\": 1}").unwrap();
        let said = read(&path).unwrap_err();
        assert!(said.contains("are damaged at line 1, column ") && !said.contains("secret"), "{said}");
    }

    #[test]
    fn names_are_told_apart() {
        let mut contexts = Contexts::default();
        assert!(contexts.named("a").unwrap_err().contains("none was added"));
        contexts.add("a", some("a:1")).unwrap();
        contexts.add("b", some("b:1")).unwrap();
        assert!(contexts.add("b", some("c:1")).unwrap_err().contains("remove b"));
        assert_eq!(contexts.named("c").unwrap_err(), "there is no context c; there are: a, b");
        assert!(contexts.set_current("c").is_err());
        assert_eq!(contexts.set_current("b"), Ok(()));
        assert_eq!(contexts.remove("a"), Ok(false));
        assert_eq!(contexts.current.as_deref(), Some("b"));
        assert_eq!(contexts.remove("b"), Ok(true));
        assert_eq!(contexts.current, None);
        for wrong in ["", ".a", "-a", "a b", "a/b"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(check_name("site_7.b-x").as_deref(), Ok("site_7.b-x"));
    }
}
