//! The agent's driver on a disk that takes its time.

mod common;

use common::{PATIENCE, master::Master};
use proto::{CommandSpec, RunCommand, agent_message::Kind as Up, master_message::Kind as Down};
use sloth_agent::{
    clock::BootClock,
    commands::Commands,
    config::{self, Sources, Surroundings},
    driver::{Driver, Identity, Keeper, Status},
    node,
    report::Line,
    spool::{
        disk::{Disk, Folder},
        store::{Keep, Store},
    },
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// Longer than three heartbeats of the test take to fail.
const SLOW: Duration = Duration::from_secs(6);

/// A real folder; once `slow` is set, each sync takes [`SLOW`].
struct SlowDisk {
    folder: Folder,
    slow: Arc<AtomicBool>,
}

impl Disk for SlowDisk {
    fn read(&mut self, file: &str) -> io::Result<Vec<u8>> {
        self.folder.read(file)
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.folder.list()
    }

    fn create(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.folder.create(file, bytes)
    }

    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.folder.append(file, bytes)
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.folder.truncate(file, length)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        if self.slow.load(Relaxed) {
            std::thread::sleep(SLOW);
        }
        self.folder.sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.folder.remove(file)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.folder.sync_folder()
    }
}

/// Keeps nothing: this is about the spool alone.
struct Forgetful;

impl Keeper for Forgetful {
    fn highest_epoch(&self) -> u64 {
        0
    }

    fn keep_epoch(&mut self, _: u64) {}

    fn keep_status(&mut self, _: &Status) {}

    fn disk(&mut self) -> node::Disk {
        node::Disk::default()
    }

    fn line(&mut self, _: Line) {}
}

fn configured(master: &str) -> config::Config {
    let settings = ["heartbeat.interval=\"100ms\"", "heartbeat.timeout=\"100ms\"", "name=\"lady\""];
    let sources = Sources {
        masters: vec![master.to_owned()],
        assignments: settings.map(str::to_owned).to_vec(),
        ..Sources::default()
    };
    config::load(&sources, &Surroundings::default()).expect("the settings hold").config
}

#[tokio::test]
async fn heartbeats_go_on_while_a_sync_takes_seconds() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let slow = Arc::new(AtomicBool::new(false));
    let disk = SlowDisk { folder: Folder::open(&folder.path().join("spool")).expect("a folder"), slow: slow.clone() };
    let keep = Keep { remember_ms: 1_000_000, tombstones_max: 10 };
    let opened = Store::open(Box::new(disk), keep, [1; 16], 0).expect("an empty spool");

    let mut master = Master::start().await;
    let config = configured(&master.address());
    let commands = Commands::restored(&config.commands, &config.name, opened, |spool| spool);
    let identity = Identity { agent_id: [2; 16], instance_id: [3; 16], boot_id: String::new(), host: String::new() };
    let clock = BootClock::new().expect("a clock");
    let driver = Driver::new(config, identity, clock, Box::new(Forgetful), commands, watch::channel(false).0);
    let (_signals, received) = mpsc::channel(1);
    let agent = tokio::spawn(driver.run(received));

    let mut session = master.active(1).await;
    slow.store(true, Relaxed);
    let spec = CommandSpec { argv: vec!["true".into()], ..CommandSpec::default() };
    session.send(Down::RunCommand(RunCommand { id: "x".to_owned(), spec: Some(spec) })).await;
    let (asked, mut beats, mut last, mut longest) = (Instant::now(), 0, Instant::now(), Duration::ZERO);
    loop {
        match tokio::time::timeout(PATIENCE, session.next()).await.expect("the agent lives") {
            Some(Up::Heartbeat(beat)) => {
                assert!(beat.ready, "one slow sync is not a disk that hangs");
                (longest, last) = (longest.max(last.elapsed()), Instant::now());
                beats += 1;
                session.ack(beat.seq).await;
            }
            Some(Up::CommandAccepted(_)) => break,
            other => panic!("nothing else is said before the command is durable: {other:?}"),
        }
    }
    assert!(asked.elapsed() >= SLOW, "accepted before it was durable: after {:?}", asked.elapsed());
    assert!(beats >= 15 && longest < SLOW / 2, "{beats} beats, the longest pause {longest:?}");
    agent.abort();
}
