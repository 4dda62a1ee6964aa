//! What the master knows of the agent, and what the agent says when it is asked.

use crate::tool::{
    Tool, commands,
    connect::Trouble,
    ending::Ending,
    events, explain,
    follow::{Call, follow},
    id, json,
    output::{Budget, Collected},
    run,
    writer::Writer,
};
use proto::{CommandSpec, EventsRequest, GetRequest, ListCommandsRequest, RunStart};
use tokio::sync::watch;

/// The newest of each.
const EVENTS: u32 = 2_000;
const COMMANDS: u32 = 200;
/// … and of these with what they printed, at most so much of each.
const OUTPUTS: usize = 20;
const OUTPUT_MAX: usize = 1 << 20;
/// For the agent's own report.
const REPORT_TIMEOUT_MS: u64 = 30_000;

/// Run on the agent, as the child of its process: that one's own program says how it stands, given the words that it was
/// started with, where it was started. Its log's end, wherever that goes.
const REPORT: &str = r#"# sloth-runner support-bundle: what the agent says of itself
parent=$PPID
cd "/proc/$parent/cwd" || exit
# Commands are given the HOME of their user. By that of the agent its own state directory is found.
for key in HOME XDG_STATE_HOME XDG_RUNTIME_DIR; do
    value=$(tr '\0' '\n' 2>/dev/null <"/proc/$parent/environ" | sed -n "s/^$key=//p")
    unset "$key"
    [ -z "$value" ] || export "$key=$value"
done
set --
while IFS= read -r word; do
    case "$#$word" in 0agent|0start) ;; *--daemon) ;; *) set -- "$@" "$word" ;; esac
done <<END
$(tr '\0' '\n' <"/proc/$parent/cmdline" | tail -n +2)
END
program=/proc/$parent/exe
say() { printf '\n=== %s\n' "$1"; shift; "$@" 2>&1 || echo "(exit code $?)"; }
say version "$program" --version
say 'status' "$program" agent status "$@"
say 'status --history' "$program" agent status --history "$@"
say check "$program" agent check "$@"
say uname uname -a
log=$("$program" agent check "$@" 2>/dev/null | sed -n 's/^  log  *\(.*\)$/\1/p')
# In the background, or with its output redirected, the log is where its standard error goes.
[ -f "$log" ] || log=$(readlink "/proc/$parent/fd/2")
case $log in
    socket:*)
        if command -v journalctl >/dev/null 2>&1
        then say 'the end of its journal' journalctl --no-pager --lines=2000 "_PID=$parent"
        else say 'the log' echo "its standard error is a socket: whoever started it has it"
        fi ;;
    *)
        if [ -f "$log" ]
        then say "the end of $log" tail -c 262144 "$log"
        else say 'the log' echo "its standard error is ${log:-closed}: whoever started it has it"
        fi ;;
esac
"#;

pub(super) async fn explain(tool: &Tool, name: &str) -> Result<String, Trouble> {
    let request = GetRequest { name: name.to_owned() };
    let reply = tool.master.call(async move |mut client| client.explain(request).await).await?;
    Ok(json::document(&explain::document(&reply)))
}

pub(super) async fn agent(tool: &Tool, name: &str) -> Result<String, String> {
    let request = GetRequest { name: name.to_owned() };
    let row = tool.master.call(async move |mut client| client.get(request).await).await;
    row.map(|row| json::document(&json::agent_in_full(&row))).map_err(|trouble| trouble.to_string())
}

pub(super) async fn events(tool: &Tool, name: &str) -> Result<String, String> {
    let request = EventsRequest { name: name.to_owned(), last: EVENTS, ..EventsRequest::default() };
    let mut rows = Vec::new();
    let read = events::past(&tool.master, request, |row| rows.push(row)).await;
    read.map_err(|trouble| trouble.to_string())?;
    Ok(json::document(&rows.iter().map(json::event).collect::<Vec<_>>()))
}

/// The list, and the ids of those whose output may be wanted.
pub(super) async fn commands(tool: &Tool, name: &str) -> Result<(String, Vec<String>), String> {
    let request = ListCommandsRequest { agent: name.to_owned(), limit: COMMANDS, ..ListCommandsRequest::default() };
    let rows = commands::all(&tool.master, request).await.map_err(|trouble| trouble.to_string())?;
    let text = json::document(&rows.iter().map(json::command).collect::<Vec<_>>());
    Ok((text, rows.into_iter().take(OUTPUTS).map(|row| row.id).collect()))
}

pub(super) async fn output(tool: &Tool, id: &str, writer: Writer) -> Result<String, String> {
    let call = Call::Logs { id: id.to_owned(), follow: false };
    let (ending, collected) = followed(tool, call, writer).await;
    match &ending {
        Ending::Finished(_) | Ending::Detached(_) => {
            Ok(json::document(&run::document(id, "", &ending, Some(&collected))))
        }
        ending => Err(ending.complaint().unwrap_or_default()),
    }
}

/// What the agent says of itself, by a command like any other: with the rights of the caller, and on record.
pub(super) async fn report(tool: &Tool, name: &str, writer: Writer) -> Result<String, String> {
    let id = id::new().map_err(|error| error.to_string())?;
    let argv = ["/bin/sh", "-c", REPORT].map(|word| word.as_bytes().to_vec()).to_vec();
    let spec = CommandSpec { argv, timeout_ms: REPORT_TIMEOUT_MS, ..CommandSpec::default() };
    let start = RunStart { id, agent: name.to_owned(), spec: Some(spec), ..RunStart::default() };
    let (ending, collected) = followed(tool, Call::Run(Box::new(start)), writer).await;
    match (ending, ending_is_good(&collected)) {
        (Ending::Finished(_), true) => Ok(String::from_utf8_lossy(&collected.stdout).into_owned()),
        (ending, _) => {
            let said = String::from_utf8_lossy(&collected.stderr).trim().to_owned();
            let why = [ending.complaint().unwrap_or_default(), said].join(" ");
            // What comes then is of options of `agent run`.
            Err(why.split("; --wait ").next().unwrap_or_default().trim().to_owned())
        }
    }
}

/// It has said something.
fn ending_is_good(collected: &Collected) -> bool {
    !collected.stdout.is_empty()
}

async fn followed(tool: &Tool, call: Call, writer: Writer) -> (Ending, Collected) {
    let mut collected = Collected::new(Budget::new(OUTPUT_MAX), writer);
    // Nobody cancels here: the sender is dropped at once.
    let (_, cancel) = watch::channel(false);
    let ending = follow(&tool.master, call, None, cancel, &mut collected).await;
    (ending, collected)
}
