//! The master's disk is full: what it cannot keep stays with the agent.

use crate::fleet::{Master, Running, needs, program, until};
use std::{ffi::CString, fs, io, os::unix::ffi::OsStrExt, path::Path, path::PathBuf, process::Stdio, ptr};

/// A file system of its own, so small that it is soon full. Gone when this is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn on(folder: &Path, size: &str) -> Option<Self> {
        mount(folder, size, 0).ok().map(|()| Self(folder.to_owned()))
    }

    fn grow(&self, size: &str) {
        mount(&self.0, size, libc::MS_REMOUNT).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = CString::new(self.0.as_os_str().as_bytes()).unwrap();
        // SAFETY: umount2 reads a path that ends with a zero byte.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

fn mount(folder: &Path, size: &str, flags: libc::c_ulong) -> io::Result<()> {
    let path = CString::new(folder.as_os_str().as_bytes()).unwrap();
    let options = CString::new(format!("size={size}")).unwrap();
    // SAFETY: mount reads texts that end with a zero byte; a null source is allowed for tmpfs.
    let result = unsafe { libc::mount(ptr::null(), path.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn output_that_a_full_disk_does_not_take_is_told_and_arrives_once_there_is_room() {
    let master = Master::start();
    let disk = SmallDisk::on(&master.path("master/output"), "200k");
    if !needs("right to mount a file system", disk.is_some()) {
        return;
    }
    let disk = disk.expect("just looked at");
    let mut agent = master.agent("lady");
    let run = master.tool_started(&["agent", "run", "lady", "--id", "big", "-n", "--", "seq", "100000"]);
    let told = until("an event", || master.events("lady", "command.output_failed").pop());
    assert_eq!(told["reason"], "disk");
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("command big: ") && message.contains("No space left on device"), "{message}");
    assert!(message.contains("; make room there"), "{message}");
    run.err.line("the master cannot keep the output, which waits with the agent: ");
    // The command has ended by now or soon; what is missing here holds its end back.
    agent.line("Command big exited with code 0");
    let row = master.json(&["command", "get", "big"]);
    assert_eq!((&row["state"], &row["outcome"]), (&"accepted".into(), &serde_json::Value::Null));
    assert!(row["reason"].as_str().unwrap().contains("make room there"), "{row}");
    assert!(agent.running.is_running() && master.tool(&["agent", "list"]).code == 0);

    disk.grow("4m");
    let done = run.done().expect(0);
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(done.stdout == expected.as_bytes(), "{} bytes", done.stdout.len());
    assert_eq!(master.until_finished("big")["gaps"], serde_json::json!([]));
    assert_eq!(master.events("lady", "command.output_failed").len(), 1, "once an outage");
}

#[test]
fn a_master_whose_state_directory_is_full_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::on(folder.path(), "16k");
    if !needs("right to mount a file system", disk.is_some()) {
        return;
    }
    assert_eq!(fs::write(folder.path().join("fill"), [0; 32 << 10]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let state = folder.path().join("state");
    let mut command = program(folder.path());
    command.args(["master", "start", "--listen", "127.0.0.1:0", "--state-dir"]).arg(&state);
    let expected = format!(
        "cannot start the master: cannot lock the state directory {}: no space left on device; make room there, or name \
         another with --state-dir\n",
        state.display()
    );
    assert_eq!(Running::start(command, Stdio::null()).done().expect(1).stderr, expected);
}
