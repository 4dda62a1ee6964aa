//! Histories from a seed: the promises that hold in every one.

use super::*;

/// 0 to `bound`, without it.
fn drawn(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |bound| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    }
}

fn several(masters: usize) -> Params {
    Params { jitter: 0.2, masters: (0..masters).map(|n| n.to_string()).collect(), ..params() }
}

/// Any input at any time.
#[test]
fn random_histories_keep_the_invariants() {
    for seed in 0..600_u64 {
        let mut next = drawn(seed);
        let mut bench = Bench::new(several(1 + (seed % 4) as usize));
        for _ in 0..400 {
            let session = Session(bench.link.session.0.saturating_sub(next(2)));
            let reply = match next(9) {
                0 => Reply::Dialled,
                1 | 2 => Reply::Registered { interval: Some(s(next(100))) },
                3 | 4 => Reply::Ack { seq: next(6), interval: None },
                5 => Reply::RetryLater { after: s(next(1_000)), reason: String::new() },
                6 => Reply::Goodbye { after: s(next(1_000)), reason: String::new() },
                n => Reply::Failed { reason: LossReason::ALL[next(16) as usize], detail: n.to_string() },
            };
            match next(8) {
                0 => bench.input(Input::Woken(WakeReason::Network)),
                1 => bench.input(Input::RouteChanged),
                2 if next(4) == 0 => bench.input(Input::SourceAddressGone),
                2 if next(4) == 0 => bench.input(Input::Renew),
                3 | 4 => bench.run(bench.now + ms(next(30_000))),
                _ => bench.input(Input::Reply { session, reply }),
            }
            let due = bench.link.poll_timeout().expect("a link that was not shut down always has a next moment");
            assert!(due <= bench.now + s(600), "seed {seed}: nothing happens before {due:?}, now {:?}", bench.now);
        }
        check_history(seed, &bench);
    }
}

/// The list of masters changes at any time, as a reload does it: the session is renewed where its master is gone, and a
/// wait is ended. Nothing is dialled that is not in the list, there always is a next moment, and what is skipped is in
/// the list.
#[test]
fn lists_that_change_at_any_time_leave_no_session_with_a_master_that_is_gone() {
    for seed in 0..400_u64 {
        let mut next = drawn(seed);
        let mut names: Vec<String> = (0..3).map(|n| n.to_string()).collect();
        let quick = Params { breaker_failures_max: 1 + next(3) as u32, ..params() };
        let mut bench = Bench::new(Params { masters: names.clone(), ..quick.clone() });
        let (mut seen, mut with) = (0, String::new());
        for _ in 0..300 {
            let session = bench.link.session;
            match next(8) {
                0 => {
                    let first = next(5);
                    names = (0..1 + next(4)).map(|n| ((first + n) % 5).to_string()).collect();
                    bench.link.set_params(Params { masters: names.clone(), ..quick.clone() });
                    if !names.contains(&with) {
                        bench.input(Input::Renew);
                    }
                    bench.input(Input::Woken(WakeReason::Operator));
                }
                1 => bench.input(Input::Woken(WakeReason::Network)),
                2 => bench.run(bench.now + ms(next(20_000))),
                3 => bench.input(Input::Reply { session, reply: Reply::Dialled }),
                4 => bench.input(Input::Reply { session, reply: Reply::Registered { interval: None } }),
                5 => bench.input(Input::Reply { session, reply: Reply::Ack { seq: 1, interval: None } }),
                6 => bench.input(Input::Reply { session, reply: Reply::Goodbye { after: s(9), reason: "".into() } }),
                _ => bench.fail([LossReason::ConnectionRefused, LossReason::UnknownAgent][next(2) as usize]),
            }
            for (at, output) in &bench.log[seen..] {
                if let Output::Dial { master, .. } = output {
                    let name = names.get(*master);
                    with.clone_from(
                        name.unwrap_or_else(|| panic!("seed {seed}: dials {master} of {names:?} at {at:?}")),
                    );
                }
            }
            seen = bench.log.len();
            if matches!(bench.link.state(), Phase::Connecting | Phase::Registered | Phase::Active) {
                assert!(names.contains(&with), "seed {seed}: with {with} of {names:?}");
                assert_eq!(names[bench.link.masters.current()], with, "seed {seed}");
            }
            let due = bench.link.poll_timeout().expect("it was not shut down");
            assert!(due <= bench.now + s(60), "seed {seed}: nothing happens before {due:?}, now {:?}", bench.now);
            assert!((names.len()..9).all(|gone| bench.link.skipped_until(gone).is_none()), "seed {seed}");
        }
    }
}

