//! What the pages of the tool's own commands say beside the definition of the command line: exit codes and examples. The
//! agent's pages have both from its help.

use roff::{Roff, bold, roman};

/// An exit code, and what it means.
type Code = (&'static str, &'static str);
/// A command line, and what it does.
type Example = (&'static str, &'static str);

/// Of the program as a whole: also what `--help` ends with.
pub const CODES: [Code; 6] = [
    DONE,
    FAILED,
    USAGE,
    ("3", "not running: `master status`, `agent status`, `agent reconnect`"),
    CTRL_C,
    ("others", "`agent run` on one agent: the command's own, 128+n for signal n, 255 for none"),
];

const DONE: Code = ("0", "done");
const FAILED: Code = ("1", "failed");
const USAGE: Code = ("2", "usage or configuration");
const CTRL_C: Code = ("130", "after Ctrl-C");

const USUAL: &[Code] = &[DONE, FAILED, USAGE];
/// Of what goes on until it is ended.
const GOES_ON: &[Code] = &[DONE, FAILED, USAGE, CTRL_C];
const RUN: &[Code] = &[
    ("0 to 255", "the command's own, if it was one agent by name; 128+n where signal n ended it"),
    ("0", "several agents, as --label and --all are: all exited 0"),
    ("1", "several agents: not all exited 0, or none matched, or there was no master"),
    USAGE,
    ("130", "after Ctrl-C, which cancels the command"),
    ("255", "one agent: there is no code (no such agent, no master, refused, timed out, interrupted)"),
];

/// What stands in the page of a command.
struct Page {
    /// Without the program's name.
    command: &'static str,
    codes: &'static [Code],
    examples: &'static [Example],
}

const fn page(command: &'static str, codes: &'static [Code], examples: &'static [Example]) -> Page {
    Page { command, codes, examples }
}

const PAGES: &[Page] = &[
    page(
        "demo",
        &[("0", "every agent came back, and every command had its outcome"), ("1", "not so"), USAGE],
        &[("sloth-runner demo", "Half a minute on this machine, which needs nothing and leaves nothing")],
    ),
    page(
        "master start",
        &[("0", "ended as asked; with --daemon: started"), FAILED, USAGE],
        &[
            ("sloth-runner master start", "A master for agents of this machine"),
            ("sloth-runner master start --config fleet/master.toml --daemon", "One that `master init` has prepared"),
        ],
    ),
    page(
        "master stop",
        &[("0", "it has ended"), ("1", "failed; also where none runs"), USAGE],
        &[("sloth-runner master stop --config fleet/master.toml", "The one with this configuration")],
    ),
    page(
        "master status",
        &[("0", "it runs"), ("1", "that cannot be seen"), USAGE, ("3", "none runs")],
        &[("sloth-runner master status --config fleet/master.toml", "The one with this configuration")],
    ),
    page(
        "master check",
        &[("0", "it is right"), ("2", "it is not, or usage")],
        &[("sloth-runner master check --config fleet/master.toml", "What this sets, or what is wrong in it")],
    ),
    page(
        "master init",
        USUAL,
        &[(
            "sloth-runner master init --dir fleet --name master.example.com",
            "Certificates, configuration and tokens in ./fleet, for a master that agents reach by this name",
        )],
    ),
    page(
        "master operator-cert",
        USUAL,
        &[(
            "sloth-runner master operator-cert --config fleet/master.toml --name eva --dir .",
            "eva.pem and eva.key, by which Eva may do everything that this tool does",
        )],
    ),
    page(
        "master web",
        USUAL,
        &[("sloth-runner master web --config fleet/master.toml", "A link to the web page, good for one browser")],
    ),
    page(
        "master backup",
        USUAL,
        &[("sloth-runner master backup --config fleet/master.toml copy.db", "A copy that a master can start from")],
    ),
    page(
        "agent list",
        GOES_ON,
        &[
            ("sloth-runner agent list --status Inactive", "Who is lost"),
            ("sloth-runner agent list --label site=berlin -o json", "For programs"),
            ("sloth-runner agent list --watch", "As it changes"),
        ],
    ),
    page("agent get", USUAL, &[("sloth-runner agent get node1", "What is known of node1")]),
    page("agent explain", USUAL, &[("sloth-runner agent explain node1", "Why node1 is away, and what to do")]),
    page(
        "agent events",
        GOES_ON,
        &[
            ("sloth-runner agent events node1 --last 20", "The newest of one agent"),
            ("sloth-runner agent events --follow -o json", "All as they happen, a line of JSON each"),
        ],
    ),
    page("agent delete", USUAL, &[("sloth-runner agent delete node1 --force", "Also if it is connected")]),
    page("agent stop", USUAL, &[("sloth-runner agent stop node1", "It is Stopped, not lost, once it has ended")]),
    page(
        "agent run",
        RUN,
        &[
            ("sloth-runner agent run node1 -- uname -a", "Its output here, its exit code as this program's"),
            (
                "sloth-runner agent run --label site=berlin --shell 'df -h / | tail -1'",
                "A line for the shell, on several",
            ),
            ("sloth-runner agent run node1 --queue --expires 1d -- reboot", "As soon as node1 is back, today"),
        ],
    ),
    page(
        "command list",
        USUAL,
        &[("sloth-runner command list --agent node1 --outcome interrupted --since 7d", "What was cut short on node1")],
    ),
    page("command get", USUAL, &[("sloth-runner command get 01a2", "The one whose id begins so")]),
    page(
        "command logs",
        GOES_ON,
        &[("sloth-runner command logs 01a2 --follow", "Its output from the start, until it has ended")],
    ),
    page("command cancel", USUAL, &[("sloth-runner command cancel 01a2", "SIGTERM, and after a while SIGKILL")]),
    page(
        "token create",
        USUAL,
        &[
            (
                "sloth-runner token create --uses 1 --name node7 --file node7.token",
                "For one agent, in a file of its own",
            ),
            ("sloth-runner token create --role viewer --name dashboard", "For people or programs that only look"),
        ],
    ),
    page("token list", USUAL, &[("sloth-runner token list", "Which there are, and which are still good")]),
    page("token revoke", USUAL, &[("sloth-runner token revoke 1f2e3d4c5b6a", "The one with this id")]),
    page(
        "context add",
        USUAL,
        &[(
            "sloth-runner context add prod --master master.example.com:50050 --token-file operator.token",
            "Used from then on, if it is the first",
        )],
    ),
    page("context list", USUAL, &[("sloth-runner context list", "The one in use has a star")]),
    page("context use", USUAL, &[("sloth-runner context use prod", "Until another is chosen")]),
    page("context remove", USUAL, &[("sloth-runner context remove prod", "Its token stays good with the master")]),
    page(
        "support-bundle",
        USUAL,
        &[("sloth-runner support-bundle node1 --with-agent", "With what the agent itself says, if it is connected")],
    ),
    page("completions", USUAL, &[("sloth-runner completions fish", "For fish to read")]),
    page(
        "man",
        USUAL,
        &[
            ("sloth-runner man agent run", "One page, for `man -l -`"),
            ("sloth-runner man --dir .local/share/man/man1", "All of them"),
        ],
    ),
];

