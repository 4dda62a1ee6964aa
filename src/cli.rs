//! The command line of the agent.

mod check;
mod doctor;
mod help;
mod history;
mod live;
mod node;
mod start;

use std::{
    ffi::OsString,
    io::{self, Write},
};

use lexopt::{Arg, Parser};

use crate::{
    config::{Loaded, Problems, Sources, Surroundings, distance, load, look_only},
    reload::Given,
};

/// Done. For `status`: the agent is Active.
pub const DONE: i32 = 0;
/// Failed. For `status`: the agent runs, but is not Active.
pub const FAILED: i32 = 1;
/// Wrong usage or configuration.
pub const USAGE: i32 = 2;
/// For `status` and `reconnect`: the agent is not running.
pub const NOT_RUNNING: i32 = 3;

/// Flags that set one key each.
const KEYS: [(&str, &str, &str); 14] = [
    ("name", "--name", "name"),
    ("port", "--port", "listen.port"),
    ("bind-address", "--bind-address", "listen.bind_address"),
    ("report-address", "--report-address", "listen.report_address"),
    ("token", "--token", "auth.token"),
    ("state-dir", "--state-dir", "state_dir"),
    ("log-level", "--log-level", "log.level"),
    ("log-file", "--log-file", "log.file"),
    ("heartbeat-interval", "--heartbeat-interval", "heartbeat.interval"),
    ("heartbeat-timeout", "--heartbeat-timeout", "heartbeat.timeout"),
    ("initial-reconnect-delay", "--initial-reconnect-delay", "reconnect.initial_delay"),
    ("max-reconnect-delay", "--max-reconnect-delay", "reconnect.max_delay"),
    ("max-failures", "--max-failures", "heartbeat.max_failures"),
    ("connection-timeout", "--connection-timeout", "connection.timeout"),
];
/// The other ones.
const OTHERS: [&str; 9] = ["master", "label", "config", "set", "daemon", "output", "history", "help", "version"];
const COMMANDS: [&str; 6] = ["start", "stop", "status", "reconnect", "check", "doctor"];

/// What `--help` prints, for a program that is called so.
pub fn help(program: &str) -> String {
    help::text(program)
}

/// Whether this is one of the agent's commands.
pub fn knows(word: &str) -> bool {
    COMMANDS.contains(&word)
}

