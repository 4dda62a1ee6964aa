//! `sloth-runner agent run`.

use super::values::{command_id, directory, environment, key_value, user};
use crate::tool::duration;
use clap::{
    Args,
    builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser},
};
use std::{ffi::OsString, time::Duration};

#[derive(Args, Debug)]
#[command(override_usage = "\
sloth-runner agent run [OPTIONS] <AGENT>... -- <COMMAND> [ARG]...
       sloth-runner agent run [OPTIONS] (--label <KEY=VALUE> | --all) -- <COMMAND> [ARG]...
       sloth-runner agent run [OPTIONS] <AGENT>... --shell <LINE>")]
pub struct RunArgs {
    /// Names of the agents
    #[arg(value_name = "AGENT", required_unless_present_any = ["label", "all"])]
    pub agents: Vec<String>,
    /// On every agent with this label, but for Stopped ones; several must all match. Counts as several agents, also where
    /// one matches
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "agents")]
    pub label: Vec<(String, String)>,
    /// On every agent, but for Stopped ones: they said goodbye. An Inactive one counts as failed. Counts as several
    /// agents, also where there is one
    #[arg(long, conflicts_with_all = ["agents", "label"])]
    pub all: bool,
    /// Add to the command's environment; NAME alone: with the value that it has here, so that it shows in no list of
    /// processes
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = OsStringValueParser::new().try_map(environment))]
    pub env: Vec<OsString>,
    /// Run in this directory [default: /]
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(directory))]
    pub dir: Option<OsString>,
    /// Run as this user [default: the agent's own]
    #[arg(long, value_name = "USER", value_parser = user)]
    pub user: Option<String>,
    /// End the command after this time (90s, 5m)
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Wait so long for an agent that is away (30s)
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub wait: Option<Duration>,
    /// Have an agent that is away run it when it is back: the command waits with the master, its id is printed
    #[arg(long, conflicts_with = "wait")]
    pub queue: bool,
    /// Give up a queued command that was not sent within this time (1h) [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, requires = "queue")]
    pub expires: Option<Duration>,
    /// Print the command's id and leave
    #[arg(long)]
    pub detach: bool,
    /// The command's id: the same id with the same content attaches to what runs already [default: made up]
    #[arg(long, value_name = "ID", value_parser = command_id)]
    pub id: Option<String>,
    /// Give the command no standard input; one on several agents, or with --detach, never has any
    #[arg(short = 'n')]
    pub no_stdin: bool,
    /// A line for the agent's shell, in place of COMMAND
    #[arg(long, value_name = "LINE", conflicts_with = "command", value_parser = NonEmptyStringValueParser::new())]
    pub shell: Option<String>,
    /// On at most so many agents at a time
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_parallel: u16,
    /// Begin on no further agent once it has failed on one; what runs goes on
    #[arg(long)]
    pub fail_fast: bool,
    /// Program and arguments; no shell looks at them
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "shell")]
    pub command: Vec<OsString>,
}
