use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn context() -> Context<'static> {
    Context {
        master: "192.168.1.15:50050",
        masters: &[],
        report_address: "192.168.1.16:50051",
        heartbeat_timeout: s(5),
        shutdown_grace: s(30),
        commands_running: 0,
    }
}

/// As they stand in the log, without their timestamps; what goes to the console begins with `> `.
fn lines(report: &Report) -> Vec<String> {
    shown(Lines::default().of(s(0), report, &context()))
}

fn shown(lines: Vec<Line>) -> Vec<String> {
    let show = |line| match line {
        Line::Log(level, text) => format!("{level:<5} {text}"),
        Line::Console(text) => format!("> {text}"),
    };
    lines.into_iter().map(show).collect()
}

fn failed(attempt: u32, reason: LossReason, wait: u64, longest: bool) -> Report {
    Report::AttemptFailed { master: 0, attempt, reason, detail: String::new(), wait: s(wait), next: 0, longest }
}

#[test]
fn the_documented_lines_are_written_to_the_letter() {
    assert_eq!(
        lines(&Report::Registered { attempt: 1, outage: None }),
        [
            "INFO  Agent registered with master at 192.168.1.15:50050, reporting address 192.168.1.16:50051",
            "> ✓ Agent registered with master at 192.168.1.15:50050 (reporting address: 192.168.1.16:50051)",
        ]
    );
    assert_eq!(
        lines(&Report::Registered { attempt: 3, outage: Some(s(9)) }).last().map(String::as_str),
        Some("> ✓ Connection to master recovered")
    );
    assert_eq!(
        lines(&Report::HeartbeatFailed { failures: 1, max: 3 }),
        ["WARN  Heartbeat failed (1/3): no answer within 5s"]
    );
    let lost = |reason, failures| Report::Lost { reason, detail: String::new(), failures, wait: s(5), next: 0 };
    assert_eq!(
        lines(&lost(LossReason::HeartbeatTimeout, 3)),
        [
            "ERROR Lost connection to master after 3 failed heartbeats. Reconnecting...",
            "> ⚠ Connection to master lost. Attempting to reconnect...",
            "INFO  🔄 Reconnecting to master in 5s...",
        ]
    );
    let detail = String::new();
    let forgotten = Report::Lost { reason: LossReason::UnknownAgent, detail, failures: 0, wait: s(0), next: 0 };
    assert_eq!(lines(&forgotten)[2], "INFO  🔄 Reconnecting to master in 0s...");
    assert_eq!(
        lines(&lost(LossReason::ConnectionReset, 0))[0],
        "ERROR Lost connection to master: connection reset by master. Reconnecting..."
    );
    assert_eq!(
        lines(&failed(1, LossReason::ConnectionRefused, 10, false)),
        ["WARN  Cannot connect to master at 192.168.1.15:50050 (attempt 1): connection refused. Retrying in 10s..."]
    );
    let recovered = |round_trip| Report::HeartbeatRecovered { failures: 1, round_trip };
    assert_eq!(lines(&recovered(s(1))), ["INFO  Heartbeat recovered, connection stable"]);
    assert_eq!(lines(&recovered(s(7))), ["INFO  Heartbeat recovered, connection stable (an answer took 7s)"]);
    assert_eq!(lines(&Report::Woken(WakeReason::Network)), ["INFO  Network changed, reconnecting now"]);
}

#[test]
fn every_reason_says_lost_connection_exactly_once() {
    for reason in LossReason::ALL {
        let report = Report::Lost { reason, detail: "a\nb".into(), failures: 0, wait: s(5), next: 0 };
        let said = lines(&report);
        assert_eq!(said.iter().filter(|line| line.contains("Lost connection")).count(), 1, "{said:?}");
        assert!(said.iter().all(|line| !line.contains('\n')), "{said:?}");
    }
}

#[test]
fn a_long_outage_is_told_once_in_ten_minutes() {
    let mut said = Lines::default();
    let mut at = Vec::new();
    let waits = [5, 10, 20, 40].into_iter().chain(std::iter::repeat(60));
    let mut now = 0;
    for (k, wait) in (1..).zip(waits.take(60)) {
        if !said.of(s(now), &failed(k, LossReason::ConnectionRefused, wait, wait == 60), &context()).is_empty() {
            at.push(now);
        }
        now += wait;
    }
    assert_eq!(at, [0, 5, 15, 35, 75, 135, 735, 1335, 1935, 2535, 3135]);
    let changed = said.of(s(now), &failed(61, LossReason::Dns, 60, true), &context());
    assert_eq!(changed.len(), 1, "another reason is news");
}

