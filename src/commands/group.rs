//! The process group of one command.

use std::{fs, io};

/// A process group that is killed when this is dropped, unless it was let go.
#[derive(Debug)]
pub struct Group(Option<libc::pid_t>);

impl Group {
    /// Led by this process, which nobody has waited for yet.
    pub fn led_by(leader: libc::pid_t) -> Self {
        assert!(leader > 1, "no group of a command");
        Self(Some(leader))
    }

    /// A group that is looked at, and stays when this is dropped.
    pub fn borrowed(leader: libc::pid_t) -> Borrowed {
        Borrowed(Self::led_by(leader))
    }

    /// Nothing more is sent to it. Its number may become somebody else's once its leader was waited for and nobody is
    /// left in it.
    pub fn let_go(&mut self) {
        self.0 = None;
    }

    pub fn is_let_go(&self) -> bool {
        self.0.is_none()
    }

    /// Whether somebody is left in the group, dead or alive.
    pub fn send(&self, signal: libc::c_int) -> bool {
        let Some(group) = self.0 else { return false };
        // SAFETY: has no preconditions.
        let result = unsafe { libc::kill(-group, signal) };
        result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
    }

    /// Whether somebody lives in the group. Reads `/proc` only if somebody is left, for the dead stay in it until their
    /// parent looks, and in some containers the parent of orphans never does.
    pub fn lives(&self) -> bool {
        let Some(group) = self.0.filter(|_| self.send(0)) else { return false };
        let Ok(processes) = fs::read_dir("/proc") else { return true };
        let mut dead = false;
        for process in processes.flatten() {
            if !process.file_name().as_encoded_bytes()[0].is_ascii_digit() {
                continue;
            }
            let Ok(stat) = fs::read(process.path().join("stat")) else { continue };
            match state_and_group(&stat) {
                Some((b'Z' | b'X', of)) if of == group => dead = true,
                Some((_, of)) if of == group => return true,
                _ => {}
            }
        }
        // Without any member to be seen, those that the kernel speaks of are hidden.
        !dead
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.send(libc::SIGKILL);
    }
}

/// See [`Group::borrowed`].
#[derive(Debug)]
pub struct Borrowed(Group);

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl std::ops::Deref for Borrowed {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.0
    }
}

/// The process group in a `/proc/PID/stat`, unless the process is dead.
pub fn of(stat: &[u8]) -> Option<libc::pid_t> {
    match state_and_group(stat)? {
        (b'Z' | b'X', _) => None,
        (_, group) => Some(group).filter(|group| *group > 1),
    }
}

/// From `/proc/PID/stat`: `PID (name, which may hold anything) STATE PARENT GROUP …`.
fn state_and_group(stat: &[u8]) -> Option<(u8, libc::pid_t)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = stat[after_name..].split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let state = *fields.next()?.first()?;
    let group = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
    Some((state, group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::CommandExt, process::Command};

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_mislead() {
        assert_eq!(state_and_group(b"17 (a) R 1 (b) Z 5 99 17 0"), Some((b'Z', 99)));
        assert_eq!(state_and_group(b"17 (a)"), None);
        assert_eq!(state_and_group(b""), None);
    }

    #[test]
    fn a_group_of_the_dead_does_not_live() {
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let group = Group::led_by(child.id() as libc::pid_t);
        assert!(group.lives());
        group.send(libc::SIGKILL);
        while group.lives() {}
        assert!(group.send(0), "nobody has waited for it yet");
        child.wait().unwrap();
        assert!(!group.send(0));
    }
}
