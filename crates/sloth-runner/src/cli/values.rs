//! Values of options, checked as they are read.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

pub(super) fn environment(text: OsString) -> Result<OsString, String> {
    match text.as_bytes().iter().position(|&byte| byte == b'=') {
        Some(at) if at > 0 => Ok(text),
        _ => Err("write NAME=VALUE".to_owned()),
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
