//! The master of a fleet of agents, and the operator's tool.

pub mod access;
pub mod audit;
mod bucket;
pub mod cli;
pub mod clock;
mod dashes;
pub mod demo;
pub mod listen;
mod manual;
pub mod master;
pub mod master_cli;
pub mod master_config;
mod open_files;
pub mod outputs;
pub mod patience;
pub mod security;
pub mod store;
pub mod tool;
pub mod web;
pub mod webhook;

use std::{ffi::OsString, io::Write};

/// Runs one command line, the program's name included, and returns its exit code: 0 done, 1 failed, 2 usage.
/// `agent run` has the codes of what it ran.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> i32 {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|word| word == "agent") && concerns_this_node(&args[2..]) {
        return agent_here(args[2..].to_vec());
    }
    let cli = match cli::parse(&args) {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(meant) = dashes::meant(&args).filter(|meant| cli::parse(meant).is_ok()) {
                let meant: Vec<String> = meant[1..].iter().map(|word| tool::quote(word)).collect();
                let line = meant.join(" ");
                tool::say(&format!("error: the command goes after `--`; did you mean: sloth-runner {line}"));
                return 2;
            }
            if let Some(meant) = dashes::unquoted(&args).filter(|meant| cli::parse(meant).is_ok()) {
                let meant: Vec<String> = meant[1..].iter().map(|word| tool::quote(word)).collect();
                let line = meant.join(" ");
                tool::say(&format!("error: the line for the shell is one word: quote it: sloth-runner {line}"));
                return 2;
            }
            let text = error.render().to_string();
            let _ = if error.use_stderr() {
                std::io::stderr().write_all(text.as_bytes())
            } else {
                std::io::stdout().write_all(text.as_bytes())
            };
            return error.exit_code();
        }
    };
    let said = tool::Said { token: cli.token, ca: cli.ca, cert: cli.cert, key: cli.key };
    let access = tool::Access { master: cli.master, said, context: cli.context };
    match cli.command {
        cli::Command::Demo => demo::run(),
        cli::Command::Master(command) => master_cli::run(command, cli.output),
        cli::Command::Agent(cli::AgentCommand::Start { args }) => agent_with("start", args, access, cli.output),
        cli::Command::Agent(cli::AgentCommand::Status { args }) => agent_with("status", args, access, cli.output),
        cli::Command::Agent(cli::AgentCommand::Reconnect { args }) => agent_with("reconnect", args, access, cli.output),
        cli::Command::Agent(cli::AgentCommand::Check { args }) => agent_with("check", args, access, cli.output),
        cli::Command::Agent(cli::AgentCommand::Doctor { args }) => agent_with("doctor", args, access, cli.output),
        cli::Command::Agent(command) => tool::agent(access, cli.output, command),
        cli::Command::Command(command) => tool::command(access, cli.output, command),
        cli::Command::Token(command) => tool::token(access, cli.output, command),
        cli::Command::Context(command) => tool::context(access, cli.output, command),
        cli::Command::SupportBundle(args) => tool::support_bundle(access, cli.output, args),
        cli::Command::Completions { shell } => manual::completions(shell),
        cli::Command::Man { dir: Some(dir), .. } => manual::write_pages(&dir),
        cli::Command::Man { dir: None, command } => manual::page(&command),
    }
}

/// The agent has a command line of its own, without clap. Of its words only `stop` is one of the master's, too: it means
/// an agent of this node if the options are there that say which.
fn concerns_this_node(words: &[OsString]) -> bool {
    let Some((word, rest)) = words.split_first() else { return false };
    let which = |option: &OsString| {
        let option = option.to_string_lossy();
        ["--name", "--config", "--state-dir"].contains(&option.split('=').next().unwrap_or_default())
    };
    word.to_str().is_some_and(sloth_agent::cli::knows) && (word != "stop" || rest.iter().any(which))
}

/// What stood before the word `agent` goes to the agent under its own names for it.
fn agent_with(word: &str, mut args: Vec<OsString>, access: tool::Access, output: cli::Format) -> i32 {
    args.insert(0, word.into());
    let tool::Said { token, ca, cert, key } = access.said;
    let files = [("tls.ca_file", ca), ("tls.cert_file", cert), ("tls.key_file", key)];
    let files = files.map(|(setting, file)| ("--set", file.map(|file| format!("{setting}={file}"))));
    for (flag, value) in [("--master", access.master), ("--token", token)].into_iter().chain(files) {
        args.extend(value.into_iter().flat_map(|value| [flag.into(), value.into()]));
    }
    if output == cli::Format::Json {
        args.push("--output=json".into());
    }
    agent_here(args)
}

/// Runs the agent's command line in this process.
fn agent_here(args: Vec<OsString>) -> i32 {
    sloth_agent::cli::run(args.into_iter(), "sloth-runner agent")
}
