//! Who waits for a registration: the [`Pace`] and the queue of those whom it holds. Pure.
//!
//! The driver asks for each `Register` before anything is done with it, lets those in whom [`poll`](Gate::poll) names,
//! and says who has left. Only connections are kept here: what they want to register stays with them.

use crate::{
    ConnId,
    pace::{Admit, Pace},
};
use std::{collections::BTreeMap, time::Duration};

/// So many are held at most, whatever the pace: at the fastest one it is what arrives in a twentieth of a second.
const HELD_MAX: usize = 50_000;

/// Lets registrations in at a pace, in the order in which they came.
#[derive(Debug)]
pub struct Gate {
    pace: Pace,
    /// By arrival. Theirs are the last places that the pace has given out, in this order.
    held: BTreeMap<Place, ConnId>,
    last: u64,
}

/// A place in the queue of those who are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// What becomes of a registration for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a place that nobody gives back is waited for in vain"]
pub enum Entry {
    Now,
    /// [`Gate::poll`] names the connection when its turn comes.
    Held(Place),
    /// Not on this connection: it should come again after so long.
    Later(Duration),
}

impl Gate {
    pub fn new(pace: Pace) -> Self {
        Self { pace, held: BTreeMap::new(), last: 0 }
    }

    /// A registration arrives. `still_waits`: how long the agent will wait for an answer, as it says.
    pub fn arrive(&mut self, now: Duration, conn: ConnId, still_waits: Duration) -> Entry {
        // With a full queue nobody more is held.
        let still_waits = if self.held.len() < HELD_MAX { still_waits } else { Duration::ZERO };
        match self.pace.admit(now, still_waits) {
            Admit::Now => Entry::Now,
            Admit::Hold(_) => {
                self.last += 1;
                let place = Place(self.last);
                self.held.insert(place, conn);
                Entry::Held(place)
            }
            Admit::Later(after) => Entry::Later(after),
        }
    }

    /// Its stream is over. Those behind it move up; nothing happens if it was let in already.
    pub fn leave(&mut self, place: Place) {
        if self.held.remove(&place).is_some() {
            self.pace.give_back();
        }
    }

    /// Lets in whose turn has come, one a call.
    pub fn poll(&mut self, now: Duration) -> Option<ConnId> {
        if self.poll_timeout()? > now {
            return None;
        }
        self.held.pop_first().map(|(_, conn)| conn)
    }

    /// When [`poll`](Self::poll) lets in the next one; `None` while nobody is held.
    pub fn poll_timeout(&self) -> Option<Duration> {
        (!self.held.is_empty()).then(|| self.pace.first_place(self.held.len()))
    }

    /// See [`Pace::goodbyes`].
    pub fn goodbyes(&self, n: usize) -> impl ExactSizeIterator<Item = Duration> + use<> {
        self.pace.goodbyes(n)
    }

    /// Connections that are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const NOW: Duration = Duration::from_secs(1_000);

    /// Two a second, its burst used up: the third and all after it wait.
    fn gate() -> Gate {
        let mut gate = Gate::new(Pace::new(2));
        for conn in 0..3 {
            assert_eq!(gate.arrive(NOW, ConnId(conn), 10 * S), Entry::Now);
        }
        gate
    }

    fn held(gate: &mut Gate, conn: u64) -> Place {
        match gate.arrive(NOW, ConnId(conn), 10 * S) {
            Entry::Held(place) => place,
            other => panic!("{other:?}"),
        }
    }

    fn let_in(gate: &mut Gate, now: Duration) -> Vec<u64> {
        std::iter::from_fn(|| gate.poll(now)).map(|conn| conn.0).collect()
    }

    #[test]
    fn who_is_held_is_let_in_at_the_pace_in_the_order_of_arrival() {
        let mut gate = gate();
        assert_eq!(gate.poll_timeout(), None);
        for conn in 10..14 {
            held(&mut gate, conn);
        }
        assert_eq!(gate.poll_timeout(), Some(NOW + S / 2));
        assert_eq!(let_in(&mut gate, NOW + S / 2 - Duration::from_nanos(1)), [0; 0]);
        assert_eq!(let_in(&mut gate, NOW + S / 2), [10]);
        assert_eq!(let_in(&mut gate, NOW + S * 3 / 2), [11, 12], "late, and all whose turn has come");
        assert_eq!(gate.poll_timeout(), Some(NOW + 2 * S));
        assert_eq!(let_in(&mut gate, NOW + 2 * S), [13]);
        assert_eq!(gate.poll_timeout(), None);
    }

    #[test]
    fn whoever_leaves_gives_its_place_to_those_behind_it() {
        let mut gate = gate();
        let places: Vec<_> = (10..14).map(|conn| held(&mut gate, conn)).collect();
        gate.leave(places[0]);
        gate.leave(places[2]);
        gate.leave(places[2]);
        assert_eq!(gate.held(), 2);
        assert_eq!(let_in(&mut gate, NOW + S / 2), [11]);
        assert_eq!(let_in(&mut gate, NOW + S), [13]);
        gate.leave(places[1]);
        held(&mut gate, 14);
        assert_eq!(gate.poll_timeout(), Some(NOW + S * 3 / 2), "who was let in has used its place");
    }

    #[test]
    fn a_queue_of_those_who_left_holds_up_nobody() {
        let mut gate = gate();
        for round in 0..100 {
            let places: Vec<_> = (0..9).map(|n| held(&mut gate, 100 + round * 10 + n)).collect();
            places.into_iter().for_each(|place| gate.leave(place));
        }
        held(&mut gate, 7);
        assert_eq!(let_in(&mut gate, NOW + S / 2), [7]);
    }

    #[test]
    fn who_cannot_be_held_is_sent_away() {
        let mut gate = gate();
        assert!(matches!(gate.arrive(NOW, ConnId(9), S / 2), Entry::Later(after) if after >= S));
        let later = (0..100).filter(|n| matches!(gate.arrive(NOW, ConnId(*n), 10 * S), Entry::Later(_))).count();
        assert_eq!((gate.held(), later), (10, 90), "five seconds' worth is held");
    }

    #[test]
    fn a_long_wait_is_believed_only_up_to_a_limit() {
        let mut gate = gate();
        while let Entry::Held(_) = gate.arrive(NOW, ConnId(1), Duration::MAX) {}
        assert_eq!(gate.held(), 20);
        let mut gate = Gate::new(Pace::new(1_000_000));
        let held = (0..2_000_000).filter(|n| matches!(gate.arrive(NOW, ConnId(*n), 100 * S), Entry::Held(_))).count();
        assert_eq!(held, HELD_MAX);
    }
}
