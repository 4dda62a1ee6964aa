//! The command line of `sloth-runner`.

use crate::{
    master_cli::MasterCommand,
    tool::{check_context_name, duration},
};
use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser},
};
use clap_complete::Shell;
use std::{collections::HashMap, ffi::OsString, os::unix::ffi::OsStrExt, path::PathBuf, time::Duration};

/// Master of a fleet of agents that stay with it, and the tool to work with them
#[derive(Debug, Parser)]
#[command(
    name = "sloth-runner",
    version,
    after_help = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 not running (`master status`, `agent status`,
`agent reconnect`), 130 after Ctrl-C. `agent run` on one agent ends with the command's own code,
128+n for signal n, 255 where there is no code."
)]
pub struct Cli {
    /// Where the master is [default: $SLOTH_RUNNER_MASTER_ADDR, else that of the context in use, else localhost:50050]
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    pub master: Option<String>,
    /// A token of the master's for an operator or a viewer; says which CA to trust, too [default: $SLOTH_RUNNER_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    pub token: Option<String>,
    /// The CA of the master's certificate, in PEM [default: $SLOTH_RUNNER_CA, else the one that the token names]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub ca: Option<String>,
    /// A certificate of an operator or a viewer, in PEM, instead of a token; wants --key and --ca [default:
    /// $SLOTH_RUNNER_CERT]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub cert: Option<String>,
    /// The key of --cert, in PEM, mode 0600 [default: $SLOTH_RUNNER_KEY]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub key: Option<String>,
    /// Talk to the master of this context (`sloth-runner context list`)
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
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

/// The whole command line. Options of the tool that mean nothing to a subcommand don't stand in its help.
pub fn definition() -> clap::Command {
    const ALL: [&str; 7] = ["master", "token", "ca", "cert", "key", "context", "output"];
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
        .mut_subcommand("demo", |demo| without(&ALL, demo))
        .mut_subcommand("completions", |completions| without(&ALL, completions))
        .mut_subcommand("man", |man| without(&ALL, man))
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

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// Keep a master (--master), its CA (--ca, if the token's is not meant) and a token, read from standard input; or a
    /// certificate (--cert, --key and --ca)
    ///
    /// The first one is used from then on, where neither flags nor environment say which master.
    Add {
        /// How to call it
        #[arg(value_parser = check_context_name)]
        name: String,
        /// Read the token from this file instead of standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// List contexts; their tokens by id alone
    List,
    /// Use this one from now on
    Use { name: String },
    /// Forget one, with its token; the token stays good (`token revoke` ends it)
    Remove { name: String },
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it: it is shown this once
    Create {
        /// What it is for
        #[arg(long, value_enum, default_value_t = TokenRole::Agent)]
        role: TokenRole,
        /// How long it is good (30m, 24h) [default: an agent's 24h, others until they are revoked]
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ttl: Option<Duration>,
        /// How many agents may join with it [default: any number]
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
        /// Of an agent: it must have this name, and may take it over; else: whom the token is for
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Give agents that join with it this label
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        label: Vec<(String, String)>,
    },
    /// List tokens, newest first; their secrets are kept nowhere
    List,
    /// Let nobody in with it any more; agents that have joined stay (`agent delete` ends them)
    Revoke {
        /// As `token list` shows it
        id: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    /// Lets agents join
    Agent,
    /// May do everything that this tool does
    Operator,
    /// May only look
    Viewer,
}

impl TokenRole {
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

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
    /// Add to the command's environment
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(environment))]
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

#[derive(Debug, Subcommand)]
pub enum CommandCommand {
    /// List commands, newest first
    List {
        /// Only commands of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only commands in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only commands with this outcome
        #[arg(long, value_enum)]
        outcome: Option<Outcome>,
        /// Only commands that were asked for within this time (30m, 7d)
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        since: Option<Duration>,
        /// Only commands older than this one: where the last page ended
        #[arg(long, value_name = "ID", value_parser = command_id)]
        before: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one command
    Get {
        /// Its id, or the beginning of it, 4 letters or more, if no other begins so
        id: String,
    },
    /// Show the output of a command
    Logs {
        /// Its id, or the beginning of it, 4 letters or more, if no other begins so
        id: String,
        /// Until it has ended
        #[arg(long)]
        follow: bool,
    },
    /// Cancel a command
    Cancel {
        /// Its id, or the beginning of it, 4 letters or more, if no other begins so
        id: String,
    },
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Its agent is away: not sent yet
    Queued,
    /// Sent, and perhaps received
    Sent,
    /// The agent holds it: it runs, or waits for its turn there
    Accepted,
    /// It has its outcome, and all of its output is here
    Finished,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Accepted => "accepted",
            Self::Finished => "finished",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Outcome {
    /// It ended by itself, with whatever code
    Exited,
    /// A signal ended it
    Signaled,
    TimedOut,
    Cancelled,
    /// The agent died while it ran, or may have
    Interrupted,
    /// It never started
    Refused,
    /// It waited for its agent, and was not sent in time
    Expired,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn environment(text: OsString) -> Result<OsString, String> {
    match text.as_bytes().iter().position(|&byte| byte == b'=') {
        Some(at) if at > 0 => Ok(text),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn directory(path: OsString) -> Result<OsString, String> {
    if path.as_bytes().starts_with(b"/") {
        Ok(path)
    } else {
        Err("it would be a path on the agent, which has no directory of its own to go on from: begin with /".to_owned())
    }
}

fn user(name: &str) -> Result<String, String> {
    if name.is_empty() {
        Err("name a user, or leave --user away for the agent's own".to_owned())
    } else {
        Ok(name.to_owned())
    }
}

fn command_id(text: &str) -> Result<String, String> {
    if link::valid_command_id(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("an id is 1 to {} of letters, digits, `.`, `_`, `-`, the first not a `.`", link::COMMAND_ID_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        super::parse(std::iter::once("sloth-runner").chain(line.split(' ')))
    }

    fn run_args(line: &str) -> RunArgs {
        match parse(line).unwrap().command {
            Command::Agent(AgentCommand::Run(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn options_that_mean_nothing_to_a_subcommand_do_not_stand_in_its_help() {
        for (line, master, output) in [
            ("agent list --help", true, true),
            ("master --help", false, true),
            ("master status --help", false, true),
            ("master start --help", false, false),
            ("master check --help", false, true),
            ("master backup --help", false, true),
            ("demo --help", false, false),
            ("completions --help", false, false),
            ("man --help", false, false),
        ] {
            let help = parse(line).unwrap_err().to_string();
            assert_eq!((help.contains("--master"), help.contains("--output")), (master, output), "{line}: {help}");
        }
        assert_eq!(parse("master status -o json").unwrap().output, Format::Json);
        assert_eq!(parse("-o json master status").unwrap().output, Format::Json);
        assert_eq!(parse("master check -o json").unwrap().output, Format::Json);
        for line in [
            "master start -o json",
            "-o json demo",
            "man -o json",
            "-o json agent check",
            "-o json agent start --name a",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in [
            "agent list --context a --master b",
            "--token x agent list --context a",
            "context add a --context b --master c",
            "context add a --token x --token-file y --master c",
            "context list --master a",
            "context use",
            "context add .a --master c",
            "--context a master status",
            "--context a demo",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["master start --master a", "man --master a", "--master a master status", "demo --master a"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_command_of_the_agents_own_command_line_stands_in_the_help() {
        let help = parse("agent --help").unwrap_err().to_string();
        for word in ["start", "stop", "status", "reconnect", "check", "doctor"] {
            assert!(sloth_agent::cli::knows(word));
            assert!(help.contains(&format!("\n  {word} ")), "{word}: {help}");
        }
    }

    #[test]
    fn global_flags_stand_before_or_after_the_subcommand() {
        for line in
            ["--master a:1 -o json agent list", "agent list --master a:1 -o json", "agent --master a:1 list -o json"]
        {
            let cli = parse(line).unwrap();
            assert_eq!((cli.master.as_deref(), cli.output), (Some("a:1"), Format::Json), "{line}");
        }
    }

    #[test]
    fn the_help_breaks_no_line_twice() {
        // What is longer than clap's 100 columns is broken once more, wherever that is.
        let after = definition().get_after_help().unwrap().to_string();
        let longest = after.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(100), "{longest:?}");
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_the_command() {
        let args = run_args("agent run a b --timeout 1m30s -- ls -o json --master x");
        assert_eq!(args.agents, ["a", "b"]);
        assert_eq!(args.command, ["ls", "-o", "json", "--master", "x"]);
        assert_eq!(args.timeout, Some(Duration::from_secs(90)));
        assert_eq!(run_args("agent exec a -- true").agents, ["a"]);
    }

    #[test]
    fn agents_are_named_in_one_way_and_so_is_the_command() {
        for line in [
            "agent run -- true",
            "agent run a",
            "agent run a --all -- true",
            "agent run --label k=v --all -- true",
            "agent run --label k=v --label k=w -- true",
            "agent list --label k=v --label l=v --label k=w",
            "agent run a --shell ls -- true",
            "agent run a --id a/b -- true",
            "agent run a --id .a -- true",
            "agent run a --env =x -- true",
            "agent run a --timeout soon -- true",
            "agent run a --user= -- true",
            "agent run a --dir= -- true",
            "agent run a --dir var/tmp -- true",
            "agent run a --dir ~ -- true",
            "agent run a --shell=",
            "agent run --all --max-parallel 0 -- true",
            "agent run a --queue --wait 1m -- true",
            "agent run a --expires 1h -- true",
            "command list --outcome well",
            "command list --before a/b",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(run_args("agent run --label k=v --label k=v --shell ls").label.len(), 2);
        assert!(run_args("agent run --all --shell ls").command.is_empty());
        assert_eq!(
            run_args("agent run --label k=v=w --label l= -- x").label,
            [("k".to_owned(), "v=w".to_owned()), ("l".to_owned(), String::new())]
        );
    }
}
