//! Whom the tool trusts, and what it shows: a token, a certificate, or nothing in plain mode.

use crate::clock;
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

/// Names the operator's certificate when `--cert` does not …
pub const CERT_VARIABLE: &str = "SLOTH_RUNNER_CERT";

/// … and its key when `--key` does not.
pub const KEY_VARIABLE: &str = "SLOTH_RUNNER_KEY";

/// What flags say of a credential, or variables, or a context.
#[derive(Clone, Default)]
pub struct Said {
    pub token: Option<String>,
    pub ca: Option<String>,
    pub cert: Option<String>,
    pub key: Option<String>,
}

impl Said {
    pub fn is_anything(&self) -> bool {
        [&self.token, &self.ca, &self.cert, &self.key].into_iter().any(Option::is_some)
    }
}

/// How to talk to a master. Default: in the clear.
#[derive(Clone, Default)]
pub struct Credential {
    connector: Option<Connector>,
    bearer: Bearer,
}

impl Credential {
    /// What flags say, else what variables say. A token names the CA to trust by its fingerprint; `ca` is trusted
    /// instead of that where it is given. A certificate wants a `ca`, and takes the place of a token: who gives both
    /// means only one of them.
    ///
    /// # Errors
    /// What is wrong and where it was written, for people.
    pub fn choose(flags: Said, variables: Said) -> Result<Self, String> {
        let given = |flag: Option<String>, variable: Option<String>, names: [&'static str; 2]| {
            let variable = variable.filter(|text| !text.is_empty()).map(|text| (names[1], text));
            flag.map(|text| (names[0], text)).or(variable)
        };
        // Whoever gives one of them with a flag does not mean the other one of the environment.
        let (by_token, by_cert) = (flags.token.is_some(), flags.cert.is_some() || flags.key.is_some());
        let token = given(flags.token, variables.token.filter(|_| !by_cert), ["--token", TOKEN_VARIABLE]);
        let cert = given(flags.cert, variables.cert.filter(|_| !by_token), ["--cert", CERT_VARIABLE]);
        let key = given(flags.key, variables.key.filter(|_| !by_token), ["--key", KEY_VARIABLE]);
        let ca = given(flags.ca, variables.ca, ["--ca", CA_VARIABLE]);
        if let (Some((token, _)), Some((other, _))) = (&token, cert.as_ref().or(key.as_ref())) {
            return Err(format!("{token} and {other}: a master is shown a token or a certificate; leave one away"));
        }
        let pair = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some((one, _)), None) => {
                return Err(format!("{one} without its key: name that with --key FILE or {KEY_VARIABLE}"));
            }
            (None, Some((one, _))) => {
                return Err(format!("{one} without its certificate: name that with --cert FILE or {CERT_VARIABLE}"));
            }
        };
        let token = match token {
            Some((from, text)) => Some(Token::parse(text.trim()).map_err(|why| format!("the token of {from} {why}"))?),
            None => None,
        };
        let connector = match (ca, &token, pair) {
            (None, None, Some(((from, _), _))) => {
                return Err(format!(
                    "{from} without a CA: a certificate does not say which master to trust: name the CA of the master's \
                     certificate with --ca FILE or {CA_VARIABLE}"
                ));
            }
            (Some((from, file)), _, pair) => {
                let mut tls = Tls { ca_file: Some(PathBuf::from(file)), ..Tls::default() };
                let mut places = vec![("tls.ca_file", from)];
                if let Some(((cert, cert_file), (key, key_file))) = pair {
                    (tls.cert_file, tls.key_file) = (Some(cert_file.into()), Some(key_file.into()));
                    places.extend([("tls.cert_file", cert), ("tls.key_file", key)]);
                }
                Some(Connector::load(&tls).map_err(|found| in_own_words(&found, &places))?)
            }
            (None, Some(token), _) => {
                let pinned = Connector::pinned(token.fingerprint, None, None, Arc::default());
                Some(pinned.expect("without a name of its own nothing can be wrong"))
            }
            (None, None, None) => None,
        };
        let bearer = token.map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {}", token.text()).parse().expect("a token is of letters and digits");
            value.set_sensitive(true);
            value
        });
        Ok(Self { connector, bearer: Bearer(bearer) })
    }

    /// Why the master ended TLS, if it is for the certificate that was shown. HTTP/2 shows this in its text alone. A
    /// connection that breaks while something is written takes the master's words with it: then a certificate that has
    /// ended is the likely cause.
    pub fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<String> {
        const ALERT: &str = "received fatal alert: ";
        let own = self.connector.as_ref()?.own()?;
        let (mut next, mut alert, mut broken) = (Some(error), None, false);
        while let Some(error) = next {
            broken |= error.is::<io::Error>();
            alert = error.to_string().split_once(ALERT).map(|(_, alert)| alert.to_owned()).or(alert);
            next = error.source();
        }
        if own.to <= clock::unix_ms() / 1000 && (broken || alert.is_some()) {
            return Some(format!(
                "the certificate of --cert ended on {}: have another made (`sloth-runner master operator-cert`, or your \
                 own CA)",
                tls::Seconds(own.to)
            ));
        }
        alert.map(|alert| {
            format!(
                "the master refuses the certificate of --cert ({alert}): it must be good now, and of a CA that the \
                 master's tls.ca_file or tls.client_ca_file names"
            )
        })
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

/// What is wrong with files of TLS, under the names that they have here.
fn in_own_words(found: &[tls::Unusable], places: &[(&str, &str)]) -> String {
    let named = |found: &tls::Unusable| {
        let place = places.iter().find(|(key, _)| *key == found.key).map_or(found.key, |(_, place)| place);
        let text = places.iter().fold(found.text.clone(), |text, (key, place)| text.replace(key, place));
        format!("{place} {text}")
    };
    found.iter().map(named).collect::<Vec<_>>().join("; ")
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

/// What an agent would be told to do, and what the user of this tool is: the words come from the agent's code, which
/// knows nothing of this one's.
const REMEDIES: [(&str, &str); 5] = [
    ("(then leave out the token and tls.*)", "(then leave the token and --ca away, or take another context)"),
    ("see tls.ca_file", "name its CA with --ca or SLOTH_RUNNER_CA, or take the context of this master"),
    ("see tls.server_name", "call the master by a name that its certificate has (--master, or the context's)"),
    ("as this agent does", "as this program does"),
    (
        "a certificate of this agent: set tls.cert_file and tls.key_file, or give it a token to join with",
        "a certificate: name one with --cert and --key",
    ),
];

/// The agent's words for what TLS found, with what the tool would call the remedy.
fn told(why: &str) -> String {
    REMEDIES.iter().fold(why.to_owned(), |text, (agents, ours)| text.replace(agents, ours))
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

    #[test]
    fn what_tls_finds_is_told_with_remedies_of_this_program() {
        use rustls::{AlertDescription as Alert, CertificateError as Cert, Error, InvalidMessage, PeerIncompatible};
        let name = ServerName::try_from("a.test").unwrap();
        let errors = [
            Error::InvalidCertificate(Cert::UnknownIssuer),
            Error::InvalidCertificate(Cert::NotValidForNameContext { expected: name, presented: Vec::new() }),
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::AlertReceived(Alert::ProtocolVersion),
            Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered),
            Error::AlertReceived(Alert::CertificateRequired),
        ];
        let mut used = std::collections::BTreeSet::<&str>::new();
        for error in errors {
            let agents = tls::explain(&io::Error::other(error));
            let said = told(&agents);
            used.extend(REMEDIES.iter().map(|(_, ours)| *ours).filter(|ours| said.contains(ours)));
            assert!(!said.contains("tls.") && !said.contains("this agent"), "{said}");
        }
        assert_eq!(used.len(), REMEDIES.len(), "each is the remedy of something: {used:?}");
    }

    fn token(text: &str) -> Said {
        Said { token: Some(text.to_owned()), ..Said::default() }
    }

    fn pair(ca: Option<&str>, cert: Option<&str>, key: Option<&str>) -> Said {
        let [ca, cert, key] = [ca, cert, key].map(|text| text.map(str::to_owned));
        Said { token: None, ca, cert, key }
    }

    fn refused(flags: Said, variables: Said) -> String {
        Credential::choose(flags, variables).err().expect("it is refused")
    }

    #[test]
    fn without_token_and_ca_it_is_in_the_clear() {
        let address = Address::parse("a:1").unwrap();
        let choose = |flags, variables| Credential::choose(flags, variables).unwrap().dialler(&address).is_some();
        assert!(!choose(Said::default(), Said::default()));
        assert!(!choose(Said::default(), Said { token: Some(String::new()), ..pair(Some(""), Some(""), Some("")) }));
        assert!(choose(token(&Token::new([1; 32], [2; 32]).text()), token("no token")), "the flag wins");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_without_the_secret() {
        let text = Token::new([1; 32], [2; 32]).text();
        let error = refused(Said::default(), token(&text[..text.len() - 3]));
        assert_eq!(error, "the token of SLOTH_RUNNER_TOKEN is cut short or mistyped: copy all of it again");
        let error = refused(pair(Some("/nowhere/ca.pem"), None, None), Said::default());
        assert!(error.starts_with("--ca is /nowhere/ca.pem, which cannot be read: "), "{error}");
    }

    #[test]
    fn a_certificate_wants_its_key_and_a_ca_and_no_token() {
        let error = refused(pair(None, Some("c"), None), Said::default());
        assert_eq!(error, "--cert without its key: name that with --key FILE or SLOTH_RUNNER_KEY");
        let error = refused(Said::default(), pair(None, None, Some("k")));
        assert_eq!(error, "SLOTH_RUNNER_KEY without its certificate: name that with --cert FILE or SLOTH_RUNNER_CERT");
        let error = refused(pair(None, Some("c"), Some("k")), Said::default());
        assert!(
            error.starts_with("--cert without a CA: ") && error.ends_with("--ca FILE or SLOTH_RUNNER_CA"),
            "{error}"
        );
        let both = Said { token: Some(Token::new([1; 32], [2; 32]).text()), ..pair(None, Some("c"), Some("k")) };
        let error = refused(both, Said::default());
        assert!(error.starts_with("--token and --cert: a master is shown a token or a certificate"), "{error}");
        let error = refused(pair(Some("/nowhere/ca"), Some("/nowhere/c"), Some("/nowhere/k")), Said::default());
        for place in ["--ca is /nowhere/ca", "--cert is /nowhere/c", "--key is /nowhere/k"] {
            assert!(error.contains(place) && !error.contains("tls."), "{place}: {error}");
        }
    }

    #[test]
    fn a_flag_for_one_credential_leaves_the_other_one_of_the_environment_alone() {
        let text = Token::new([1; 32], [2; 32]).text();
        assert!(Credential::choose(token(&text), pair(None, Some("c"), Some("k"))).is_ok());
        let error = refused(pair(None, Some("c"), Some("k")), token(&text));
        assert!(error.starts_with("--cert without a CA"), "the token is not meant: {error}");
    }
}
