//! What happens in the demo, step by step. Each step has a bound.

use super::{
    counting::LINES,
    errand::{self, Errand, Kept},
    lines::{self, Line},
    long::{self, Long, Told},
    outage::{self, Outage},
    processes::{Processes, Said},
    screen::Screen,
};
use crate::clock::sleep;
use crate::tool::{
    self,
    address::Address,
    connect::{Master, Waits},
    ending::{self, Ending},
    follow::follow,
    resume::Piece,
    table::{Colour, Table, printable},
};
use proto::{CommandSpec, ListRequest, OutputStream};
use std::{
    fmt::Write,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

const AGENTS: [&str; 3] = ["ladyguica", "keiteguica", "mariguica"];
/// Runs the command that lasts through the outage.
const BUSY: &str = AGENTS[1];
/// Long enough for the first attempts to fail (after 4 to 5 s), short enough for the second ones to succeed.
const AWAY: Duration = Duration::from_secs(7);
/// Bounds, on a busy machine; usually a tenth of that passes.
const TO_START: Duration = Duration::from_secs(20);
const TO_RUN: Duration = Duration::from_secs(20);
/// After the death of the master: two waits at their longest are 15 s, the command's own end comes after 24 s.
const TO_COME_BACK: Duration = Duration::from_secs(45);
const TO_FINISH: Duration = Duration::from_secs(60);

pub struct Story<'a> {
    processes: &'a mut Processes,
    said: mpsc::Receiver<Said>,
    screen: &'a mut Screen,
    folder: &'a Path,
    /// What times are counted from.
    origin: Instant,
    master: usize,
    /// Their numbers among the processes, as in [`AGENTS`].
    agents: Vec<usize>,
    outages: Vec<Outage>,
}

impl<'a> Story<'a> {
    pub fn new(
        processes: &'a mut Processes,
        said: mpsc::Receiver<Said>,
        screen: &'a mut Screen,
        folder: &'a Path,
    ) -> Self {
        let (origin, outages) = (Instant::now(), vec![Outage::default(); AGENTS.len()]);
        Self { processes, said, screen, folder, origin, master: 0, agents: Vec::new(), outages }
    }

    /// Tells all of it and returns the last table.
    ///
    /// # Errors
    /// What was being done and why it failed: "starting the master: …".
    pub async fn tell(&mut self) -> Result<Table, String> {
        self.screen.section("A master and three agents start");
        let step = |step: &'static str| move |why: String| format!("{step}: {why}");
        let address = self.start_master("127.0.0.1:0").await.map_err(step("starting the master"))?;
        self.start_agents(address).await.map_err(step("starting the agents"))?;
        let address = Address::parse(&address.to_string()).expect("a socket's address is one");
        let master = Arc::new(Master::new(address.clone(), Waits::default()));
        self.show_all_active(&master).await.map_err(step("waiting for all agents to be Active"))?;

        self.screen.section("Each runs a command");
        for (agent, command) in AGENTS.iter().zip(Errand::all()) {
            self.run(&master, agent, &command).await.map_err(step("running a command on each agent"))?;
        }

        self.screen.section(&format!("{BUSY} begins a command that writes {LINES} lines, two a second"));
        let (_follower, mut told) = long::start(master.clone(), BUSY)?;
        let mut long = Long::default();
        self.wait_for_lines(&mut told, &mut long).await.map_err(step("starting the long command"))?;

        self.screen.section("The master dies; times count from here");
        self.origin = Instant::now();
        self.processes.kill(self.master).await.map_err(|error| format!("killing the master: {error}"))?;
        self.screen.event(self.origin.elapsed(), "master", "killed (SIGKILL)", Some(Colour::Red));
        self.outage(&address, &mut told, &mut long).await.map_err(step("waiting for the return of all"))?;
        self.judge(&long).map_err(step("looking at what came back"))?;

        self.screen.section("The fleet after it");
        self.show_all_active(&master).await.map_err(step("waiting for all agents to be Active again"))?;
        Ok(outage::table(AGENTS.into_iter().zip(&self.outages)))
    }

    async fn start_master(&mut self, listen: &str) -> Result<SocketAddr, String> {
        self.spawn_master(listen)?;
        let started = async {
            loop {
                let said = self.said.recv().await.expect("we hold a sender");
                if let Some(address) = self.heard(said)? {
                    return Ok(address);
                }
            }
        };
        timeout(TO_START, started).await.map_err(|_| too_long(TO_START))?
    }

    fn spawn_master(&mut self, listen: &str) -> Result<(), String> {
        let state = self.folder.join("master").to_string_lossy().into_owned();
        let args = ["master", "start", "--set", "http.listen=\"\"", "--listen", listen, "--state-dir", &state]
            .map(str::to_owned);
        self.master = self.processes.start("master", &args).map_err(|error| error.to_string())?;
        Ok(())
    }

