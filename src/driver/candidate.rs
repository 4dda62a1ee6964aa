//! What is to take a session's place after a reload: a link of its own, beside the one that has the session. That one
//! goes on until the master has registered the other, so a configuration that leads nowhere costs no session.

use super::{Driver, goodbye, next_of as next_of_session};
use crate::{
    clock::Clock,
    config::{Config, MasterAddress},
    report::{Context, Line, Lines},
    session::{self, Session},
};
use link::{Input, Link, LossReason, Output, Phase, Reply, Report};
use std::{collections::VecDeque, net::SocketAddr, time::Duration};

/// Messages of the present session that wait for the end of a registration. With more it is not read any further.
const HELD_BACK_MAX: usize = 64;

/// Why a master is told goodbye that the configuration does not name any more.
const MOVED: &str = "moved";

pub(super) struct Candidate {
    link: Link,
    session: Option<Session>,
    lines: Lines,
    /// Of its attempt.
    master: String,
    report_address: String,
    addresses: Option<(SocketAddr, SocketAddr)>,
    /// What the present session rests on.
    pub rests_on: Config,
    /// What the master was told of the commands, by an attempt that it has not answered yet. What it says of them to
    /// the present session, and what that would say, waits for the answer: it would not be in that account.
    told_spool: Option<[u8; 16]>,
    pub held_back: VecDeque<session::Event>,
    /// That the session stays was logged.
    told: bool,
    /// Without this candidate, the session would have to be renewed for the commands' sake.
    pub renew_without: bool,
}

/// The candidate's next event; never, without one.
pub(super) async fn next_of(candidate: &mut Option<Box<Candidate>>) -> session::Event {
    next_of_session(candidate.as_mut().and_then(|candidate| candidate.session.as_mut())).await
}

/// The present session is not to be read.
pub(super) fn is_full(candidate: Option<&Candidate>) -> bool {
    candidate.is_some_and(|candidate| candidate.held_back.len() >= HELD_BACK_MAX)
}

/// The list that the numbers of the present session's link are of.
pub(super) fn masters<'a>(candidate: &'a Option<Box<Candidate>>, config: &'a Config) -> &'a [MasterAddress] {
    candidate.as_ref().map_or(&config.masters, |candidate| &candidate.rests_on.masters)
}

impl<C: Clock> Driver<C> {
    /// Begins to look for another session, by the configuration of now; the present one rests on this one.
    pub(super) fn seek_another(&mut self, rests_on: Config, params: link::Params) {
        let mut link = self.link.clone();
        link.set_params(params);
        link.handle(self.clock.now(), Input::Renew);
        self.candidate = Some(Box::new(Candidate {
            link,
            session: None,
            lines: Lines::default(),
            master: String::new(),
            report_address: String::new(),
            addresses: None,
            rests_on,
            told_spool: None,
            held_back: VecDeque::new(),
            told: false,
            renew_without: false,
        }));
    }

    /// The present session is to stay.
    pub(super) fn drop_candidate(&mut self) {
        let Some(candidate) = self.candidate.take() else { return };
        self.config = candidate.rests_on;
        candidate.held_back.into_iter().for_each(|event| self.session_event(event));
        if candidate.renew_without {
            self.tell(Input::Renew);
        }
    }

    pub(super) fn candidate_due(&self) -> Option<Duration> {
        self.candidate.as_ref()?.link.poll_timeout()
    }

    /// A master has an account of the commands that must stay true until it has answered.
    pub(super) fn is_registering(&self) -> bool {
        self.candidate.as_ref().is_some_and(|candidate| candidate.told_spool.is_some())
    }

    pub(super) fn tell_candidate(&mut self, input: Input) {
        let now = self.clock.now();
        if let Some(candidate) = &mut self.candidate {
            candidate.link.handle(now, input);
        }
    }

    pub(super) fn candidate_event(&mut self, event: session::Event) {
        let Some(candidate) = &mut self.candidate else { return };
        let Some(session) = &candidate.session else { return };
        let (number, addresses) = (session.number, session.addresses());
        let reply = match event {
            session::Event::Registered(registered) if self.is_new(registered.epoch) => {
                // The same one has heard by the registration; from another one that is in the list it may be on its way
                // back at any time, and is away there as after any failure.
                if !self.config.masters.iter().any(|master| master.to_string() == self.status.master)
                    && let Some(mut former) = self.session.take()
                {
                    former.send(goodbye(MOVED));
                    tokio::spawn(former.close_gracefully());
                }
                self.replace_session();
                return self.registered(&registered);
            }
            session::Event::Registered(registered) => self.not_new(registered.epoch),
            session::Event::Reply(reply) => {
                if let (Reply::Dialled, Some((local, _))) = (&reply, addresses) {
                    let report_address = self.reported(local);
                    let candidate = self.candidate.as_mut().expect("seen above");
                    (candidate.addresses, candidate.report_address) = (addresses, report_address);
                }
                reply
            }
            session::Event::Probe => return,
            _ => {
                let detail = "master speaks before it has registered the agent".to_owned();
                Reply::Failed { reason: LossReason::Protocol, detail }
            }
        };
        self.tell_candidate(Input::Reply { session: number, reply });
    }

