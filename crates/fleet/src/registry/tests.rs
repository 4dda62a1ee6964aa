use super::*;
use crate::{testing::*, *};
use link::LossReason;

mod heard;
mod refused;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn closed(effects: &[Effect<u32>]) -> Vec<(SessionId, LossReason)> {
    let close = |effect: &Effect<u32>| match effect {
        Effect::Close { session, reason, .. } => Some((*session, *reason)),
        _ => None,
    };
    effects.iter().filter_map(close).collect()
}

#[test]
fn registered_is_said_only_once_it_is_durable() {
    let mut bench = Bench::new();
    bench.fleet.register(bench.now, ConnId(1), register(1, 1, "a"), vec![]);
    assert_eq!(bench.effects(), []);
    assert!(bench.fleet.registry().view(id(1)).is_none(), "not shown before");
    assert_eq!(bench.beat(session(1, 1), 1, 0), Heard::Stale, "no session before");
    bench.answer_write(Ok(()));
    assert_eq!(bench.effects(), [registered(1, 1, 1), Effect::Active { agent: id(1) }]);
    assert_eq!(bench.status(1), (Status::Active, String::new()));
    assert_eq!(bench.last_event().0, "agent.connected");
}

#[test]
fn a_registration_that_cannot_be_recorded_comes_again_later_and_leaves_nothing() {
    let mut bench = Bench::new();
    bench.fleet.register(bench.now, ConnId(1), register(1, 1, "a"), vec![]);
    bench.effects();
    bench.answer_write(Err("disk full".to_owned()));
    let answer = Answer::RetryLater {
        after: Duration::from_secs(5),
        reason: "the master cannot record the registration: disk full".to_owned(),
    };
    assert_eq!(bench.effects(), [Effect::Answer { conn: ConnId(1), answer }]);
    assert_eq!(bench.fleet.registry().find("a"), None);
    assert_eq!(bench.register(2, register(2, 1, "a"))[0], registered(2, 2, 1), "the name is free");
}

#[test]
fn the_epoch_is_above_the_masters_and_the_agents() {
    let mut bench = Bench::new();
    let with = |highest_epoch| Register { highest_epoch, ..register(1, 1, "a") };
    assert!(bench.register(1, with(41)).contains(&registered(1, 1, 42)));
    assert!(bench.register(2, with(7)).contains(&registered(2, 1, 43)));
    assert!(bench.register(3, with(u64::MAX)).contains(&registered(3, 1, (1 << 62) + 1)));
    assert!(bench.register(4, with(u64::MAX)).contains(&registered(4, 1, (1 << 62) + 2)));
}

#[test]
fn silence_of_twenty_seconds_is_a_loss_and_any_message_a_sign_of_life() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.advance(MS(10_000));
    assert_eq!(bench.fleet.heard(bench.now, session(1, 1)), Heard::Live);
    bench.advance(MS(19_999));
    assert_eq!(bench.timeout(), []);
    assert_eq!(bench.status(1).0, Status::Active);
    assert_eq!(bench.fleet.poll_timeout(), Some(bench.now.monotonic + MS(1)));
    bench.advance(MS(1));
    assert_eq!(closed(&bench.timeout()), [(session(1, 1), LossReason::HeartbeatTimeout)]);
    assert_eq!(bench.status(1), (Status::Inactive, "heartbeat_timeout".to_owned()));
    assert_eq!(bench.last_event(), ("agent.lost".to_owned(), "heartbeat_timeout".to_owned()));
    assert_eq!(bench.beat(session(1, 1), 9, 0), Heard::Stale, "what comes later is void");
    assert_eq!(bench.close(1), [], "and its stream's end is no second loss");
}

#[test]
fn what_agents_say_of_their_timing_is_clamped() {
    let patience = |interval, timeout, max_failures| {
        Timing { interval: MS(interval), timeout: MS(timeout), max_failures, ..Timing::default() }.patience()
    };
    assert_eq!(patience(5_000, 5_000, 3), MS(20_000));
    assert_eq!(patience(0, 0, 0), MS(20_000));
    assert_eq!(patience(1, 1, 1), MS(200));
    assert_eq!(patience(1_000, 9_000, 2), MS(3_000));
    assert_eq!(patience(u64::MAX, u64::MAX, u32::MAX), Duration::from_secs(3_600 * 101));
}