/// Every dial is closed before the next, beats belong to a registered session, and each loss is told once.
fn check_history(seed: u64, bench: &Bench) {
    let (mut open, mut registered) = (None, false);
    for (index, (at, output)) in bench.log.iter().enumerate() {
        match output {
            Output::Dial { session, master } => {
                assert!(*master < 1 + (seed % 4) as usize, "seed {seed}: no such master");
                assert_eq!(open, None, "seed {seed}: dialled with a session open at {at:?}");
                open = Some(*session);
                registered = false;
            }
            Output::Close { session, .. } => {
                if matches!(bench.log.get(index + 1), Some((_, Output::Report(Report::Renewed)))) {
                    registered = false;
                }
                assert_eq!(open.take(), Some(*session), "seed {seed}: closed what was not open at {at:?}");
            }
            Output::Report(Report::Registered { .. }) => registered = true,
            Output::Report(Report::Lost { .. }) => {
                assert!(std::mem::take(&mut registered), "seed {seed}: lost without a session at {at:?}");
            }
            Output::Heartbeat { session, .. } => {
                assert!(registered && open == Some(*session), "seed {seed}: beat without a session at {at:?}");
            }
            _ => {}
        }
    }
}

/// What a master does in a simulated outage.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// The attempt fails at once, for a reason of its own or one that a person must mend.
    Refuse(LossReason),
    /// … after `connection.timeout`.
    Hang,
    Defer(Duration),
    /// Accepts, and loses the session after so long.
    Flap(Duration),
    Serve,
}

fn draw_does(next: &mut impl FnMut(u64) -> u64) -> Does {
    match next(8) {
        0..=2 => Does::Refuse(LossReason::ConnectionRefused),
        3 => Does::Refuse(LossReason::NameTaken),
        4 | 5 => Does::Hang,
        6 => Does::Defer(s(next(20))),
        _ => Does::Flap(s(next(20))),
    }
}

/// Masters that fail in every way, each for a while; then one of them serves: found within the bound that
/// docs/design.md states, and nothing tried too early or waited for too long on the way.
#[test]
fn whichever_master_serves_is_found_in_time_and_none_is_hammered() {
    for seed in 0..800_u64 {
        let mut next = drawn(seed);
        let n = 1 + (seed % 4) as usize;
        let open_for = [s(7), s(300)][next(2) as usize];
        let params = Params {
            breaker_failures_max: 1 + next(5) as u32,
            breaker_open_for: open_for,
            reset_after: s(30),
            ..several(n)
        };
        let mut does: Vec<Does> = (0..n).map(|_| draw_does(&mut next)).collect();
        let mut bench = Bench::new(params.clone());
        let mut watch = Watch::new(n);
        let mends_at = s(next(3_000));
        while bench.now < mends_at {
            if next(20) == 0 {
                does[next(n as u64) as usize] = draw_does(&mut next);
            }
            step(&mut bench, &does, &mut watch, &params, seed);
        }
        let serving = next(n as u64) as usize;
        for does in &mut does {
            // Of the others none holds the agent; and a master's own wish is not the agent's to bound.
            if matches!(does, Does::Flap(_) | Does::Defer(_)) {
                *does = Does::Hang;
            }
        }
        does[serving] = Does::Serve;
        let mended = bench.now;
        while !(bench.link.state() == Phase::Active && bench.link.masters.current() == serving) {
            step(&mut bench, &does, &mut watch, &params, seed);
            let skipped = if n > 1 { open_for } else { Duration::ZERO };
            let bound = skipped + params.delay_max + params.connection_timeout * 2 * n as u32;
            let took = bench.now - mended;
            assert!(took <= bound + s(20), "seed {seed}: {serving} of {n} not found in {took:?}: {does:?}");
        }
    }
}

