//! Commands for agents that are away.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// An agent "a" that was there, and is away.
fn away() -> Bench {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.close(1);
    bench
}

fn enqueue(bench: &mut Bench, id: &str, expires: Option<Duration>) -> Result<Submitted<u32>, Refusal> {
    bench.fleet.enqueue(bench.now, submit(id, 5), None, expires)
}

fn queued(expires: Option<Duration>) -> Bench {
    let mut bench = away();
    assert_eq!(enqueue(&mut bench, "c", expires), Ok(Submitted::New));
    bench.settle();
    bench
}

#[test]
fn an_agents_unfinished_commands_are_listed_in_the_order_in_which_they_came() {
    let mut bench = away();
    for command in ["z", "a", "m"] {
        assert_eq!(enqueue(&mut bench, command, None), Ok(Submitted::New));
    }
    bench.settle();
    let listed = |limit| bench.fleet.dispatch().unfinished_of(id(1), limit);
    assert_eq!(listed(2), (vec!["z".to_owned(), "a".to_owned()], 3));
    assert_eq!(bench.fleet.dispatch().unfinished_of(id(2), 9), (vec![], 0));
    assert_eq!(bench.fleet.dispatch().queued_in_all(), 3);
}

/// Ids that an agent is told to run, in order.
fn told(effects: &[Effect<u32>]) -> Vec<String> {
    let run = |effect: &Effect<u32>| match effect {
        Effect::Send { message: Down::Run { id, .. }, .. } => Some(id.clone()),
        _ => None,
    };
    effects.iter().filter_map(run).collect()
}

fn state(bench: &Bench, id: &str) -> Option<CommandState> {
    bench.fleet.dispatch().unfinished(id).map(|(record, _)| record.state)
}

#[test]
fn a_command_waits_for_its_agent_and_is_recorded_as_sent_before_it_is_sent() {
    let mut bench = away();
    assert_eq!(enqueue(&mut bench, "c", None), Ok(Submitted::New));
    assert_eq!(bench.effects(), []);
    bench.answer_write(Ok(()));
    let effects = bench.effects();
    assert!(matches!(&effects[..], [Effect::Show { view: View::Record(r), .. }] if r.state == CommandState::Queued));
    bench.fleet.register(bench.now, ConnId(2), register(1, 1, "a"), vec![]);
    bench.effects();
    bench.answer_write(Ok(())); // the registration
    assert_eq!(told(&bench.effects()), Vec::<String>::new());
    let put = &bench.writes.front().expect("it is recorded first").0[0];
    assert!(matches!(put, Change::PutCommand(r) if r.state == CommandState::Sent && r.spool_id == Some([1; 16])));
    assert_eq!(told(&bench.settle()), ["c"]);
    let _ = bench.fleet.accepted(bench.now, session(1, 2), "c");
    let _ = bench.fleet.finished(bench.now, session(1, 2), "c", exit(0, 0));
    assert_eq!(outcome(&bench.settle()), Some(Outcome::Exited(0)));
}

#[test]
fn an_agent_that_is_there_gets_it_at_once() {
    let mut bench = Bench::new();
    assert_eq!(enqueue(&mut bench, "c", None), Err(Refusal::UnknownAgent));
    bench.register(1, register(1, 1, "a"));
    assert_eq!(enqueue(&mut bench, "c", None), Ok(Submitted::New));
    assert_eq!(told(&bench.settle()), ["c"]);
}

#[test]
fn the_queue_is_delivered_in_the_order_in_which_it_came_also_over_a_restart_of_the_master() {
    for restart in [false, true] {
        let mut bench = away();
        let order: Vec<String> = (0..20).rev().map(|n| format!("c{n}")).collect();
        for id in &order {
            enqueue(&mut bench, id, None).unwrap();
        }
        bench.settle();
        if restart {
            bench = crashed(bench);
        }
        assert_eq!(told(&bench.register(2, register(1, 1, "a"))), order, "restart: {restart}");
    }
}

