//! `http.listen`: `/healthz`, `/readyz` and `/metrics`, for probes and for Prometheus. HTTP/1.1 of our own, and no more
//! of it than that needs: GET and HEAD, one request a connection, no body. It says how the agent does and takes no
//! orders. It shares the agent's one thread, and never holds it for longer than it takes to write a page.

use crate::{config::describe, metrics::Board, places::Places};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

/// Connections served at a time: this is for a probe or two. A further one takes the place of the oldest.
const CONNECTIONS: usize = 8;

/// Longest head of a request, bytes. What Prometheus and browsers send is under a KiB.
const HEAD_MAX: usize = 4096;

/// What is read and thrown away of a body that nobody wants, so that the answer arrives.
const BODY_MAX: usize = 64 * 1024;

/// From the first byte of a request to the last of its answer.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// A port that could not be had is tried again after this: its address may come with the network, its holder may go.
const RETRY: Duration = Duration::from_secs(30);

/// Serves at the address that `listen` has, as long as it has one, until its sender is dropped.
pub async fn serve(mut listen: watch::Receiver<Option<SocketAddr>>, board: Arc<Board>) {
    let mut refused: Option<(SocketAddr, io::ErrorKind)> = None;
    loop {
        let address = *listen.borrow_and_update();
        let bound = match address {
            None => None,
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => Some(listener),
                Err(error) => {
                    let failure = (address, error.kind());
                    if refused.replace(failure) != Some(failure) {
                        log::warn!("{}", unusable(address, &error));
                    }
                    None
                }
            },
        };
        let changed = match bound {
            Some(listener) => {
                refused = None;
                let address = listener.local_addr().ok().or(address);
                log::info!(
                    "Health and metrics at http://{}/",
                    address.map(|address| address.to_string()).unwrap_or_default()
                );
                accept(&listener, &mut listen, &board).await
            }
            None if address.is_some() => match timeout(RETRY, listen.changed()).await {
                Ok(changed) => changed.is_ok(),
                Err(_) => true,
            },
            None => {
                refused = None;
                listen.changed().await.is_ok()
            }
        };
        if !changed {
            return;
        }
    }
}

/// Until another address is wanted; `false`: none ever again.
async fn accept(listener: &TcpListener, listen: &mut watch::Receiver<Option<SocketAddr>>, board: &Arc<Board>) -> bool {
    let mut places = Places::new("at http.listen", CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = listen.changed() => return changed.is_ok(),
        };
        let serve = |stream| {
            let board = board.clone();
            async move {
                // A peer that is slow, or gone, is its own fault.
                let _ = timeout(REQUEST_MAX, connection(stream, &board)).await;
            }
        };
        places.take(accepted.map(|(stream, _)| stream), serve).await;
    }
}

/// What to say of an address that could not be had.
pub fn unusable(address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there: choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose another",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root: choose another port",
        _ => "choose another address",
    };
    let again = RETRY.as_secs();
    format!(
        "cannot listen at http.listen = \"{address}\" ({}): {remedy}. The agent runs without it, and tries again every \
         {again}s",
        describe(error)
    )
}

async fn connection(mut stream: TcpStream, board: &Board) -> io::Result<()> {
    let mut head = Vec::with_capacity(512);
    let answer = loop {
        if let Some(answer) = answer(&head, board) {
            break answer;
        }
        if stream.read_buf(&mut head).await? == 0 {
            // It has left in the middle of its request.
            return Ok(());
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closed with something unread, the kernel would reset the connection, and the answer with it.
    let mut rest = [0; 1024];
    let mut thrown_away = 0;
    while thrown_away < BODY_MAX {
        match stream.read(&mut rest).await? {
            0 => break,
            n => thrown_away += n,
        }
    }
    Ok(())
}

/// What to answer to the bytes that have come; none: there must come more.
fn answer(head: &[u8], board: &Board) -> Option<String> {
    let end = |mark: &[u8]| head.windows(mark.len()).any(|window| window == mark);
    if !end(b"\r\n\r\n") && !end(b"\n\n") {
        let long = || response("431 Request Header Fields Too Large", "", "the request is too long\n", false);
        return (head.len() > HEAD_MAX).then(long);
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default().trim_end();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let sound = words.next().is_some_and(|version| version.starts_with("HTTP/1.")) && words.next().is_none();
    if !sound || !target.starts_with('/') {
        return Some(response("400 Bad Request", "", "this is no request of HTTP/1.1\n", false));
    }
    let whole = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Some(response("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "GET or HEAD\n", false)),
    };
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match path {
        "/healthz" => ("200 OK", PLAIN, "alive\n".to_owned()),
        "/readyz" => match board.unready() {
            None => ("200 OK", PLAIN, "Active\n".to_owned()),
            Some(why) => ("503 Service Unavailable", PLAIN, why + "\n"),
        },
        "/metrics" => ("200 OK", METRICS, board.metrics()),
        _ => ("404 Not Found", PLAIN, "there are /healthz, /readyz and /metrics\n".to_owned()),
    };
    Some(response(status, kind, &body, !whole))
}

const PLAIN: &str = "";
const METRICS: &str = "; version=0.0.4";

fn response(status: &str, more: &str, body: &str, head_only: bool) -> String {
    let (kind, header) = if more.starts_with(';') { (more, "") } else { ("", more) };
    let length = body.len();
    let body = if head_only { "" } else { body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain{kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\n{header}Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests;
