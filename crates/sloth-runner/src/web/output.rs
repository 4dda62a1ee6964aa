//! `/api/commands/{id}/output`: a part of a command's output.

use super::{
    Web,
    agent::{Command, command},
    guard::{json, status},
};
use crate::master::{Look, look_at_output, ports::Piece};
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Of output in one answer, bytes; without `from` it is the end of what there is.
const PART_MAX: usize = 64 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct From {
    from: Option<u64>,
}

#[derive(Serialize)]
struct Part {
    command: Command,
    /// Where it begins, where to go on, and where what is here ends.
    from: u64,
    next: u64,
    end: u64,
    pieces: Vec<Shown>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Shown {
    Text { stream: &'static str, text: String },
    Gap { gap: u64 },
}

pub async fn serve(State(web): State<Arc<Web>>, Path(id): Path<String>, Query(wish): Query<From>) -> Response {
    let Look { row, from, end, pieces } = match look_at_output(&web.core, &id, wish.from, PART_MAX).await {
        Ok(look) => look,
        Err(error) => return status(&error),
    };
    let (pieces, next) = show(pieces, from, end);
    json(StatusCode::OK, &Part { command: command(row), from, next, end, pieces })
}

/// As text, up to a limit, and where to go on. What is no text shows as U+FFFD; a letter that the end cuts comes with the
/// next part.
fn show(pieces: Vec<Piece>, from: u64, end: u64) -> (Vec<Shown>, u64) {
    let mut joined: Vec<(&'static str, Vec<u8>, u64)> = Vec::new();
    let mut next = from;
    for piece in pieces {
        if next.saturating_sub(from) >= PART_MAX as u64 {
            break;
        }
        match piece {
            Piece::Gap { offset, bytes } => {
                joined.push(("", Vec::new(), bytes));
                next = offset + bytes;
            }
            Piece::Data { offset, stream, data } => {
                let stream = crate::tool::ending::stream_word(stream);
                match joined.last_mut() {
                    Some((last, bytes, _)) if *last == stream => bytes.extend_from_slice(&data),
                    _ => joined.push((stream, data.to_vec(), 0)),
                }
                next = offset + data.len() as u64;
            }
        }
    }
    if let Some((_, bytes, 0)) = joined.last_mut().filter(|_| next < end) {
        let cut = cut_letter(bytes);
        bytes.truncate(bytes.len() - cut);
        next -= cut as u64;
    }
    let shown = joined.into_iter().map(|(stream, bytes, gap)| match gap {
        0 => Shown::Text { stream, text: String::from_utf8_lossy(&bytes).into_owned() },
        gap => Shown::Gap { gap },
    });
    (shown.collect(), next)
}

/// Bytes at the end that begin a letter and are not all of it; 0 if that is all there is.
fn cut_letter(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let begun = tail.iter().rposition(|byte| *byte >= 0xc0).map_or(0, |at| tail.len() - at);
    let cut = match std::str::from_utf8(&bytes[bytes.len() - begun..]) {
        Err(error) if error.error_len().is_none() => begun,
        _ => 0,
    };
    if cut == bytes.len() { 0 } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::OutputStream::{Stderr, Stdout};

    fn data(offset: u64, stream: proto::OutputStream, data: &[u8]) -> Piece {
        Piece::Data { offset, stream, data: data.to_vec().into() }
    }

    fn text(stream: &'static str, text: &str) -> Shown {
        Shown::Text { stream, text: text.to_owned() }
    }

    #[test]
    fn pieces_of_one_stream_are_joined_and_gaps_are_told() {
        let pieces = vec![
            data(0, Stdout, b"a\xc3"),
            data(2, Stdout, b"\xa4"),
            data(3, Stderr, b"\xff"),
            Piece::Gap { offset: 4, bytes: 7 },
            data(11, Stdout, b"z"),
        ];
        let expected =
            vec![text("stdout", "aä"), text("stderr", "\u{fffd}"), Shown::Gap { gap: 7 }, text("stdout", "z")];
        assert_eq!(show(pieces, 0, 12), (expected, 12));
    }

    #[test]
    fn a_letter_that_the_end_cuts_comes_whole_with_the_next_part() {
        assert_eq!(show(vec![data(0, Stdout, "aä".as_bytes())], 0, 9), (vec![text("stdout", "aä")], 3));
        assert_eq!(show(vec![data(0, Stdout, b"a\xc3")], 0, 9), (vec![text("stdout", "a")], 1));
        assert_eq!(show(vec![data(0, Stdout, b"a\xf0\x9f\x98")], 0, 9), (vec![text("stdout", "a")], 1));
        // Where nothing else comes it is no letter.
        assert_eq!(show(vec![data(0, Stdout, b"a\xc3")], 0, 2), (vec![text("stdout", "a\u{fffd}")], 2));
        assert_eq!(show(vec![data(0, Stdout, b"\xc3")], 0, 9).1, 1, "it goes on");
    }
}
