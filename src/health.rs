//! The agent's own port: the standard gRPC health service, and nothing else.
//!
//! The service `""` is SERVING while the link is Active, NOT_SERVING otherwise: a command would not get through.
//! `liveness` is SERVING as long as the process answers: for supervisors that restart what is not healthy, which
//! would not help an agent whose master is away.

use crate::places::Places;
use futures_core::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::health::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::{Request, Response, Status};
use tower_service::Service;

/// Connections served at a time: this port is for a probe or two. A further one takes the place of the oldest.
const CONNECTIONS: usize = 16;

/// Longest request, bytes: the name of a service.
const REQUEST_MAX: usize = 1024;

/// The service that says whether the process lives.
const LIVENESS: &str = "liveness";

/// Serves until the runtime ends. `active` says whether the link is Active.
pub async fn serve(listener: TcpListener, active: watch::Receiver<bool>) {
    let mut places = Places::new("on the agent's port", CONNECTIONS);
    loop {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        places.take(accepted, |stream| connection(stream, Checker { active: active.clone() })).await;
    }
}

async fn connection(stream: TcpStream, checker: Checker) {
    let server = HealthServer::new(checker).max_decoding_message_size(REQUEST_MAX);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::health::health_client::HealthClient;
    use std::{net::SocketAddr, time::Duration};
    use tokio::time::timeout;
    use tonic::{
        Code,
        transport::{Channel, Endpoint},
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn served() -> (SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (active, is_active) = watch::channel(false);
        tokio::spawn(serve(listener, is_active));
        (address, active)
    }

    async fn client(address: SocketAddr) -> HealthClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        HealthClient::new(timeout(PATIENCE, endpoint.connect()).await.unwrap().unwrap())
    }

    async fn check(client: &mut HealthClient<Channel>, service: &str) -> Result<ServingStatus, Code> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = timeout(PATIENCE, client.check(request)).await.unwrap();
        answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
    }

    #[tokio::test]
    async fn an_agent_whose_master_is_away_lives_and_does_not_serve() {
        let (address, active) = served().await;
        let mut client = client(address).await;
        assert_eq!(check(&mut client, "").await, Ok(ServingStatus::NotServing));
        assert_eq!(check(&mut client, LIVENESS).await, Ok(ServingStatus::Serving));
        assert_eq!(check(&mut client, "other").await, Err(Code::NotFound));
        let watch = HealthCheckRequest::default();
        let mut changes = client.watch(watch).await.unwrap().into_inner();
        for expected in [ServingStatus::NotServing, ServingStatus::Serving, ServingStatus::NotServing] {
            let change = timeout(PATIENCE, changes.message()).await.unwrap().unwrap().unwrap();
            assert_eq!(change.status(), expected);
            active.send_modify(|active| *active = !*active);
        }
    }

    #[tokio::test]
    async fn connections_that_say_nothing_do_not_shut_a_probe_out() {
        let (address, _active) = served().await;
        let mut silent = Vec::new();
        for _ in 0..3 * CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(check(&mut client(address).await, LIVENESS).await, Ok(ServingStatus::Serving));
    }

    #[tokio::test]
    async fn a_long_request_is_refused_before_it_is_read() {
        let (address, _active) = served().await;
        let long = "x".repeat(1 << 20);
        assert_eq!(check(&mut client(address).await, &long).await, Err(Code::OutOfRange));
    }
}
