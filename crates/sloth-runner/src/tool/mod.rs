//! The operator's tool: what it asks of the master, and how it shows the answers.

pub mod address;
mod agents;
mod bundle;
mod commands;
pub mod connect;
mod context;
mod contexts;
mod credential;
pub mod duration;
pub mod ending;
mod events;
pub(crate) mod explain;
pub mod follow;
pub mod id;
pub mod json;
mod lines;
mod many;
pub mod output;
pub mod resume;
mod run;
pub mod signals;
mod stdin;
pub mod table;
pub mod time;
mod tokens;
mod watch;
pub mod writer;
mod zone;

pub use agents::{list, table as agent_table};
pub use commands::quote;
pub use context::context;
pub use contexts::check_name as check_context_name;

use crate::cli::{AgentCommand, CommandCommand, Format, SupportArgs, TokenCommand};
use connect::{Master, Trouble, Waits};
pub use credential::Said;
use sloth_agent::config::describe;
use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
};

/// What every command of the tool knows.
struct Tool {
    master: Arc<Master>,
    format: Format,
    colours: bool,
}

/// The flags that say which master, and how to talk to it.
#[derive(Clone, Default)]
pub struct Access {
    pub master: Option<String>,
    pub said: Said,
    /// By name, and then none of the others.
    pub context: Option<String>,
}

/// Runs `sloth-runner agent …` and returns the exit code.
pub fn agent(access: Access, format: Format, command: AgentCommand) -> i32 {
    let lines = matches!(command, AgentCommand::List { watch: true, .. } | AgentCommand::Events { follow: true, .. });
    with_tool(access, Answer::of(format, lines), async |tool| match command {
        AgentCommand::Start { .. }
        | AgentCommand::Status { .. }
        | AgentCommand::Reconnect { .. }
        | AgentCommand::Check { .. }
        | AgentCommand::Doctor { .. } => {
            unreachable!("the agent has a command line of its own")
        }
        AgentCommand::List { label, status, watch: false } => agents::show_list(tool, label, status).await,
        AgentCommand::List { label, status, watch: true } => watch::show(tool, agents::wanted(label, status)).await,
        AgentCommand::Get { name } => agents::show(tool, name).await,
        AgentCommand::Explain { name } => explain::show(tool, name).await,
        AgentCommand::Delete { name, force } => agents::delete(tool, name, force).await,
        AgentCommand::Stop { name } => agents::stop(tool, name).await,
        AgentCommand::Events { name, follow, last } => events::show(tool, name, follow, last).await,
        AgentCommand::Run(args) => run::run(tool, *args).await,
    })
}

/// Runs `sloth-runner command …` and returns the exit code.
pub fn command(access: Access, format: Format, command: CommandCommand) -> i32 {
    let lines = matches!(command, CommandCommand::Logs { follow: true, .. });
    with_tool(access, Answer::of(format, lines), async |tool| match command {
        CommandCommand::List { agent, state, outcome, since, before, limit } => {
            let request = commands::wanted(agent, state, outcome, since, before, limit);
            commands::show_list(tool, request).await
        }
        CommandCommand::Get { id } => commands::show(tool, id).await,
        CommandCommand::Logs { id, follow } => commands::logs(tool, id, follow).await,
        CommandCommand::Cancel { id } => commands::cancel(tool, id).await,
    })
}

/// Runs `sloth-runner token …` and returns the exit code.
pub fn token(access: Access, format: Format, command: TokenCommand) -> i32 {
    with_tool(access, Answer::of(format, false), async |tool| tokens::token(tool, command).await)
}

/// Runs `sloth-runner support-bundle …` and returns the exit code.
pub fn support_bundle(access: Access, format: Format, args: SupportArgs) -> i32 {
    let token = match context::token_of(&access, context::Environment::own()) {
        Ok(token) => token,
        Err(why) => {
            fail(format, &why);
            return 2;
        }
    };
    with_tool(access, Answer::of(format, false), async |tool| bundle::show(tool, args, token).await)
}

/// Colours are for terminals, and for those who don't refuse them.
pub fn wants_colours(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A line on standard error. Nobody to read it is no failure.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What the tool itself complains of: a line that steers no terminal, whatever it quotes.
pub fn complain(what: impl std::fmt::Display) {
    say(&table::printable(&format!("sloth-runner: {what}")));
}

/// What is printed of an answer, and in place of one.
#[derive(Clone, Copy)]
enum Answer {
    Text,
    Document,
    /// A line of JSON for each piece, as with `--follow` and `--watch`.
    Lines,
}

impl Answer {
    fn of(format: Format, lines: bool) -> Self {
        match (format, lines) {
            (Format::Table, _) => Self::Text,
            (Format::Json, false) => Self::Document,
            (Format::Json, true) => Self::Lines,
        }
    }

    fn format(self) -> Format {
        if matches!(self, Self::Text) { Format::Table } else { Format::Json }
    }

    /// Says why there is none: to people, and to programs that wait for one.
    fn fail(self, why: &str) {
        match self {
            Self::Text => {}
            Self::Document => drop(print(&json::error(why))),
            Self::Lines => drop(print(&json::error_line(why))),
        }
        complain(why);
    }
}

fn with_tool(access: Access, answer: Answer, body: impl AsyncFnOnce(&Tool) -> i32) -> i32 {
    let (address, credential) = match context::resolve(access, context::Environment::own()) {
        Ok(resolved) => resolved,
        Err(why) => {
            answer.fail(&why);
            return 2;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            answer.fail(&format!("cannot start: {error}"));
            return 1;
        }
    };
    let master = Arc::new(Master::new(address, Waits::default()).with(credential));
    let tool = Tool { master, format: answer.format(), colours: wants_colours(&io::stdout()) };
    let code = runtime.block_on(body(&tool));
    // A name that is still being resolved is not waited for.
    runtime.shutdown_background();
    code
}

/// Prints an answer and returns the exit code. A reader that has gone away is told nothing.
pub fn print(text: &str) -> i32 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) => output_failed(&error),
    }
}

/// Says so, unless it is that a reader has gone away; the exit code.
fn output_failed(error: &io::Error) -> i32 {
    if error.kind() != io::ErrorKind::BrokenPipe {
        complain(format!("cannot write to standard output: {}", describe(error)));
    }
    1
}

/// Prints the answer, or says why there is none.
fn show_answer<T>(format: Format, answer: Result<T, Trouble>, text: impl FnOnce(T) -> String) -> i32 {
    match answer {
        Ok(answer) => print(&text(answer)),
        Err(trouble) => {
            fail(format, &trouble.to_string());
            1
        }
    }
}

/// Says why there is no answer: to people, and to programs that wait for a document.
pub fn fail(format: Format, why: &str) {
    Answer::of(format, false).fail(why);
}
