use crate::{testing::*, *};
use link::Outcome;
use std::time::Duration;

mod queue;

fn submit(id: &str, spec: u32) -> Submit<u32> {
    Submit { id: id.to_owned(), agent: "a".to_owned(), spec }
}

/// An agent "a" with session 1, and a command "c" that was sent to it.
fn sent() -> Bench {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 5), None), Ok(Submitted::New));
    bench.settle();
    bench
}

fn accepted() -> Bench {
    let mut bench = sent();
    assert_eq!(bench.fleet.accepted(bench.now, session(1, 1), "c"), Heard::Live);
    bench.settle();
    bench
}

fn held(id: &str, state: HeldState) -> Held<u32> {
    Held { id: id.to_owned(), state, started_unix_ms: 0, spec: Some(5), finished_here: false }
}

fn exit(code: i32, total_bytes: u64) -> Finish {
    Finish { outcome: Outcome::Exited(code), total_bytes, started_unix_ms: 10, finished_unix_ms: 20 }
}

fn runs(effects: &[Effect<u32>]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Send { message: Down::Run { .. }, .. })).count()
}

fn sends(effects: &[Effect<u32>], message: Down<u32>) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Send { message: sent, .. } if *sent == message))
}

fn outcome(effects: &[Effect<u32>]) -> Option<Outcome> {
    effects.iter().find_map(|effect| match effect {
        Effect::Show { view: View::Record(record), .. } => record.outcome.clone(),
        _ => None,
    })
}

const CANCEL: fn() -> Down<u32> = || Down::Cancel { id: "c".to_owned() };
const ACK: fn() -> Down<u32> = || Down::FinishedAck { id: "c".to_owned() };

#[test]
fn a_command_is_durable_before_it_is_sent_or_shown() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 5), None), Ok(Submitted::New));
    assert_eq!(bench.effects(), []);
    bench.answer_write(Ok(()));
    let effects = bench.effects();
    assert!(matches!(&effects[0], Effect::Show { view: View::Record(r), .. } if r.state == CommandState::Sent));
    let run = Down::Run { id: "c".to_owned(), spec: 5 };
    assert_eq!(effects[1], Effect::Send { session: session(1, 1), message: run });
}

#[test]
fn a_command_that_cannot_be_recorded_is_not_sent_and_its_id_is_free_again() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.submit(bench.now, submit("c", 5), None).unwrap();
    bench.effects();
    bench.answer_write(Err("disk full".to_owned()));
    let view = View::Failed("the master cannot record the command: disk full".to_owned());
    assert_eq!(bench.effects(), [Effect::Show { id: "c".to_owned(), view }]);
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 6), None), Ok(Submitted::New));
}

#[test]
fn the_same_id_attaches_to_the_same_content_and_to_no_other() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.submit(bench.now, submit("c", 5), None).unwrap();
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 5), None), Ok(Submitted::Attached(None)));
    assert_eq!(runs(&bench.settle()), 1);
    let Ok(Submitted::Attached(Some(record))) = bench.fleet.submit(bench.now, submit("c", 5), None) else {
        panic!("it attaches")
    };
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 6), None), Err(Refusal::OtherContent));
    let elsewhere = Submit { agent: "b".to_owned(), ..submit("c", 5) };
    assert_eq!(bench.fleet.submit(bench.now, elsewhere, None), Err(Refusal::OtherContent));
    assert_eq!(runs(&bench.settle()), 0);
    // Also when only the store still knows it, and also while the agent is away.
    let mut bench = Bench::new();
    assert!(matches!(bench.fleet.submit(bench.now, submit("c", 5), Some(record)), Ok(Submitted::Attached(Some(_)))));
}

#[test]
fn a_command_that_finished_a_moment_ago_is_looked_up_again_and_never_run_twice() {
    let mut bench = accepted();
    let _ = bench.fleet.finished(bench.now, session(1, 1), "c", exit(0, 0));
    bench.settle();
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 5), None), Err(Refusal::LookAgain));
}

