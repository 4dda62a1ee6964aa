//! `cargo run -p sim -- --seed N`: see [`HELP`].

use sim::{
    model, plot,
    run::{Failure, Options, Summary, run, traced},
    storm::{self, Master},
};
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    process::ExitCode,
    time::Duration,
};

const HELP: &str = "\
A fleet in simulation, from a seed.

  sim --seed N [--trace]      one run, as it was before; with its trace
  sim --seeds A..B            these, B not included
  sim --random N              N seeds that were never run, from one that is printed
      --agents N --steps N    a fleet of that size, so many faults and wishes
  sim model [--depth N]       all histories of one link, up to so many inputs (8)
  sim storm [--agents N] [--capacity N] [--svg FILE] [--only paced|plain|clairvoyant]
                              N links (1000000) against a master that registers so many a second (3000); fails where
                              one with a pace does not have all back
";

/// Of a failed run so many lines of its trace are shown.
const SHOWN: usize = 60;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("model") => model(),
        Some("storm") => storm(),
        _ => arguments().and_then(|wish| wish.map_or(Ok(true), carry_out)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

/// The options behind a word, by [`lexopt`]: each takes a value.
fn options(known: &[&str]) -> Result<Vec<(String, String)>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_args(std::env::args_os().skip(2));
    let mut options = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long(name) if known.contains(&name) => {
                let name = name.to_owned();
                options.push((name, parser.value()?.string()?));
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number of that kind"))
}

fn model() -> Result<bool, lexopt::Error> {
    let mut depth = 8;
    for (_, value) in options(&["depth"])? {
        depth = number(&value)?;
    }
    match model::explore(depth) {
        Ok(explored) => {
            println!("depth {depth}: {} inputs, {} histories met another", explored.inputs, explored.merged);
            Ok(true)
        }
        Err(what) => {
            println!("{what}");
            Ok(false)
        }
    }
}

fn storm() -> Result<bool, lexopt::Error> {
    let (mut links, mut capacity, mut svg) = (1_000_000, 3_000_u32, None);
    let mut masters = Master::ALL.to_vec();
    for (name, value) in options(&["agents", "capacity", "svg", "only"])? {
        match name.as_str() {
            "agents" => links = number(&value)?,
            "capacity" => capacity = number::<u32>(&value)?.max(1),
            "only" => match value.as_str() {
                "paced" => masters = vec![Master::Paced],
                "plain" => masters = vec![Master::Plain],
                "clairvoyant" => masters = vec![Master::Clairvoyant],
                _ => return Err(format!("--only: {value:?} is no kind of master").into()),
            },
            _ => svg = Some(value),
        }
    }
    println!("{}", storm::HEADER);
    let runs = storm::all(links, capacity, &masters);
    if let Some(file) = svg {
        std::fs::write(&file, plot::svg(&runs)).map_err(|error| format!("cannot write {file}: {error}"))?;
    }
    Ok(runs.iter().all(|(storm, outcome)| storm.master != Master::Paced || outcome.all.is_some()))
}

struct Wish {
    first: u64,
    count: u64,
    trace: bool,
    options: Options,
}

fn arguments() -> Result<Option<Wish>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut wish = Wish { first: 1, count: 1, trace: false, options: Options::default() };
    let mut parser = lexopt::Parser::from_env();
    let mut any = false;
    while let Some(argument) = parser.next()? {
        any = true;
        match argument {
            Long("seed") => wish.first = parser.value()?.parse()?,
            Long("seeds") => {
                let range = parser.value()?.string()?;
                let (from, to) = range.split_once("..").ok_or("--seeds takes A..B")?;
                let number = |text: &str| text.parse::<u64>().map_err(|_| format!("--seeds: {text:?} is no number"));
                (wish.first, wish.count) = (number(from)?, number(to)?.saturating_sub(number(from)?));
            }
            Long("random") => {
                wish.count = parser.value()?.parse()?;
                wish.first = RandomState::new().build_hasher().finish() >> 16;
            }
            Long("agents") => wish.options.agents = Some(parser.value()?.parse()?),
            Long("steps") => wish.options.steps = Some(parser.value()?.parse()?),
            Long("trace") => wish.trace = true,
            Long("help") | Short('h') => {
                print!("{HELP}");
                return Ok(None);
            }
            other => return Err(other.unexpected()),
        }
    }
    if any { Ok(Some(wish)) } else { Err("nothing to do".into()) }
}

fn carry_out(wish: Wish) -> Result<bool, lexopt::Error> {
    if wish.trace {
        let (result, trace) = traced(wish.first, wish.options);
        for line in trace {
            println!("{line}");
        }
        println!("{result:?}");
        return Ok(result.is_ok());
    }
    println!("seeds {}..{}", wish.first, wish.first + wish.count);
    std::panic::set_hook(Box::new(|_| {})); // told with the seed
    let mut total = Summary::default();
    for seed in wish.first..wish.first + wish.count {
        match run(seed, wish.options) {
            Ok(summary) => total = added(total, summary),
            Err(failure) => {
                tell(&failure, wish.options);
                return Ok(false);
            }
        }
    }
    println!(
        "{} runs kept every promise: {} agents, {} events, {} commands ({} started), {:.1} h; all Active {:.1} s after \
         the end of faults at the latest",
        wish.count,
        total.agents,
        total.events,
        total.commands,
        total.started,
        total.lasted.as_secs_f64() / 3_600.0,
        total.back_after.as_secs_f64()
    );
    Ok(true)
}

fn added(a: Summary, b: Summary) -> Summary {
    Summary {
        agents: a.agents + b.agents,
        events: a.events + b.events,
        commands: a.commands + b.commands,
        started: a.started + b.started,
        lasted: a.lasted + b.lasted,
        back_after: Duration::max(a.back_after, b.back_after),
    }
}

fn tell(failure: &Failure, options: Options) {
    for line in failure.trace.iter().rev().take(SHOWN).rev() {
        println!("{line}");
    }
    let mut again = format!("cargo run -p sim -- --seed {}", failure.seed);
    if let Some(agents) = options.agents {
        again += &format!(" --agents {agents}");
    }
    if let Some(steps) = options.steps {
        again += &format!(" --steps {steps}");
    }
    println!(
        "\nseed {} breaks a promise: {}\nagain, with the whole trace: {again} --trace",
        failure.seed, failure.what
    );
}