    async fn start_agents(&mut self, master: SocketAddr) -> Result<(), String> {
        let ports = free_ports().map_err(|error| format!("no free port on 127.0.0.1: {error}"))?;
        for (name, port) in AGENTS.iter().zip(ports) {
            let state_dir = format!("state_dir={:?}", self.folder.join(name));
            let (port, master) = (port.to_string(), master.to_string());
            let args = [
                ["agent", "start"].as_slice(),
                &["--name", name, "--port", &port, "--bind-address", "127.0.0.1"],
                &["--master", &master, "--set", &state_dir],
            ];
            let args: Vec<String> = args.concat().into_iter().map(str::to_owned).collect();
            self.agents.push(self.processes.start(name, &args).map_err(|error| error.to_string())?);
        }
        let mut waiting = self.agents.clone();
        let registered = async {
            while !waiting.is_empty() {
                let said = self.said.recv().await.expect("we hold a sender");
                if said.line.as_deref().and_then(lines::agent) == Some(Line::Registered) {
                    waiting.retain(|who| *who != said.who);
                }
                self.heard(said)?;
            }
            Ok(())
        };
        timeout(TO_START, registered).await.map_err(|_| too_long(TO_START))?
    }

    /// Shows what a process said. The address, if it is a master that listens.
    fn heard(&mut self, said: Said) -> Result<Option<SocketAddr>, String> {
        let since = said.at.saturating_duration_since(self.origin);
        let Some(line) = said.line else {
            if said.who == self.master || self.agents.contains(&said.who) {
                let how = self.processes.how_it_ended(said.who);
                return Err(format!("{} has ended: {how}", self.processes.name(said.who)));
            }
            return Ok(None);
        };
        if said.who == self.master {
            let address = lines::listening(&line);
            if address.is_some() {
                self.screen.event(since, "master", &line, Some(Colour::Green));
            }
            return Ok(address);
        }
        if let Some(at) = self.agents.iter().position(|who| *who == said.who)
            && let Some(line) = lines::agent(&line)
        {
            let first = !self.outages[at].is_lost() && line == Line::Registered;
            let told = self.outages[at].take(since, &line);
            let told = if first { "registered with the master".to_owned() } else { told };
            self.screen.event(since, AGENTS[at], &told, colour(&line));
        }
        Ok(None)
    }

