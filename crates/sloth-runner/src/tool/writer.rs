//! The tool's two outputs, written by a thread of its own: a reader that stops reading holds up no signal.

use super::table::printable;
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    thread,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
};

/// Pieces that wait to be written; each is one message of the master, so 4 MiB at most and 64 KiB usually.
const QUEUE: usize = 16;

/// Hands over what is to be written, in order. Clones write to the same outputs.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Part>,
}

/// The end of the thread.
pub struct Written(oneshot::Receiver<io::Result<()>>);

/// The outputs are gone: [`Written::finish`] knows why.
#[derive(Debug)]
pub struct Gone;

enum Part {
    Out(Bytes),
    Err(Bytes),
    Notice(String),
    /// Tells when all before it is written.
    Mark(oneshot::Sender<()>),
    /// Stands on the last line of the terminal until the next one.
    Progress(String),
}

impl Writer {
    /// # Cancel safety
    /// Safe: either all of `data` is handed over or nothing.
    pub async fn out(&self, data: Bytes) -> Result<(), Gone> {
        self.queue.send(Part::Out(data)).await.map_err(|_| Gone)
    }

    /// # Cancel safety
    /// As [`Writer::out`].
    pub async fn err(&self, data: Bytes) -> Result<(), Gone> {
        self.queue.send(Part::Err(data)).await.map_err(|_| Gone)
    }

    /// A line of the tool's own on standard error. Lost if nobody can read it. What it quotes of agents steers no
    /// terminal, and makes no line of its own.
    pub async fn notice(&self, line: impl Into<String>) {
        let _ = self.queue.send(Part::Notice(line.into())).await;
    }

    /// Waits until everything is written that was handed over.
    pub async fn flushed(&self) -> Result<(), Gone> {
        let (done, written) = oneshot::channel();
        self.queue.send(Part::Mark(done)).await.map_err(|_| Gone)?;
        written.await.map_err(|_| Gone)
    }

    /// How far things are, for a terminal; nothing for nothing more to say. Skipped when there is much else to write.
    pub fn progress(&self, line: String) {
        let _ = self.queue.try_send(Part::Progress(line));
    }
}

/// Until nobody reads the standard output any more, where that can be seen: of a pipe it can, before anything is
/// written. Else for ever.
///
/// # Cancel safety
/// Safe.
pub async fn unread() {
    let Ok(out) = io::stdout().as_fd().try_clone_to_owned() else { return std::future::pending().await };
    // A file is nothing that the kernel could be asked about.
    // SAFETY: the AsyncFd owns the descriptor and is the only one to use it.
    let Ok(watched) = (unsafe { AsyncFd::register_with_interest(out, Interest::ERROR) }) else {
        return std::future::pending().await;
    };
    loop {
        match watched.ready(Interest::ERROR).await {
            Ok(ready) if ready.ready().is_error() => return,
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => return std::future::pending().await,
        }
    }
}

impl Written {
    /// Waits until everything is written that was handed over; every [`Writer`] must be dropped.
    ///
    /// # Errors
    /// The first that writing met.
    pub async fn finish(self) -> io::Result<()> {
        self.0.await.unwrap_or(Ok(()))
    }
}

/// Starts the thread on the process's own standard output and standard error.
///
/// # Errors
/// When one of them cannot be duplicated, or no thread can be made.
pub fn standard() -> io::Result<(Writer, Written)> {
    let live = io::stderr().is_terminal();
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let err = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    start(out, err, live)
}

/// Starts the thread. `live`: progress is wanted.
///
/// # Errors
/// When no thread can be made.
pub fn start(
    out: impl Write + Send + 'static,
    err: impl Write + Send + 'static,
    live: bool,
) -> io::Result<(Writer, Written)> {
    let (queue, parts) = mpsc::channel(QUEUE);
    let (done, written) = oneshot::channel();
    thread::Builder::new().name("writer".to_owned()).spawn(move || {
        let _ = done.send(write(parts, out, err, live));
    })?;
    Ok((Writer { queue }, Written(written)))
}

fn write(mut parts: mpsc::Receiver<Part>, mut out: impl Write, mut err: impl Write, live: bool) -> io::Result<()> {
    const CLEAR: &[u8] = b"\r\x1b[K";
    let mut progress = String::new();
    while let Some(part) = parts.blocking_recv() {
        if !progress.is_empty() {
            let _ = put(&mut err, CLEAR);
        }
        match part {
            Part::Out(data) => put(&mut out, &data)?,
            Part::Err(data) => put(&mut err, &data)?,
            Part::Notice(line) => {
                let _ = put(&mut err, format!("{}\n", printable(&line)).as_bytes());
            }
            Part::Mark(done) => {
                let _ = done.send(()); // whoever asked may be gone
            }
            Part::Progress(line) => {
                progress = if live { line } else { String::new() };
            }
        }
        if !progress.is_empty() {
            let _ = put(&mut err, progress.as_bytes());
        }
    }
    if !progress.is_empty() {
        let _ = put(&mut err, CLEAR);
    }
    Ok(())
}

/// All of it, at once. Whoever shares the other end may have made it non-blocking.
fn put(to: &mut impl Write, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match to.write(data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => data = &data[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            // In small pieces, as a full pipe takes them.
            let count = data.len().min(3);
            self.0.lock().unwrap().extend(&data[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn bytes_arrive_as_they_were_given_and_progress_gives_way_to_them() {
        let (out, err) = (Shared::default(), Shared::default());
        let (writer, written) = start(out.clone(), err.clone(), true).unwrap();
        writer.out(Bytes::from_static(b"\xff\0abcdef")).await.unwrap();
        writer.progress("1/2".to_owned());
        writer.notice("note").await;
        writer.err(Bytes::from_static(b"e")).await.unwrap();
        drop(writer);
        written.finish().await.unwrap();
        assert_eq!(*out.0.lock().unwrap(), b"\xff\0abcdef");
        assert_eq!(*err.0.lock().unwrap(), b"1/2\r\x1b[Knote\n1/2\r\x1b[Ke1/2\r\x1b[K");
    }

    #[tokio::test]
    async fn what_a_notice_quotes_steers_no_terminal() {
        let (out, err) = (Shared::default(), Shared::default());
        let (writer, written) = start(out, err.clone(), false).unwrap();
        writer.notice("x\x1b]0;title\x07\r\nsloth-runner: all is well\u{202e}").await;
        drop(writer);
        written.finish().await.unwrap();
        let text = String::from_utf8(err.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "x\\u{1b}]0;title\\u{7}\\r\\nsloth-runner: all is well\\u{202e}\n");
    }

    #[tokio::test]
    async fn a_broken_pipe_is_told_to_the_writer_and_at_the_end() {
        let (writer, written) = start(Broken, Broken, false).unwrap();
        writer.notice("nobody reads this, and that is no failure").await;
        while writer.out(Bytes::from_static(b"x")).await.is_ok() {}
        drop(writer);
        assert_eq!(written.finish().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
