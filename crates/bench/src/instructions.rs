//! Instructions that a process carries out, counted by the processor, where the kernel lets us ask.

use std::{
    fs::File,
    io::Read,
    os::fd::{FromRawFd, OwnedFd},
};

/// A counter of a process and of all threads that it starts.
pub struct Instructions(File);

/// `struct perf_event_attr` in its first published form, which every later kernel takes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

const HARDWARE: u32 = 0;
const INSTRUCTIONS: u64 = 1;
/// Also threads that are started later.
const INHERIT: u64 = 1 << 1;

impl Instructions {
    /// None where this machine has no counter, or this user may not use it.
    pub fn of(pid: u32) -> Option<Self> {
        let size = u32::try_from(size_of::<Attributes>()).expect("64 bytes");
        let attributes =
            Attributes { kind: HARDWARE, size, config: INSTRUCTIONS, flags: INHERIT, ..Attributes::default() };
        let pid = libc::pid_t::try_from(pid).expect("the kernel's own pids fit");
        let (any_cpu, no_group, no_flags): (libc::c_int, libc::c_int, libc::c_ulong) = (-1, -1, 0);
        // SAFETY: the structure is as long as it says, and lives through the call.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attributes, pid, any_cpu, no_group, no_flags)
        };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the descriptor is new and nobody else's.
        Some(Self(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// Since it was made.
    pub fn count(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        (&self.0).read_exact(&mut bytes).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }
}
