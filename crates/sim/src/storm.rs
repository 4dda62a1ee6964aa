//! A whole fleet comes back at once: real links against one master that can register only so many a second.
//!
//! What is assumed: a master that is down refuses at once; one that is up takes every connection and works on
//! registrations one after the other; sending one away with `RetryLater` costs it nothing beside the connection. What a
//! registration costs whose agent has given up meanwhile decides how a master without a pace fares: so both ends are
//! looked at, all of it and nothing.

use crate::{agent::params, random::Random};
use fleet::pace::{Admit, Pace};
use link::{Input, Link, LossReason, Output, Phase, Reply, Session};
use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The last agents are waited for so long.
const PATIENCE: Duration = Duration::from_secs(900);

/// How the master takes registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Master {
    /// In order, all of them: that an agent has given up is seen when its turn is done.
    Plain,
    /// In order; those whose agents will have given up cost nothing.
    Clairvoyant,
    /// By [`Pace`].
    Paced,
}

impl Master {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Clairvoyant, Self::Paced];

    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "as they come",
            Self::Clairvoyant => "as they come, no work for nothing",
            Self::Paced => "paced",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Storm {
    pub links: usize,
    pub outage: Duration,
    pub jitter: f64,
    pub master: Master,
    /// Registrations a second.
    pub capacity: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From the end of the outage until half, and all, were registered. `None`: not within a quarter of an hour.
    pub half: Option<Duration>,
    pub all: Option<Duration>,
    /// Most attempts in one second, since the end of the outage.
    pub peak: u64,
    pub attempts: u64,
    /// Attempts that ran into the agent's own limit: work for nothing.
    pub timeouts: u64,
    pub sent_away: u64,
    /// How many are back, second by second.
    pub back: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Timer,
    Closed,
    Refused(u64),
    Dialled(u64),
    Registered(u64),
    Later(u64, Duration),
}

struct Running {
    storm: Storm,
    links: Vec<Link>,
    /// When the timer of each rings.
    armed: Vec<Duration>,
    /// What is under way at the end of the outage.
    early: Vec<(Duration, u32, Event)>,
    queue: BinaryHeap<Reverse<(Duration, u32, Event)>>,
    pace: Pace,
    /// When the master has done all registrations that it has.
    busy_until: Duration,
    registered: usize,
    per_second: Vec<u64>,
    outcome: Outcome,
}

impl Storm {
    pub fn run(self, seed: u64) -> Outcome {
        let mut random = Random::new(seed);
        let params = link::Params { jitter: self.jitter, ..params() };
        let links = (0..self.links).map(|_| active(Link::new(params.clone(), random.draw()))).collect();
        let mut running = Running {
            storm: self,
            links,
            armed: vec![Duration::ZERO; self.links],
            early: Vec::with_capacity(self.links),
            queue: BinaryHeap::with_capacity(self.links * 2),
            pace: Pace::new(self.capacity),
            busy_until: Duration::ZERO,
            registered: 0,
            per_second: Vec::new(),
            outcome: Outcome::default(),
        };
        for index in 0..self.links as u32 {
            let noticed = random.between(Duration::ZERO, Duration::from_millis(50));
            running.lose(index, noticed);
        }
        running.run();
        running.outcome
    }
}

/// A link with a session that was stable.
fn active(mut link: Link) -> Link {
    let (session, now) = (Session(1), Duration::ZERO);
    link.handle(now, Input::Start);
    for reply in [Reply::Dialled, Reply::Registered { interval: None }, Reply::Ack { seq: 1, interval: None }] {
        link.handle(now, Input::Reply { session, reply });
    }
    while link.poll_output().is_some() {}
    link
}

impl Running {
    fn run(&mut self) {
        let end = self.storm.outage + PATIENCE;
        self.queue.extend(std::mem::take(&mut self.early).into_iter().map(Reverse));
        while let Some(Reverse((now, index, event))) = self.queue.pop() {
            if self.registered == self.storm.links || now > end {
                break;
            }
            self.happen(now, index, event);
        }
        self.outcome.peak = self.per_second.iter().copied().max().unwrap_or(0);
    }

