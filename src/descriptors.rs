//! Descriptors that this process inherited. Whoever started it had them open, the lock of a script perhaps, or a pipe that
//! somebody reads to its end: what goes on without its starter must not hold them.

/// Closes them, all but the three standard ones. To be called before anything else is open.
pub fn close_inherited() {
    each(0, |descriptor| {
        // SAFETY: at most a descriptor that nobody in this process knows of is closed.
        unsafe { libc::close(descriptor) };
    });
}

/// Has them closed in the program that is executed next; our own are anyway. Makes system calls only, so it may stand
/// between fork and exec.
pub fn close_on_exec() {
    const CLOSE_RANGE_CLOEXEC: libc::c_long = 4;
    each(CLOSE_RANGE_CLOEXEC, |descriptor| {
        // SAFETY: marks a descriptor, if there is one.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    });
}

fn each(flags: libc::c_long, one: impl Fn(libc::c_int)) {
    // SAFETY: takes three numbers.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_long, libc::c_uint::MAX as libc::c_long, flags) };
    if done != 0 {
        // Before Linux 5.11.
        (3..4096).for_each(one);
    }
}
