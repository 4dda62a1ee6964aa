//! How a master is reached, and what it is told of this agent.

use super::{Driver, Identity, millis, tell::moment};
use crate::{
    clock::Clock,
    config::{Config, Listen},
    credentials::Means,
    history::{Entry, Kind},
    session::Session,
};
use link::Params;
use proto::past_event;
use std::{net::SocketAddr, time::Duration};

/// Over the verdict of the heartbeats: the same value would make the reason of a loss a matter of luck.
const USER_TIMEOUT_MARGIN: Duration = Duration::from_secs(5);

impl<C: Clock> Driver<C> {
    pub(super) fn dial(&self, session: link::Session, master: usize) -> Session {
        let address = self.config.masters[master].clone();
        let heartbeat = &self.config.heartbeat;
        let verdict = heartbeat.interval + heartbeat.timeout * heartbeat.max_failures;
        let user_timeout = verdict + USER_TIMEOUT_MARGIN;
        let (tls, token) = (self.config.tls.clone(), self.config.token.clone());
        let means = Means { tls, token, credentials: self.credentials.clone() };
        Session::dial(session, address, self.resolver.clone(), user_timeout, means)
    }

    /// The session's address is the one to begin with next time.
    pub(super) fn served(&self) {
        // Held while another session is being dialled: then it is not noted, which costs an attempt at the most.
        if let Some((_, peer)) = self.session.as_ref().and_then(Session::addresses)
            && let Ok(mut resolver) = self.resolver.try_lock()
        {
            resolver.served(peer);
        }
    }

    pub(super) fn register(
        &mut self,
        will_wait: Duration,
        spool_id: [u8; 16],
        report_address: String,
    ) -> proto::Register {
        proto::Register {
            spool_id: spool_id.to_vec(),
            highest_epoch: self.keeper.highest_epoch(),
            will_wait_ms: millis(will_wait),
            time_unix_ms: crate::clock::unix_ms(),
            held: self.commands.held(),
            past: self.past(),
            ..registration_of(&self.config, &self.identity, report_address)
        }
    }

    /// What no master has heard of yet.
    fn past(&mut self) -> Vec<proto::PastEvent> {
        let now = moment();
        let told = self.history.tell();
        let event = |entry: Entry| {
            let kind = match entry.kind {
                Kind::Started => past_event::Kind::Start,
                Kind::Registered | Kind::Ended => past_event::Kind::Session,
                Kind::Failed => past_event::Kind::Attempts,
            };
            proto::PastEvent {
                kind: kind.into(),
                ago_ms: millis(self.history.ago(&entry, now)),
                reason: entry.reason,
                detail: entry.detail,
                duration_ms: entry.lasted_ms,
                attempts: entry.attempts,
                master: entry.master,
                epoch: entry.epoch,
            }
        };
        told.into_iter().map(event).collect()
    }

    /// See [`reported`].
    pub(super) fn reported(&self, local: SocketAddr) -> String {
        reported(&self.config.listen, local)
    }
}

/// What the configuration says of the agent: without what it holds, and what has happened to it.
pub fn registration_of(config: &Config, identity: &Identity, report_address: String) -> proto::Register {
    proto::Register {
        agent_id: identity.agent_id.to_vec(),
        instance_id: identity.instance_id.to_vec(),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        report_address,
        labels: config.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        boot_id: identity.boot_id.clone(),
        interval_ms: millis(config.heartbeat.interval),
        timeout_ms: millis(config.heartbeat.timeout),
        max_failures: config.heartbeat.max_failures,
        max_interval_ms: millis(config.heartbeat.max_interval),
        host: identity.host.clone(),
        ..proto::Register::default()
    }
}

/// What the master is to show: as configured, else where the connection comes from, with the agent's own port.
pub fn reported(listen: &Listen, local: SocketAddr) -> String {
    match (&listen.report_address, listen.port) {
        (Some(address), _) => address.clone(),
        (None, Some(port)) => SocketAddr::new(local.ip().to_canonical(), port).to_string(),
        (None, None) => local.ip().to_canonical().to_string(),
    }
}

/// What the link needs of the configuration.
pub(super) fn params(config: &Config) -> Params {
    Params {
        connection_timeout: config.connection_timeout,
        heartbeat_interval: config.heartbeat.interval,
        heartbeat_timeout: config.heartbeat.timeout,
        failures_max: config.heartbeat.max_failures,
        interval_max: config.heartbeat.max_interval,
        delay_initial: config.reconnect.initial_delay,
        delay_max: config.reconnect.max_delay,
        multiplier: config.reconnect.multiplier,
        jitter: config.reconnect.jitter,
        reset_after: config.reconnect.reset_after,
        shutdown_grace: config.shutdown_grace,
        kill_grace: config.commands.kill_grace,
        masters: config.masters.iter().map(ToString::to_string).collect(),
        breaker_failures_max: config.circuit_breaker.max_failures,
        breaker_open_for: config.circuit_breaker.open_for,
    }
}
