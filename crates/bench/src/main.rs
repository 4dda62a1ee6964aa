//! Measures what is promised of the agent's size, on the agent's real binary, and prints it as a table in Markdown.
//!
//! ```text
//! cargo run --release -p bench -- footprint --agent PATH [--floor PATH] [--seconds N] [--heartbeats N] [--quick]
//! ```
//!
//! What it needs beside the two programs: Linux; root, for a network of its own whose packets it counts; strace, for
//! the system calls. What is missing becomes a row that says so.

mod binary;
mod capture;
mod footprint;
mod instructions;
mod process;
mod scripted;
mod series;
mod strace;
mod table;

use footprint::Options;
use std::{path::PathBuf, process::ExitCode, time::Duration};

const USAGE: &str = "usage: bench footprint --agent PATH [--floor PATH] [--seconds N] [--heartbeats N] [--quick]

  --agent PATH      the agent's binary
  --floor PATH      the program `floor`, built with the agent's profile and target, to compare with
  --seconds N       measure wakeups, system calls, CPU and packets so long, at the default interval (120)
  --heartbeats N    after so many heartbeats, 100 ms apart, look at the memory again (10000)
  --quick           20 seconds, 100 heartbeats: to see that it works
";

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprint!("bench: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Before there is a second thread: a network is changed for one thread alone.
    let capture = capture::Capture::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(footprint::measure(&options, &capture)) {
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

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut agent, mut floor) = (None, None);
    let (mut seconds, mut heartbeats) = (120, 10_000);
    let mut arguments = lexopt::Parser::from_env();
    match arguments.next()? {
        Some(Value(word)) if word == "footprint" => {}
        Some(other) => return Err(other.unexpected()),
        None => return Err("say what to measure".into()),
    }
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
    Ok(Options { agent, floor, quiet: Duration::from_secs(seconds), heartbeats })
}
