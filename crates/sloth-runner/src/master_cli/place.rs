//! Who else can write the directory of a master.

use sloth_agent::config::is_anothers;
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// How others can, with the remedy: whoever writes there puts files of his own in the place of the master's. Where
/// everybody can make files, as in `/tmp`, nobody replaces another's. None, too, where it is not there.
pub fn open_to_others(directory: &Path) -> Option<String> {
    let found = fs::metadata(directory).ok()?;
    let mode = found.mode();
    let (others, sticky) = (mode & 0o022 != 0, mode & 0o1000 != 0);
    let shown = directory.display();
    if is_anothers(&found) {
        return Some(format!(
            "{shown} is another user's (uid {}), who can replace what is in it: `chown` it",
            found.uid()
        ));
    }
    let told = || format!("others can write {shown} (mode {:o}): `chmod go-w {shown}`", mode & 0o7777);
    (others && !sticky).then(told)
}
