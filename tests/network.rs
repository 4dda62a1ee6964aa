//! The agent's binary in a network of its own, whose addresses and links come and go.
//!
//! Needs root and the programs `ip`, `nsenter` and `unshare`; without them a test says so and is skipped, unless
//! SLOTH_TEST_ALL=1.

mod common;

use common::{Agent, PATIENCE, master::Master};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, time::timeout};

/// The promise: back so soon after the local link is. One of a few tries must keep it: a busy machine is late now and
/// then, not each time.
const BACK_WITHIN: Duration = Duration::from_secs(1);
const TRIES: u64 = 5;

/// Only the watch can end a wait or find a loss.
const SELDOM: [&str; 4] = [
    "heartbeat.interval=\"1h\"",
    "heartbeat.timeout=\"1h\"",
    "reconnect.initial_delay=\"1h\"",
    "reconnect.max_delay=\"1h\"",
];

/// Two networks with a wire between: this thread's own, with 10.77.0.1, and one with 10.77.0.2 for the agent.
struct Net {
    /// It holds the agent's network.
    holder: Child,
}

impl Net {
    /// `None` where that is not possible.
    fn make() -> Option<Self> {
        // SAFETY: plain integers; the thread is this test's alone.
        let mine = unsafe { libc::geteuid() == 0 && libc::unshare(libc::CLONE_NEWNET) == 0 };
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !mine || !has("nsenter") || !has("unshare") || Command::new("ip").arg("-V").output().is_err() {
            let missing = "a network of its own needs root, ip, nsenter and unshare";
            assert!(std::env::var_os("SLOTH_TEST_ALL").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        }
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 300"])
            .stdout(Stdio::piped())
            .spawn();
        let mut net = Self { holder: holder.expect("unshare starts") };
        let mut ready = [0; 6];
        let output = net.holder.stdout.as_mut().expect("piped above");
        std::io::Read::read_exact(output, &mut ready).expect("it has its network");
        here("link set lo up");
        here(&format!("link add wire type veth peer name eth0 netns {}", net.holder.id()));
        here("addr add 10.77.0.1/24 dev wire");
        here("link set wire up");
        net.there("link set lo up");
        net.there("link set eth0 up");
        net.there("addr add 10.77.0.2/24 dev eth0");
        Some(net)
    }

    /// `ip` in the agent's network.
    fn there(&self, arguments: &str) {
        let pid = self.holder.id().to_string();
        ip(Command::new("nsenter").args(["--target", &pid, "--net", "ip"]), arguments);
    }

    fn agent(&self, master: &Master, settings: &[&str]) -> Agent {
        let pid = self.holder.id().to_string();
        Agent::start_by("nsenter", &["--target", &pid, "--net"], &master.address(), settings)
    }

    /// The kernel asks for the master's hardware address once a second, three times: what comes meanwhile waits for the
    /// next time. Returns when it has given up.
    async fn forgets_its_neighbour(&self) {
        let pid = self.holder.id().to_string();
        let mut look = tokio::time::interval(Duration::from_millis(50));
        let forgotten = timeout(PATIENCE, async {
            loop {
                look.tick().await;
                let list = Command::new("nsenter").args(["--target", &pid, "--net", "ip", "neigh", "show"]).output();
                let list = String::from_utf8(list.expect("ip runs").stdout).expect("text");
                if !list.contains("INCOMPLETE") {
                    return;
                }
            }
        });
        forgotten.await.expect("it gives up");
    }

    async fn master(&self) -> Master {
        Master::on(TcpListener::bind("10.77.0.1:0").await.expect("the address is there"))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn here(arguments: &str) {
    ip(&mut Command::new("ip"), arguments);
}

fn ip(command: &mut Command, arguments: &str) {
    let output = command.args(arguments.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[expect(clippy::disallowed_methods, reason = "measures what is promised")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn an_address_that_goes_is_a_loss_at_once_and_one_that_comes_ends_the_wait() {
    let Some(net) = Net::make() else { return };
    let mut master = net.master().await;
    let mut agent = net.agent(&master, &SELDOM);
    let mut held = vec![master.active(1).await];
    for tries in 1..=TRIES {
        agent.line("Agent registered").await;
        let gone = now();
        net.there("addr del 10.77.0.2/24 dev eth0");
        agent.line("ERROR Lost connection to master: the network changed. Reconnecting...").await;
        agent.line("INFO  Network changed, reconnecting now").await;
        agent.line("(attempt ").await;
        let lost = gone.elapsed();
        println!("address gone: lost and tried again after {lost:?}");
        let came = now();
        net.there("addr add 10.77.0.2/24 dev eth0");
        held.push(master.active(tries + 1).await);
        let back = came.elapsed();
        println!("address back: Active after {back:?}");
        if lost < BACK_WITHIN && back < BACK_WITHIN {
            agent.line("Agent registered").await;
            return;
        }
    }
    panic!("not once within {BACK_WITHIN:?}");
}

#[tokio::test]
async fn a_cable_that_is_plugged_in_again_ends_the_wait() {
    let Some(net) = Net::make() else { return };
    let mut master = net.master().await;
    // The kernel takes up to a second to tell of a carrier that is gone: no loss before that.
    let settings = [&SELDOM[2..], &["heartbeat.max_failures=10"]].concat();
    let mut agent = net.agent(&master, &settings);
    let mut session = master.active(1).await;
    for tries in 1..=TRIES {
        let serving = tokio::spawn(session.serve());
        agent.line("Agent registered").await;
        // The far end: what the agent's machine sees is a carrier that is gone.
        here("link set wire down");
        agent.line("ERROR Lost connection to master after 10 failed heartbeats. Reconnecting...").await;
        agent.line("Reconnecting to master in 3600s...").await;
        net.forgets_its_neighbour().await;
        let plugged = now();
        here("link set wire up");
        session = master.active(tries + 1).await;
        let back = plugged.elapsed();
        println!("cable back: Active after {back:?}");
        serving.abort();
        if back < BACK_WITHIN {
            return;
        }
    }
    panic!("not once within {BACK_WITHIN:?}");
}

#[tokio::test]
async fn containers_wake_nobody_and_a_flapping_address_only_once_a_second() {
    let Some(net) = Net::make() else { return };
    let mut master = net.master().await;
    let mut agent = net.agent(&master, &SELDOM);
    drop(master.active(1).await);
    agent.line("Reconnecting to master in 3600s...").await;
    for round in 0..5 {
        net.there("link add docker0 type bridge");
        net.there("addr add 172.17.0.1/16 dev docker0");
        net.there("link add veth0 type veth peer name veth1");
        net.there("link set veth0 master docker0 up");
        net.there("link set docker0 up");
        net.there(&format!("route add 10.{round}.0.0/16 dev docker0"));
        net.there("link del veth0");
        net.there("link del docker0");
    }
    let woken = timeout(Duration::from_millis(500), agent.line("reconnecting now")).await;
    assert!(woken.is_err(), "a container's network is not the way to the master");
    let begun = now();
    for _ in 0..15 {
        for change in ["del", "add"] {
            net.there(&format!("addr {change} 10.77.0.2/24 dev eth0"));
            // Longer than changes are gathered; each session is refused, so that there is always something to wake.
            let _ = timeout(Duration::from_millis(100), master.session()).await.map(drop);
        }
    }
    let allowed = 2 + usize::try_from(begun.elapsed().as_secs()).expect("seconds");
    let _ = timeout(Duration::from_millis(100), agent.line("no such line")).await;
    let dials = agent.count("Connecting to master at") - 1;
    println!("{dials} dials in {:?} of a flapping address", begun.elapsed());
    assert!((1..=allowed).contains(&dials), "{}", agent.log.join("\n"));
}

#[tokio::test]
async fn without_the_watch_the_waits_apply() {
    let Some(net) = Net::make() else { return };
    let mut master = net.master().await;
    let mut agent = net.agent(&master, &[SELDOM.as_slice(), &["reconnect.on_network_change=false"]].concat());
    drop(master.active(1).await);
    agent.line("Reconnecting to master in 3600s...").await;
    net.there("addr del 10.77.0.2/24 dev eth0");
    net.there("addr add 10.77.0.2/24 dev eth0");
    assert!(timeout(BACK_WITHIN, master.session()).await.is_err());
    agent.signal(libc::SIGTERM);
    assert_eq!(timeout(PATIENCE, agent.exit()).await, Ok(0));
}
