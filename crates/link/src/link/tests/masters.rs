//! Several masters: which is tried when.

use super::*;

fn of(masters: usize) -> Params {
    Params { masters: ["a", "b", "c"][..masters].iter().map(ToString::to_string).collect(), ..params() }
}

/// Fails all attempts until then.
fn refused_until(bench: &mut Bench, until: Duration) {
    loop {
        while bench.link.state() == Phase::Connecting {
            bench.fail(LossReason::ConnectionRefused);
            bench.input(Input::Timeout);
        }
        match bench.link.poll_timeout() {
            Some(due) if due <= until => bench.run(due),
            _ => break bench.run(until),
        }
    }
}

#[test]
fn a_pass_has_no_wait_within_and_the_tables_wait_after_it() {
    let mut bench = Bench::new(of(3));
    refused_until(&mut bench, s(40));
    let pass = |at| [(0, at), (1, at), (2, at)];
    assert_eq!(bench.tried(), [pass(0), pass(5), pass(15), pass(35)].concat());
}

#[test]
fn the_first_that_answers_has_the_agent() {
    let mut bench = Bench::new(of(3));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(0));
    bench.activate();
    bench.run_acked(s(300));
    assert_eq!(bench.tried(), [(0, 0), (1, 0)], "it stays where it is");
}

#[test]
fn a_loss_hands_over_at_once_in_the_order_of_the_list() {
    let mut bench = Bench::new(of(3));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(0));
    bench.activate();
    bench.run_acked(s(60));
    bench.fail(LossReason::ConnectionReset);
    let lost = bench.reports().into_iter().rev().find(|report| matches!(report, Report::Lost { .. }));
    assert!(matches!(lost, Some(Report::Lost { wait: Duration::ZERO, next: 0, .. })), "{lost:?}");
    refused_until(&mut bench, s(66));
    assert_eq!(bench.tried()[2..], [(0, 60), (2, 60), (0, 65), (1, 65), (2, 65)]);
}

#[test]
fn a_session_that_was_not_stable_goes_on_with_its_pass() {
    let mut bench = Bench::new(of(3));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(0));
    bench.activate();
    bench.run_acked(s(3));
    bench.fail(LossReason::ConnectionReset);
    refused_until(&mut bench, s(9));
    assert_eq!(bench.tried(), [(0, 0), (1, 0), (2, 3), (0, 8), (1, 8), (2, 8)], "the first failed too short ago");
}

#[test]
fn a_loss_soon_after_a_failover_hands_back_at_once_to_one_that_failed_a_wait_ago() {
    for ends in ["goodbye", "reset"] {
        let mut bench = Bench::new(of(3));
        bench.activate();
        bench.run_acked(s(40));
        bench.fail(LossReason::ConnectionReset);
        bench.run(s(40));
        bench.activate();
        bench.run_acked(s(45));
        match ends {
            "goodbye" => bench.reply(Reply::Goodbye { after: ms(500), reason: String::new() }),
            _ => bench.fail(LossReason::ConnectionReset),
        }
        bench.run(s(45));
        assert_eq!(bench.tried(), [(0, 0), (1, 40), (0, 45)], "{ends}");
        // That was the first wait.
        bench.activate();
        bench.run_acked(s(51));
        bench.fail(LossReason::ConnectionReset);
        bench.run(s(51));
        bench.fail(LossReason::ConnectionRefused);
        assert_eq!(bench.tried()[3..], [(2, 51)], "{ends}: the second failed six seconds ago, the wait is ten now");
    }
}

#[test]
fn one_that_failed_shortly_before_a_loss_waits_for_the_rest_of_its_wait() {
    let mut bench = Bench::new(of(2));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(0));
    bench.activate();
    bench.run_acked(s(2));
    bench.fail(LossReason::ConnectionReset);
    refused_until(&mut bench, s(8));
    assert_eq!(bench.tried(), [(0, 0), (1, 0), (0, 5), (1, 7)]);
}

#[test]
fn masters_that_all_accept_and_fail_after_a_while_meet_growing_waits() {
    let mut bench = Bench::new(of(2));
    while bench.now < s(200) {
        bench.activate();
        bench.run_acked(bench.now + s(6));
        bench.fail(LossReason::StreamClosed);
        while bench.link.state() != Phase::Connecting {
            bench.run(bench.link.poll_timeout().expect("it goes on"));
        }
    }
    assert_eq!(
        bench.tried(),
        [(0, 0), (1, 6), (0, 12), (1, 22), (0, 28), (1, 48), (0, 54), (1, 94), (0, 100), (1, 160), (0, 166), (1, 226)]
    );
}

