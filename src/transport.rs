//! One HTTP/2 connection to a master, and nothing that reconnects by itself.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// What the generated clients call: hyper's HTTP/2 sender, without tonic's `Channel`. Clones share the connection.
#[derive(Clone)]
pub struct Connection {
    sender: hyper::client::conn::http2::SendRequest<tonic::body::Body>,
}

#[cfg(test)]
impl Connection {
    pub fn new(sender: hyper::client::conn::http2::SendRequest<tonic::body::Body>) -> Self {
        Self { sender }
    }
}

/// The session's client.
pub type Client = proto::agent_registry_client::AgentRegistryClient<Connection>;

impl tower_service::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
