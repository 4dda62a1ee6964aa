//! `sloth-runner agent run`: on one agent. [`super::many`] has several.

use super::{
    Tool, agents, complain,
    connect::Master,
    ending::{Ending, INTERRUPTED, NO_CODE, without_output},
    fail,
    follow::{Call, follow},
    id, json, many,
    output::{Budget, Collected, Nowhere, Raw},
    say,
    signals::{Leaving, Signals, Wish, end_at_once},
    stdin,
    time::span,
    writer::{self, Writer},
};
use crate::cli::{Format, RunArgs};
use proto::{CommandSpec, GetRequest, RunStart};
use sloth_agent::config::describe;
use std::{
    io::{self, IsTerminal},
    os::unix::ffi::{OsStrExt, OsStringExt},
    time::Duration,
};
use tokio::{select, sync::watch};

pub async fn run(tool: &Tool, args: RunArgs) -> i32 {
    let several = many::is_meant(&args);
    if several && args.id.is_some() {
        fail(tool.format, "--id names one command, and each of several agents has its own: leave it away");
        return 2;
    }
    let no_code = if several { many::FAILED } else { NO_CODE };
    let (mut signals, id) = match Signals::new().and_then(|signals| Ok((signals, id::new()?))) {
        Ok(both) => both,
        Err(error) => {
            fail(tool.format, &format!("cannot start: {error}"));
            return no_code;
        }
    };
    let id = args.id.clone().unwrap_or(id);
    let stdin_unused = stdin_unused(&args, several);
    let told = stdin_unused.filter(|_| stdin::has_unread());
    told.inspect(|why| say(&stdin_left(why)));
    let (ask_to_cancel, cancel) = watch::channel(false);
    let (had_to_leave, leaving) = Leaving::new();
    let work = async {
        if several {
            many::run(tool, &args, cancel, leaving).await
        } else {
            one(tool, &args, id.clone(), cancel, leaving).await
        }
    };
    tokio::pin!(work);
    let wish = select! {
        code = &mut work => {
            // What feeds a pipe may have been slower than the first look.
            stdin_unused.filter(|_| told.is_none() && stdin::has_unread()).inspect(|why| say(&stdin_left(why)));
            return if *ask_to_cancel.borrow() { INTERRUPTED } else { code };
        }
        wish = leave(&mut signals, &ask_to_cancel) => wish,
    };
    complain(left(&id, several, is_fed(&args, several), tool.master.met(), wish));
    if tool.format == Format::Json {
        // A program waits for a document, with what is known by now.
        end_at_once();
        had_to_leave.send_replace(Some(wish));
        work.await;
    }
    if wish == Wish::Interrupt { INTERRUPTED } else { no_code }
}

/// Whether there may be standard input for the command.
pub fn is_fed(args: &RunArgs, several: bool) -> bool {
    !(several || args.no_stdin || args.detach || args.queue || io::stdin().is_terminal())
}

/// What becomes of what is left before its end. `fed`: the command has standard input; `met`: the master has answered.
pub fn left(id: &str, several: bool, fed: bool, met: bool, wish: Wish) -> String {
    let cancel = if several { "ID" } else { id };
    let look = match (several, met) {
        (true, _) => "command list".to_owned(),
        (false, true) => format!("command logs {id} --follow"),
        (false, false) => format!("command get {id}"),
    };
    let what = match wish {
        _ if !met && several => "leaving; the master has not answered: it is not known what it has taken",
        _ if !met => "leaving; the master has not answered: it is not known whether it has taken the command",
        Wish::Interrupt => {
            return format!(
                "leaving without its outcome; to look at it: sloth-runner {look}; if the master has not heard of the \
                 cancelling: sloth-runner command cancel {cancel}"
            );
        }
        Wish::Leave if several => "leaving; what was begun goes on",
        Wish::Leave if fed => "leaving; it goes on, unless its standard input is unfinished",
        Wish::Leave => "leaving; it goes on",
    };
    format!("{what}; to look at it: sloth-runner {look}")
}

/// Why the command gets no standard input although nobody asked for that: with `-n` somebody did.
fn stdin_unused(args: &RunArgs, several: bool) -> Option<&'static str> {
    match (args.no_stdin, args.detach, several) {
        (true, ..) => None,
        _ if args.queue => Some("--queue"),
        (_, true, _) => Some("--detach"),
        (.., true) => Some("several agents"),
        _ => None,
    }
}

fn stdin_left(why: &str) -> String {
    format!("standard input is not read: a command has none with {why} (-n says that you know)")
}

/// What is to run, the same on every agent.
pub fn spec(args: &RunArgs, stdin: bool) -> CommandSpec {
    let bytes = |text: &std::ffi::OsString| text.clone().into_vec();
    CommandSpec {
        argv: args.command.iter().map(bytes).collect(),
        shell: args.shell.clone().unwrap_or_default(),
        env: args.env.iter().map(bytes).collect(),
        dir: args.dir.as_ref().map(|dir| dir.as_bytes().to_vec()).unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        timeout_ms: args.timeout.map(millis).unwrap_or_default(),
        stdin,
    }
}

/// The request for one agent.
pub fn start(args: &RunArgs, id: String, agent: String, spec: CommandSpec) -> Box<RunStart> {
    let from_offset = if args.detach { u64::MAX } else { 0 };
    Box::new(RunStart {
        id,
        agent,
        spec: Some(spec),
        from_offset,
        wait_ms: args.wait.map(millis).unwrap_or_default(),
        queue: args.queue,
        expires_ms: args.expires.map(millis).unwrap_or_default(),
    })
}

