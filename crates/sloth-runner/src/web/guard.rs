//! What stands before the page: for whom a request is, from where it comes, and who has signed in.

use super::{
    Web, host,
    places::Known,
    session::{self, Hash, Session},
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Version,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{net::SocketAddr, sync::Arc};

/// The page's own half of a session.
pub const KEY: HeaderName = HeaderName::from_static("sloth-key");

/// Nothing but our own files; no script or style in the page itself, no frame around it, no text taken for markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Both ends of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

/// Who looks: an extension of every request behind [`signed_in`].
#[derive(Clone, Debug)]
pub struct Looker {
    pub hash: Hash,
    pub session: Session,
}

/// Lets requests pass that say for whom they are, as HTTP/1.1 wants it (RFC 9112, section 3.2).
pub async fn named(request: Request<Body>, next: Next) -> Response {
    if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
        return (StatusCode::BAD_REQUEST, "A request of HTTP/1.1 has a header \"Host\"\n").into_response();
    }
    next.run(request).await
}

/// Lets requests pass that are for this host.
pub async fn for_us(
    State(web): State<Arc<Web>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
    next: Next,
) -> Response {
    match host::is_for_us(request.headers(), Some(peer.local.ip()), &web.hosts) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets requests pass that our own page sent, or no browser.
pub async fn from_us(request: Request<Body>, next: Next) -> Response {
    match host::is_from_us(request.headers(), request.method()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets requests pass of those who have signed in.
pub async fn signed_in(State(web): State<Arc<Web>>, mut request: Request<Body>, next: Next) -> Response {
    match looker(&web, request.headers()) {
        Some(looker) => {
            if let Some(known) = request.extensions().get::<Known>() {
                known.set();
            }
            request.extensions_mut().insert(looker);
            next.run(request).await
        }
        None => refuse(StatusCode::UNAUTHORIZED, "sign in first"),
    }
}

/// Who has signed in, if he has. Of several cookies of our name, which a neighbour may have set, any may be ours.
pub fn looker(web: &Web, headers: &HeaderMap) -> Option<Looker> {
    let key = headers.get(KEY)?.to_str().ok()?;
    let name = cookie_name(web.port);
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let ours = cookies.flat_map(|value| value.split(';')).filter_map(|pair| {
        let (found, value) = pair.trim().split_once('=')?;
        (found == name).then_some(value)
    });
    ours.take(8).find_map(|cookie| {
        let hash = session::hash(cookie, key);
        web.session(&hash).map(|session| Looker { hash, session })
    })
}

pub fn cookie_name(port: u16) -> String {
    format!("sloth_session_{port}")
}

/// The headers of every answer of the page.
pub async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let all = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("these types have string keys and no failing parts");
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

#[derive(Serialize)]
struct Refused<'a> {
    error: &'a str,
}

pub fn refuse(status: StatusCode, error: &str) -> Response {
    json(status, &Refused { error })
}

/// What the master's calls answer, as HTTP has it.
pub fn status(status: &tonic::Status) -> Response {
    let code = match status.code() {
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
        tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(code, status.message())
}