/// What was seen of each master.
struct Watch {
    seen: usize,
    /// The latest.
    dialled: usize,
    /// The end of its latest failed attempt or session, until a session was stable.
    failed_at: Vec<Option<Duration>>,
    open_until: Vec<Option<Duration>>,
}

impl Watch {
    fn new(n: usize) -> Self {
        Self { seen: 0, dialled: 0, failed_at: vec![None; n], open_until: vec![None; n] }
    }

    fn look(&mut self, bench: &Bench, params: &Params, seed: u64) {
        for (index, (at, output)) in bench.log.iter().enumerate().skip(self.seen) {
            match output {
                Output::Dial { master, .. } => {
                    self.dialled = *master;
                    if let Some(failed) = self.failed_at[*master] {
                        let least = params.delay_initial.mul_f64(1.0 - params.jitter);
                        assert!(*at >= failed + least, "seed {seed}: {master} failed at {failed:?}, tried at {at:?}");
                    }
                    if let Some(until) = self.open_until[*master].filter(|until| until > at) {
                        // Tried before its time: then none that is not skipped was to be had sooner.
                        let others = (0..self.open_until.len()).filter(|other| other != master);
                        let mut others = others.map(|other| self.open_until[other].unwrap_or(Duration::MAX));
                        assert!(
                            others.all(|other| other >= until || other <= *at),
                            "seed {seed}: {master} opens at {until:?}, tried at {at:?}: {:?}",
                            self.open_until
                        );
                    }
                }
                Output::Report(Report::AttemptFailed { master, wait, .. }) => {
                    self.failed_at[*master] = Some(*at);
                    assert!(*wait <= params.delay_max.max(s(20)), "seed {seed}: wait of {wait:?} at {at:?}");
                }
                Output::Report(Report::Breaker { master, change }) => {
                    let open_for = params.breaker_open_for;
                    self.open_until[*master] = match change {
                        BreakerChange::Opened { .. } | BreakerChange::Reopened { .. } => Some(*at + open_for),
                        // The dial comes next and is judged by the time before.
                        BreakerChange::HalfOpen => self.open_until[*master],
                        BreakerChange::Closed => None,
                    };
                    if *change == BreakerChange::HalfOpen {
                        let dial = bench.log[index..].iter().find_map(|(_, output)| match output {
                            Output::Dial { master, .. } => Some(*master),
                            _ => None,
                        });
                        assert_eq!(dial, Some(*master), "seed {seed}: half-open and not tried");
                    }
                }
                Output::Report(Report::Lost { .. }) => self.failed_at[self.dialled] = Some(*at),
                Output::Report(Report::Stable) => self.failed_at.fill(None),
                _ => {}
            }
        }
        self.seen = bench.log.len();
    }
}

/// To the end of the attempt under way, or through the wait.
fn step(bench: &mut Bench, does: &[Does], watch: &mut Watch, params: &Params, seed: u64) {
    match (bench.link.state(), does[bench.link.masters.current()]) {
        (Phase::Connecting, Does::Refuse(reason)) => bench.fail(reason),
        (Phase::Connecting, Does::Hang) => bench.run(bench.link.poll_timeout().expect("it gives up")),
        (Phase::Connecting, Does::Defer(after)) => bench.reply(Reply::RetryLater { after, reason: String::new() }),
        (Phase::Connecting, Does::Serve) => bench.activate(),
        (Phase::Connecting, Does::Flap(after)) => {
            bench.activate();
            bench.run_acked(bench.now + after);
            bench.fail(LossReason::ConnectionReset);
        }
        _ => {
            let due = bench.link.poll_timeout().expect("it goes on");
            assert!(due <= bench.now + params.delay_max.max(s(20)), "seed {seed}: waits until {due:?}");
            bench.run(due.max(bench.now));
        }
    }
    watch.look(bench, params, seed);
}
