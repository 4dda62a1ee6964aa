//! What a call may take: how long a message may be on its way, and what unfinished ones may hold in memory.
//!
//! A message is held until it is whole. Somebody with a good credential who begins one and stops would hold its memory,
//! and its place among the calls of his connection, for as long as he likes.

use crate::listen::Shown;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Sleep;
use tonic::{Status, body::Body};

/// Requests that an agent's connection may have open: its session, 16 outputs, as many again while they are replaced, and
/// what it asks beside them.
pub const AGENT_CALLS_MAX: usize = 64;

/// What the messages that have begun on an agent's connection may hold, bytes: a registration with everything that it
/// holds (4 MiB at most), and 16 outputs of 64 KiB, twice.
pub const AGENT_UNFINISHED_MAX: usize = 8 << 20;

/// … on another's: a tool may begin 1,000 commands at once, each with up to 128 KiB of arguments and environment.
pub const TOOL_UNFINISHED_MAX: usize = 256 << 20;

/// A gRPC message's head: whether it is compressed, and its length.
const HEAD_LEN: usize = 5;

/// Where in its messages a request is. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    head: [u8; HEAD_LEN],
    /// Of the head, so many bytes are there.
    head_len: usize,
    /// Of the message, so many are missing.
    missing: usize,
    /// Messages that were whole.
    pub whole: u64,
}

impl Framing {
    /// Further bytes. What they begin, and what they end, bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) -> (usize, usize) {
        let (mut begun, mut ended) = (0, 0);
        while !bytes.is_empty() {
            if self.head_len < HEAD_LEN {
                self.head[self.head_len] = bytes[0];
                self.head_len += 1;
                bytes = &bytes[1..];
                if self.head_len < HEAD_LEN {
                    continue;
                }
                self.missing = self.length();
                begun += self.missing;
            } else {
                let here = self.missing.min(bytes.len());
                self.missing -= here;
                bytes = &bytes[here..];
            }
            if self.missing == 0 {
                ended += self.length();
                self.head_len = 0;
                self.whole += 1;
            }
        }
        (begun, ended)
    }

    fn length(&self) -> usize {
        let [_, length @ ..] = self.head;
        u32::from_be_bytes(length) as usize
    }

    /// A message has begun and is not whole.
    pub fn is_unfinished(&self) -> bool {
        self.head_len > 0
    }
}

/// What a request is measured by.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For a message, from its first byte to its last.
    pub message: Duration,
    /// For the first message, from the beginning of the call. None: it may come when it likes.
    pub first: Option<Duration>,
    pub unfinished_max: usize,
}

/// The body of a request that must come within bounds.
pub struct Patient {
    body: Body,
    patience: Patience,
    framing: Framing,
    /// Until when what has begun must be whole, and in which step: of each message one before it, and one within it.
    deadline: Option<(u64, Pin<Box<Sleep>>)>,
    /// Of the connection, so many are ours, bytes.
    held: usize,
    shown: Option<Arc<Shown>>,
}

impl Patient {
    /// Counts among the calls of its connection until it is dropped.
    pub fn new(body: Body, patience: Patience, shown: Option<Arc<Shown>>) -> Self {
        if let Some(shown) = &shown {
            shown.calls.fetch_add(1, Ordering::Relaxed);
        }
        Self { body, patience, framing: Framing::default(), deadline: None, held: 0, shown }
    }

    /// # Errors
    /// Too much on this connection has begun.
    fn hold(&mut self, begun: usize, ended: usize) -> Result<(), Status> {
        let Some(shown) = &self.shown else { return Ok(()) };
        let now = shown.unfinished.fetch_add(begun, Ordering::Relaxed) + begun;
        self.held += begun;
        shown.unfinished.fetch_sub(ended, Ordering::Relaxed);
        self.held -= ended;
        match now - ended.min(now) > self.patience.unfinished_max {
            true => Err(Status::resource_exhausted("too many large messages have begun on this connection")),
            false => Ok(()),
        }
    }

