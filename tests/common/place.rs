//! Addresses that no other test is given meanwhile.
//!
//! A port that was free a moment ago may be another's by now: that one's silence or its answers would be taken for what
//! is not there.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};
use tokio::net::{TcpListener, TcpSocket};

/// An address of the loopback network with any port, which no other test has: it stays free when its listener is gone.
pub fn own() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let (pid, count) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let [high, low] = ((pid % 60_000) as u16).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, high + 1, low, count as u8), 0))
}

/// An address that is held and refuses connections, until it listens.
pub struct Refusing {
    socket: TcpSocket,
    pub address: SocketAddr,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("literal")).expect("a free port");
        let address = socket.local_addr().expect("bound");
        Self { socket, address }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn listen(self) -> TcpListener {
        self.socket.listen(64).expect("bound before")
    }
}