#[test]
fn beats_without_progress_of_the_acknowledgement_make_an_agent_inactive_until_it_progresses() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    for seq in 1..=3 {
        assert_eq!(bench.beat(session(1, 1), seq, 0), Heard::Live);
        assert_eq!(bench.status(1).0, Status::Active, "beat {seq}");
    }
    let _ = bench.beat(session(1, 1), 4, 0);
    assert_eq!(bench.status(1), (Status::Inactive, "downlink_dead".to_owned()));
    assert!(bench.fleet.registry().is_live(session(1, 1)), "the session goes on");
    assert!(!bench.settle().contains(&Effect::Active { agent: id(1) }));
    let _ = bench.beat(session(1, 1), 5, 1);
    assert_eq!(bench.status(1).0, Status::Active);
    assert!(bench.settle().contains(&Effect::Active { agent: id(1) }));
    assert_eq!(bench.last_event(), ("agent.connected".to_owned(), "recovered".to_owned()));
}

#[test]
fn an_agent_that_hangs_up_for_want_of_answers_was_lost_by_silence() {
    // When each beat comes, the answer that it tells of; then when the stream ends.
    let reason = |beats: &[(u64, u64)], end: u64| {
        let mut bench = Bench::new();
        bench.register(1, register(1, 1, "a"));
        let start = bench.now.monotonic;
        for ((at, last_ack), seq) in beats.iter().zip(1..) {
            bench.now.monotonic = start + MS(*at);
            assert_eq!(bench.beat(session(1, 1), seq, *last_ack), Heard::Live);
        }
        bench.now.monotonic = start + MS(end);
        bench.close(1);
        bench.status(1).1
    };
    let silence = "heartbeat_timeout";
    assert_eq!(reason(&[(0, 0), (5_000, 1)], 20_000), silence, "beat 2 was the first without an answer");
    assert_eq!(reason(&[(0, 0), (5_000, 1), (10_000, 1), (15_000, 1)], 20_000), silence);
    assert_eq!(reason(&[(0, 0), (5_000, 0), (10_000, 0)], 15_000), silence, "not even the first one had one");
    assert_eq!(reason(&[], 15_000), silence);
    assert_eq!(reason(&[(0, 0), (5_000, 1), (10_000, 1)], 14_000), "stream_closed", "it has not given up yet");
    assert_eq!(reason(&[(0, 0), (5_000, 0), (10_000, 0), (14_000, 3)], 16_000), "stream_closed", "they came after all");
    assert_eq!(reason(&[(0, 0)], 4_900), "stream_closed");
}

#[test]
fn an_agent_that_cannot_take_commands_is_not_active() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    let beat = Beat { seq: 1, last_ack: 0, ready: false, node: None };
    assert_eq!(bench.fleet.heartbeat(bench.now, session(1, 1), beat), Heard::Live);
    assert_eq!(
        bench.settle(),
        [Effect::Send { session: session(1, 1), message: Down::HeartbeatAck { seq: 1, interval: None } }]
    );
    assert_eq!(bench.status(1), (Status::Inactive, "not_ready".to_owned()));
    let submit = Submit { id: "c".to_owned(), agent: "a".to_owned(), spec: 1 };
    assert!(matches!(bench.fleet.submit(bench.now, submit, None), Err(Refusal::Away { .. })));
}

#[test]
fn the_same_process_supersedes_itself_at_once() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    let effects = bench.register(2, register(1, 1, "a"));
    assert_eq!(closed(&effects), [(session(1, 1), LossReason::Superseded)]);
    assert!(effects.contains(&registered(2, 1, 2)));
    assert_eq!(bench.close(1), [], "the old stream's drop is overtaken");
    assert_eq!(bench.status(1).0, Status::Active);
    assert_eq!(bench.beat(session(1, 1), 1, 0), Heard::Stale);
    assert_eq!(bench.beat(session(1, 2), 1, 0), Heard::Live);
}

#[test]
fn a_copy_of_an_agent_is_refused_when_the_original_answers() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    let copy = Register { host: "elsewhere".to_owned(), ..register(1, 2, "a") };
    let probe = Effect::Send { session: session(1, 1), message: Down::Probe };
    assert_eq!(bench.register(2, copy), [probe]);
    bench.advance(MS(1_999));
    assert_eq!(bench.fleet.heard(bench.now, session(1, 1)), Heard::Live);
    let (reason, message) = rejection(&bench.settle(), 2).expect("a rejection");
    assert_eq!(reason, LossReason::DuplicateId);
    assert!(message.contains("host1") && message.contains("elsewhere"), "{message}");
    assert_documented(&message);
    bench.advance(MS(5_000));
    assert_eq!(bench.timeout(), []);
    assert_eq!(bench.status(1).0, Status::Active);
}

