//! What goes wrong, and what people want meanwhile: drawn from the seed.

use crate::{
    Spec,
    agent::{Host, Twin, room, wakes},
    master::Fate,
    net::Path,
    world::{Event, World},
};
use fleet::{Submit, Submitted};
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// How far apart two steps are.
const STEP: (Duration, Duration) = (ms(20), s(12));

/// A day, by which clocks on walls are set wrong.
const DAY_MS: i64 = 86_400_000;

impl World {
    /// The fleet before anything goes wrong; agents are started over a few seconds.
    pub fn set_up(&mut self, agents: usize) {
        self.start_master();
        for index in 0..agents {
            let mut host = Host::new(format!("agent{index}"), &mut self.random);
            host.disk.keeps_spool = self.random.chance(80);
            let twin = (index > 0).then(|| self.random.index(index)).filter(|_| self.random.chance(8));
            let alone = |other: &usize| {
                let of = |host: &Host| matches!(host.twin, Some(Twin::Name(of) | Twin::Disk(of)) if of == *other);
                self.hosts[*other].twin.is_none() && !self.hosts.iter().any(of)
            };
            if let Some(other) = twin.filter(alone) {
                host.name.clone_from(&self.hosts[other].name);
                host.twin = Some(Twin::Name(other));
                if self.random.chance(50) {
                    host.disk = self.hosts[other].disk.clone();
                    host.twin = Some(Twin::Disk(other));
                }
            }
            self.hosts.push(host);
            self.paths.push(Path::GOOD);
            self.plan_start(index, ms(1), s(5));
        }
        self.at(self.now, Event::Look);
        self.after(s(1), Event::Step);
    }

    fn plan_start(&mut self, host: usize, least: Duration, most: Duration) {
        if !std::mem::replace(&mut self.hosts[host].start_planned, true) {
            let wait = self.random.skewed(least, most);
            self.after(wait, Event::StartAgent { host });
        }
    }

    /// One thing happens.
    pub fn step(&mut self) {
        if self.steps_left == 0 {
            return self.calm();
        }
        self.steps_left -= 1;
        let host = self.random.index(self.hosts.len());
        match self.random.below(100) {
            0..30 => self.submit(host),
            30..34 => self.cancel(),
            34..50 => self.trouble_path(host),
            50..54 => self.reset_connection(host),
            54..62 => self.stop_agent(host),
            62..66 => {
                let wait = self.random.skewed(ms(500), s(70));
                self.note(|| format!("host {host}: frozen for {wait:?}"));
                if self.hosts[host].process.is_some() {
                    let until = self.now + wait;
                    self.hosts[host].frozen_until = self.hosts[host].frozen_until.max(until);
                }
            }
            66..71 => self.trouble_agents_disk(host),
            71..75 => {
                let input = wakes()[self.random.index(4)].clone();
                if self.hosts[host].frozen_until <= self.now {
                    self.wake(host, input);
                }
            }
            75..78 => self.set_a_clock(host),
            78..84 => self.trouble_master(),
            84..89 => self.trouble_masters_store(),
            89..93 => self.trouble_everybody(),
            93..95 => self.delete(host),
            95..97 => self.ask_to_stop(host),
            _ => self.master.backup = Some(self.master.store.clone()),
        }
        let wait = self.random.skewed(STEP.0, STEP.1);
        self.after(wait, Event::Step);
    }

    fn submit(&mut self, host: usize) {
        // A copied disk has a copied spool: whether a command was sent to it is not to be known, so none is.
        let copied = |index: usize| {
            matches!(self.hosts[index].twin, Some(Twin::Disk(_)))
                || self.hosts.iter().any(|other| other.twin == Some(Twin::Disk(index)))
        };
        if copied(host) {
            return;
        }
        let again = self.random.chance(15) && self.commands > 0;
        let number = if again { self.random.below(self.commands) } else { self.commands };
        let id = format!("c{number}");
        if again && !self.check.commands.get(&id).is_some_and(|truth| truth.promised) {
            return; // by a lost store nobody can know what became of it
        }
        let agent = self.hosts[host].name.clone();
        let submit = Submit { id: id.clone(), agent, spec: Spec(number) };
        let stored = self.master.store.commands.get(&id).cloned();
        let submitted = self.decide(|fleet, now| {
            let agent = fleet.registry().find(&submit.agent);
            let session = agent.and_then(|agent| fleet.registry().downlink(agent)).map(|link| link.session);
            (fleet.submit(now, submit, stored), session)
        });
        if let Some((Ok(Submitted::New), Some(session))) = submitted {
            self.note(|| format!("user: {id} for host {host}"));
            self.commands += u64::from(!again);
            self.check.submitted(&id, session);
            if self.hosts[host].process.as_ref().is_some_and(|process| process.ledger.len() + 8 > room()) {
                self.check.excuse(&id);
            }
        }
    }

    fn cancel(&mut self) {
        let id = format!("c{}", self.random.below(self.commands));
        self.check.excuse(&id);
        self.note(|| format!("user: cancels {id}"));
        self.decide(|fleet, _| fleet.cancel(&id));
    }

