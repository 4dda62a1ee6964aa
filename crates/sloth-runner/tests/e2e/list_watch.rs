//! `agent list --watch`, in terminals and in pipes.

use crate::fleet::{Master, pty::Terminal, until};
use std::process::Command;

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What every picture begins and ends with.
const HOME: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[J\x1b[?2026l";

fn watching(master: &Master, env: &[(&str, &str)]) -> Terminal {
    let mut command: Command = master.tool_command(&["agent", "list", "--watch"]);
    command.env_remove("NO_COLOR").env("TERM", "xterm").envs(env.iter().copied());
    Terminal::start(command, 70, 12)
}

/// The lines of the last whole picture.
fn picture(terminal: &Terminal) -> Vec<String> {
    let text = terminal.text();
    let Some((before, _)) = text.rsplit_once(END) else { return Vec::new() };
    let (_, last) = before.rsplit_once(HOME).unwrap();
    // The terminal adds a return of its own.
    last.split("\r\r\n")
        .map(|line| line.strip_suffix("\x1b[K").unwrap_or_else(|| panic!("not cleared behind: {line:?}")).to_owned())
        .collect()
}

#[track_caller]
fn until_seen(terminal: &Terminal, what: &str, look: impl Fn(&[String]) -> bool) -> Vec<String> {
    until(what, || Some(picture(terminal)).filter(|lines| look(lines)))
}

/// The line of an agent has this word.
fn says<'a>(name: &'a str, word: &'a str) -> impl Fn(&[String]) -> bool + 'a {
    move |lines| lines.iter().any(|line| line.starts_with(name) && line.contains(word))
}

#[test]
fn the_list_changes_in_place_over_losses_and_a_restart_of_the_master() {
    let mut master = Master::start();
    let _kei = master.agent("kei");
    let mut terminal = watching(&master, &[]);
    let lines = until_seen(&terminal, "kei", says("kei", "\x1b[32mActive\x1b[0m"));
    assert!(lines[0].starts_with("1 agent: 1 Active"), "{lines:?}");
    let lady = master.agent("lady");
    until_seen(&terminal, "lady", says("lady", "Active"));
    drop(lady);
    let lines = until_seen(&terminal, "its loss", says("lady", "\x1b[31mInactive\x1b[0m"));
    assert!(lines[0].starts_with("2 agents: 1 Active, 1 Inactive"), "{lines:?}");

    terminal.resize(20, 4);
    let lines =
        until_seen(&terminal, "the smaller picture", |lines| lines.len() == 4 && lines[3].contains("… and 2 more"));
    assert!(lines[0].chars().count() < 20 && lines[0].starts_with("2 agents: 1 Active…"), "{lines:?}");
    terminal.resize(70, 12);

    master.kill();
    let lines = until_seen(&terminal, "the loss of the master", |lines| {
        lines.get(1).is_some_and(|l| l.contains("lost the master"))
    });
    assert!(says("kei", "Active")(&lines), "what was known stays: {lines:?}");
    master.again();
    until_seen(&terminal, "its return", |lines| lines[1].is_empty() && says("kei", "Active")(lines));

    terminal.types("\x03");
    let done = terminal.done();
    let text = done.text();
    assert_eq!(done.code, 130);
    assert_eq!((text.matches(ENTER).count(), text.matches(LEAVE).count()), (1, 1), "{text:?}");
    assert!(text.ends_with(LEAVE), "the terminal is as it was: {text:?}");
    assert!(text.starts_with(ENTER), "{text:?}");
}

#[test]
fn it_stands_still_with_ctrl_z_and_goes_on() {
    let master = Master::start();
    let _kei = master.agent("kei");
    let mut terminal = watching(&master, &[("NO_COLOR", "1")]);
    until_seen(&terminal, "kei", says("kei", "Active"));
    terminal.types("\x1a");
    until("the terminal is given back", || terminal.text().contains(LEAVE).then_some(()));
    terminal.signal(libc::SIGCONT);
    until("it is taken again", || {
        let text = terminal.text();
        text.rsplit_once(LEAVE).is_some_and(|(_, after)| after.contains(ENTER) && after.contains(END)).then_some(())
    });
    terminal.signal(libc::SIGTERM);
    let done = terminal.done();
    assert_eq!(done.code, 1);
    assert!(done.text().ends_with(LEAVE));
    assert!(!done.text().contains("\x1b[3"), "NO_COLOR: {:?}", done.text());
}

#[test]
fn a_dumb_terminal_and_a_pipe_get_lines() {
    let mut master = Master::start();
    let _kei = master.agent("kei");
    let dumb = watching(&master, &[("TERM", "dumb")]);
    let pipe = master.tool_started(&["agent", "list", "--watch"]);
    let json = master.tool_started(&["-o", "json", "agent", "list", "--watch"]);
    pipe.out.line("kei  Active since ");
    json.out.line("\"name\":\"kei\"");
    drop(master.agent("lady"));
    pipe.out.line("lady  Inactive since ");
    let row: serde_json::Value = serde_json::from_str(&json.out.line("\"status\":\"Inactive\"")).unwrap();
    assert_eq!(row["name"], "lady");
    master.again();
    pipe.err.line("lost the master at");
    pipe.err.line("back with the master");
    master.tool(&["agent", "delete", "lady"]).expect(0);
    pipe.out.line("lady  gone from the list");
    json.out.line("\"gone\":true");
    pipe.signal(libc::SIGINT);
    let done = pipe.done().expect(130);
    assert!(!done.text().contains('\x1b'));
    until("the dumb terminal has it, too", || dumb.text().contains("lady  gone from the list").then_some(()));
    dumb.signal(libc::SIGINT);
    let done = dumb.done();
    assert!(done.code == 130 && !done.text().contains('\x1b'), "{:?}", done.text());
}

#[test]
fn where_there_is_no_master_the_terminal_is_not_touched() {
    let mut master = Master::start();
    master.kill();
    let done = watching(&master, &[]).done();
    assert_eq!(done.code, 1);
    assert!(done.text().contains("cannot reach the master at ") && !done.text().contains(ENTER), "{:?}", done.text());
}
