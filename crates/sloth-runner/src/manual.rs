//! `sloth-runner completions` and `sloth-runner man`: made from the definitions that the command line is read by, so
//! that neither can say anything else than `--help`.

mod agent;
mod sections;

pub use sections::codes_of_help;

use crate::{
    cli,
    tool::{complain, print},
};
use clap_complete::Shell;
use clap_mangen::Man;
use sloth_agent::config::describe;
use std::{
    fs,
    io::{self, Write},
    path::Path,
};

const PROGRAM: &str = "sloth-runner";
const AGENT: &str = "sloth-agent";
const VERSION: &str = concat!("Version ", env!("CARGO_PKG_VERSION"));

/// Prints the script for a shell, for both programs; the exit code.
pub fn completions(shell: Shell) -> i32 {
    let mut script = Vec::new();
    let command = for_shells(&with_agent(cli::definition()), &[]);
    // Of an agent of this node, which these options name.
    let which = ["name", "config", "state-dir"];
    let its_stop = agent::subcommands("sloth-runner agent").into_iter().find(|own| own.get_name() == "stop");
    let its_stop: Vec<_> = its_stop.iter().flat_map(clap::Command::get_arguments).cloned().collect();
    let named = its_stop.into_iter().filter(|arg| arg.get_long().is_some_and(|long| which.contains(&long)));
    let named = named
        .map(|arg| {
            let id = agent::lasting(&format!("agent's {}", arg.get_id()));
            arg.id(id)
        })
        .collect::<Vec<_>>();
    let mut command = command.mut_subcommand("agent", |agent| agent.mut_subcommand("stop", |stop| stop.args(named)));
    clap_complete::generate(shell, &mut command, PROGRAM, &mut script);
    clap_complete::generate(shell, &mut agent::definition(), AGENT, &mut script);
    print(&String::from_utf8(script).expect("the generator writes text"))
}

/// Prints the page of the program, or of the command that these words name; the exit code.
pub fn page(words: &[String]) -> i32 {
    let mut command = built();
    let words = match words {
        [first, rest @ ..] if first == AGENT => {
            command = built_agent();
            rest
        }
        words => words,
    };
    for (at, word) in words.iter().enumerate() {
        let of = words[..at].join(" ");
        let Some(known) = command.find_subcommand(word).cloned() else {
            complain(format!("no command {word:?}: `{} --help` shows all", format!("{PROGRAM} {of}").trim_end()));
            return 2;
        };
        command = known;
    }
    let mut text = Vec::new();
    render(command, &mut text).expect("a vector takes what is written");
    print(&String::from_utf8(text).expect("the generator writes text"))
}

/// Writes a page for each command to this directory, which is made if it is not there; the exit code.
pub fn write_pages(directory: &Path) -> i32 {
    let written = fs::create_dir_all(directory).and_then(|()| {
        let count = write_page(&built(), directory)?;
        Ok(count + write_page(&built_agent(), directory)?)
    });
    match written {
        Ok(count) => print(&format!("{count} pages written to {}\n", directory.display())),
        Err(error) => {
            complain(format!("cannot write manual pages to {}: {}", directory.display(), describe(&error)));
            1
        }
    }
}

/// Each command then knows its name in full.
fn built() -> clap::Command {
    // The pages name what there is; a page of clap's own command `help` would say nothing.
    let mut command = for_pages(with_agent(cli::definition())).disable_help_subcommand(true);
    command.build();
    command
}

fn built_agent() -> clap::Command {
    let mut command = agent::definition();
    command.build();
    command
}

/// With what the agent's own reader takes, which the tool passes on to it.
fn with_agent(command: clap::Command) -> clap::Command {
    let its = agent::subcommands("sloth-runner agent");
    command.mut_subcommand("agent", |agent| {
        agent.mut_subcommands(|command| {
            // `stop` is another thing with the master.
            let name = Some(command.get_name()).filter(|name| *name != "stop");
            let Some(own) = its.iter().find(|own| Some(own.get_name()) == name).cloned() else { return command };
            // Of the tool's own those that the agent does not have are no options here.
            let taken: Vec<_> = own.get_arguments().map(|arg| arg.get_id().to_string()).collect();
            let others = cli::GLOBAL.into_iter().filter(|id| !taken.iter().any(|known| known == id));
            others.fold(own, |own, id| own.arg(clap::Arg::new(id).long(id).hide(true)))
        })
    })
}

/// A page leaves nothing out as `-h` does, and what every command takes stands behind what is its own.
fn for_pages(command: clap::Command) -> clap::Command {
    const LAST: usize = 1000;
    let command = command.mut_args(|arg| {
        let arg = arg.hide_short_help(false);
        if arg.is_global_set() { arg.display_order(LAST) } else { arg }
    });
    command.mut_subcommands(for_pages)
}

/// As shells complete it. What makes their scripts offers hidden options, too, and those that every command takes
/// everywhere: so it is given a command that has no others than mean something. `above`: what all below `command` take.
fn for_shells(command: &clap::Command, above: &[clap::Arg]) -> clap::Command {
    let own: Vec<_> = command.get_arguments().collect();
    let is_own = |arg: &&clap::Arg| own.iter().any(|known| known.get_id() == arg.get_id());
    let above = above.iter().filter(|arg| !is_own(arg)).cloned();
    let own_global = own.iter().filter(|arg| arg.is_global_set() && !arg.is_hide_set());
    let global: Vec<_> = above.chain(own_global.map(|arg| (*arg).clone().global(false))).collect();
    let rest = own.iter().filter(|arg| !arg.is_global_set() && !arg.is_hide_set());
    let mut made = clap::Command::new(agent::lasting(command.get_name()))
        .args(rest.map(|arg| (*arg).clone()))
        .args(global.iter().cloned())
        .subcommands(command.get_subcommands().map(|below| for_shells(below, &global)));
    if let Some(about) = command.get_about() {
        made = made.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        made = made.version(agent::lasting(version));
    }
    command.get_visible_aliases().fold(made, |made, alias| made.visible_alias(agent::lasting(alias)))
}

/// Returns how many.
fn write_page(command: &clap::Command, directory: &Path) -> io::Result<usize> {
    let mut page = Vec::new();
    let name = render(command.clone(), &mut page)?;
    fs::write(directory.join(name), page)?;
    command
        .get_subcommands()
        .filter(|known| !known.is_hide_set())
        .try_fold(1, |count, known| Ok(count + write_page(known, directory)?))
}

/// Returns the page's file name.
fn render(command: clap::Command, page: &mut impl Write) -> io::Result<String> {
    // As the program is called in `--help`; the page of `agent run` is called sloth-runner-agent-run.
    let display = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let sections = display.strip_prefix(PROGRAM).and_then(|words| sections::of(words.trim_start_matches('-')));
    // Exit codes have a section of their own there.
    let command = if sections.is_some() { command.after_help(None).after_long_help(None) } else { command };
    // The version in place of a date: pages of one version are the same, whenever they are made.
    let man = Man::new(command).title(display).section("1").date(VERSION).source(PROGRAM).manual("Sloth Runner");
    let mut text = Vec::new();
    man.render(&mut text)?;
    let sections = sections.unwrap_or_default();
    let text = String::from_utf8(text).expect("the generator writes text");
    let (before, after) = text.split_at(text.find(".SH VERSION").unwrap_or(text.len()));
    write!(page, "{before}{sections}{after}")?;
    Ok(man.get_filename())
}