    /// The candidate becomes the link, and its attempt the session. One that is still there is cut.
    fn replace_session(&mut self) {
        let Some(candidate) = self.candidate.take() else { return };
        let candidate = *candidate;
        (self.link, self.session, self.lines) = (candidate.link, candidate.session, candidate.lines);
        if let Some(told) = candidate.told_spool {
            self.commands.told_spool(told);
        }
        self.status.master = candidate.master;
        // Other than any that it can be in now: the status is written, whatever that is.
        self.status.phase = Phase::Start;
        self.report_address = candidate.report_address;
        if let Some((_, peer)) = candidate.addresses {
            self.watch.met(&self.status.master, peer);
        }
    }

    /// The session is over and was closed: what was to take its place is all there is now.
    pub(super) fn lost_before_replaced(&mut self, reason: LossReason, detail: String, failures: u32) {
        let now = self.clock.now();
        let Some(candidate) = &mut self.candidate else { return };
        let waits = matches!(candidate.link.state(), Phase::Disconnected | Phase::Reconnecting);
        let due = candidate.link.poll_timeout().filter(|_| waits);
        let wait = due.map_or(Duration::ZERO, |due| due.saturating_sub(now));
        let next = candidate.link.master();
        // By its own registration: no loss.
        if reason != LossReason::Superseded || candidate.told_spool.is_none() {
            candidate.link.without_the_former(now);
            candidate.held_back.clear();
            candidate.rests_on.masters.clone_from(&self.config.masters);
            self.report(&Report::Lost { reason, detail, failures, wait, next });
        }
        self.replace_session();
        if waits && reason == LossReason::NetworkChanged {
            self.tell(Input::Woken(link::WakeReason::Network));
        }
    }

    pub(super) fn carry_out_candidate(&mut self) {
        while let Some(output) = self.candidate.as_mut().and_then(|candidate| candidate.link.poll_output()) {
            match output {
                Output::Dial { session, master } => {
                    let session = self.dial(session, master);
                    self.candidate.as_mut().expect("it has put this out").session = Some(session);
                }
                Output::Register { will_wait, .. } => {
                    let spool_id = self.commands.spool_id_to_tell();
                    let report_address = self.candidate.as_ref().map(|candidate| candidate.report_address.clone());
                    let mut register = self.register(will_wait, spool_id, report_address.unwrap_or_default());
                    register.renews = self.session.is_some();
                    let candidate = self.candidate.as_mut().expect("it has put this out");
                    if let Some(session) = &mut candidate.session {
                        session.register(register);
                        candidate.told_spool = Some(spool_id);
                    }
                }
                Output::Close { session, .. } => self.candidate_failed(session),
                Output::Report(report) => self.candidate_report(&report),
                // Only once it is registered, or asked to end: it is the link itself by then.
                Output::Heartbeat { .. } | Output::Goodbye { .. } | Output::Interrupt | Output::Stop => {}
            }
        }
    }

    /// The first that it closes is that of the link it was made from, which is not its own.
    fn candidate_failed(&mut self, number: link::Session) {
        let Some(candidate) = &mut self.candidate else { return };
        if candidate.session.as_ref().is_none_or(|session| session.number != number) {
            return;
        }
        (candidate.session, candidate.told_spool) = (None, None);
        let held_back = std::mem::take(&mut candidate.held_back);
        held_back.into_iter().for_each(|event| self.session_event(event));
    }

    fn candidate_report(&mut self, report: &Report) {
        let now = self.clock.now();
        let Some(candidate) = &mut self.candidate else { return };
        if let Report::Connecting { master, .. } = report {
            candidate.master = self.config.masters[*master].to_string();
        }
        let context = Context {
            master: &candidate.master,
            masters: &self.config.masters,
            report_address: &candidate.report_address,
            heartbeat_timeout: self.config.heartbeat.timeout,
            shutdown_grace: self.config.shutdown_grace,
            commands_running: self.commands.unsettled(),
        };
        let mut lines = candidate.lines.of(now, report, &context);
        let waits = match report {
            Report::AttemptFailed { wait, .. } | Report::Deferred { wait, .. } => !wait.is_zero(),
            _ => false,
        };
        if waits && !std::mem::replace(&mut candidate.told, true) {
            let text = format!("Staying with master at {} until another session is registered", self.status.master);
            lines.push(Line::Log(log::Level::Warn, text));
        }
        lines.into_iter().for_each(|line| self.keeper.line(line));
    }
}
