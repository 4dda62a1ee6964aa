//! The command line of `sloth-runner`.

mod agent;
mod command;
mod context;
mod run;
mod support;
#[cfg(test)]
mod tests;
mod token;
mod values;

pub use agent::{AgentCommand, Status};
pub use command::{CommandCommand, Outcome, State};
pub use context::ContextCommand;
pub use run::RunArgs;
pub use support::SupportArgs;
pub use token::{TokenCommand, TokenRole};

use crate::master_cli::MasterCommand;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::{collections::HashMap, ffi::OsString, path::PathBuf};

/// The options that say how to talk to a master stand below this, behind a command's own.
const CONNECTION: &str = "Connection";

/// Master of a fleet of agents that stay with it, and the tool to work with them
#[derive(Debug, Parser)]
#[command(
    name = "sloth-runner",
    version,
    after_help = crate::manual::codes_of_help()
)]
pub struct Cli {
    /// Where the master is [default: $SLOTH_RUNNER_MASTER_ADDR, else that of the context in use, else localhost:50050]
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "HOST[:PORT]")]
    pub master: Option<String>,
    /// A token of the master's for an operator or a viewer; says which CA to trust, too [default: $SLOTH_RUNNER_TOKEN]
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "TOKEN", hide_short_help = true)]
    pub token: Option<String>,
    /// The CA of the master's certificate, in PEM [default: $SLOTH_RUNNER_CA, else the one that the token names]
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "FILE", hide_short_help = true)]
    pub ca: Option<String>,
    /// A certificate of an operator or a viewer, in PEM, instead of a token; wants --key and --ca [default:
    /// $SLOTH_RUNNER_CERT]
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "FILE", hide_short_help = true)]
    pub cert: Option<String>,
    /// The key of --cert, in PEM, mode 0600 [default: $SLOTH_RUNNER_KEY]
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "FILE", hide_short_help = true)]
    pub key: Option<String>,
    /// Talk to the master of this context (`sloth-runner context list`)
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "NAME", hide_short_help = true)]
    pub context: Option<String>,
    /// How to print: tables for people or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// Reads a command line, the program's name included.
///
/// # Errors
/// For people; also help and version, which [`clap::Error::use_stderr`] tells apart.
pub fn parse<W>(words: impl IntoIterator<Item = W>) -> Result<Cli, clap::Error>
where
    W: Into<OsString> + Clone,
{
    let mut command = definition();
    let cli = Cli::from_arg_matches(&command.try_get_matches_from_mut(words)?)?;
    let here =
        matches!(cli.command, Command::Master(_) | Command::Demo | Command::Completions { .. } | Command::Man { .. });
    if cli.says_a_master() && here {
        let why = "--master, --token, --ca, --cert and --key say how to talk to a master, and mean nothing to what runs \
                   here";
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, why));
    }
    if let Some(why) = misplaced(&cli) {
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, why));
    }
    if cli.output == Format::Json && prints_text_alone(&cli.command) {
        let why = "-o json is for answers: what runs here, and what starts or checks an agent, print text alone";
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, why));
    }
    if let Some(why) = of_agents_alone(&cli.command) {
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, why));
    }
    if let Some(key) = with_two_values(&cli.command) {
        let why = format!("--label {key} is given two values: all labels must match, and no agent has both");
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, why));
    }
    Ok(cli)
}

impl Cli {
    /// A flag says how to talk to one.
    fn says_a_master(&self) -> bool {
        [&self.master, &self.token, &self.ca, &self.cert, &self.key].into_iter().any(Option::is_some)
    }
}

/// Flags about masters where they mean nothing.
fn misplaced(cli: &Cli) -> Option<&'static str> {
    use AgentCommand::{Check, Doctor, Reconnect, Start, Status};
    let says_a_master = cli.says_a_master();
    match &cli.command {
        Command::Context(ContextCommand::Add { token_file: Some(_), .. }) if cli.token.is_some() => {
            Some("--token and --token-file: a context has one token")
        }
        Command::Context(ContextCommand::Add { .. }) if cli.context.is_some() => {
            Some("--context picks one that was added, and means nothing here")
        }
        Command::Context(ContextCommand::Add { .. }) => None,
        _ if says_a_master && cli.context.is_some() => Some(
            "--context says which master, and with what: leave --master and the other flags for that away, or the context",
        ),
        Command::Context(_) if says_a_master || cli.context.is_some() => Some(
            "--master, --token, --ca, --cert, --key and --context mean nothing here: `context add` takes all but the last",
        ),
        Command::Master(_)
        | Command::Demo
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Agent(Start { .. } | Status { .. } | Reconnect { .. } | Check { .. } | Doctor { .. })
            if cli.context.is_some() =>
        {
            Some("--context says how to talk to a master as an operator, and means nothing to what runs here")
        }
        _ => None,
    }
}

