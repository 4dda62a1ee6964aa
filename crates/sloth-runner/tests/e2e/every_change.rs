//! Agent, master, or both are killed at every change of the disk that a command causes, one after the other, as many as
//! there are; and the master's machine loses its power there. Then all is started again, and must be as it was promised.

use crate::fleet::{Agent, Env, Master, needs, until};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Who dies at a change of whose disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Master,
    /// What the master has not synced is lost with it.
    MastersPower,
    Agent,
    BothAtMasters,
    BothAtAgents,
}

/// Output comes in several pieces, and what the master does not have of it at the end is too much for the journal.
const OUTPUT: usize = 40_000;
const CODE: i32 = 7;

struct Scene {
    death: Death,
    master: Master,
    agent: Agent,
    library: PathBuf,
    noise: Vec<u8>,
}

/// What became of the command, by the change at which somebody died.
type Found = BTreeMap<String, BTreeMap<String, usize>>;

impl Scene {
    fn new(death: Death) -> Option<Self> {
        let master = Master::start();
        let library = library(master.folder.path())?;
        let noise: Vec<u8> = (0..OUTPUT as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(master.path("noise"), &noise).unwrap();
        // It is known, and away.
        drop(master.agent("mari"));
        let agent = master.agent_with("lady", &["--set", "reconnect.initial_delay=\"20ms\""]);
        Some(Self { death, master, agent, library, noise })
    }

    fn agent_dies_first(&self) -> bool {
        matches!(self.death, Death::Agent | Death::BothAtAgents)
    }

    fn may_be_interrupted(&self) -> bool {
        !matches!(self.death, Death::Master | Death::MastersPower)
    }

    /// With the processes that will die at the n-th change once they are armed.
    fn begin(&mut self, n: usize) {
        let _ = fs::remove_file(self.master.path("armed"));
        let _ = fs::remove_file(self.master.path("told"));
        let folder = if self.agent_dies_first() { self.agent.state.join("spool") } else { self.master.path("master") };
        let mut env: Env = vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("DYING_IN", folder.into()),
            ("DYING_AT", n.to_string().into()),
            ("DYING_ARMED", self.master.path("armed").into()),
            ("DYING_TOLD", self.master.path("told").into()),
        ];
        if self.death == Death::MastersPower {
            let keep = self.master.path(&format!("keep-{n}"));
            fs::create_dir(&keep).unwrap();
            env.push(("DYING_KEEP", keep.into()));
        }
        if self.agent_dies_first() {
            self.agent.env = env;
        } else {
            self.master.env = env;
        }
        self.all_again();
    }

    fn all_again(&mut self) {
        if self.may_be_interrupted() {
            self.agent.again();
        }
        if self.death != Death::Agent {
            self.master.again();
        }
        self.agent.line("Agent registered with master");
        self.master.until_status("lady", "Active");
    }

