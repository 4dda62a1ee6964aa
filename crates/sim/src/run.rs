//! A run from its seed to its end.

use crate::{
    net::{LANES, Way},
    random::Random,
    world::{Event, World},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

/// The fleet is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After all are Active: so long for the last programs to end and their outcomes to arrive.
const SETTLE: Duration = Duration::from_secs(200);

/// Steps of a run, unless something else is said.
const STEPS: (u64, u64) = (60, 300);

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Default: drawn from the seed, 1 to 200 and seldom many.
    pub agents: Option<usize>,
    /// Default: drawn from the seed.
    pub steps: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub agents: usize,
    pub events: u64,
    pub commands: u64,
    /// Programs that were started.
    pub started: u64,
    /// Of simulated time.
    pub lasted: Duration,
    /// From the end of faults until the last agent was Active.
    pub back_after: Duration,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    /// The last lines, oldest first.
    pub trace: Vec<String>,
}

/// One run.
///
/// # Errors
/// A promise is broken; the run was repeated then, to have its trace.
pub fn run(seed: u64, options: Options) -> Result<Summary, Failure> {
    attempt(seed, options, false).or_else(|_| attempt(seed, options, true))
}

/// One run with its trace, whatever comes of it.
pub fn traced(seed: u64, options: Options) -> (Result<Summary, String>, Vec<String>) {
    let mut world = World::new(seed, true);
    let result = live(&mut world, options);
    (result, world.trace())
}

fn attempt(seed: u64, options: Options, trace: bool) -> Result<Summary, Failure> {
    let mut world = World::new(seed, trace);
    // A panic in the code under test is a finding like any other.
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world, options)));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    });
    result.map_err(|what| Failure { seed, what, trace: world.trace() })
}

fn agents(random: &mut Random) -> usize {
    match random.below(100) {
        0..60 => 1 + random.index(8),
        60..90 => 9 + random.index(24),
        90..98 => 33 + random.index(68),
        _ => 101 + random.index(100),
    }
}

fn live(world: &mut World, options: Options) -> Result<Summary, String> {
    let drawn = (agents(&mut world.random), STEPS.0 + world.random.below(STEPS.1 - STEPS.0));
    let count = options.agents.unwrap_or(drawn.0).max(1);
    world.steps_left = options.steps.unwrap_or(drawn.1);
    let began = world.now;
    world.set_up(count);
    let mut summary = Summary { agents: count, ..Summary::default() };
    // Ends: each step is at most a known time after the one before.
    while world.calm_since.is_none() {
        advance(world, Duration::MAX, &mut summary.events)?;
    }
    let calm = world.now;
    let bound = calm + world.bound();
    while !world.not_active().is_empty() {
        if world.now >= bound {
            let late = world.not_active();
            let phases: Vec<_> =
                late.iter().map(|host| world.hosts[*host].process.as_ref().map(|p| p.link.state())).collect();
            let after = bound - calm;
            world.fail(format!("{after:?} after the end of faults these are not Active: {late:?} ({phases:?})"));
        }
        let until = bound.min(world.now + Duration::from_millis(100));
        while advance(world, until, &mut summary.events)? {}
    }
    summary.back_after = world.now - calm;
    let end = world.now + SETTLE;
    while let Some(what) = world.unfinished() {
        if world.now >= end {
            world.fail(format!("{SETTLE:?} after all were Active: {what}"));
        }
        let until = end.min(world.now + LOOK_EVERY);
        while advance(world, until, &mut summary.events)? {}
    }
    summary.commands = world.commands;
    summary.started = world.check.commands.values().map(|truth| u64::from(truth.starts)).sum();
    summary.lasted = world.now - began;
    Ok(summary)
}

/// The next event; `false` if there is none up to `until`.
fn advance(world: &mut World, until: Duration, events: &mut u64) -> Result<bool, String> {
    if let Some(what) = world.violation.take() {
        return Err(what);
    }
    let Some(event) = world.next_event(until) else { return Ok(false) };
    *events += 1;
    happen(world, event);
    match world.violation.take() {
        Some(what) => Err(what),
        None => Ok(true),
    }
}

fn happen(world: &mut World, event: Event) {
    match event {
        Event::Deliver { conn, way, lane } => {
            debug_assert!(LANES.contains(&lane));
            if let Some((host, packet)) = world.arriving(conn, way, lane) {
                match way {
                    Way::Up => world.arrive_up(host, conn, packet),
                    Way::Down => world.arrive_down(host, conn, packet),
                }
            }
        }
        Event::Reset { conn, way } => {
            let Some(host) = world.conns.get(&conn).map(|conn| conn.host) else { return };
            if world.cut_until(host, way) > world.now {
                return;
            }
            let frozen_until = match way {
                Way::Up => world.master.frozen_until,
                Way::Down => world.hosts[host].frozen_until,
            };
            if frozen_until > world.now {
                return world.at(frozen_until, Event::Reset { conn, way });
            }
            match way {
                Way::Up => world.master_reset(conn),
                Way::Down => world.agent_reset(host, conn),
            }
        }
        Event::AgentTimer { host, run } => world.agent_timer(host, run),
        Event::AgentDisk { host, run } => world.agent_disk(host, run),
        Event::Task { host, run, id } => world.step_task(host, run, &id),
        Event::StartAgent { host } => world.start_agent(host),
        Event::MasterTimer { run } => world.master_timer(run),
        Event::MasterDisk { run } => world.master_disk(run),
        Event::EndWire { run, conn } => world.end_wire(run, conn),
        Event::Measure { run, id } => world.measure(run, &id),
        Event::StartMaster => world.start_master(),
        Event::Step => world.step(),
        Event::Look => {
            world.look();
            world.sweep();
            world.after(LOOK_EVERY, Event::Look);
        }
    }
}
