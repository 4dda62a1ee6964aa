//! Threads for what blocks: files, and the system's resolver. Each piece of work has one of its own, which ends with it;
//! those who have work do one piece at a time, so they are few.
//!
//! Where the system gives no thread, because a program on it has taken all that there may be, work waits until it does.
//! (The runtime's own pool would panic, and so end the agent.)

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle};

/// Before a thread is asked for again.
const AGAIN: Duration = Duration::from_millis(200);

type Run = Box<dyn FnOnce() + Send>;

/// Begins at once where it can. The work goes on if the handle is dropped, but not beyond the process.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_on(|run| thread::Builder::new().name("helper".to_owned()).spawn(run).map(drop), work)
}

fn spawn_on<T: Send + 'static>(
    mut thread: impl FnMut(Run) -> io::Result<()> + Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    // It must survive a thread that was not made.
    let work = Arc::new(Mutex::new(Some(work)));
    let mut begin = move || {
        let (done, result) = oneshot::channel();
        let work = work.clone();
        let run = move || {
            let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Nobody may want the result any more.
            let _ = done.send(work.expect("it is begun once")());
        };
        thread(Box::new(run)).map(|()| result)
    };
    let mut begun = begin();
    // Ends with the work.
    tokio::spawn(async move {
        if let Err(error) = &begun {
            log::warn!("There is no thread to be had ({error}): what needs one waits");
        }
        loop {
            match begun {
                Ok(result) => return result.await.expect("the work does not panic"),
                Err(_) => pause().await,
            }
            begun = begin();
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "no deadline is judged by it: a pause between two tries")]
async fn pause() {
    tokio::time::sleep(AGAIN).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_once_on_another_thread() {
        let here = thread::current().id();
        assert_ne!(spawn(move || thread::current().id()).await.unwrap(), here);
    }

    #[tokio::test(start_paused = true)]
    async fn work_waits_while_there_is_no_thread_and_is_done_once_there_is() {
        let mut refusals = 3;
        let thread = move |run: Run| {
            if refusals > 0 {
                refusals -= 1;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            run();
            Ok(())
        };
        let begun = tokio::time::Instant::now();
        assert_eq!(spawn_on(thread, || 7).await.unwrap(), 7);
        assert_eq!(begun.elapsed(), 3 * AGAIN);
    }
}
