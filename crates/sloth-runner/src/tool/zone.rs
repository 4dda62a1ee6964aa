//! Connections to link-local IPv6 addresses such as `[fe80::1%eth0]:50050`: a URI has no place for their zone, so what
//! connects by the URI alone would go nowhere.

use super::address::Address;
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::net::TcpStream;

/// Connects to one address, whatever the URI says.
#[derive(Clone, Debug)]
pub struct Zoned(Address);

impl Zoned {
    /// None: the address has no zone.
    pub fn of(address: &Address) -> Option<Self> {
        address.host.contains('%').then(|| Self(address.clone()))
    }
}

impl tower_service::Service<http::Uri> for Zoned {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let Address { host, port } = self.0.clone();
        Box::pin(async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}
