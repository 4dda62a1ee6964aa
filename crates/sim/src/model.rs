//! All histories of one link up to a depth: every order of everything that can happen to it, at every moment at which
//! it can make a difference.

use crate::agent::params;
use link::{Close, Input, Link, LossReason, Output, Params, Phase, Reply, Report, Session, WakeReason};
use std::{collections::HashSet, time::Duration};

/// Between two inputs that come as soon as they can.
const SOON: Duration = Duration::from_millis(200);

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// Inputs that were given.
    pub inputs: u64,
    /// Different histories that ended in a link like one seen before, at no smaller depth.
    pub merged: u64,
}

#[derive(Clone)]
struct Node {
    link: Link,
    now: Duration,
    truth: Truth,
}

/// What the link must agree with.
#[derive(Clone, Debug, Default)]
struct Truth {
    session: u64,
    /// A dial without a close.
    open: bool,
    /// Lost or failed without a wait since the last stable session.
    waits: u32,
    active_since: Option<Duration>,
    stopped: bool,
    shutting_down: bool,
    beat: u64,
    acked: u64,
    /// Since the last answer the way is another: nothing was tried over it, so a loss has no wait.
    rerouted: bool,
}

/// Every history of `depth` inputs.
///
/// # Errors
/// The first history that breaks a rule, input by input.
pub fn explore(depth: u32) -> Result<Explored, String> {
    let params = Params { jitter: 0.0, ..params() };
    let link = Link::new(params, 1);
    let mut explored = Explored::default();
    let mut seen = HashSet::new();
    let mut path = Vec::new();
    let root = Node { link, now: Duration::from_secs(100), truth: Truth::default() };
    descend(&root, depth, &mut path, &mut seen, &mut explored)?;
    Ok(explored)
}

fn descend(
    node: &Node,
    depth: u32,
    path: &mut Vec<String>,
    seen: &mut HashSet<u64>,
    explored: &mut Explored,
) -> Result<(), String> {
    if depth == 0 {
        return Ok(());
    }
    for (wait, input) in inputs(node) {
        let mut next = node.clone();
        next.now += wait;
        path.push(format!("{:?} {input:?}", next.now));
        explored.inputs += 1;
        if let Err(what) = give(&mut next, input) {
            return Err(format!("{what}\n  {}", path.join("\n  ")));
        }
        if seen.insert(fingerprint(&next, depth)) {
            descend(&next, depth - 1, path, seen, explored)?;
        } else {
            explored.merged += 1;
        }
        path.pop();
    }
    Ok(())
}

/// What can happen next: soon, and when the link's own time has come.
fn inputs(node: &Node) -> Vec<(Duration, Input)> {
    let session = Session(node.truth.session);
    let reply = |reply| Input::Reply { session, reply };
    let failed = |reason| Reply::Failed { reason, detail: String::new() };
    let mut inputs = vec![
        (SOON, Input::Start),
        (SOON, reply(Reply::Dialled)),
        (SOON, reply(Reply::Registered { interval: None })),
        (SOON, reply(Reply::Ack { seq: node.truth.beat, interval: None })),
        (SOON, reply(failed(LossReason::ConnectionReset))),
        (SOON, reply(failed(LossReason::UnknownAgent))),
        (SOON, reply(failed(LossReason::NameTaken))),
        (SOON, reply(Reply::RetryLater { after: Duration::from_secs(1_000_000), reason: String::new() })),
        (SOON, reply(Reply::Goodbye { after: Duration::ZERO, reason: String::new() })),
        (SOON, Input::Woken(WakeReason::Network)),
        (SOON, Input::RouteChanged),
        (SOON, Input::SourceAddressGone),
        (SOON, Input::Renew),
        (SOON, Input::Shutdown),
        (SOON, Input::Settled),
        (SOON, Input::Drained),
        (SOON, Input::Timeout),
    ];
    if node.truth.session > 1 {
        let old = Session(node.truth.session - 1);
        inputs.push((SOON, Input::Reply { session: old, reply: failed(LossReason::StreamClosed) }));
        inputs.push((SOON, Input::Reply { session: old, reply: Reply::Registered { interval: None } }));
    }
    if let Some(due) = node.link.poll_timeout() {
        inputs.push((due.saturating_sub(node.now), Input::Timeout));
        inputs.push((due.saturating_sub(node.now) + Duration::from_secs(3_600), Input::Timeout));
    }
    inputs
}

