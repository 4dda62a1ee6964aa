//! `sloth-runner demo`: a fleet loses its master and comes back, with real processes on this machine.

mod counting;
mod errand;
mod lines;
mod long;
mod outage;
mod processes;
mod screen;
mod story;

use crate::tool::{self, signals::Signals, table::Colour};
use processes::Processes;
use screen::Screen;
use std::io;
use story::Story;
use tokio::select;

/// Runs the demo: 0 if all of it happened, 1 if not, 130 when it was interrupted. No process outlives it.
pub fn run() -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tool::say(&format!("sloth-runner: cannot start: {error}"));
            return 1;
        }
    };
    // On this thread: the processes are tied to the life of the thread that starts them.
    let code = runtime.block_on(tell()).unwrap_or_else(|error| {
        tool::say(&format!("sloth-runner: cannot prepare the demo: {error}"));
        1
    });
    runtime.shutdown_background();
    code
}

async fn tell() -> io::Result<i32> {
    let mut signals = Signals::new()?;
    let folder = tempfile::Builder::new().prefix("sloth-runner-demo-").tempdir()?;
    // Found before any other configuration of this machine: the defaults hold.
    std::fs::write(folder.path().join("agent.toml"), "")?;
    let (mut processes, said) = Processes::new(folder.path())?;
    let mut screen = Screen::new();
    let outcome = {
        let mut story = Story::new(&mut processes, said, &mut screen, folder.path());
        select! {
            outcome = story.tell() => Some(outcome),
            _ = signals.next() => None,
        }
    };
    match outcome {
        None => {
            tool::say("interrupted: ending master and agents");
            processes.end_all().await;
            Ok(130)
        }
        Some(Err(failure)) => {
            processes.end_all().await;
            let folder = folder.keep();
            screen.text(&format!("\nThe demo failed while {failure}\n"));
            screen.text(&format!("The logs of master and agents are in {}\n", folder.display()));
            Ok(1)
        }
        Some(Ok(table)) => {
            screen.section("What each agent went through");
            screen.text(&table.render(screen.colours()));
            processes.end_all().await;
            folder.close()?;
            let last = "All agents came back by themselves, and nothing was lost.";
            screen.text(&format!("\n{}\n", tool::table::paint(last, Some(Colour::Green), screen.colours())));
            Ok(0)
        }
    }
}
