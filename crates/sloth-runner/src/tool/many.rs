//! `sloth-runner agent run` on several agents at once.

use super::{
    Tool, agents,
    connect::{Master, Trouble},
    ending::{self, Ending},
    follow::{Call, follow},
    id, json,
    output::{Budget, Collected, Nowhere, Prefixed},
    quote,
    run::{document, say_away, spec, start, written},
    say,
    table::printable,
    writer::{self, Writer},
};
use crate::cli::{Format, RunArgs, Status};
use proto::{GetRequest, ListRequest, RunStart};
use std::{collections::HashSet, sync::Arc};
use tokio::{sync::watch, task::JoinSet};
use tonic::Code;

/// On several agents there is no code of one command: not everything that was asked for was done, and well.
pub const FAILED: i32 = 1;

/// Several agents are asked for, even if it turns out to be one.
pub fn is_meant(args: &RunArgs) -> bool {
    args.all || !args.label.is_empty() || args.agents.len() > 1
}

/// Runs the command everywhere, at most `--max-parallel` at a time, and returns the exit code.
pub async fn run(tool: &Tool, args: &RunArgs, cancel: watch::Receiver<bool>) -> i32 {
    let strangers = strangers(&tool.master, &args.agents).await;
    if !strangers.is_empty() {
        super::fail(tool.format, &no_such(&strangers, args));
        return FAILED;
    }
    let agents = match targets(&tool.master, args).await {
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
            super::complain(format!("cannot start: {error}"));
            return FAILED;
        }
    };
    let mode = match (args.detach, tool.format) {
        (true, _) => Mode::Detach,
        (false, Format::Json) => Mode::Collect(Budget::default()),
        (false, Format::Table) => Mode::Show,
    };
    let total = agents.len();
    let results = everywhere(&tool.master, args, agents, mode, cancel, &writer).await;
    let answer = match (tool.format, args.detach) {
        (Format::Table, false) => String::new(),
        (Format::Table, true) => results.iter().filter_map(Run::started).collect(),
        (Format::Json, true) => json::document(&results.iter().map(Run::as_started).collect::<Vec<_>>()),
        (Format::Json, false) => json::document(&results.iter().map(Run::as_document).collect::<Vec<_>>()),
    };
    if !answer.is_empty() {
        let _ = writer.out(answer.into()).await;
    }
    let endings: Vec<(String, Ending)> = results.into_iter().map(|run| (run.agent, run.ending)).collect();
    let summary = if args.detach { ending::summary_of_started(&endings) } else { ending::summary(&endings) };
    writer.notice(summary).await;
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
    cancel: watch::Receiver<bool>,
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
            if let Some(why) = stop.clone().or_else(|| cancel.borrow().then(|| "cancelled before its turn".to_owned()))
            {
                results[at] = Some(Run::without_id(agent, Ending::NotStarted(format!("not started: {why}"))));
                continue;
            }
            let id = id::new();
            let start = id.map(|id| start(args, id, agent.clone(), spec(args, false)));
            let (master, mode) = (master.clone(), mode.clone());
            let (cancel, writer, wait) = (cancel.clone(), writer.clone(), args.wait);
            running.spawn(async move {
                let run = match start {
                    Ok(start) => {
                        if let Some(patience) = wait {
                            say_away(&master, &agent, patience, &writer).await;
                        }
                        single(&master, *start, mode, cancel, &writer).await
                    }
                    Err(error) => Run::without_id(agent, Ending::Failed(format!("no randomness for an id: {error}"))),
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

async fn single(master: &Master, start: RunStart, mode: Mode, cancel: watch::Receiver<bool>, writer: &Writer) -> Run {
    let (agent, id) = (start.agent.clone(), start.id.clone());
    let call = Call::Run(Box::new(start));
    let (ending, output) = match mode {
        Mode::Detach => (follow(master, call, None, cancel, &mut Nowhere(writer.clone())).await, None),
        Mode::Collect(budget) => {
            let mut collected = Collected::new(budget, writer.clone());
            let ending = follow(master, call, None, cancel, &mut collected).await;
            (ending, Some(collected))
        }
        Mode::Show => {
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
            Ending::Failed(why) | Ending::Never(why) | Ending::NotStarted(why) => Some(why.as_str()),
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

/// Names without repetition, in the order given; those found by label are in the master's order. With them the number of
/// those that were left out: an agent that said goodbye is no part of "all", one that is lost is.
async fn targets(master: &Master, args: &RunArgs) -> Result<(Vec<String>, usize), Trouble> {
    if args.agents.is_empty() {
        let labels = args.label.iter().cloned().collect();
        let rows = agents::list(master, ListRequest { labels, status: String::new() }).await?;
        let (stopped, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.status == Status::Stopped.word());
        return Ok((rest.into_iter().map(|row| row.name).collect(), stopped.len()));
    }
    let mut seen = HashSet::new();
    Ok((args.agents.iter().filter(|agent| seen.insert(agent.as_str())).cloned().collect(), 0))
}
