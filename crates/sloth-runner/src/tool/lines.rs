//! Output of several agents on one terminal: whole lines, each with the agent's name before it. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use proto::OutputStream;

/// A line without an end is shown in pieces of this size: memory does not grow with it.
const LINE_MAX: usize = 64 << 10;

/// The lines of one agent.
pub struct Lines {
    prefix: String,
    /// The unfinished line of each stream.
    begun: [BytesMut; 2],
}

impl Lines {
    pub fn new(name: &str) -> Self {
        Self { prefix: format!("{name} | "), begun: [BytesMut::new(), BytesMut::new()] }
    }

    /// The lines that `data` completes.
    pub fn take(&mut self, stream: OutputStream, data: &[u8]) -> Bytes {
        let begun = &mut self.begun[index(stream)];
        let mut out = BytesMut::new();
        let mut rest = data;
        while !rest.is_empty() {
            let room = LINE_MAX - begun.len();
            let end = rest.iter().take(room).position(|&byte| byte == b'\n');
            let (part, next, whole) = match end {
                Some(at) => (&rest[..at], &rest[at + 1..], true),
                None if rest.len() >= room => (&rest[..room], &rest[room..], true),
                None => (rest, &rest[rest.len()..], false),
            };
            begun.put_slice(part);
            rest = next;
            if whole {
                put_line(&mut out, &self.prefix, begun);
                begun.clear();
            }
        }
        out.freeze()
    }

    /// What is left without a newline.
    pub fn rest(&mut self, stream: OutputStream) -> Bytes {
        let begun = std::mem::take(&mut self.begun[index(stream)]);
        let mut out = BytesMut::new();
        if !begun.is_empty() {
            put_line(&mut out, &self.prefix, &begun);
        }
        out.freeze()
    }
}

fn put_line(out: &mut BytesMut, prefix: &str, line: &[u8]) {
    out.reserve(prefix.len() + line.len() + 1);
    out.put_slice(prefix.as_bytes());
    out.put_slice(line);
    out.put_u8(b'\n');
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OutputStream::{Stderr, Stdout};

    #[test]
    fn each_line_has_the_name_before_it_however_it_was_cut() {
        let mut lines = Lines::new("a");
        assert_eq!(lines.take(Stdout, b"on"), "");
        assert_eq!(lines.take(Stderr, b"x\n"), "a | x\n");
        assert_eq!(lines.take(Stdout, b"e\n\ntwo\nth"), "a | one\na | \na | two\n");
        assert_eq!(lines.take(Stdout, b"\xff"), "");
        assert_eq!(lines.rest(Stdout), &b"a | th\xff\n"[..]);
        assert_eq!(lines.rest(Stdout), "");
        assert_eq!(lines.rest(Stderr), "");
    }

    #[test]
    fn an_endless_line_is_shown_in_pieces() {
        let mut lines = Lines::new("a");
        let shown = lines.take(Stdout, &vec![b'x'; LINE_MAX * 2 + 1]);
        assert_eq!(shown.len(), 2 * (LINE_MAX + "a | \n".len()));
        assert_eq!(lines.rest(Stdout), "a | x\n");
    }
}
