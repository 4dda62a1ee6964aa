//! Commands through a real master to real agents: rate, latency, output, what a command costs, and what is left of many.

#![expect(clippy::disallowed_methods, reason = "what is measured runs on the real clock")]

mod proxy;
mod rig;
mod series;

use crate::footprint::Machine;
use rig::Rig;
use series::{Cost, Latency, Leftover};
use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

pub struct Options {
    /// The master's binary.
    pub runner: PathBuf,
    pub agent: PathBuf,
    /// A folder on the disk that is to be measured.
    pub state: PathBuf,
    /// Of each series.
    pub length: Duration,
    /// Of the paced one, which looks for leaks.
    pub paced: Duration,
    /// Of output, bytes.
    pub output: u64,
}

/// Where nothing is ever written to a disk: an fsync there costs nothing.
const MEMORY: &str = "/dev/shm";

/// Commands at a time, where there are many.
const AT_A_TIME: usize = 64;
/// Agents, where there are many.
const AGENTS: usize = 8;
/// Commands a second on one agent, in the paced series.
const PACE: u32 = 200;

struct Found {
    /// Durable, and where durability costs nothing.
    disk: Rates,
    memory: Option<Rates>,
    one_by_one: Cost,
    many: Cost,
    /// MB/s; over a wire that breaks every second, and how often it broke.
    output: f64,
    broken: (f64, u64),
    paced: Paced,
}

struct Rates {
    one: Latency,
    one_agent: f64,
    many_agents: f64,
}

struct Paced {
    asked: u64,
    late: u64,
    agent: Leftover,
    master: Leftover,
}

/// Measures everything; the table in Markdown.
///
/// # Errors
/// A program cannot be started, or does not do what it should.
pub async fn measure(options: &Options) -> io::Result<String> {
    let rig = async |state: &Path, agents| Rig::start(&options.runner, &options.agent, state, agents).await;
    let disk = rates(&rig(&options.state, AGENTS).await?, options.length).await?;
    let memory = match Path::new(MEMORY).is_dir() {
        true => Some(rates(&rig(Path::new(MEMORY), AGENTS).await?, options.length).await?),
        false => None,
    };
    let one = rig(&options.state, 1).await?;
    let found = Found {
        disk,
        memory,
        one_by_one: series::cost(&one, 1, options.length).await?,
        many: series::cost(&one, AT_A_TIME, options.length).await?,
        output: series::output(&one, options.output).await?,
        broken: series::output_over_breaks(&one, options.output).await?,
        paced: paced(&rig(&options.state, 1).await?, options.paced).await?,
    };
    Ok(table(&found, options, &Machine::look()))
}

async fn rates(rig: &Rig, length: Duration) -> io::Result<Rates> {
    series::warm_up(rig).await?;
    Ok(Rates {
        one: series::one_by_one(rig, length).await?,
        one_agent: series::many(rig, 1, AT_A_TIME, length).await?,
        many_agents: series::many(rig, AGENTS, AT_A_TIME, length).await?,
    })
}

async fn paced(rig: &Rig, length: Duration) -> io::Result<Paced> {
    // What stays for good after the first ones is no leak.
    series::pace(rig, PACE, length / 4).await?;
    let before = (Leftover::look(rig.agent_pid(0))?, Leftover::look(rig.master_pid())?);
    let (asked, late) = series::pace(rig, PACE, length).await?;
    series::rest(rig).await?;
    let after = (Leftover::look(rig.agent_pid(0))?, Leftover::look(rig.master_pid())?);
    Ok(Paced { asked, late, agent: after.0.since(&before.0), master: after.1.since(&before.1) })
}

fn table(found: &Found, options: &Options, machine: &Machine) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    let Machine { date, kernel, processor, cores } = machine;
    let state = options.state.display();
    line(format!(
        "{date}; {cores} cores of {processor}; Linux {kernel}; state in {state}. Master, agents and the bench share them."
    ));
    line(String::new());
    line("| | durable | in memory |".to_owned());
    line("|---|---|---|".to_owned());
    let mut row = |what: &str, of: &dyn Fn(&Rates) -> f64, digits: usize| {
        let memory = found.memory.as_ref().map_or("–".to_owned(), |rates| format!("{:.digits$}", of(rates)));
        line(format!("| {what} | {:.digits$} | {memory} |", of(&found.disk)));
    };
    row("one after the other: commands a second", &|rates| rates.one.rate, 0);
    row("… from asking to the outcome, median, ms", &|rates| rates.one.median_ms, 2);
    row("… 99 of 100 within, ms", &|rates| rates.one.p99_ms, 2);
    row(&format!("{AT_A_TIME} at a time, one agent: commands a second"), &|rates| rates.one_agent, 0);
    row(&format!("{AT_A_TIME} at a time, {AGENTS} agents: commands a second"), &|rates| rates.many_agents, 0);
    line(String::new());
    line("| | |".to_owned());
    line("|---|---|".to_owned());
    for (how, cost) in [("one after the other", &found.one_by_one), (&*format!("{AT_A_TIME} at a time"), &found.many)] {
        for (who, of) in [("master", &cost.master), ("agent", &cost.agent)] {
            line(format!("| a command, {how}: fsyncs of the {who} | {} |", number(of.fsyncs)));
            line(format!("| … bytes that the {who} writes to its disk | {:.0} |", of.bytes));
        }
    }
    line(format!("| output of one command, followed, MB/s | {:.0} |", found.output));
    let (rate, breaks) = found.broken;
    line(format!(
        "| … over a wire between agent and master that breaks every second ({breaks} times), MB/s | {rate:.1} |"
    ));
    let Paced { asked, late, agent, master } = &found.paced;
    line(format!(
        "| {PACE} commands a second on one agent for {} s: asked for, began late | {asked}, {late} |",
        options.paced.as_secs()
    ));
    for (who, left) in [("agent", agent), ("master", master)] {
        line(format!(
            "| … left of them in the {who}: open files, children, own memory | {:+}, {:+}, {:+} KiB |",
            left.files, left.children, left.anonymous_kib
        ));
    }
    text
}

fn number(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}
