use super::*;

const BOOT: &str = "0a1b2c3d-e5f6";

/// So many seconds after the machine's start, at noon of some day.
fn at(seconds: u64) -> Moment {
    Moment { unix_ms: 1_800_000_000_000 + seconds * 1000, boot_ms: seconds * 1000 }
}

fn fresh() -> History {
    History::start(b"", BOOT, at(0), None)
}

fn shown(history: &History) -> Vec<String> {
    let line = |entry: &Entry| {
        let Entry { kind, reason, lasted_ms, attempts, .. } = entry;
        format!("{} {reason} {lasted_ms} {attempts}", kind.word())
    };
    history.entries().map(line).collect()
}

#[test]
fn sessions_their_ends_and_failed_attempts_are_told_once_a_master_registers_again() {
    let mut history = fresh();
    assert_eq!(history.tell().len(), 1, "the start");
    history.registered(at(1), "m:1", 7, 1, None);
    assert_eq!(history.tell(), []);
    history.ended(at(61), "heartbeat_timeout", "no answer");
    for second in [66, 76, 96] {
        history.failed(at(second), "m:1", "connection_refused", "connection refused");
    }
    let told = history.tell();
    assert_eq!(
        told.iter().map(|entry| entry.reason.as_str()).collect::<Vec<_>>(),
        ["heartbeat_timeout", "connection_refused"]
    );
    assert_eq!((told[0].lasted_ms, told[0].epoch, told[0].master.as_str()), (60_000, 7, "m:1"));
    assert_eq!((told[1].lasted_ms, told[1].attempts), (30_000, 3));
    assert_eq!(history.ago(&told[1], at(100)), Duration::from_secs(4));
    // It is told again for as long as nobody has registered the agent.
    history.failed(at(156), "m:1", "unauthorized", "no");
    assert_eq!(history.tell().len(), 3);
    history.registered(at(160), "m:1", 8, 5, Some(Duration::from_secs(99)));
    assert_eq!(history.tell(), []);
    assert_eq!(shown(&history)[5], "registered  99000 5");
}

#[test]
fn what_happens_while_a_registration_is_under_way_is_told_with_the_next() {
    let mut history = fresh();
    history.registered(at(1), "m:1", 1, 1, None);
    history.tell();
    history.ended(at(2), "stream_closed", "");
    history.registered(at(3), "m:1", 2, 1, None);
    let told = history.tell();
    assert_eq!(told.iter().map(|entry| entry.reason.as_str()).collect::<Vec<_>>(), ["stream_closed"]);
}

#[test]
fn a_long_outage_is_one_entry_for_each_master_and_reason_and_few_writes() {
    let mut history = fresh();
    history.take_changed();
    let mut writes = 0;
    for n in 0..1440 {
        for master in ["a:1", "b:1"] {
            history.failed(at(n * 60), master, "dns", "");
            writes += u32::from(history.take_changed().is_some());
        }
    }
    assert_eq!(shown(&history), ["started started 0 0", "failed dns 86340000 1440", "failed dns 86340000 1440"]);
    assert_eq!(writes, 2 * 11, "1, 2, 4 … 1024 of each");
}

#[test]
fn the_last_64_are_kept_and_16_of_them_told() {
    let mut history = fresh();
    for n in 0..200 {
        history.registered(at(n), "m:1", n, 1, None);
        history.ended(at(n), "dns", "");
    }
    let text = history.take_changed().unwrap();
    assert_eq!(history.entries().len(), KEPT);
    assert_eq!(text.lines().count(), KEPT + 1);
    let mut after = History::start(text.as_bytes(), BOOT, at(200), None);
    assert_eq!(after.entries().len(), KEPT);
    let told = after.tell();
    // Everything before the last registration's own message was told.
    assert!(told.len() <= TOLD_MAX && told.last().unwrap().kind == Kind::Started, "{told:?}");
}

#[test]
fn a_process_that_died_leaves_a_session_without_an_end_which_the_next_start_ends() {
    let mut history = fresh();
    history.registered(at(10), "m:1", 3, 1, None);
    let text = history.take_changed().unwrap();
    let again = History::start(text.as_bytes(), BOOT, at(25), None);
    assert_eq!(shown(&again)[2..], ["ended agent_died 15000 0", "started started 0 0"]);
    // Why, where whoever started it knows, and the machine did not end with it.
    let killed = History::start(text.as_bytes(), BOOT, at(25), Some("was killed by signal 9"));
    let detail = |history: &History| history.entries().nth(2).unwrap().detail.clone();
    assert_eq!(detail(&killed), "its process was killed by signal 9");
    assert_eq!(detail(&again), "its process ended without a word");
    // Of another run of the machine only the wall clock says how long ago something was.
    let rebooted = History::start(
        text.as_bytes(),
        "ffffffff",
        Moment { boot_ms: 5_000, ..at(40) },
        Some("was killed by signal 9"),
    );
    assert_eq!(shown(&rebooted)[2..], ["ended agent_died 30000 0", "started rebooted 0 0"]);
    assert_eq!(detail(&rebooted), "the machine was started again");
}

#[test]
fn a_clock_that_was_set_does_not_change_how_long_something_took() {
    let mut history = fresh();
    history.registered(at(10), "m:1", 3, 1, None);
    let jumped = Moment { unix_ms: 0, boot_ms: 20_000 };
    history.ended(jumped, "dns", "");
    assert_eq!(history.entries().last().unwrap().lasted_ms, 10_000);
}

#[test]
fn what_is_kept_is_read_again_whatever_a_peer_put_into_it() {
    let mut history = fresh();
    history.registered(at(1), "m:1", 3, 1, None);
    history.ended(at(2), "protocol", &format!("a\tb\nc\u{7f}{}", "ü".repeat(300)));
    let text = history.take_changed().unwrap();
    let read = read(text.as_bytes());
    assert!(read.entries().eq(history.entries()));
    assert!(read.entries().last().unwrap().detail.starts_with("a b c ü"));
    assert!(read.entries().last().unwrap().detail.len() <= DETAIL_MAX);
}

#[test]
fn a_damaged_file_is_no_harm() {
    let mut history = fresh();
    for n in 0..20 {
        history.registered(at(n), "m:1", n, 1, None);
        history.ended(at(n), "dns", "detail");
    }
    let whole = history.take_changed().unwrap().into_bytes();
    for end in 0..whole.len() {
        let cut = History::start(&whole[..end], BOOT, at(30), None);
        assert!(cut.entries().len() <= KEPT);
    }
    for place in 0..whole.len() {
        let mut bad = whole.clone();
        bad[place] ^= 0x55;
        let mut damaged = History::start(&bad, BOOT, at(30), None);
        damaged.registered(at(31), "m:1", 99, 1, None);
        damaged.ended(at(32), "dns", "");
        assert_eq!(damaged.entries().last().unwrap().epoch, 99);
        assert!(damaged.tell().len() <= TOLD_MAX);
    }
    assert_eq!(History::start(&[0; 4096], BOOT, at(0), None), fresh());
    assert_eq!(History::start(&[0xff; 64], BOOT, at(0), None), fresh());
}
