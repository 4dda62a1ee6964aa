use super::*;
use crate::link::types::Seconds;

mod history;
mod masters;
mod shutdown;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The documented defaults, without jitter.
fn params() -> Params {
    Params { jitter: 0.0, ..Params::documented(vec!["a".into()]) }
}

/// A link whose time runs from one due moment to the next, and what it put out with the moment.
#[derive(Clone)]
struct Bench {
    link: Link,
    now: Duration,
    log: Vec<(Duration, Output)>,
}

impl Bench {
    fn new(params: Params) -> Self {
        let mut bench = Self { link: Link::new(params, 1), now: Duration::ZERO, log: Vec::new() };
        bench.input(Input::Start);
        bench
    }

    /// Registered and Active at the present moment.
    fn active(params: Params) -> Self {
        let mut bench = Self::new(params);
        bench.activate();
        bench
    }

    fn activate(&mut self) {
        self.reply(Reply::Dialled);
        self.reply(Reply::Registered { interval: None });
        assert_eq!(self.link.state(), Phase::Registered);
        self.ack();
        assert_eq!(self.link.state(), Phase::Active);
    }

    fn input(&mut self, input: Input) {
        self.link.handle(self.now, input);
        while let Some(output) = self.link.poll_output() {
            self.log.push((self.now, output));
        }
    }

    fn reply(&mut self, reply: Reply) {
        self.input(Input::Reply { session: self.link.session, reply });
    }

    fn fail(&mut self, reason: LossReason) {
        self.reply(Reply::Failed { reason, detail: String::new() });
    }

    /// Acknowledges the latest heartbeat.
    fn ack(&mut self) {
        let seq = self.last_seq();
        self.reply(Reply::Ack { seq, interval: None });
    }

    fn last_seq(&self) -> u64 {
        let sent = |output: &Output| if let Output::Heartbeat { seq, .. } = output { Some(*seq) } else { None };
        self.log.iter().rev().find_map(|(_, output)| sent(output)).expect("a heartbeat was sent")
    }

    /// Runs all that is due up to and including `until`.
    fn run(&mut self, until: Duration) {
        while let Some(at) = self.link.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    /// The same with a master that acknowledges at once.
    fn run_acked(&mut self, until: Duration) {
        while let Some(at) = self.link.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            let sent = self.log.len();
            self.input(Input::Timeout);
            if self.log[sent..].iter().any(|(_, output)| matches!(output, Output::Heartbeat { .. })) {
                self.ack();
            }
        }
        self.now = until;
    }

    /// Which master was dialled in which second.
    fn tried(&self) -> Vec<(usize, u64)> {
        let dialled = |(at, output): &(Duration, Output)| match output {
            Output::Dial { master, .. } => Some((*master, at.as_secs())),
            _ => None,
        };
        self.log.iter().filter_map(dialled).collect()
    }

    fn beats(&self) -> Vec<u64> {
        self.moments(|output| matches!(output, Output::Heartbeat { .. }))
    }

    fn dials(&self) -> Vec<u64> {
        self.moments(|output| matches!(output, Output::Dial { .. }))
    }

    /// Whole seconds at which matching outputs came.
    fn moments(&self, matches: impl Fn(&Output) -> bool) -> Vec<u64> {
        self.log.iter().filter(|(_, output)| matches(output)).map(|(at, _)| at.as_secs()).collect()
    }

    fn reports(&self) -> Vec<&Report> {
        self.log.iter().filter_map(|(_, o)| if let Output::Report(report) = o { Some(report) } else { None }).collect()
    }

    fn losses(&self) -> Vec<(Duration, LossReason)> {
        let lost = |(at, output): &(Duration, Output)| match output {
            Output::Report(Report::Lost { reason, .. }) => Some((*at, *reason)),
            _ => None,
        };
        self.log.iter().filter_map(lost).collect()
    }
}

#[test]
fn all_documented_states_are_passed_and_seen() {
    let mut bench = Bench::new(params());
    let mut seen = vec![bench.link.state()];
    bench.reply(Reply::Dialled);
    bench.reply(Reply::Registered { interval: None });
    seen.push(bench.link.state());
    bench.ack();
    seen.push(bench.link.state());
    bench.fail(LossReason::ConnectionReset);
    seen.push(bench.link.state());
    bench.run(ms(1));
    seen.push(bench.link.state());
    use Phase::*;
    assert_eq!(seen, [Connecting, Registered, Active, Disconnected, Reconnecting]);
}