#[test]
fn a_silent_original_is_superseded_after_two_seconds() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(1, 2, "a"));
    bench.advance(MS(1_999));
    assert_eq!(bench.timeout(), []);
    bench.advance(MS(1));
    let effects = bench.timeout();
    assert_eq!(closed(&effects), [(session(1, 1), LossReason::Superseded)]);
    assert!(effects.contains(&registered(2, 1, 2)));
}

#[test]
fn a_restarted_agent_waits_no_longer_than_its_old_stream_lives() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(1, 2, "a"));
    bench.advance(MS(10));
    assert!(bench.close(1).contains(&registered(2, 1, 2)));
    assert_eq!(bench.timeout(), []);
}

#[test]
fn a_newcomer_that_leaves_while_it_waits_is_forgotten() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(1, 2, "a"));
    bench.close(2);
    bench.advance(MS(2_000));
    assert_eq!(bench.timeout(), []);
    assert_eq!(bench.status(1).0, Status::Active);
    assert!(bench.fleet.registry().is_live(session(1, 1)));
}

#[test]
fn an_original_that_is_being_recorded_is_asked_when_it_can_answer() {
    let mut bench = Bench::new();
    bench.fleet.register(bench.now, ConnId(1), register(1, 1, "a"), vec![]);
    bench.fleet.register(bench.now, ConnId(2), register(1, 2, "a"), vec![]);
    let effects = bench.settle();
    assert_eq!(effects[0], registered(1, 1, 1));
    assert_eq!(effects[1], Effect::Send { session: session(1, 1), message: Down::Probe });
}

/// The document has other names in it, and the same words after them.
fn assert_documented(message: &str) {
    let document = include_str!("../../../../docs/troubleshooting.md");
    let (_, remedy) = message.rsplit_once("): ").expect("the remedy comes after the hosts");
    assert!(document.contains(&format!("): {remedy}. Retrying")), "not in the document: {remedy}");
}

#[test]
fn a_name_belongs_to_the_agent_that_is_connected() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    let (reason, message) = rejection(&bench.register(2, register(2, 1, "a")), 2).expect("a rejection");
    assert_eq!(reason, LossReason::NameTaken);
    assert!(message.contains("host1") && message.contains("host2"), "{message}");
    assert_documented(&message);
    assert_eq!(bench.last_event(), ("agent.rejected".to_owned(), "name_taken".to_owned()));
    let events = bench.events().len();
    bench.register(3, register(2, 1, "a"));
    assert_eq!(bench.events().len(), events, "told once a minute");
}

#[test]
fn what_a_registration_would_lead_to_is_told_without_doing_it() {
    let mut bench = Bench::new();
    let forecast = |bench: &Bench, register| bench.fleet.registry().would_register(bench.now, register);
    let fine = Forecast { refused: None, message: String::new(), known: false };
    assert_eq!(forecast(&bench, register(1, 1, "a")), fine);
    let bad = forecast(&bench, register(1, 1, "a b"));
    assert_eq!(bad.refused, Some(LossReason::Protocol));
    bench.register(1, register(1, 1, "a"));
    let events = bench.events().len();
    let own = forecast(&bench, register(1, 1, "a"));
    assert_eq!((own.refused, own.known), (None, true));
    let copy = forecast(&bench, register(1, 2, "a"));
    assert_eq!((copy.refused, copy.known), (Some(LossReason::DuplicateId), true));
    assert!(copy.message.starts_with("the agent id 0101"), "{}", copy.message);
    let taken = forecast(&bench, register(2, 1, "a"));
    assert_eq!((taken.refused, taken.known), (Some(LossReason::NameTaken), false));
    // As a registration would be answered.
    assert_eq!(rejection(&bench.register(2, register(2, 1, "a")), 2), Some((LossReason::NameTaken, taken.message)));
    bench.close(1);
    let next = forecast(&bench, register(2, 1, "a"));
    assert_eq!(next.refused, None);
    assert_eq!(next.message, "it would take the name of the Inactive agent on host \"host1\"");
    assert_eq!(bench.events().len(), events + 2, "the refusal and the loss, and nothing of what was only asked");
    assert_eq!(bench.status(1).0, Status::Inactive);
}