/// At which second each of so many attempts is logged, a minute apart, in a long outage.
fn logged(attempts: u32, report: impl Fn(u32) -> Report) -> Vec<u64> {
    let mut said = Lines::default();
    let minutes = (0..attempts).map(|k| (u64::from(k) * 60, report(k)));
    minutes.filter(|(now, report)| !said.of(s(*now), report, &context()).is_empty()).map(|(now, _)| now).collect()
}

#[test]
fn reasons_that_take_turns_are_news_once_each() {
    let turns = [LossReason::ConnectionReset, LossReason::StreamClosed];
    let at = logged(40, |k| failed(k + 1, turns[k as usize % 2], 60, true));
    assert_eq!(at, [0, 60, 660, 1260, 1860]);
}

#[test]
fn a_registration_makes_everything_news_again() {
    let mut said = Lines::default();
    let refused = failed(1, LossReason::ConnectionRefused, 60, true);
    let count = |said: &mut Lines| (0..5).map(|k| said.of(s(k), &refused, &context()).len()).sum::<usize>();
    assert_eq!(count(&mut said), 2);
    said.of(s(9), &Report::Registered { attempt: 6, outage: Some(s(9)) }, &context());
    assert_eq!(count(&mut said), 2);
}

#[test]
fn a_master_that_keeps_putting_the_agent_off_is_told_like_one_that_fails() {
    let deferred = |_| Report::Deferred { master: 0, after: s(60), wait: s(60), next: 0, reason: "busy".into() };
    assert_eq!(logged(40, deferred), [0, 60, 120, 720, 1320, 1920]);
    let mixed = |k| if k % 2 == 0 { deferred(k) } else { failed(k, LossReason::StreamClosed, 60, true) };
    assert_eq!(logged(40, mixed), [0, 60, 120, 180, 240, 780, 1380, 1980]);
}

#[test]
fn what_a_person_must_mend_is_an_error_with_its_remedy() {
    for (reason, remedy) in [
        (LossReason::Unauthorized, "refuses this agent"),
        (LossReason::DuplicateId, "(a cloned disk?"),
        (LossReason::NameTaken, "(set another `name`"),
    ] {
        let said = lines(&failed(1, reason, 60, true));
        assert!(said[0].starts_with("ERROR Cannot connect") && said[0].contains(remedy), "{said:?}");
    }
}

/// Lines of the log that a document shows, but for those that have nothing to do with the connection.
fn quoted(document: &str) -> Vec<&str> {
    let elsewhere = [
        "The worker process",
        "the state directory",
        "/var/lib/sloth-runner",
        "cannot write the log",
        "cannot start: ",
        "the spool ",
    ];
    let logged = |line: &&str| {
        let text = ["INFO  ", "WARN  ", "ERROR "].iter().find_map(|level| line.strip_prefix(level));
        text.is_some_and(|text| !elsewhere.iter().any(|start| text.starts_with(start)))
    };
    document.split("```").skip(1).step_by(2).flat_map(str::lines).filter(logged).collect()
}

