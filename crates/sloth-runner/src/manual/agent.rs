//! The agent's command line as clap knows one, for pages and completions alone: the agent has a reader of its own, for
//! clap is larger than all the rest of it. Made of what `sloth-agent --help` says.

use clap::{Arg, ArgAction, Command, ValueHint};

/// Where the text of an option begins that is not said in the line of its name.
const TEXT_AT: usize = 30;

/// What the help of the agent says.
struct Help {
    about: String,
    /// Name and text.
    commands: Vec<(String, String)>,
    options: Vec<Choice>,
    /// What stands below the options.
    rest: String,
}

struct Choice {
    heading: String,
    short: Option<char>,
    long: String,
    value: Option<String>,
    text: String,
}

/// Clap keeps names for as long as the process runs, which is not long here.
pub fn lasting(text: &str) -> &'static str {
    text.to_owned().leak()
}

/// `sloth-agent`.
pub fn definition() -> Command {
    const PROGRAM: &str = "sloth-agent";
    let help = read(&sloth_agent::cli::help(PROGRAM));
    let command = Command::new(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .about(help.about.clone())
        .disable_help_subcommand(true)
        .subcommand_required(true);
    command.subcommands(help.commands.iter().map(|(name, _)| of(&help, name))).after_help(help.rest.clone())
}

/// The commands of the agent, as they are called by these words.
pub fn subcommands(program: &str) -> Vec<Command> {
    let help = read(&sloth_agent::cli::help(program));
    help.commands.iter().map(|(name, _)| of(&help, name)).collect()
}

fn of(help: &Help, name: &str) -> Command {
    let text = help.commands.iter().find(|(known, _)| known == name).map(|(_, text)| text.clone());
    let mut command = Command::new(lasting(name)).about(text.unwrap_or_default()).after_help(help.rest.clone());
    for choice in help.options.iter().filter(|choice| choice.is_of(name)) {
        command = command.arg(choice.arg());
    }
    command
}

impl Choice {
    /// Some say for which commands they are.
    fn is_of(&self, command: &str) -> bool {
        match self.text.split_once(": ") {
            Some((commands, _)) if commands.chars().all(|c| c.is_ascii_lowercase() || ", ".contains(c)) => {
                commands.split(", ").any(|known| known == command)
            }
            _ => true,
        }
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(lasting(&self.long)).long(lasting(&self.long)).help(self.text.clone());
        let arg = arg.help_heading(lasting(&self.heading));
        let arg = self.short.map_or(arg.clone(), |short| arg.short(short));
        let Some(value) = &self.value else { return arg.action(ArgAction::SetTrue) };
        let hint = match value.as_str() {
            "FILE" => ValueHint::FilePath,
            "DIR" => ValueHint::DirPath,
            _ => ValueHint::Other,
        };
        let arg = arg.value_name(lasting(value)).value_hint(hint).action(ArgAction::Append);
        match value.as_str() {
            "LEVEL" => arg.value_parser(["off", "error", "warn", "info", "debug", "trace"]),
            "FORMAT" => arg.value_parser(["text", "json"]),
            _ => arg,
        }
    }
}

fn read(text: &str) -> Help {
    let mut help = Help { about: String::new(), commands: Vec::new(), options: Vec::new(), rest: String::new() };
    let mut heading = "";
    for line in text.lines() {
        if help.about.is_empty() {
            line.clone_into(&mut help.about);
        } else if !help.rest.is_empty() {
            help.rest += &format!("\n{line}");
        } else if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            heading = name;
        } else if !line.starts_with(' ') && !line.is_empty() && !line.starts_with("Usage: ") {
            line.clone_into(&mut help.rest);
        } else if let Some(option) = option(line, heading) {
            // Those that clap has of its own.
            if !["help", "version"].contains(&option.long.as_str()) {
                help.options.push(option);
            }
        } else if heading == "Commands" && line.starts_with("  ") {
            let (name, text) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            help.commands.push((name.to_owned(), text.trim().to_owned()));
        } else if let (Some(last), true) = (help.options.last_mut(), line.len() > TEXT_AT) {
            last.text += &format!(" {}", line.trim());
        }
    }
    help
}

/// `  -o, --output FORMAT         status, doctor: text or json  [default: text]`
fn option(line: &str, heading: &str) -> Option<Choice> {
    let line = line.strip_prefix("  ").filter(|line| line.starts_with('-'))?;
    let (names, text) = line.split_once("  ").unwrap_or((line, ""));
    let (short, long) = match names.split_once(", ") {
        Some((short, long)) => (short.chars().nth(1), long),
        None => (None, names),
    };
    let (long, value) = match long.strip_prefix("--")?.split_once(' ') {
        Some((long, value)) => (long, Some(value.to_owned())),
        None => (long.strip_prefix("--")?, None),
    };
    // What the help sets apart by spaces.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(Choice { heading: heading.to_owned(), short, long: long.to_owned(), value, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_line_of_the_help_is_taken() {
        let help = read(&sloth_agent::cli::help("sloth-agent"));
        let commands: Vec<_> = help.commands.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(commands, ["start", "stop", "status", "reconnect", "check", "doctor"]);
        let said = sloth_agent::cli::help("sloth-agent");
        let flags =
            said.lines().filter_map(|line| line.trim_start().split("--").nth(1).filter(|_| line.contains(" --")));
        let flags: BTreeSet<_> =
            flags.filter_map(|rest| rest.split([' ', ',']).next()).filter(|flag| !flag.is_empty()).collect();
        let known: BTreeSet<_> = help.options.iter().map(|option| option.long.as_str()).collect();
        for flag in flags.iter().filter(|flag| !["help", "version"].contains(flag)) {
            assert!(known.contains(flag), "{flag} is not among {known:?}");
        }
        assert!(help.options.iter().all(|option| !option.text.is_empty()));
        assert!(help.rest.contains("Examples:") && help.rest.contains("Exit codes:"), "{}", help.rest);
        let state_dir = help.options.iter().find(|option| option.long == "state-dir").unwrap();
        assert!(state_dir.text.ends_with("else $XDG_STATE_HOME/sloth-runner/NAME]"), "{}", state_dir.text);
    }

    #[test]
    fn an_option_stands_with_the_commands_that_it_is_for() {
        let known = subcommands("sloth-runner agent");
        let has = |command: &str, flag: &str| {
            let command = known.iter().find(|known| known.get_name() == command).unwrap();
            command.get_arguments().any(|arg| arg.get_long() == Some(flag))
        };
        assert!(has("start", "daemon") && !has("status", "daemon"));
        assert!(has("status", "output") && has("doctor", "output") && !has("start", "output"));
        assert!(has("start", "state-dir") && has("stop", "state-dir"));
        assert!(known.iter().all(|command| command.get_name() != "run"));
        definition().debug_assert();
    }
}
