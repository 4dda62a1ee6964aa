mod history;

use super::*;

type Event = Output<&'static str>;

const START: u64 = 1_000;

fn params() -> Params {
    Params {
        disabled: None,
        max_running: 2,
        held_max: 100,
        kill_grace: seconds(10),
        remember: seconds(7 * 86_400),
        tombstones_max: 10_000,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A ledger whose records are durable at once and whose processes start at once, as in memory.
struct Memory {
    ledger: Ledger<&'static str>,
    unix_ms: u64,
}

impl Memory {
    fn new(params: Params) -> Self {
        let mut memory = Self { ledger: Ledger::new(params), unix_ms: START };
        assert_eq!(memory.at(0, Input::SessionUp), []);
        memory
    }

    /// Everything but `Persist`, which is answered.
    fn at(&mut self, now: u64, input: Input<&'static str>) -> Vec<Event> {
        self.ledger.handle(seconds(now), self.unix_ms, input);
        let mut events = Vec::new();
        while let Some(output) = self.ledger.poll_output() {
            match output {
                Output::Persist { record: Record::Acknowledged, .. } => {}
                Output::Persist { id, .. } => self.ledger.handle(seconds(now), self.unix_ms, Input::Persisted { id }),
                Output::Start { id, spec } => {
                    self.ledger.handle(seconds(now), self.unix_ms, Input::Started { id: id.clone() });
                    events.push(Output::Start { id, spec });
                }
                other => events.push(other),
            }
        }
        events
    }

    fn run(&mut self, now: u64, id: &str) -> Vec<Event> {
        self.at(now, run(id))
    }

    fn exit(&mut self, now: u64, id: &str, exit: Exit) -> Vec<Event> {
        self.at(now, Input::Exited { id: id.into(), exit, total_bytes: 7 })
    }
}

fn run(id: &str) -> Input<&'static str> {
    Input::Run { id: id.into(), spec: "true", timeout: None }
}

fn cancel(id: &str) -> Input<&'static str> {
    Input::Cancel { id: id.into() }
}

fn ack(id: &str) -> Input<&'static str> {
    Input::FinishedAck { id: id.into() }
}

fn accepted(id: &str) -> Event {
    Output::Accepted { id: id.into() }
}

fn start(id: &str) -> Event {
    Output::Start { id: id.into(), spec: "true" }
}

fn terminate(id: &str) -> Event {
    Output::Terminate { id: id.into() }
}

fn kill(id: &str) -> Event {
    Output::Kill { id: id.into() }
}

/// Of a command that ran.
fn finished(id: &str, outcome: Outcome) -> Event {
    let finish = Finish { outcome, total_bytes: 7, started_unix_ms: START, finished_unix_ms: START };
    Output::Finished { id: id.into(), finish }
}

fn never_started(id: &str, outcome: Outcome) -> Event {
    let finish = Finish { outcome, total_bytes: 0, started_unix_ms: 0, finished_unix_ms: START };
    Output::Finished { id: id.into(), finish }
}

fn own(code: i32) -> Exit {
    Exit::Own(Ending::Code(code))
}

const TERMINATED: Exit = Exit::Killed(Ending::Signal(15));

#[test]
fn a_command_is_recorded_then_accepted_then_recorded_as_starting_then_started() {
    let mut ledger = Ledger::new(params());
    let mut step = |input| {
        ledger.handle(seconds(1), START, input);
        std::iter::from_fn(|| ledger.poll_output()).collect::<Vec<_>>()
    };
    let persist = |record| Output::Persist { id: "a".to_owned(), record };
    let persisted = || Input::Persisted { id: "a".into() };
    assert_eq!(step(Input::SessionUp), []);
    assert_eq!(step(run("a")), [persist(Record::Accepted("true"))]);
    assert_eq!(step(run("a")), [], "not accepted before it is recorded, and recorded once");
    assert_eq!(step(persisted()), [accepted("a"), persist(Record::Starting)]);
    assert_eq!(step(persisted()), [start("a")]);
    assert_eq!(step(Input::Started { id: "a".into() }), []);
    let Output::Finished { finish, .. } = finished("a", Outcome::Exited(3)) else { unreachable!() };
    assert_eq!(
        step(Input::Exited { id: "a".into(), exit: own(3), total_bytes: 7 }),
        [persist(Record::Finished(finish))]
    );
    assert_eq!(step(persisted()), [finished("a", Outcome::Exited(3))]);
    assert_eq!(step(ack("a")), [persist(Record::Acknowledged)]);
}

