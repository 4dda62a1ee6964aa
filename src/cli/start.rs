//! `start`: lock, log, and then the agent, here or in the background.

use std::{net::TcpListener, path::Path};

use super::{FAILED, complain, print};
use crate::{
    agent::{self, StartContext},
    config::{Config, Loaded},
    daemon::{self, Daemon},
    logging::{self, Console, OpenError, Rolling},
    state::StateDir,
    status::{self, Field},
};

pub(super) fn start(loaded: Loaded, in_background: bool, program: &str) -> i32 {
    let idle = loaded.idle().join(", ");
    let config = loaded.config;
    let fail = |text: String| {
        complain(&format!("{program}: {text}"));
        FAILED
    };
    // One that is called "master" has by default the directory of a master on this host.
    if config.state_dir.join("master.lock").exists() {
        let directory = config.state_dir.display();
        return fail(format!("{directory} is the state directory of a master: give this agent another state_dir"));
    }
    let mut state = match StateDir::open(&config.state_dir, &config.name) {
        Ok(state) => state,
        Err(held) => return fail(held.to_string()),
    };
    let port = match agent::bind(&config) {
        Ok(port) => port,
        Err(text) => return fail(text),
    };
    let mut no_log = None;
    let log = match open_log(&config, in_background) {
        Ok(log) => log,
        // An agent that did not start could not be told to mend that. In the background there is nowhere else to write.
        Err(error) if error.is_of_the_box() && !in_background => {
            no_log = Some(error);
            None
        }
        Err(error) => return fail(error.to_string()),
    };
    logging::install(&config.log, log.clone());
    if let Some(error) = no_log {
        log::warn!("{error}. Until the next start the log is on standard error");
    }
    state.write_pid();
    state.announce();
    if !idle.is_empty() {
        log::warn!("Without an effect in this version: {idle}");
    }
    let guard = state.guard();
    match log {
        Some(log) if in_background => {
            let (name, path) = (config.name.clone(), log.path());
            match daemon::run(Background { config, state, log, port }) {
                Ok(pid) => {
                    print(&format!("Agent {name} runs in the background (pid {pid}), log: {}\n", path.display()))
                }
                Err(text) => {
                    guard.leave();
                    fail(text)
                }
            }
        }
        _ => {
            let code = agent::run(config, StartContext { state, console: Console::Stdout, port });
            guard.leave();
            code
        }
    }
}

/// The log's file; none is standard error.
fn open_log(config: &Config, in_background: bool) -> Result<Option<Rolling>, OpenError> {
    let log = &config.log;
    let open = |path: &Path| Rolling::open(path, log.max_size, log.max_files);
    let here = |name: String| std::path::absolute(&name).unwrap_or_else(|_| name.into());
    match &log.file {
        Some(path) => open(path).map(Some),
        None if !in_background => Ok(None),
        None => match open(&here("agent.log".into())) {
            // Two agents that are started from one folder.
            Err(OpenError::Held(_)) => open(&here(format!("agent-{}.log", config.name))).map(Some),
            other => other.map(Some),
        },
    }
}

struct Background {
    config: Config,
    state: StateDir,
    log: Rolling,
    port: Option<TcpListener>,
}

impl Daemon for Background {
    fn settle(&mut self) -> Result<(), String> {
        self.state.write_pid();
        self.log.capture_stdio();
        Ok(())
    }

    fn bereaved(&mut self) {
        self.log.refresh();
        let fields = [("name", Field::Text(&self.config.name)), ("state", Field::Text("Restarting"))];
        self.state.write_status(&status::write(&fields));
    }

    fn leave(&mut self) {
        self.state.guard().leave();
    }

    fn work(self) -> i32 {
        let context = StartContext { state: self.state, console: Console::File(self.log), port: self.port };
        agent::run(self.config, context)
    }
}
