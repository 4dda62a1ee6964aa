//! An agent or a tool that was given this port for the one that serves agents. It speaks HTTP/2 at once, on which the
//! server of HTTP/1 closes without a word, as a master does that goes away: a word in HTTP/1 tells the two apart.

use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// How a client of HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

const ANSWER: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 88\r\n\r\n\
    This is the web page of a master: agents and tools go to the port of `listen`, over it.\n";

/// So long it may take the answer.
const GRACE: Duration = Duration::from_secs(2);

/// Answers one that has begun with these bytes, if it speaks HTTP/2.
pub async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, began: &[u8]) {
    if began.starts_with(PREFACE) {
        // One that has gone needs no answer.
        let _ = timeout(GRACE, told(stream)).await;
    }
}

async fn told(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(ANSWER).await?;
    stream.shutdown().await?;
    // Closed with something unread the connection would be reset, and the answer with it.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_http_2_is_answered_and_read_to_the_end_and_others_are_not() {
        let (mut client, server) = duplex(64);
        let serving = tokio::spawn(async move { answer(server, PREFACE).await });
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, ANSWER);
        client.write_all(&[0; 1000]).await.expect("it is read");
        drop(client);
        serving.await.unwrap();
        let (mut client, server) = duplex(64);
        answer(server, b"GET / HTTP/1.1").await;
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert!(said.is_empty());
    }
}
