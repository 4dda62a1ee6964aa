//! How much somebody looks at at once. An answer that nobody reads takes memory of the master's until its call ends: so
//! many are open for one caller, and no more.

use super::{Caller, TABLE, Who};
use crate::{bucket::Lines, clock::boottime, listen::places::Source};
use hyper::body::{Frame, SizeHint};
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Status, body::Body};

/// Of one caller from one address: more than people and their scripts have open, and with the longest rows some 200 MB.
pub const LOOKS_MAX: usize = 256;

/// One line of the log in so long says that some were turned away.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// For whom is counted what somebody takes: whose credential, and from which address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Share {
    who: String,
    from: Option<Source>,
}

impl Share {
    pub fn of(caller: &Caller) -> Self {
        Self { who: caller.name.clone(), from: caller.address.map(|address| Source::of(address.ip())) }
    }
}

/// Calls that only look. Clones share them.
#[derive(Clone)]
pub struct Looks(Arc<Mutex<Open>>);

struct Open {
    of: HashMap<Share, usize>,
    complaints: Lines,
}

impl Default for Looks {
    fn default() -> Self {
        let complaints = Lines::new(boottime(), 1, COMPLAIN_EVERY);
        Self(Arc::new(Mutex::new(Open { of: HashMap::new(), complaints })))
    }
}

/// Held by a call until its answer is read to the end, or given up.
pub struct Look {
    looks: Looks,
    share: Share,
}

/// Whether this call only looks.
pub fn is_look(path: &str) -> bool {
    TABLE.iter().any(|(known, who)| *known == path && who.contains(&Who::Viewer))
}

impl Looks {
    /// # Errors
    /// He has too many open: what to answer.
    pub fn enter(&self, caller: &Caller) -> Result<Look, Status> {
        let share = Share::of(caller);
        let mut open = self.open();
        let count = open.of.entry(share.clone()).or_default();
        if *count < LOOKS_MAX {
            *count += 1;
            return Ok(Look { looks: self.clone(), share });
        }
        if let Some(before) = open.complaints.written(boottime()) {
            log::warn!("A call of {caller} was turned away: {LOOKS_MAX} of his that only look are open{before}");
        }
        Err(Status::resource_exhausted(format!(
            "{LOOKS_MAX} calls that only look are open with this credential from this address, which is all there may \
             be: end some, or read their answers"
        )))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    /// The answer, which is let go of with its last part.
    pub fn hold(self, inner: Body) -> Body {
        Body::new(Held { inner, _look: self })
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut open = self.looks.open();
        if let Some(count) = open.of.get_mut(&self.share) {
            *count -= 1;
            if *count == 0 {
                open.of.remove(&self.share);
            }
        }
    }
}

struct Held {
    inner: Body,
    _look: Look,
}

impl hyper::body::Body for Held {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str, last: u8) -> Caller {
        Caller::new(Some(Who::Viewer), name.to_owned(), Some(([10, 0, 0, last], 5).into()))
    }

    #[test]
    fn one_caller_has_so_many_open_and_others_theirs() {
        let looks = Looks::default();
        let mut held: Vec<_> = (0..LOOKS_MAX).map(|_| looks.enter(&caller("eva", 1)).ok().unwrap()).collect();
        let refused = looks.enter(&caller("eva", 1)).err().expect("there are too many");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(looks.enter(&caller("otto", 1)).is_ok() && looks.enter(&caller("eva", 2)).is_ok());
        drop(held.pop().unwrap().hold(Body::default()));
        assert!(looks.enter(&caller("eva", 1)).is_ok(), "one has come to its end");
        drop(held);
        assert!(looks.open().of.is_empty());
    }

    #[test]
    fn what_viewers_may_call_only_looks_and_what_changes_something_is_not_counted() {
        assert!(is_look("/agent.Fleet/Events") && is_look("/agent.Fleet/Explain"));
        assert!(!is_look("/agent.Fleet/Run") && !is_look("/agent.AgentRegistry/Connect"));
    }
}
