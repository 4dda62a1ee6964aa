//! Routing messages of the kernel (rtnetlink(7)), as far as the watch needs them: bytes in, words out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER: usize = 16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An address came, went, or is another in some way.
    Address { interface: u32 },
    /// A route that can carry something came or went; of an answer, the route asked for.
    Route(Route),
    /// An interface came, went, or has another state.
    Link { interface: u32, running: bool },
    /// An answer: nothing to that address.
    Error,
}

/// How the kernel would send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub interface: Option<u32>,
    pub gateway: Option<IpAddr>,
    /// The address that it would send from.
    pub source: Option<IpAddr>,
}

/// The messages of one datagram. What is cut off, broken or of no interest is left out.
pub fn parse(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(length) = u32_at(bytes, 0).map(|length| length as usize).filter(|length| *length >= HEADER) {
        let Some(body) = bytes.get(HEADER..length.min(bytes.len())) else { break };
        messages.extend(u16_at(bytes, 4).and_then(|kind| message(kind, body)));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

fn message(kind: u16, body: &[u8]) -> Option<Message> {
    match kind {
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Message::Address { interface: u32_at(body, 4)? }),
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            let running = kind == libc::RTM_NEWLINK && u32_at(body, 8)? & libc::IFF_RUNNING as u32 != 0;
            Some(Message::Link { interface: u32_at(body, 4)?, running })
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => route(body),
        kind if kind == libc::NLMSG_ERROR as u16 => Some(Message::Error),
        _ => None,
    }
}

fn route(body: &[u8]) -> Option<Message> {
    let (family, kind) = (*body.first()?, *body.get(7)?);
    // Multicast and broadcast lead to no master; a local one goes with its address, which is told by itself.
    if kind != libc::RTN_UNICAST && kind != libc::RTN_LOCAL {
        return None;
    }
    let address = |wanted| attribute(body.get(12..)?, wanted).and_then(|bytes| address(family, bytes));
    let interface = attribute(body.get(12..)?, libc::RTA_OIF).and_then(|bytes| u32_at(bytes, 0));
    Some(Message::Route(Route { interface, gateway: address(libc::RTA_GATEWAY), source: address(libc::RTA_PREFSRC) }))
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        if u16_at(bytes, 2)? == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        libc::AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// Asks for the route to an address.
pub fn ask_route(to: IpAddr) -> Vec<u8> {
    let (family, octets) = match to {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let mut body = vec![family as u8, (octets.len() * 8) as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend((4 + octets.len() as u16).to_ne_bytes());
    body.extend(libc::RTA_DST.to_ne_bytes());
    body.extend(octets);
    request(libc::RTM_GETROUTE, &body)
}

/// Asks how an interface is.
pub fn ask_link(interface: u32) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    request(libc::RTM_GETLINK, &body)
}

fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence number and port: one question at a time, and the kernel fills in the port.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|bytes| u16::from_ne_bytes(bytes.try_into().expect("two bytes")))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

/// Recorded on x86_64; the other targets have the same order of bytes.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    const NEW_ADDRESS: &str = "4c0000001400000032f7046b565600000218800003000000080001000a010203080002000a010203\
        0700030065300000080008008000000014000600fffffffffffffffff7a31400f7a31400";
    const PREFIX_ROUTE: &str = "3c00000018000006000000000000000002180000fe02fd010000000008000f00fe00000008000100\
        0a010200080007000a0102030800040003000000";
    const BROADCAST_ROUTE: &str = "3c00000018000006000000000000000002200000ff02fd030000000008000f00ff000000080001\
        000a0102ff080007000a0102030800040003000000";
    const DEFAULT_ROUTE: &str = "340000001800000632f7046b5856000002000000fe0300010000000008000f00fe00000008000500\
        0a0102010800040003000000";
    const MULTICAST_V6: &str = "740000001800000600000000000000000a080000ff0200050000000008000f00ff000000140001\
        00ff0000000000000000000000000000000800060000010000080004000200000024000c00000000000000000000000000";
    /// The beginning of 1,492 bytes.
    const LINK_RUNS: &str = "d4050000100000000000000000000000000001000300000043100100000000000700030065310000";
    const LINK_WITHOUT_CARRIER: &str = "d405000010000000000000000000000000000100030000000310000001000000";
    const LINK_GONE: &str = "d405000011000000000000000000000000000100030000004310010000000000";
    const ANSWER: &str = "700000001800000007000000669ae2b002200000fe0000010002000008000f00fe00000008000100c0000201\
        0800040003000000080007000a010203080005000a010201080019000000000024000c0002000000000000000000000000\
        00000000000000000000000000000000000000";
    const NO_ROUTE: &str = "440000000200000007000000669ae2b09bffffff300000001a00010007000000000000000a80000000000000\
        000000001400010020010db8000000000000000000000001";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn recorded_messages_are_understood() {
        let route = |gateway: Option<&str>, source: Option<&str>| {
            Message::Route(Route { interface: Some(3), gateway: gateway.map(ip), source: source.map(ip) })
        };
        let table = [
            (NEW_ADDRESS, vec![Message::Address { interface: 3 }]),
            (PREFIX_ROUTE, vec![route(None, Some("10.1.2.3"))]),
            (DEFAULT_ROUTE, vec![route(Some("10.1.2.1"), None)]),
            (BROADCAST_ROUTE, vec![]),
            (MULTICAST_V6, vec![]),
            (LINK_RUNS, vec![Message::Link { interface: 3, running: true }]),
            (LINK_WITHOUT_CARRIER, vec![Message::Link { interface: 3, running: false }]),
            (LINK_GONE, vec![Message::Link { interface: 3, running: false }]),
            (ANSWER, vec![route(Some("10.1.2.1"), Some("10.1.2.3"))]),
            (NO_ROUTE, vec![Message::Error]),
        ];
        for (recorded, understood) in table {
            assert_eq!(parse(&bytes(recorded)), understood, "{recorded}");
        }
        let both = [bytes(NEW_ADDRESS), bytes(DEFAULT_ROUTE)].concat();
        assert_eq!(parse(&both), [Message::Address { interface: 3 }, route(Some("10.1.2.1"), None)]);
    }

    #[test]
    fn questions_are_asked_as_recorded() {
        let recorded = bytes("240000001a000100000000000000000002200000000000000000000008000100c0000201");
        assert_eq!(ask_route(ip("192.0.2.1")), recorded);
        let recorded = "300000001a00010000000000000000000a80000000000000000000001400010020010db8\
            000000000000000000000001";
        assert_eq!(ask_route(ip("2001:db8::1")), bytes(recorded));
        assert_eq!(ask_link(3), bytes("2000000012000100000000000000000000000000030000000000000000000000"));
    }

    #[test]
    fn what_is_cut_off_or_damaged_does_no_harm() {
        for recorded in [NEW_ADDRESS, PREFIX_ROUTE, DEFAULT_ROUTE, LINK_RUNS, ANSWER, NO_ROUTE] {
            let whole = bytes(recorded);
            for end in 0..whole.len() {
                parse(&whole[..end]);
            }
            for at in 0..whole.len() {
                for value in [0, 1, 3, 4, 15, 0x7f, 0xff] {
                    let mut damaged = whole.clone();
                    damaged[at] = value;
                    parse(&damaged);
                }
            }
        }
    }
}