#[test]
fn ids_that_could_be_paths_are_refused() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    for id in ["", "../x", ".x", "a/b", "a b", &"x".repeat(129)] {
        assert_eq!(bench.fleet.submit(bench.now, submit(id, 5), None), Err(Refusal::InvalidId), "{id}");
        let effects = bench.register_holding(2, register(1, 1, "a"), vec![held(id, HeldState::Running)]);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Show { .. })), "{id}");
    }
}

#[test]
fn an_agent_that_is_away_gets_no_command() {
    let mut bench = Bench::new();
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 5), None), Err(Refusal::UnknownAgent));
    bench.register(1, register(1, 1, "a"));
    bench.close(1);
    let Err(Refusal::Away { record }) = bench.fleet.submit(bench.now, submit("c", 5), None) else {
        panic!("it is refused")
    };
    assert_eq!((record.reason.as_str(), record.since_unix_ms), ("stream_closed", 1_000_000));
}

#[test]
fn the_outcome_waits_until_the_whole_output_is_durable_and_the_ack_until_the_outcome_is() {
    let mut bench = accepted();
    assert_eq!(bench.fleet.finished(bench.now, session(1, 1), "c", exit(3, 100)), Heard::Live);
    assert_eq!(bench.settle(), []);
    bench.fleet.durable(bench.now, "c", 99, vec![]);
    assert_eq!(bench.settle(), []);
    bench.fleet.durable(bench.now, "c", 100, vec![(10, 5)]);
    assert_eq!(bench.effects(), []);
    bench.answer_write(Ok(()));
    let effects = bench.settle();
    let Effect::Show { view: View::Record(record), .. } = &effects[0] else { panic!("it is shown: {effects:?}") };
    assert_eq!((record.outcome.clone(), record.output_bytes), (Some(Outcome::Exited(3)), 100));
    assert_eq!(
        (record.gaps.as_slice(), record.started_unix_ms, record.finished_unix_ms),
        ([(10, 5)].as_slice(), 10, 20)
    );
    assert_eq!(effects[1], Effect::Send { session: session(1, 1), message: ACK() });
    assert_eq!(bench.last_event(), ("command.finished".to_owned(), "exited".to_owned()));
    assert!(bench.fleet.dispatch().is_empty());
}

#[test]
fn an_agent_that_died_knows_less_of_the_output_than_is_here() {
    let mut bench = accepted();
    bench.fleet.durable(bench.now, "c", 40, vec![]);
    let interrupted = Finish { outcome: Outcome::Interrupted("died".to_owned()), ..exit(0, 7) };
    let _ = bench.fleet.finished(bench.now, session(1, 1), "c", interrupted);
    assert!(sends(&bench.settle(), ACK()));
    let closed = bench.durable.iter().rev().find_map(|change| match change {
        Change::PutCommand(record) => Some((record.output_bytes, record.outcome.clone())),
        _ => None,
    });
    assert_eq!(closed, Some((40, Some(Outcome::Interrupted("died".to_owned())))));
}

#[test]
fn a_repeated_end_is_acknowledged_again() {
    let mut bench = accepted();
    let _ = bench.fleet.finished(bench.now, session(1, 1), "c", exit(0, 0));
    bench.settle();
    let events = bench.events().len();
    let _ = bench.fleet.finished(bench.now, session(1, 1), "c", exit(1, 0));
    assert_eq!(bench.settle(), [Effect::Send { session: session(1, 1), message: ACK() }]);
    assert_eq!(bench.events().len(), events);
}

#[test]
fn an_end_that_cannot_be_recorded_is_tried_again() {
    let mut bench = accepted();
    let _ = bench.fleet.finished(bench.now, session(1, 1), "c", exit(0, 0));
    bench.effects();
    bench.answer_write(Err("disk full".to_owned()));
    assert_eq!(bench.effects(), []);
    bench.advance(Duration::from_millis(4_999));
    assert_eq!(bench.timeout(), []);
    bench.advance(Duration::from_millis(1));
    assert!(sends(&bench.timeout(), ACK()));
}

