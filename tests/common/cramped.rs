//! Processes on a box that lacks something: memory, room, files, or a libc that answers in time.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};
use tokio::process::Command;

/// Whether the machine has what a test needs; with `SLOTH_TEST_ALL=1` it must.
pub fn needs(what: &str, is_there: bool) -> bool {
    if !is_there {
        assert!(std::env::var("SLOTH_TEST_ALL").as_deref() != Ok("1"), "SLOTH_TEST_ALL=1, and there is no {what}");
        eprintln!("skipped: there is no {what}");
    }
    is_there
}

/// A limit of the process's own, soft and hard.
pub fn limit(command: &mut Command, resource: u32, value: u64) {
    let set = move || {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: the pointer is to a local.
        checked(unsafe { libc::setrlimit(resource as _, &raw const limit) })
    };
    // SAFETY: it only makes system calls.
    unsafe { command.pre_exec(set) };
}

/// How a process sees the file system, and nobody else.
#[derive(Clone, Copy, Debug)]
pub enum Mount {
    /// Nothing can be written below.
    ReadOnly,
    /// A small file system that is full: files can be made, nothing can be written into them.
    Full,
}

/// The program cannot open a routing socket, as in an emulator or a sandbox that knows no such family.
pub fn without_netlink(command: &mut Command) {
    let load = |offset| instruction((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, offset);
    let unless = |value, skip| instruction((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, skip, value);
    let answer = |value| instruction((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, value);
    // Of `seccomp_data`: the number of the call at 0, its first argument's lower half at 16 (little endian).
    let filter = [
        load(0),
        unless(libc::SYS_socket as u32, 3),
        load(16),
        unless(libc::AF_NETLINK as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let set = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: system calls that read the filter, which is there for as long as they take.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: it makes system calls alone between fork and exec.
    unsafe { command.pre_exec(set) };
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Whether this user may mount.
pub fn may_mount() -> bool {
    let folder = tempfile::tempdir().expect("temporary directory");
    let mut command = Command::new("true");
    mount(&mut command, folder.path(), Mount::ReadOnly);
    command.into_std().status().is_ok_and(|status| status.success())
}

/// Has the process see `path` so.
pub fn mount(command: &mut Command, path: &Path, how: Mount) {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("a path has no zero byte");
    let (path, fill) = (text(path), text(&path.join("fill")));
    let set = move || {
        // SAFETY: all strings end with a zero byte and live through the calls.
        unsafe {
            checked(libc::unshare(libc::CLONE_NEWNS))?;
            // Nothing of this gets out.
            mount_call(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
            match how {
                Mount::ReadOnly => {
                    mount_call(Some(&path), &path, None, libc::MS_BIND, None)?;
                    mount_call(None, &path, None, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY, None)
                }
                Mount::Full => {
                    mount_call(Some(c"none"), &path, Some(c"tmpfs"), 0, Some(c"size=64k"))?;
                    let file = libc::open(fill.as_ptr(), libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC, 0o600);
                    checked(file)?;
                    let block = [0_u8; 4096];
                    while libc::write(file, block.as_ptr().cast(), block.len()) > 0 {}
                    checked(libc::close(file))
                }
            }
        }
    };
    // SAFETY: it only makes system calls.
    unsafe { command.pre_exec(set) };
}

/// # Safety
/// In a child between fork and exec, or with nothing else going on.
unsafe fn mount_call(
    source: Option<&std::ffi::CStr>,
    target: &std::ffi::CStr,
    kind: Option<&std::ffi::CStr>,
    flags: libc::c_ulong,
    data: Option<&std::ffi::CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: the strings end with a zero byte and live through the call.
    checked(unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(data).cast()) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A control group with so much memory. Dropping it removes it: what runs in it must have ended.
pub struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// None where this user may not make one.
    pub fn new(bytes: u64) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("sloth-test-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")].into_iter().find_map(
            |(root, file)| {
                let path = Path::new(root).join(&name);
                fs::create_dir(&path).ok()?;
                let group = Self { path };
                // Opening must not make a file: on what is no control group one could.
                let mut limit = fs::OpenOptions::new().write(true).open(group.path.join(file)).ok()?;
                limit.write_all(bytes.to_string().as_bytes()).ok()?;
                Some(group)
            },
        )
    }

    /// Puts the process into the group, and with it all that it starts.
    pub fn hold(&self, command: &mut Command) {
        let procs = fs::OpenOptions::new().write(true).open(self.path.join("cgroup.procs")).expect("our own group");
        // SAFETY: it only writes to an open file.
        unsafe { command.pre_exec(move || (&procs).write_all(b"0")) };
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Compiles a library in C that stands before libc; None without a compiler.
pub fn library(folder: &Path, source: &str) -> Option<PathBuf> {
    let (code, library) = (folder.join("slow.c"), folder.join("slow.so"));
    File::create(&code).and_then(|mut file| file.write_all(source.as_bytes())).expect("our own folder");
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&code)
        .status()
        .is_ok_and(|status| status.success());
    compiled.then_some(library)
}