    /// The session ends at `now`. Up to the end of the outage each agent is on its own: every attempt is refused.
    fn lose(&mut self, index: u32, now: Duration) {
        let mut next = Some((now, Event::Closed));
        while let Some((now, event)) = next.take() {
            self.happen(now, index, event);
            let own = self.queue.pop().map(|Reverse((now, _, event))| (now, event));
            let other = self.queue.pop().map(|Reverse((now, _, event))| (now, event));
            // A refusal comes before the attempt's own limit, which means nothing then.
            match (own, other) {
                (Some((at, event)), _) if at < self.storm.outage => next = Some((at, event)),
                (own, other) => self.early.extend([own, other].into_iter().flatten().map(|(at, e)| (at, index, e))),
            }
        }
    }

    fn happen(&mut self, now: Duration, index: u32, event: Event) {
        let link = &mut self.links[index as usize];
        if matches!(link.state(), Phase::Registered | Phase::Active) && event != Event::Closed {
            return;
        }
        let refused = |reason| Reply::Failed { reason, detail: String::new() };
        let (session, reply) = match event {
            Event::Timer if link.poll_timeout().is_some_and(|due| due <= now) => {
                if link.state() == Phase::Connecting && now >= self.storm.outage {
                    self.outcome.timeouts += 1;
                }
                link.handle(now, Input::Timeout);
                return self.carry_out(now, index);
            }
            Event::Timer => return,
            Event::Closed => (1, refused(LossReason::StreamClosed)),
            Event::Refused(session) => (session, refused(LossReason::ConnectionRefused)),
            Event::Dialled(session) => (session, Reply::Dialled),
            Event::Registered(session) => (session, Reply::Registered { interval: None }),
            Event::Later(session, after) => (session, Reply::RetryLater { after, reason: String::new() }),
        };
        link.handle(now, Input::Reply { session: Session(session), reply });
        if link.state() == Phase::Registered {
            self.registered(now);
            return;
        }
        self.carry_out(now, index);
    }

    fn registered(&mut self, now: Duration) {
        self.registered += 1;
        let since = now.saturating_sub(self.storm.outage);
        self.outcome.back.resize(since.as_secs() as usize + 1, 0);
        *self.outcome.back.last_mut().expect("just made") += 1;
        if self.registered * 2 >= self.storm.links {
            self.outcome.half.get_or_insert(since);
        }
        if self.registered == self.storm.links {
            self.outcome.all = Some(since);
        }
    }

    fn carry_out(&mut self, now: Duration, index: u32) {
        while let Some(output) = self.links[index as usize].poll_output() {
            match output {
                Output::Dial { session, .. } => {
                    let event = self.dial(now, session.0);
                    self.queue.push(Reverse((now + ROUND_TRIP, index, event)));
                }
                Output::Register { session, will_wait } => {
                    if let Some((at, event)) = self.register(now, session.0, will_wait) {
                        self.queue.push(Reverse((at, index, event)));
                    }
                }
                _ => {}
            }
        }
        let link = &mut self.links[index as usize];
        let Some(due) = link.poll_timeout() else { return };
        if due <= now {
            link.handle(now, Input::Timeout);
            return self.carry_out(now, index);
        }
        if self.armed[index as usize] != due {
            self.armed[index as usize] = due;
            self.queue.push(Reverse((due, index, Event::Timer)));
        }
    }

    fn dial(&mut self, now: Duration, session: u64) -> Event {
        if now < self.storm.outage {
            return Event::Refused(session);
        }
        self.outcome.attempts += 1;
        let second = (now - self.storm.outage).as_secs() as usize;
        if self.per_second.len() <= second {
            self.per_second.resize(second + 1, 0);
        }
        self.per_second[second] += 1;
        Event::Dialled(session)
    }

