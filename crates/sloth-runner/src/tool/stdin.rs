//! Standard input, read by a thread of its own: a read that never returns holds up nothing.

use super::{follow::Input, resume::STDIN_CHUNK};
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    os::fd::AsFd,
    thread,
    time::Duration,
};
use tokio::sync::mpsc;

/// The tool's own standard input, unless it is a terminal. A closed one is `/dev/null` by now, and so at its end.
///
/// # Errors
/// When it cannot be duplicated, or no thread can be made.
pub fn standard() -> io::Result<Option<mpsc::Receiver<Input>>> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    start(File::from(stdin.as_fd().try_clone_to_owned()?)).map(Some)
}

/// Reads `source` in chunks, the last one empty. The thread ends after that, or with the receiver at the next chunk.
///
/// # Errors
/// When no thread can be made.
pub fn start(source: impl Read + Send + 'static) -> io::Result<mpsc::Receiver<Input>> {
    // One chunk waits while the next is read.
    let (sender, receiver) = mpsc::channel(1);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || read(source, &sender))?;
    Ok(receiver)
}

fn read(mut source: impl Read, to: &mpsc::Sender<Input>) {
    let mut buffer = vec![0; STDIN_CHUNK];
    loop {
        let input = match source.read(&mut buffer) {
            Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(error) => Err(error),
        };
        let last = !matches!(&input, Ok(data) if !data.is_empty());
        if to.blocking_send(input).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_and_an_error_are_both_told() {
        let mut input = start(&b"abc"[..]).unwrap();
        assert_eq!(input.recv().await.unwrap().unwrap(), "abc");
        assert_eq!(input.recv().await.unwrap().unwrap(), "");
        assert!(input.recv().await.is_none());

        let mut input = start(File::open("/").unwrap()).unwrap();
        assert_eq!(input.recv().await.unwrap().unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
