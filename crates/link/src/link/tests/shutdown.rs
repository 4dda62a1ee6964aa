use super::*;

#[test]
fn a_shutdown_waits_for_the_commands_says_goodbye_and_stops() {
    let mut bench = Bench::active(params());
    bench.run_acked(s(1));
    bench.input(Input::Shutdown);
    let beats = bench.beats().len();
    bench.input(Input::Unready);
    assert_eq!(bench.beats().len(), beats + 1, "the master learns of it at once");
    bench.run_acked(s(12));
    assert_eq!(bench.link.state(), Phase::Active, "beats on while commands finish");
    bench.input(Input::Drained);
    let tail: Vec<Output> = bench.log.iter().rev().take(4).rev().map(|(_, output)| output.clone()).collect();
    let session = Session(1);
    assert_eq!(
        tail,
        [
            Output::Goodbye { session },
            Output::Close { session, how: Close::Graceful },
            Output::Report(Report::Stopped),
            Output::Stop
        ]
    );
    assert_eq!(bench.link.poll_timeout(), None);
}

#[test]
fn a_shutdown_ends_what_outlasts_its_grace_and_then_itself() {
    let mut bench = Bench::active(params());
    bench.input(Input::Shutdown);
    bench.run_acked(s(29));
    assert!(!bench.log.iter().any(|(_, output)| *output == Output::Interrupt));
    bench.run_acked(s(30));
    assert_eq!(bench.log.iter().filter(|(_, output)| *output == Output::Interrupt).count(), 1);
    bench.run_acked(s(45));
    assert_eq!(bench.link.state(), Phase::Stopped);
}

fn interrupts(bench: &Bench) -> usize {
    bench.log.iter().filter(|(_, output)| *output == Output::Interrupt).count()
}

#[test]
fn a_second_signal_skips_the_wait_and_a_third_the_end_of_what_runs() {
    let mut bench = Bench::active(params());
    bench.input(Input::Shutdown);
    bench.run_acked(s(2));
    bench.input(Input::Shutdown);
    assert_eq!((interrupts(&bench), bench.link.state()), (1, Phase::Active), "it is there to tell the outcomes");
    let mut third = bench.clone();
    third.input(Input::Shutdown);
    assert_eq!(third.log.last(), Some(&(s(2), Output::Stop)));
    // The kill's grace and that of the delivery, from the second on.
    bench.run_acked(s(16));
    assert_eq!(bench.link.state(), Phase::Active);
    bench.run_acked(s(17));
    assert_eq!((interrupts(&bench), bench.link.state()), (1, Phase::Stopped));
}

#[test]
fn a_second_signal_after_the_grace_leaves_the_time_for_the_kill() {
    let mut bench = Bench::active(params());
    bench.input(Input::Shutdown);
    bench.run_acked(s(31));
    bench.input(Input::Shutdown);
    assert_eq!((interrupts(&bench), bench.link.state()), (1, Phase::Active));
    bench.input(Input::Shutdown);
    assert_eq!(bench.link.state(), Phase::Stopped);
}

#[test]
fn with_nothing_left_to_run_a_master_that_is_away_is_waited_for_no_longer_than_a_delivery_takes() {
    let mut bench = Bench::active(params());
    bench.input(Input::Settled);
    assert_eq!(bench.link.poll_timeout(), Some(s(5)), "no shutdown: only the next beat is due");
    bench.input(Input::Shutdown);
    // With a master the rest of what commands have printed may use the grace.
    bench.input(Input::Settled);
    bench.run_acked(s(8));
    assert_eq!(bench.link.state(), Phase::Active);
    bench.fail(LossReason::ConnectionReset);
    for at in [s(8), s(9), ms(12_999)] {
        bench.run(at);
        bench.input(Input::Settled);
        assert_ne!(bench.link.state(), Phase::Stopped, "{at:?}");
    }
    bench.run(s(13));
    assert_eq!((interrupts(&bench), bench.link.state()), (0, Phase::Stopped));
}

#[test]
fn with_everything_ended_the_kill_is_waited_for_no_more() {
    let mut bench = Bench::active(params());
    bench.input(Input::Shutdown);
    bench.run_acked(s(31));
    bench.input(Input::Settled);
    bench.run_acked(ms(35_999));
    assert_eq!(bench.link.state(), Phase::Active);
    bench.run_acked(s(36));
    assert_eq!(bench.link.state(), Phase::Stopped);
}

#[test]
fn a_shutdown_stops_in_every_state() {
    for steps in 0..4 {
        let mut bench = Bench::new(params());
        if steps == 1 {
            bench.reply(Reply::Dialled);
        } else if steps > 1 {
            bench.fail(LossReason::Dns);
        }
        if steps == 3 {
            bench.run(ms(10));
        }
        bench.input(Input::Shutdown);
        bench.input(Input::Drained);
        assert_eq!(bench.log.last().map(|(_, output)| output), Some(&Output::Stop));
        bench.fail(LossReason::Dns);
        bench.input(Input::Woken(WakeReason::Operator));
        bench.input(Input::Start);
        assert_eq!(bench.link.state(), Phase::Stopped);
    }
}
