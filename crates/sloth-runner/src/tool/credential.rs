//! Whom the tool trusts, and what it shows: a token, a CA, or nothing in plain mode.

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use sloth_agent::{
    config::{MasterAddress as Address, Tls},
    token::Token,
    transport::tls::{self, Connector},
};
use std::{
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

/// Holds the token when `--token` does not.
pub const TOKEN_VARIABLE: &str = "SLOTH_RUNNER_TOKEN";

/// Names the CA when `--ca` does not.
pub const CA_VARIABLE: &str = "SLOTH_RUNNER_CA";

/// How to talk to a master. Default: in the clear.
#[derive(Clone, Default)]
pub struct Credential {
    connector: Option<Connector>,
    bearer: Bearer,
}

impl Credential {
    /// `--token` and `--ca`, else their variables. A token names the CA to trust by its fingerprint; `ca` is trusted
    /// instead of that where it is given.
    ///
    /// # Errors
    /// What is wrong and where it was written, for people.
    pub fn choose(token: [Option<String>; 2], ca: [Option<String>; 2]) -> Result<Self, String> {
        let given = |[flag, variable]: [Option<String>; 2], names: [&'static str; 2]| {
            let variable = variable.filter(|text| !text.is_empty()).map(|text| (names[1], text));
            flag.map(|text| (names[0], text)).or(variable)
        };
        let token = match given(token, ["--token", TOKEN_VARIABLE]) {
            Some((from, text)) => Some(Token::parse(text.trim()).map_err(|why| format!("the token of {from} {why}"))?),
            None => None,
        };
        let connector = match (given(ca, ["--ca", CA_VARIABLE]), &token) {
            (Some((from, file)), _) => {
                let file = PathBuf::from(file);
                let tls = Tls { ca_file: Some(file.clone()), cert_file: None, key_file: None, server_name: None };
                let unusable = |found: Vec<tls::Unusable>| {
                    let texts: Vec<_> = found.into_iter().map(|found| found.text).collect();
                    format!("{from} {}", texts.join("; "))
                };
                Some(Connector::load(&tls).map_err(unusable)?)
            }
            (None, Some(token)) => {
                let pinned = Connector::pinned(token.fingerprint, None, None, Arc::default());
                Some(pinned.expect("without a name of its own nothing can be wrong"))
            }
            (None, None) => None,
        };
        let bearer = token.map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {}", token.text()).parse().expect("a token is of letters and digits");
            value.set_sensitive(true);
            value
        });
        Ok(Self { connector, bearer: Bearer(bearer) })
    }

    pub fn bearer(&self) -> Bearer {
        self.bearer.clone()
    }

    /// Makes connections over TLS; none: in the clear.
    pub fn dialler(&self, address: &Address) -> Option<Dialler> {
        let config = self.connector.as_ref()?.config();
        Some(Dialler { tls: tokio_rustls::TlsConnector::from(config), address: address.clone() })
    }
}

/// Puts the token on every call.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// TCP and TLS to one address.
#[derive(Clone)]
pub struct Dialler {
    tls: tokio_rustls::TlsConnector,
    address: Address,
}

/// What TLS found, in a person's words.
#[derive(Debug)]
pub struct Mistrust(pub String);

impl fmt::Display for Mistrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistrust {}

impl Dialler {
    async fn dial(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let Address { host, port } = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        let name = self.address.host_without_zone().to_owned();
        let name = ServerName::try_from(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let stream = self.tls.connect(name, stream).await;
        stream.map(TokioIo::new).map_err(|error| io::Error::other(Mistrust(told(&tls::explain(&error)))))
    }
}

/// The agent's words for what TLS found, with what the tool would call the remedy.
fn told(why: &str) -> String {
    why.replace("(then leave out tls.*)", "(then leave the token and --ca away, or take another context)")
}

impl tower_service::Service<http::Uri> for Dialler {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [Option<String>; 2] = [None, None];

    #[test]
    fn without_token_and_ca_it_is_in_the_clear() {
        let address = Address::parse("a:1").unwrap();
        assert!(Credential::choose(NONE, NONE).unwrap().dialler(&address).is_none());
        let empty = [None, Some(String::new())];
        assert!(Credential::choose(empty.clone(), empty).unwrap().dialler(&address).is_none());
        let token = [Some(Token::new([1; 32], [2; 32]).text()), Some("no token".to_owned())];
        assert!(Credential::choose(token, NONE).unwrap().dialler(&address).is_some(), "the flag wins");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_without_the_secret() {
        let text = Token::new([1; 32], [2; 32]).text();
        let cut = text[..text.len() - 3].to_owned();
        let error = Credential::choose([None, Some(cut)], NONE).err().unwrap();
        assert_eq!(error, "the token of SLOTH_RUNNER_TOKEN is cut short or mistyped: copy all of it again");
        let error = Credential::choose(NONE, [Some("/nowhere/ca.pem".to_owned()), None]).err().unwrap();
        assert!(error.starts_with("--ca is /nowhere/ca.pem, which cannot be read: "), "{error}");
    }
}
