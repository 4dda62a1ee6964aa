//! `start`: lock, log, and then the agent, here or in the background.

use std::{net::TcpListener, path::Path};

use super::{FAILED, complain, print};
use crate::{
    agent::{self, StartContext, Supervised},
    config::{Config, Loaded, Shown},
    daemon::{self, Daemon},
    descriptors,
    logging::{self, Console, OpenError, Rolling},
    reload::{self, Given, Reload},
    report::Line,
    state::StateDir,
    status::{self, Field},
};

pub(super) fn start(loaded: Loaded, given: Given, in_background: bool, program: &str) -> i32 {
    if in_background {
        descriptors::close_inherited();
    }
    let Loaded { config, shown, .. } = loaded;
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
    ignore_hangup();
    let written = state.write_pid();
    if let Some(error) = no_log {
        log::warn!("{error}. Until the next start the log is on standard error");
    }
    let guard = state.guard();
    if in_background && let Err(why) = &written {
        return fail(format!(
            "cannot go into the background: neither the state directory {} can be written nor {why}, so `stop` would \
             not find this agent; give it another state_dir, or start it without --daemon",
            config.state_dir.display()
        ));
    }
    match log {
        Some(log) if in_background => {
            let (name, path) = (config.name.clone(), log.path());
            let which = given.finds(&config);
            match daemon::run(Background { config, state, log, port, given, shown, again: false }) {
                Ok(pid) => print(&format!(
                    "Agent {name} runs in the background (pid {pid}), log: {}\nWhether it has reached its master: \
                     `{program} status {which}`\n",
                    path.display()
                )),
                Err(text) => {
                    guard.leave();
                    fail(text)
                }
            }
        }
        _ => {
            begin(&config, &mut state);
            let reload = Reload::new(given, shown);
            let code = agent::run(
                config,
                StartContext { state, console: Console::Stdout, port, log, reload, supervised: None },
            );
            guard.leave();
            code
        }
    }
}

/// From the pid file on anybody may send SIGHUP; until the agent listens for it, it would end the process. What is
/// ignored by then is not missed: the agent is about to connect anyway.
fn ignore_hangup() {
    // SAFETY: no handler is given.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// The first lines of the log: who runs here, and what is wrong already.
fn begin(config: &Config, state: &mut StateDir) {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let directory = config.state_dir.display();
    log::info!("Agent {} started: sloth-agent {version}, pid {pid}, state directory {directory}", config.name);
    if let Some(file) = &config.token_gone {
        let file = file.display();
        log::info!("auth.token_file is {file}, which is not there: this agent has joined, and needs no token");
    }
    state.announce();
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
    given: Given,
    shown: Vec<Shown>,
    /// A worker has ended: the next one reads the configuration anew.
    again: bool,
}

impl Daemon for Background {
    fn settle(&mut self) -> Result<(), String> {
        self.state.write_pid().map_err(|why| format!("cannot write the pid file: {why}"))?;
        self.log.capture_stdio();
        begin(&self.config, &mut self.state);
        Ok(())
    }

    fn bereaved(&mut self) {
        self.again = true;
        self.log.refresh();
        let fields = [("name", Field::Text(&self.config.name)), ("state", Field::Text("Restarting"))];
        self.state.write_status(&status::write(&fields));
    }

    fn leave(&mut self) {
        self.state.guard().leave();
    }

    fn work(mut self, supervisor: u32, before: Option<String>) -> i32 {
        let mut reload = Reload::new(self.given.clone(), self.shown.clone());
        if self.again {
            self.read_again(&mut reload);
            begin(&self.config, &mut self.state);
        }
        let guard = self.state.guard();
        let (state, console, log) = (self.state, Console::File(self.log.clone()), Some(self.log));
        let supervised = Some(Supervised { supervisor, before });
        let context = StartContext { state, console, port: self.port, log, reload, supervised };
        let code = agent::run(self.config, context);
        if agent::is_orphan_of(supervisor) {
            guard.leave();
        }
        code
    }
}

impl Background {
    /// The worker before may have run by another configuration than that of the start.
    fn read_again(&mut self, reload: &mut Reload) {
        let lines = match self.given.load() {
            Ok(loaded) => {
                let changes = reload.replace(&self.config, &loaded);
                self.config = reload::merged(&self.config, loaded.config);
                logging::set_level(self.config.log.level);
                self.log.set_limits(self.config.log.max_size, self.config.log.max_files);
                if changes.is_empty() { Vec::new() } else { reload::told(&changes) }
            }
            Err(problems) => reload::refused(&problems.0.iter().map(ToString::to_string).collect::<Vec<_>>()),
        };
        for line in lines {
            if let Line::Log(level, text) = line {
                log::log!(level, "{text}");
            }
        }
    }
}
