//! Where a webhook goes: a URL, as far as one is of use here.

use std::fmt;

/// An `http://` or `https://` URL without user and fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// # Errors
    /// A fragment that reads after "is …, ", with the remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "not a URL: write it like https://example.com/hook".to_owned();
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err("with a user in it, which is not sent: let the receiver check the signature instead".to_owned());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') {
            return Err(wrong());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (authority, if tls { 443 } else { 80 }),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || port == 0 || (bare.contains(':') && bare == host) {
            return Err(wrong());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { tls, host: bare.to_owned(), port, path })
    }

    /// As it stands in `Host`.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Without path and query, which may hold what others should not know.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/…", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, tls, host, port, path, authority) in [
            ("http://a", false, "a", 80, "/", "a"),
            ("https://a.b/c?d=e", true, "a.b", 443, "/c?d=e", "a.b"),
            ("https://a:8443/c/", true, "a", 8443, "/c/", "a:8443"),
            ("http://[::1]:8080?x", false, "::1", 8080, "/?x", "[::1]:8080"),
            ("http://[::1]/", false, "::1", 80, "/", "[::1]"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.tls, target.host.as_str(), target.port, target.path.as_str()), (tls, host, port, path));
            assert_eq!(target.authority(), authority);
        }
    }

    #[test]
    fn what_is_none_is_refused_and_secrets_in_it_are_not_shown() {
        for text in [
            "",
            "ftp://x",
            "http://",
            "https:///x",
            "http://a b",
            "http://a:x",
            "http://a:0",
            "http://::1/",
            "http://a/#b",
            "http://é",
        ] {
            assert!(Target::parse(text).unwrap_err().starts_with("not a URL"), "{text}");
        }
        assert!(Target::parse("https://u:p@a/").unwrap_err().contains("user"));
        let shown = format!("{:?}", Target::parse("https://a/hook/s3cret?k=s3cret").unwrap());
        assert_eq!(shown, "https://a/…");
    }
}
