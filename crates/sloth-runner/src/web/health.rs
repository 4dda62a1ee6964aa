//! Does it live, and would it serve?

use crate::master::Core;
use axum::{extract::State, http::StatusCode};
use std::sync::Arc;

/// The process lives, and its runtime works.
pub async fn lives() -> &'static str {
    "ok\n"
}

/// Agents and operators would be served: 503 with the reason otherwise.
pub async fn ready(State(core): State<Arc<Core>>) -> (StatusCode, String) {
    let unready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why + "\n");
    if *core.ending.borrow() {
        return unready("the master is shutting down".to_owned());
    }
    match core.meters.counts().store_failure {
        Some(why) => unready(format!("the store failed: {why}")),
        None => (StatusCode::OK, "ready\n".to_owned()),
    }
}
