//! Who has places of which there are only so many, and who has to give one up for a newcomer.
//!
//! A limit for each address alone is not enough: some addresses together take all there are, and do nothing with them.

use super::places::Source;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What nobody has to give up before: two round trips of a bad link.
pub const GRACE: Duration = Duration::from_secs(4);

/// What an address has in any case: a fleet that comes from as many addresses as it has agents takes none from itself.
const KEEPS: usize = 8;

/// Those who have a place. A `T` reaches whoever has it.
#[derive(Debug)]
pub struct Crowd<T>(Arc<Mutex<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    next: u64,
    /// By the order in which they came. An address that has no place has no entry.
    of: HashMap<Source, BTreeMap<u64, (Instant, T)>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Member<T> {
    crowd: Crowd<T>,
    source: Source,
    number: u64,
}

/// Where a newcomer's place comes from when all are taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Room<T> {
    /// This one's, which counts no more.
    Of(T),
    /// Nobody's yet: ask again after this.
    After(Duration),
    /// It waits until one is free: no address has more than twice what its own has, and more than [`KEEPS`].
    Wait,
}

impl<T> Clone for Crowd<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Crowd<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { next: 0, of: HashMap::new() })))
    }
}

impl<T> Crowd<T> {
    pub fn enter(&self, source: Source, way: T) -> Member<T> {
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        inner.of.entry(source).or_default().insert(number, (Instant::now(), way));
        Member { crowd: self.clone(), source, number }
    }

    /// Of one address.
    pub fn count(&self, source: Source) -> usize {
        self.inner().of.get(&source).map_or(0, BTreeMap::len)
    }

    /// For one of an address that has less than half of what the address with most has: the oldest place of that.
    pub fn make_room(&self, newcomer: Source) -> Room<T> {
        let mut inner = self.inner();
        let own = inner.of.get(&newcomer).map_or(0, BTreeMap::len);
        let Some((&source, most)) = inner.of.iter_mut().max_by_key(|(_, most)| most.len()) else { return Room::Wait };
        if most.len() <= KEEPS.max(2 * own) {
            return Room::Wait;
        }
        let oldest = most.first_entry().expect("an address that has no place has no entry");
        let left = GRACE.saturating_sub(oldest.get().0.elapsed());
        if !left.is_zero() {
            return Room::After(left);
        }
        let (_, way) = oldest.remove();
        if most.is_empty() {
            inner.of.remove(&source);
        }
        Room::Of(way)
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Member<T> {
    fn drop(&mut self) {
        let mut inner = self.crowd.inner();
        let Some(members) = inner.of.get_mut(&self.source) else { return };
        let gone = members.remove(&self.number);
        if members.is_empty() {
            inner.of.remove(&self.source);
        }
        // Whatever it is dropped for does not happen under the lock.
        drop(inner);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_with_most_gives_up_its_oldest_place() {
        let crowd = Crowd::default();
        let mut members: Vec<_> = (0..11).map(|n| crowd.enter(source(1), ("one", n))).collect();
        members.extend((0..10).map(|n| crowd.enter(source(2), ("two", n))));
        assert_eq!(crowd.make_room(source(3)), Room::After(GRACE), "nobody has had his time");
        tokio::time::advance(GRACE).await;
        assert_eq!(crowd.make_room(source(3)), Room::Of(("one", 0)));
        members.remove(1);
        assert_eq!(crowd.make_room(source(3)), Room::Of(("two", 0)), "one has nine now");
        for _ in 0..2 {
            assert!(matches!(crowd.make_room(source(3)), Room::Of(_)), "nine and nine");
        }
        assert_eq!([1, 2, 3].map(|last| crowd.count(source(last))), [8, 8, 0]);
        assert_eq!(crowd.make_room(source(3)), Room::Wait, "so many an address keeps");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_half_as_many_waits() {
        let crowd = Crowd::default();
        let _members: Vec<_> = (0..10).map(|_| crowd.enter(source(1), 1)).collect();
        let mut own: Vec<_> = (0..5).map(|_| crowd.enter(source(2), 2)).collect();
        tokio::time::advance(GRACE).await;
        assert_eq!(crowd.make_room(source(2)), Room::Wait);
        assert_eq!(crowd.make_room(source(1)), Room::Wait, "its own are not for it either");
        own.pop();
        assert_eq!(crowd.make_room(source(2)), Room::Of(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_without_a_place_takes_no_memory() {
        let crowd = Crowd::default();
        let members: Vec<_> = (0..100).map(|last| crowd.enter(source(last), last)).collect();
        tokio::time::advance(GRACE).await;
        assert_eq!(crowd.make_room(source(200)), Room::Wait, "a fleet takes none from itself");
        drop(members);
        assert!(crowd.inner().of.is_empty());
    }
}