#[test]
fn the_name_of_a_lost_agent_goes_to_the_next_with_an_event() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.close(1);
    assert!(bench.register(2, register(2, 1, "a")).contains(&registered(2, 2, 1)));
    assert_eq!(bench.fleet.registry().find("a"), Some(id(2)));
    assert!(bench.fleet.registry().view(id(1)).is_none());
    assert!(bench.durable.contains(&Change::DeleteAgent(id(1))));
    assert!(bench.events().contains(&("agent.replaced".to_owned(), "name_taken".to_owned())));
}

#[test]
fn who_was_connected_when_the_master_ended_keeps_its_name_until_it_can_be_back() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(2, 1, "b"));
    bench.close(2);
    bench.register(8, register(8, 1, "c"));
    let mut records = [1, 2, 8].map(|n| bench.fleet.registry().view(id(n)).unwrap().record);
    assert!(records[2].after_restart(bench.now.unix_ms, "an earlier restart"));
    bench.advance(MS(3_600_000));
    bench.fleet = Fleet::new(bench.now, records.to_vec(), Vec::new(), 100);
    assert!(
        bench.register(9, register(9, 1, "c")).contains(&registered(9, 9, 1)),
        "it did not come back the last time"
    );
    assert!(bench.register(3, register(4, 1, "b")).contains(&registered(3, 4, 1)), "it was away before");
    bench.advance(MS(89_999));
    let forecast = bench.fleet.registry().would_register(bench.now, register(3, 1, "a"));
    let (reason, message) = rejection(&bench.register(4, register(3, 1, "a")), 4).expect("a rejection");
    assert_eq!((Some(reason), &message), (forecast.refused, &forecast.message));
    assert_eq!(reason, LossReason::NameTaken);
    assert!(message.contains("may be on its way back") && message.contains("host1"), "{message}");
    assert_documented(&message);
    bench.advance(MS(1));
    assert!(bench.register(5, register(3, 1, "a")).contains(&registered(5, 3, 1)), "it does not come back");
}

#[test]
fn a_session_that_its_own_process_leaves_for_a_new_one_is_no_loss() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    let effects = bench.register(2, Register { renews: true, ..register(1, 1, "a") });
    assert_eq!(closed(&effects), [(session(1, 1), LossReason::Superseded)]);
    assert!(effects.contains(&registered(2, 1, 2)));
    let events = bench.events();
    assert!(!events.iter().any(|(kind, _)| kind == "agent.lost"), "{events:?}");
    assert_eq!(events.last(), Some(&("agent.connected".to_owned(), "renewed".to_owned())));
    assert_eq!(sessions(&bench)[1], (1, Some(("renewed".to_owned(), ClosedBy::Agent))));
    // Where there is none to leave, or it was another process's, its word counts for nothing.
    bench.close(2);
    bench.register(3, Register { renews: true, ..register(1, 1, "a") });
    assert_eq!(bench.last_event(), ("agent.connected".to_owned(), String::new()));
    bench.register(4, Register { renews: true, ..register(1, 2, "a") });
    bench.advance(MS(2_000));
    bench.timeout();
    assert_eq!(sessions(&bench).last(), Some(&(4, None)));
    assert!(bench.events().contains(&("agent.lost".to_owned(), "superseded".to_owned())));
}

#[test]
fn a_name_that_could_not_be_given_on_stays_with_the_lost_agent() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.close(1);
    bench.fleet.register(bench.now, ConnId(2), register(2, 1, "a"), vec![]);
    bench.effects();
    bench.answer_write(Err("disk full".to_owned()));
    assert!(matches!(&bench.settle()[..], [Effect::Answer { conn: ConnId(2), answer: Answer::RetryLater { .. } }]));
    assert_eq!(bench.fleet.registry().find("a"), Some(id(1)));
    assert_eq!(bench.status(1), (Status::Inactive, "stream_closed".to_owned()));
}

#[test]
fn a_name_given_on_by_a_write_that_fails_is_given_on_by_the_next_registration() {
    for second_fails in [false, true] {
        let mut bench = Bench::new();
        bench.register(1, register(1, 1, "a"));
        bench.close(1);
        bench.fleet.register(bench.now, ConnId(2), register(2, 1, "a"), vec![]);
        bench.fleet.register(bench.now, ConnId(3), register(2, 1, "a"), vec![]);
        bench.effects();
        bench.answer_write(Err("disk full".to_owned()));
        let forgotten = Change::DeleteAgent(id(1));
        if second_fails {
            bench.answer_write(Err("disk full".to_owned()));
            assert_eq!(bench.fleet.registry().find("a"), Some(id(1)));
            assert!(!bench.durable.contains(&forgotten));
        } else {
            bench.settle();
            assert_eq!(bench.fleet.registry().find("a"), Some(id(2)));
            assert!(bench.durable.contains(&forgotten), "the store has two agents of one name");
        }
    }
}

