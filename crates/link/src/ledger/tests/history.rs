//! Random histories with what must hold in each.

use super::*;
use std::collections::HashSet;

fn take<T>(random: &mut Random, from: &mut Vec<T>) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(random.below(from.len())))
}

/// xorshift64*: the histories replay from their seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Accepted,
    Starting,
    Finished,
}

/// A disk, processes and a master that answer in their own time, and what must hold for them.
#[derive(Default)]
struct World {
    persisting: Vec<(String, Kind)>,
    durable: HashSet<(String, Kind)>,
    /// In the order in which they were taken in.
    taken: Vec<String>,
    /// In the order in which they got a slot. This disk answers in any order, so starts may follow in another.
    slots: Vec<String>,
    starting: Vec<String>,
    running: Vec<String>,
    terminated: HashMap<String, Duration>,
    arrived: Vec<String>,
    accepted: HashSet<String>,
    started: Vec<String>,
    recorded: HashMap<String, Outcome>,
    unacknowledged: Vec<String>,
}

impl World {
    fn obey(&mut self, now: Duration, ledger: &mut Ledger<&'static str>) {
        while let Some(output) = ledger.poll_output() {
            match output {
                Output::Persist { id, record } => {
                    assert!(self.persisting.iter().all(|(other, _)| *other != id), "two records of {id} under way");
                    let kind = match record {
                        Record::Accepted(_) => {
                            self.taken.retain(|other| *other != id);
                            self.taken.push(id.clone());
                            Kind::Accepted
                        }
                        Record::Starting => {
                            self.slots.push(id.clone());
                            Kind::Starting
                        }
                        Record::Finished(finish) => {
                            let earlier = self.recorded.insert(id.clone(), finish.outcome);
                            assert_eq!(earlier, None, "two outcomes of {id}");
                            Kind::Finished
                        }
                        Record::Acknowledged => continue,
                    };
                    self.persisting.push((id, kind));
                }
                Output::Start { id, .. } => {
                    assert!(!self.started.contains(&id), "{id} started twice");
                    assert!(
                        self.durable.contains(&(id.clone(), Kind::Starting)),
                        "{id} started before it was recorded"
                    );
                    self.started.push(id.clone());
                    self.starting.push(id);
                }
                Output::Terminate { id } => {
                    assert!(self.running.contains(&id), "TERM for {id}, which does not run");
                    assert_eq!(self.terminated.insert(id, now), None, "two TERMs");
                }
                Output::Kill { id } => {
                    assert!(now - self.terminated[&id] >= seconds(10), "no grace for {id}");
                }
                Output::Accepted { id } => {
                    let recorded =
                        [Kind::Accepted, Kind::Finished].map(|kind| self.durable.contains(&(id.clone(), kind)));
                    assert_ne!(recorded, [false; 2], "{id} was accepted before it was recorded");
                    self.accepted.insert(id);
                }
                Output::Finished { id, finish } => {
                    assert_eq!(self.recorded.get(&id), Some(&finish.outcome), "{id} was told another outcome");
                    assert!(
                        self.durable.contains(&(id.clone(), Kind::Finished)),
                        "{id} was told before it was recorded"
                    );
                    self.unacknowledged.push(id);
                }
                Output::Refuse { .. } => {}
            }
            assert!(self.starting.len() + self.running.len() <= 3, "more than may run");
        }
    }

