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

#[test]
fn a_second_signal_skips_the_wait() {
    let mut bench = Bench::active(params());
    bench.input(Input::Shutdown);
    bench.input(Input::Shutdown);
    assert_eq!(bench.log.last(), Some(&(s(0), Output::Stop)));
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
