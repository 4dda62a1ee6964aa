//! Standard input, read by a thread of its own: a read that never returns holds up nothing.

use super::{follow::Input, resume::STDIN_CHUNK};
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, IsTerminal, Read, Seek},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileTypeExt,
    },
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

/// Whether something waits on standard input that nobody is going to read: a file before its end, a pipe or a socket
/// with bytes in it. Takes none of it, and waits for nothing.
pub fn has_unread() -> bool {
    let stdin = io::stdin();
    let stdin = stdin.as_fd();
    stdin.try_clone_to_owned().map(File::from).is_ok_and(|file| unread(&file))
}

fn unread(file: &File) -> bool {
    let Ok(kind) = file.metadata() else { return false };
    if kind.is_file() {
        let mut file = file;
        return file.stream_position().is_ok_and(|at| at < kind.len());
    }
    let mut bytes: libc::c_int = 0;
    let streams = kind.file_type().is_fifo() || kind.file_type().is_socket();
    // SAFETY: FIONREAD writes one int, to memory of that type.
    streams && unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD, &raw mut bytes) } == 0 && bytes > 0
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

    #[test]
    fn what_waits_unread_is_seen_and_left_there() {
        use std::io::{SeekFrom, Write};
        let mut file = tempfile::tempfile().unwrap();
        assert!(!unread(&file));
        file.write_all(b"abc").unwrap();
        assert!(!unread(&file), "read to its end, as by whoever had it before");
        file.seek(SeekFrom::Start(1)).unwrap();
        assert!(unread(&file));
        assert_eq!(io::read_to_string(&file).unwrap(), "bc");

        let (reader, mut writer) = io::pipe().unwrap();
        let reader = File::from(std::os::fd::OwnedFd::from(reader));
        assert!(!unread(&reader));
        writer.write_all(b"x").unwrap();
        assert!(unread(&reader));
        drop(writer);
        assert_eq!(io::read_to_string(&reader).unwrap(), "x");
        assert!(!unread(&reader) && !unread(&File::open("/dev/null").unwrap()));
    }

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
