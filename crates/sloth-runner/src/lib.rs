//! The master of a fleet of agents, and the operator's tool.

pub mod cli;
pub mod clock;
pub mod demo;
pub mod listen;
pub mod master;
pub mod master_cli;
pub mod master_config;
mod open_files;
pub mod outputs;
pub mod store;
pub mod tool;

use clap::Parser;
use std::{ffi::OsString, io::Write};

/// Runs one command line, the program's name included, and returns its exit code: 0 done, 1 failed, 2 usage.
/// `agent run` has the codes of what it ran.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> i32 {
    let args: Vec<OsString> = args.into_iter().collect();
    // The agent has a command line of its own, without clap.
    if args.get(1).is_some_and(|word| word == "agent") && args.get(2).is_some_and(|word| word == "start") {
        return agent_start(args[2..].to_vec());
    }
    let cli = match cli::Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            let _ = if error.use_stderr() {
                std::io::stderr().write_all(text.as_bytes())
            } else {
                std::io::stdout().write_all(text.as_bytes())
            };
            return error.exit_code();
        }
    };
    match cli.command {
        cli::Command::Demo => demo::run(),
        cli::Command::Master(command) => master_cli::run(command),
        cli::Command::Agent(cli::AgentCommand::Start { mut args }) => {
            args.insert(0, "start".into());
            if let Some(master) = cli.master {
                args.extend(["--master".into(), master.into()]);
            }
            agent_start(args)
        }
        cli::Command::Agent(command) => tool::agent(cli.master, cli.output, command),
        cli::Command::Command(command) => tool::command(cli.master, cli.output, command),
    }
}

/// Runs the agent in this process; `args` begins with the word `start`.
fn agent_start(args: Vec<OsString>) -> i32 {
    sloth_agent::cli::run(args.into_iter(), "sloth-runner agent")
}
