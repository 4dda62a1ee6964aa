//! SIGHUP: the master reads its configuration again. Level and limits of its log are taken over; what else has changed
//! waits for a restart, and the log says so.

use crate::master_config::{Loaded, Sources, load};
use log::{LevelFilter, Record};
use sloth_agent::{
    config::{Log, Surroundings, reader::Shown},
    logging::{self, Rolling},
    reload::{Change, changes, refused, told},
    report::Line,
};
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What takes effect without a restart.
const AT_ONCE: [&str; 3] = ["log.level", "log.max_size", "log.max_files"];

/// What the configuration was made from at the start, and what runs of it.
#[derive(Clone, Debug)]
pub struct Reload {
    sources: Sources,
    shown: Vec<Shown>,
    log: Option<Rolling>,
}

impl Reload {
    /// `log` is the file that is written. A configuration file that was found counts as if it had been named: when it
    /// is gone later, that is an error and not a reason to fall back to defaults.
    pub fn new(mut sources: Sources, loaded: &Loaded, log: Option<Rolling>) -> Self {
        sources.file = loaded.file.as_ref().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()));
        Self { sources, shown: loaded.shown.clone(), log }
    }

    /// Reads it at each SIGHUP, for as long as the process runs.
    ///
    /// # Errors
    /// When the system gives no handler.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen(self) -> io::Result<()> {
        let hangup = signal(SignalKind::hangup())?;
        tokio::spawn(self.run(hangup));
        Ok(())
    }

    async fn run(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            let sources = self.sources.clone();
            // The file may be on a disk that hangs.
            let read = tokio::task::spawn_blocking(move || load(&sources, &Surroundings::of_process())).await;
            match read {
                Ok(Ok(loaded)) => self.take(loaded),
                Ok(Err(problems)) => {
                    let problems = problems.0.iter().map(ToString::to_string).collect::<Vec<_>>();
                    write(refused(&problems), log::max_level());
                }
                Err(error) => write(refused(&[format!("reading it failed: {error}")]), log::max_level()),
            }
        }
    }

    /// Takes over what can be, and logs all that is another than before.
    fn take(&mut self, loaded: Loaded) {
        let Log { level, max_size, max_files, .. } = loaded.config.log;
        if let Some(log) = &self.log {
            log.set_limits(max_size, max_files);
        }
        // Neither the old level nor the new one hides what is said of the change; who reads that finds the new one.
        let shown = level.max(log::max_level());
        logging::set_level(level);
        write(told(&self.replace(loaded.shown)), shown);
    }

    /// What has changed, from now on to be told against this. What waits is told each time, for as long as it waits.
    fn replace(&mut self, shown: Vec<Shown>) -> Vec<Change> {
        let waits = |key: &str| !AT_ONCE.contains(&key);
        let found = changes(&self.shown, &shown, waits);
        self.shown.retain(|shown| waits(&shown.key));
        self.shown.extend(shown.into_iter().filter(|shown| !waits(&shown.key)));
        found
    }
}

/// What is of one of the levels up to this.
fn write(lines: Vec<Line>, shown: LevelFilter) {
    for line in lines {
        if let Line::Log(level, text) = line
            && level <= shown
        {
            // Past the level that holds by now.
            let mut record = Record::builder();
            record.level(level).target(module_path!());
            log::logger().log(&record.args(format_args!("{text}")).build());
        }
    }
}

/// Until [`Reload::listen`] a SIGHUP would end the process; from its start on it must not.
pub fn ignore_until_then() {
    // SAFETY: sets a disposition, no handler of ours runs.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}
