//! Delivers output and receives standard input: one `SendOutput` call for each command that needs one.

use super::{
    Uplink,
    held::Held,
    output::{PIECE_MAX, Piece},
    window::Window,
};
use crate::state::hex;
use proto::{OutputAck, OutputMessage};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Request, Status, Streaming, metadata::MetadataValue};

/// Calls that are open at the same time in a session; the connection's window is made for them.
const CALLS_MAX: usize = 16;

/// Before a call that failed is made again. Doubles.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Somebody makes room on the master's disk and waits for the output: it goes on within a few seconds.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a call may have nothing to carry before it makes way for one that waits.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// … and how long one may wait for the master's first word before that: it holds calls open whose output it does not take
/// in this session. Twice the round trip of a bad link, and more.
const SILENT_MAX: Duration = if cfg!(test) { IDLE_MAX } else { Duration::from_secs(10) };

/// How long the master may take to end a call that we have ended.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What the calls of a session share.
pub struct Session {
    uplink: Uplink,
    slots: Semaphore,
    waiting: AtomicUsize,
    window: Mutex<Window>,
    /// The window opened, or somebody waits for a slot.
    changed: Notify,
}

impl Session {
    pub fn new(uplink: Uplink) -> Self {
        Self {
            uplink,
            slots: Semaphore::new(CALLS_MAX),
            waiting: AtomicUsize::new(0),
            window: Mutex::default(),
            changed: Notify::new(),
        }
    }

    async fn slot(&self) -> SemaphorePermit<'_> {
        if let Ok(slot) = self.slots.try_acquire() {
            return slot;
        }
        let _waiting = Waiting::new(self);
        self.slots.acquire().await.expect("it is never closed")
    }

    /// Somebody waits for a slot, and so much time has passed.
    #[expect(clippy::disallowed_methods, reason = "no deadline is judged by it: a call makes way for another")]
    async fn wanted_after(&self, time: Duration) {
        sleep(time).await;
        loop {
            let changed = self.changed.notified();
            if self.waiting.load(Relaxed) > 0 {
                return;
            }
            changed.await;
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().expect("nothing panics while it holds this lock")
    }

    fn request(&self, held: &Held, messages: mpsc::Receiver<OutputMessage>) -> Result<Request<Messages>, Status> {
        let text = |text: String| MetadataValue::try_from(text).map_err(|_| Status::internal("not a header's text"));
        let mut request = Request::new(Messages(messages));
        let metadata = request.metadata_mut();
        metadata.insert("sloth-agent-id", text(hex(&self.uplink.agent_id))?);
        metadata.insert("sloth-epoch", text(self.uplink.epoch.to_string())?);
        metadata.insert("sloth-command-id", text(held.id.clone())?);
        Ok(request)
    }
}

/// Counts one who waits for a slot.
struct Waiting<'a>(&'a Session);

