//! `sloth-runner agent …`, but for what `agent run` takes.

use super::{run::RunArgs, values::key_value};
use clap::{Subcommand, ValueEnum};
use std::ffi::OsString;

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Start an agent on this node (`sloth-runner agent start --help` lists its own options)
    #[command(disable_help_flag = true)]
    Start {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        args: Vec<OsString>,
    },
    /// Say whether an agent of this node runs and is connected (--name, --config or --state-dir says which)
    #[command(disable_help_flag = true)]
    Status {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        args: Vec<OsString>,
    },
    /// Have an agent of this node read its configuration again, and connect now if it waits (options as for status)
    #[command(disable_help_flag = true)]
    Reconnect {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        args: Vec<OsString>,
    },
    /// Try the configuration of an agent of this node, from the state directory to a registration, and say what is wrong
    #[command(disable_help_flag = true)]
    Doctor {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        args: Vec<OsString>,
    },
    /// Check the configuration of an agent of this node and show it
    #[command(disable_help_flag = true)]
    Check {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        args: Vec<OsString>,
    },
    /// List the agents that the master knows
    List {
        /// Only agents with this label; several must all match
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        label: Vec<(String, String)>,
        /// Only agents with this status
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Go on: in a terminal the list stands still and changes in place, in a pipe each change is a line
        #[arg(long)]
        watch: bool,
    },
    /// Show one agent
    Get {
        /// Its name, or its id in hex
        name: String,
    },
    /// Say why an agent is as it is: its sessions and how they ended, who was turned away, and what to do
    Explain {
        /// Its name, or its id in hex; also a name that was only turned away
        name: String,
    },
    /// Show what happened to the agents
    Events {
        /// Only events of this agent: its name, also a former one, or its id in hex
        name: Option<String>,
        /// Go on showing events as they happen
        #[arg(long)]
        follow: bool,
        /// Only the newest so many of the past ones; 0 is none [default: all, with --follow 10]
        #[arg(long, value_name = "COUNT")]
        last: Option<u32>,
    },
    /// Forget an agent
    Delete {
        /// Its name, or its id in hex
        name: String,
        /// Even if it is Active
        #[arg(long)]
        force: bool,
    },
    /// Ask an agent to shut down, and return at once (`stop --name NAME` ends one of this node, without the master, and
    /// waits until it has)
    Stop {
        /// Its name, or its id in hex
        name: String,
    },
    /// Run a command on agents and show its output
    #[command(visible_alias = "exec")]
    Run(Box<RunArgs>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Status {
    #[value(name = "Active", alias = "active")]
    Active,
    #[value(name = "Inactive", alias = "inactive")]
    Inactive,
    #[value(name = "Stopped", alias = "stopped")]
    Stopped,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Inactive => "Inactive",
            Self::Stopped => "Stopped",
        }
    }
}