#[test]
fn masters_that_all_accept_and_fail_meet_growing_waits() {
    let mut bench = Bench::new(of(2));
    for (at, master) in [(0, 0), (0, 1), (5, 0), (5, 1), (15, 0), (15, 1), (35, 0)] {
        bench.run(s(at));
        assert_eq!(bench.tried().last(), Some(&(master, at)));
        bench.activate();
        bench.fail(LossReason::StreamClosed);
    }
}

#[test]
fn a_goodbye_hands_over_at_once_and_is_kept_to() {
    let mut bench = Bench::new(of(2));
    bench.activate();
    bench.run_acked(s(40));
    bench.reply(Reply::Goodbye { after: s(20), reason: "draining".into() });
    bench.run(s(40));
    assert_eq!(bench.tried(), [(0, 0), (1, 40)]);
    refused_until(&mut bench, s(56));
    // The second's own waits are 5 and 10 s; the first said 20.
    assert_eq!(bench.tried()[2..], [(1, 45), (1, 55)]);
    refused_until(&mut bench, s(60));
    assert_eq!(bench.tried()[4..], [(0, 60)]);
}

#[test]
fn masters_that_all_ask_for_patience_are_asked_when_the_first_said() {
    let mut bench = Bench::new(of(2));
    bench.reply(Reply::RetryLater { after: s(9), reason: String::new() });
    bench.run(s(0));
    bench.reply(Reply::RetryLater { after: s(4), reason: String::new() });
    let last = bench.reports().into_iter().next_back();
    assert!(
        matches!(last, Some(Report::Deferred { master: 1, after, wait, next: 1, .. }) if after == wait),
        "{last:?}"
    );
    bench.run(s(4));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(9));
    assert_eq!(bench.tried(), [(0, 0), (1, 0), (1, 4), (0, 9)]);
}

#[test]
fn where_one_refuses_the_agent_the_others_are_asked_first_and_more_often() {
    let mut bench = Bench::new(of(2));
    bench.fail(LossReason::NameTaken);
    let failed = bench.reports().into_iter().next_back();
    assert!(matches!(failed, Some(Report::AttemptFailed { wait: Duration::ZERO, next: 1, longest: true, .. })));
    bench.run(s(0));
    refused_until(&mut bench, s(60));
    assert_eq!(bench.tried(), [(0, 0), (1, 0), (1, 5), (1, 15), (1, 35), (0, 60)]);
}

#[test]
fn a_master_that_forgot_the_agent_or_whose_network_went_is_dialled_again() {
    for input in ["unknown", "gone"] {
        let mut bench = Bench::new(of(2));
        bench.fail(LossReason::ConnectionRefused);
        bench.run(s(0));
        bench.activate();
        bench.run_acked(s(3));
        match input {
            "unknown" => bench.fail(LossReason::UnknownAgent),
            _ => bench.input(Input::SourceAddressGone),
        }
        bench.run(s(3));
        assert_eq!(bench.tried(), [(0, 0), (1, 0), (1, 3)], "{input}");
    }
}

/// Until the agent is Active: the first fails or serves, the second lives and asks for patience, which keeps the
/// first's breaker at work.
fn run_with_a_patient_second(bench: &mut Bench, until: Duration, first_is_back: bool) {
    while bench.now < until && bench.link.state() != Phase::Active {
        match (bench.link.state(), bench.link.masters.current()) {
            (Phase::Connecting, 0) if first_is_back => bench.activate(),
            (Phase::Connecting, 0) => bench.fail(LossReason::ConnectionRefused),
            (Phase::Connecting, _) => bench.reply(Reply::RetryLater { after: s(15), reason: String::new() }),
            _ => bench.run(bench.link.poll_timeout().expect("it goes on")),
        }
    }
}