#[test]
fn what_is_not_durable_yet_is_not_reported_as_held() {
    let mut ledger = Ledger::new(params());
    ledger.handle(seconds(1), START, run("a"));
    assert_eq!(ledger.held(), []);
    ledger.handle(seconds(1), START, Input::Persisted { id: "a".into() });
    assert_eq!(ledger.held(), [Held { id: "a", state: HeldState::Accepted, spec: &"true", started_unix_ms: 0 }]);
}

#[test]
fn the_same_request_again_is_accepted_again_and_not_started_again() {
    let mut memory = Memory::new(params());
    assert_eq!(memory.run(1, "a"), [accepted("a"), start("a")]);
    assert_eq!(memory.run(2, "a"), [accepted("a")]);
    assert_eq!(memory.exit(3, "a", own(0)), [finished("a", Outcome::Exited(0))]);
    assert_eq!(memory.run(4, "a"), [accepted("a"), finished("a", Outcome::Exited(0))]);
}

#[test]
fn another_request_under_a_held_id_is_refused_and_leaves_the_first_alone() {
    let mut memory = Memory::new(params());
    memory.run(1, "a");
    let other = Input::Run { id: "a".into(), spec: "false", timeout: None };
    assert_eq!(memory.at(2, other.clone()), [Output::Refuse { id: "a".into(), reason: OTHER_CONTENT.into() }]);
    assert_eq!(memory.exit(3, "a", own(0)), [finished("a", Outcome::Exited(0))]);
    assert_eq!(memory.at(4, ack("a")), [], "this acknowledges the refusal");
    assert!(memory.ledger.holds("a"));
    assert_eq!(memory.at(5, ack("a")), []);
    assert!(!memory.ledger.holds("a"));
}

#[test]
fn more_than_may_run_wait_and_start_in_the_order_in_which_they_came() {
    let mut memory = Memory::new(params());
    assert_eq!(memory.run(1, "a"), [accepted("a"), start("a")]);
    assert_eq!(memory.run(1, "b"), [accepted("b"), start("b")]);
    assert_eq!(memory.run(1, "c"), [accepted("c")]);
    assert_eq!(memory.run(1, "d"), [accepted("d")]);
    assert_eq!(memory.exit(2, "b", own(0)), [finished("b", Outcome::Exited(0)), start("c")]);
    assert_eq!(memory.exit(3, "a", own(1)), [finished("a", Outcome::Exited(1)), start("d")]);
    let held: Vec<_> = memory.ledger.held().into_iter().map(|held| (held.id, held.state)).collect();
    let (running, finished) = (HeldState::Running, HeldState::Finished);
    assert_eq!(held, [("a", finished), ("b", finished), ("c", running), ("d", running)]);
}

#[test]
fn cancelling_a_waiting_command_ends_it_without_a_start() {
    let mut memory = Memory::new(Params { max_running: 1, ..params() });
    memory.run(1, "a");
    memory.run(1, "b");
    assert_eq!(memory.at(2, cancel("b")), [never_started("b", Outcome::Cancelled)]);
    assert_eq!(memory.exit(3, "a", own(0)), [finished("a", Outcome::Exited(0))]);
}

#[test]
fn a_command_cancelled_while_it_is_recorded_never_starts() {
    let mut ledger = Ledger::new(params());
    ledger.handle(seconds(0), START, Input::SessionUp);
    ledger.handle(seconds(1), START, run("a"));
    ledger.handle(seconds(1), START, cancel("a"));
    ledger.handle(seconds(1), START, Input::Persisted { id: "a".into() });
    let outputs: Vec<_> = std::iter::from_fn(|| ledger.poll_output()).collect();
    assert_eq!(outputs[1], accepted("a"));
    assert!(
        matches!(&outputs[2], Output::Persist { record: Record::Finished(finish), .. } if finish.outcome == Outcome::Cancelled)
    );
    assert_eq!(outputs.len(), 3);
}

