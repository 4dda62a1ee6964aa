//! Who a request says that it is for.
//!
//! A page from elsewhere, open in a browser of this host, can have its own name point to this host, and read what is
//! served here. Its name betrays it.

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header::HOST},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::net::IpAddr;

/// Lets requests pass that are for a loopback address, or for none.
pub async fn only_local(request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or("?"));
    if host.is_none_or(is_local) {
        return next.run(request).await;
    }
    let text = "This address answers only for localhost: a proxy before it must send \"Host: localhost\"\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_local() {
        for host in ["localhost", "LocalHost:50080", "127.0.0.1:1", "127.9.9.9", "[::1]:50080", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:50080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "?",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
