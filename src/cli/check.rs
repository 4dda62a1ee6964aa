//! `check`: the configuration as it would be used.

use std::fmt::Write;

use crate::config::Loaded;

/// What `check` prints about a configuration that holds.
pub(super) fn text(loaded: &Loaded) -> String {
    let Loaded { config, file, shown } = loaded;
    let masters: Vec<_> = config.masters.iter().map(ToString::to_string).collect();
    let file = file.as_ref().map_or_else(|| "none found".to_string(), |file| file.display().to_string());
    let log = match &config.log.file {
        Some(file) => file.display().to_string(),
        None => format!("standard error; with --daemon ./agent.log, else ./agent-{}.log", config.name),
    };
    let rows = [
        ("file", file),
        ("master", masters.join(", ")),
        ("state directory", config.state_dir.display().to_string()),
        ("log", log),
    ];
    let mut text = format!("The configuration of agent {} is good.\n", config.name);
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    for (title, value) in rows {
        line(format!("  {title:<16} {value}"));
    }
    if shown.is_empty() {
        line("Everything is at its default.".into());
        return text;
    }
    line("Set, with everything else at its default:".into());
    let rows: Vec<_> = shown.iter().map(|shown| (format!("{} = {}", shown.key, shown.value), &shown.origin)).collect();
    let width = rows.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0);
    for (setting, origin) in rows {
        line(format!("  {setting:<width$}  {origin}"));
    }
    text
}