/// The exit code, when what was printed had this end. `code_when_gone` and what `meanwhile` says, if it could not be
/// printed: a command that goes on, or did its work, must not do so unnoticed.
pub fn written(result: io::Result<()>, code: i32, code_when_gone: i32, meanwhile: impl FnOnce() -> String) -> i32 {
    match result {
        Ok(()) => code,
        Err(error) => {
            complain(format!("output can no longer be written: {}; {}", describe(&error), meanwhile()));
            code_when_gone
        }
    }
}

/// Ends when somebody wants to leave at once. The first Ctrl-C only cancels.
async fn leave(signals: &mut Signals, ask_to_cancel: &watch::Sender<bool>) -> Wish {
    loop {
        match signals.next().await {
            Wish::Interrupt if !ask_to_cancel.send_replace(true) => {
                say("cancelling; Ctrl-C again leaves at once");
            }
            wish => return wish,
        }
    }
}

async fn one(tool: &Tool, args: &RunArgs, id: String, cancel: watch::Receiver<bool>, mut leaving: Leaving) -> i32 {
    let stdin = if args.no_stdin || args.detach || args.queue { Ok(None) } else { stdin::standard() };
    let (stdin, (writer, end)) = match stdin.and_then(|stdin| Ok((stdin, writer::standard()?))) {
        Ok(both) => both,
        Err(error) => {
            fail(tool.format, &format!("cannot start: {error}"));
            return NO_CODE;
        }
    };
    let agent = args.agents[0].clone();
    let told_away = async {
        if let Some(patience) = args.wait {
            say_away(&tool.master, &agent, patience, &writer).await;
        }
    };
    let call = Call::Run(start(args, id.clone(), agent.clone(), spec(args, stdin.is_some())));
    let (ending, answer) = match tool.format {
        Format::Table => {
            told_away.await;
            let ending = match args.detach {
                true => follow(&tool.master, call, None, cancel, &mut Nowhere(writer.clone())).await,
                false => follow(&tool.master, call, stdin, cancel, &mut Raw(writer.clone())).await,
            };
            let id = if let Ending::Detached(row) = &ending { format!("{}\n", row.id) } else { String::new() };
            (ending, id)
        }
        Format::Json => {
            let mut collected = Collected::new(Budget::default(), writer.clone());
            let followed = async {
                told_away.await;
                follow(&tool.master, call, stdin, cancel, &mut collected).await
            };
            let ending = select! {
                ending = followed => ending,
                wish = leaving.wished() => {
                    Ending::Left(left(&id, false, is_fed(args, false), tool.master.met(), wish))
                }
            };
            let answer = match args.detach {
                true => json::document(&command(&id, &agent, &ending)),
                false => json::document(&document(&id, &agent, &ending, Some(&collected))),
            };
            (ending, answer)
        }
    };
    tell(&writer, &ending, answer).await;
    drop(writer);
    written(end.finish().await, ending.exit_code(), NO_CODE, || without_output(&id, &ending))
}

/// Says that an agent is away and is waited for, where that is so: silence would look like a command that hangs.
pub async fn say_away(master: &Master, agent: &str, patience: Duration, writer: &Writer) {
    let name = agent.to_owned();
    // Where this fails the run itself says why.
    let Ok(row) = master.call(async move |mut client| client.get(GetRequest { name }).await).await else { return };
    if let Some(away) = agents::away(&row) {
        let patience = span(patience);
        writer.notice(format!("{away}: waiting up to {patience} for its return")).await;
    }
}

/// A command as JSON has it, whatever became of it.
fn command<'a>(id: &'a str, agent: &'a str, ending: &'a Ending) -> json::Command<'a> {
    match ending {
        Ending::Finished(row) | Ending::Detached(row) => json::command(row),
        Ending::Failed(why) | Ending::Left(why) => json::command_without_row(Some(id), agent, why),
        Ending::Never(why) | Ending::NotStarted(why) => json::command_without_row(None, agent, why),
        Ending::OutputGone { .. } => json::command_without_row(Some(id), agent, "its output was not read to the end"),
    }
}

/// … with its output.
pub fn document<'a>(
    id: &'a str,
    agent: &'a str,
    ending: &'a Ending,
    output: Option<&Collected>,
) -> json::CommandWithOutput<'a> {
    let command = command(id, agent, ending);
    match output {
        Some(output) => json::with_output(command, &output.stdout, &output.stderr, output.truncated),
        None => json::with_output(command, b"", b"", false),
    }
}

async fn tell(writer: &Writer, ending: &Ending, answer: String) {
    if !answer.is_empty() && writer.out(answer.into()).await.is_err() {
        return;
    }
    if let Some(complaint) = ending.complaint() {
        writer.notice(format!("sloth-runner: {complaint}")).await;
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().expect("durations on the command line are below a year")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_only_said_to_go_on_if_the_master_has_taken_it() {
        let unanswered = left("x", false, true, false, Wish::Leave);
        assert_eq!(
            unanswered,
            "leaving; the master has not answered: it is not known whether it has taken the command; to look at it: \
             sloth-runner command get x"
        );
        assert_eq!(left("x", false, true, false, Wish::Interrupt), unanswered);
        assert_eq!(
            left("x", false, false, true, Wish::Leave),
            "leaving; it goes on; to look at it: sloth-runner command logs x --follow"
        );
    }
}
