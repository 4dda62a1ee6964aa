//! Which master is dialled next, and when.
//!
//! A *pass* tries, in the order of the configuration and without a wait, every master that may be tried: once each. The
//! wait comes after it. A loss is a try of its session's master that failed: the others follow at once, also one that
//! failed earlier in this pass, if that was so long ago as the wait is that would come now.

use super::Params;
use crate::{Backoff, Breaker, BreakerChange};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Masters {
    list: Vec<Master>,
    /// Of the attempt or session. None: it is no longer in the configuration.
    current: Option<usize>,
    /// To be dialled.
    next: usize,
}

#[derive(Clone, Debug)]
struct Master {
    name: String,
    breaker: Breaker,
    mark: Mark,
    /// When it was marked.
    marked_at: Duration,
    /// Not dialled before.
    ready_at: Duration,
}

/// What became of a master in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Untried,
    Failed,
    /// A person has to mend it.
    Refused,
    /// It said itself when to come.
    Deferred,
}

/// How an attempt or a session ended, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Failed,
    /// The longest wait: a person has to mend something.
    Refused,
    /// The master's own wish.
    Deferred(Duration),
    /// Dial the same one on the next turn: it is not its fault.
    Again,
}

impl Masters {
    pub fn new(params: &Params) -> Self {
        let list = params.masters.iter().map(|name| Master::new(name)).collect();
        Self { list, current: None, next: 0 }
    }

    /// Another list. What is known of a master that stays is kept; a changed list is begun from its front.
    pub fn set(&mut self, params: &Params) {
        if self.list.iter().map(|master| &master.name).eq(&params.masters) {
            return;
        }
        let current = self.current.map(|index| self.list[index].name.clone());
        let old = std::mem::take(&mut self.list);
        let kept = |name: &String| old.iter().find(|master| master.name == *name).cloned();
        self.list = params.masters.iter().map(|name| kept(name).unwrap_or_else(|| Master::new(name))).collect();
        self.current = self.list.iter().position(|master| Some(&master.name) == current.as_ref());
        self.next = 0;
    }

    /// Of the attempt or session.
    pub fn current(&self) -> usize {
        self.current.unwrap_or(self.next)
    }

    /// To be dialled; the current one until its end was planned.
    pub fn next(&self) -> usize {
        self.next
    }

    /// When the n-th master may be tried again, if its breaker is open.
    pub fn open_until(&self, master: usize) -> Option<Duration> {
        self.list.get(master).and_then(|master| master.breaker.open_until()).filter(|_| self.has_breakers())
    }

    /// An attempt on the next one begins.
    pub fn dial(&mut self) -> Option<BreakerChange> {
        self.current = Some(self.next);
        self.list[self.next].breaker.tried().filter(|_| self.has_breakers())
    }

    /// A command would get through.
    pub fn succeeded(&mut self) -> Option<BreakerChange> {
        let change = self.list[self.current?].breaker.succeeded();
        change.filter(|_| self.has_breakers())
    }

    /// The session was stable: what follows is another pass.
    pub fn forget_pass(&mut self) {
        for master in &mut self.list {
            master.mark = Mark::Untried;
        }
    }

    /// Notes the end of the attempt or session. `counts`: the attempt never led to a session that works.
    pub fn ended(&mut self, now: Duration, end: End, counts: bool, params: &Params) -> Option<BreakerChange> {
        let several = self.has_breakers();
        let master = &mut self.list[self.current?];
        master.marked_at = now;
        match end {
            End::Failed => master.mark = Mark::Failed,
            End::Refused => master.mark = Mark::Refused,
            End::Deferred(after) => {
                master.mark = Mark::Deferred;
                master.ready_at = now.saturating_add(after);
            }
            End::Again => {}
        }
        if !counts || !several || matches!(end, End::Deferred(_) | End::Again) {
            return None;
        }
        master.breaker.failed(now, params.breaker_failures_max, params.breaker_open_for)
    }