    fn delete(&mut self, host: usize) {
        let agent = self.hosts[host].disk.agent_id;
        let force = self.random.chance(70);
        self.note(|| format!("user: deletes host {host}"));
        let deleted = self.decide(|fleet, now| fleet.delete(now, agent, force, 1).is_ok());
        if deleted == Some(true) {
            self.check.excuse_agent(agent);
        }
    }

    fn ask_to_stop(&mut self, host: usize) {
        let agent = self.hosts[host].disk.agent_id;
        self.decide(|fleet, _| fleet.stop(agent, "an operator".to_owned()));
        self.plan_start(host, s(40), s(80));
    }

    fn trouble_path(&mut self, host: usize) {
        let until = self.now + self.random.skewed(ms(100), s(100));
        let path = &mut self.paths[host];
        match self.random.below(5) {
            0 => path.cut_until = [until; 2],
            1 => path.cut_until[0] = until,
            2 => path.cut_until[1] = until,
            3 => {
                path.latency = self.random.skewed(ms(1), s(4));
                path.jitter = self.random.skewed(ms(1), s(1));
            }
            _ => *path = Path::GOOD,
        }
        let path = *path;
        self.note(|| format!("host {host}: {path:?}"));
    }

    fn reset_connection(&mut self, host: usize) {
        let Some(conn) = self.hosts[host].process.as_ref().and_then(|process| process.conn) else { return };
        self.note(|| format!("host {host}: connection {conn} is reset"));
        self.after(Duration::ZERO, Event::Reset { conn, way: crate::net::Way::Up });
        self.after(Duration::ZERO, Event::Reset { conn, way: crate::net::Way::Down });
    }

    fn stop_agent(&mut self, host: usize) {
        match self.random.below(5) {
            0 => self.shut_down(host),
            1 => self.kill_agent(host, true),
            2 => {
                self.kill_agent(host, false);
                self.check.excuse_agent(self.hosts[host].disk.agent_id);
                self.hosts[host].disk.lose_spool(&mut self.random);
            }
            _ => self.kill_agent(host, false),
        }
        self.plan_start(host, ms(300), s(60));
    }

    fn trouble_agents_disk(&mut self, host: usize) {
        let until = self.now + self.random.skewed(ms(100), s(30));
        let slow = self.random.skewed(ms(1), s(3));
        let this = &mut self.hosts[host];
        match self.random.below(4) {
            0 => this.writes_fail_until = until,
            1 => this.unready_until = until,
            2 => this.write_time = slow,
            _ => this.write_time = ms(1),
        }
    }

    fn set_a_clock(&mut self, host: usize) {
        let offset = DAY_MS * (self.random.below(7) as i64 - 3);
        if self.random.chance(50) {
            self.hosts[host].wall_offset_ms = offset
        } else {
            self.master.wall_offset_ms = offset
        }
    }

    fn trouble_master(&mut self) {
        if self.random.chance(30) {
            let until = self.now + self.random.skewed(ms(500), s(70));
            self.master.frozen_until = self.master.frozen_until.max(until);
            return;
        }
        let power = self.random.chance(25);
        let fate = match self.random.below(10) {
            0 => Fate::Lost,
            1 | 2 => Fate::Restored,
            _ => Fate::Kept,
        };
        self.kill_master(power, fate);
        let wait = self.random.skewed(ms(200), s(60));
        self.after(wait, Event::StartMaster);
    }

    fn trouble_masters_store(&mut self) {
        match self.random.below(3) {
            0 => self.master.writes_fail_until = self.now + self.random.skewed(ms(100), s(20)),
            1 => self.master.write_time = self.random.skewed(ms(1), s(2)),
            _ => self.master.write_time = ms(2),
        }
    }

    fn trouble_everybody(&mut self) {
        let until = self.now + self.random.skewed(ms(100), s(60));
        match self.random.below(3) {
            0 => self.master.cut_until = [until; 2],
            1 => self.master.cut_until[0] = until,
            _ => self.master.cut_until[1] = until,
        }
        self.note(|| format!("everybody is cut off until {until:?}"));
    }

    /// Faults are over: from here on everything must come back.
    fn calm(&mut self) {
        let frozen = self.hosts.iter().map(|host| host.frozen_until).chain([self.master.frozen_until]).max();
        if let Some(until) = frozen.filter(|until| *until > self.now) {
            return self.at(until, Event::Step);
        }
        self.note(|| "faults are over".to_owned());
        let now = self.now;
        self.calm_since = Some(now);
        self.start_master();
        self.master.cut_until = [now; 2];
        self.master.write_time = ms(2);
        self.master.writes_fail_until = now;
        for index in 0..self.hosts.len() {
            self.paths[index] = Path::GOOD;
            let host = &mut self.hosts[index];
            host.write_time = ms(1);
            host.writes_fail_until = now;
            host.unready_until = now;
            // A process that is going to end is started again by nobody but this.
            let ends = host.process.as_ref().is_some_and(|process| process.draining);
            if ends {
                self.kill_agent(index, false);
            }
            if self.hosts[index].process.is_none() {
                self.start_agent(index);
            }
        }
    }
}
