//! `sloth-runner support-bundle`.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct SupportArgs {
    /// Name of the agent, or its id in hex
    #[arg(value_name = "AGENT")]
    pub name: String,
    /// Where to write it [default: ./sloth-runner-support-AGENT-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Ask the agent itself, too, by a command that runs there: its status, history, configuration and log
    #[arg(long)]
    pub with_agent: bool,
    /// With what its newest 20 commands printed, 1 MiB each at most
    #[arg(long)]
    pub with_output: bool,
    /// Configuration of the master on this machine [default: ./master.toml, then /etc/sloth-runner/master.toml, if there
    /// is one]
    #[arg(long, value_name = "FILE")]
    pub master_config: Option<PathBuf>,
}
