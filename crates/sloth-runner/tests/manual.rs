//! Completions and manual pages, as shells and `man` take them.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sloth-runner");

fn tool(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Whether this machine has the program; with `SLOTH_TEST_ALL=1` it must.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(there || std::env::var_os("SLOTH_TEST_ALL").is_none(), "no {program} here");
    if !there {
        eprintln!("skipped: no {program} here");
    }
    there
}

fn script(shell: &str, folder: &Path) -> String {
    let output = tool(&["completions", shell]);
    assert!(output.status.success());
    let file = folder.join(shell);
    fs::write(&file, output.stdout).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What bash would offer for a line that ends with the word to complete.
fn bash_offers(script: &str, line: &str) -> BTreeSet<String> {
    let asked = format!(
        "source {script}\n\
         COMP_WORDS=({line} ''); [[ '{line}' == *' ' ]] || COMP_WORDS=({line})\n\
         COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         complete -p sloth-runner >/dev/null || exit 1\n\
         _sloth-runner sloth-runner \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    );
    let output = Command::new("bash").args(["--norc", "-c", &asked]).output().unwrap();
    assert!(output.status.success(), "{}", text(output.stderr));
    text(output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    if !has("bash") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = script("bash", folder.path());
    let checked = Command::new("bash").args(["-n", &script]).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", text(checked.stderr));
    let words = |list: &[&str]| -> BTreeSet<String> { list.iter().map(|word| (*word).to_owned()).collect() };
    assert_eq!(bash_offers(&script, "sloth-runner agent ex"), words(&["exec", "explain"]));
    assert_eq!(bash_offers(&script, "sloth-runner agent list --sta"), words(&["--status"]));
    assert_eq!(bash_offers(&script, "sloth-runner agent list --status "), words(&["Active", "Inactive", "Stopped"]));
    assert_eq!(bash_offers(&script, "sloth-runner completions f"), words(&["fish"]));
    assert_eq!(bash_offers(&script, "sloth-runner agent start --heartbeat-i"), words(&["--heartbeat-interval"]));
    let asked = format!("source {script}; complete -p sloth-agent");
    assert!(Command::new("bash").args(["--norc", "-c", &asked]).status().unwrap().success());
}

#[test]
fn no_option_is_offered_that_would_be_refused() {
    if !has("bash") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = script("bash", folder.path());
    let connection = ["--master", "--token", "--ca", "--cert", "--key", "--context"];
    let offered =
        |line: &str, option: &str| bash_offers(&script, &format!("sloth-runner {line} {option}")).contains(option);
    for line in ["master start", "master status", "master", "demo", "completions", "man"] {
        for option in connection {
            assert!(!offered(line, option), "{line} {option}");
        }
    }
    for line in ["master start", "master init", "master operator-cert", "demo", "completions", "agent start"] {
        assert!(!offered(line, "--output") && !offered(line, "-o"), "{line}");
    }
    for line in ["agent start", "agent status", "agent check", "agent doctor", "agent reconnect"] {
        for option in ["--context", "--ca", "--cert", "--key"] {
            assert!(!offered(line, option), "{line} {option}");
        }
    }
    for (line, options) in [
        ("", &["--master", "--token", "--ca", "--cert", "--key", "--context", "--output", "--version"][..]),
        ("agent", &["--master", "--context", "--output"]),
        ("agent run", &["--master", "--context", "--output", "--label", "--queue"]),
        ("agent exec", &["--master", "--detach"]),
        ("agent start", &["--master", "--token", "--name", "--daemon"]),
        ("agent status", &["--output", "--name", "--history"]),
        ("agent stop", &["--master", "--output", "--name", "--state-dir", "--config"]),
        ("master status", &["--output", "--state-dir"]),
        ("master start", &["--listen", "--insecure", "--daemon", "--help"]),
        ("context add", &["--master", "--token-file", "--output"]),
    ] {
        for option in options {
            assert!(offered(line, option), "{line} {option}");
        }
    }
}

#[test]
fn zsh_and_fish_take_their_scripts() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["zsh", "fish"] {
        let script = script(shell, folder.path());
        if has(shell) {
            let checked = Command::new(shell).args(["-n", &script]).output().unwrap();
            assert!(checked.status.success() && checked.stderr.is_empty(), "{shell}: {}", text(checked.stderr));
        }
    }
    if has("fish") {
        let asked = format!("source {}; complete -C 'sloth-runner agent expl'", folder.path().join("fish").display());
        let output = Command::new("fish").args(["--no-config", "-c", &asked]).output().unwrap();
        assert!(text(output.stdout).starts_with("explain\t"));
    }
}

#[test]
fn every_command_has_a_page_that_man_shows_without_a_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("made/here");
    let written = tool(&["man", "--dir", pages.to_str().unwrap()]);
    assert!(written.status.success(), "{}", text(written.stderr));
    let names: BTreeSet<String> =
        fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(text(written.stdout).starts_with(&format!("{} pages", names.len())));
    // From the help, which is made another way.
    let mut expected = BTreeSet::from(["sloth-runner.1".to_owned()]);
    for word in commands(&[]) {
        expected.insert(format!("sloth-runner-{word}.1"));
        expected.extend(commands(&[&word]).iter().map(|below| format!("sloth-runner-{word}-{below}.1")));
    }
    expected.insert("sloth-agent.1".to_owned());
    expected.extend(
        ["start", "stop", "status", "reconnect", "check", "doctor"].map(|word| format!("sloth-agent-{word}.1")),
    );
    assert_eq!(names, expected);
    let start = fs::read_to_string(pages.join("sloth-runner-agent-start.1")).unwrap();
    assert!(start.contains("heartbeat\\-interval") && !start.contains("SLOTH_RUNNER_CERT"), "{start}");
    assert!(names.contains("sloth-runner-agent-run.1"));
    let run = fs::read_to_string(pages.join("sloth-runner-agent-run.1")).unwrap();
    assert_eq!(run, text(tool(&["man", "agent", "exec"]).stdout), "a page is the same by an alias, and printed");
    // The agent's own say it in their help.
    let version = format!("\"Version {}\"", env!("CARGO_PKG_VERSION"));
    for name in &names {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        assert!(page.lines().any(|line| line.starts_with(".TH ") && line.contains(&version)), "{name}: {page}");
        let parts = ["EXIT STATUS", "EXAMPLES"]
            .map(|title| page.contains(&format!("\n.SH \"{title}\"\n")) || page.contains(&format!("\n.SH {title}\n")));
        let agents = name.starts_with("sloth-agent") || page.contains("Exit codes:");
        assert!(parts == [!agents; 2], "{name}: {page}");
    }
    if !has("man") {
        return;
    }
    for name in names {
        let shown = Command::new("man")
            .args(["--warnings", "--encoding=UTF-8", "--local-file"])
            .arg(pages.join(&name))
            .envs([("MANWIDTH", "80"), ("LC_ALL", "C.UTF-8")])
            .output()
            .unwrap();
        let (page, complaints) = (text(shown.stdout), text(shown.stderr));
        assert!(shown.status.success() && complaints.is_empty(), "{name}: {complaints}");
        assert!(page.contains("NAME\n") && page.contains("SYNOPSIS\n"), "{name}: {page}");
    }
}

/// The commands that the help shows below these words.
fn commands(words: &[&str]) -> Vec<String> {
    let help = text(tool(&[words, &["--help"]].concat()).stdout);
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = list
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn what_there_is_no_page_of_is_said() {
    let output = tool(&["man", "agent", "rum"]);
    assert_eq!((output.status.code(), text(output.stdout).as_str()), (Some(2), ""));
    assert_eq!(text(output.stderr), "sloth-runner: no command \"rum\": `sloth-runner agent --help` shows all\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = tool(&["man", "--dir", file.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(output.stderr).contains("cannot write manual pages to "));
}