#[test]
fn nothing_recorded_later_undoes_a_recorded_end() {
    let mut bench = sent();
    let _ = bench.fleet.finished(bench.now, session(1, 1), "c", exit(0, 0));
    let _ = bench.fleet.accepted(bench.now, session(1, 1), "c");
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    bench.settle();
    let put = bench.durable.iter().rfind(|change| matches!(change, Change::PutCommand(_)));
    assert!(matches!(put, Some(Change::PutCommand(record)) if record.state == CommandState::Finished), "{put:?}");
}

#[test]
fn another_agent_cannot_end_a_command() {
    let mut bench = accepted();
    bench.register(2, register(2, 1, "b"));
    let _ = bench.fleet.finished(bench.now, session(2, 1), "c", exit(0, 0));
    assert_eq!(bench.settle(), []);
    assert_eq!(bench.fleet.dispatch().len(), 1);
}

#[test]
fn cancelling_is_sent_each_time_and_recorded_once() {
    let mut bench = accepted();
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    assert!(sends(&bench.settle(), CANCEL()));
    let written = bench.durable.len();
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    assert!(sends(&bench.settle(), CANCEL()));
    assert_eq!(bench.durable.len(), written);
    assert_eq!(bench.fleet.cancel("other"), Cancelled::Unknown);
}

#[test]
fn a_command_cancelled_before_it_is_recorded_is_never_sent() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.submit(bench.now, submit("c", 5), None).unwrap();
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    let effects = bench.settle();
    assert_eq!(runs(&effects), 0);
    assert!(effects.iter().any(|effect| {
        matches!(effect, Effect::Show { view: View::Record(r), .. } if r.outcome == Some(Outcome::Cancelled))
    }));
}

#[test]
fn a_cancellation_asked_while_the_agent_is_away_is_sent_when_it_returns() {
    let mut bench = accepted();
    bench.close(1);
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    assert!(!sends(&bench.settle(), CANCEL()));
    let effects = bench.register_holding(2, register(1, 1, "a"), vec![held("c", HeldState::Running)]);
    assert!(sends(&effects, CANCEL()));
}

#[test]
fn a_command_that_the_agent_holds_goes_on_in_the_next_session() {
    let mut bench = accepted();
    bench.close(1);
    let effects = bench.register_holding(2, register(1, 1, "a"), vec![held("c", HeldState::Running)]);
    assert_eq!((runs(&effects), outcome(&effects)), (0, None));
    let _ = bench.fleet.finished(bench.now, session(1, 2), "c", exit(0, 0));
    assert!(sends(&bench.settle(), ACK()));
}

#[test]
fn a_command_that_was_sent_and_is_not_held_is_sent_again_to_the_same_spool_only() {
    let mut bench = sent();
    bench.close(1);
    assert_eq!(runs(&bench.register(2, register(1, 1, "a"))), 1);

    let mut bench = sent();
    bench.close(1);
    let effects = bench.register(2, Register { spool_id: [99; 16], ..register(1, 1, "a") });
    assert_eq!(runs(&effects), 0);
    assert!(matches!(outcome(&effects), Some(Outcome::Interrupted(why)) if why.contains("another spool")));
}

#[test]
fn a_cancelled_command_that_never_arrived_is_not_sent_again() {
    let mut bench = sent();
    bench.close(1);
    assert_eq!(bench.fleet.cancel("c"), Cancelled::Asked);
    let effects = bench.register(2, register(1, 1, "a"));
    assert_eq!((runs(&effects), outcome(&effects)), (0, Some(Outcome::Cancelled)));
}

