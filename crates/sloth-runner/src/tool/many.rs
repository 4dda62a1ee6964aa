//! `sloth-runner agent run` on several agents at once.

use super::{
    Tool, agents,
    connect::{Master, Trouble},
    ending::{self, Ending},
    follow::{Call, follow},
    id, json,
    output::{Budget, Collected, Nowhere, Prefixed},
    quote,
    run::{document, left, say_away, spec, start, written},
    say,
    signals::Leaving,
    table::printable,
    writer::{self, Writer},
};
use crate::cli::{Format, RunArgs, Status};
use proto::{GetRequest, ListRequest, RunStart};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{select, sync::watch, task::JoinSet};
use tonic::Code;

/// On several agents there is no code of one command: not everything that was asked for was done, and well.
pub const FAILED: i32 = 1;

/// Several agents are asked for, even if it turns out to be one.
pub fn is_meant(args: &RunArgs) -> bool {
    args.all || !args.label.is_empty() || args.agents.len() > 1
}

/// Runs the command everywhere, at most `--max-parallel` at a time, and returns the exit code.
pub async fn run(tool: &Tool, args: &RunArgs, cancel: watch::Receiver<bool>, mut leaving: Leaving) -> i32 {
    let strangers = select! {
        strangers = strangers(&tool.master, &args.agents) => strangers,
        _ = leaving.wished() => {
            let runs = none_begun(&args.agents, |_| Ending::NotStarted("not started: left before".to_owned()));
            super::print(&answer(tool.format, args.detach, &runs));
            return FAILED;
        }
    };
    if !strangers.is_empty() {
        let why = no_such(&strangers, args);
        let runs = none_begun(&args.agents, |agent| match strangers.contains(agent) {
            true => Ending::Never(why.clone()),
            false => Ending::NotStarted(format!("not started: {why}")),
        });
        super::print(&answer(tool.format, args.detach, &runs));
        super::complain(why);
        return FAILED;
    }
    let targets = select! {
        targets = targets(&tool.master, args) => targets,
        _ = leaving.wished() => {
            super::print(&json::error("left before the master said which agents there are: nothing was begun"));
            return FAILED;
        }
    };
    let agents = match targets {
        Ok((agents, stopped)) => {
            if stopped > 0 {
                say(&format!("{stopped} stopped {} skipped", if stopped == 1 { "agent" } else { "agents" }));
            }
            if agents.is_empty() {
                let wish = match args.all {
                    true => "--all".to_owned(),
                    false => args
                        .label
                        .iter()
                        .map(|(key, value)| format!("--label {key}={value}"))
                        .collect::<Vec<_>>()
                        .join(" "),
                };
                let why = format!(
                    "no agent matches {wish}, so nothing was run; `sloth-runner agent list` shows all with their status"
                );
                super::fail(tool.format, &why);
                return FAILED;
            }
            agents
        }
        Err(trouble) => {
            super::fail(tool.format, &trouble.to_string());
            return FAILED;
        }
    };
    let (writer, end) = match writer::standard() {
        Ok(both) => both,
        Err(error) => {
            super::fail(tool.format, &format!("cannot start: {error}"));
            return FAILED;
        }
    };
    let mode = match (args.detach, tool.format) {
        (true, _) => Mode::Detach,
        (false, Format::Json) => Mode::Collect(Budget::default()),
        (false, Format::Table) => Mode::Show,
    };
    let total = agents.len();
    let results = everywhere(&tool.master, args, agents, mode, (cancel, leaving), &writer).await;
    let answer = answer(tool.format, args.detach, &results);
    if !answer.is_empty() {
        let _ = writer.out(answer.into()).await;
    }
    let endings: Vec<(String, Ending)> = results.into_iter().map(|run| (run.agent, run.ending)).collect();
    let left = endings.iter().any(|(_, ending)| matches!(ending, Ending::Left(_)));
    match args.detach {
        // Whether these were started is not known, and that was told.
        true if left => {}
        true => writer.notice(ending::summary_of_started(&endings)).await,
        false => writer.notice(ending::summary(&endings)).await,
    }
    drop(writer);
    let meanwhile = || {
        let ended = endings.iter().filter(|(_, ending)| !matches!(ending, Ending::OutputGone { .. })).count();
        format!(
            "{ended} of {total} have ended, what else was begun goes on, and nothing more is begun; see `sloth-runner \
             command list`"
        )
    };
    written(end.finish().await, ending::exit_code_of_all(&endings), FAILED, meanwhile)
}