#[test]
fn refused_dials_follow_the_documented_table() {
    let mut bench = Bench::new(params());
    for until in [5, 15, 35, 75, 135, 195, 255] {
        bench.fail(LossReason::ConnectionRefused);
        bench.run(s(until));
    }
    assert_eq!(bench.dials(), [0, 5, 15, 35, 75, 135, 195, 255]);
    let attempts: Vec<u32> = bench
        .reports()
        .iter()
        .filter_map(|report| if let Report::AttemptFailed { attempt, .. } = report { Some(*attempt) } else { None })
        .collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn attempts_are_counted_in_each_outage() {
    let mut bench = Bench::new(params());
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(5));
    bench.activate();
    bench.fail(LossReason::ConnectionReset);
    bench.run(s(15));
    bench.fail(LossReason::ConnectionRefused);
    assert!(matches!(bench.reports().last(), Some(Report::AttemptFailed { attempt: 1, .. })));
}

#[test]
fn dial_and_registration_share_one_timeout() {
    let mut bench = Bench::new(params());
    bench.run(s(6));
    bench.reply(Reply::Dialled);
    let register = bench.log.last().map(|(_, output)| output.clone());
    assert_eq!(register, Some(Output::Register { session: Session(1), will_wait: s(4) }));
    bench.run(s(10));
    assert!(matches!(
        bench.reports().last(),
        Some(Report::AttemptFailed { reason: LossReason::ConnectionTimeout, wait, .. }) if *wait == s(5)
    ));
}

#[test]
fn silence_is_a_loss_after_three_unanswered_heartbeats() {
    let mut bench = Bench::active(params());
    bench.run(s(60));
    // Beats at 5, 10 and 15 go unanswered; the first was due 5 s after the last answered one.
    assert_eq!(bench.losses()[0], (s(20), LossReason::HeartbeatTimeout));
    let beats: Vec<u64> = bench.beats().into_iter().take_while(|at| *at <= 20).collect();
    assert_eq!(beats, [0, 5, 10, 15]);
    let failed = |n| Report::HeartbeatFailed { failures: n, max: 3 };
    let reports: Vec<Report> = bench.reports().into_iter().cloned().collect();
    for n in 1..=3 {
        assert!(reports.contains(&failed(n)), "no report of failure {n}");
    }
    // Waits after the loss: 5 s.
    assert_eq!(bench.dials()[1], 25);
}

#[test]
fn a_masters_verdict_that_comes_first_is_told_like_the_own_one() {
    // A dead way up: the beats at 5, 10 and 15 are not heard, and the master's patience since the one at 0 ends with
    // the third answer's time, give or take a moment.
    let told = |masters_verdict: Duration| {
        let mut bench = Bench::active(params());
        bench.run(masters_verdict);
        bench.reply(Reply::Failed { reason: LossReason::HeartbeatTimeout, detail: "nothing was heard".to_owned() });
        let said = |report: &&Report| matches!(report, Report::HeartbeatFailed { .. } | Report::Lost { .. });
        bench.reports().into_iter().filter(said).cloned().collect::<Vec<_>>()
    };
    let first = told(ms(19_999));
    let lost = first.last().expect("a loss");
    assert!(matches!(lost, Report::Lost { reason: LossReason::HeartbeatTimeout, failures: 3, .. }), "{lost:?}");
    let failed = |n| Report::HeartbeatFailed { failures: n, max: 3 };
    assert_eq!(first[..3], [failed(1), failed(2), failed(3)]);
    assert_eq!(first.len(), 4);
    // A verdict out of the blue, as after a pause of this process, is told in the master's words.
    let early = told(s(7));
    let [Report::Lost { failures: 0, detail, .. }] = &early[..] else { panic!("{early:?}") };
    assert_eq!(detail, "nothing was heard");
}

#[test]
fn a_registration_without_any_ack_is_lost_after_three_heartbeats() {
    let mut bench = Bench::new(params());
    bench.reply(Reply::Dialled);
    bench.reply(Reply::Registered { interval: None });
    bench.run(s(16));
    assert_eq!(bench.losses(), [(s(15), LossReason::HeartbeatTimeout)]);
}

#[test]
fn a_shorter_timeout_brings_the_following_beats_closer() {
    let mut bench = Bench::active(Params { heartbeat_interval: s(30), heartbeat_timeout: s(2), ..params() });
    bench.run(s(40));
    assert_eq!(bench.beats().into_iter().take(4).collect::<Vec<_>>(), [0, 30, 32, 34]);
    assert_eq!(bench.losses()[0].0, s(36));
}

#[test]
fn late_acks_clear_the_failures_and_the_session_holds() {
    let mut bench = Bench::active(params());
    bench.run(s(16));
    assert_eq!(bench.beats(), [0, 5, 10, 15]);
    // The ack of the beat at 5 s, eleven seconds late.
    bench.reply(Reply::Ack { seq: 2, interval: None });
    assert!(bench.reports().contains(&&Report::HeartbeatRecovered { failures: 2, round_trip: s(11) }));
    for seq in 3..60 {
        bench.run(bench.now + s(5));
        bench.reply(Reply::Ack { seq, interval: None });
    }
    assert_eq!(bench.losses(), []);
    assert_eq!(bench.link.state(), Phase::Active);
}

