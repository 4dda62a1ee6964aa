use super::{super::tests::secured, *};
use crate::{listen::crowd::GRACE, security::testing::files};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    task::Wake,
};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn those_who_wait_for_a_handshake_are_so_many_and_one_and_no_more() {
    let (_folder, files) = files();
    let (mut secured, address) = secured(files);
    for _ in 0..PENDING_MAX {
        secured.handshakes.spawn(std::future::pending());
    }
    let _waiting = TcpStream::connect(address).await.unwrap();
    let woken = Arc::new(Woken::default());
    let waker = woken.clone().into();
    assert!(Pin::new(&mut secured).poll_next(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(secured.handshakes.len(), PENDING_MAX);
    assert!(secured.newcomer.is_some());
    let before = woken.0.load(Ordering::Relaxed);
    secured.handshakes.abort_all();
    while woken.0.load(Ordering::Relaxed) == before {
        tokio::task::yield_now().await;
    }
}

/// From an address of its own.
async fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(Ipv4Addr::from(source).into(), 0)).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn addresses_that_take_all_there_is_to_wait_in_make_room_for_another() {
    let (_folder, files) = files();
    let (mut secured, address) = secured(files.clone());
    let hostile = Source::of([192, 0, 2, 1].into());
    let oldest = Arc::new(Semaphore::new(0));
    // From here on time passes as soon as there is nothing else to do.
    tokio::time::pause();
    for n in 0..PENDING_MAX {
        let (tell, told) = oneshot::channel::<()>();
        let (place, oldest) = (secured.pending.enter(hostile, tell), oldest.clone());
        secured.handshakes.spawn(async move {
            let _place = place;
            let _ = told.await;
            assert_eq!(n, 0, "it is the oldest that gives up");
            oldest.add_permits(1);
            None
        });
    }
    let came = async {
        select! {
            _ = secured.next() => panic!("nobody came"),
            given_up = oldest.acquire() => given_up.unwrap().forget(),
        }
    };
    let _newcomer = connect_from([127, 0, 0, 2], address).await;
    let start = tokio::time::Instant::now();
    timeout(HANDSHAKE_TIMEOUT, came).await.expect("before anybody's time is over");
    let waited = start.elapsed();
    assert!((GRACE..GRACE + Duration::from_millis(10)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_of_the_address_with_most_hands_its_place_on() {
    let (_folder, files) = files();
    let (secured, _) = secured(files);
    let turn = |last: u8| Turn {
        source: Source::of([192, 0, 2, last].into()),
        each: Arc::new(Semaphore::new(1)),
        all: secured.all.clone(),
        busy: secured.busy.clone(),
        open: secured.incoming.open(),
        unknown_timeout: Duration::from_secs(30),
    };
    let mut busy = Vec::new();
    for n in 0..HANDSHAKES_MAX {
        let (turn, (ask, asked)) = (turn((n % 8) as u8), oneshot::channel());
        let place = turn.place().await.unwrap();
        let member = turn.busy.enter(turn.source, ask);
        busy.push(tokio::spawn(async move {
            let _member = member;
            let successor: oneshot::Sender<OwnedSemaphorePermit> = asked.await.unwrap();
            successor.send(place).unwrap();
        }));
    }
    // Others of theirs wait before it.
    let queue: Vec<_> = (0..8)
        .map(|last| {
            let turn = turn(last);
            tokio::spawn(async move { turn.place().await })
        })
        .collect();
    tokio::task::yield_now().await;
    let start = tokio::time::Instant::now();
    let _place = turn(99).place().await.unwrap();
    assert_eq!(start.elapsed(), GRACE);
    assert_eq!(secured.all.available_permits(), 0, "handed on, not let go");
    assert!(queue.iter().all(|waiting| !waiting.is_finished()));
    assert_eq!(busy.iter().filter(|one| one.is_finished()).count(), 1);
}
