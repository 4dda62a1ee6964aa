//! Where the master is.

use std::{fmt, net::Ipv6Addr};

/// Names the master when `--master` does not.
pub const VARIABLE: &str = "SLOTH_RUNNER_MASTER_ADDR";
const DEFAULT_PORT: u16 = 50050;

/// Host and port, not yet resolved. IPv6 literals are kept without their brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// `--master`, else the variable, else `localhost:50050`. An empty variable counts as none.
    ///
    /// # Errors
    /// What is wrong and where it was written, for people.
    pub fn choose(flag: Option<&str>, variable: Option<&str>) -> Result<Self, String> {
        match (flag, variable.filter(|text| !text.is_empty())) {
            (Some(text), _) => Self::parse(text).map_err(|why| format!("--master {text:?}: {why}")),
            (None, Some(text)) => Self::parse(text).map_err(|why| format!("{VARIABLE}={text:?}: {why}")),
            (None, None) => Ok(Self { host: "localhost".to_owned(), port: DEFAULT_PORT }),
        }
    }

    /// Reads `host`, `host:port`, `[::1]:port`, `[::1]` or `::1`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err("write host:port, without a scheme".to_owned());
        }
        let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or("the closing bracket is missing")?;
            host.parse::<Ipv6Addr>().map_err(|_| "what stands in brackets is no IPv6 address".to_owned())?;
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return Err("write [address]:port".to_owned()),
            }
        } else {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            if host.is_empty() || host.len() > 253 || !host.bytes().all(good) {
                return Err("write host:port; an IPv6 address with a port stands in brackets".to_owned());
            }
            (host, port)
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("the port is a number from 1 to 65535")?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, shown) in [
            ("node", "node:50050"),
            ("node:1", "node:1"),
            ("10.0.0.1:50051", "10.0.0.1:50051"),
            ("::1", "[::1]:50050"),
            ("[::1]", "[::1]:50050"),
            ("[fe80::2]:50051", "[fe80::2]:50051"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
        for bad in
            ["", ":50050", "a b", "a:", "a:0", "a:70000", "a:b:c", "[::1", "[::1]50050", "[node]:1", "http://a:1"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_errors_name_their_place() {
        assert_eq!(Address::choose(Some("a"), Some("b")).unwrap().host, "a");
        assert_eq!(Address::choose(None, Some("b:1")).unwrap().to_string(), "b:1");
        assert_eq!(Address::choose(None, Some("")).unwrap().to_string(), "localhost:50050");
        assert!(
            Address::choose(None, Some("b:x")).unwrap_err().starts_with("SLOTH_RUNNER_MASTER_ADDR=\"b:x\": the port")
        );
    }
}