#[test]
fn acks_that_are_no_news_change_nothing() {
    let mut bench = Bench::active(params());
    bench.run(s(11));
    for seq in [0, 1, 4, 99] {
        bench.reply(Reply::Ack { seq, interval: None });
    }
    bench.run(s(21));
    assert_eq!(bench.losses()[0], (s(20), LossReason::HeartbeatTimeout));
}

#[test]
fn a_closed_stream_is_a_loss_at_once() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(7));
    bench.fail(LossReason::ConnectionReset);
    assert_eq!(bench.losses(), [(s(7), LossReason::ConnectionReset)]);
    assert!(bench.log.contains(&(s(7), Output::Close { session: Session(1), how: Close::Abort })));
    bench.run(s(12));
    assert_eq!(bench.dials(), [0, 12]);
}

#[test]
fn unknown_agent_registers_again_at_once_and_only_once() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(3));
    bench.fail(LossReason::UnknownAgent);
    assert_eq!((bench.link.state(), bench.dials()), (Phase::Connecting, vec![0, 3]));
    bench.activate();
    bench.fail(LossReason::UnknownAgent);
    assert_eq!(bench.link.state(), Phase::Disconnected);
    bench.run(s(8));
    assert_eq!(bench.dials(), [0, 3, 8]);
    // A stable session later it may do so again.
    bench.activate();
    bench.run_acked(s(39));
    bench.fail(LossReason::UnknownAgent);
    assert_eq!(bench.link.state(), Phase::Connecting);
}

#[test]
fn a_master_that_forgets_again_and_again_gets_one_registration_at_once_in_each_such_time() {
    let params = Params { delay_max: s(5), ..params() };
    let reset_after = params.reset_after;
    let mut bench = Bench::active(params);
    let mut at_once = Vec::new();
    while bench.now < 10 * reset_after {
        bench.run_acked(bench.now + ms(300));
        bench.fail(LossReason::UnknownAgent);
        if bench.link.state() == Phase::Connecting {
            at_once.push(bench.now);
        }
        while bench.link.state() != Phase::Connecting {
            let due = bench.link.poll_timeout().expect("it waits");
            bench.run(due);
        }
        bench.activate();
    }
    assert!(at_once.len() > 7, "{at_once:?}");
    assert!(at_once.windows(2).all(|pair| pair[1] >= pair[0] + reset_after), "{at_once:?}");
}

#[test]
fn flapping_master_meets_growing_waits() {
    let mut bench = Bench::new(params());
    for until in [5, 15, 35, 75, 135] {
        bench.activate();
        bench.fail(LossReason::StreamClosed);
        bench.run(s(until));
    }
    assert_eq!(bench.dials(), [0, 5, 15, 35, 75, 135]);
}

#[test]
fn a_stable_session_begins_the_table_again() {
    let mut bench = Bench::new(params());
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(5));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(15));
    bench.activate();
    bench.run_acked(s(44));
    assert!(!bench.reports().contains(&&Report::Stable), "not before 30 s");
    bench.run_acked(s(45));
    assert_eq!(bench.reports().last(), Some(&&Report::Stable));
    bench.fail(LossReason::ConnectionReset);
    bench.run(s(50));
    assert_eq!(bench.dials().last(), Some(&50));
}

#[test]
fn what_a_person_must_mend_waits_longest_and_never_stops() {
    for reason in [LossReason::Unauthorized, LossReason::DuplicateId, LossReason::NameTaken] {
        let mut bench = Bench::new(params());
        for until in [60, 120, 180] {
            bench.fail(reason);
            bench.run(s(until));
        }
        assert_eq!(bench.dials(), [0, 60, 120, 180], "{reason}");
    }
}

#[test]
fn a_masters_wait_is_clamped_and_no_failure() {
    for (asked, waited) in [(ms(0), ms(100)), (s(7), s(7)), (s(9_999), s(600))] {
        let mut bench = Bench::new(params());
        bench.reply(Reply::Dialled);
        bench.reply(Reply::RetryLater { after: asked, reason: "busy".into() });
        let deferred = Report::Deferred { master: 0, after: waited, wait: waited, next: 0, reason: "busy".into() };
        assert!(bench.reports().contains(&&deferred));
        bench.run(waited);
        assert_eq!(bench.link.state(), Phase::Connecting);
        bench.fail(LossReason::ConnectionRefused);
        assert_eq!(bench.link.backoff.delay(1), s(5));
        bench.run(waited + s(5));
        assert_eq!(bench.dials().len(), 3, "the first wait of the table came after it");
    }
}

