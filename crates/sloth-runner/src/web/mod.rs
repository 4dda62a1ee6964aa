//! What the master serves over HTTP: `/metrics`, `/healthz` and `/readyz`, to whoever reaches the port.
//!
//! It is read only, and open without a credential; so by default nobody but this host reaches it, and what it says are
//! numbers and the names of agents that are away. Whatever shows more belongs behind a session of its own: see
//! [`router`].

mod health;
mod host;
mod metrics;
mod text;

use crate::{clock::sleep, master::Core};
use axum::{Router, middleware, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections at once; further ones wait. Of 100 open files that are kept for others than agents, two thirds.
const CONNECTIONS_MAX: usize = 64;
/// A client that has not sent its request by then is closed, and so is one that is idle for so long.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(20);
/// After an error of `accept`, as at the limit of open files.
const PAUSE: Duration = Duration::from_millis(500);

/// Everything that is served. What is added here is open to whoever reaches the port, unless it asks for a session
/// itself; nothing may be added that changes anything without one.
fn router(core: Arc<Core>, loopback: bool) -> Router {
    let open = Router::new()
        .route("/metrics", get(metrics::serve))
        .route("/healthz", get(health::lives))
        .route("/readyz", get(health::ready))
        .with_state(core);
    if loopback { open.layer(middleware::from_fn(host::only_local)) } else { open }
}

/// Serves until the task is dropped.
pub async fn serve(core: Arc<Core>, listener: TcpListener) {
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let router = router(core, loopback);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("nobody closes it");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::debug!("cannot accept an HTTP connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // A client that breaks off is none of our business.
            let _ = connection.await;
            drop(place);
        });
    }
}