    /// Asks until it is so.
    async fn show_all_active(&mut self, master: &Master) -> Result<(), String> {
        let asked = async {
            loop {
                let rows = tool::list(master, ListRequest::default()).await.map_err(|trouble| trouble.to_string())?;
                if AGENTS.iter().all(|name| rows.iter().any(|row| row.name == *name && row.status == "Active")) {
                    return Ok::<_, String>(rows);
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let rows = timeout(TO_START, asked).await.map_err(|_| too_long(TO_START))??;
        self.screen.text("\n$ sloth-runner agent list\n");
        let table = tool::agent_table(&rows, tool::time::now_unix_ms());
        self.screen.text(&table.render(self.screen.colours()));
        Ok(())
    }

    async fn run(&mut self, master: &Master, agent: &str, errand: &Errand) -> Result<(), String> {
        self.screen.text(&format!("$ sloth-runner agent run {agent} -- {}\n", errand.shown));
        let argv = errand.argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        let call = errand::call(agent, CommandSpec { argv, ..CommandSpec::default() })?;
        let (_keep, cancel) = watch::channel(false);
        let mut output = Kept::default();
        let ending = timeout(TO_RUN, follow(master, call, None, cancel, &mut output)).await;
        let ending = ending.map_err(|_| format!("{agent}: {}", too_long(TO_RUN)))?;
        let mut text = String::new();
        for (stream, data) in [("", &output.stdout), ("(stderr) ", &output.stderr)] {
            for line in String::from_utf8_lossy(data).lines() {
                let _ = writeln!(text, "    {stream}{}", printable(line));
            }
        }
        self.screen.text(&text);
        match ending {
            Ending::Finished(row) => {
                self.screen.text(&format!("    {}\n", ending::in_words(row.outcome.as_ref())));
                errand.check(row.outcome.as_ref(), &output).map_err(|why| format!("{agent}: {why}"))
            }
            ending => Err(format!("{agent}: {}", ending.complaint().unwrap_or_else(|| "it has no outcome".to_owned()))),
        }
    }

    /// Until the long command has begun to write.
    async fn wait_for_lines(&mut self, told: &mut mpsc::Receiver<Told>, long: &mut Long) -> Result<(), String> {
        let begun = async {
            while long.counting.seen() < 3 {
                let told = told.recv().await.ok_or("nobody follows it")?;
                self.told(told, long)?;
            }
            Ok::<_, String>(())
        };
        timeout(TO_RUN, begun).await.map_err(|_| too_long(TO_RUN))??;
        let since = self.origin.elapsed();
        self.screen.event(since, BUSY, &format!("has written lines 1 to {}", long.counting.seen()), None);
        long.shown = long.counting.seen();
        Ok(())
    }

    /// From the death of the master until every agent is back and the long command has its outcome.
    async fn outage(
        &mut self,
        address: &Address,
        told: &mut mpsc::Receiver<Told>,
        long: &mut Long,
    ) -> Result<(), String> {
        let dead = self.master;
        let at = |after| self.origin + after;
        let (restart, back, finish) = (at(AWAY), at(TO_COME_BACK), at(TO_FINISH));
        let mut back_seen = false;
        loop {
            if !back_seen && self.outages.iter().all(Outage::is_back) {
                back_seen = true;
                long.all_back_at_line = Some(long.counting.seen());
            }
            if back_seen && long.ending.is_some() {
                return Ok(());
            }
            select! {
                said = self.said.recv() => {
                    let said = said.expect("we hold a sender");
                    // What the dead master still had to say is of no interest.
                    if said.who != dead {
                        self.heard(said)?;
                    }
                }
                Some(told) = told.recv() => self.told(told, long)?,
                () = sleep_until(restart), if self.master == dead => {
                    self.spawn_master(&address.to_string())?;
                    self.screen.event(self.origin.elapsed(), "master", "starts again on the same database", None);
                }
                () = sleep_until(back), if !back_seen => {
                    let missing = AGENTS.iter().zip(&self.outages).find_map(|(name, outage)| {
                        outage.missing().map(|missing| format!("{name}: {missing}"))
                    });
                    return Err(format!("{} ({})", missing.unwrap_or_default(), too_long(TO_COME_BACK)));
                }
                () = sleep_until(finish) => {
                    return Err(format!("the long command has no outcome, {} lines came", long.counting.seen()));
                }
            }
        }
    }

    fn told(&mut self, told: Told, long: &mut Long) -> Result<(), String> {
        let since = self.origin.elapsed();
        match told {
            Told::Output(Piece::Bytes { stream: OutputStream::Stdout, data, .. }) => {
                long.counting.take(&data)?;
                let seen = long.counting.seen();
                if long.shown > 0 && (seen >= long.shown + 10 || (seen == LINES && seen > long.shown)) {
                    let what = match long.shown + 1 {
                        last if last == seen => format!("line {last} of its command has arrived"),
                        first => format!("lines {first} to {seen} of its command have arrived"),
                    };
                    self.screen.event(since, BUSY, &what, None);
                    long.shown = seen;
                }
            }
            Told::Output(Piece::Bytes { data, .. }) => {
                return Err(format!("it complains: {}", String::from_utf8_lossy(&data)));
            }
            Told::Output(Piece::Gap { bytes, .. }) => return Err(format!("{bytes} bytes of output are missing")),
            Told::Notice(line) => self.screen.event(since, "tool", &line, Some(Colour::Dim)),
            Told::Ended(ending) => {
                let how = match &ending {
                    Ending::Finished(row) => format!("its command {}", ending::in_words(row.outcome.as_ref())),
                    _ => return Err(ending.complaint().unwrap_or_else(|| "it has no outcome".to_owned())),
                };
                self.screen.event(since, BUSY, &how, Some(Colour::Green));
                long.ending = Some(ending);
            }
        }
        Ok(())
    }

    fn judge(&mut self, long: &Long) -> Result<(), String> {
        for (name, outage) in AGENTS.iter().zip(&self.outages) {
            if let Some(missing) = outage.missing() {
                return Err(format!("{name}: {missing}"));
            }
        }
        long.counting.is_whole()?;
        let code = long.ending.as_ref().map(Ending::exit_code);
        if code != Some(0) {
            return Err("the long command did not exit with 0".to_owned());
        }
        if long.all_back_at_line.is_none_or(|line| line >= LINES) {
            return Err("the long command ended before all agents were back".to_owned());
        }
        let what = format!("all {LINES} lines came, each once and in order, from one process");
        self.screen.event(self.origin.elapsed(), BUSY, &what, Some(Colour::Green));
        Ok(())
    }
}

/// Ports that were free a moment ago: held together, so that they differ.
fn free_ports() -> std::io::Result<[u16; AGENTS.len()]> {
    let mut ports = [0; AGENTS.len()];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn colour(line: &Line) -> Option<Colour> {
    match line {
        Line::Lost { .. } => Some(Colour::Red),
        Line::Registered | Line::Recovered => Some(Colour::Green),
        Line::AttemptFailed { .. } | Line::HeartbeatFailed { .. } => Some(Colour::Yellow),
        Line::Waits { .. } | Line::NetworkChanged => None,
    }
}

fn too_long(bound: Duration) -> String {
    format!("it did not happen within {}", outage::short(bound))
}
