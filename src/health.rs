//! The agent's own port: the standard gRPC health service, and nothing else.
//!
//! The service `""` is SERVING while the link is Active, NOT_SERVING otherwise: a command would not get through.
//! `liveness` is SERVING as long as the process answers: for supervisors that restart what is not healthy, which
//! would not help an agent whose master is away.

use futures_core::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::health::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tonic::{Request, Response, Status};
use tower_service::Service;

/// Connections served at a time: this port is for a probe or two.
const CONNECTIONS: usize = 16;

/// The service that says whether the process lives.
const LIVENESS: &str = "liveness";

/// Serves until the runtime ends. `active` says whether the link is Active.
pub async fn serve(listener: TcpListener, active: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Checker { active: active.clone() }, permit));
            }
            // Out of descriptors, or a peer that left early: the next second may be better.
            Err(error) => {
                log::warn!("cannot accept on the agent's port: {error}");
                pause().await;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "no deadline: a pause after a failure of the system")]
async fn pause() {
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
}

async fn connection(stream: TcpStream, checker: Checker, _permit: OwnedSemaphorePermit) {
    let server = HealthServer::new(checker);
    let service = hyper::service::service_fn(move |request| server.clone().call(request));
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(8)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        log::debug!("a connection to the agent's port ended: {error}");
    }
}

#[derive(Clone)]
struct Checker {
    active: watch::Receiver<bool>,
}

impl Checker {
    fn status(&self, service: &str) -> Option<ServingStatus> {
        match service {
            "" if *self.active.borrow() => Some(ServingStatus::Serving),
            "" => Some(ServingStatus::NotServing),
            LIVENESS => Some(ServingStatus::Serving),
            _ => None,
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Checker {
    type WatchStream = Watch;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        let status = self.status(service).ok_or_else(|| Status::not_found(format!("no service `{service}` here")))?;
        Ok(Response::new(response(status)))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        let service = request.into_inner().service;
        Ok(Response::new(Watch { checker: self.clone(), service, last: None, changed: None }))
    }
}

type Changed = Pin<Box<dyn Future<Output = bool> + Send>>;

/// The status at once, then at each change.
struct Watch {
    checker: Checker,
    service: String,
    last: Option<ServingStatus>,
    changed: Option<Changed>,
}

impl Stream for Watch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let status = self.checker.status(&self.service).unwrap_or(ServingStatus::ServiceUnknown);
            if self.last != Some(status) {
                self.last = Some(status);
                return Poll::Ready(Some(Ok(response(status))));
            }
            let mut active = self.checker.active.clone();
            let changed = self.changed.get_or_insert_with(|| Box::pin(async move { active.changed().await.is_ok() }));
            match changed.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(false) => return Poll::Ready(None),
                // Mark the change as seen, or the clone above would see it again.
                Poll::Ready(true) => {
                    self.changed = None;
                    self.checker.active.borrow_and_update();
                }
            }
        }
    }
}