#[test]
fn an_agent_that_may_yet_be_put_on_record_keeps_its_name_until_that_is_known() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.close(1);
    for conn in [2, 3] {
        bench.fleet.register(bench.now, ConnId(conn), register(2, 1, "a"), vec![]);
    }
    bench.fleet.closed(bench.now, ConnId(3), LossReason::StreamClosed, crate::ClosedBy::Agent, String::new());
    bench.effects();
    bench.answer_write(Err("disk full".to_owned()));
    bench.fleet.register(bench.now, ConnId(4), register(1, 1, "a"), vec![]);
    bench.settle();
    let put = |change: &Change<u32>| matches!(change, Change::PutAgent(record) if record.id == id(2));
    let put = bench.durable.iter().rposition(put).expect("its second registration was recorded");
    let forgotten = bench.durable.iter().rposition(|change| *change == Change::DeleteAgent(id(2)));
    assert!(forgotten > Some(put), "the store has two agents of one name");
    assert_eq!(bench.fleet.registry().find("a"), Some(id(1)));
}

#[test]
fn of_two_agents_of_one_name_in_the_store_the_later_one_has_it() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    let earlier = bench.fleet.registry().view(id(1)).expect("it is known").record;
    let later = AgentRecord { id: id(2), since_unix_ms: earlier.since_unix_ms + 1, ..earlier.clone() };
    bench.fleet = Fleet::new(bench.now, vec![later, earlier], Vec::new(), 9);
    bench.settle();
    assert_eq!(bench.fleet.registry().find("a"), Some(id(2)));
    assert_eq!(bench.fleet.registry().view(id(1)), None);
    assert!(bench.durable.contains(&Change::DeleteAgent(id(1))));
}

#[test]
fn a_renamed_agent_frees_its_old_name() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(1, 1, "b"));
    assert_eq!(bench.fleet.registry().find("a"), None);
    assert_eq!(bench.fleet.registry().find("b"), Some(id(1)));
    assert!(bench.register(3, register(2, 1, "a")).contains(&registered(3, 2, 1)));
}

#[test]
fn names_that_break_the_rule_are_refused_with_the_rule() {
    for name in ["", "a b", "a\nb", "ä", &"x".repeat(64)] {
        let (reason, message) = rejection(&Bench::new().register(1, register(1, 1, name)), 1).expect("a rejection");
        assert_eq!(reason, LossReason::Protocol);
        assert!(message.contains("1 to 63 of letters"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    assert_eq!(rejection(&Bench::new().register(1, register(1, 1, &"x".repeat(63))), 1), None);
}

#[test]
fn an_agent_that_says_goodbye_is_stopped_with_its_reason() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    assert_eq!(bench.fleet.goodbye(bench.now, session(1, 1), "sigterm".to_owned()), Heard::Live);
    bench.settle();
    assert_eq!(bench.status(1), (Status::Stopped, "sigterm".to_owned()));
    assert_eq!(bench.last_event(), ("agent.stopped".to_owned(), "sigterm".to_owned()));
    bench.close(1);
    bench.advance(MS(60_000));
    assert_eq!(bench.timeout(), []);
    assert_eq!(bench.status(1).0, Status::Stopped);
}

#[test]
fn deleting_a_connected_agent_needs_force_and_ends_its_session_once_it_is_durable() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    assert_eq!(bench.fleet.delete(bench.now, id(1), false, 7), Err(DeleteRefused::Connected));
    assert_eq!(bench.fleet.delete(bench.now, id(9), true, 7), Err(DeleteRefused::Unknown));
    assert_eq!(bench.fleet.delete(bench.now, id(1), true, 7), Ok(()));
    assert_eq!(bench.effects(), []);
    assert_eq!(bench.beat(session(1, 1), 1, 0), Heard::Live);
    let effects = bench.settle();
    assert_eq!(closed(&effects), [(session(1, 1), LossReason::UnknownAgent)]);
    assert_eq!(effects.last(), Some(&Effect::Done { ticket: 7, result: Ok(()) }));
    assert_eq!(bench.beat(session(1, 1), 2, 0), Heard::Unknown);
    assert!(bench.register(2, register(1, 1, "a")).contains(&registered(2, 1, 1)), "it comes back as new");
}

#[test]
fn a_deletion_that_fails_changes_nothing() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.delete(bench.now, id(1), true, 7).unwrap();
    bench.effects();
    bench.answer_write(Err("locked".to_owned()));
    assert_eq!(bench.effects(), [Effect::Done { ticket: 7, result: Err("locked".to_owned()) }]);
    assert_eq!(bench.status(1).0, Status::Active);
    bench.close(1);
    assert_eq!(bench.last_event().0, "agent.lost", "its changes are recorded again");
}