/// The exit codes as `--help` ends with them.
pub fn codes_of_help() -> String {
    let wide = CODES.iter().map(|(code, _)| code.len()).max().unwrap_or(0);
    let lines = CODES.iter().map(|(code, means)| format!("  {code:<wide$}  {means}"));
    lines.fold("Exit codes:".to_owned(), |text, line| text + "\n" + &line)
}

/// The sections of the command with this name, `agent-run`, and of the program if it is empty; none of one of the agent's.
/// What has commands below it shows an example of each.
pub fn of(command: &str) -> Option<String> {
    let (name, group) = (|page: &Page| page.command.replace(' ', "-"), format!("{command}-"));
    let below: Vec<_> = PAGES.iter().filter(|page| name(page).starts_with(&group)).collect();
    let (codes, examples) = match PAGES.iter().find(|page| name(page) == command) {
        Some(page) => (page.codes, page.examples.to_vec()),
        None if command.is_empty() => (&CODES[..], ["demo", "agent list", "agent run"].map(first_of).to_vec()),
        None if below.is_empty() => return None,
        None => (USUAL, below.iter().map(|page| page.examples[0]).collect()),
    };
    let mut text = Roff::new();
    text.control("SH", ["EXIT STATUS"]);
    for (code, means) in codes {
        text.control("TP", []).text([bold(*code)]).text([roman(*means)]);
    }
    text.control("SH", ["EXAMPLES"]);
    for (line, does) in examples {
        text.control("TP", []).text([bold(line)]).text([roman(does)]);
    }
    // The page has a head already.
    let text = text.render();
    Some(text[text.find(".SH").expect("it was just written")..].to_owned())
}

fn first_of(command: &str) -> Example {
    PAGES.iter().find(|page| page.command == command).expect("it is in the list").examples[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli, manual};

    /// The words of a line, as a shell takes them that has no quotes but single ones.
    fn words(line: &str) -> Vec<String> {
        let parts = line.split('\'').enumerate();
        parts
            .flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect()
    }

    #[test]
    fn every_example_is_a_command_line_of_its_page() {
        for Page { command, examples, .. } in PAGES {
            assert!(!examples.is_empty(), "{command}");
            for (line, _) in *examples {
                let words = words(line);
                assert_eq!(words[1..=command.split(' ').count()].join(" "), **command);
                cli::parse(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }

    #[test]
    fn every_command_of_the_tools_own_has_its_sections_and_no_other_has() {
        fn leaves(command: &clap::Command, before: &str, found: &mut Vec<String>) {
            for below in command.get_subcommands() {
                let name = format!("{before}{}", below.get_name());
                if below.has_subcommands() {
                    leaves(below, &format!("{name} "), found);
                } else {
                    found.push(name);
                }
            }
        }
        let mut found = Vec::new();
        leaves(&manual::built(), "", &mut found);
        found.retain(|name| {
            !["start", "status", "reconnect", "check", "doctor"].map(|its| format!("agent {its}")).contains(name)
        });
        let mut known: Vec<_> = PAGES.iter().map(|page| page.command).collect();
        found.sort();
        known.sort_unstable();
        assert_eq!(known, found);
        assert_eq!(of("agent-doctor"), None);
        for (name, part) in [("", "running: `master"), ("agent", "agent explain"), ("master-operator-cert", "eva.key")]
        {
            let text = of(name).unwrap();
            assert!(text.starts_with(".SH \"EXIT STATUS\"\n") && text.contains("\n.SH EXAMPLES\n"), "{text}");
            assert!(text.replace("\\-", "-").contains(part), "{text}");
        }
    }
}