    /// Runs a command, with a death at the n-th change that it causes: what that was and what became of the command;
    /// `None` if there were not so many.
    fn die_at(&mut self, n: usize) -> Option<(String, String)> {
        self.begin(n);
        // What is left of a command is looked for by its id in all processes: no other scene may have the same.
        let scene = format!("{:?}-{}", self.death, std::process::id());
        let (id, before) = (format!("c{n}-{scene}"), format!("q{n}-{scene}"));
        // Answered, and with nobody but the master.
        self.master.tool(&["agent", "run", "mari", "--queue", "--id", &before, "--", "true"]).expect(0);
        let (other, dies) = match self.death {
            Death::BothAtMasters => (self.agent.running.pid().to_string(), &mut self.master.running),
            Death::BothAtAgents => (self.master.running.pid().to_string(), &mut self.agent.running),
            Death::Agent => (String::new(), &mut self.agent.running),
            Death::Master | Death::MastersPower => (String::new(), &mut self.master.running),
        };
        fs::write(self.master.folder.path().join("armed.new"), other).unwrap();
        fs::rename(self.master.folder.path().join("armed.new"), self.master.folder.path().join("armed")).unwrap();
        let line = format!("echo started >> ran-{id}; cat noise; exit {CODE}");
        let dir = self.master.folder.path().to_str().unwrap().to_owned();
        let run = ["agent", "run", "lady", "-n", "--id", &id, "--dir", &dir, "--shell", &line];
        let mut tool = {
            let mut command = crate::fleet::program(self.master.folder.path());
            command.args(["--master", &self.master.address.to_string()]).args(run);
            crate::fleet::Running::start(command, std::process::Stdio::null())
        };
        let died = until("somebody dies, or the command is over", || match (dies.is_running(), tool.is_running()) {
            (false, _) => Some(true),
            (true, false) => Some(false),
            (true, true) => None,
        });
        if !died {
            tool.done().expect(CODE);
            return None;
        }
        let at = fs::read_to_string(self.master.path("told")).expect("it died by its own hand");
        (self.master.env, self.agent.env) = (Env::new(), Env::new());
        self.all_again();
        let mut first = tool.done();
        let answered = first.code != 255 || self.may_be_interrupted();
        if !answered {
            // It was not answered before the master died, and so asks again.
            first = self.master.tool(&run);
        }
        // Whoever asks again is told the same, and starts nothing.
        let again = self.master.tool(&run);
        let row = self.master.until_finished(&id);
        let what = format!("{:?} at change {n}, {at}: {row}", self.death);
        let starts = fs::read_to_string(self.master.path(&format!("ran-{id}"))).unwrap_or_default().lines().count();
        assert!(starts <= 1, "{what}: started {starts} times");
        let outcome = row["outcome"].as_str().unwrap_or_default().to_owned();
        match outcome.as_str() {
            "exited" => {
                assert_eq!((starts, &row["code"], again.code), (1, &CODE.into(), CODE), "{what}");
                assert!(again.stdout == self.noise, "{what}: {} bytes", again.stdout.len());
                if answered && first.code != 255 {
                    assert!(first.code == CODE && first.stdout == self.noise, "{what}: {}", first.stderr);
                }
            }
            "interrupted" if self.may_be_interrupted() => {
                assert!(self.noise.starts_with(&again.stdout), "{what}");
                assert_eq!(again.code, 255, "{what}");
            }
            _ => panic!("{what}"),
        }
        assert_eq!(row["gaps"].as_array().map(Vec::len), Some(0), "{what}");
        assert_eq!(self.master.json(&["command", "get", &before])["state"], "queued", "{what}");
        let ends = self.master.events("lady", "command.finished");
        let ends = ends.iter().filter(|event| event["message"].as_str().is_some_and(|text| text.contains(&id)));
        assert!(ends.count() <= 1, "{what}: more than one end");
        Some((at, format!("{outcome}, started {starts} times")))
    }

    fn at_every_change(death: Death, at_least: usize) {
        let Some(mut scene) = Self::new(death) else { return };
        let mut found = Found::new();
        let mut n = 0;
        while let Some((at, became)) = scene.die_at(n) {
            *found.entry(kind(&at)).or_default().entry(became).or_default() += 1;
            n += 1;
        }
        for (at, became) in &found {
            eprintln!("{death:?} | {at} | {became:?}");
        }
        assert!(n >= at_least, "only {n} changes were found: {found:?}");
    }
}

/// Without what is different each time.
fn kind(at: &str) -> String {
    let mut words: Vec<&str> = at.split(' ').take(2).collect();
    if words[1].starts_with("output/") {
        words[1] = "output/ID";
    }
    words.join(" ")
}

fn library(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("dying.c"), folder.join("dying.so"));
    fs::write(&source, include_str!("dying.c")).unwrap();
    let done = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).args([&library, &source]).output();
    needs("C compiler", done.is_ok_and(|done| done.status.success())).then_some(library)
}

#[test]
fn a_master_killed_at_any_change_of_its_disk_loses_no_command() {
    Scene::at_every_change(Death::Master, 20);
}

#[test]
fn a_master_whose_power_fails_at_any_change_of_its_disk_loses_no_command() {
    Scene::at_every_change(Death::MastersPower, 20);
}

#[test]
fn an_agent_killed_at_any_change_of_its_spool_starts_nothing_twice_and_tells_one_end() {
    Scene::at_every_change(Death::Agent, 6);
}

#[test]
fn a_master_and_an_agent_killed_together_keep_what_was_promised() {
    Scene::at_every_change(Death::BothAtMasters, 20);
    Scene::at_every_change(Death::BothAtAgents, 6);
}