#[test]
fn a_goodbye_comes_back_when_the_master_said() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(2));
    bench.reply(Reply::Goodbye { after: s(3), reason: "restart".into() });
    assert_eq!(bench.losses(), [(s(2), LossReason::MasterGoodbye)]);
    bench.run(s(5));
    assert_eq!(bench.dials(), [0, 5]);
}

#[test]
fn a_wake_up_dials_at_once_but_once_a_second() {
    let mut bench = Bench::new(params());
    bench.fail(LossReason::Unreachable);
    bench.run(s(2));
    bench.input(Input::Woken(WakeReason::Network));
    assert_eq!(bench.link.state(), Phase::Connecting);
    bench.fail(LossReason::Unreachable);
    bench.run(ms(2_100));
    for _ in 0..50 {
        bench.input(Input::Woken(WakeReason::Network));
    }
    assert_eq!(bench.dials(), [0, 2]);
    bench.run(s(3));
    assert_eq!(bench.dials(), [0, 2, 3], "kept for later, not forgotten");
}

#[test]
fn a_lost_source_address_dials_without_a_wait() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(4));
    bench.input(Input::SourceAddressGone);
    assert_eq!(bench.losses(), [(s(4), LossReason::NetworkChanged)]);
    bench.run(s(4));
    assert_eq!(bench.dials(), [0, 4]);
}

#[test]
fn another_route_is_tried_by_a_heartbeat_at_once() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(2));
    bench.input(Input::RouteChanged);
    assert_eq!(bench.beats(), [0, 2]);
    bench.run(s(60));
    assert_eq!(bench.losses()[0].0, s(17), "judged from that beat on");
    assert_eq!(bench.dials()[..2], [0, 17], "over the new way, which nothing was tried over yet");
}

#[test]
fn a_way_that_has_brought_an_answer_is_no_new_one() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(2));
    bench.input(Input::RouteChanged);
    bench.run_acked(s(12));
    bench.run(s(60));
    let lost = bench.losses()[0].0;
    assert!(bench.dials()[1] >= lost.as_secs() + 4, "{:?}", bench.dials());
}

#[test]
fn replies_of_an_older_session_change_nothing() {
    let mut bench = Bench::active(params());
    bench.fail(LossReason::ConnectionReset);
    bench.run(s(5));
    let before = (bench.log.len(), bench.link.state());
    for reply in [
        Reply::Dialled,
        Reply::Registered { interval: None },
        Reply::Ack { seq: 1, interval: None },
        Reply::Failed { reason: LossReason::StreamClosed, detail: String::new() },
        Reply::Goodbye { after: s(1), reason: String::new() },
        Reply::RetryLater { after: s(1), reason: String::new() },
    ] {
        bench.input(Input::Reply { session: Session(1), reply });
        assert_eq!((bench.log.len(), bench.link.state()), before);
    }
}

#[test]
fn the_master_may_stretch_the_interval_within_bounds() {
    for (asked, kept) in [(s(1), 5), (s(20), 20), (s(900), 60)] {
        let mut bench = Bench::new(params());
        bench.reply(Reply::Dialled);
        bench.reply(Reply::Registered { interval: Some(asked) });
        bench.ack();
        bench.run_acked(s(kept));
        assert_eq!(bench.beats(), [0, kept]);
        bench.reply(Reply::Ack { seq: 2, interval: None });
        bench.run(s(kept + 4));
        assert_eq!(bench.beats(), [0, kept]);
    }
    let mut bench = Bench::active(params());
    bench.run(s(5));
    bench.reply(Reply::Ack { seq: 2, interval: Some(s(12)) });
    bench.run_acked(s(18));
    assert_eq!(bench.beats(), [0, 5, 17]);
}

#[test]
fn waits_are_written_with_at_most_one_decimal() {
    for (duration, text) in
        [(s(5), "5s"), (ms(4_321), "4.3s"), (ms(9_960), "10s"), (s(600), "600s"), (ms(30), "30ms"), (ms(100), "0.1s")]
    {
        assert_eq!(Seconds(duration).to_string(), text);
    }
}

#[test]
fn other_parameters_hold_from_the_next_session_and_wait_on() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(2));
    bench.link.set_params(Params { heartbeat_interval: s(9), delay_initial: s(3), ..params() });
    bench.input(Input::Renew);
    assert_eq!((bench.dials(), bench.losses()), (vec![0, 2], vec![]));
    bench.activate();
    bench.run_acked(s(11));
    assert_eq!(bench.beats(), [0, 2, 11]);
    bench.fail(LossReason::ConnectionReset);
    bench.run(s(14));
    assert_eq!(bench.dials(), [0, 2, 14]);
}
