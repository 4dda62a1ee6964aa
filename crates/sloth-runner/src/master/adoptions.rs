//! How much an agent may bring of which this master has no record: commands that it holds, and their output.
//!
//! They are adopted, so that nothing is lost with a master's memory. An agent says what they are, and nobody else: with
//! no bound one certificate would have the memory and the disk of the whole fleet.

use super::ports::Spec;
use crate::bucket::Bucket;
use fleet::{AgentId, Fleet, Held};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Commands of one agent that are adopted at once: as many as an agent holds. After a master has lost its database all of
/// them are of no record.
const COMMANDS_MAX: u64 = 10_000;
/// Then one more after each of these.
const COMMANDS_EVERY: Duration = Duration::from_secs(10);
/// One that says so much of what it runs counts for two, with twice as much for three: 16 MB in all.
const SPEC_BYTES: u64 = 1_600;

/// Output of one agent's adopted commands that is kept: as much as of one command (`commands.output_keep`), …
const OUTPUT_MAX: u64 = 1 << 30;
/// … and as much again in a day.
const OUTPUT_EVERY: Duration = Duration::from_nanos(86_400_000_000_000 / OUTPUT_MAX);

/// In this run of the master.
#[derive(Default)]
pub struct Adoptions(Mutex<HashMap<AgentId, Adopted>>);

struct Adopted {
    commands: Bucket,
    output: Bucket,
    /// Those that may be unfinished.
    ids: HashSet<String>,
    /// Those that were let in last: where the connection broke before its agent was registered, they come again.
    last: HashSet<String>,
}

impl Adoptions {
    /// Chooses which of these an agent may bring: the others lose what they run, without which none is adopted, and stay
    /// with the agent. How many that are.
    pub fn choose(&self, now: Duration, fleet: &Fleet<Spec>, agent: AgentId, held: &mut [Held<Spec>]) -> usize {
        let dispatch = fleet.dispatch();
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let its = agents.entry(agent).or_insert_with(|| Adopted {
            commands: Bucket::new(now, COMMANDS_MAX, COMMANDS_EVERY),
            output: Bucket::new(now, OUTPUT_MAX, OUTPUT_EVERY),
            ids: HashSet::new(),
            last: HashSet::new(),
        });
        its.ids.retain(|id| dispatch.unfinished(id).is_some());
        let (mut left_out, last) = (0, std::mem::take(&mut its.last));
        for held in held.iter_mut().filter(|held| !held.finished_here && !dispatch.knows(&held.id)) {
            let Some(spec) = &held.spec else { continue };
            let price = 1 + prost::Message::encoded_len(spec) as u64 / SPEC_BYTES;
            if last.contains(&held.id) || its.commands.take(now, price) {
                its.ids.insert(held.id.clone());
                its.last.insert(held.id.clone());
            } else {
                held.spec = None;
                left_out += 1;
            }
        }
        left_out
    }

    /// Whether so much more output of this command may be kept.
    pub fn may_keep(&self, now: Duration, agent: AgentId, id: &str, bytes: u64) -> bool {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match agents.get_mut(&agent) {
            Some(its) if its.ids.contains(id) => its.output.take(now, bytes),
            _ => true,
        }
    }
}

/// For people.
pub fn not_adopted(count: usize) -> String {
    format!(
        "{count} commands that it holds, and of which this master has no record, were not adopted: of one agent it adopts \
         {COMMANDS_MAX} at once, and one more every {} s; they go on there, and it keeps their outcomes until it registers \
         again and there is room",
        COMMANDS_EVERY.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::clock::{BootClock, Clock};
    use fleet::HeldState;

    const AGENT: AgentId = [1; 16];
    const S: fn(u64) -> Duration = Duration::from_secs;

    fn held(ids: std::ops::Range<u32>, spec_bytes: usize) -> Vec<Held<Spec>> {
        let spec = Spec { argv: vec![vec![b'x'; spec_bytes]], ..Spec::default() };
        let held = |id: u32| Held {
            id: format!("h{id}"),
            state: HeldState::Running,
            started_unix_ms: 0,
            spec: Some(spec.clone()),
            finished_here: false,
        };
        ids.map(held).collect()
    }

    fn fleet() -> Fleet<Spec> {
        Fleet::new(BootClock.now(), Vec::new(), Vec::new(), 1)
    }

    #[test]
    fn an_agent_brings_ten_thousand_unknown_commands_and_then_one_in_ten_seconds() {
        let (adoptions, fleet) = (Adoptions::default(), fleet());
        let mut crowd = held(0..15_000, 10);
        assert_eq!(adoptions.choose(S(0), &fleet, AGENT, &mut crowd), 5_000);
        assert_eq!(crowd.iter().filter(|held| held.spec.is_some()).count(), 10_000);
        let mut others = held(15_000..15_010, 10);
        assert_eq!(adoptions.choose(S(20), &fleet, AGENT, &mut others), 8);
        assert_eq!(adoptions.choose(S(20), &fleet, [2; 16], &mut held(0..10, 10)), 0, "another agent has its own");
        let finished = Held { finished_here: true, ..held(0..1, 10).remove(0) };
        assert_eq!(adoptions.choose(S(20), &fleet, AGENT, &mut [finished]), 0, "there is nothing to adopt");
    }

    #[test]
    fn who_comes_again_because_the_connection_broke_pays_once() {
        let (adoptions, fleet) = (Adoptions::default(), fleet());
        for _ in 0..3 {
            assert_eq!(adoptions.choose(S(0), &fleet, AGENT, &mut held(0..10_000, 10)), 0);
        }
        assert_eq!(adoptions.choose(S(0), &fleet, AGENT, &mut held(9_999..10_001, 10)), 1);
    }

    #[test]
    fn what_they_run_takes_no_more_memory_than_an_agent_has_for_it() {
        let (adoptions, fleet) = (Adoptions::default(), fleet());
        let mut crowd = held(0..30, 1 << 20);
        assert_eq!(adoptions.choose(S(0), &fleet, AGENT, &mut crowd), 15, "15 of 1 MiB");
    }

    #[test]
    fn their_output_is_bounded_together_and_that_of_others_is_not() {
        let (adoptions, fleet) = (Adoptions::default(), fleet());
        let keep = |at, id: &str, bytes| adoptions.may_keep(S(at), AGENT, id, bytes);
        adoptions.choose(S(0), &fleet, AGENT, &mut held(0..2, 10));
        assert!(keep(0, "h0", 1 << 29) && keep(0, "h1", 1 << 29));
        assert!(!keep(0, "h0", 1) && !keep(1, "h1", 1 << 20) && keep(1, "other", 1 << 40));
        assert!(keep(2 * 86_400, "h1", 1 << 30), "as much again in a day");
    }
}