/// What is printed at the end.
fn answer(format: Format, detach: bool, results: &[Run]) -> String {
    match (format, detach) {
        (Format::Table, false) => String::new(),
        (Format::Table, true) => results.iter().filter_map(Run::started).collect(),
        (Format::Json, true) => json::document(&results.iter().map(Run::as_started).collect::<Vec<_>>()),
        (Format::Json, false) => json::document(&results.iter().map(Run::as_document).collect::<Vec<_>>()),
    }
}

/// What became of it on one agent.
struct Run {
    agent: String,
    id: String,
    ending: Ending,
    output: Option<Collected>,
}

#[derive(Clone)]
enum Mode {
    Show,
    Collect(Budget),
    Detach,
}

/// Results in the order of `agents`.
async fn everywhere(
    master: &Arc<Master>,
    args: &RunArgs,
    agents: Vec<String>,
    mode: Mode,
    (cancel, leaving): (watch::Receiver<bool>, Leaving),
    writer: &Writer,
) -> Vec<Run> {
    let total = agents.len();
    let mut results: Vec<Option<Run>> = std::iter::repeat_with(|| None).take(total).collect();
    let (mut done, mut failures) = (0, 0);
    // Why nothing more is begun.
    let mut stop: Option<String> = None;
    // Why the master would not begin it, said already: the summary names whom else that concerns.
    let mut refusals = HashSet::new();
    let mut running = JoinSet::new();
    let mut waiting = agents.into_iter().enumerate();
    loop {
        while running.len() < usize::from(args.max_parallel)
            && let Some((at, agent)) = waiting.next()
        {
            let left = || leaving.wish().is_some().then(|| "left before its turn".to_owned());
            let cancelled = || cancel.borrow().then(|| "cancelled before its turn".to_owned());
            if let Some(why) = stop.clone().or_else(left).or_else(cancelled) {
                results[at] = Some(Run::without_id(agent, Ending::NotStarted(format!("not started: {why}"))));
                continue;
            }
            let id = id::new();
            let start = id.map(|id| start(args, id, agent.clone(), spec(args, false)));
            let (master, mode) = (master.clone(), mode.clone());
            let (watched, writer, wait) = ((cancel.clone(), leaving.clone()), writer.clone(), args.wait);
            running.spawn(async move {
                let run = match start {
                    Ok(start) => single(&master, *start, wait, mode, watched, &writer).await,
                    Err(error) => Run::without_id(agent, Ending::Never(format!("no randomness for an id: {error}"))),
                };
                (at, run)
            });
        }
        if !running.is_empty() {
            writer.progress(match failures {
                0 => format!("{done}/{total} done, {} running", running.len()),
                _ => format!("{done}/{total} done, {failures} of them failed, {} running", running.len()),
            });
        }
        let Some(joined) = running.join_next().await else { break };
        let (at, run) = joined.expect("these tasks are not aborted, and a panic goes on");
        done += 1;
        let again = matches!(&run.ending, Ending::Never(why) if !refusals.insert(why.clone()));
        if let Some(complaint) = run.ending.complaint().filter(|_| !again) {
            writer.notice(format!("{}: {}", run.agent, printable(&complaint))).await;
        }
        if run.ending.exit_code() != 0 {
            failures += 1;
            if args.fail_fast && stop.is_none() {
                stop = Some(format!("it failed on {} before (--fail-fast)", run.agent));
            }
        }
        let gone = matches!(run.ending, Ending::OutputGone { .. });
        results[at] = Some(run);
        if gone {
            // Nobody looks any more: what runs is left alone, what does not is not begun.
            break;
        }
    }
    writer.progress(String::new());
    results.into_iter().flatten().collect()
}

