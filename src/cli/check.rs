//! `check`: the configuration as it would be used.

use std::fmt::Write;

use crate::{
    config::{Config, Loaded},
    credentials,
    transport::tls::{Own, Seconds, own_certificate},
};

/// What `check` prints about a configuration that holds.
pub(super) fn text(loaded: &Loaded) -> String {
    let Loaded { config, file, shown } = loaded;
    let masters: Vec<_> = config.masters.iter().map(ToString::to_string).collect();
    let file = file.as_ref().map_or_else(|| "none found".to_string(), |file| file.display().to_string());
    let log = match &config.log.file {
        Some(file) => file.display().to_string(),
        None => format!("standard error; with --daemon ./agent.log, else ./agent-{}.log", config.name),
    };
    let mut rows = vec![
        ("file", file),
        ("master", masters.join(", ")),
        ("state directory", config.state_dir.display().to_string()),
        ("log", log),
    ];
    rows.extend(certificate(config).map(|text| ("certificate", text)));
    rows.extend(config.token_gone.as_ref().map(|file| {
        ("token", format!("none, {} is not there: this agent has joined, and needs no token", file.display()))
    }));
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

/// What the agent would show a master, if anything.
fn certificate(config: &Config) -> Option<String> {
    let configured = config.tls.as_ref().filter(|tls| tls.cert_file.is_some());
    let own = match configured {
        Some(tls) => own_certificate(tls).map(|read| Own { from: read.not_before, to: read.not_after, joined: false }),
        None => match credentials::given(&config.state_dir) {
            Ok(given) => given,
            Err(text) => return Some(text),
        },
    }?;
    let from = if own.joined { "given for a token" } else { "tls.cert_file" };
    Some(own.ended().unwrap_or_else(|| format!("{from}, good until {}", Seconds(own.to))))
}