#[test]
fn cancelling_a_running_command_terminates_then_kills_after_the_grace() {
    let mut memory = Memory::new(params());
    memory.run(1, "a");
    assert_eq!(memory.ledger.poll_timeout(), None);
    assert_eq!(memory.at(5, cancel("a")), [terminate("a")]);
    assert_eq!(memory.at(6, cancel("a")), [], "the grace is not renewed");
    assert_eq!(memory.ledger.poll_timeout(), Some(seconds(15)));
    assert_eq!(memory.at(14, Input::Wake), []);
    assert_eq!(memory.at(15, Input::Wake), [kill("a")]);
    assert_eq!(memory.ledger.poll_timeout(), None);
    assert_eq!(memory.exit(16, "a", Exit::Killed(Ending::Signal(9))), [finished("a", Outcome::Cancelled)]);
}

#[test]
fn a_command_that_ended_before_the_signal_reached_it_keeps_its_own_outcome() {
    let mut memory = Memory::new(params());
    memory.run(1, "a");
    memory.at(2, cancel("a"));
    assert_eq!(memory.exit(2, "a", own(0)), [finished("a", Outcome::Exited(0))]);
}

#[test]
fn the_timeout_counts_from_the_start_and_its_outcome_wins_over_the_exit_code() {
    let mut memory = Memory::new(Params { max_running: 1, ..params() });
    memory.run(0, "first");
    memory.at(1, Input::Run { id: "a".into(), spec: "true", timeout: Some(seconds(30)) });
    assert_eq!(memory.ledger.poll_timeout(), None);
    memory.exit(100, "first", own(0));
    assert_eq!(memory.ledger.poll_timeout(), Some(seconds(130)));
    assert_eq!(memory.at(130, Input::Wake), [terminate("a")]);
    assert_eq!(memory.at(131, cancel("a")), [], "the first reason stays");
    assert_eq!(memory.exit(131, "a", Exit::Killed(Ending::Code(0))), [finished("a", Outcome::TimedOut)]);
}

#[test]
fn a_deadline_is_kept_although_nobody_wakes_the_ledger_for_it() {
    let mut memory = Memory::new(params());
    memory.at(1, Input::Run { id: "a".into(), spec: "true", timeout: Some(seconds(30)) });
    assert_eq!(memory.run(40, "b"), [terminate("a"), accepted("b"), start("b")]);
}

#[test]
fn a_program_that_cannot_be_started_is_refused_and_frees_its_slot() {
    let mut ledger = Ledger::new(Params { max_running: 1, ..params() });
    ledger.handle(seconds(0), START, Input::SessionUp);
    let mut started = Vec::new();
    let mut finishes = Vec::new();
    for id in ["a", "b"] {
        ledger.handle(seconds(1), START, run(id));
    }
    while let Some(output) = ledger.poll_output() {
        match output {
            Output::Persist { id, .. } => ledger.handle(seconds(1), START, Input::Persisted { id }),
            Output::Start { id, .. } => {
                started.push(id.clone());
                ledger.handle(seconds(1), START, Input::StartFailed { id, reason: "no such file".into() });
            }
            Output::Finished { finish, .. } => finishes.push(finish.outcome),
            _ => {}
        }
    }
    assert_eq!(started, ["a", "b"]);
    assert_eq!(finishes, [Outcome::Refused("no such file".into()), Outcome::Refused("no such file".into())]);
}

#[test]
fn an_outcome_is_sent_in_every_session_until_it_is_acknowledged() {
    let mut memory = Memory::new(params());
    memory.run(1, "a");
    memory.at(2, Input::SessionDown);
    assert_eq!(memory.exit(3, "a", own(0)), []);
    assert_eq!(memory.at(4, Input::SessionUp), [finished("a", Outcome::Exited(0))]);
    memory.at(5, Input::SessionDown);
    assert_eq!(memory.at(6, Input::SessionUp), [finished("a", Outcome::Exited(0))]);
    memory.at(7, ack("a"));
    memory.at(8, Input::SessionDown);
    assert_eq!(memory.at(9, Input::SessionUp), []);
    assert!(memory.ledger.is_empty());
}

