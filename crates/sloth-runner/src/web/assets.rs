//! The page itself: files in the program, the same for everybody.

use axum::{
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};

pub async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("assets/page.html"))
}

pub async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("assets/page.css"))
}

pub async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("assets/page.js"))
}

pub async fn icon() -> Response {
    file("image/svg+xml", include_str!("assets/icon.svg"))
}

/// Asked for anew each time: after an update no page of the old version stays.
fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text).into_response()
}
