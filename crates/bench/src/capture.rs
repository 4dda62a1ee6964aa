//! A network of our own, and every packet in it counted: IP and TCP headers included, the link's not.

use std::{
    collections::HashMap,
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Arc, Mutex},
};

/// Packets to and from a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    /// Of IP packets, headers and all.
    pub bytes: u64,
}

/// Counts by port what goes over the loopback of this process's own network.
pub struct Capture {
    counts: Result<Arc<Mutex<Counts>>, String>,
}

type Counts = HashMap<u16, Traffic>;

/// Of a packet so much is looked at: the longest IP header and the ports.
const HEAD: usize = 64;

impl Capture {
    /// Moves this thread, and so all that it starts, to a network of its own. To be called before there are others.
    pub fn start() -> Self {
        let counts = open().map_err(|error| error.to_string()).map(|socket| {
            let counts = Arc::new(Mutex::new(Counts::new()));
            let seen = counts.clone();
            // It ends with the process: the socket is never closed.
            std::thread::spawn(move || count(&socket, &seen));
            counts
        });
        Self { counts }
    }

    /// So far.
    ///
    /// # Errors
    /// Why packets cannot be counted.
    pub fn of(&self, port: u16) -> Result<Traffic, String> {
        let counts = self.counts.as_ref().map_err(String::clone)?;
        Ok(counts.lock().expect("counting does not panic").get(&port).copied().unwrap_or_default())
    }
}

impl Traffic {
    pub fn since(self, before: Self) -> Self {
        Self { packets: self.packets - before.packets, bytes: self.bytes - before.bytes }
    }
}

/// Moves this thread, and so all that it starts, to a network with nothing but loopback in it.
///
/// # Errors
/// That needs root.
pub fn enter_network() -> io::Result<()> {
    // SAFETY: no pointers; it changes this thread's network only.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    // SAFETY: no pointers.
    let plain = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is a complete ifreq that lives through the call.
    checked(unsafe { libc::ioctl(plain.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })?;
    Ok(())
}

fn open() -> io::Result<OwnedFd> {
    enter_network()?;
    let protocol = libc::c_int::from((libc::ETH_P_IP as u16).to_be());
    // Without the link's header: that is what SOCK_DGRAM means here.
    // SAFETY: no pointers.
    owned(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) })
}

fn count(socket: &OwnedFd, counts: &Mutex<Counts>) {
    loop {
        let mut packet = [0_u8; HEAD];
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of_val(&from)).expect("20 bytes");
        // SAFETY: buffer and address are as long as said, and live through the call.
        let read = unsafe {
            let (buffer, from) = (packet.as_mut_ptr().cast(), (&raw mut from).cast());
            libc::recvfrom(socket.as_raw_fd(), buffer, HEAD, 0, from, &raw mut length)
        };
        let Ok(read) = usize::try_from(read) else { return };
        // Loopback shows each packet twice: as it leaves and as it arrives.
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            continue;
        }
        if let Some((ports, bytes)) = tcp(&packet[..read]) {
            let mut counts = counts.lock().expect("counting does not panic");
            for port in ports {
                let traffic = counts.entry(port).or_default();
                traffic.packets += 1;
                traffic.bytes += bytes;
            }
        }
    }
}

/// Ports and length of a TCP packet over IPv4.
fn tcp(packet: &[u8]) -> Option<([u16; 2], u64)> {
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if *packet.get(9)? != libc::IPPROTO_TCP as u8 {
        return None;
    }
    Some(([word(header)?, word(header + 2)?], word(2)?.into()))
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is new and nobody else's.
    checked(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_counts_with_its_headers_for_both_ports() {
        let mut packet = vec![0; 44];
        (packet[0], packet[9]) = (0x46, 6);
        packet[2..4].copy_from_slice(&127_u16.to_be_bytes());
        packet[24..26].copy_from_slice(&50_050_u16.to_be_bytes());
        packet[26..28].copy_from_slice(&40_000_u16.to_be_bytes());
        assert_eq!(tcp(&packet), Some(([50_050, 40_000], 127)));
        packet[9] = 17;
        assert_eq!(tcp(&packet), None, "UDP");
        assert_eq!(tcp(&packet[..9]), None, "cut off");
    }
}
