//! What a configuration that was read again changes in the driver.

use super::{Driver, params, watch_for};
use crate::{
    clock::Clock,
    config::Loaded,
    reload::{self, Reload},
    report::Line,
    session::Session,
};
use link::{Input, Phase, WakeReason};

/// What was read; never, while nothing is.
///
/// # Cancel safety
/// Safe, as [`Reload::done`].
pub(super) async fn done(reload: &mut Option<Reload>) -> Result<Box<Loaded>, Vec<String>> {
    match reload {
        Some(reload) => reload.done().await,
        None => std::future::pending().await,
    }
}

impl<C: Clock> Driver<C> {
    pub(super) fn begin_reload(&mut self) {
        match &mut self.reload {
            // Its commands end and then it leaves: other settings would be of no use.
            _ if self.draining.is_some() => {}
            Some(reload) => {
                let began = reload.begin();
                self.manager.reloading();
                if !began {
                    // Its disk may hang: who asks twice for a connection need not wait for that.
                    self.wake();
                }
            }
            None => self.wake(),
        }
    }

    /// A wait is over in any case: whoever changed the configuration wants to see what comes of it.
    pub(super) fn reloaded(&mut self, read: Result<Box<Loaded>, Vec<String>>) {
        let lines = match read {
            _ if self.draining.is_some() => return,
            Ok(loaded) => self.take_over(*loaded),
            Err(problems) => reload::refused(&problems),
        };
        for line in lines {
            self.keeper.line(line);
        }
        self.wake();
        self.manager.ready();
    }

    fn wake(&mut self) {
        self.tell(Input::Woken(WakeReason::Operator));
        self.tell_candidate(Input::Woken(WakeReason::Operator));
    }

    /// What the log says of it.
    fn take_over(&mut self, loaded: Loaded) -> Vec<Line> {
        let changes = self.reload.as_mut().map_or_else(Vec::new, |reload| reload.replace(&self.config, &loaded));
        let mut lines = reload::told(&changes);
        let config = reload::merged(&self.config, loaded.config);
        let has_session = matches!(self.link.state(), Phase::Registered | Phase::Active);
        // An earlier reload's may still be on its way: what counts is what the session rests on.
        let (sought, watched) = (self.candidate.is_some(), self.config.reconnect.on_network_change);
        self.drop_candidate();
        let rests_on = self.config.clone();
        let renew = reload::needs_a_new_session(&rests_on, &config, &self.status.master);
        if watched == config.reconnect.on_network_change {
            self.watch.set_masters(&config.masters);
        } else {
            self.watch = watch_for(&config);
            if let Some((_, peer)) = self.session.as_ref().and_then(Session::addresses) {
                self.watch.met(&self.status.master, peer);
            }
        }
        self.config = config;
        self.commands.set(&self.config.commands);
        self.keeper.set_log(&self.config.log);
        let listen = self.config.http_listen;
        self.http.send_if_modified(|wanted| std::mem::replace(wanted, listen) != listen);
        if renew && has_session {
            self.seek_another(rests_on, params(&self.config));
            return lines;
        }
        self.link.set_params(params(&self.config));
        if renew {
            self.tell(Input::Renew);
        } else if sought {
            let text = format!("Staying with master at {}", self.status.master);
            lines.push(Line::Log(log::Level::Info, text));
        }
        lines
    }
}