    /// Settles which master is the next, and how long to wait for it: not at all within a pass. `lost`: it was a session
    /// that ended, so time has passed for the others.
    pub fn plan(&mut self, now: Duration, lost: bool, backoff: &mut Backoff) -> Duration {
        if lost {
            self.reconsider(now, backoff);
        }
        let may = |master: &Master| master.mark == Mark::Untried && self.eligible_at(master) <= now;
        if let Some(next) = self.list.iter().position(may) {
            self.next = next;
            return Duration::ZERO;
        }
        let wait = self.end_pass(now, lost, backoff);
        let limit = now.saturating_add(backoff.delay_max);
        let (skipped, others): (Vec<usize>, Vec<usize>) =
            (0..self.list.len()).partition(|&index| self.is_skipped(&self.list[index], now));
        let eligible = |index: &usize| self.eligible_at(&self.list[*index]).max(now);
        if skipped.is_empty() || others.iter().any(|index| eligible(index) <= limit) {
            // The first of equals is taken, so the order of the configuration holds among those ready at once.
            let next = (0..self.list.len()).min_by_key(eligible).expect("a list of masters is never empty");
            let wait = eligible(&next).saturating_sub(now);
            self.next = next;
            return wait;
        }
        // Only skipped ones are left within the longest wait: the one that opens first is tried, and the breaker makes
        // no wait longer than the table's.
        let open_until = |index: &usize| self.list[*index].breaker.open_until();
        self.next = skipped.into_iter().min_by_key(open_until).expect("not empty, as seen above");
        let next = &self.list[self.next];
        let at = self.eligible_at(next).min(now.saturating_add(wait)).max(next.ready_at);
        at.saturating_sub(now)
    }

    /// The network or the operator gives reason to try: every master at once, in order. Failures that came of another
    /// network say nothing about this one.
    pub fn wake(&mut self, now: Duration) {
        for master in &mut self.list {
            master.mark = Mark::Untried;
            master.ready_at = master.ready_at.min(now);
            master.breaker.shorten(now);
        }
        self.next = 0;
    }

    /// Those whose wait would be over already may be tried once more. It counts as that wait: sessions that are lost
    /// again and again meet growing ones.
    fn reconsider(&mut self, now: Duration, backoff: &mut Backoff) {
        let wait = backoff.next_delay();
        let over = |master: &&mut Master| master.mark == Mark::Failed && master.marked_at.saturating_add(wait) <= now;
        let mut any = false;
        for master in self.list.iter_mut().filter(over) {
            master.mark = Mark::Untried;
            any = true;
        }
        if any {
            backoff.next_wait();
        }
    }

    /// The table's wait for those that failed, the longest for the refused; the longest, if there was no failure. After
    /// a loss it is counted from each one's own failure.
    fn end_pass(&mut self, now: Duration, lost: bool, backoff: &mut Backoff) -> Duration {
        let failed = self.list.iter().any(|master| matches!(master.mark, Mark::Failed | Mark::Refused));
        let wait = if failed { backoff.next_wait() } else { backoff.delay_max };
        for master in &mut self.list {
            let from = if lost { master.marked_at } else { now };
            match std::mem::replace(&mut master.mark, Mark::Untried) {
                Mark::Failed => master.ready_at = from.saturating_add(wait),
                Mark::Refused => master.ready_at = from.saturating_add(backoff.longest_wait()),
                Mark::Untried | Mark::Deferred => {}
            }
        }
        wait
    }

    /// With one master there is nobody to turn to instead.
    fn has_breakers(&self) -> bool {
        self.list.len() > 1
    }

    fn eligible_at(&self, master: &Master) -> Duration {
        let open_until = master.breaker.open_until().filter(|_| self.has_breakers());
        open_until.map_or(master.ready_at, |until| until.max(master.ready_at))
    }

    /// Its breaker is still open when it could be tried otherwise.
    fn is_skipped(&self, master: &Master, now: Duration) -> bool {
        self.eligible_at(master) > master.ready_at.max(now)
    }
}

impl Master {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            breaker: Breaker::default(),
            mark: Mark::Untried,
            marked_at: Duration::ZERO,
            ready_at: Duration::ZERO,
        }
    }
}
