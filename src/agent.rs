//! The agent as a whole: what `start` runs.

use crate::{config::Config, logging::Console, state::StateDir};

/// What an agent is started with, beside its configuration.
#[derive(Debug)]
pub struct StartContext {
    pub state: StateDir,
    pub console: Console,
}

/// Runs until SIGTERM or SIGINT; the exit code.
pub fn run(config: Config, context: StartContext) -> i32 {
    let StartContext { mut state, console } = context;
    let status = [("name", crate::status::Field::Text(&config.name)), ("state", crate::status::Field::Text("Connecting"))];
    state.write_status(&crate::status::write(&status));
    console.line(&format!("Agent {} is waiting", config.name));
    // SAFETY: the set is initialised by sigemptyset before its use; both pointers are to locals.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let mut signal = 0;
        libc::sigwait(&raw const set, &raw mut signal);
    }
    0
}