#[test]
fn the_documents_quote_lines_as_they_are_written() {
    use crate::transport::{Failure, classify_status};
    let os = |number| Failure::io(std::io::Error::from_raw_os_error(number));
    let lost = |reason, failures| Report::Lost { reason, detail: String::new(), failures, wait: s(5), next: 0 };
    let recovered = |round_trip| Report::HeartbeatRecovered { failures: 1, round_trip };
    let mut reports = vec![
        Report::Registered { attempt: 1, outage: None },
        Report::HeartbeatFailed { failures: 1, max: 3 },
        recovered(s(1)),
        recovered(s(7)),
        lost(LossReason::HeartbeatTimeout, 3),
        lost(LossReason::ConnectionReset, 0),
    ];
    let document = include_str!("../../docs/troubleshooting.md");
    // A master's own words are handed on as they are: the registry's tests look at them.
    let said_by_master = |start: &str| {
        let line = document.lines().find_map(|line| line.split_once(start)?.1.rsplit_once(". Retrying"));
        format!("{start}{}", line.expect("the document quotes it").0)
    };
    let resolver = "failed to lookup address information: Name or service not known";
    let failures = [
        os(libc::ECONNREFUSED),
        os(libc::EHOSTUNREACH),
        os(libc::ENETUNREACH),
        Failure::new(LossReason::ConnectionTimeout, "no answer within 10s"),
        Failure::new(LossReason::ConnectionTimeout, "no answer to the registration within 10s"),
        Failure::new(LossReason::Dns, format!("cannot resolve master.example.com: {resolver}")),
        classify_status(&tonic::Status::unimplemented("")),
        Failure::new(LossReason::NameTaken, said_by_master("the name ")),
        Failure::new(LossReason::DuplicateId, said_by_master("the agent id ")),
    ];
    for failure in failures {
        for wait in [5, 10, 50, 60] {
            let mut report = failed(1, failure.reason, wait, false);
            if let Report::AttemptFailed { detail, .. } = &mut report {
                detail.clone_from(&failure.detail);
            }
            reports.push(report);
        }
    }
    let masters = ["192.168.1.15:50050", "192.168.1.15:80", "master.example.com:50050"];
    let written: Vec<String> = masters
        .iter()
        .flat_map(|master| reports.iter().map(move |report| (Context { master, ..context() }, report)))
        .flat_map(|(context, report)| shown(Lines::default().of(s(0), report, &context)))
        .collect();
    for (document, least) in [(document, 12), (include_str!("../../README.md"), 7)] {
        let quoted = quoted(document);
        assert!(quoted.len() >= least, "{quoted:#?}");
        for line in quoted {
            assert!(written.iter().any(|written| written == line), "nobody writes {line}");
        }
    }
}

#[test]
fn with_several_masters_the_lines_say_which_is_next() {
    let masters = ["192.168.1.15", "b"].map(|text| MasterAddress::parse(text).unwrap());
    let context = Context { masters: &masters, ..context() };
    let mut told = Lines::default();
    let mut say = |report| shown(told.of(s(0), &report, &context));
    let (reason, detail) = (LossReason::ConnectionRefused, String::new());
    let failed = Report::AttemptFailed {
        master: 0,
        attempt: 1,
        reason,
        detail: detail.clone(),
        wait: s(0),
        next: 1,
        longest: false,
    };
    let at = "192.168.1.15:50050";
    assert_eq!(
        say(failed),
        [format!("WARN  Cannot connect to master at {at} (attempt 1): connection refused. Trying b:50050 now...")]
    );
    let lost = Report::Lost { reason, detail: detail.clone(), failures: 0, wait: s(0), next: 1 };
    assert_eq!(say(lost)[2], "INFO  🔄 Reconnecting to master at b:50050 now...");
    let lost = Report::Lost { reason, detail, failures: 0, wait: s(5), next: 1 };
    assert_eq!(say(lost)[2], "INFO  🔄 Reconnecting to master in 5s...");
    let open_for = s(300);
    let says = [
        (
            BreakerChange::Opened { failures: 5, open_for },
            "WARN  Skipping master at b:50050 for 5m after 5 failed attempts in a row",
        ),
        (BreakerChange::HalfOpen, "DEBUG Trying the skipped master at b:50050 once"),
        (BreakerChange::Reopened { open_for }, "DEBUG Skipping master at b:50050 for another 5m"),
        (BreakerChange::Closed, "INFO  Master at b:50050 is no longer skipped"),
    ];
    for (change, line) in says {
        assert_eq!(say(Report::Breaker { master: 1, change }), [line]);
    }
}

#[test]
fn masters_that_fail_for_different_reasons_are_told_once_in_ten_minutes_each() {
    let mut told = Lines::default();
    let mut said = 0;
    for k in 0..60 {
        for (master, reason) in [(0, LossReason::ConnectionRefused), (1, LossReason::Dns)] {
            let detail = String::new();
            let report = Report::AttemptFailed {
                master,
                attempt: k,
                reason,
                detail,
                wait: s(60),
                next: 1 - master,
                longest: true,
            };
            said += told.of(s(60 * u64::from(k)), &report, &context()).len();
        }
    }
    // In an hour: two to begin with, then at 11, 21, 31, 41 and 51 minutes.
    assert_eq!(said, 2 * 7);
}
