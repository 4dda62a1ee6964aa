use super::*;
use std::time::Duration;

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
    for line in
        ["master start -o json", "-o json demo", "man -o json", "-o json agent check", "-o json agent start --name a"]
    {
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

#[test]
fn how_to_talk_to_a_master_stands_behind_a_commands_own_options() {
    for line in ["agent run --help", "token create --help", "command list --help"] {
        let help = parse(line).unwrap_err().to_string();
        let (own, connection) = help.split_once("\nConnection:\n").unwrap_or_else(|| panic!("{line}: {help}"));
        for flag in ["--master", "--token", "--ca", "--cert", "--key", "--context"] {
            let listed = format!("{flag} <");
            assert!(connection.contains(&listed) && !own.contains(&listed), "{line}: {flag}: {help}");
        }
        assert!(own.contains("--output <") && !connection.contains("--output <"), "{line}: {help}");
    }
    assert!(!parse("master status --help").unwrap_err().to_string().contains("Connection"));
}

#[test]
fn a_token_of_people_has_neither_uses_nor_labels() {
    for (line, flag) in
        [("token create --role viewer --uses 2", "--uses"), ("token create --role operator --label a=b", "--label")]
    {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(&format!("{flag} is for tokens of agents: leave it away")), "{error}");
    }
    parse("token create --uses 2 --label a=b").unwrap();
    parse("token create --role viewer --name eva").unwrap();
}

/// Commands below this one that `-o json` is for, as they are typed.
fn with_json(command: &clap::Command, words: &str, found: &mut Vec<String>) {
    for known in command.get_subcommands().filter(|known| known.get_name() != "help") {
        let words = format!("{words} {}", known.get_name()).trim_start().to_owned();
        let shown = known.get_arguments().any(|arg| arg.get_id() == "output" && !arg.is_hide_set());
        if known.has_subcommands() {
            with_json(known, &words, found);
        } else if shown {
            found.push(words);
        }
    }
}

#[test]
fn every_command_with_json_stands_in_the_table_of_what_it_prints() {
    let text = include_str!("../../../../docs/operating.md");
    let table = text.split("\n## JSON\n").nth(1).unwrap();
    let first: String = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let mut definition = definition();
    definition.build();
    let mut found = Vec::new();
    with_json(&definition, "", &mut found);
    assert!(found.iter().any(|command| command == "master check"), "{found:?}");
    let text_alone = ["agent start", "agent reconnect", "agent check"];
    let missing: Vec<_> = found
        .iter()
        .filter(|words| !text_alone.contains(&words.as_str()) && !first.contains(&format!("`{words}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
