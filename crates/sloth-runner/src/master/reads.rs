//! Whose turn it is to read the store, and files of output.
//!
//! A read takes a thread, and of the store a connection, and both are few: it begins when its turn has come, and for
//! who has left before that it never begins. The turns go round among those who ask, however much each of them asks for.

use crate::access::{Caller, Share};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is read. Each has places of its own, so that none waits for what another is slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A command by its id, for who runs or cancels one: lookers are not in his way.
    Change,
    /// A command by its id, for who looks.
    Lookup,
    /// Lists, and what has happened.
    History,
    /// The output of commands.
    Output,
}

const LANES: usize = 4;

impl Lane {
    /// Reads at once, in all and for one caller: always less for him, where people look, so that a place is left for
    /// others. Two for histories, as the store has connections for them; of more the processors would have nothing.
    const fn places(index: usize) -> (usize, usize) {
        const PLACES: [(usize, usize); LANES] = [(8, 8), (4, 2), (2, 1), (8, 4)];
        PLACES[index]
    }
}

/// The turns of everybody.
pub struct Reads(Arc<All>);

struct All {
    lanes: [Arc<Semaphore>; LANES],
    /// Of those who have calls open.
    shares: Mutex<HashMap<Share, Arc<Lanes>>>,
}

type Lanes = [Arc<Semaphore>; LANES];

impl Default for Reads {
    fn default() -> Self {
        let lanes = std::array::from_fn(|lane| Arc::new(Semaphore::new(Lane::places(lane).0)));
        Self(Arc::new(All { lanes, shares: Mutex::default() }))
    }
}

impl Reads {
    /// For a call of this caller; none: of the master's own, and of its web page.
    pub fn reader(&self, caller: Option<&Caller>) -> Reader {
        let share = caller.map(Share::of).unwrap_or_default();
        let own = self.0.shares().entry(share.clone()).or_insert_with(own_lanes).clone();
        Reader { all: self.0.clone(), share, own: Some(own) }
    }
}

fn own_lanes() -> Arc<Lanes> {
    Arc::new(std::array::from_fn(|lane| Arc::new(Semaphore::new(Lane::places(lane).1))))
}

impl All {
    fn shares(&self) -> MutexGuard<'_, HashMap<Share, Arc<Lanes>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who reads, in one call.
pub struct Reader {
    all: Arc<All>,
    share: Share,
    /// There until it is dropped.
    own: Option<Arc<Lanes>>,
}

/// It is his turn, until this is dropped.
pub struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    /// Whoever breaks a call off has his places no sooner than the read ends: dropped after them.
    _reader: Reader,
}

impl Reader {
    /// # Cancel safety
    /// Dropped, it waits no more, and its place in the queue is the next one's.
    pub async fn turn(&self, lane: Lane) -> Turn {
        const OPEN: &str = "nobody closes them";
        let own = self.own.as_ref().expect("there until it is dropped")[lane as usize].clone();
        // First among his own: so no more of them wait among all than he may have there.
        let own = own.acquire_owned().await.expect(OPEN);
        let all = self.all.lanes[lane as usize].clone().acquire_owned().await.expect(OPEN);
        let reader = Self { all: self.all.clone(), share: self.share.clone(), own: self.own.clone() };
        Turn { _own: own, _all: all, _reader: reader }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut shares = self.all.shares();
        self.own = None;
        if shares.get(&self.share).is_some_and(|own| Arc::strong_count(own) == 1) {
            shares.remove(&self.share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Who;
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    type Waiting<'a> = Pin<Box<dyn Future<Output = Turn> + 'a>>;

    fn reader(reads: &Reads, name: &str) -> Reader {
        let address = Some(([10, 0, 0, 1], 5).into());
        reads.reader(Some(&Caller::new(Some(Who::Viewer), name.to_owned(), address)))
    }

    fn wait(reader: &Reader, lane: Lane) -> Waiting<'_> {
        Box::pin(reader.turn(lane))
    }

    /// If it has come.
    fn come(turn: &mut Waiting<'_>) -> Option<Turn> {
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn at_once(reader: &Reader, lane: Lane) -> Option<Turn> {
        come(&mut wait(reader, lane))
    }

    #[test]
    fn turns_go_round_among_those_who_ask() {
        let reads = Reads::default();
        let [eva, otto, mari] = ["eva", "otto", "mari"].map(|name| reader(&reads, name));
        let first = at_once(&eva, Lane::History).expect("nobody else reads");
        let second = at_once(&otto, Lane::History).expect("two at once");
        let mut many: Vec<_> = (0..1_000).map(|_| wait(&eva, Lane::History)).collect();
        assert!(many.iter_mut().all(|turn| come(turn).is_none()), "one for each");
        let mut hers = wait(&mari, Lane::History);
        assert!(come(&mut hers).is_none(), "two in all");
        drop(first);
        assert!(come(&mut many[0]).is_none(), "now it is another's");
        let third = come(&mut hers).expect("before the thousand");
        drop(second);
        assert!(come(&mut many[0]).is_some());
        drop(third);
    }

    #[test]
    fn who_looks_is_not_in_the_way_of_who_runs_and_who_has_left_is_not_waited_for() {
        let reads = Reads::default();
        let eva = reader(&reads, "eva");
        let held: Vec<_> = (0..2).map(|_| at_once(&eva, Lane::Lookup).expect("there is room")).collect();
        assert!(at_once(&eva, Lane::Change).is_some());
        let (mut leaves, mut next) = (wait(&eva, Lane::Lookup), wait(&eva, Lane::Lookup));
        assert!(come(&mut leaves).is_none() && come(&mut next).is_none());
        drop(leaves);
        drop(held);
        assert!(come(&mut next).is_some());
        drop(next);
        assert_eq!(reads.0.shares().len(), 1);
        let again = reader(&reads, "eva");
        drop(eva);
        assert_eq!(reads.0.shares().len(), 1, "the other is there");
        let reads_on = at_once(&again, Lane::History).expect("there is room");
        drop(again);
        let again = reader(&reads, "eva");
        assert!(at_once(&again, Lane::History).is_none(), "what he broke off is still read");
        drop(reads_on);
        assert!(at_once(&again, Lane::History).is_some());
        drop(again);
        assert!(reads.0.shares().is_empty(), "who has left takes nothing");
    }
}