#[test]
fn an_agent_that_takes_no_commands_gets_none_before_it_does() {
    let mut bench = queued(None);
    bench.register(2, register(1, 1, "a"));
    // Not ready: the next ones wait, and go with the beat that says it is.
    let beat = |bench: &mut Bench, seq, ready| {
        let beat = Beat { seq, last_ack: seq - 1, ready, node: None };
        assert_eq!(bench.fleet.heartbeat(bench.now, session(1, 2), beat), Heard::Live);
        told(&bench.settle())
    };
    beat(&mut bench, 1, false);
    enqueue(&mut bench, "d", None).unwrap();
    assert_eq!(told(&bench.settle()), Vec::<String>::new());
    assert_eq!(beat(&mut bench, 2, false), Vec::<String>::new());
    assert_eq!(beat(&mut bench, 3, true), ["d"]);
}

#[test]
fn a_command_whose_time_has_passed_expires_and_is_never_sent() {
    let mut bench = queued(Some(MINUTE));
    assert_eq!(bench.fleet.dispatch().poll_timeout(), Some(bench.now.monotonic + MINUTE));
    bench.advance(MINUTE - Duration::from_millis(1));
    assert_eq!(bench.timeout(), []);
    bench.advance(Duration::from_millis(1));
    assert_eq!(outcome(&bench.timeout()), Some(Outcome::Expired));
    assert_eq!(bench.last_event(), ("command.finished".to_owned(), "expired".to_owned()));
    assert_eq!(told(&bench.register(2, register(1, 1, "a"))), Vec::<String>::new());
    assert_eq!(bench.fleet.dispatch().queued(id(1)), 0);
}

#[test]
fn the_time_goes_on_while_the_master_is_down_and_while_it_is_being_recorded() {
    let mut bench = crashed(queued(Some(MINUTE)));
    bench.advance(MINUTE / 2);
    let mut bench = crashed(bench);
    bench.advance(MINUTE / 2);
    assert_eq!(outcome(&bench.timeout()), Some(Outcome::Expired));

    let mut bench = away();
    enqueue(&mut bench, "c", Some(MINUTE)).unwrap();
    bench.effects();
    bench.advance(MINUTE);
    bench.fleet.timeout(bench.now);
    assert_eq!(bench.effects(), []);
    bench.answer_write(Ok(()));
    assert_eq!(outcome(&bench.settle()), Some(Outcome::Expired));
}

#[test]
fn a_command_that_was_sent_in_time_does_not_expire_unless_it_never_arrived() {
    let mut bench = queued(Some(MINUTE));
    bench.register(2, register(1, 1, "a"));
    bench.advance(Duration::from_secs(10));
    let _ = bench.fleet.accepted(bench.now, session(1, 2), "c");
    bench.settle();
    bench.advance(MINUTE);
    assert_eq!(outcome(&bench.timeout()), None);
    assert_eq!(state(&bench, "c"), Some(CommandState::Accepted));

    let mut bench = queued(Some(MINUTE));
    bench.register(2, register(1, 1, "a"));
    bench.close(2);
    bench.advance(MINUTE);
    assert_eq!(outcome(&bench.timeout()), None, "it may have arrived");
    let effects = bench.register(3, register(1, 1, "a"));
    assert_eq!((runs(&effects), outcome(&effects)), (0, Some(Outcome::Expired)));
}

#[test]
fn a_waiting_command_is_cancelled_at_once_and_for_certain() {
    let mut bench = queued(Some(MINUTE));
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    assert_eq!(outcome(&bench.settle()), Some(Outcome::Cancelled));
    assert_eq!(told(&bench.register(2, register(1, 1, "a"))), Vec::<String>::new());
    assert!(bench.fleet.dispatch().is_empty());
}

#[test]
fn a_cancellation_that_meets_the_return_of_the_agent_wins_unless_it_was_sent() {
    let mut bench = queued(None);
    bench.fleet.register(bench.now, ConnId(2), register(1, 1, "a"), vec![]);
    bench.effects();
    bench.answer_write(Ok(()));
    bench.effects(); // it is being recorded as sent
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    let effects = bench.settle();
    assert_eq!((runs(&effects), outcome(&effects)), (0, Some(Outcome::Cancelled)));
}