    fn register(&mut self, now: Duration, session: u64, will_wait: Duration) -> Option<(Duration, Event)> {
        let admitted = match self.storm.master {
            Master::Paced => self.pace.admit(now, will_wait),
            Master::Plain | Master::Clairvoyant => Admit::Now,
        };
        let begins = match admitted {
            Admit::Now => now,
            Admit::Hold(until) => until,
            Admit::Later(after) => {
                self.outcome.sent_away += 1;
                return Some((now + ROUND_TRIP / 2, Event::Later(session, after)));
            }
        };
        let done = self.busy_until.max(begins) + Duration::from_secs(1) / self.storm.capacity;
        let too_late = done + ROUND_TRIP > now + will_wait;
        if self.storm.master != Master::Clairvoyant || !too_late {
            self.busy_until = done;
        }
        (!too_late).then_some((done + ROUND_TRIP / 2, Event::Registered(session)))
    }
}

/// The runs that the plot and the table show.
pub fn all(links: usize, capacity: u32, masters: &[Master]) -> Vec<(Storm, Outcome)> {
    let mut runs = Vec::new();
    for outage in [3, 60, 3_600].map(Duration::from_secs) {
        for jitter in [0.0, 0.2, 1.0] {
            for &master in masters {
                let storm = Storm { links, outage, jitter, master, capacity };
                let outcome = storm.run(1);
                println!("{}", row(&storm, &outcome));
                runs.push((storm, outcome));
            }
        }
    }
    runs
}

pub const HEADER: &str = "\
| outage | jitter | registrations | half back after | all back after | peak of attempts a second | attempts an agent | timed out an agent | sent away an agent |
|---|---|---|---|---|---|---|---|---|";

fn row(storm: &Storm, outcome: &Outcome) -> String {
    let time = |time: Option<Duration>| time.map_or("not in 15 min".to_owned(), |time| format!("{} s", time.as_secs()));
    let each = |count: u64| format!("{:.2}", count as f64 / storm.links as f64);
    format!(
        "| {} s | {} | {} | {} | {} | {} | {} | {} | {} |",
        storm.outage.as_secs(),
        storm.jitter,
        storm.master.word(),
        time(outcome.half),
        time(outcome.all),
        outcome.peak,
        each(outcome.attempts),
        each(outcome.timeouts),
        each(outcome.sent_away)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storm(outage: u64, jitter: f64, master: Master) -> Outcome {
        Storm { links: 4_000, outage: Duration::from_secs(outage), jitter, master, capacity: 100 }.run(1)
    }

    #[test]
    fn a_paced_master_wastes_no_registration_and_has_all_back_in_little_more_than_the_least_time() {
        for (outage, jitter) in [(3, 0.2), (60, 0.2), (60, 1.0), (600, 0.0)] {
            let outcome = storm(outage, jitter, Master::Paced);
            let all = outcome.all.expect("all come back");
            assert_eq!(outcome.timeouts, 0, "outage {outage} s, jitter {jitter}");
            assert!((40..120).contains(&all.as_secs()), "outage {outage} s, jitter {jitter}: {all:?} for 40 s of work");
        }
    }

    #[test]
    fn without_pace_a_queue_longer_than_the_agents_wait_is_worked_on_for_nothing() {
        let outcome = storm(3, 0.0, Master::Plain);
        assert!(outcome.timeouts > 4_000, "{}", outcome.timeouts);
        assert!(outcome.all.is_none_or(|all| Some(all) > storm(3, 0.0, Master::Paced).all), "{:?}", outcome.all);
    }

    #[test]
    fn attempts_are_refused_until_the_outage_is_over_and_counted_after_it() {
        let outcome =
            Storm { links: 10, outage: Duration::from_secs(60), jitter: 0.0, master: Master::Plain, capacity: 100 }
                .run(1);
        // Waits of 5, 10, 20 and 40 s: the fourth ends 15 s after the outage.
        assert_eq!((outcome.attempts, outcome.timeouts), (10, 0));
        assert_eq!(outcome.all.map(|all| all.as_secs()), Some(15));
    }
}
