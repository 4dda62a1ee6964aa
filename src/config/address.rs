//! Addresses and names as people write them.

use std::net::{IpAddr, Ipv6Addr};

use super::MasterAddress;

/// Where masters listen unless told otherwise.
pub const MASTER_PORT_DEFAULT: u16 = 50050;

/// Longest name of an agent: a DNS label's.
const NAME_MAX: usize = 63;
/// Longest host name that DNS knows.
const HOST_MAX: usize = 253;

impl MasterAddress {
    /// Whether it says by itself that it is on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Reads `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; without a port it is [`MASTER_PORT_DEFAULT`].
    ///
    /// # Errors
    /// A fragment that reads after `key is value, `: the rule, and the remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty: write it like host:50050".into());
        }
        if let Some((_, rest)) = text.split_once("://") {
            return Err(format!("a URL: write {}", rest.trim_end_matches('/')));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("an IPv6 address without brackets: write [{text}]:{MASTER_PORT_DEFAULT}"));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) =
                    rest.split_once(']').ok_or("without its closing bracket: write it like [::1]:50050")?;
                if host.split('%').next().is_none_or(|address| address.parse::<Ipv6Addr>().is_err()) {
                    return Err("not an IPv6 address in its brackets: write it like [::1]:50050".into());
                }
                let port = match rest.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if rest.is_empty() => None,
                    None => return Err("not an address: after the bracket comes a colon and the port".into()),
                };
                (host, port)
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err("ambiguous: put an IPv6 address in brackets, like [::1]:50050".into());
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if !text.starts_with('[') {
            check_host(host)?;
        }
        let port = match port {
            None => MASTER_PORT_DEFAULT,
            Some(port) => parse_port(port)?,
        };
        Ok(Self { host: host.to_string(), port })
    }

    /// What HTTP calls it: without the zone of a link-local address, which means something on this host alone and may
    /// not stand in a URI.
    pub fn authority(&self) -> String {
        Self { host: self.host_without_zone().to_string(), port: self.port }.to_string()
    }

    /// As a certificate may name it.
    pub fn host_without_zone(&self) -> &str {
        self.host.split('%').next().unwrap_or_default()
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(format!("with {text:?}, which is not a port: use 1 to 65535")),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("without a host: write it like host:50050".into());
    }
    if host.len() > HOST_MAX {
        return Err(format!("with a host name of {} characters: at most {HOST_MAX} are allowed", host.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match host.chars().find(|c| !allowed(*c)) {
        Some(bad) => Err(format!("with {bad:?} in the host name: use letters, digits, '.', '-' and '_'")),
        None => Ok(()),
    }
}

/// Checks what the master shows as an agent's address: a host, with or without a port.
pub(super) fn check_report_address(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_string());
    }
    MasterAddress::parse(text).map(|_| text.to_string())
}

/// Reads an IP address to listen on, an IPv6 one with or without brackets.
pub(super) fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "not an IP address: write it like 0.0.0.0, 192.168.1.16 or ::".to_string())
}

/// Checks a name of an agent.
pub fn check_name(text: &str) -> Result<String, String> {
    const RULE: &str = "use 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit";
    let wrong = if text.is_empty() {
        "empty".to_string()
    } else if let Some(bad) = text.chars().find(|c| !name_char(*c)) {
        match bad {
            ' ' => "with a space in it".to_string(),
            '\n' => "with a line break in it".to_string(),
            bad => format!("with {bad:?} in it"),
        }
    } else if text.len() > NAME_MAX {
        "too long".to_string()
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "with a first character that is neither letter nor digit".to_string()
    } else {
        return Ok(text.to_string());
    };
    Err(format!("{wrong}: {RULE}"))
}

fn name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A host name made to fit the rule of [`check_name`].
pub(super) fn name_from_host(host: &str) -> String {
    let name: String = host.trim().chars().map(|c| if name_char(c) { c } else { '-' }).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    // All of it is ASCII by now.
    let name = &name[..name.len().min(NAME_MAX)];
    if name.is_empty() { "agent".to_string() } else { name.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_form_are_read() {
        for (text, host, port) in [
            ("localhost", "localhost", 50050),
            ("192.168.1.15:6000", "192.168.1.15", 6000),
            ("[::1]", "::1", 50050),
            ("[fe80::1%eth0]:7", "fe80::1%eth0", 7),
            ("node_1.example.com:65535", "node_1.example.com", 65535),
        ] {
            assert_eq!(MasterAddress::parse(text), Ok(MasterAddress { host: host.into(), port }), "{text}");
        }
    }

    #[test]
    fn a_zone_is_for_this_host_alone() {
        for (text, authority) in
            [("[fe80::1%eth0]:7", "[fe80::1]:7"), ("[::1]:7", "[::1]:7"), ("node_1", "node_1:50050")]
        {
            assert_eq!(MasterAddress::parse(text).unwrap().authority(), authority);
            assert!(authority.parse::<http::uri::Authority>().is_ok(), "{authority}");
        }
    }

    #[test]
    fn bad_addresses_say_how_to_write_them() {
        for (text, fragment) in [
            ("", "empty: write it like host:50050"),
            (":50050", "without a host: write it like host:50050"),
            ("::1", "an IPv6 address without brackets: write [::1]:50050"),
            ("::g:1", "ambiguous: put an IPv6 address in brackets, like [::1]:50050"),
            ("[::1", "without its closing bracket: write it like [::1]:50050"),
            ("[host]:1", "not an IPv6 address in its brackets: write it like [::1]:50050"),
            ("[::1]x", "not an address: after the bracket comes a colon and the port"),
            ("host:0", "with \"0\", which is not a port: use 1 to 65535"),
            ("host:+1", "with \"+1\", which is not a port: use 1 to 65535"),
            ("host:", "with \"\", which is not a port: use 1 to 65535"),
            ("host:65536", "with \"65536\", which is not a port: use 1 to 65535"),
            ("http://host:1/", "a URL: write host:1"),
            ("a host", "with ' ' in the host name: use letters, digits, '.', '-' and '_'"),
        ] {
            assert_eq!(MasterAddress::parse(text), Err(fragment.to_string()), "{text}");
        }
    }

    #[test]
    fn any_host_name_becomes_a_name_that_is_allowed() {
        for host in ["node1", "node1.example.com", "Küche", "-x-", "", "..", "a b\n", &"h".repeat(300)] {
            let name = name_from_host(host);
            assert_eq!(check_name(&name), Ok(name.clone()), "{host}");
        }
        assert_eq!(name_from_host("my host"), "my-host");
        assert_eq!(name_from_host("(none)"), "none");
    }

    #[test]
    fn names_that_would_leave_the_state_directory_are_refused() {
        for name in ["..", ".", "a/b", "-rf", "../x"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