    /// # Errors
    /// What should have come by now has not.
    fn wait(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        let first = (self.framing.whole == 0).then_some(self.patience.first).flatten();
        let allowed = match self.framing.is_unfinished() {
            true => Some(self.patience.message),
            false => first,
        };
        let Some(allowed) = allowed else {
            self.deadline = None;
            return Ok(());
        };
        // A message that trickles keeps the time of its beginning; before the first one counts the call's.
        let step = 2 * self.framing.whole + u64::from(self.framing.is_unfinished());
        if self.deadline.as_ref().is_none_or(|(since, _)| *since != step) {
            self.deadline = Some((step, Box::pin(crate::clock::sleep(allowed))));
        }
        let (_, sleep) = self.deadline.as_mut().expect("it was just made");
        match sleep.as_mut().poll(context).is_ready() {
            true => Err(Status::deadline_exceeded(format!("the message did not come within {} s", allowed.as_secs()))),
            false => Ok(()),
        }
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        if let Some(shown) = &self.shown {
            shown.unfinished.fetch_sub(self.held, Ordering::Relaxed);
            shown.calls.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl HttpBody for Patient {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Pending => match this.wait(context) {
                Ok(()) => Poll::Pending,
                Err(status) => Poll::Ready(Some(Err(status))),
            },
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    let (begun, ended) = this.framing.pass(bytes);
                    this.hold(begun, ended)?;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(other) => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::{sync::mpsc, time::Instant};

    const S: Duration = Duration::from_secs(1);
    const PATIENCE: Patience =
        Patience { message: Duration::from_secs(60), first: Some(Duration::from_secs(30)), unfinished_max: 100 };

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let mut framing = Framing::default();
        assert_eq!(framing.pass(&[0, 0, 0]), (0, 0));
        assert!(framing.is_unfinished());
        assert_eq!(framing.pass(&[0, 3, 9]), (3, 0));
        assert_eq!(framing.pass(&[9]), (0, 0));
        assert_eq!(framing.pass(&[9, 0, 0, 0, 0, 0]), (0, 3), "and an empty one");
        assert!(!framing.is_unfinished());
        assert_eq!(framing.whole, 2);
        assert_eq!(framing.pass(&[0, 0, 0, 0, 1, 7, 0, 0, 0, 1, 0, 7]), (257, 1));
        assert!(framing.is_unfinished());
    }

    /// A body that is what is sent to it.
    struct Script(mpsc::UnboundedReceiver<Vec<u8>>);

    impl HttpBody for Script {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes.into()))))
        }
    }

    fn scripted(patience: Patience) -> (mpsc::UnboundedSender<Vec<u8>>, Patient) {
        let (send, receive) = mpsc::unbounded_channel();
        (send, Patient::new(Body::new(Script(receive)), patience, None))
    }

    async fn next(body: &mut Patient) -> Option<Result<Frame<Bytes>, Status>> {
        poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_trickles_is_given_its_time_once() {
        let (send, mut body) = scripted(PATIENCE);
        let trickle = tokio::spawn(async move {
            send.send(vec![0, 0, 0, 1, 0]).unwrap();
            for _ in 0..200 {
                crate::clock::sleep(S).await;
                let _ = send.send(vec![7]);
            }
        });
        let start = Instant::now();
        let mut read = 0;
        let status = loop {
            match next(&mut body).await.unwrap() {
                Ok(_) => read += 1,
                Err(status) => break status,
            }
        };
        assert_eq!((start.elapsed(), status.code()), (60 * S, tonic::Code::DeadlineExceeded));
        assert!((59..=61).contains(&read), "{read}");
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_messages_any_time_may_pass_and_before_the_first_only_some() {
        let (send, mut body) = scripted(PATIENCE);
        send.send(vec![0, 0, 0, 0, 1, 7]).unwrap();
        assert!(next(&mut body).await.unwrap().is_ok());
        let waited = tokio::time::timeout(86_400 * S, next(&mut body)).await;
        assert!(waited.is_err(), "it waits for the next");
        let (_send, mut silent) = scripted(PATIENCE);
        let start = Instant::now();
        assert_eq!(next(&mut silent).await.unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert_eq!(start.elapsed(), 30 * S);
        let (_send, mut patient) = scripted(Patience { first: None, ..PATIENCE });
        assert!(tokio::time::timeout(86_400 * S, next(&mut patient)).await.is_err());
    }
}
