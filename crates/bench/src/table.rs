//! The table of what was found, in Markdown. Pure.

use crate::{
    footprint::{Agent, Floor, Found, Machine},
    process::Memory,
    series::Quiet,
    strace::Calls,
};
use std::{fmt::Write, io, time::Duration};

/// One quantity of each program; None is what it does not have, or what could not be measured.
struct Row {
    what: String,
    plain: Option<f64>,
    tls: Option<f64>,
    floor: Option<f64>,
    /// Digits behind the point.
    digits: usize,
}

pub fn write(found: &Found, machine: &Machine) -> String {
    let mut text = String::new();
    let Machine { date, kernel, processor, cores } = machine;
    let shared = format!("{cores} {}", if *cores == 1 { "core" } else { "cores" });
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    line(format!("{date}; {shared} of {processor}; Linux {kernel}. The agent: {}.", found.binary.made_by));
    if let Some(floor) = &found.floor {
        line(format!("The floor, a tokio program that does nothing but wake as often: {}.", floor.binary.made_by));
    }
    line(String::new());
    line("| | plain | TLS | floor | TLS ÷ floor |".to_owned());
    line("|---|---|---|---|---|".to_owned());
    let rows = rows(found);
    for row in &rows {
        let shown = |value: Option<f64>| value.map_or("–".to_owned(), |value| number(value, row.digits));
        let ratio = row.tls.zip(row.floor.filter(|floor| *floor > 0.0)).map(|(tls, floor)| tls / floor);
        let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.1}"));
        line(format!("| {} | {} | {} | {} | {ratio} |", row.what, shown(row.plain), shown(row.tls), shown(row.floor)));
    }
    line(String::new());
    for note in notes(found) {
        line(format!("- {note}"));
    }
    text
}

fn rows(found: &Found) -> Vec<Row> {
    let (plain, tls, floor) = (&found.plain, &found.tls, found.floor.as_ref());
    let row = |what: &str, digits, agent: &dyn Fn(&Agent) -> Option<f64>, floor_is: &dyn Fn(&Floor) -> Option<f64>| {
        Row { what: what.to_owned(), plain: agent(plain), tls: agent(tls), floor: floor.and_then(floor_is), digits }
    };
    let memory = |what: &str, agent: &dyn Fn(&Agent) -> Memory, floor_is: &dyn Fn(&Floor) -> Option<Memory>| {
        PARTS.map(|(part, of)| {
            row(&format!("{what}: {part}, KiB"), 0, &|found| Some(of(agent(found))), &|found| floor_is(found).map(of))
        })
    };
    let quiet = |what: &str, digits, of: &dyn Fn(&Quiet) -> Option<f64>| {
        row(what, digits, &|agent| of(&agent.quiet), &|floor| of(&floor.quiet))
    };
    let count = |calls: &io::Result<Calls>, quiet: &Quiet| {
        calls.as_ref().ok().map(|calls| calls.values().sum::<u64>() as f64 / quiet.beats as f64)
    };
    let each = |value: u64, quiet: &Quiet| value as f64 / quiet.beats as f64;
    let carried_out = |count: &io::Result<u64>, quiet: &Quiet| count.as_ref().ok().map(|count| each(*count, quiet));
    let size = |bytes: u64| Some(bytes as f64);
    let mut rows = vec![row("binary, bytes", 0, &|_| size(found.binary.bytes), &|floor| size(floor.binary.bytes))];
    rows.extend(memory("idle", &|agent| agent.quiet.memory, &|floor| Some(floor.quiet.memory)));
    // What it does not do changes nothing.
    let idle = |floor: &Floor| Some(floor.quiet.memory);
    rows.extend(memory("a new connection and its handshake", &|agent| agent.burst.handshake, &idle));
    rows.extend(memory("while 50 MiB of output pass", &|agent| agent.burst.output, &idle));
    rows.extend(memory("after it", &|agent| agent.burst.after_output, &idle));
    let what = format!("after {} heartbeats", number(found.heartbeats as f64, 0));
    rows.extend(memory(&what, &|agent| agent.long.after, &|floor| Some(floor.long.after)));
    let grown = |before: Memory, after: Memory| Some(after.dirty as f64 - before.dirty as f64);
    rows.push(row(
        "… of these private and dirty, grown on the way, KiB",
        0,
        &|agent| grown(agent.long.before, agent.long.after),
        &|floor| grown(floor.long.before, floor.long.after),
    ));
    rows.extend(memory("after 20 s of refused connections", &|agent| agent.burst.after_outage, &idle));
    rows.push(quiet("threads, idle", 0, &|quiet| size(quiet.threads)));
    rows.push(quiet("wakeups a heartbeat", 2, &|quiet| Some(each(quiet.wakeups, quiet))));
    rows.push(row("system calls a heartbeat", 2, &|agent| count(&agent.calls, &agent.quiet), &|floor| {
        count(&floor.calls, &floor.quiet)
    }));
    rows.push(row(
        "instructions a heartbeat, without the kernel's",
        0,
        &|agent| carried_out(&agent.instructions, &agent.quiet),
        &|floor| carried_out(&floor.instructions, &floor.quiet),
    ));
    rows.push(quiet("CPU a heartbeat, µs", 0, &|quiet| Some(quiet.cpu.as_secs_f64() * 1e6 / quiet.beats as f64)));
    rows.push(quiet("CPU, %", 4, &|quiet| Some(percent(quiet.cpu, quiet.length))));
    let traffic = |of: fn(&crate::capture::Traffic) -> u64| {
        move |agent: &Agent| agent.quiet.traffic.as_ref().ok().map(|seen| each(of(seen), &agent.quiet))
    };
    rows.push(row("IP bytes a heartbeat with its ack", 1, &traffic(|seen| seen.bytes), &|_| Some(0.0)));
    rows.push(row("packets a heartbeat with its ack", 2, &traffic(|seen| seen.packets), &|_| Some(0.0)));
    rows
}

