//! What was written is made durable: soon, by a thread of its own, and not more often than is asked for.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Ends with a last time when it is dropped.
pub struct Syncer {
    /// None once it ends. One mark waits there: of more, nothing more is to be done.
    mark: Option<SyncSender<()>>,
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// `sync` is called at once after the first mark, and from then on at most once in `every`.
    ///
    /// # Errors
    /// There is no thread.
    pub fn new(every: Duration, sync: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let (mark, marks) = sync_channel(1);
        let (ends, ended) = channel();
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(move || run(&marks, &ended, every, sync))?;
        Ok(Self { mark: Some(mark), ends: Some(ends), thread: Some(thread) })
    }

    /// Something was written. Never waits.
    pub fn mark(&self) {
        if let Some(mark) = &self.mark {
            // One waits already, or the thread is gone, which only a panic of it can do.
            let _ = mark.try_send(());
        }
    }
}

fn run(marks: &Receiver<()>, ended: &Receiver<()>, every: Duration, mut sync: impl FnMut()) {
    while marks.recv().is_ok() {
        sync();
        if ended.recv_timeout(every) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    sync();
}

impl Drop for Syncer {
    fn drop(&mut self) {
        (self.mark, self.ends) = (None, None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there was told by it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn of_many_marks_the_first_is_followed_at_once_and_the_others_at_the_end() {
        let (done, seen) = channel();
        let syncer = Syncer::new(LONG, move || done.send(()).unwrap()).unwrap();
        for _ in 0..1_000 {
            syncer.mark();
        }
        seen.recv_timeout(Duration::from_secs(30)).expect("at once");
        drop(syncer);
        assert_eq!(seen.iter().count(), 1, "the last time, and none between");
    }

    #[test]
    fn a_later_mark_is_followed_too() {
        let (done, seen) = channel();
        let syncer = Syncer::new(Duration::from_millis(1), move || done.send(()).unwrap()).unwrap();
        for _ in 0..3 {
            syncer.mark();
            seen.recv_timeout(Duration::from_secs(30)).expect("each is followed");
        }
    }
}
