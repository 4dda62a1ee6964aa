use super::*;
use crate::commands::Meter;
use link::{LossReason, Phase, Report};

const PATIENCE: Duration = Duration::from_secs(30);

fn board() -> Arc<Board> {
    Arc::new(Board::new(Meter::default()))
}

/// Served at a port of the system's choice.
async fn served(board: &Arc<Board>) -> (SocketAddr, watch::Sender<Option<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (wanted, mut listen) = watch::channel(Some(address));
    let board = board.clone();
    tokio::spawn(async move { accept(&listener, &mut listen, &board).await });
    (address, wanted)
}

async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A server that has heard enough may close before everything is written.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    timeout(PATIENCE, asked).await.expect("it answers")
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
}

/// In paused time.
async fn pass(time: Duration) {
    let _ = timeout(time, std::future::pending::<()>()).await;
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn an_agent_lives_all_the_time_and_is_ready_while_it_is_active() {
    let board = board();
    let (address, _wanted) = served(&board).await;
    let detail = "connection refused".to_owned();
    let reason = LossReason::ConnectionRefused;
    let failed = Report::AttemptFailed {
        master: 0,
        attempt: 1,
        reason,
        detail,
        wait: Duration::from_secs(1000),
        next: 0,
        longest: false,
    };
    board.update(|link| {
        link.note(&failed);
        link.phase = Phase::Reconnecting;
    });
    let unready = get(address, "/readyz").await;
    assert_eq!(status(&unready), "503");
    assert!(
        unready.contains("\r\n\r\nReconnecting: connection_refused: connection refused; next attempt in "),
        "{unready}"
    );
    board.update(|link| link.phase = Phase::Active);
    let ready = get(address, "/readyz?verbose").await;
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n") && ready.ends_with("\r\n\r\nActive\n"), "{ready}");
    board.update(|link| link.shutting_down = true);
    let leaving = get(address, "/readyz").await;
    assert!(status(&leaving) == "503" && leaving.ends_with("\r\n\r\nshutting down\n"), "{leaving}");
    assert!(get(address, "/metrics").await.contains("sloth_agent_connected 0\n"));
    assert!(get(address, "/healthz").await.ends_with("\r\n\r\nalive\n"));
}

#[tokio::test]
async fn metrics_are_of_the_type_that_prometheus_asks_for_and_as_long_as_it_says() {
    let (address, _wanted) = served(&board()).await;
    let answer = get(address, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains("sloth_agent_connected 0\n") && body.ends_with('\n'));
    let only_head = ask(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(only_head, format!("{head}\r\n\r\n"));
}

#[tokio::test]
async fn whatever_is_asked_beside_that_is_refused_with_an_answer() {
    let (address, _wanted) = served(&board()).await;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("GET /metrics/../healthz HTTP/1.1\r\n\r\n", "404"),
        ("DELETE /healthz HTTP/1.1\r\n\r\n", "405"),
        ("GET http://x/healthz HTTP/1.1\r\n\r\n", "400"),
        ("GET /healthz HTTP/2\r\n\r\n", "400"),
        ("GET /healthz\r\n\r\n", "400"),
        ("\r\n\r\n", "400"),
        ("GET /healthz HTTP/1.0\n\n", "200"),
    ] {
        assert_eq!(status(&ask(address, request.as_bytes()).await), expected, "{request:?}");
    }
    let mut long = b"GET /healthz HTTP/1.1\r\nX: ".to_vec();
    long.extend(std::iter::repeat_n(b'x', HEAD_MAX));
    assert_eq!(status(&ask(address, &long).await), "431");
    let with_body = [b"POST /healthz HTTP/1.1\r\nContent-Length: 20000\r\n\r\n".as_slice(), &[0; 20_000]].concat();
    assert_eq!(status(&ask(address, &with_body).await), "405");
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_shut_a_probe_out() {
    let (address, _wanted) = served(&board()).await;
    let mut silent = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(status(&get(address, "/healthz").await), "200");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_to_its_end_is_dropped() {
    let (address, _wanted) = served(&board()).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /healthz HT").await.unwrap();
    let mut nothing = Vec::new();
    assert_eq!(slow.read_to_end(&mut nothing).await.unwrap(), 0);
}

#[tokio::test]
async fn another_address_takes_the_place_of_the_first_and_none_ends_it() {
    let board = board();
    // On addresses that nothing else has: their ports stay free until they are wanted.
    let free = |own: &str| std::net::TcpListener::bind(own).unwrap().local_addr().unwrap();
    let (first, second) = (free("127.87.72.2:0"), free("127.87.72.3:0"));
    let (wanted, listen) = watch::channel(Some(first));
    let served = tokio::spawn(serve(listen, board));
    let answers = async |address| {
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        get(address, "/healthz").await
    };
    assert_eq!(status(&timeout(PATIENCE, answers(first)).await.unwrap()), "200");
    wanted.send_replace(Some(second));
    assert_eq!(status(&timeout(PATIENCE, answers(second)).await.unwrap()), "200");
    assert!(TcpStream::connect(first).await.is_err(), "the first is closed");
    wanted.send_replace(None);
    let closed = async {
        while TcpStream::connect(second).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, closed).await.unwrap();
    drop(wanted);
    timeout(PATIENCE, served).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_had_once_it_is_free() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let error = std::net::TcpListener::bind(address).unwrap_err();
    assert!(
        unusable(address, &error)
            .contains("another program listens there: choose another port. The agent runs without it"),
        "{}",
        unusable(address, &error)
    );
    let (_wanted, listen) = watch::channel(Some(address));
    tokio::spawn(serve(listen, board()));
    pass(RETRY / 2).await;
    drop(holder);
    pass(RETRY).await;
    tokio::time::resume();
    assert_eq!(status(&get(address, "/healthz").await), "200");
}