impl<'a> Waiting<'a> {
    fn new(session: &'a Session) -> Self {
        session.waiting.fetch_add(1, Relaxed);
        session.changed.notify_waiters();
        Self(session)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Stays with a command through a session, until all of its output is durable on the master. A failure ends one call,
/// never the session.
pub async fn deliver(session: Arc<Session>, held: Arc<Held>) {
    let mut wait = RETRY_MIN;
    while !held.is_complete() {
        if !held.needs_call() {
            held.to_call.notified().await;
            continue;
        }
        let slot = session.slot().await;
        let result = call(&session, &held, &mut wait).await;
        drop(slot);
        if let Err(status) = result {
            // The first failure may be the session's end, which says so itself.
            let level = if wait == RETRY_MIN { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, "Delivering output of command {} failed: {}", held.id, status.message());
            pause(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "no deadline is judged by it: a pause between two tries")]
async fn pause(wait: Duration) {
    sleep(wait).await;
}

/// One call, until everything is delivered or it makes way for another.
async fn call(session: &Session, held: &Held, wait: &mut Duration) -> Result<(), Status> {
    let (sender, receiver) = mpsc::channel(1);
    let mut said = held.stdin_taken();
    let first = OutputMessage { stdin_received: said, ..OutputMessage::default() };
    sender.try_send(first).expect("a new channel has room for one");
    let request = session.request(held, receiver)?;
    let mut acks = session.uplink.client.clone().send_output(request).await?.into_inner();
    let ack = tokio::select! {
        ack = next_ack(&mut acks) => ack?,
        () = session.wanted_after(SILENT_MAX) => return Ok(()),
    };
    let mut flight = Flight { session, next: ack.received.min(held.output_end()), sent: VecDeque::new() };
    take(held, ack)?;
    let mut idle_since = Instant::now();
    while !held.is_complete() {
        let changed = session.changed.notified();
        let pending = held.output_end().saturating_sub(flight.next);
        let taken = held.stdin_taken();
        let sends = taken != said || (pending > 0 && session.window().allowance(pending.min(PIECE_MAX as u64)) > 0);
        let idle = !sends && pending == 0 && flight.sent.is_empty();
        if !idle {
            idle_since = Instant::now();
        }
        let may_yield = idle && session.waiting.load(Relaxed) > 0;
        tokio::select! {
            ack = next_ack(&mut acks) => {
                let ack = ack?;
                if flight.acknowledged(ack.received) {
                    *wait = RETRY_MIN;
                }
                take(held, ack)?;
            }
            permit = sender.reserve(), if sends => {
                let permit = permit.map_err(|_| Status::unavailable("closed by master"))?;
                said = taken;
                permit.send(flight.message(held, taken));
            }
            () = held.to_call.notified(), if !sends => {}
            () = changed, if !sends => {}
            () = sleep_until(idle_since + IDLE_MAX), if may_yield => break,
        }
    }
    drop(sender);
    // Gracefully, so that the master does not see a call that broke off.
    let close = async {
        while let Ok(Some(ack)) = acks.message().await {
            held.release(ack.durable);
        }
    };
    let _ = timeout(CLOSE_WAIT, close).await;
    Ok(())
}

async fn next_ack(acks: &mut Streaming<OutputAck>) -> Result<OutputAck, Status> {
    acks.message().await?.ok_or_else(|| Status::unavailable("closed by master"))
}

fn take(held: &Held, ack: OutputAck) -> Result<(), Status> {
    held.release(ack.durable);
    match ack.stdin {
        Some(chunk) => held.offer_stdin(chunk).map_err(|_| Status::aborted("standard input came out of order")),
        None => Ok(()),
    }
}

/// What one call has under way.
struct Flight<'a> {
    session: &'a Session,
    /// Offset of what is sent next.
    next: u64,
    /// Never longer than the window's bytes, and one gap.
    sent: VecDeque<Sent>,
}

struct Sent {
    end: u64,
    bytes: u64,
    at: Instant,
}

impl Flight<'_> {
    /// The next piece of output, if there is one that may be sent, with what standard input was taken.
    fn message(&mut self, held: &Held, stdin_received: u64) -> OutputMessage {
        let mut message = OutputMessage { offset: self.next, stdin_received, ..OutputMessage::default() };
        let pending = held.output_end().saturating_sub(self.next).min(PIECE_MAX as u64);
        let allowed = self.session.window().allowance(pending);
        let piece = if allowed == 0 { None } else { held.piece(self.next, allowed as usize) };
        let bytes = match piece {
            None => return message,
            Some(Piece::Gap(gap)) => {
                message.gap = gap;
                self.next += gap;
                0
            }
            Some(Piece::Data { stream, data }) => {
                message.stream = stream.into();
                self.next += data.len() as u64;
                let bytes = data.len() as u64;
                message.data = data;
                bytes
            }
        };
        self.session.window().sent(bytes);
        self.sent.push_back(Sent { end: self.next, bytes, at: Instant::now() });
        message
    }

    /// Whether that brought anything on.
    fn acknowledged(&mut self, received: u64) -> bool {
        let mut any = false;
        while let Some(sent) = self.sent.front().filter(|sent| sent.end <= received) {
            self.session.window().acked(sent.bytes, sent.at.elapsed());
            self.sent.pop_front();
            any = true;
        }
        if any {
            self.session.changed.notify_waiters();
        }
        any
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.session.window().forget(self.sent.iter().map(|sent| sent.bytes).sum());
        self.session.changed.notify_waiters();
    }
}

/// The request side of a call.
struct Messages(mpsc::Receiver<OutputMessage>);

impl futures_core::Stream for Messages {
    type Item = OutputMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<OutputMessage>> {
        self.0.poll_recv(context)
    }
}
