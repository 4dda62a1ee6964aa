//! Signing in, by a token or by a one-time code, and out.

use super::{
    Web, code,
    guard::{self, Peer, json, refuse},
    session,
};
use crate::access::{self, Caller, Who};
use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, ORIGIN, SET_COOKIE},
    },
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use sloth_agent::state::hex;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tonic::Status;

/// A token has some 120 bytes.
const BODY_MAX: usize = 4096;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Shown {
    Token(String),
    Code(String),
}

/// What the page must know before and after.
#[derive(Serialize)]
struct Standing<'a> {
    role: Option<&'a str>,
    /// Whether there are tokens to sign in with.
    tokens: bool,
    /// How the master calls itself, for those who have signed in.
    master: Option<&'a str>,
    version: Option<&'a str>,
}

#[derive(Serialize)]
struct Admitted {
    role: &'static str,
    key: String,
}

pub async fn look(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    let looker = guard::looker(&web, &headers);
    let standing = Standing {
        role: looker.as_ref().map(|looker| looker.session.role),
        tokens: web.admit.is_some(),
        master: looker.as_ref().map(|_| web.core.name()),
        version: looker.as_ref().map(|_| env!("CARGO_PKG_VERSION")),
    };
    json(StatusCode::OK, &standing)
}

pub async fn sign_in(
    State(web): State<Arc<Web>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    // No form of another page can say so.
    if headers.get(CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json");
    }
    let body = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_MAX)).await;
    let shown = body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice::<Shown>(&body).ok());
    let Some(shown) = shown else { return refuse(StatusCode::BAD_REQUEST, "send a token or a code") };
    let secure = headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let from = peer.remote.ip().to_canonical();
    if matches!(shown, Shown::Token(_)) && !secure && !from.is_loopback() {
        const TEXT: &str = "a token is not taken over plain HTTP from another machine, where it could be read on the \
                            way: put a proxy with TLS before this, or use a tunnel; and revoke the token";
        return refuse(StatusCode::FORBIDDEN, TEXT);
    }
    // However often somebody fails: a token has 256 random bits and a code 128 that only its key makes, so there is nothing
    // to be slowed down, and whoever were kept waiting would be everybody behind the same proxy.
    let (role, token) = match shown {
        Shown::Code(code) => (web.codes.redeem(web.core.now(), &code).then_some("viewer"), None),
        Shown::Token(token) => (web.admit.as_ref().and_then(|admit| admit(&token)), Some(token)),
    };
    let Some(role) = role else {
        let wrong = what_is_wrong(&web, token.is_some());
        refused(&web, token.as_deref(), peer.remote, wrong);
        if let Some(before) = web.refusals.lock().expect("no holder of this lock panics").written(web.now()) {
            log::warn!("Web page: nobody was signed in from {from}: {wrong}{before}");
        }
        return refuse(StatusCode::UNAUTHORIZED, wrong);
    };
    let secrets = code::random::<32>().and_then(|cookie| Ok((hex(&cookie), hex(&code::random::<32>()?))));
    let Ok((cookie, key)) = secrets else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the kernel gives no random numbers");
    };
    let hash = session::hash(&cookie, &key);
    let caller = caller(&web, role, token.as_deref(), peer.remote);
    web.sessions.lock().expect("no holder of this lock panics").open(web.now(), hash, role, token);
    if web.core.audit_coming(&caller, "audit.signed_in", "signed in to the web page") {
        log::info!("Web page: a session of role {role} was opened from {from}");
    }
    let mut response = json(StatusCode::OK, &Admitted { role, key });
    response.headers_mut().insert(SET_COOKIE, set_cookie(web.port, &cookie, session::LIFE, secure));
    response
}

pub async fn sign_out(State(web): State<Arc<Web>>, Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    if let Some(looker) = guard::looker(&web, &headers) {
        web.sessions.lock().expect("no holder of this lock panics").close(&looker.hash);
        let caller = caller(&web, looker.session.role, looker.session.token.as_deref(), peer.remote);
        web.core.audit_coming(&caller, "audit.signed_out", "signed out of the web page");
    }
    (StatusCode::NO_CONTENT, [(SET_COOKIE, set_cookie(web.port, "", Duration::ZERO, false))]).into_response()
}

/// As whom the audit knows whoever signs in or out.
fn caller(web: &Web, role: &str, token: Option<&str>, remote: SocketAddr) -> Caller {
    let security = web.core.security.as_deref();
    let by_token = token.and_then(|token| access::caller(security, None, Some(token)).ok());
    let caller = by_token.unwrap_or_else(|| {
        let by = if token.is_some() { "a token" } else { "a one-time code" };
        Caller::new(security.map(|_| Who::Viewer), format!("{role} with {by}"), None)
    });
    Caller { address: Some(remote), ..caller }
}

fn refused(web: &Web, token: Option<&str>, remote: SocketAddr, why: &str) {
    let Some(security) = &web.core.security else { return };
    let nobody = Caller::new(Some(Who::Anonymous), "somebody without a credential".to_owned(), Some(remote));
    let caller = nobody.with_token(security, token.unwrap_or_default());
    security.refused(Some(&caller), None, "web page", &Status::unauthenticated(why));
}

fn what_is_wrong(web: &Web, token: bool) -> &'static str {
    match (token, web.admit.is_some()) {
        (true, true) => "this token does not let anybody look: it is unknown, of an agent, expired or revoked",
        (true, false) => "this master has no tokens: `sloth-runner master web` on its machine prints a link",
        (false, _) => {
            "this link was used already, or is older than two minutes: `sloth-runner master web` prints another"
        }
    }
}

fn set_cookie(port: u16, value: &str, life: Duration, secure: bool) -> HeaderValue {
    let (name, life) = (guard::cookie_name(port), life.as_secs());
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::try_from(text).expect("of letters, digits and these signs")
}