#[test]
fn an_accepted_command_that_is_held_no_more_was_interrupted() {
    let mut bench = accepted();
    bench.fleet.durable(bench.now, "c", 40, vec![]);
    bench.close(1);
    let effects = bench.register(2, register(1, 2, "a"));
    assert!(matches!(outcome(&effects), Some(Outcome::Interrupted(_))));
    assert!(!sends(&effects, ACK()), "the agent does not hold it");
    assert!(bench.durable.iter().any(|c| matches!(c, Change::PutCommand(r) if r.output_bytes == 40)));
}

#[test]
fn a_command_recorded_while_its_agent_returned_is_sent_to_the_new_session_and_spool() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.submit(bench.now, submit("c", 5), None).unwrap();
    bench.effects();
    bench.fleet.register(bench.now, ConnId(2), Register { spool_id: [99; 16], ..register(1, 1, "a") }, vec![]);
    let effects = bench.settle();
    assert_eq!(runs(&effects), 1);
    let run = Down::Run { id: "c".to_owned(), spec: 5 };
    assert!(effects.contains(&Effect::Send { session: session(1, 2), message: run }));
    assert!(bench.durable.iter().any(|c| matches!(c, Change::PutCommand(r) if r.spool_id == Some([99; 16]))));
}

#[test]
fn an_unknown_command_that_an_agent_holds_is_adopted() {
    let mut bench = Bench::new();
    let effects = bench.register_holding(1, register(1, 1, "a"), vec![held("old", HeldState::Running)]);
    let shown = effects.iter().find_map(|effect| match effect {
        Effect::Show { view: View::Record(record), .. } => Some(record),
        _ => None,
    });
    let record = shown.expect("it is shown");
    assert_eq!((record.state, record.spec, record.agent.as_str()), (CommandState::Accepted, 5, "a"));
    let _ = bench.fleet.finished(bench.now, session(1, 1), "old", exit(0, 0));
    assert!(sends(&bench.settle(), Down::FinishedAck { id: "old".to_owned() }));
}

#[test]
fn since_when_a_command_runs_is_shown_once_and_known_again_after_a_restart() {
    let mut bench = accepted();
    let shown = |effects: &[Effect<u32>]| -> Vec<u64> {
        let started = |effect: &Effect<u32>| match effect {
            Effect::Show { view: View::Record(record), .. } => Some(record.started_unix_ms),
            _ => None,
        };
        effects.iter().filter_map(started).collect()
    };
    assert_eq!(bench.fleet.started(bench.now, session(1, 1), "c", 77), Heard::Live);
    assert_eq!(shown(&bench.settle()), [77]);
    let _ = bench.fleet.started(bench.now, session(1, 1), "c", 99);
    assert_eq!(shown(&bench.settle()), [] as [u64; 0]);
    bench.register(2, register(2, 1, "b"));
    let _ = bench.fleet.started(bench.now, session(2, 2), "c", 99);
    assert_eq!(shown(&bench.settle()), [] as [u64; 0], "it is another agent's");

    let mut bench = Bench::new();
    let runs = Held { started_unix_ms: 77, ..held("c", HeldState::Running) };
    assert_eq!(shown(&bench.register_holding(1, register(1, 1, "a"), vec![runs])), [77]);
}

#[test]
fn what_is_not_adopted_is_not_acknowledged_and_is_adopted_when_it_comes_with_what_it_runs() {
    let mut bench = Bench::new();
    let without = Held { spec: None, ..held("old", HeldState::Running) };
    bench.register_holding(1, register(1, 1, "a"), vec![without]);
    assert!(bench.fleet.dispatch().is_left_out(id(1), "old") && !bench.fleet.dispatch().is_left_out(id(2), "old"));
    let _ = bench.fleet.finished(bench.now, session(1, 1), "old", exit(0, 0));
    let acknowledged = Down::FinishedAck { id: "old".to_owned() };
    assert!(!sends(&bench.settle(), acknowledged.clone()), "its agent would forget it");

    bench.register_holding(2, register(1, 1, "a"), vec![held("old", HeldState::Finished)]);
    let _ = bench.fleet.finished(bench.now, session(1, 2), "old", exit(0, 0));
    assert!(sends(&bench.settle(), acknowledged));
}