#[test]
fn the_queue_of_an_agent_has_an_end() {
    let mut bench = away();
    bench.register(9, register(2, 1, "b"));
    bench.close(9);
    for n in 0..QUEUE {
        enqueue(&mut bench, &format!("c{n}"), None).unwrap();
    }
    let full = Refusal::QueueFull { agent: "a".to_owned(), waiting: QUEUE };
    assert_eq!(enqueue(&mut bench, "more", None), Err(full));
    assert!(matches!(enqueue(&mut bench, "c1", None), Ok(Submitted::Attached(_))), "what is known attaches");
    let other = Submit { agent: "b".to_owned(), ..submit("other", 5) };
    assert_eq!(bench.fleet.enqueue(bench.now, other, None, None), Ok(Submitted::New));
    bench.settle();
    assert_eq!(bench.fleet.cancel("c0"), Cancelled::Asked);
    bench.settle();
    assert_eq!(enqueue(&mut bench, "more", None), Ok(Submitted::New));
}

const QUEUE: usize = crate::dispatch::QUEUE_MAX;

#[test]
fn an_agent_gets_a_long_queue_bit_by_bit() {
    const AHEAD: usize = crate::dispatch::AHEAD_MAX;
    let mut bench = away();
    for n in 0..AHEAD + 3 {
        enqueue(&mut bench, &format!("c{n}"), None).unwrap();
    }
    bench.settle();
    assert_eq!(told(&bench.register(2, register(1, 1, "a"))).len(), AHEAD);
    assert_eq!(bench.fleet.dispatch().queued(id(1)), 3);
    for (done, next) in [(0, AHEAD), (1, AHEAD + 1), (2, AHEAD + 2)] {
        let _ = bench.fleet.finished(bench.now, session(1, 2), &format!("c{done}"), exit(0, 0));
        assert_eq!(told(&bench.settle()), [format!("c{next}")]);
    }
}

#[test]
fn a_command_that_cannot_be_recorded_as_sent_keeps_its_place() {
    let mut bench = queued(Some(MINUTE));
    bench.fleet.register(bench.now, ConnId(2), register(1, 1, "a"), vec![]);
    bench.effects();
    bench.answer_write(Ok(()));
    bench.effects();
    bench.answer_write(Err("disk full".to_owned()));
    assert_eq!(runs(&bench.effects()), 0);
    assert_eq!((state(&bench, "c"), bench.fleet.dispatch().queued(id(1))), (Some(CommandState::Queued), 1));
    assert_eq!(bench.beat(session(1, 2), 1, 0), Heard::Live);
    assert_eq!(told(&bench.settle()), ["c"]);
}

#[test]
fn the_same_id_attaches_to_what_waits_and_other_content_is_refused() {
    let mut bench = queued(None);
    let attached = bench.fleet.submit(bench.now, submit("c", 5), None);
    assert!(matches!(attached, Ok(Submitted::Attached(Some(record))) if record.state == CommandState::Queued));
    assert_eq!(bench.fleet.enqueue(bench.now, submit("c", 6), None, None), Err(Refusal::OtherContent));
}

#[test]
fn commands_that_wait_for_an_agent_that_is_gone_for_good_are_refused_because_they_never_ran() {
    let mut bench = queued(None);
    bench.fleet.delete(bench.now, id(1), false, 1).unwrap();
    let why = "it was never sent: its agent was deleted".to_owned();
    assert_eq!(outcome(&bench.settle()), Some(Outcome::Refused(why)));

    let mut bench = queued(None);
    let effects = bench.register(2, register(3, 1, "a"));
    assert!(matches!(outcome(&effects), Some(Outcome::Refused(why)) if why.contains("another agent took the name")));
    assert_eq!(runs(&effects), 0);
}