/// What only a token of agents can have, asked for with one of people. The master refuses it, too: for other tools.
fn of_agents_alone(command: &Command) -> Option<String> {
    let Command::Token(TokenCommand::Create { role, uses, label, .. }) = command else { return None };
    let flag = match role {
        TokenRole::Agent => return None,
        _ if uses.is_some() => "--uses",
        _ if !label.is_empty() => "--label",
        _ => return None,
    };
    Some(format!(
        "{flag} is for tokens of agents: leave it away with --role {}, or make one of --role agent",
        role.word()
    ))
}

/// The label that nobody can have. It would be looked for by its last value alone.
fn with_two_values(command: &Command) -> Option<&str> {
    let labels = match command {
        Command::Agent(AgentCommand::List { label, .. }) => label,
        Command::Agent(AgentCommand::Run(args)) => &args.label,
        _ => return None,
    };
    let mut seen = HashMap::new();
    let mut two_of = |(key, value)| seen.insert(key, value).is_some_and(|before| before != value);
    labels.iter().map(|(key, value)| (key.as_str(), value)).find(|label| two_of(*label)).map(|(key, _)| key)
}

fn prints_text_alone(command: &Command) -> bool {
    use AgentCommand::{Check, Reconnect, Start};
    matches!(
        command,
        Command::Demo
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::Master(MasterCommand::Start(_) | MasterCommand::Init(_) | MasterCommand::OperatorCert(_))
            | Command::Agent(Start { .. } | Reconnect { .. } | Check { .. })
    )
}

/// What every command takes, unless it means nothing there.
pub const GLOBAL: [&str; 7] = ["master", "token", "ca", "cert", "key", "context", "output"];

/// The whole command line. Options of the tool that mean nothing to a subcommand don't stand in its help.
pub fn definition() -> clap::Command {
    fn without(options: &'static [&'static str], command: clap::Command) -> clap::Command {
        let hidden = |command: clap::Command, id: &'static str| match id {
            "master" | "token" | "ca" | "cert" | "key" | "context" => {
                command.arg(clap::Arg::new(id).long(id).global(true).hide(true))
            }
            _ => {
                let format = clap::builder::EnumValueParser::<Format>::new();
                let arg = clap::Arg::new(id).short('o').long(id).global(true).hide(true);
                command.arg(arg.value_parser(format).default_value("table"))
            }
        };
        options.iter().fold(command, |command, id| hidden(command, id))
    }
    Cli::command()
        .mut_subcommand("demo", |demo| without(&GLOBAL, demo))
        .mut_subcommand("completions", |completions| without(&GLOBAL, completions))
        .mut_subcommand("man", |man| without(&GLOBAL, man))
        .mut_subcommand("master", |master| {
            without(&["master", "token", "ca", "cert", "key", "context"], master)
                .mut_subcommand("start", |start| without(&["output"], start))
                .mut_subcommand("init", |init| without(&["output"], init))
                .mut_subcommand("operator-cert", |cert| without(&["output"], cert))
        })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// See a master and three agents lose each other and come back, in half a minute, on this machine
    Demo,
    /// Run the master on this machine, look at it, stop it; check its configuration, back up its database
    #[command(subcommand)]
    Master(MasterCommand),
    /// Agents: list them, look at them, run commands on them
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Commands that were given to agents
    #[command(subcommand)]
    Command(CommandCommand),
    /// Tokens, which let agents join and people in
    #[command(subcommand)]
    Token(TokenCommand),
    /// Contexts: masters that this tool knows, with what lets it in there
    #[command(subcommand)]
    Context(ContextCommand),
    /// Put what is known of an agent into one archive without secrets, for whoever is to help
    ///
    /// In it: why the agent is as it is, its events and commands, this tool's settings, and where a master is configured
    /// on this machine its configuration and log. What cannot be had is named in it.
    SupportBundle(SupportArgs),
    /// Print what makes a shell complete this program's command lines
    ///
    /// bash: `source <(sloth-runner completions bash)` in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit; fish:
    /// `sloth-runner completions fish | source` in ~/.config/fish/config.fish. The Debian package has it set up.
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page of a command, or write all of them to a directory
    ///
    /// To read one: `sloth-runner man agent run | man -l -`.
    Man {
        /// Write the pages of all commands here, as files for section 1; the directory is made if it is not there
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        dir: Option<PathBuf>,
        /// Which command, such as `agent run` [default: the program itself]
        command: Vec<String>,
    },
}