/// One input, and everything that must hold after it.
fn give(node: &mut Node, input: Input) -> Result<(), String> {
    let old = matches!(&input, Input::Reply { session, .. } if session.0 != node.truth.session);
    let before = (node.link.state(), node.link.poll_timeout());
    node.truth.shutting_down |= matches!(input, Input::Shutdown);
    match &input {
        Input::RouteChanged => node.truth.rerouted |= before.0 == Phase::Active,
        Input::Reply { reply: Reply::Ack { seq, .. }, .. } if !old && *seq > node.truth.acked => {
            (node.truth.acked, node.truth.rerouted) = (*seq, false);
        }
        _ => {}
    }
    node.link.handle(node.now, input);
    let mut silent = true;
    while let Some(output) = node.link.poll_output() {
        silent = false;
        judge(node, &output).map_err(|what| format!("{what}: {output:?}"))?;
    }
    if old && (!silent || before != (node.link.state(), node.link.poll_timeout())) {
        return Err("a reply of an old session changed something".to_owned());
    }
    let phase = node.link.state();
    if node.truth.open != matches!(phase, Phase::Connecting | Phase::Registered | Phase::Active) {
        return Err(format!("open: {}, in {phase:?}", node.truth.open));
    }
    if node.truth.stopped != (phase == Phase::Stopped) {
        return Err(format!("stopped: {}, in {phase:?}", node.truth.stopped));
    }
    match node.link.poll_timeout() {
        None if !matches!(phase, Phase::Start | Phase::Stopped) => Err(format!("waits for nothing in {phase:?}")),
        Some(due) if due > node.now + Duration::from_secs(600) => Err(format!("sleeps until {due:?} in {phase:?}")),
        _ => Ok(()),
    }
}

fn judge(node: &mut Node, output: &Output) -> Result<(), String> {
    let (now, truth) = (node.now, &mut node.truth);
    if truth.stopped {
        return Err("after its end".to_owned());
    }
    match output {
        Output::Dial { session, .. } => {
            if truth.open || session.0 != truth.session + 1 {
                return Err(format!("a second connection, or not the next number: {truth:?}"));
            }
            (truth.session, truth.open, truth.beat) = (session.0, true, 0);
            (truth.acked, truth.rerouted) = (0, false);
        }
        Output::Close { session, how } => {
            if !truth.open || session.0 != truth.session {
                return Err(format!("closes what is not open: {truth:?}"));
            }
            if *how == Close::Graceful && !truth.shutting_down {
                return Err("a loss must close at once".to_owned());
            }
            (truth.open, truth.active_since) = (false, None);
        }
        Output::Register { session, .. } | Output::Goodbye { session } => {
            if !truth.open || session.0 != truth.session {
                return Err(format!("for another session: {truth:?}"));
            }
        }
        Output::Heartbeat { session, seq, last_ack } => {
            if session.0 != truth.session || *seq != truth.beat + 1 || *last_ack >= *seq {
                return Err(format!("a heartbeat out of order: {truth:?}"));
            }
            truth.beat = *seq;
        }
        Output::Report(report) => return judge_report(now, truth, report),
        Output::Interrupt => {}
        Output::Stop => truth.stopped = true,
    }
    Ok(())
}

fn judge_report(now: Duration, truth: &mut Truth, report: &Report) -> Result<(), String> {
    let params = params();
    match report {
        Report::Active { .. } => truth.active_since = Some(now),
        Report::Stable => {
            if truth.active_since.is_none_or(|since| now < since + params.reset_after) {
                return Err("stable too soon".to_owned());
            }
            truth.waits = 0;
        }
        Report::Lost { reason, wait, .. } | Report::AttemptFailed { reason, wait, .. } => {
            let at_once = match reason {
                LossReason::UnknownAgent | LossReason::NetworkChanged => true,
                LossReason::HeartbeatTimeout => truth.rerouted,
                _ => false,
            };
            if at_once && wait.is_zero() {
                return Ok(());
            }
            if *reason == LossReason::MasterGoodbye {
                let clamped = *wait >= Duration::from_millis(100) && *wait <= Duration::from_secs(600);
                return if clamped { Ok(()) } else { Err("the master's wait is not clamped".to_owned()) };
            }
            truth.waits += 1;
            let table = [5, 10, 20, 40, 60].map(Duration::from_secs);
            let expected = if reason.needs_a_person() { table[4] } else { table[(truth.waits as usize - 1).min(4)] };
            if *wait != expected {
                return Err(format!("wait {} is not {expected:?}", truth.waits));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Histories that lead to the same link at the same moment are gone on with once.
fn fingerprint(node: &Node, depth: u32) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    // Its own moment counts: deadlines are absolute.
    (format!("{:?}", node.link), node.now, format!("{:?}", node.truth), depth).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::explore;

    #[test]
    fn every_history_of_six_inputs_keeps_the_rules() {
        let explored = explore(6).unwrap_or_else(|what| panic!("{what}"));
        assert!(explored.inputs > 50_000, "{explored:?}");
    }
}
