//! Names: answers that are missing, wrong, others, or only in part of use.

use crate::{
    harness::cases,
    packet::RST,
    site::{MASTER, PORT, QUICK, Site, lasts, start_master},
    space::Space,
    time::{now, secs, since, stamp},
};
use std::{
    fs,
    net::{IpAddr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

cases![
    no_answer_takes_no_longer_than_an_attempt_may,
    wrong_answers_and_changed_ones_are_asked_for_anew_at_every_attempt,
    a_dead_first_address_costs_a_quarter_of_a_second,
    ipv6_that_is_broken_costs_a_quarter_of_a_second,
    a_first_address_that_accepts_and_does_nothing_costs_one_attempt,
];

const NAME: &str = "master.example.net";
/// Nobody is there: what is sent to it is gone.
const NOWHERE: &str = "10.9.0.99";

/// The name server of the test, on the master's host.
struct Names(Arc<Mutex<Answer>>);

#[derive(Clone)]
enum Answer {
    Nothing,
    NoSuchName,
    Addresses(Vec<IpAddr>),
}

impl Names {
    fn on(space: &Space) -> Self {
        let socket = space.inside(|| UdpSocket::bind((MASTER, 53))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let answer = Arc::new(Mutex::new(Answer::Nothing));
        let serves = answer.clone();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            // Until the test is over.
            while Arc::strong_count(&serves) > 1 {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                let answer = serves.lock().unwrap().clone();
                if let Some(reply) = reply(&query[..length], &answer) {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Self(answer)
    }

    fn say(&self, answer: Answer) {
        *self.0.lock().unwrap() = answer;
    }

    fn are(&self, addresses: &[&str]) {
        self.say(Answer::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect()));
    }
}

/// To a question for A or AAAA (RFC 1035, section 4).
fn reply(query: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let end = 12 + name + 5;
    let (question, kind) = (query.get(12..end)?, query.get(end - 3)?);
    let records: Vec<Vec<u8>> = match answer {
        Answer::Nothing => return None,
        Answer::NoSuchName => Vec::new(),
        Answer::Addresses(all) => all
            .iter()
            .filter_map(|address| match (address, kind) {
                (IpAddr::V4(v4), 1) => Some(v4.octets().to_vec()),
                (IpAddr::V6(v6), 28) => Some(v6.octets().to_vec()),
                _ => None,
            })
            .collect(),
    };
    let code = if matches!(answer, Answer::NoSuchName) { 3 } else { 0 };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    reply.extend(question);
    for record in records {
        // The name of the question; its kind, class IN, valid for no time.
        reply.extend([0xc0, 12, 0, *kind, 0, 1, 0, 0, 0, 0, 0, record.len() as u8]);
        reply.extend(record);
    }
    Some(reply)
}

fn resolv(site: &Site) -> PathBuf {
    let file = site.path("resolv.conf");
    fs::write(&file, format!("nameserver {MASTER}\n")).unwrap();
    file
}

fn address() -> String {
    format!("{NAME}:{PORT}")
}

fn no_answer_takes_no_longer_than_an_attempt_may() -> String {
    let site = Site::new();
    let names = Names::on(&site.host);
    let start = now();
    let agent = site.start(&site.host(1), "lady", &address(), &QUICK, Some(&resolv(&site)));
    let line = agent.line("Cannot connect to master");
    let first = since(start, stamp(&line));
    assert!(first <= Duration::from_millis(2_800), "connection.timeout is 2 s: {}", secs(first));
    lasts(Duration::from_secs(3));
    names.are(&[MASTER]);
    let start = now();
    let back = since(start, agent.when("Agent registered with master"));
    // The resolver asks again after 5 s; max_delay and connection.timeout come on top.
    assert!(back <= Duration::from_secs(8), "{}", secs(back));
    site.until_status("lady", "Active");
    format!("given up after {}; back {} after the name server", secs(first), secs(back))
}

fn wrong_answers_and_changed_ones_are_asked_for_anew_at_every_attempt() -> String {
    let mut site = Site::new();
    let names = Names::on(&site.host);
    names.say(Answer::NoSuchName);
    let agent = site.start(&site.host(1), "lady", &address(), &QUICK, Some(&resolv(&site)));
    let line = agent.line("Cannot connect to master");
    assert!(line.contains("cannot resolve master.example.net"), "{line}");
    names.are(&[NOWHERE]);
    let line = agent.line("Cannot connect to master at master.example.net:50050 (attempt 3)");
    assert!(!line.contains("resolve"), "{line}");
    names.are(&[MASTER]);
    let start = now();
    let right = since(start, agent.when("Agent registered with master"));
    site.until_status("lady", "Active");
    // The master moves.
    site.master.kill();
    names.are(&["10.9.0.2"]);
    agent.line("Lost connection to master");
    site.master = start_master(site.folder.path(), &site.host, &format!("10.9.0.2:{PORT}"), "master");
    let start = now();
    let moved = since(start, agent.when("Agent registered with master"));
    // max_delay (1 s) and connection.timeout (2 s) bound both.
    let bound = Duration::from_millis(3_500);
    assert!(right <= bound && moved <= bound, "{right:?} {moved:?}");
    format!("used {} after the right answer, {} after the master has moved", secs(right), secs(moved))
}

/// How long until it is registered, `addresses` being the answer.
fn raced(addresses: &[&str]) -> Duration {
    let site = Site::new();
    let names = Names::on(&site.host);
    names.say(Answer::NoSuchName);
    let agent = site.start(&site.host(1), "lady", &address(), &["log.level=\"debug\""], Some(&resolv(&site)));
    agent.line("Cannot connect to master");
    names.are(addresses);
    agent.running.signal(libc::SIGHUP);
    let start = agent.when("Connecting to master at");
    let took = since(start, agent.when("Agent registered with master"));
    site.until_status("lady", "Active");
    took
}

fn a_dead_first_address_costs_a_quarter_of_a_second() -> String {
    let took = raced(&[NOWHERE, MASTER]);
    assert!((0.25..1.0).contains(&took.as_secs_f64()), "{}", secs(took));
    format!("registered after {}", secs(took))
}

fn ipv6_that_is_broken_costs_a_quarter_of_a_second() -> String {
    let took = raced(&["fd09::99", MASTER]);
    assert!((0.25..1.0).contains(&took.as_secs_f64()), "{}", secs(took));
    format!("registered over IPv4 after {}", secs(took))
}

/// As where IPv6 has a hole for large packets, or one of several balancers has nobody behind it.
fn a_first_address_that_accepts_and_does_nothing_costs_one_attempt() -> String {
    let site = Site::new();
    let names = Names::on(&site.host);
    // The kernel accepts, nobody reads.
    let _portal = site.host.inside(|| TcpListener::bind(("10.9.0.2", PORT))).unwrap();
    names.are(&["10.9.0.2", MASTER]);
    let start = now();
    let agent = site.start(&site.host(1), "lady", &address(), &QUICK, Some(&resolv(&site)));
    let line = agent.line("Cannot connect to master");
    assert!(line.contains("no answer to the registration within 2s"), "{line}");
    let first = since(start, agent.when("Agent registered with master"));
    site.until_status("lady", "Active");
    // The address that served is the first to be tried after a loss.
    agent.host.port.forge(RST);
    let start = agent.when("Lost connection to master");
    let back = since(start, agent.when("Agent registered with master"));
    assert_eq!(agent.count("Cannot connect to master"), 1, "{}", agent.running.err.text());
    assert!(back <= Duration::from_millis(1_500), "{back:?}");
    format!("registered after {}, 2 s of them that attempt's; after a loss {}", secs(first), secs(back))
}