#[test]
fn of_two_deletions_one_that_is_recorded_is_enough() {
    for first_fails in [true, false] {
        let mut bench = Bench::new();
        bench.register(1, register(1, 1, "a"));
        bench.fleet.delete(bench.now, id(1), true, 7).unwrap();
        bench.fleet.delete(bench.now, id(1), true, 8).unwrap();
        bench.effects();
        bench.answer_write(if first_fails { Err("full".to_owned()) } else { Ok(()) });
        bench.answer_write(if first_fails { Ok(()) } else { Err("full".to_owned()) });
        assert_eq!(closed(&bench.effects()), [(session(1, 1), LossReason::UnknownAgent)], "{first_fails}");
        assert_eq!(bench.beat(session(1, 1), 1, 0), Heard::Unknown, "{first_fails}");
    }
}

#[test]
fn an_agent_that_registers_while_it_is_deleted_stays() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.fleet.delete(bench.now, id(1), true, 7).unwrap();
    let effects = bench.register(2, register(1, 1, "a"));
    assert!(effects.contains(&registered(2, 1, 2)));
    assert!(effects.contains(&Effect::Done { ticket: 7, result: Ok(()) }));
    assert_eq!(bench.status(1).0, Status::Active);
}

#[test]
fn a_connection_that_breaks_while_it_registers_leaves_an_inactive_agent() {
    let mut bench = Bench::new();
    bench.fleet.register(bench.now, ConnId(1), register(1, 1, "a"), vec![]);
    let effects = bench.close(1);
    assert_eq!(effects, []);
    assert_eq!(bench.status(1), (Status::Inactive, "stream_closed".to_owned()));
    let Some(Change::PutAgent(last)) = bench.durable.iter().rfind(|change| matches!(change, Change::PutAgent(_)))
    else {
        panic!("the record is put")
    };
    assert_eq!(last.status, Status::Inactive);
}

#[test]
fn after_a_restart_everybody_is_known_and_nobody_active() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(2, 1, "b"));
    let _ = bench.fleet.goodbye(bench.now, session(2, 1), "sigterm".to_owned());
    bench.settle();
    let records = [1, 2].map(|n| bench.fleet.registry().view(id(n)).unwrap().record).to_vec();
    let mut bench = Bench { fleet: Fleet::new(bench.now, records, vec![], 9), ..Bench::new() };
    assert_eq!(bench.status(1), (Status::Inactive, crate::REASON_MASTER_RESTARTED.to_owned()));
    assert_eq!(bench.status(2), (Status::Stopped, "sigterm".to_owned()));
    assert_eq!(bench.beat(session(1, 1), 1, 0), Heard::Stale);
    assert!(bench.register(1, register(1, 1, "a")).contains(&registered(1, 1, 2)), "the epoch goes on");
    assert!(matches!(&bench.durable[1], Change::AddEvent(event) if event.seq == 9), "and so do the events");
}

/// Begun and ended sessions, as they were recorded: epoch, reason and who, or nothing where it begins.
fn sessions(bench: &Bench) -> Vec<(u64, Option<(String, ClosedBy)>)> {
    let recorded = |change: &Change<u32>| match change {
        Change::BeginSession(record) => Some((record.session.epoch, None)),
        Change::EndSession(session, end) => Some((session.epoch, Some((end.reason.clone(), end.closed_by)))),
        Change::EndSessions(end) => Some((0, Some((end.reason.clone(), end.closed_by)))),
        _ => None,
    };
    bench.durable.iter().filter_map(recorded).collect()
}