#[test]
fn a_breaker_skips_its_master_then_tries_it_once() {
    let open_for = s(100);
    let params = Params { breaker_failures_max: 2, breaker_open_for: open_for, delay_max: s(20), ..of(2) };
    let mut bench = Bench::new(params);
    let first = |bench: &Bench| -> Vec<u64> {
        bench.tried().into_iter().filter(|(master, _)| *master == 0).map(|(_, at)| at).collect()
    };
    run_with_a_patient_second(&mut bench, s(120), false);
    assert_eq!(first(&bench), [0, 5, 105], "open from 5 to 105, then tried once");
    run_with_a_patient_second(&mut bench, s(300), true);
    assert_eq!((first(&bench), bench.link.state()), (vec![0, 5, 105, 205], Phase::Active));
    let changes: Vec<BreakerChange> = bench
        .reports()
        .into_iter()
        .filter_map(|report| if let Report::Breaker { master: 0, change } = report { Some(*change) } else { None })
        .collect();
    let expected = [
        BreakerChange::Opened { failures: 2, open_for },
        BreakerChange::HalfOpen,
        BreakerChange::Reopened { open_for },
        BreakerChange::HalfOpen,
        BreakerChange::Closed,
    ];
    assert_eq!(changes, expected);
}

#[test]
fn sessions_that_worked_and_were_lost_open_no_breaker_and_ones_that_never_did_do() {
    let mut bench = Bench::new(Params { breaker_failures_max: 1, ..of(2) });
    for at in [0, 5, 15] {
        bench.run(s(at));
        bench.activate();
        bench.fail(LossReason::StreamClosed);
        bench.run(s(at));
        bench.activate();
        bench.fail(LossReason::StreamClosed);
    }
    assert_eq!((bench.link.skipped_until(0), bench.link.skipped_until(1)), (None, None));
    bench.run(s(35));
    bench.reply(Reply::Dialled);
    bench.reply(Reply::Registered { interval: None });
    bench.fail(LossReason::StreamClosed);
    assert_eq!(bench.link.skipped_until(0), Some(s(335)), "registered, and no heartbeat was answered");
}

#[test]
fn with_all_breakers_open_the_tables_wait_holds_and_the_one_that_opens_first_is_tried() {
    let mut bench = Bench::new(Params { breaker_failures_max: 1, ..of(2) });
    refused_until(&mut bench, s(140));
    // Both are open from 0 s on; each wait brings one attempt, in turns.
    assert_eq!(bench.tried(), [(0, 0), (1, 0), (0, 5), (1, 15), (0, 35), (1, 75), (0, 135)]);
}

#[test]
fn a_single_master_has_no_breaker() {
    let mut bench = Bench::new(Params { breaker_failures_max: 1, ..of(1) });
    refused_until(&mut bench, s(140));
    assert_eq!(bench.dials(), [0, 5, 15, 35, 75, 135]);
    assert!(!bench.reports().iter().any(|report| matches!(report, Report::Breaker { .. })));
    assert_eq!(bench.link.skipped_until(0), None);
}

#[test]
fn a_wake_up_tries_all_of_them_whatever_their_breakers_say() {
    let mut bench = Bench::new(Params { breaker_failures_max: 1, ..of(3) });
    refused_until(&mut bench, s(2));
    assert_eq!(bench.link.skipped_until(2), Some(s(300)));
    bench.input(Input::Woken(WakeReason::Network));
    refused_until(&mut bench, s(3));
    assert_eq!(bench.tried()[3..], [(0, 2), (1, 2), (2, 2)]);
}

#[test]
fn another_list_of_masters_keeps_what_is_known_of_those_that_stay() {
    let mut bench = Bench::new(Params { breaker_failures_max: 1, ..of(2) });
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(0));
    bench.activate();
    bench.run_acked(s(40));
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    bench.link.set_params(Params { masters: list(&["c", "b", "a"]), breaker_failures_max: 1, ..params() });
    assert_eq!(bench.link.skipped_until(2), Some(s(300)), "of a");
    // The session is b's still, which is now the second.
    bench.fail(LossReason::ConnectionReset);
    refused_until(&mut bench, s(41));
    assert_eq!(bench.tried()[2..], [(0, 40)], "c is new; a is skipped; b has just been lost");
    bench.link.set_params(Params { masters: list(&["d"]), ..params() });
    bench.run(s(45));
    assert_eq!(bench.tried()[3..], [(0, 45)]);
}

