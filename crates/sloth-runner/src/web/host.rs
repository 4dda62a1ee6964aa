//! Who a request says that it is for, and which page sent it.
//!
//! A page from elsewhere, open in a browser of this host, can have its own name point to this host, and read what is
//! served here: its name betrays it. And it can send requests here under our name: browsers say from where. Pure.

use axum::http::{
    HeaderMap, Method, StatusCode,
    header::{HOST, HeaderName, ORIGIN},
};
use std::net::IpAddr;

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What to answer instead.
pub type Refusal = (StatusCode, &'static str);

/// Whether a request is for a loopback address, for `own`, for one of `hosts`, or for none.
///
/// # Errors
/// It is for another.
pub fn is_for_us(headers: &HeaderMap, own: Option<IpAddr>, hosts: &[String]) -> Result<(), Refusal> {
    let mut named = headers.get_all(HOST).iter();
    let host = named.next().map(|host| host.to_str().unwrap_or("?"));
    if named.next().is_none() && host.is_none_or(|host| is_known(host, own, hosts)) {
        return Ok(());
    }
    const TEXT: &str = "This address answers only for this host: a proxy before it must send \"Host: localhost\", or its \
                        name must stand in http.hosts\n";
    Err((StatusCode::MISDIRECTED_REQUEST, TEXT))
}

/// Whether our own page sent it, or no browser. What changes something must say so.
///
/// # Errors
/// Another page did.
pub fn is_from_us(headers: &HeaderMap, method: &Method) -> Result<(), Refusal> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(&HOST).unwrap_or_default();
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let ours = |origin: &str| {
        let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        named.is_some_and(|named| !named.is_empty() && named.eq_ignore_ascii_case(host))
    };
    match (text(&ORIGIN), text(&SITE)) {
        (Some(origin), _) if !ours(origin) => Err((StatusCode::FORBIDDEN, "Another page sent this\n")),
        // A neighbour on another port is of the same site.
        (_, Some(site)) if !["same-origin", "none"].contains(&site) => {
            Err((StatusCode::FORBIDDEN, "Another page sent this\n"))
        }
        (None, _) if !reads => Err((StatusCode::FORBIDDEN, "The page that sends this must be named (Origin)\n")),
        _ => Ok(()),
    }
}

fn is_known(host: &str, own: Option<IpAddr>, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let address = bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    name.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|ip| ip.is_loopback() || own.is_some_and(|own| own.to_canonical() == ip))
        || hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_names_of_this_host_and_those_of_the_configuration_are_known() {
        let own = Some("10.1.1.1".parse().unwrap());
        let hosts = ["sloth.example.org".to_owned()];
        for host in [
            "localhost",
            "LocalHost:50080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:50080",
            "[::1]",
            "10.1.1.1:80",
            "Sloth.example.org",
            "sloth.example.org:443",
        ] {
            assert!(is_known(host, own, &hosts), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:50080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "sloth.example.org.evil.example",
            "?",
        ] {
            assert!(!is_known(host, own, &hosts), "{host}");
        }
    }

    #[test]
    fn a_request_that_names_two_hosts_is_for_nobody() {
        let mut two = headers(&[(HOST, "localhost")]);
        assert!(is_for_us(&two, None, &[]).is_ok() && is_for_us(&HeaderMap::new(), None, &[]).is_ok());
        two.append(HOST, "localhost".parse().unwrap());
        assert_eq!(is_for_us(&two, None, &[]).unwrap_err().0, StatusCode::MISDIRECTED_REQUEST);
    }

    #[test]
    fn a_page_from_elsewhere_or_of_another_port_is_told_from_ours() {
        let host = (HOST, "127.0.0.1:50080");
        let from = |origin: Option<&str>, site: Option<&str>, method: Method| {
            let origin = origin.map(|value| (ORIGIN, value));
            let site = site.map(|value| (SITE, value));
            let given: Vec<_> = [Some(host.clone()), origin, site].into_iter().flatten().collect();
            is_from_us(&headers(&given), &method).is_ok()
        };
        let ours = Some("http://127.0.0.1:50080");
        assert!(from(None, None, Method::GET), "no browser");
        assert!(from(None, Some("same-origin"), Method::GET));
        assert!(from(ours, Some("same-origin"), Method::POST) && from(ours, None, Method::DELETE));
        assert!(from(Some("https://127.0.0.1:50080"), None, Method::POST), "a proxy with TLS");
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:9999",
            "http://127.0.0.1",
            "null",
            "",
            "http://",
            "127.0.0.1:50080",
        ] {
            assert!(!from(Some(origin), None, Method::GET), "{origin}");
        }
        for site in ["cross-site", "same-site", "?"] {
            assert!(!from(None, Some(site), Method::GET), "{site}");
        }
        assert!(!from(None, None, Method::POST) && !from(None, Some("none"), Method::DELETE));
    }
}
