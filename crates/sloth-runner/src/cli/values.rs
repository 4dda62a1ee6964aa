//! Values of options, checked as they are read.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// `NAME=VALUE`, of `NAME` alone with the value that it has here: so it stands on no command line.
pub(super) fn environment(text: OsString) -> Result<OsString, String> {
    set_by(text, |name| std::env::var_os(name))
}

fn set_by(text: OsString, look: impl FnOnce(&OsStr) -> Option<OsString>) -> Result<OsString, String> {
    match text.as_bytes().iter().position(|&byte| byte == b'=') {
        Some(at) if at > 0 => Ok(text),
        None if !text.is_empty() => {
            let value = look(&text).ok_or("it is not set here: set and export it, or write NAME=VALUE")?;
            Ok([text.as_os_str(), OsStr::new("="), &value].into_iter().collect())
        }
        _ => Err("write NAME=VALUE, or NAME for the value that it has here".to_owned()),
    }
}

pub(super) fn directory(path: OsString) -> Result<OsString, String> {
    if path.as_bytes().starts_with(b"/") {
        Ok(path)
    } else {
        Err("it would be a path on the agent, which has no directory of its own to go on from: begin with /".to_owned())
    }
}

pub(super) fn user(name: &str) -> Result<String, String> {
    if name.is_empty() {
        Err("name a user, or leave --user away for the agent's own".to_owned())
    } else {
        Ok(name.to_owned())
    }
}

pub(super) fn command_id(text: &str) -> Result<String, String> {
    if link::valid_command_id(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("an id is 1 to {} of letters, digits, `.`, `_`, `-`, the first not a `.`", link::COMMAND_ID_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_name_alone_is_set_to_what_it_is_here() {
        let here = |name: &OsStr| (name == "SECRET").then(|| OsString::from_vec(b"a=b\xff".to_vec()));
        let set = |text: &str| set_by(text.into(), here).map(OsString::into_vec);
        assert_eq!(set("SECRET").unwrap(), b"SECRET=a=b\xff");
        assert_eq!((set("SECRET=").unwrap(), set("OTHER=x").unwrap()), (b"SECRET=".to_vec(), b"OTHER=x".to_vec()));
        assert_eq!(set("OTHER").unwrap_err(), "it is not set here: set and export it, or write NAME=VALUE");
        for bad in ["", "=", "=x"] {
            assert_eq!(set(bad).unwrap_err(), "write NAME=VALUE, or NAME for the value that it has here", "{bad}");
        }
    }
}
