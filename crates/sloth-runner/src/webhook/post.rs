//! One request of HTTP/1.1, on a connection of its own.

use super::Target;
use axum::body::Body;
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use ring::hmac;
use rustls::{ClientConfig, crypto::ring as provider};
use rustls_pki_types::ServerName;
use sloth_agent::{
    config::{Tls, describe},
    state::hex,
    transport::tls::roots,
};
use std::{path::PathBuf, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// What the receiver said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Taken,
    /// This event will never be taken: sending it again is of no use.
    Refused(u16),
    NotNow(u16),
}

/// Sends events to one place.
pub struct Post {
    target: Target,
    key: Option<hmac::Key>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Post {
    /// Reads the certificates that are trusted, which may block. `secret`: what bodies are signed with.
    ///
    /// # Errors
    /// For people: whom to trust cannot be read.
    pub fn new(target: Target, secret: Option<Vec<u8>>, ca_file: Option<PathBuf>) -> Result<Self, String> {
        let tls = if target.tls { Some(connector(&target, ca_file)?) } else { None };
        let key = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, &secret));
        Ok(Self { target, key, tls })
    }

    /// Has no time limit of its own.
    ///
    /// # Errors
    /// For people: there was no answer.
    pub async fn send(&self, id: &str, kind: &str, body: &str) -> Result<Answer, String> {
        let Target { host, port, .. } = &self.target;
        let connected = TcpStream::connect((host.as_str(), *port)).await;
        let stream = connected.map_err(|error| format!("cannot connect to {host}:{port}: {}", describe(&error)))?;
        let request = self.request(id, kind, body);
        let status = match &self.tls {
            None => exchange(stream, request).await?,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                exchange(stream.map_err(|error| format!("TLS with {host}:{port} failed: {error}"))?, request).await?
            }
        };
        Ok(match status {
            status if status.is_success() => Answer::Taken,
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Answer::Refused(status.as_u16())
            }
            status => Answer::NotNow(status.as_u16()),
        })
    }

    fn request(&self, id: &str, kind: &str, body: &str) -> Request<Body> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.target.path)
            .header(header::HOST, self.target.authority())
            .header(header::USER_AGENT, concat!("sloth-runner/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .header(header::CONNECTION, "close")
            .header("sloth-event", kind)
            .header("sloth-delivery", id);
        if let Some(key) = &self.key {
            request = request.header("sloth-signature", signature(key, body));
        }
        request.body(Body::from(body.to_owned())).expect("a URL that was checked, and words of our own")
    }
}

/// `sha256=` and HMAC-SHA256 of the body, in hex.
fn signature(key: &hmac::Key, body: &str) -> String {
    let tag = hmac::sign(key, body.as_bytes());
    format!("sha256={}", hex(tag.as_ref()))
}

/// The answer's body is of no interest: the connection is closed before it.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, request: Request<Body>) -> Result<StatusCode, String> {
    let failed = |error: hyper::Error| format!("the request failed: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer.map(|answer| answer.status()).map_err(failed),
        // It may have brought the answer on its way.
        _ = &mut connection => answer.await.map(|answer| answer.status()).map_err(failed),
    }
}

fn connector(target: &Target, ca_file: Option<PathBuf>) -> Result<(TlsConnector, ServerName<'static>), String> {
    let tls = Tls { ca_file, cert_file: None, key_file: None, server_name: None };
    let roots = roots(&tls).map_err(|unusable| format!("events.webhook.ca_file {}", unusable.text))?;
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| format!("events.webhook.url: {} is no name that a certificate can have", target.host))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_signed_as_the_standard_says() {
        // RFC 4231, test case 2.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        assert_eq!(
            signature(&key, "what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
