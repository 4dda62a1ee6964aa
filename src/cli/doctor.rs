//! `doctor`: what was tried, and the cause if something is wrong.

use super::{DONE, FAILED, complain, node, print};
use crate::{
    config::{Loaded, Problems, Sources},
    doctor::{self, Running, Verdict},
};

pub(super) fn run(loaded: Result<Loaded, Problems>, sources: &Sources, json: bool) -> i32 {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => return broken(&problems, json),
    };
    let running = match node::find(Ok(loaded.clone()), sources) {
        Ok(node) => node.running(),
        Err(_) => Running::default(),
    };
    let name = &loaded.config.name;
    if json {
        let steps = doctor::examine(&loaded, &running, &mut |_| {});
        let written = print(&doctor::json(name, &steps));
        return if doctor::cause(&steps).is_some() { FAILED } else { written };
    }
    let masters = loaded.config.masters.len();
    let mut at = None;
    let mut written = DONE;
    written = written.max(print(&format!("agent {name}, sloth-agent {}\n", env!("CARGO_PKG_VERSION"))));
    let steps = doctor::examine(&loaded, &running, &mut |step| {
        if step.master != at {
            at.clone_from(&step.master);
            print(&format!("\nmaster at {}\n", step.master.as_deref().unwrap_or_default()));
        }
        print(&format!("  {step}\n"));
    });
    match doctor::cause(&steps) {
        None => {
            let plural = if masters == 1 { "its master" } else { "its masters" };
            let untried = steps.iter().find(|step| step.verdict == Verdict::NotTried);
            written.max(print(&match untried {
                None => format!("\nNothing is wrong: agent {name} can be with {plural}.\n"),
                Some(step) => {
                    format!("\nNothing is wrong as far as was tried; not tried: {}.\n", doctor::in_words(step))
                }
            }))
        }
        Some(step) => {
            print(&format!("\nCause: {}\n", doctor::in_words(step)));
            FAILED
        }
    }
}

/// Nothing can be tried with a configuration that does not hold.
fn broken(problems: &Problems, json: bool) -> i32 {
    if json {
        let text = problems.to_string();
        print(&doctor::json("", &[doctor::broken(text)]));
    } else {
        complain(&problems.to_string());
        let first = problems.0.first().map(ToString::to_string).unwrap_or_default();
        print(&format!("\nCause: configuration: {first}\n"));
    }
    FAILED
}
