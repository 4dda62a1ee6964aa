//! Measures what is promised, on the real binaries, and prints it as a table in Markdown.
//!
//! ```text
//! cargo run --release -p bench -- footprint --agent PATH [--floor PATH] [--seconds N] [--heartbeats N] [--quick]
//! cargo run --release -p bench -- commands --runner PATH --agent PATH [--state DIR] [--seconds N] [--quick]
//! cargo run --release -p bench -- storm --master PATH [--agents N] [--seconds N] [--down N] [--backlog N]
//! cargo run --release -p bench -- returns --master PATH [--agents N] [--down N] [--backlog N]
//! ```
//!
//! `footprint` is the agent's size. What it needs beside the two programs: Linux; root, for a network of its own whose
//! packets it counts; strace, for the system calls; valgrind, for the
//! instructions. What is missing becomes a row that says so.
//!
//! `commands` is what commands cost. It needs strace.
//!
//! `storm` is a master with a whole fleet, which it loses and gets back. It needs root, for a network of its own whose
//! dropped connections it counts, and an open-file limit above the number of agents.
//!
//! `returns` is a smaller fleet that comes back at once from one address, in the clear and with full TLS handshakes. As
//! `storm`.

mod binary;
mod callgrind;
mod capture;
mod commands;
mod footprint;
mod process;
mod scripted;
mod series;
mod storm;
mod strace;
mod table;

use std::{path::PathBuf, process::ExitCode, time::Duration};

const USAGE: &str = "usage: bench footprint --agent PATH [--floor PATH] [--seconds N] [--heartbeats N] [--quick]
       bench storm --master PATH [--agents N] [--seconds N] [--down N] [--backlog N]
       bench returns --master PATH [--agents N] [--down N] [--backlog N]

  --agent PATH      the agent's binary
  --floor PATH      the program `floor`, built with the agent's profile and target, to compare with
  --seconds N       measure wakeups, system calls, CPU and packets so long, at the default interval (120)
  --heartbeats N    after so many heartbeats, 100 ms apart, look at the memory again (10000)
  --quick           20 seconds, 100 heartbeats: to see that it works

  --master PATH     the program sloth-runner
  --agents N        the fleet: that many links with their real transport, in this process (19000; returns: 1000)
  --seconds N       watch it at rest so long (60)
  --down N          seconds that the killed master is away (3)
  --backlog N       net.core.somaxconn of the network that it is measured in (65535)

usage: bench commands --runner PATH --agent PATH [--state DIR] [--seconds N] [--quick]

  --runner PATH     the master's binary, sloth-runner
  --agent PATH      the agent's binary
  --state DIR       a folder on the disk that is to be measured (.)
  --seconds N       measure each rate so long (10); 200 commands a second run for six times that
  --quick           2 seconds, and less output: to see that it works
";

enum Task {
    Footprint(footprint::Options),
    Storm(storm::Options),
    Returns(storm::Options),
    Commands(commands::Options),
}

fn main() -> ExitCode {
    let task = match task() {
        Ok(task) => task,
        Err(error) => {
            eprint!("bench: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Networks are changed before there is a second thread: they are changed for one thread alone.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let measured = match task {
        Task::Footprint(options) => {
            let capture = capture::Capture::start();
            runtime().block_on(footprint::measure(&options, &capture))
        }
        Task::Storm(options) => storm::prepare(&options).and_then(|()| runtime().block_on(storm::measure(&options))),
        Task::Returns(options) => {
            storm::prepare(&options).and_then(|()| runtime().block_on(storm::returns::measure(&options)))
        }
        Task::Commands(options) => runtime().block_on(commands::measure(&options)),
    };
    match measured {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn task() -> Result<Task, lexopt::Error> {
    use lexopt::prelude::*;
    let mut arguments = lexopt::Parser::from_env();
    match arguments.next()? {
        Some(Value(word)) if word == "footprint" => footprint_options(arguments).map(Task::Footprint),
        Some(Value(word)) if word == "storm" => storm_options(arguments, 19_000).map(Task::Storm),
        Some(Value(word)) if word == "returns" => storm_options(arguments, 1_000).map(Task::Returns),
        Some(Value(word)) if word == "commands" => commands_options(arguments).map(Task::Commands),
        Some(other) => Err(other.unexpected()),
        None => Err("say what to measure".into()),
    }
}

fn storm_options(mut arguments: lexopt::Parser, mut agents: usize) -> Result<storm::Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut master = None;
    let (mut seconds, mut down, mut backlog) = (60, 3, 65_535);
    while let Some(argument) = arguments.next()? {
        match argument {
            // It is started in folders of its own.
            Long("master") => {
                let path = PathBuf::from(arguments.value()?);
                master = Some(std::path::absolute(&path).unwrap_or(path));
            }
            Long("agents") => agents = arguments.value()?.parse()?,
            Long("seconds") => seconds = arguments.value()?.parse()?,
            Long("down") => down = arguments.value()?.parse()?,
            Long("backlog") => backlog = arguments.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    let master = master.ok_or("--master PATH is missing")?;
    let (quiet, down) = (Duration::from_secs(seconds), Duration::from_secs(down));
    Ok(storm::Options { master, agents, quiet, down, backlog })
}

fn footprint_options(mut arguments: lexopt::Parser) -> Result<footprint::Options, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut agent, mut floor) = (None, None);
    let (mut seconds, mut heartbeats) = (120, 10_000);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("agent") => agent = Some(PathBuf::from(arguments.value()?)),
            Long("floor") => floor = Some(PathBuf::from(arguments.value()?)),
            Long("seconds") => seconds = arguments.value()?.parse()?,
            Long("heartbeats") => heartbeats = arguments.value()?.parse()?,
            Long("quick") => (seconds, heartbeats) = (20, 100),
            other => return Err(other.unexpected()),
        }
    }
    let agent = agent.ok_or("--agent PATH is missing")?;
    Ok(footprint::Options { agent, floor, quiet: Duration::from_secs(seconds), heartbeats })
}

fn commands_options(mut arguments: lexopt::Parser) -> Result<commands::Options, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut runner, mut agent, mut state) = (None, None, PathBuf::from("."));
    let (mut seconds, mut output) = (10, 1 << 30);
    // Paths are made absolute: the programs run in folders of their own.
    let path = |value: std::ffi::OsString| std::path::absolute(value).map_err(|error| error.to_string());
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("runner") => runner = Some(path(arguments.value()?)?),
            Long("agent") => agent = Some(path(arguments.value()?)?),
            Long("state") => state = PathBuf::from(arguments.value()?),
            Long("seconds") => seconds = arguments.value()?.parse()?,
            Long("quick") => (seconds, output) = (2, 64 << 20),
            other => return Err(other.unexpected()),
        }
    }
    let runner = runner.ok_or("--runner PATH is missing")?;
    let agent = agent.ok_or("--agent PATH is missing")?;
    let length = Duration::from_secs(seconds);
    Ok(commands::Options { runner, agent, state: path(state.into())?, length, paced: length * 6, output })
}
