//! The calls of those who have shown nothing: few at a time, and none that only keeps its place shuts others out.
//!
//! Each may hold what one call may send until its time is over, so what they take together is a few times that.

use crate::{bucket::Lines, clock::boottime, listen::places::Source};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tonic::Status;

/// Calls at a time. A request to join takes some milliseconds of it: 64 of them are hundreds of agents a second.
const CALLS_MAX: usize = 64;

/// Of these from one address: half, so that it leaves the others theirs.
const SOURCE_MAX: usize = 32;

/// … and on one connection: an agent makes one.
const CONNECTION_MAX: usize = 4;

/// So long a call has its place for certain: who sends what he wants at once, over whatever network, needs no more. After
/// it another may have the place.
const SURE: Duration = Duration::from_secs(1);

/// … and for how long a call may take where nobody needs its place.
pub const CALL_MAX: Duration = Duration::from_secs(10);

/// One line of the log in so long says that some were turned away.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Clones share the places.
#[derive(Clone)]
pub struct Strangers(Arc<Mutex<Calls>>);

struct Calls {
    last: u64,
    /// Oldest first.
    open: Vec<Call>,
    complaints: Lines,
}

impl Default for Strangers {
    fn default() -> Self {
        let complaints = Lines::new(boottime(), 1, COMPLAIN_EVERY);
        Self(Arc::new(Mutex::new(Calls { last: 0, open: Vec::new(), complaints })))
    }
}

struct Call {
    number: u64,
    from: Option<SocketAddr>,
    since: Instant,
    /// Dropped, and so told, when another takes its place.
    _sure: oneshot::Sender<()>,
}

/// Held by a call. Dropping it lets the next one in.
pub struct Place {
    strangers: Strangers,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Strangers {
    /// A place for a call of this connection.
    ///
    /// # Errors
    /// There is none: what to answer, before anything of the call is read.
    pub fn enter(&self, from: Option<SocketAddr>) -> Result<Place, Status> {
        let now = Instant::now();
        let mut calls = self.calls();
        if calls.open.iter().filter(|call| call.from == from).count() >= CONNECTION_MAX {
            return Err(calls.full(from));
        }
        let source = |address: Option<SocketAddr>| address.map(|address| Source::of(address.ip()));
        let its = calls.open.iter().filter(|call| source(call.from) == source(from)).count();
        if its >= SOURCE_MAX || calls.open.len() >= CALLS_MAX {
            // An address with many gives up one of its own, and nobody else's.
            let oldest = calls.open.iter().position(|call| its < SOURCE_MAX || source(call.from) == source(from));
            let Some(oldest) = oldest.filter(|at| now.duration_since(calls.open[*at].since) >= SURE) else {
                return Err(calls.full(from));
            };
            calls.open.remove(oldest);
        }
        calls.last += 1;
        let number = calls.last;
        let (sure, lost) = oneshot::channel();
        calls.open.push(Call { number, from, since: now, _sure: sure });
        Ok(Place { strangers: self.clone(), number, lost })
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// What to answer, and a line in the log now and then.
    fn full(&mut self, from: Option<SocketAddr>) -> Status {
        if let Some(before) = self.complaints.written(boottime()) {
            let from = from.map_or_else(String::new, |from| format!(" from {}", Source::of(from.ip())));
            let open = self.open.len();
            log::warn!(
                "A call{from} that shows no credential was turned away: {open} such calls are open (at most {CALLS_MAX}, \
                 {SOURCE_MAX} of an address, {CONNECTION_MAX} of a connection){before}"
            );
        }
        full()
    }
}

impl Place {
    /// The answer, or that it took too long.
    pub async fn answer<R>(mut self, answer: impl Future<Output = R>) -> Result<R, Status> {
        let lost = &mut self.lost;
        let held = async {
            tokio::select! {
                answer = answer => Ok(answer),
                _ = lost => Err(full()),
            }
        };
        let late = || Err(Status::deadline_exceeded("the request did not come within 10 s"));
        timeout(CALL_MAX, held).await.unwrap_or_else(|_| late())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.calls().open.retain(|call| call.number != self.number);
    }
}

/// An agent comes again, after its own wait.
fn full() -> Status {
    Status::resource_exhausted("too many ask this master at once that have shown no credential yet: come again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    /// By turns of three addresses.
    fn from(port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([10, 0, 0, (port % 3) as u8], port)))
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_shown_nothing_cannot_take_his_time() {
        let start = Instant::now();
        let place = Strangers::default().enter(from(1)).unwrap();
        let answer = place.answer(pending::<()>()).await.unwrap_err();
        assert_eq!((start.elapsed(), answer.code()), (CALL_MAX, tonic::Code::DeadlineExceeded));
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_half_of_the_places_and_the_others_keep_theirs() {
        let strangers = Strangers::default();
        let many = |port: u16| strangers.enter(Some(SocketAddr::from(([10, 9, 9, 9], port))));
        let held: Vec<_> = (1..=32).map(|port| many(port).unwrap()).collect();
        assert_eq!(many(33).err().unwrap().code(), tonic::Code::ResourceExhausted);
        let others: Vec<_> = (0..8).map(|port| strangers.enter(from(port)).unwrap()).collect();
        tokio::time::advance(SURE).await;
        let _more: Vec<_> = (34..60).map(|port| many(port).unwrap()).collect();
        let left = |places: Vec<Place>| {
            places
                .into_iter()
                .filter_map(|mut place| place.lost.try_recv().err())
                .filter(|error| *error == oneshot::error::TryRecvError::Empty)
                .count()
        };
        assert_eq!((left(held), left(others)), (32 - 26, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn few_calls_on_a_connection_and_in_all_and_each_that_ends_makes_room() {
        let strangers = Strangers::default();
        let mut places: Vec<_> = (0..4).map(|_| strangers.enter(from(1)).unwrap()).collect();
        assert_eq!(strangers.enter(from(1)).err().unwrap().code(), tonic::Code::ResourceExhausted);
        places.pop();
        places.push(strangers.enter(from(1)).expect("one has ended"));
        places.extend((0..60).map(|port| strangers.enter(from(100 + port)).unwrap()));
        assert_eq!(strangers.enter(from(2)).err().unwrap().code(), tonic::Code::ResourceExhausted);
        places.pop();
        strangers.enter(from(2)).expect("one has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_only_keeps_its_place_loses_it_to_one_that_comes() {
        let strangers = Strangers::default();
        let mut slow: Vec<_> = (0..64).map(|port| strangers.enter(from(port)).unwrap()).collect();
        crate::clock::sleep(SURE).await;
        let honest = strangers.enter(from(1_000)).expect("the oldest makes room");
        let oldest = slow.remove(0);
        assert_eq!(oldest.answer(pending::<()>()).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
        let second = slow.remove(0);
        assert_eq!(second.answer(std::future::ready(7)).await.unwrap(), 7, "it still has its own");
        assert_eq!(honest.answer(std::future::ready(8)).await.unwrap(), 8);
    }
}