    /// Something that may happen next.
    fn input(&mut self, random: &mut Random, session: &mut bool, started_inputs: &mut usize) -> Input<&'static str> {
        match random.below(12) {
            0..=2 => {
                let id = match random.below(4) {
                    0 => random.pick(&self.arrived),
                    _ => None,
                };
                let id = id.unwrap_or_else(|| {
                    *started_inputs += 1;
                    let id = format!("c{started_inputs}");
                    self.arrived.push(id.clone());
                    id
                });
                let timeout = (random.below(3) == 0).then(|| seconds(random.below(20) as u64));
                let spec = if random.below(10) == 0 { "other" } else { "true" };
                Input::Run { id, spec, timeout }
            }
            3..=5 => match take(random, &mut self.persisting) {
                Some((id, kind)) if kind != Kind::Finished && random.below(20) == 0 => {
                    Input::PersistFailed { id, reason: "disk".into() }
                }
                Some((id, kind)) => {
                    self.durable.insert((id.clone(), kind));
                    Input::Persisted { id }
                }
                None => Input::Wake,
            },
            6 | 7 => match take(random, &mut self.starting) {
                Some(id) if random.below(5) == 0 => Input::StartFailed { id, reason: "none".into() },
                Some(id) => {
                    self.running.push(id.clone());
                    Input::Started { id }
                }
                None => Input::Wake,
            },
            8 => match take(random, &mut self.running) {
                Some(id) => {
                    let killed = self.terminated.contains_key(&id);
                    let exit = if killed { TERMINATED } else { own(random.below(3) as i32) };
                    Input::Exited { id, exit, total_bytes: 0 }
                }
                None => Input::Wake,
            },
            9 => random.pick(&self.arrived).map_or(Input::Wake, |id| Input::Cancel { id }),
            10 => random.pick(&self.unacknowledged).map_or(Input::Wake, |id| Input::FinishedAck { id }),
            _ => {
                *session = !*session;
                if *session { Input::SessionUp } else { Input::SessionDown }
            }
        }
    }
}

fn history(seed: u64) {
    let mut random = Random(seed);
    let mut ledger = Ledger::new(Params { max_running: 3, held_max: 40, ..params() });
    let mut world = World::default();
    let (mut session, mut runs) = (false, 0);
    let mut now = Duration::ZERO;
    for step in 0..600 {
        now += Duration::from_millis(random.below(1_500) as u64);
        let input = match random.below(1_000) {
            0 if step > 300 => Input::Drain,
            1 if step > 300 => Input::Interrupt,
            _ => world.input(&mut random, &mut session, &mut runs),
        };
        ledger.handle(now, START, input);
        world.obey(now, &mut ledger);
        assert!(ledger.len() <= 40);
    }
    settle(&mut world, &mut ledger, now);
    for id in &world.accepted {
        assert!(world.recorded.contains_key(id), "{id} was accepted and has no outcome");
    }
    let place = |id: &String| world.taken.iter().position(|other| other == id);
    assert!(world.slots.iter().map(place).is_sorted(), "overtaken: {:?}", world.slots);
}

/// Faults stop: everything is answered, every process ends, every outcome is acknowledged.
fn settle(world: &mut World, ledger: &mut Ledger<&'static str>, mut now: Duration) {
    for input in [Input::SessionDown, Input::SessionUp] {
        ledger.handle(now, START, input);
        world.obey(now, ledger);
    }
    for _ in 0..2_000 {
        now += seconds(1);
        let mut step = |world: &mut World, input| {
            ledger.handle(now, START, input);
            world.obey(now, ledger);
        };
        while let Some((id, kind)) = world.persisting.pop() {
            world.durable.insert((id.clone(), kind));
            step(world, Input::Persisted { id });
        }
        while let Some(id) = world.starting.pop() {
            world.running.push(id.clone());
            step(world, Input::Started { id });
        }
        while let Some(id) = world.running.pop() {
            let exit = if world.terminated.contains_key(&id) { TERMINATED } else { own(0) };
            step(world, Input::Exited { id, exit, total_bytes: 0 });
        }
        while let Some(id) = world.unacknowledged.pop() {
            step(world, Input::FinishedAck { id });
        }
        if ledger.is_empty() {
            return;
        }
    }
    panic!("still held: {:?}", ledger.held());
}

#[test]
fn in_random_histories_nothing_starts_twice_and_every_accepted_command_gets_one_outcome() {
    for seed in 1..=500 {
        if let Err(panic) = std::panic::catch_unwind(|| history(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