#[test]
fn an_early_acknowledgement_changes_nothing() {
    let mut memory = Memory::new(params());
    memory.run(1, "a");
    assert_eq!(memory.at(2, ack("a")), []);
    assert_eq!(memory.exit(3, "a", own(0)), [finished("a", Outcome::Exited(0))]);
}

#[test]
fn a_remembered_command_is_answered_and_never_started_until_it_is_forgotten() {
    let mut memory = Memory::new(params());
    memory.run(1, "a");
    memory.exit(2, "a", own(4));
    memory.at(100, ack("a"));
    assert_eq!(memory.run(200, "a"), [accepted("a"), finished("a", Outcome::Exited(4))]);
    assert_eq!(memory.run(100 + 7 * 86_400 - 1, "a"), [accepted("a"), finished("a", Outcome::Exited(4))]);
    assert_eq!(memory.run(100 + 7 * 86_400, "a"), [accepted("a"), start("a")]);
}

#[test]
fn the_oldest_outcomes_are_forgotten_first_when_there_are_too_many() {
    let mut memory = Memory::new(Params { tombstones_max: 2, ..params() });
    for id in ["a", "b", "c"] {
        memory.run(1, id);
        memory.exit(1, id, own(0));
        memory.at(1, ack(id));
    }
    assert_eq!(memory.ledger.remembered("a"), None);
    assert!(memory.ledger.remembered("b").is_some() && memory.ledger.remembered("c").is_some());
}

#[test]
fn a_drained_ledger_starts_nothing_and_lets_running_ones_finish() {
    let mut memory = Memory::new(Params { max_running: 1, ..params() });
    memory.run(1, "a");
    memory.run(1, "b");
    assert_eq!(memory.at(2, Input::Drain), [never_started("b", Outcome::Refused(NEVER_STARTED.into()))]);
    assert_eq!(memory.run(3, "c"), [never_started("c", Outcome::Refused(SHUT_DOWN.into()))]);
    assert_eq!(memory.exit(4, "a", own(0)), [finished("a", Outcome::Exited(0))]);
}

#[test]
fn an_interrupt_ends_what_runs_and_says_so() {
    let mut memory = Memory::new(params());
    memory.run(1, "a");
    memory.run(1, "b");
    memory.at(2, cancel("b"));
    assert_eq!(memory.at(3, Input::Interrupt), [terminate("a")]);
    assert_eq!(memory.exit(4, "a", TERMINATED), [finished("a", Outcome::Interrupted(SHUT_DOWN.into()))]);
    assert_eq!(memory.exit(4, "b", TERMINATED), [finished("b", Outcome::Cancelled)]);
}

#[test]
fn a_disabled_ledger_refuses_with_its_reason_until_acknowledged() {
    let mut memory = Memory::new(Params { disabled: Some("commands.enabled is false".into()), ..params() });
    let refused = never_started("a", Outcome::Refused("commands.enabled is false".into()));
    assert_eq!(memory.run(1, "a"), std::slice::from_ref(&refused));
    memory.at(2, Input::SessionDown);
    assert_eq!(memory.at(3, Input::SessionUp), [refused]);
}

#[test]
fn a_full_ledger_refuses_and_holds_no_more() {
    let mut memory = Memory::new(Params { held_max: 1, ..params() });
    memory.run(1, "a");
    let reason = "the agent holds 1 commands already".to_owned();
    assert_eq!(memory.run(1, "b"), [Output::Refuse { id: "b".into(), reason }]);
    assert!(!memory.ledger.holds("b"));
}

#[test]
fn a_command_that_cannot_be_recorded_is_refused_and_never_starts() {
    let mut ledger = Ledger::new(params());
    ledger.handle(seconds(1), START, run("a"));
    ledger.poll_output();
    let failed = Input::PersistFailed { id: "a".into(), reason: "no space left".into() };
    ledger.handle(seconds(1), START, failed);
    assert_eq!(ledger.poll_output(), Some(Output::Refuse { id: "a".into(), reason: "no space left".into() }));
    assert_eq!(ledger.poll_output(), None);
    assert!(ledger.is_empty());
}
