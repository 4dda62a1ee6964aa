//! What of the configuration rules commands, at the start and when it is read again.

use super::{Commands, HELD_MAX, Launcher, TOMBSTONES_MAX};
use crate::config;
use link::ledger::{Input, Params};
use std::sync::Arc;

impl Commands {
    /// Other settings for what comes from now on; commands that run are left as they are. The limits of held output
    /// stay those of the start.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn set(&mut self, config: &config::Commands) {
        self.ledger.set_params(params(config));
        self.launcher = Arc::new(Launcher::new(config, self.launcher.agent()));
        self.timeout = config.timeout;
        // More may run than before.
        self.handle(Input::Wake);
    }
}

pub(super) fn params(config: &config::Commands) -> Params {
    let disabled = "commands.enabled is false in the agent's configuration";
    Params {
        disabled: (!config.enabled).then(|| disabled.to_owned()),
        max_running: config.max_running.max(1),
        held_max: HELD_MAX,
        kill_grace: config.kill_grace,
        remember: config.remember,
        tombstones_max: TOMBSTONES_MAX,
    }
}
