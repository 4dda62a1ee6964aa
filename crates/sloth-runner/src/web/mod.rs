//! What the master serves over HTTP: `/metrics`, `/healthz` and `/readyz` to whoever reaches the port, and the web page
//! to those who have signed in.
//!
//! All of it is to look at: nothing here changes anything but who is signed in.

mod agent;
mod assets;
pub mod code;
mod events;
mod guard;
mod health;
mod host;
mod list;
mod metrics;
mod output;
mod places;
mod session;
mod sign_in;
mod stray;
mod text;

use crate::{
    bucket::Lines,
    clock::sleep,
    listen::{
        Open, Why,
        places::{Limits, Source},
    },
    master::Core,
};
use axum::{Extension, Router, middleware, routing::get};
use code::Codes;
use guard::Peer;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use places::{Known, Places, Reading};
use session::Sessions;
use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections at once; a further one takes the place of the oldest over which nobody has signed in, or waits. Of 100
/// open files that are kept for others than agents, two thirds.
const CONNECTIONS_MAX: usize = 64;
/// … of one address, where it is not this machine: behind that may be a proxy, which speaks for many.
const CONNECTIONS_EACH: Limits = Limits { each: 48, unknown_each: usize::MAX };
/// Of these, pages that follow events: the others are for requests.
const STREAMS_MAX: usize = 32;
/// A client that has not sent its request by then is closed, and so is one that is idle for so long.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(20);
/// A client that takes nothing of an answer for so long is closed, whoever it is.
const READS_TIMEOUT: Duration = Duration::from_secs(30);
/// The connection of somebody who has not signed in ends after this: he may make another one.
const STRANGER_MAX: Duration = Duration::from_secs(300);
/// After an error of `accept`, as at the limit of open files.
const PAUSE: Duration = Duration::from_millis(500);

/// The role that a token has, if it lets somebody look: `viewer` or `operator`.
pub type Admit = Arc<dyn Fn(&str) -> Option<&'static str> + Send + Sync>;

/// Where it is served, and to whom.
pub struct Http {
    pub listener: TcpListener,
    /// Names under which a proxy passes requests on, besides those of this host.
    pub hosts: Vec<String>,
    pub codes: Codes,
    /// None: there are no tokens.
    pub admit: Option<Admit>,
}

/// What the page's handlers share.
struct Web {
    core: Arc<Core>,
    hosts: Vec<String>,
    codes: Codes,
    admit: Option<Admit>,
    sessions: Mutex<Sessions>,
    /// Lines of the log about those who were not signed in.
    refusals: Mutex<Lines>,
    streams: Arc<Semaphore>,
    /// Held by who looks through the whole fleet: one at a time.
    scan: Semaphore,
    /// Cookies are named after it: browsers keep those of all ports of a host together.
    port: u16,
}

impl Web {
    fn now(&self) -> Duration {
        self.core.now().monotonic
    }

    /// The session, if it still lasts and what let it in still would.
    fn session(&self, hash: &session::Hash) -> Option<session::Session> {
        let sessions = || self.sessions.lock().expect("no holder of this lock panics");
        let found = sessions().find(self.now(), hash)?;
        let admitted = match (&found.token, &self.admit) {
            (None, _) => true,
            (Some(token), Some(admit)) => admit(token).is_some(),
            (Some(_), None) => false,
        };
        if !admitted {
            sessions().close(hash);
        }
        admitted.then_some(found)
    }
}

/// Everything that is served. What is added to `open` is there for whoever reaches the port, what is added to `looking`
/// for who has signed in; nothing may be added that changes anything.
fn router(core: Arc<Core>, web: Arc<Web>, loopback: bool) -> Router {
    let open = Router::new()
        .route("/metrics", get(metrics::serve))
        .route("/healthz", get(health::lives))
        .route("/readyz", get(health::ready))
        .with_state(core);
    let local = middleware::from_fn_with_state(web.clone(), guard::for_us);
    let open = if loopback { open.layer(local) } else { open };
    let looking = Router::new()
        .route("/api/fleet", get(list::serve))
        .route("/api/agents/{id}", get(agent::serve))
        .route("/api/agents/{id}/commands", get(agent::commands))
        .route("/api/commands/{id}/output", get(output::serve))
        .route("/api/events", get(events::serve))
        .route_layer(middleware::from_fn_with_state(web.clone(), guard::signed_in));
    let data = looking
        .route("/api/session", get(sign_in::look).post(sign_in::sign_in).delete(sign_in::sign_out))
        .route_layer(middleware::from_fn(guard::from_us));
    let page = Router::new()
        .route("/", get(assets::page))
        .route("/page.css", get(assets::style))
        .route("/page.js", get(assets::script))
        .route("/icon.svg", get(assets::icon))
        .merge(data)
        .layer(middleware::from_fn_with_state(web.clone(), guard::for_us))
        .layer(middleware::map_response(guard::harden))
        .with_state(web);
    open.merge(page).layer(middleware::from_fn(guard::named))
}

/// Serves until the task is dropped.
pub async fn serve(core: Arc<Core>, http: Http) {
    let Http { listener, hosts, codes, admit } = http;
    let address = listener.local_addr().ok();
    let loopback = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
    let web = Arc::new(Web {
        core: core.clone(),
        hosts,
        codes,
        admit,
        sessions: Mutex::default(),
        refusals: Mutex::new(Lines::of_log(Duration::ZERO)),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        scan: Semaphore::new(1),
        port: address.map_or(0, |address| address.port()),
    });
    let (counted, open) = (core.open_connections(), Open::default());
    let router = router(core, web, loopback);
    let mut places = Places::new(CONNECTIONS_MAX);
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::debug!("cannot accept an HTTP connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(local) = stream.local_addr() else { continue }; // it is closed already
        let source = Source::of(remote.ip());
        let each = if remote.ip().to_canonical().is_loopback() { Limits::NONE } else { CONNECTIONS_EACH };
        let Ok(of_address) = open.take(source, each) else {
            counted.add_closed(Why::Web);
            log::debug!("another HTTP connection of {source} is closed: it has {}", CONNECTIONS_EACH.each);
            continue;
        };
        let known = Known::default();
        let extensions = (Extension(Peer { remote, local }), Extension(known.clone()));
        let service = TowerToHyperService::new(router.clone().layer(extensions.0).layer(extensions.1));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .serve_connection(TokioIo::new(Reading::new(stream, READS_TIMEOUT)), service);
        places.free().await;
        places.take(known.clone(), async move {
            let _counted = of_address;
            loop {
                tokio::select! {
                    ended = &mut connection => {
                        // A client that breaks off is none of our business.
                        if ended.is_err_and(|error| error.is_parse()) {
                            let parts = connection.into_parts();
                            stray::answer(parts.io.into_inner(), &parts.read_buf).await;
                        }
                        return;
                    }
                    () = sleep(STRANGER_MAX) => {}
                }
                if !known.is_set() {
                    // What is being answered is, if it is read in time.
                    Pin::new(&mut connection).graceful_shutdown();
                    let _ = tokio::time::timeout(READS_TIMEOUT, connection).await;
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::access::{Who, decide};

    /// The page asks in the place of whoever has signed in, past the table: so the table must let them.
    #[test]
    fn whoever_may_look_at_the_page_may_make_the_calls_behind_it() {
        for call in ["List", "Get", "Explain", "Events", "ListCommands", "GetCommand", "Logs"] {
            for who in [Who::Viewer, Who::Operator] {
                assert!(decide(&format!("/agent.Fleet/{call}"), who).is_ok(), "{who:?} {call}");
            }
        }
    }
}