type Part = (&'static str, fn(Memory) -> f64);

const PARTS: [Part; 4] = [
    ("RSS", |memory| memory.rss as f64),
    ("PSS", |memory| memory.pss as f64),
    ("private and dirty", |memory| memory.dirty as f64),
    ("peak RSS", |memory| memory.peak as f64),
];

fn notes(found: &Found) -> Vec<String> {
    let quiet = &found.tls.quiet;
    let mut notes = vec![format!(
        "At rest: {} heartbeats at the default interval, after the first ones; every twelfth carries the node's status, \
         and has a helper thread look at the disk. Wakeups are of the main thread, CPU is of all.",
        quiet.beats
    )];
    if let Err(error) = &found.tls.instructions {
        notes.push(format!("Instructions could not be counted: valgrind: {error}."));
    }
    if let Err(error) = &quiet.traffic {
        notes.push(format!("Bytes and packets could not be counted: {error}; that needs root."));
    }
    match &found.tls.calls {
        Ok(calls) => notes.push(format!("System calls over TLS, of all these heartbeats: {}.", by_name(calls))),
        Err(error) => notes.push(format!("System calls could not be counted: strace: {error}.")),
    }
    if found.floor.is_some() {
        notes.push("Beside what only the agent does stands the floor's memory at rest.".to_owned());
    }
    let burst = |agent: &Agent| agent.burst.output_took.as_secs_f64();
    notes.push(format!(
        "50 MiB of output took {:.2} s plain, {:.2} s over TLS.",
        burst(&found.plain),
        burst(&found.tls)
    ));
    notes
}

fn by_name(calls: &Calls) -> String {
    let mut calls: Vec<_> = calls.iter().collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    calls.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn percent(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64() * 100.0
}

/// With commas between the thousands.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("-", text));
    let (whole, rest) = text.split_once('.').map_or((text, String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        for (value, digits, text) in [
            (0.0, 0, "0"),
            (999.0, 0, "999"),
            (1_000.0, 0, "1,000"),
            (2_000_112.4, 0, "2,000,112"),
            (-1_234.0, 0, "-1,234"),
            (0.00361, 4, "0.0036"),
            (1234.5, 1, "1,234.5"),
        ] {
            assert_eq!(number(value, digits), text);
        }
    }
}