/// Carries out a command line, without the program's name; the exit code.
///
/// `program` is what help and errors call the program. Must be called while the process has a single thread: `--daemon`
/// forks.
pub fn run(args: impl Iterator<Item = OsString>, program: &str) -> i32 {
    let args: Vec<OsString> = args.collect();
    // As a part of another program, only with its command: that one's own help lists no options of ours.
    let command = args.iter().filter_map(|arg| arg.to_str()).find(|arg| knows(arg));
    let help = command.map_or_else(|| format!("{program} --help"), |command| format!("{program} {command} --help"));
    let parsed = match parse(args.iter().cloned()) {
        Ok(parsed) => parsed,
        Err(text) => {
            complain(&format!("{program}: {text}\nTry `{help}`."));
            return USAGE;
        }
    };
    match parsed {
        Parsed::Help => print(&help::text(program)),
        Parsed::Version => print(&format!("{program} {}\n", env!("CARGO_PKG_VERSION"))),
        Parsed::Nothing => {
            complain(help::text(program).trim_end());
            USAGE
        }
        Parsed::Command(command, sources) => {
            if !matches!(command, Command::Start { .. }) {
                look_only();
            }
            let surroundings = Surroundings::of_process();
            let loaded = load(&sources, &surroundings);
            let found = |find: &dyn Fn(&node::Node) -> i32, loaded| match node::find(loaded, &sources) {
                Ok(node) => find(&node),
                Err(text) => {
                    complain(&text);
                    USAGE
                }
            };
            match command {
                Command::Start { daemon } => configured(loaded, |loaded| {
                    let given = Given::new(sources.clone(), surroundings, loaded.file.as_deref());
                    start::start(loaded, given, daemon, program)
                }),
                Command::Check => configured(loaded, |loaded| print(&check::text(&loaded))),
                Command::Doctor { json } => doctor::run(loaded, &sources, json),
                Command::Stop => found(&node::Node::stop, loaded),
                Command::Status { history: false, json } => found(&|node| node.status(json), loaded),
                Command::Status { history: true, json } => found(&|node| history::show(node, json), loaded),
                Command::Reconnect => found(&node::Node::reconnect, loaded),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Start { daemon: bool },
    Stop,
    Status { history: bool, json: bool },
    Reconnect,
    Check,
    Doctor { json: bool },
}

#[derive(Debug)]
enum Parsed {
    Help,
    Version,
    Nothing,
    Command(Command, Sources),
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let mut parser = Parser::from_args(args);
    let mut sources = Sources::default();
    let mut command: Option<String> = None;
    let (mut daemon, mut history, mut json) = (false, false, None);
    let mut first = true;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let was_first = std::mem::replace(&mut first, false);
        match arg {
            Arg::Short('h') => return Ok(Parsed::Help),
            Arg::Short('V') => return Ok(Parsed::Version),
            Arg::Short('o') | Arg::Long("output") => {
                json = Some(match text(&mut parser)?.as_str() {
                    "json" => true,
                    "text" => false,
                    other => return Err(format!("unknown output {other:?}: it is text or json")),
                });
            }
            Arg::Short(letter) => return Err(format!("unknown option -{letter}")),
            Arg::Value(word) => {
                let word = word.to_string_lossy().into_owned();
                if was_first && word == "agent" {
                    continue;
                }
                if let Some(command) = &command {
                    return Err(format!("unexpected argument {word:?} after {command}"));
                }
                if !COMMANDS.contains(&word.as_str()) {
                    return Err(format!("unknown command {word:?}{}", suggest(&word, &COMMANDS, "")));
                }
                command = Some(word);
            }
            Arg::Long("help") => return Ok(Parsed::Help),
            Arg::Long("version") => return Ok(Parsed::Version),
            Arg::Long("daemon") => daemon = true,
            Arg::Long("history") => history = true,
            Arg::Long("config") => sources.file = Some(value(&mut parser)?.into()),
            Arg::Long("master") => sources.masters.push(text(&mut parser)?),
            Arg::Long("label") => sources.labels.push(text(&mut parser)?),
            Arg::Long("set") => sources.assignments.push(text(&mut parser)?),
            Arg::Long(name) => match KEYS.iter().find(|(known, ..)| *known == name) {
                Some((_, flag, key)) => sources.flags.push((flag, key, text(&mut parser)?)),
                None => {
                    let known: Vec<&str> = KEYS.iter().map(|(known, ..)| *known).chain(OTHERS).collect();
                    return Err(format!("unknown option --{name}{}", suggest(name, &known, "--")));
                }
            },
        }
    }
    let command = match command.as_deref() {
        Some("start") if !history && json.is_none() => Command::Start { daemon },
        Some(other) if daemon && other != "start" => return Err(format!("--daemon goes with start, not with {other}")),
        Some(other) if history && other != "status" => {
            return Err(format!("--history goes with status, not with {other}"));
        }
        Some("status") => Command::Status { history, json: json.unwrap_or(false) },
        Some("doctor") => Command::Doctor { json: json.unwrap_or(false) },
        Some(other) if json.is_some() => return Err(format!("-o goes with status and doctor, not with {other}")),
        Some("stop") => Command::Stop,
        Some("reconnect") => Command::Reconnect,
        Some(_) => Command::Check,
        None if first => return Ok(Parsed::Nothing),
        None => return Err("no command: say start, stop, status, reconnect, check or doctor".into()),
    };
    Ok(Parsed::Command(command, sources))
}

fn value(parser: &mut Parser) -> Result<OsString, String> {
    parser.value().map_err(|error| error.to_string())
}

fn text(parser: &mut Parser) -> Result<String, String> {
    value(parser)?.into_string().map_err(|bytes| format!("the value {} is not UTF-8", bytes.to_string_lossy()))
}

fn suggest(word: &str, known: &[&str], prefix: &str) -> String {
    let nearest = known.iter().map(|known| (distance(word, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= (word.len() / 3).max(1) => format!(": did you mean {prefix}{known}?"),
        _ => String::new(),
    }
}

fn configured(loaded: Result<Loaded, Problems>, go_on: impl FnOnce(Loaded) -> i32) -> i32 {
    match loaded {
        Ok(loaded) => go_on(loaded),
        Err(problems) => bad_configuration(problems),
    }
}

fn bad_configuration(problems: Problems) -> i32 {
    complain(&problems.to_string());
    USAGE
}

/// Prints to standard output. A reader that is gone, as in `check | head -1`, is no failure.
fn print(text: &str) -> i32 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => FAILED,
        _ => DONE,
    }
}

/// Prints a line to standard error, if there still is one.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Command, Sources), String> {
        match parse(line.split_whitespace().map(OsString::from))? {
            Parsed::Command(command, sources) => Ok((command, sources)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_documented_command_lines_are_read() {
        let line = "agent start --name n1 --port 50051 --master a:1 --master=b --set x.y=1=2 --label k=v --daemon";
        let (command, sources) = parsed(line).unwrap();
        assert_eq!(command, Command::Start { daemon: true });
        assert_eq!(sources.flags, [("--name", "name", "n1".into()), ("--port", "listen.port", "50051".into())]);
        assert_eq!(sources.masters, ["a:1", "b"]);
        assert_eq!((sources.assignments[0].as_str(), sources.labels[0].as_str()), ("x.y=1=2", "k=v"));
        assert_eq!(parsed("stop --state-dir=/s").unwrap().0, Command::Stop);
        assert_eq!(parsed("status --history -ojson").unwrap().0, Command::Status { history: true, json: true });
        assert_eq!(parsed("doctor --output=text").unwrap().0, Command::Doctor { json: false });
    }

    #[test]
    fn wrong_usage_says_what_was_meant() {
        for (line, text) in [
            ("strat", "unknown command \"strat\": did you mean start?"),
            ("start agent", "unexpected argument \"agent\" after start"),
            ("start --hartbeat-interval 5s", "unknown option --hartbeat-interval: did you mean --heartbeat-interval?"),
            ("start --zzzzzzzz", "unknown option --zzzzzzzz"),
            ("start -x", "unknown option -x"),
            ("start --name", "missing argument for option '--name'"),
            ("stop --daemon", "--daemon goes with start, not with stop"),
            ("start --daemon=yes", "unexpected argument for option '--daemon': \"yes\""),
            ("--name x", "no command: say start, stop, status, reconnect, check or doctor"),
            ("start --history", "--history goes with status, not with start"),
            ("stop -o json", "-o goes with status and doctor, not with stop"),
            ("status -o xml", "unknown output \"xml\": it is text or json"),
        ] {
            assert_eq!(parsed(line).map(|_| ()), Err(text.to_string()), "{line}");
        }
    }

    #[test]
    fn the_help_names_every_flag_and_command() {
        let help = help::text("sloth-agent");
        for name in KEYS.iter().map(|(name, ..)| *name).chain(OTHERS) {
            assert!(help.contains(&format!("  --{name}")) || help.contains(&format!(", --{name} ")), "--{name}");
        }
        for command in COMMANDS {
            assert!(help.contains(&format!("\n  {command} ")), "{command}");
        }
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(112), "{longest:?}");
    }
}
