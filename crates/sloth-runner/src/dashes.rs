//! `agent run node1 uname -a`: what is missing there is `--`. Pure.

use crate::cli::Cli;
use clap::CommandFactory;
use std::ffi::OsString;

/// The command line as it was probably meant, if it runs something on agents and lacks the `--` before the command.
///
/// Which words are agents is a guess: the first one, or none with `--all` or `--label`.
pub fn meant(args: &[OsString]) -> Option<Vec<String>> {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str()).collect::<Option<_>>()?;
    if words.contains(&"--") || words.iter().any(|word| word.starts_with("--shell")) {
        return None;
    }
    let named_otherwise = words.iter().any(|word| *word == "--all" || word.starts_with("--label"));
    let cli = Cli::command();
    let run = cli.find_subcommand("agent").and_then(|agent| agent.find_subcommand("run"))?;
    let takes_value = |word: &str| {
        let mut options = run.get_arguments().chain(cli.get_arguments()).filter(|arg| !arg.is_positional());
        let found = match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some(long), _) => options.find(|arg| arg.get_long() == Some(long)),
            (None, short) => {
                options.find(|arg| short.is_some() && arg.get_short().map(String::from).as_deref() == short)
            }
        };
        found.is_some_and(|arg| arg.get_action().takes_values())
    };
    // Up to the word that follows `agent`, `run` and what names the agents.
    let mut before = vec![["agent", "agent"], ["run", "exec"]].into_iter();
    let mut agents = usize::from(!named_otherwise);
    let mut at = 1;
    while let Some(word) = words.get(at) {
        if word.starts_with('-') {
            at += 1 + usize::from(takes_value(word));
            continue;
        }
        match before.next() {
            Some(expected) if expected.contains(word) => {}
            Some(_) => return None,
            None if agents > 0 => agents -= 1,
            None => break,
        }
        at += 1;
    }
    // Without a word that could be the program there is nothing to suggest.
    let command = words.get(at..).filter(|command| !command.is_empty())?;
    Some(words[..at].iter().chain(&["--"]).chain(command).map(|word| (*word).to_owned()).collect())
}

/// `agent run node1 --shell ls -l`: the line with all that follows, if it was not quoted.
pub fn unquoted(args: &[OsString]) -> Option<Vec<String>> {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str()).collect::<Option<_>>()?;
    let at = words.iter().position(|word| *word == "--shell")? + 1;
    let (before, line) = words.split_at_checked(at)?;
    let is_split = line.len() > 1 && !line[0].contains(char::is_whitespace) && !line.contains(&"--");
    let line = is_split.then(|| line.join(" "))?;
    Some(before.iter().map(|word| (*word).to_owned()).chain([line]).collect())
}

#[cfg(test)]
mod tests {
    use super::{meant, unquoted};

    #[test]
    fn a_line_that_was_not_quoted_is_put_together() {
        for (line, expected) in [
            ("agent run n --shell ls -l", Some("ls -l")),
            ("agent run n --timeout 1s --shell df -h /tmp", Some("df -h /tmp")),
            ("agent run n --shell ls", None),
            ("agent run n --shell", None),
            ("agent run n -- sh -x", None),
        ] {
            let args: Vec<_> = line.split(' ').map(Into::into).collect();
            assert_eq!(unquoted(&args).and_then(|mut words| words.pop()).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn the_dashes_come_after_the_agent_or_after_the_options_that_name_them() {
        for (line, expected) in [
            ("agent run node1 uname", Some("agent run node1 -- uname")),
            ("agent exec node1 uname -a", Some("agent exec node1 -- uname -a")),
            ("agent run --dir /tmp node1 -n ls", Some("agent run --dir /tmp node1 -n -- ls")),
            ("--master a:1 agent -o json run node1 ls", Some("--master a:1 agent -o json run node1 -- ls")),
            ("agent run --all df -h", Some("agent run --all -- df -h")),
            ("agent run --label site=a df", Some("agent run --label site=a -- df")),
            ("agent run --timeout=5s node1 sleep 9", Some("agent run --timeout=5s node1 -- sleep 9")),
            ("agent run node1", None),
            ("agent run", None),
            ("agent run node1 -- run", None),
            ("agent run node1 --shell ls x", None),
            ("agent list run x", None),
            ("command get run x", None),
        ] {
            let args: Vec<_> = std::iter::once("sloth-runner").chain(line.split(' ')).map(Into::into).collect();
            let expected = expected.map(|line| format!("sloth-runner {line}"));
            assert_eq!(meant(&args).map(|words| words.join(" ")), expected, "{line}");
        }
    }
}
