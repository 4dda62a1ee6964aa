//! Who listens on the master's port and is none: it accepts and cuts, answers nonsense, or never answers.

use crate::{
    harness::cases,
    site::{MASTER, PORT, Site},
    time::{now, range, since},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

cases![liars_meet_growing_waits_and_the_master_in_their_place_is_found];

/// What it is, and what it does with a connection.
type Liar = (&'static str, fn(&mut TcpStream));

const LIARS: [Liar; 5] = [
    ("accepts and closes", |stream| _ = stream.shutdown(Shutdown::Both)),
    ("never answers", |_| {}),
    ("speaks HTTP/1", |stream| _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")),
    ("speaks TLS", |stream| _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 70])),
    // Settings, then a frame of a length that nobody may send.
    ("breaks HTTP/2", |stream| _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 255, 255, 255, 0, 0, 0, 0, 0, 1])),
];

/// What follows the attempts.
const WAITS: [&str; 5] = ["0.2s", "0.4s", "0.8s", "1.6s", "1.6s"];

const SET: [&str; 4] = [
    "reconnect.initial_delay=\"200ms\"",
    "reconnect.max_delay=\"1600ms\"",
    "reconnect.jitter=0.0",
    "connection.timeout=\"1s\"",
];

fn liars_meet_growing_waits_and_the_master_in_their_place_is_found() -> String {
    let back: Vec<Duration> = std::thread::scope(|scope| {
        let all = LIARS.map(|(what, does)| scope.spawn(move || meets(what, does)));
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let waits = WAITS.join(", ");
    format!("{} kinds, after each waits of {waits}; back {} after the master is there", back.len(), range(&back))
}

/// How soon the master is found that comes in its place.
fn meets(what: &str, does: fn(&mut TcpStream)) -> Duration {
    let mut site = Site::new();
    site.master.kill();
    let listener = site.host.inside(|| TcpListener::bind((MASTER, PORT))).unwrap();
    let agent = site.start(&site.host(1), "lady", &format!("{MASTER}:{PORT}"), &SET, None);
    let lies = std::thread::spawn(move || {
        let mut held = Vec::new();
        for _ in WAITS {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read_exact(&mut [0; 24]);
            does(&mut stream);
            held.push(stream);
        }
    });
    for (attempt, wait) in (1..).zip(WAITS) {
        let line = agent.line(&format!("(attempt {attempt})"));
        assert!(line.contains(&format!("Retrying in {wait}...")), "{what}: {line}");
    }
    lies.join().unwrap();
    assert_eq!((agent.count("Agent registered"), agent.sockets()), (0, Vec::new()), "{what}: nothing is left open");
    site.master_again();
    let start = now();
    let back = since(start, agent.when("Agent registered with master"));
    site.until_status("lady", "Active");
    // max_delay and connection.timeout.
    assert!(back <= Duration::from_millis(3_100), "{what}: {back:?}");
    back
}
