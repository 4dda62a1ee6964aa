//! As much of IPv4 and TCP as a middlebox knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

const TCP: u8 = 6;
const HEADERS: u16 = 40;

pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?).into()),
        6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?).into()),
        _ => None,
    }
}

/// What a TCP packet over IPv4 says.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    /// Of the byte after its last one.
    pub next: u32,
    pub ack: u32,
    pub flags: u8,
}

impl Segment {
    pub fn of(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 != 4 || packet.get(9) != Some(&TCP) {
            return None;
        }
        let start = usize::from(packet[0] & 15) * 4;
        let tcp = packet.get(start..).filter(|tcp| tcp.len() >= 20)?;
        let end = |address: usize, port: usize| {
            let ip: [u8; 4] = packet[address..address + 4].try_into().expect("four bytes");
            SocketAddrV4::new(ip.into(), u16::from_be_bytes([tcp[port], tcp[port + 1]]))
        };
        let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().expect("four bytes"));
        let flags = tcp[13];
        let bytes = tcp.len() - usize::from(tcp[12] >> 4) * 4;
        let length = u32::try_from(bytes).ok()? + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        Some(Self { from: end(12, 0), to: end(16, 2), next: word(4).wrapping_add(length), ack: word(8), flags })
    }

    /// What its sender would take for an answer with these flags.
    pub fn answer(&self, flags: u8) -> Vec<u8> {
        forge(self.to, self.from, self.ack, self.next, flags)
    }
}

/// A packet without data.
fn forge(from: SocketAddrV4, to: SocketAddrV4, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend(HEADERS.to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]); // not to be cut, 64 hops
    ip.extend(from.ip().octets());
    ip.extend(to.ip().octets());
    let sum = checksum(ip.iter().copied());
    ip[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut tcp = Vec::with_capacity(20);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([0x50, flags | ACK, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = ip[12..20].iter().copied().chain([0, TCP, 0, 20]);
    let sum = checksum(pseudo.chain(tcp.iter().copied()));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    ip.extend(tcp);
    ip
}

/// Of an even number of bytes (RFC 1071).
fn checksum(bytes: impl Iterator<Item = u8>) -> u16 {
    let mut sum = bytes.enumerate().map(|(i, byte)| u32::from(byte) << if i % 2 == 0 { 8 } else { 0 }).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
