//! `doctor`: tries a configuration for real, step by step, as an agent of it would, and says what is wrong. It registers
//! nothing and disturbs no agent that runs.

mod master;
mod node;

use crate::{
    clock::boottime,
    config::{Config, Loaded},
    status::{self, Field},
};
use std::{fmt, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    /// The agent would go on, not as well as it could.
    Warning,
    Failed,
    /// What came before it failed.
    NotTried,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::NotTried => "not tried",
        }
    }
}

/// What was tried, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    /// The master that it is about.
    pub master: Option<String>,
    pub verdict: Verdict,
    /// What was found; where it failed, with the remedy.
    pub text: String,
    pub took: Duration,
}

/// `ok         DNS              localhost is 127.0.0.1 (0.3ms)`
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} {:<16} {}", self.verdict.word(), self.name, self.text)?;
        let micros = self.took.as_micros();
        if micros >= 100 { write!(f, " ({}.{}ms)", micros / 1000, micros % 1000 / 100) } else { Ok(()) }
    }
}

/// Takes down each step as it is done.
pub struct Notes<'a> {
    steps: Vec<Step>,
    master: Option<String>,
    shown: &'a mut dyn FnMut(&Step),
    began: Duration,
}

impl<'a> Notes<'a> {
    fn new(shown: &'a mut dyn FnMut(&Step)) -> Self {
        Self { steps: Vec::new(), master: None, shown, began: boottime() }
    }

    /// The steps from here on are about this master.
    fn about(&mut self, master: String) {
        self.master = Some(master);
    }

    /// What follows is timed.
    fn begin(&mut self) {
        self.began = boottime();
    }

    fn note(&mut self, name: &'static str, verdict: Verdict, text: impl Into<String>) {
        let took = boottime().saturating_sub(self.began);
        // What a peer says must not make lines of its own.
        let text = text.into().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let step = Step { name, master: self.master.clone(), verdict, text, took };
        (self.shown)(&step);
        self.steps.push(step);
        self.begin();
    }
}

/// What is known of an agent that runs with this configuration.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// Who it is, in words; none: it does not run.
    pub agent: Option<String>,
    /// Its process, as a master knows it, in hex.
    pub instance: Option<String>,
    /// The process that should be at work and was stopped.
    pub stopped: Option<u32>,
    /// What a master has said to it last, if that was a refusal and it is not Active since.
    pub refused: Option<String>,
    /// That it is to come back later, if that was a master's last word: no failure.
    pub deferred: Option<String>,
}

/// Tries everything, all masters too; `shown` is given each step when it is done.
pub fn examine(loaded: &Loaded, running: &Running, shown: &mut dyn FnMut(&Step)) -> Vec<Step> {
    let mut notes = Notes::new(shown);
    let config: &Config = &loaded.config;
    node::examine(loaded, running, &mut notes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            runtime.block_on(master::examine(config, running, &mut notes));
            // A resolver may hang: its thread ends with the process.
            runtime.shutdown_background();
        }
        Err(error) => notes.note("open files", Verdict::Failed, crate::config::describe(&error)),
    }
    notes.steps
}

/// The first thing that failed.
pub fn cause(steps: &[Step]) -> Option<&Step> {
    steps.iter().find(|step| step.verdict == Verdict::Failed)
}

/// All of it as one JSON document.
pub fn json(agent: &str, steps: &[Step]) -> String {
    let steps_json = status::list(steps.iter().map(fields_of));
    let cause = cause(steps).map(in_words);
    let mut fields = vec![("agent", Field::Text(agent)), ("ok", Field::Boolean(cause.is_none()))];
    fields.extend(cause.as_ref().map(|cause| ("cause", Field::Text(cause))));
    fields.push(("steps", Field::Json(&steps_json)));
    status::write(&fields)
}

fn fields_of(step: &Step) -> Vec<(&str, Field<'_>)> {
    let mut fields = vec![("step", Field::Text(step.name)), ("verdict", Field::Text(step.verdict.word()))];
    fields.extend(step.master.as_ref().map(|master| ("master", Field::Text(master))));
    fields.extend([("text", Field::Text(&step.text)), ("took", Field::Seconds(step.took))]);
    fields
}

/// One line that stands by itself.
pub fn in_words(step: &Step) -> String {
    match &step.master {
        Some(master) => format!("{} with master at {master}: {}", step.name, step.text),
        None => format!("{}: {}", step.name, step.text),
    }
}

/// Of a configuration that does not hold.
pub fn broken(problems: String) -> Step {
    let text = problems.trim().replace('\n', "; ");
    Step { name: "configuration", master: None, verdict: Verdict::Failed, text, took: Duration::ZERO }
}