#[test]
fn a_command_that_is_finished_here_is_ended_there_and_not_adopted() {
    let mut bench = Bench::new();
    let held = Held { finished_here: true, ..held("c", HeldState::Running) };
    let effects = bench.register_holding(1, register(1, 1, "a"), vec![held]);
    assert!(sends(&effects, CANCEL()));
    assert!(bench.fleet.dispatch().is_empty());
}

#[test]
fn a_deleted_agent_takes_its_commands_with_it() {
    let mut bench = accepted();
    assert_eq!(bench.fleet.dispatch().would_forget(id(1)), (0, 1));
    bench.fleet.delete(bench.now, id(1), true, 1).unwrap();
    assert!(matches!(outcome(&bench.settle()), Some(Outcome::Interrupted(why)) if why == "its agent was deleted"));
    assert_eq!(bench.fleet.dispatch().would_forget(id(1)), (0, 0));
}

#[test]
fn a_command_of_an_agent_deleted_before_it_was_recorded_is_not_sent() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.delete(bench.now, id(1), true, 1).unwrap();
    bench.fleet.submit(bench.now, submit("c", 5), None).unwrap();
    let effects = bench.settle();
    assert_eq!(runs(&effects), 0);
    assert!(matches!(outcome(&effects), Some(Outcome::Interrupted(_))));
}

#[test]
fn after_a_restart_of_the_master_unfinished_commands_go_on() {
    let mut bench = accepted();
    let record = bench.fleet.dispatch().unfinished("c").unwrap().0.clone();
    let agent = bench.fleet.registry().view(id(1)).unwrap().record;
    let fleet = Fleet::new(bench.now, vec![agent], vec![record], 100);
    bench = Bench { fleet, ..Bench::new() };
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 6), None), Err(Refusal::OtherContent));
    bench.register_holding(5, register(1, 1, "a"), vec![held("c", HeldState::Finished)]);
    let _ = bench.fleet.finished(bench.now, session(1, 2), "c", exit(0, 0));
    assert!(sends(&bench.settle(), ACK()));
}

#[test]
fn a_command_given_up_after_a_restart_has_the_output_that_was_here_before() {
    let mut bench = accepted();
    let unfinished = bench.fleet.dispatch().unfinished("c").unwrap().0.clone();
    bench = Bench { fleet: Fleet::new(bench.now, vec![], vec![unfinished], 9), ..Bench::new() };
    bench.register(1, Register { spool_id: [9; 16], highest_epoch: 1, ..register(1, 2, "a") });
    assert_eq!(bench.settle(), [], "nobody has looked yet how much that is");
    bench.fleet.durable(bench.now, "c", 7, vec![(1, 2)]);
    let effects = bench.settle();
    let Effect::Show { view: View::Record(record), .. } = &effects[0] else { panic!("it is shown: {effects:?}") };
    assert!(matches!(&record.outcome, Some(Outcome::Interrupted(_))));
    assert_eq!((record.output_bytes, record.gaps.as_slice()), (7, &[(1, 2)][..]));
}

#[test]
fn a_command_whose_agent_was_forgotten_just_before_the_master_ended_is_interrupted_by_the_next_one() {
    let mut bench = accepted();
    let mut commands = bench.durable.iter().filter_map(|change| match change {
        Change::PutCommand(record) => Some(record.clone()),
        _ => None,
    });
    let command = commands.next_back().expect("it was recorded");
    // The store has forgotten the agent, and the master ended before it gave up the command.
    bench.fleet = Fleet::new(bench.now, Vec::new(), vec![command], 9);
    bench.fleet.durable(bench.now, "c", 0, vec![]);
    let effects = bench.settle();
    assert!(matches!(outcome(&effects), Some(Outcome::Interrupted(_))), "{effects:?}");
    assert!(bench.fleet.dispatch().is_empty());
}

