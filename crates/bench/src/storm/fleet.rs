//! A fleet in one process: the agents' real link and transport, and nothing behind them.

use link::{Input, Link, LossReason, Output, Params, Reply, Report};
use proto::{Heartbeat, ProbeAnswer, Register, agent_message::Kind as Up};
use sloth_agent::{
    config::{MasterAddress, Tls},
    credentials::{Credentials, Means},
    session::{Event, Session},
    transport::Resolver,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, task::LocalSet};

/// What has happened to the fleet so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub active: usize,
    pub heartbeats: u64,
    /// Attempts, also those that found nobody listening.
    pub dials: u64,
    pub registered: u64,
    /// Sent away by the master, which is no failure.
    pub deferred: u64,
    pub failed: BTreeMap<&'static str, u64>,
    pub lost: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Default)]
pub struct Fleet(Rc<RefCell<Seen>>);

impl Fleet {
    /// Starts so many agents, all at once, each with its files where there is TLS. They live as long as the set of tasks.
    pub fn start(tasks: &LocalSet, agents: usize, master: SocketAddr, tls: Option<&dyn Fn(usize) -> Tls>) -> Self {
        let fleet = Self::default();
        for number in 0..agents {
            tasks.spawn_local(agent(fleet.clone(), number, master, tls.map(|tls| tls(number))));
        }
        fleet
    }

    pub fn seen(&self) -> Seen {
        self.0.borrow().clone()
    }

    /// How many are Active.
    pub fn active(&self) -> usize {
        self.0.borrow().active
    }
}

struct Agent {
    fleet: Fleet,
    register: Register,
    master: MasterAddress,
    resolver: Arc<Mutex<Resolver>>,
    means: Means,
    session: Option<Session>,
    /// Counted among the Active.
    active: bool,
}

/// Of an agent of this process.
pub fn id(number: usize) -> [u8; 16] {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&std::process::id().to_be_bytes());
    id[8..].copy_from_slice(&(number as u64).to_be_bytes());
    id
}

async fn agent(fleet: Fleet, number: usize, master: SocketAddr, tls: Option<Tls>) {
    let params = Params::documented(vec![master.to_string()]);
    let id = id(number);
    let millis = |time: Duration| u64::try_from(time.as_millis()).expect("a minute");
    let register = Register {
        agent_id: id.into(),
        instance_id: id.into(),
        spool_id: id.into(),
        name: format!("agent-{number:05}"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: "storm".to_owned(),
        past: Vec::new(),
        labels: [("site".to_owned(), format!("s{}", number % 100))].into(),
        interval_ms: millis(params.heartbeat_interval),
        timeout_ms: millis(params.heartbeat_timeout),
        max_failures: params.failures_max,
        max_interval_ms: millis(params.interval_max),
        ..Register::default()
    };
    let master = MasterAddress { host: master.ip().to_string(), port: master.port() };
    let means = Means { tls, token: None, credentials: Arc::new(Credentials::new(None, id, "")) };
    let resolver = Arc::default();
    let mut agent = Agent { fleet, register, master, resolver, means, session: None, active: false };
    let mut link = Link::new(params, number as u64);
    let start = Instant::now();
    link.handle(start.elapsed(), Input::Start);
    loop {
        while let Some(output) = link.poll_output() {
            agent.carry_out(output);
        }
        let timeout = link.poll_timeout().expect("a link that nobody shuts down waits for something");
        let input = tokio::select! {
            input = agent.next() => input,
            () = tokio::time::sleep_until((start + timeout).into()) => Some(Input::Timeout),
        };
        if let Some(input) = input {
            link.handle(start.elapsed(), input);
        }
    }
}

impl Agent {
    /// What the session brings, for the link.
    async fn next(&mut self) -> Option<Input> {
        let Some(session) = &mut self.session else { return std::future::pending().await };
        let reply = match session.next().await {
            Event::Reply(reply) => reply,
            Event::Registered(registered) => {
                self.register.highest_epoch = registered.epoch;
                let interval = (registered.interval_ms > 0).then(|| Duration::from_millis(registered.interval_ms));
                Reply::Registered { interval }
            }
            Event::Probe => {
                session.send(Up::ProbeAnswer(ProbeAnswer {}));
                return None;
            }
            Event::Run(_) | Event::Cancel(_) | Event::FinishedAck(_) | Event::Shutdown(_) => return None,
        };
        Some(Input::Reply { session: session.number, reply })
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Dial { session, .. } => {
                self.fleet.0.borrow_mut().dials += 1;
                let patience = Duration::from_secs(25);
                let (master, resolver) = (self.master.clone(), self.resolver.clone());
                self.session = Some(Session::dial(session, master, resolver, patience, self.means.clone()));
            }
            Output::Register { will_wait, .. } => {
                let will_wait_ms = u64::try_from(will_wait.as_millis()).expect("ten seconds");
                if let Some(session) = &mut self.session {
                    session.register(Register { will_wait_ms, ..self.register.clone() });
                }
            }
            Output::Heartbeat { seq, last_ack, .. } => {
                self.fleet.0.borrow_mut().heartbeats += 1;
                if let Some(session) = &mut self.session {
                    session.send(Up::Heartbeat(Heartbeat { seq, last_ack, ready: true, status: None }));
                }
            }
            Output::Close { .. } => self.session = None,
            Output::Report(report) => self.report(report),
            Output::Goodbye { .. } | Output::Interrupt | Output::Stop => {}
        }
    }

    fn report(&mut self, report: Report) {
        let mut seen = self.fleet.0.borrow_mut();
        let mut count = |reasons: fn(&mut Seen) -> &mut BTreeMap<&'static str, u64>, reason: LossReason| {
            *reasons(&mut seen).entry(reason.word()).or_default() += 1;
        };
        match report {
            Report::Registered { .. } => seen.registered += 1,
            Report::Active { .. } => {
                seen.active += 1;
                self.active = true;
            }
            Report::Deferred { .. } => seen.deferred += 1,
            Report::AttemptFailed { reason, .. } => count(|seen| &mut seen.failed, reason),
            Report::Lost { reason, .. } => {
                count(|seen| &mut seen.lost, reason);
                seen.active -= usize::from(std::mem::take(&mut self.active));
            }
            _ => {}
        }
    }
}
