use super::*;
use link::LossReason;

const S: Duration = Duration::from_secs(1);

/// A manager's socket, and what it hears.
struct Manager(UnixDatagram);

impl Manager {
    fn heard(&self) -> Option<String> {
        let mut text = [0; 256];
        self.0.recv(&mut text).ok().map(|n| String::from_utf8_lossy(&text[..n]).into_owned())
    }
}

/// Bound to an abstract name of this process.
fn manager(name: &str) -> (Manager, String) {
    let name = format!("sloth-agent-{name}-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    (Manager(socket), format!("@{name}"))
}

#[test]
fn a_manager_hears_what_it_is_told_at_a_path_and_at_an_abstract_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    for (manager, at) in [(Manager(socket), path.to_str().unwrap().to_owned()), manager("hears")] {
        let notifier = Notifier::new(Some(&at), None);
        notifier.ready();
        assert_eq!(manager.heard().as_deref(), Some("READY=1"));
        notifier.status(|| "Active".to_owned());
        assert_eq!(manager.heard().as_deref(), Some("STATUS=Active"));
        let before = monotonic().as_micros();
        notifier.reloading();
        let heard = manager.heard().unwrap();
        let at: u128 = heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(before <= at && at <= monotonic().as_micros(), "{heard}");
        drop(manager);
        notifier.stopping();
    }
}

#[test]
fn the_watchdog_is_fed_at_what_happens_anyway_and_without_it_in_time() {
    let (manager, at) = manager("fed");
    let mut notifier = Notifier::new(Some(&at), Some("60000000"));
    let mut fed = Vec::new();
    // Beats of 5 s, each with its answer.
    for beat in (5..=120).step_by(5) {
        for now in [beat * S, beat * S + S / 10] {
            assert!(notifier.wake_by() > Some(now), "it would wake for nothing else at {now:?}");
            notifier.feed(|| now, Some(now + 5 * S));
            fed.extend(manager.heard().map(|text| (text, now)));
        }
    }
    assert_eq!(fed, [30, 60, 90, 120].map(|at| ("WATCHDOG=1".to_owned(), at * S)));
    // A long wait: in time for a manager that waits until 180.
    assert_eq!(notifier.wake_by(), Some(165 * S));
}

#[test]
fn a_link_whose_moment_has_passed_does_not_feed() {
    let (manager, at) = manager("stuck");
    let mut notifier = Notifier::new(Some(&at), Some("60000000"));
    for now in 40..400 {
        notifier.feed(|| now * S, Some(30 * S));
    }
    assert_eq!(manager.heard(), None);
    // It goes on: a moment that is to come, or has come just now.
    notifier.feed(|| 400 * S, Some(400 * S - S / 2));
    assert_eq!(manager.heard().as_deref(), Some("WATCHDOG=1"));
}

#[test]
fn without_a_manager_or_its_patience_nothing_is_due() {
    let (manager, at) = manager("none");
    for (socket, usec) in [(None, Some("10000000")), (Some(at.as_str()), None), (Some(&at), Some("0"))] {
        let mut notifier = Notifier::new(socket, usec);
        notifier.feed(|| 100 * S, None);
        assert_eq!((notifier.wake_by(), manager.heard()), (None, None));
    }
}

#[test]
fn each_state_has_words() {
    let mut status = Status {
        shutting_down: false,
        skipped: Vec::new(),
        certificate_ends: 0,
        live: None,
        phase: Phase::Connecting,
        since_unix_ms: 0,
        master: "m:1".into(),
        report_address: String::new(),
        attempt: 3,
        next_attempt_unix_ms: 1_000,
        last_loss: Some((LossReason::StreamClosed, "closed".into(), 0)),
        last_failure: Some((LossReason::ConnectionRefused, "refused".into(), 0)),
        deferred: None,
    };
    for (phase, words) in [
        (Phase::Connecting, "Connecting to master at m:1 (attempt 3)"),
        (Phase::Registered, "Registered with master at m:1"),
        (Phase::Active, "Active, with master at m:1"),
        (
            Phase::Reconnecting,
            "Reconnecting to master at m:1, next attempt at 1970-01-01T00:00:01.000Z (connection_refused)",
        ),
        (Phase::Stopped, "Stopped"),
    ] {
        status.phase = phase;
        assert_eq!(in_words(&status), words);
    }
}