async fn single(
    master: &Master,
    start: RunStart,
    wait: Option<Duration>,
    mode: Mode,
    (cancel, mut leaving): (watch::Receiver<bool>, Leaving),
    writer: &Writer,
) -> Run {
    let (agent, id) = (start.agent.clone(), start.id.clone());
    let call = Call::Run(Box::new(start));
    let told_as = id.clone();
    let left = async move {
        let wish = leaving.wished().await;
        Ending::Left(left(&told_as, false, false, master.met(), wish))
    };
    let told_away = async {
        if let Some(patience) = wait {
            say_away(master, &agent, patience, writer).await;
        }
    };
    let (ending, output) = match mode {
        Mode::Detach => {
            let mut nowhere = Nowhere(writer.clone());
            let followed = async {
                told_away.await;
                follow(master, call, None, cancel, &mut nowhere).await
            };
            let ending = select! { ending = followed => ending, ending = left => ending };
            (ending, None)
        }
        Mode::Collect(budget) => {
            let mut collected = Collected::new(budget, writer.clone());
            let followed = async {
                told_away.await;
                follow(master, call, None, cancel, &mut collected).await
            };
            let ending = select! { ending = followed => ending, ending = left => ending };
            (ending, Some(collected))
        }
        Mode::Show => {
            told_away.await;
            let mut lines = Prefixed::new(&agent, writer.clone());
            let ending = follow(master, call, None, cancel, &mut lines).await;
            match lines.finish().await {
                Ok(()) => (ending, None),
                Err(_) => (Ending::OutputGone { stdin_unfinished: false }, None),
            }
        }
    };
    Run { agent, id, ending, output }
}

impl Run {
    fn without_id(agent: String, ending: Ending) -> Self {
        Self { agent, id: String::new(), ending, output: None }
    }

    fn started(&self) -> Option<String> {
        matches!(self.ending, Ending::Detached(_)).then(|| format!("{} {}\n", self.agent, self.id))
    }

    fn as_started(&self) -> json::Started<'_> {
        let error = match &self.ending {
            Ending::Failed(why) | Ending::Never(why) | Ending::NotStarted(why) | Ending::Left(why) => {
                Some(why.as_str())
            }
            _ => None,
        };
        let id = (!matches!(self.ending, Ending::Never(_) | Ending::NotStarted(_))).then_some(self.id.as_str());
        json::Started { agent: &self.agent, id, error }
    }

    fn as_document(&self) -> json::CommandWithOutput<'_> {
        document(&self.id, &self.agent, &self.ending, self.output.as_ref())
    }
}

/// Of the agents that were named, those that the master does not know: a mistake in one of the names, or a line for the
/// shell that nobody quoted, must not begin anything. Where the master does not answer, the runs themselves say so.
async fn strangers(master: &Arc<Master>, agents: &[String]) -> Vec<String> {
    const AT_ONCE: usize = 50;
    let mut strangers = Vec::new();
    for some in agents.chunks(AT_ONCE) {
        let mut asked: Vec<_> = Vec::with_capacity(some.len());
        for name in some {
            let (master, name) = (master.clone(), name.clone());
            asked.push(tokio::spawn(async move {
                let request = GetRequest { name: name.clone() };
                let answer = master.call(async move |mut client| client.get(request).await).await;
                matches!(answer, Err(Trouble::Answer { code: Code::NotFound, .. })).then_some(name)
            }));
        }
        for answer in asked {
            strangers.extend(answer.await.expect("these tasks are not aborted, and a panic goes on"));
        }
    }
    strangers
}

fn no_such(strangers: &[String], args: &RunArgs) -> String {
    let names: Vec<String> = strangers.iter().map(|name| format!("{name:?}")).collect();
    let names = names.join(", ");
    let agents = if strangers.len() == 1 { "agent" } else { "agents" };
    let line = args.shell.as_ref().map(|line| format!("{line} {}", strangers.join(" ")));
    let hint = line
        .map_or_else(String::new, |line| format!("; if that belongs to the line, quote it: --shell {}", quote(&line)));
    format!("no {agents} {names}, so nothing was run: `sloth-runner agent list` shows all{hint}")
}

/// Nothing was begun on those that were named, each for its reason.
fn none_begun(named: &[String], ending: impl Fn(&String) -> Ending) -> Vec<Run> {
    unrepeated(named).into_iter().map(|agent| Run::without_id(agent.clone(), ending(agent))).collect()
}

fn unrepeated(names: &[String]) -> Vec<&String> {
    let mut seen = HashSet::new();
    names.iter().filter(|name| seen.insert(name.as_str())).collect()
}

/// Names without repetition, in the order given; those found by label are in the master's order. With them the number of
/// those that were left out: an agent that said goodbye is no part of "all", one that is lost is.
async fn targets(master: &Master, args: &RunArgs) -> Result<(Vec<String>, usize), Trouble> {
    if args.agents.is_empty() {
        let labels = args.label.iter().cloned().collect();
        let rows = agents::list(master, ListRequest { labels, status: String::new() }).await?;
        let (stopped, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.status == Status::Stopped.word());
        return Ok((rest.into_iter().map(|row| row.name).collect(), stopped.len()));
    }
    Ok((unrepeated(&args.agents).into_iter().cloned().collect(), 0))
}
