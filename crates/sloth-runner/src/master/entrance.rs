//! Where registrations wait for their turn. Operators do not pass here.

use super::core::Core;
use fleet::{
    ConnId,
    gate::{Entry, Gate, Place},
    pace::Pace,
};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::Notify;

/// The gate behind a lock of its own.
pub struct Entrance {
    gate: Mutex<Gate>,
    /// There is somebody to be let in, where there was nobody.
    rearm: Notify,
}

impl Entrance {
    pub fn new(registrations_per_second: u32) -> Self {
        Self { gate: Mutex::new(Gate::new(Pace::new(registrations_per_second))), rearm: Notify::new() }
    }

    /// See [`Gate::arrive`]. When the turn of one who is held has come, its [`Outbox`](super::wires::Outbox) is told.
    pub fn arrive(&self, now: Duration, conn: ConnId, still_waits: Duration) -> Entry {
        let entry = self.gate().arrive(now, conn, still_waits);
        if matches!(entry, Entry::Held(_)) {
            self.rearm.notify_one();
        }
        entry
    }

    /// Its stream is over: others have its place.
    pub fn leave(&self, place: Place) {
        self.gate().leave(place);
    }

    /// When each of so many agents should come back after a goodbye.
    pub fn goodbyes(&self, n: usize) -> impl ExactSizeIterator<Item = Duration> + use<> {
        self.gate().goodbyes(n)
    }

    /// Registrations that wait for their turn.
    pub fn held(&self) -> usize {
        self.gate().held()
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("no holder of this lock panics")
    }
}

/// Lets in whoever's turn has come, until the task is aborted.
pub async fn run(core: Arc<Core>) {
    let entrance = &core.entrance;
    loop {
        let next = entrance.gate().poll_timeout();
        match next {
            // Earlier ones only take places behind; a later one is seen when the place comes up.
            Some(at) => crate::clock::sleep(at.saturating_sub(core.now().monotonic)).await,
            None => {
                entrance.rearm.notified().await;
                continue;
            }
        }
        let now = core.now().monotonic;
        loop {
            let Some(conn) = entrance.gate().poll(now) else { break };
            if let Some(outbox) = core.wires.connection(conn) {
                outbox.let_in();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::{
        Options,
        clock::Clock,
        ports::memory::{MemoryOutputs, MemoryStore},
        wires::Outbox,
    };
    use tokio::time::{Instant, timeout};

    const S: Duration = Duration::from_secs(1);

    /// Tokio's clock, which the tests have paused.
    struct Paused(Instant);

    impl Clock for Paused {
        fn now(&self) -> fleet::Now {
            Paused::now(self)
        }
    }

    impl Paused {
        fn now(&self) -> fleet::Now {
            fleet::Now { monotonic: 1_000 * S + self.0.elapsed(), unix_ms: 0 }
        }
    }

    fn core(registrations_per_second: u32) -> Arc<Core> {
        let store = Arc::new(MemoryStore::default());
        let fleet = fleet::Fleet::new(Paused(Instant::now()).now(), Vec::new(), Vec::new(), 1);
        let options = Options { registrations_per_second, ..Options::named("test") };
        let outputs = Arc::new(MemoryOutputs::default());
        Arc::new(Core::new(fleet, 1, store, outputs, Box::new(Paused(Instant::now())), options, S))
    }

    fn arrive(core: &Core) -> (Entry, Arc<Outbox>) {
        let now = core.now().monotonic;
        let (conn, outbox) = core.wires.open(now);
        (core.entrance.arrive(now, conn, 10 * S), outbox)
    }

    async fn is_let_in(outbox: &Outbox) {
        std::future::poll_fn(|context| {
            let closed = outbox.poll_next(context).is_ready();
            assert!(!closed, "it is told nothing");
            if outbox.is_let_in() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_held_is_let_in_when_its_turn_comes() {
        let core = core(2);
        let task = tokio::spawn(run(core.clone()));
        for _ in 0..3 {
            assert_eq!(arrive(&core).0, Entry::Now);
        }
        let start = Instant::now();
        let held: Vec<_> = (0..4).map(|_| arrive(&core)).collect();
        for (n, (entry, outbox)) in held.iter().enumerate() {
            assert!(matches!(entry, Entry::Held(_)), "{entry:?}");
            timeout(10 * S, is_let_in(outbox)).await.expect("nobody is forgotten");
            let waited = start.elapsed().as_millis();
            assert!(waited.abs_diff(500 * (n as u128 + 1)) <= 2, "{n} came after {waited} ms");
        }
        // And again, after the queue was empty.
        let (_, outbox) = arrive(&core);
        timeout(S, is_let_in(&outbox)).await.expect("the task listens on");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_of_a_stream_that_broke_is_taken_by_the_next() {
        let core = core(2);
        let task = tokio::spawn(run(core.clone()));
        for _ in 0..3 {
            assert_eq!(arrive(&core).0, Entry::Now);
        }
        let (Entry::Held(first), _) = arrive(&core) else { panic!("it is not held") };
        let (_, second) = arrive(&core);
        tokio::task::yield_now().await;
        core.entrance.leave(first);
        let start = Instant::now();
        timeout(10 * S, is_let_in(&second)).await.expect("nobody is forgotten");
        assert!(start.elapsed() <= S / 2 + S / 500, "{:?}", start.elapsed());
        task.abort();
    }
}
