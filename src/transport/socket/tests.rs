//! On loopback, in real time: no test waits for more than the start that an address gets.

use super::*;
use tokio::{io::AsyncReadExt, net::TcpListener, time::Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const USER_TIMEOUT: Duration = Duration::from_millis(20_500);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// One that refuses for as long as what is returned beside it holds its port.
fn refusing() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

/// One that answers nobody any more: its queue is full. It lasts as long as what is returned beside it.
async fn hanging() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(ATTEMPT_DELAY, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (address, (listener, queued))
}

async fn raced(addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
    timeout(PATIENCE, race(addresses.to_vec(), USER_TIMEOUT)).await.expect("one of them answers")
}

#[tokio::test]
async fn an_address_that_refuses_hands_over_at_once_and_one_that_hangs_after_its_start() {
    let (_listener, good) = listener().await;
    let (dead, _queue) = hanging().await;
    let ((refuses, _held), (too, _too)) = (refusing(), refusing());
    for (addresses, waits) in [
        (vec![refuses, good], false),
        (vec![dead, good], true),
        (vec![refuses, dead, too, good], true),
        (vec![good, dead], false),
    ] {
        let began = Instant::now();
        let stream = raced(&addresses).await.expect("the good one");
        assert_eq!(stream.peer_addr().unwrap(), good, "{addresses:?}");
        assert!(began.elapsed() >= ATTEMPT_DELAY || !waits, "{addresses:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn where_all_fail_the_last_one_to_fail_is_told() {
    let ((one, _held), (other, _too)) = (refusing(), refusing());
    let failure = raced(&[one, other]).await.expect_err("nobody listens");
    assert_eq!(failure.reason, LossReason::ConnectionRefused);
    assert_eq!(raced(&[]).await.expect_err("there is none").reason, LossReason::Dns);
}

#[tokio::test]
async fn a_connection_sends_at_once_keeps_little_unsent_and_gives_up_when_it_was_told() {
    let (_listener, good) = listener().await;
    let stream = raced(&[good]).await.expect("it answers");
    let options = SockRef::from(&stream);
    assert!(options.tcp_nodelay().unwrap());
    assert_eq!(options.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    let (mut unsent, mut size) = (0_u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: both pointers are to locals, the second says how long the first is.
    let done = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
        libc::getsockopt(stream.as_raw_fd(), level, name, (&raw mut unsent).cast(), &raw mut size)
    };
    assert_eq!((done, unsent), (0, NOTSENT_LOWAT));
}

#[tokio::test]
async fn dropped_it_is_reset_unless_a_graceful_end_was_asked_for() {
    let (listener, good) = listener().await;
    for graceful in [false, true] {
        let socket = Socket::new(raced(&[good]).await.expect("it answers"), Arc::new(graceful.into())).unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        drop(socket);
        let read = timeout(PATIENCE, peer.read(&mut [0])).await.expect("it ends");
        match graceful {
            true => assert_eq!(read.unwrap(), 0),
            false => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
        }
    }
}
