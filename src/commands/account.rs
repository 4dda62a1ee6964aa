//! Users of this host.

use std::{
    ffi::{CStr, CString, OsString},
    io, mem,
    os::unix::ffi::OsStringExt,
    ptr,
};

/// Longest entry of the user database that is read.
const ENTRY_MAX: usize = 1024 * 1024;

/// Most groups of one user; the kernel's own limit.
const GROUPS_MAX: usize = 65_536;

/// What the user database says of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: OsString,
    pub uid: libc::uid_t,
    pub gid: libc::gid_t,
    pub home: OsString,
    pub shell: OsString,
}

impl Account {
    /// `None`: there is no such user.
    pub fn by_name(name: &str) -> io::Result<Option<Self>> {
        let Ok(name) = CString::new(name) else { return Ok(None) };
        look_up(|entry, buffer, size, found| {
            // SAFETY: all pointers are valid for the call, and `size` is the buffer's.
            unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, size, found) }
        })
    }

    /// Whom this process runs as. A user that the database does not know has its number as its name.
    pub fn own() -> io::Result<Self> {
        // SAFETY: has no preconditions.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let known = look_up(|entry, buffer, size, found| {
            // SAFETY: all pointers are valid for the call, and `size` is the buffer's.
            unsafe { libc::getpwuid_r(uid, entry, buffer, size, found) }
        })?;
        let unknown = || Self { name: uid.to_string().into(), uid, gid, home: "/".into(), shell: "/bin/sh".into() };
        Ok(known.unwrap_or_else(unknown))
    }

    /// All groups, the user's own included.
    pub fn groups(&self) -> io::Result<Vec<libc::gid_t>> {
        let name = CString::new(self.name.clone().into_vec())?;
        let mut groups = vec![0; 64];
        loop {
            let mut count = libc::c_int::try_from(groups.len()).expect("at most GROUPS_MAX");
            // SAFETY: `groups` has room for `count` entries.
            let result = unsafe { libc::getgrouplist(name.as_ptr(), self.gid, groups.as_mut_ptr(), &mut count) };
            if result >= 0 {
                groups.truncate(usize::try_from(count).expect("a count"));
                return Ok(groups);
            }
            if groups.len() >= GROUPS_MAX {
                return Err(io::Error::other("too many groups"));
            }
            groups.resize(groups.len() * 2, 0);
        }
    }
}

fn look_up(
    mut read: impl FnMut(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<Account>> {
    let mut buffer = vec![0; 1024];
    loop {
        // SAFETY: all zeros is a valid passwd: numbers and null pointers.
        let mut entry: libc::passwd = unsafe { mem::zeroed() };
        let mut found = ptr::null_mut();
        match read(&mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) {
            libc::ERANGE if buffer.len() < ENTRY_MAX => buffer.resize(buffer.len() * 2, 0),
            0 if found.is_null() => return Ok(None),
            0 => {
                let name = text(entry.pw_name, "");
                let (home, shell) = (text(entry.pw_dir, "/"), text(entry.pw_shell, "/bin/sh"));
                return Ok(Some(Account { name, uid: entry.pw_uid, gid: entry.pw_gid, home, shell }));
            }
            // What some systems say instead of "no such user".
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn text(pointer: *const libc::c_char, default: &str) -> OsString {
    if pointer.is_null() {
        return default.into();
    }
    // SAFETY: a text of the entry that was just read; its buffer still lives.
    let bytes = unsafe { CStr::from_ptr(pointer) }.to_bytes();
    if bytes.is_empty() { default.into() } else { OsString::from_vec(bytes.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_nobody_else_by_a_name_that_is_none() {
        let root = Account::by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups().unwrap().contains(&0));
        assert_eq!(Account::by_name("no-such-user-here").unwrap(), None);
        assert_eq!(Account::by_name("ro\0ot").unwrap(), None);
    }
}
