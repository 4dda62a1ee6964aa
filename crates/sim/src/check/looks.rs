//! What is seen of the whole fleet at one moment.

use super::PATIENCE;
use crate::{agent::Twin, world::World};
use fleet::{SessionId, Status};
use link::Phase;
use std::{collections::BTreeSet, time::Duration};

/// Between a deadline and its being judged; the time over which sockets are read first after a pause is within it.
const JUDGED_WITHIN: Duration = Duration::from_millis(500);

/// What an agent sent before it was gone arrives within this: the longest latency, one repetition, and what a detour
/// takes.
const UNDER_WAY: Duration = Duration::from_secs(11);

/// Within this after the end of faults every agent must be Active: a wait that was drawn before, one attempt that
/// fails yet, and what a busy disk takes. See [`World::bound`].
const SLACK: Duration = Duration::from_secs(10);

impl World {
    /// Everything that must hold at every moment.
    pub fn look(&mut self) {
        if let Err(what) = self.look_at_master().and_then(|()| self.look_at_agents()) {
            self.fail(what);
        }
    }

    fn look_at_master(&self) -> Result<(), String> {
        let Some(process) = &self.master.process else { return Ok(()) };
        if self.now < self.master.frozen_until + JUDGED_WITHIN {
            return Ok(());
        }
        let registry = process.fleet.registry();
        let mut names = BTreeSet::new();
        for session in process.sessions.keys() {
            let Some(view) = registry.view(session.agent).filter(|_| registry.is_live(*session)) else {
                return Err(format!("{session:?} is open, and its agent is known no more"));
            };
            if registry.find(&view.record.name) != Some(session.agent) || !names.insert(view.record.name.clone()) {
                return Err(format!("{session:?} holds the name {}, and so does another", view.record.name));
            }
        }
        for id in self.hosts.iter().map(|host| host.disk.agent_id).collect::<BTreeSet<_>>() {
            let Some(view) = registry.view(id).filter(|view| view.record.status == Status::Active) else { continue };
            let session = SessionId { agent: id, epoch: view.record.epoch };
            if self.check.hosts.values().any(|truth| truth.session == Some(session)) {
                continue;
            }
            let dead_since = self.check.ended.get(&session).copied().unwrap_or_default();
            // What waited while the master was stopped is heard when it goes on.
            let dead_for = self.now.saturating_sub(dead_since.max(self.master.frozen_until));
            if dead_for > PATIENCE + UNDER_WAY + JUDGED_WITHIN {
                return Err(format!("{} is shown Active, and dead for {dead_for:?}", view.record.name));
            }
        }
        Ok(())
    }

    fn look_at_agents(&self) -> Result<(), String> {
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(process) = &host.process else { continue };
            // After a pause each missing answer is still given its time.
            if self.now < host.frozen_until + PATIENCE || process.link.state() != Phase::Active {
                continue;
            }
            let silent = self.now - self.check.hosts[&index].acked;
            if silent > PATIENCE + JUDGED_WITHIN {
                return Err(format!("host {index} is Active, and heard nothing for {silent:?}"));
            }
        }
        Ok(())
    }

    /// Longest time from the end of faults until every agent is Active.
    pub fn bound(&self) -> Duration {
        let params = crate::agent::params();
        // One whose place another still holds is refused, and waits once more.
        let refused = if self.hosts.iter().any(|host| host.twin.is_some()) {
            PATIENCE + params.delay_max
        } else {
            Duration::ZERO
        };
        params.delay_max + params.connection_timeout + SLACK + refused
    }

    /// Who is not Active, on both sides and in the same session.
    pub fn not_active(&self) -> Vec<usize> {
        let active = |host: usize| {
            let process = self.hosts[host].process.as_ref()?;
            let id = self.hosts[host].disk.agent_id;
            let view = self.master.process.as_ref()?.fleet.registry().view(id)?;
            let both = process.link.state() == Phase::Active && view.record.status == Status::Active;
            (both && view.record.epoch == process.epoch).then_some(())
        };
        let stands_in = |host: usize| match self.hosts[host].twin {
            Some(Twin::Name(other) | Twin::Disk(other)) => active(other).is_some(),
            None => self.hosts.iter().enumerate().any(|(index, twin)| {
                matches!(twin.twin, Some(Twin::Name(of) | Twin::Disk(of)) if of == host) && active(index).is_some()
            }),
        };
        (0..self.hosts.len()).filter(|host| active(*host).is_none() && !stands_in(*host)).collect()
    }

    /// What is still to be said of commands, once all are Active.
    pub fn unfinished(&self) -> Option<String> {
        let process = self.master.process.as_ref()?;
        if !process.fleet.dispatch().is_empty() {
            return Some(format!("unfinished: {:?}", process.fleet.dispatch()));
        }
        for (id, truth) in self.check.commands.iter().filter(|(_, truth)| truth.promised) {
            if self.master.store.commands.get(id).is_none_or(|record| record.outcome.is_none()) {
                return Some(format!("{id} has no outcome: {truth:?}"));
            }
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(process) = host.process.as_ref().filter(|process| process.link.state() == Phase::Active) else {
                continue;
            };
            if !process.ledger.is_empty() {
                let held: Vec<_> = process.ledger.held().into_iter().map(|held| (held.id, held.state)).collect();
                return Some(format!("host {index} still holds {held:?}"));
            }
        }
        None
    }
}