#[test]
fn a_command_whose_new_spool_could_not_be_recorded_is_sent_in_the_same_session_once_it_is() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 5), None), Ok(Submitted::New));
    bench.effects();
    bench.fleet.closed(bench.now, ConnId(1), link::LossReason::StreamClosed, crate::ClosedBy::Agent, String::new());
    bench.settle();
    bench.fleet.register(bench.now, ConnId(2), Register { spool_id: [9; 16], ..register(1, 2, "a") }, vec![]);
    bench.effects();
    assert!(bench.answer_write(Ok(())));
    bench.effects();
    assert!(bench.answer_write(Err("disk full".to_owned())));
    assert_eq!(runs(&bench.settle()), 0);
    bench.advance(Duration::from_secs(5));
    assert_eq!(runs(&bench.timeout()), 1);
    bench.advance(Duration::from_secs(60));
    assert_eq!(runs(&bench.timeout()), 0);
}

/// The master as it is after a crash: what was durable is all that it knows.
fn crashed(bench: Bench) -> Bench {
    let mut agents = std::collections::BTreeMap::new();
    let mut commands: Vec<CommandRecord<u32>> = Vec::new();
    for change in &bench.durable {
        match change {
            Change::PutAgent(record) => drop(agents.insert(record.id, record.clone())),
            Change::PutCommand(record) => match commands.iter_mut().find(|known| known.id == record.id) {
                Some(known) => *known = record.clone(),
                None => commands.push(record.clone()),
            },
            _ => {}
        }
    }
    commands.retain(|record| record.state != CommandState::Finished);
    let fleet = Fleet::new(bench.now, agents.into_values().collect(), commands, 1_000);
    Bench { fleet, writes: Default::default(), ..bench }
}

#[test]
fn a_master_that_crashes_between_committing_and_sending_starts_the_command_at_most_once() {
    // Committed, and the message never left.
    let unsent = || {
        let mut bench = Bench::new();
        bench.register(1, register(1, 1, "a"));
        bench.fleet.submit(bench.now, submit("c", 5), None).unwrap();
        bench.effects();
        bench.answer_write(Ok(()));
        crashed(bench)
    };
    // The agent came to it all the same, or did not, or has another spool by now.
    let mut bench = unsent();
    assert_eq!(runs(&bench.register(2, register(1, 1, "a"))), 1);
    let mut bench = unsent();
    let effects = bench.register_holding(2, register(1, 1, "a"), vec![held("c", HeldState::Accepted)]);
    assert_eq!((runs(&effects), outcome(&effects)), (0, None));
    let mut bench = unsent();
    bench.fleet.durable(bench.now, "c", 0, vec![]);
    let effects = bench.register(2, Register { spool_id: [99; 16], ..register(1, 1, "a") });
    assert!(matches!((runs(&effects), outcome(&effects)), (0, Some(Outcome::Interrupted(_)))));
    // The tool that asks again attaches, before and after the agent is back.
    let mut bench = unsent();
    assert!(matches!(bench.fleet.submit(bench.now, submit("c", 5), None), Ok(Submitted::Attached(Some(_)))));
    assert_eq!(runs(&bench.register(2, register(1, 1, "a"))), 1);
    assert!(matches!(bench.fleet.submit(bench.now, submit("c", 5), None), Ok(Submitted::Attached(Some(_)))));
    assert_eq!(runs(&bench.settle()), 0);
}

#[test]
fn a_command_that_was_never_committed_is_unknown_after_a_crash_and_may_be_asked_for_anew() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.submit(bench.now, submit("c", 5), None).unwrap();
    assert_eq!(runs(&bench.effects()), 0);
    let mut bench = crashed(bench);
    assert!(bench.fleet.dispatch().is_empty());
    bench.register(2, register(1, 1, "a"));
    assert_eq!(bench.fleet.submit(bench.now, submit("c", 6), None), Ok(Submitted::New));
    assert_eq!(runs(&bench.settle()), 1);
}