#[test]
fn a_renewal_dials_the_same_master_unless_the_list_is_another() {
    let mut bench = Bench::new(of(2));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(0));
    bench.activate();
    bench.link.set_params(Params { delay_initial: s(3), ..of(2) });
    bench.input(Input::Renew);
    bench.activate();
    bench.link.set_params(of(3));
    bench.input(Input::Renew);
    assert_eq!(bench.tried(), [(0, 0), (1, 0), (1, 0), (0, 0)]);
}

#[test]
fn a_dial_over_the_network_that_was_is_cut_short_and_one_that_a_wake_up_began_is_not() {
    let mut bench = Bench::new(of(2));
    bench.fail(LossReason::ConnectionRefused);
    bench.run(s(3));
    bench.input(Input::Woken(WakeReason::Operator));
    assert_eq!(bench.tried(), [(0, 0), (1, 0)], "an operator can wait");
    bench.input(Input::Woken(WakeReason::Network));
    assert!(bench.log.contains(&(s(3), Output::Close { session: Session(2), how: Close::Abort })));
    assert_eq!(bench.tried()[2..], [(0, 3)]);
    for at in 4..12 {
        bench.run(s(at));
        bench.input(Input::Woken(WakeReason::Network));
    }
    assert_eq!(bench.tried()[2..], [(0, 3)], "it has its time");
    bench.run(s(13));
    assert_eq!(bench.tried()[3..], [(1, 13)]);
    bench.reply(Reply::Dialled);
    bench.input(Input::Woken(WakeReason::Network));
    assert_eq!(bench.tried().len(), 4, "what has an answer goes on");
}

#[test]
fn a_wake_up_that_was_put_off_keeps_the_next_one_at_a_distance() {
    let mut bench = Bench::new(Params { breaker_failures_max: 1, ..of(1) });
    for millis in (0..10_000).step_by(100) {
        bench.run(ms(millis));
        if bench.link.state() == Phase::Connecting {
            bench.fail(LossReason::Unreachable);
        }
        bench.run(ms(millis));
        if millis >= 2_300 {
            bench.input(Input::Woken(WakeReason::Network));
        }
    }
    let dials: Vec<Duration> =
        bench.log.iter().filter(|(_, o)| matches!(o, Output::Dial { .. })).map(|(at, _)| *at).collect();
    assert_eq!(dials, [vec![s(0)], (0..8).map(|n| ms(2_300 + 1_000 * n)).collect()].concat());
}

#[test]
fn a_network_that_changed_during_an_attempt_is_tried_at_once_when_that_failed() {
    let mut bench = Bench::new(params());
    refused_until(&mut bench, s(300));
    let dials = bench.dials().len();
    // One family's route comes, and the other's while the name is being looked up over the first.
    bench.input(Input::Woken(WakeReason::Network));
    assert_eq!(bench.dials().len(), dials + 1);
    bench.run(bench.now + ms(300));
    bench.input(Input::Woken(WakeReason::Network));
    assert_eq!(bench.dials().len(), dials + 1, "it may finish");
    bench.run(bench.now + s(8));
    bench.fail(LossReason::Dns);
    assert_eq!((bench.dials().len(), bench.link.state()), (dials + 2, Phase::Connecting));
    // Nothing has changed since.
    bench.fail(LossReason::Dns);
    assert_eq!(bench.dials().len(), dials + 2);
    // And never more than one in a second.
    bench.input(Input::Woken(WakeReason::Network));
    bench.run(bench.now + s(1));
    let before = bench.now;
    for _ in 0..50 {
        bench.input(Input::Woken(WakeReason::Network));
        if bench.link.state() == Phase::Connecting {
            bench.fail(LossReason::Unreachable);
        }
        bench.run(bench.now + ms(100));
    }
    let since = bench.log.iter().filter(|(at, output)| *at > before && matches!(output, Output::Dial { .. })).count();
    assert!((4..=5).contains(&since), "{since}");
    // What the master itself says is heeded: it was reached.
    bench.run(bench.now + s(1));
    bench.input(Input::Woken(WakeReason::Network));
    bench.run(bench.now + ms(1));
    assert_eq!(bench.link.state(), Phase::Connecting);
    let dials = bench.dials().len();
    bench.input(Input::Woken(WakeReason::Network));
    bench.fail(LossReason::NameTaken);
    assert_eq!((bench.dials().len(), bench.link.state()), (dials, Phase::Disconnected));
}
