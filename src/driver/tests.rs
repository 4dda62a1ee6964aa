//! The driver in paused time, with a service manager that listens.

use super::*;
use crate::config::{Sources, Surroundings, load};
use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    pin::{Pin, pin},
};
use tokio::time::{Instant, timeout};

const S: Duration = Duration::from_secs(1);

/// tokio's time. One that is deaf never tells that a moment has come.
struct Paused {
    start: Instant,
    deaf: bool,
}

impl Clock for Paused {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep_until(&mut self, at: Option<Duration>) {
        match at {
            Some(at) if !self.deaf => tokio::time::sleep_until(self.start + at).await,
            _ => std::future::pending().await,
        }
    }
}

#[test]
fn a_configuration_of_nothing_but_masters_is_the_documented_one() {
    let sources = Sources { masters: vec!["192.0.2.1".into()], ..Sources::default() };
    let config = load(&sources, &Surroundings { host_name: "n".into(), ..Surroundings::default() }).unwrap().config;
    assert_eq!(params(&config), link::Params::documented(vec!["192.0.2.1:50050".into()]));
}

struct Nowhere;

impl Keeper for Nowhere {
    fn highest_epoch(&self) -> u64 {
        0
    }
    fn keep_epoch(&mut self, _: u64) {}
    fn keep_status(&mut self, _: &Status) {}
    fn disk(&mut self) -> Disk {
        Disk::default()
    }
    fn line(&mut self, _: Line) {}
}

/// A manager that waits a minute for a sign of life.
struct Manager(UnixDatagram);

impl Manager {
    fn new(name: &str) -> (Self, Notifier) {
        let name = format!("sloth-driver-{name}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Self(socket), Notifier::new(Some(&format!("@{name}")), Some("60000000")))
    }

    /// How often the watchdog was fed since the last look.
    fn fed(&self) -> usize {
        let mut text = [0; 256];
        let heard = std::iter::from_fn(|| self.0.recv(&mut text).ok().map(|n| text[..n].to_vec()));
        heard.filter(|text| text == b"WATCHDOG=1").count()
    }
}

fn driver(master: &str, manager: Notifier, deaf: bool) -> Driver<Paused> {
    driver_with(master, manager, deaf, "10s")
}

fn driver_with(master: &str, manager: Notifier, deaf: bool, connection_timeout: &str) -> Driver<Paused> {
    let waits = ["reconnect.initial_delay=10m", "reconnect.max_delay=10m", "reconnect.jitter=0.0"];
    let mut assignments: Vec<_> = waits.map(str::to_owned).into();
    assignments.push(format!("connection.timeout={connection_timeout}"));
    let sources = Sources { masters: vec![master.into()], assignments, ..Sources::default() };
    let config = load(&sources, &Surroundings { host_name: "n".into(), ..Surroundings::default() }).unwrap().config;
    let identity = Identity { agent_id: [1; 16], instance_id: [2; 16], boot_id: String::new(), host: String::new() };
    let commands = Commands::new(&config.commands, "n");
    let clock = Paused { start: Instant::now(), deaf };
    let (active, _) = watch::channel(false);
    Driver::new(config, identity, clock, Box::new(Nowhere), commands, active).with_manager(manager)
}

/// Lets it run for so many seconds; at which of them the watchdog was fed.
async fn run(driver: &mut Pin<&mut impl Future<Output = ()>>, manager: &Manager, seconds: u64) -> Vec<u64> {
    let mut fed = Vec::new();
    for second in 1..=seconds {
        assert!(timeout(S, driver.as_mut()).await.is_err(), "it goes on");
        fed.extend(std::iter::repeat_n(second, manager.fed()));
    }
    fed
}

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

#[tokio::test(start_paused = true)]
async fn waits_that_are_longer_than_the_watchdog_are_interrupted_to_feed_it() {
    let (manager, notifier) = Manager::new("waits");
    let (_signals, receiver) = mpsc::channel(4);
    let mut driver = pin!(driver(NOBODY, notifier, false).run(receiver));
    let fed = run(&mut driver, &manager, 500).await;
    assert!((10..=17).contains(&fed.len()), "{fed:?}");
    let gaps = std::iter::once(&0).chain(&fed).zip(&fed).map(|(before, after)| after - before);
    assert!(gaps.max() < Some(50), "{fed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_stands_still_feeds_nothing() {
    let (manager, notifier) = Manager::new("still");
    let (_signals, receiver) = mpsc::channel(4);
    let mut driver = pin!(driver(NOBODY, notifier, false).run(receiver));
    assert!(!run(&mut driver, &manager, 100).await.is_empty());
    // Time passes for everybody else.
    tokio::time::advance(200 * S).await;
    assert_eq!(manager.fed(), 0);
    assert!(!run(&mut driver, &manager, 5).await.is_empty(), "it goes on");
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_right_after_a_pause_does_not_let_the_watchdog_starve() {
    // Held, and refuses until it listens.
    let place = tokio::net::TcpSocket::new_v4().unwrap();
    place.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let master = place.local_addr().unwrap();
    let (manager, notifier) = Manager::new("pause");
    let (signals, receiver) = mpsc::channel(4);
    let mut driver = pin!(driver_with(&master.to_string(), notifier, false, "10m").run(receiver));
    run(&mut driver, &manager, 100).await;
    // Past the end of the wait, so that sockets are read first; and then the next attempt hangs.
    tokio::time::advance(800 * S).await;
    assert!(timeout(S / 100, driver.as_mut()).await.is_err(), "it goes on");
    let _silent = place.listen(64).expect("it is bound");
    signals.try_send(Signal::Reload).expect("it takes its signals");
    let fed = run(&mut driver, &manager, 300).await;
    assert!((5..=10).contains(&fed.len()), "{fed:?}");
    assert!(fed.windows(2).all(|fed| fed[1] - fed[0] < 50), "{fed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_busy_while_its_link_is_overdue_feeds_nothing() {
    // It accepts, and says nothing: the link waits for its time-out, during which a wake-up changes nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let master = silent.local_addr().unwrap().to_string();
    for (deaf, feeds) in [(true, false), (false, true)] {
        let (manager, notifier) = Manager::new(&format!("busy-{deaf}"));
        let (signals, receiver) = mpsc::channel(4);
        let mut driver = pin!(driver(&master, notifier, deaf).run(receiver));
        let mut fed = 0;
        for _ in 0..200 {
            signals.try_send(Signal::Reload).expect("it takes its signals");
            fed += run(&mut driver, &manager, 1).await.len();
        }
        assert_eq!(fed > 0, feeds, "deaf: {deaf}, fed {fed} times");
    }
}
