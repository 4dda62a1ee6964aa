//! The network watch: the kernel tells when addresses, routes or links change, and the link hears of it if that concerns
//! the way to a master. No thread, and nothing wakes while nothing changes.

mod judge;
mod kernel;
mod netlink;

pub use judge::Verdict;

use crate::config::MasterAddress;
use judge::Judge;
use kernel::Linux;
use socket2::{SockAddr, Socket};
use std::{
    io::{self, Read},
    net::SocketAddr,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

/// Changes come in bursts (the link, its address, its routes): they are judged together, so long after the first. Also
/// the bound on how often anything is judged.
const SETTLE: Duration = Duration::from_millis(50);

/// Messages of one turn of reading, a bound on how long others wait.
const BURST: usize = 256;

/// Of a message that much is read: what matters stands in front.
const MESSAGE: usize = 512;

pub struct Watch {
    /// None: it is turned off, or this system has none.
    socket: Option<AsyncFd<Socket>>,
    judge: Judge,
    /// Something happened; it is judged then.
    settles_at: Option<Instant>,
}

impl Watch {
    /// Watches the ways to these masters. Where the system has no routing socket it says so once, and never says
    /// anything again. Needs a runtime with I/O.
    pub fn new(masters: &[MasterAddress]) -> Self {
        match open() {
            Ok(socket) => Self { socket: Some(socket), judge: Judge::new(masters, &mut Linux), settles_at: None },
            Err(error) => {
                log::warn!("cannot watch the network: {error}; after an outage the usual waits apply");
                Self::off()
            }
        }
    }

    /// A watch that never says anything.
    pub fn off() -> Self {
        Self { socket: None, judge: Judge::default(), settles_at: None }
    }

    /// Other masters from now on. What is known of one that stays is kept.
    pub fn set_masters(&mut self, masters: &[MasterAddress]) {
        if self.socket.is_some() {
            self.judge.set(masters, &mut Linux);
        }
    }

    /// The master was reached at this address.
    pub fn met(&mut self, master: &str, peer: SocketAddr) {
        if self.socket.is_some() {
            self.judge.met(master, peer, &mut Linux);
        }
    }

    /// Returns when something has changed that [`Self::judge`] should look at.
    ///
    /// # Cancel safety
    /// Safe: what was read is remembered.
    pub async fn changed(&mut self) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        loop {
            if let Some(at) = self.settles_at {
                sleep_until(at).await;
                self.settles_at = None;
                return;
            }
            let Ok(mut ready) = socket.readable().await else { return std::future::pending().await };
            let (mut concerns, mut broken) = (false, None);
            for _ in 0..BURST {
                match ready.try_io(|socket| read(socket.get_ref(), &self.judge)) {
                    Ok(Ok(one)) => concerns |= one,
                    // Some were lost, so everything is looked at.
                    Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => concerns = true,
                    Ok(Err(error)) => broken = Some(error),
                    Err(_would_block) => break,
                }
            }
            if let Some(error) = broken {
                log::warn!("no longer watching the network: {error}; after an outage the usual waits apply");
                drop(ready);
                *self = Self::off();
                return std::future::pending().await;
            }
            if concerns {
                self.settles_at = Some(Instant::now() + SETTLE);
            }
        }
    }

    /// What has become of the way to the masters since the last look. `session`: its own address and the master's.
    pub fn judge(&mut self, session: Option<(SocketAddr, SocketAddr)>) -> Option<Verdict> {
        self.judge.judge(session, &mut Linux)
    }
}

/// Whether the next message concerns us.
fn read(mut socket: &Socket, judge: &Judge) -> io::Result<bool> {
    let mut bytes = [0; MESSAGE];
    let length = socket.read(&mut bytes)?;
    Ok(netlink::parse(&bytes[..length]).into_iter().any(|message| judge.concerns(message)))
}

fn open() -> io::Result<AsyncFd<Socket>> {
    let socket = kernel::routing_socket()?;
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV6_ROUTE;
    // SAFETY: the storage is large enough for every kind of address, zeroed, and aligned for this one; the length that
    // is set is its size. socket2 has no constructor for this family.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_nl>();
            (*address).nl_family = libc::AF_NETLINK as libc::sa_family_t;
            (*address).nl_groups = groups as u32;
            *length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket.bind(&address)?;
    // SAFETY: the AsyncFd owns the descriptor and is the only one to use it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