#[test]
fn every_session_is_on_record_with_its_end_and_who_closed_it() {
    let end = |reason: &str, by| Some((reason.to_owned(), by));
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(1, 1, "a"));
    bench.close(2);
    bench.register(3, register(1, 1, "a"));
    bench.advance(MS(20_000));
    bench.timeout();
    bench.register(4, register(1, 1, "a"));
    assert!(bench.fleet.stop(id(1), String::new()));
    let _ = bench.fleet.goodbye(bench.now, session(1, 4), "shutdown".to_owned());
    bench.settle();
    bench.register(5, register(1, 1, "a"));
    let _ = bench.fleet.goodbye(bench.now, session(1, 5), "shutdown".to_owned());
    bench.settle();
    bench.register(6, register(1, 1, "a"));
    bench.advance(MS(15_000));
    bench.fleet.closed(bench.now, ConnId(6), LossReason::ConnectionReset, ClosedBy::Network, String::new());
    bench.settle();
    bench.register(7, register(1, 1, "a"));
    bench.fleet.retire(bench.now);
    bench.close(7);
    assert_eq!(
        sessions(&bench),
        [
            (1, None),
            (1, end("superseded", ClosedBy::Master)),
            (2, None),
            (2, end("stream_closed", ClosedBy::Agent)),
            (3, None),
            (3, end("heartbeat_timeout", ClosedBy::Master)),
            (4, None),
            (4, end("shutdown", ClosedBy::Operator)),
            (5, None),
            (5, end("shutdown", ClosedBy::Agent)),
            (6, None),
            (6, end("heartbeat_timeout", ClosedBy::Agent)),
            (7, None),
            (0, end("master_shutdown", ClosedBy::Master)),
        ]
    );
}

#[test]
fn a_session_that_breaks_while_it_is_recorded_has_its_end_also_where_a_newer_one_waits() {
    for newer in [false, true] {
        let mut bench = Bench::new();
        bench.fleet.register(bench.now, ConnId(1), register(1, 1, "a"), vec![]);
        bench.effects();
        bench.fleet.closed(bench.now, ConnId(1), LossReason::StreamClosed, ClosedBy::Agent, String::new());
        if newer {
            bench.fleet.register(bench.now, ConnId(2), register(1, 1, "a"), vec![]);
        }
        bench.settle();
        let recorded = sessions(&bench);
        let ended = recorded.iter().filter(|(_, end)| end.is_some()).map(|(epoch, _)| *epoch).collect::<Vec<_>>();
        assert_eq!(ended, [1], "{newer}: {recorded:?}");
        assert_eq!(bench.status(1).0, if newer { Status::Active } else { Status::Inactive });
    }
}

#[test]
fn who_was_turned_away_is_remembered_by_name_and_id() {
    let mut bench = Bench::new();
    bench.register(1, register(1, 1, "a"));
    bench.register(2, register(2, 1, "a"));
    bench.register(3, register(2, 1, "a"));
    bench.fleet.sent_away(bench.now, &register(1, 1, "a"), "busy");
    let told = |id| -> Vec<_> {
        let attempts = bench.fleet.registry().attempts("a", id);
        attempts.into_iter().map(|one| (one.id[0], one.turned.word(), one.count)).collect()
    };
    let all = [(2, "name_taken", 2), (1, "retry_later", 1)];
    assert_eq!(told(None), all);
    assert_eq!(bench.fleet.registry().attempts("b", Some(id(2))).len(), 1);
}

#[test]
fn what_is_remembered_of_a_registration_that_was_refused_or_sent_away_is_short() {
    let mut bench = Bench::new();
    let long = "x\n".repeat(100_000);
    let named = |name: &str| Register { host: long.clone(), address: long.clone(), ..register(2, 1, name) };
    bench.fleet.sent_away(bench.now, &named(&long), "busy");
    bench.fleet.refuse(bench.now, ConnId(1), named(&long), LossReason::Unauthorized, "no".to_owned());
    bench.register(2, named(&long));
    bench.fleet.refuse(bench.now, ConnId(3), named("a"), LossReason::Unauthorized, "no".to_owned());
    assert!(matches!(rejection(&bench.settle(), 3), Some((LossReason::Unauthorized, _))));
    let attempts = bench.fleet.registry().attempts("a", Some(id(2)));
    let mut words: Vec<_> = attempts.iter().map(|one| one.turned.word()).collect();
    words.sort_unstable();
    assert_eq!(words, ["protocol", "retry_later", "unauthorized", "unauthorized"]);
    for one in attempts {
        assert!(one.name.len() < 200 && one.host.len() < 256 && one.address.len() < 256, "{}", one.turned.word());
    }
    assert!(bench.events().iter().filter(|(kind, _)| kind == "agent.rejected").count() == 3);
}

