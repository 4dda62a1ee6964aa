//! Questions to the kernel, answered at once: routing sockets deliver the answer before `send` returns.

use super::{
    judge::{Kernel, Way},
    netlink::{self, Message},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr, UdpSocket},
};

/// Of an answer that much is read: what matters stands in front, and a link's whole description is 1.5 KiB.
const ANSWER: usize = 512;

pub struct Linux;

/// A routing socket that does not block.
///
/// # Errors
/// Where the kernel or the emulator has none.
pub fn routing_socket() -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    Socket::new(Domain::from(libc::AF_NETLINK), kind, Some(Protocol::from(libc::NETLINK_ROUTE)))
}

impl Kernel for Linux {
    fn way_to(&mut self, to: IpAddr) -> Option<Way> {
        let socket = routing_socket().ok()?;
        let Message::Route(route) = ask(&socket, &netlink::ask_route(to))? else { return None };
        let interface = route.interface?;
        let running = match ask(&socket, &netlink::ask_link(interface)) {
            Some(Message::Link { running, .. }) => running,
            _ => false,
        };
        Some(Way { interface, running, gateway: route.gateway, source: route.source })
    }

    fn has(&mut self, address: IpAddr) -> bool {
        match UdpSocket::bind(SocketAddr::new(address, 0)) {
            Ok(_) => true,
            // An address with a zone cannot be named without it.
            Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
        }
    }
}

fn ask(mut socket: &Socket, question: &[u8]) -> Option<Message> {
    socket.send(question).ok()?;
    let mut answer = [0; ANSWER];
    let length = socket.read(&mut answer).ok()?;
    netlink::parse(&answer[..length]).first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_reaches_itself() {
        let way = Linux.way_to("127.0.0.1".parse().unwrap()).expect("a way");
        assert_eq!((way.running, way.gateway), (true, None));
        assert!(Linux.has("127.0.0.1".parse().unwrap()));
        assert!(!Linux.has("192.0.2.1".parse().unwrap()));
    }
}