#[test]
fn the_clock_of_an_agent_is_told_by_its_registration_and_its_beats() {
    let mut bench = Bench::new();
    bench.register(1, Register { clock_skew_ms: Some(-7), ..register(1, 1, "a") });
    let skew = |bench: &Bench| bench.fleet.registry().view(id(1)).unwrap().clock_skew_ms;
    assert_eq!(skew(&bench), Some(-7));
    for (told, known) in [(Some(9), Some(9)), (None, Some(9))] {
        let node = Some(NodeStatus { clock_skew_ms: told, ..NodeStatus::default() });
        let beat = Beat { seq: 1, last_ack: 0, ready: true, node };
        assert_eq!(bench.fleet.heartbeat(bench.now, session(1, 1), beat), Heard::Live);
        assert_eq!(skew(&bench), known);
    }
}

#[test]
fn pages_give_every_agent_once_in_order_of_names() {
    let mut bench = Bench::new();
    for n in 0..25 {
        bench.register(n.into(), register(n, 1, &format!("agent-{n:02}")));
    }
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let (rows, next) = bench.fleet.registry().page(after.as_deref(), 10, |record| record.name != "agent-03");
        names.extend(rows.into_iter().map(|row| row.record.name));
        after = next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (0..25).filter(|n| *n != 3).map(|n| format!("agent-{n:02}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn deadlines_of_ended_sessions_do_not_pile_up() {
    let mut bench = Bench::new();
    for conn in 0..20_000 {
        bench.register(conn, register(1, 1, "a"));
        bench.durable.clear();
    }
    assert!(bench.fleet.registry().deadlines.len() < 5_000, "{}", bench.fleet.registry().deadlines.len());
}

#[test]
fn ids_are_read_as_they_are_written() {
    assert_eq!(id_from_hex(&hex(&id(0xa7))), Some(id(0xa7)));
    for bad in ["", "a7", &"g".repeat(32), &"é".repeat(16), "+7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7"] {
        assert_eq!(id_from_hex(bad), None, "{bad}");
    }
}

/// The interval that each of these agents is told with its next beat; every answer before is acknowledged.
fn told(bench: &mut Bench, agents: &[u8], seq: u64) -> Vec<Option<Duration>> {
    for n in agents {
        assert_eq!(bench.beat(session(*n, 1), seq, seq - 1), Heard::Live);
    }
    let told = bench.settle().into_iter().filter_map(|effect| match effect {
        Effect::Send { message: Down::HeartbeatAck { interval, .. }, .. } => Some(interval),
        _ => None,
    });
    told.collect()
}

#[test]
fn intervals_are_stretched_while_the_fleet_is_large_and_nobody_is_judged_by_the_old_one() {
    let mut bench = Bench::new();
    bench.fleet.stretch(crate::pace::Stretch::new(1));
    let timing = Timing { interval_max: MS(12_000), ..Timing::default() };
    let mut at_registration = Vec::new();
    for n in 1..=10 {
        let effects = bench.register(n.into(), Register { timing, ..register(n, 1, &format!("a{n}")) });
        at_registration.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Answer { answer: Answer::Registered { interval, .. }, .. } => Some(interval),
            _ => None,
        }));
    }
    let s = |seconds: f64| Some(Duration::from_secs_f64(seconds));
    let mut expected = vec![None; 5];
    expected.extend([s(6.25), s(7.5), s(8.75), s(10.0), s(10.0)]);
    assert_eq!(at_registration, expected, "one a second, in quarters of 5 s");
    let everybody: Vec<u8> = (1..=10).collect();
    let expected: Vec<_> = (1..=10).map(|n| s(10.0).filter(|_| n < 9)).collect();
    assert_eq!(told(&mut bench, &everybody, 1), expected, "the last two knew already");
    assert_eq!(told(&mut bench, &everybody, 2), [None; 10]);
    bench.advance(MS(24_999));
    assert_eq!(bench.timeout(), [], "10 s and three times 5 s");

    for n in 5..=10 {
        bench.close(n);
    }
    let few = [1, 2, 3, 4];
    assert_eq!(told(&mut bench, &few, 3), [s(5.0); 4], "back to what they propose");
    bench.advance(MS(24_999));
    assert_eq!(bench.timeout(), [], "who knows whether they have heard of it");
    assert_eq!(told(&mut bench, &few, 4), [None; 4]);
    bench.advance(MS(19_999));
    assert_eq!(bench.timeout(), []);
    bench.advance(MS(1));
    assert_eq!(closed(&bench.timeout()).len(), 4);
}
