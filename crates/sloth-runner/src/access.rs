//! Who may call what: one table, looked at before anything of a call is read.

mod lasting;
mod looks;
mod strangers;

pub use looks::Share;

use crate::{
    clock::sleep,
    listen::Why,
    patience::{AGENT_CALLS_MAX, AGENT_UNFINISHED_MAX, Patience, Patient, TOOL_UNFINISHED_MAX},
    security::{
        Role, Security,
        admission::{Refused, TokenRecord},
        tls::{Identity, Peer, Subject},
    },
};
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::Limited;
use looks::{Looks, is_look};
use rustls_pki_types::CertificateDer;
use sloth_agent::token::Token;
use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};
use strangers::Strangers;
use tonic::{Status, body::Body};
use tower_service::Service;

/// What somebody who has shown nothing may send in one call, bytes: a request to join has some 400.
const UNKNOWN_MAX: usize = 16 << 10;

/// … and how many calls he may make on a connection: joining takes one, and the memory of each is his until then.
const UNKNOWN_CALLS_MAX: usize = 16;

/// The one call whose first message comes when there is something to say.
const SPEAKS_LATE: &str = "/agent.AgentRegistry/SendOutput";

/// The one call that may end the credential that it came with.
const REVOKES: &str = "/agent.Fleet/RevokeToken";

/// What an agent hears that an operator has deleted.
pub const REVOKED: &str = "this agent's certificate is revoked: an operator deleted it, or somebody has joined again \
     with its id; to have it back, start it with a new token";

/// … and one whose certificate was made elsewhere, and is withdrawn there.
pub const WITHDRAWN: &str = "this agent's certificate is revoked by the CA that made it (it stands in \
     tls.client_crl_file): give the agent another";

/// As what somebody calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Shows nothing.
    Anonymous,
    Agent,
    Operator,
    Viewer,
}

use Who::{Agent, Anonymous, Operator, Viewer};

/// What a person hears whose certificate has ended while his connection lasts.
const ENDED: &str = "the certificate has expired or is revoked: get another";

/// While a call goes on, its caller's certificate is judged again so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// In which agents register.
pub const CONNECT: &str = "/agent.AgentRegistry/Connect";

/// Every call that there is, and who may make it. What is not here nobody may.
pub const TABLE: [(&str, &[Who]); 18] = [
    (CONNECT, &[Agent]),
    ("/agent.AgentRegistry/SendOutput", &[Agent]),
    // With a token in the message, or to renew.
    ("/agent.AgentRegistry/Join", &[Anonymous, Agent]),
    // What would become of its own registration.
    ("/agent.AgentRegistry/Check", &[Agent]),
    ("/agent.Fleet/List", &[Operator, Viewer]),
    ("/agent.Fleet/Get", &[Operator, Viewer]),
    ("/agent.Fleet/Explain", &[Operator, Viewer]),
    ("/agent.Fleet/Delete", &[Operator]),
    ("/agent.Fleet/Stop", &[Operator]),
    ("/agent.Fleet/Events", &[Operator, Viewer]),
    ("/agent.Fleet/Run", &[Operator]),
    ("/agent.Fleet/Logs", &[Operator, Viewer]),
    ("/agent.Fleet/ListCommands", &[Operator, Viewer]),
    ("/agent.Fleet/GetCommand", &[Operator, Viewer]),
    ("/agent.Fleet/Cancel", &[Operator]),
    ("/agent.Fleet/CreateToken", &[Operator]),
    ("/agent.Fleet/ListTokens", &[Operator]),
    ("/agent.Fleet/RevokeToken", &[Operator]),
];

/// Whether somebody may make this call.
///
/// # Errors
/// What to answer.
pub fn decide(path: &str, who: Who) -> Result<(), Status> {
    let call = || path.rsplit('/').next().unwrap_or_default();
    let Some((_, allowed)) = TABLE.iter().find(|(known, _)| *known == path) else {
        // In the words of a server that has no such call, so that older tools say the right thing.
        return Err(Status::unimplemented(format!("there is no call {path}")));
    };
    match who {
        who if allowed.contains(&who) => Ok(()),
        Anonymous if allowed.contains(&Agent) => Err(Status::unauthenticated(
            "this master wants a certificate of the agent: start it with a token (`sloth-runner token create` on the \
             master's side makes one)",
        )),
        Anonymous => Err(Status::unauthenticated(
            "this master wants to know who calls: give an operator's or a viewer's token with --token or \
             SLOTH_RUNNER_TOKEN",
        )),
        Agent => Err(Status::permission_denied(format!("an agent's certificate does not serve for {}", call()))),
        Viewer => Err(Status::permission_denied(format!(
            "a viewer may only look: {} wants an operator's token (--token, SLOTH_RUNNER_TOKEN, or another context)",
            in_words(call())
        ))),
        Operator => Err(Status::permission_denied(format!("an operator cannot call {}: it is for agents", call()))),
    }
}

/// What somebody does who makes this call, in the words of the tool.
fn in_words(call: &str) -> &str {
    match call {
        "Run" => "`agent run`",
        "Cancel" => "`command cancel`",
        "Delete" => "`agent delete`",
        "Stop" => "`agent stop`",
        "CreateToken" => "`token create`",
        "ListTokens" => "`token list`",
        "RevokeToken" => "`token revoke`",
        other => other,
    }
}

/// Who makes a call. An extension of every request that gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// None in plain mode: nobody can be told from anybody.
    pub who: Option<Who>,
    /// For people: a token's id and name, or what a certificate says.
    pub name: String,
    pub address: Option<SocketAddr>,
    pub agent: Option<AgentCertificate>,
    /// What a call of his cannot outlast.
    pub credential: Option<Credential>,
}

/// What an operator or a viewer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A token, by its id.
    Token(String),
    /// A certificate: its own first, and until when it is good, milliseconds since 1970.
    Certificate(Vec<CertificateDer<'static>>, u64),
    /// An agent's certificate. Its session outlasts it, for it is renewed there.
    Agent,
    /// The same, its own first, where lists may say that it is revoked: then everything ends.
    Revocable(Vec<CertificateDer<'static>>),
}

/// What the certificate of an agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentCertificate {
    pub id: [u8; 16],
    /// The hash of the certificate.
    pub fingerprint: [u8; 32],
    /// Until when it is good, milliseconds since 1970.
    pub expires_ms: u64,
    /// An authority of this master's has made it, and so renews it.
    pub made_here: bool,
}

impl Caller {
    pub fn new(who: Option<Who>, name: String, address: Option<SocketAddr>) -> Self {
        Self { who, name, address, agent: None, credential: None }
    }

    /// An agent, by its certificate.
    pub fn agent(agent: AgentCertificate, address: Option<SocketAddr>) -> Self {
        let name = format!("agent {}", fleet::hex(&agent.id));
        Self { agent: Some(agent), ..Self::new(Some(Agent), name, address) }
    }

    /// Whom a certificate names, whatever it is worth by now.
    pub fn by_certificate(identity: &Identity, address: Option<SocketAddr>) -> Self {
        let person = |who, word, name| Self::new(Some(who), format!("{word} {name} with a certificate"), address);
        match &identity.subject {
            Subject::Agent(id) => {
                let Identity { fingerprint, expires_ms, made_here, .. } = *identity;
                Self::agent(AgentCertificate { id: *id, fingerprint, expires_ms, made_here }, address)
            }
            Subject::Operator(name) => person(Operator, "operator", name),
            Subject::Viewer(name) => person(Viewer, "viewer", name),
            Subject::Nobody => Self::new(Some(Anonymous), "a certificate that names nobody".to_owned(), address),
        }
    }

    fn by_token(record: &TokenRecord, address: Option<SocketAddr>) -> Self {
        let who = match record.role {
            Role::Agent => Agent,
            Role::Operator => Operator,
            Role::Viewer => Viewer,
        };
        let name = if record.name.is_empty() { String::new() } else { format!(" ({})", record.name) };
        Self::new(Some(who), format!("{} with token {}{name}", record.role.word(), record.id), address)
    }

    /// Whether he shows what this master has made, or would have: it may be good no more.
    pub fn is_known(&self) -> bool {
        self.who != Some(Anonymous)
    }

    /// Who somebody is who shows this token, too, which is refused.
    pub fn with_token(self, security: &Security, text: &str) -> Self {
        match genuine(security, text).filter(|_| !self.is_known()) {
            Some(record) => Self::by_token(&record, self.address),
            None => self,
        }
    }
}

/// The token, if it was made here. It may admit nobody any more.
pub fn genuine(security: &Security, text: &str) -> Option<TokenRecord> {
    let token = Token::parse(text).ok()?;
    match security.admission.check(&token, &Role::ALL) {
        Err(Refused::Unknown) => None,
        _ => security.admission.token(&token.id()),
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.name.is_empty() { "somebody" } else { &self.name })?;
        self.address.map_or(Ok(()), |address| write!(f, " from {address}"))
    }
}

/// Finds out who calls.
///
/// # Errors
/// What is shown is worth nothing: what to answer. Not the same as to show nothing.
pub fn caller(security: Option<&Security>, peer: Option<&Peer>, bearer: Option<&str>) -> Result<Caller, Status> {
    let address = peer.map(|peer| peer.address);
    let of = |who, name| Caller::new(who, name, address);
    let Some(security) = security else { return Ok(of(None, String::new())) };
    if let Some(text) = bearer {
        let token = Token::parse(text).map_err(|why| Status::unauthenticated(format!("the token {why}")))?;
        let record = security.admission.check(&token, &[Role::Operator, Role::Viewer]);
        let record = record.map_err(|refused| Status::unauthenticated(refused.to_string()))?;
        let caller = Caller::by_token(&record, address);
        return Ok(Caller { credential: Some(Credential::Token(record.id)), ..caller });
    }
    let Some(identity) = peer.and_then(|peer| peer.identity.as_ref()) else {
        return Ok(of(Some(Anonymous), "somebody without a credential".to_owned()));
    };
    let caller = Caller::by_certificate(identity, address);
    let credential = match &identity.subject {
        Subject::Agent(id) => {
            if security.admission.certificate(&identity.fingerprint, id).is_some_and(|known| known.revoked) {
                return Err(Status::unauthenticated(REVOKED));
            }
            match identity.chain.as_slice() {
                [] => Credential::Agent,
                chain if security.acceptor.revokes(chain) => return Err(Status::unauthenticated(WITHDRAWN)),
                chain => Credential::Revocable(chain.to_vec()),
            }
        }
        Subject::Operator(_) | Subject::Viewer(_) => {
            if !is_good(security, &identity.chain, identity.expires_ms) {
                return Err(Status::unauthenticated(ENDED));
            }
            Credential::Certificate(identity.chain.clone(), identity.expires_ms)
        }
        Subject::Nobody => {
            return Err(Status::unauthenticated(
                "the certificate names nobody: it needs one URI, sloth:agent:…, sloth:operator:… or sloth:viewer:…",
            ));
        }
    };
    Ok(Caller { credential: Some(credential), ..caller })
}

/// Whether a person's certificate is still what its connection was let in by.
fn is_good(security: &Security, chain: &[CertificateDer<'_>], expires_ms: u64) -> bool {
    security.admission.now_ms() < expires_ms && security.acceptor.lets_in(chain)
}

/// Who it is whose credential is good no more, or not for this. None: what he shows was never any.
fn shown(security: &Security, peer: Option<&Peer>, bearer: Option<&str>) -> Option<Caller> {
    let address = peer.map(|peer| peer.address);
    if let Some(record) = bearer.and_then(|text| genuine(security, text)) {
        return Some(Caller::by_token(&record, address));
    }
    Some(Caller::by_certificate(peer?.identity.as_ref()?, address))
}

fn bearer(request: &Request<Body>) -> Result<Option<&str>, Status> {
    let Some(value) = request.headers().get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    text.map(Some).ok_or_else(|| Status::unauthenticated("authorization is not \"Bearer TOKEN\""))
}

/// Puts the table before a service.
#[derive(Clone)]
pub struct Guard {
    security: Option<Arc<Security>>,
    message_timeout: Duration,
    strangers: Strangers,
    looks: Looks,
    revoked: Option<Revoked>,
}

/// Told of every agent that wants to register with a certificate that is revoked, from where, and what it was told.
type Revoked = Arc<dyn Fn([u8; 16], Option<SocketAddr>, &'static str) + Send + Sync>;

impl Guard {
    /// Without security: in plain mode everybody may do everything. A message, once begun, and the first one of a call
    /// must be there within `message_timeout`.
    pub fn new(security: Option<Arc<Security>>, message_timeout: Duration) -> Self {
        let (strangers, looks) = (Strangers::default(), Looks::default());
        Self { security, message_timeout, strangers, looks, revoked: None }
    }

    /// Tells of every agent that wants to register with a certificate that is revoked.
    pub fn telling(self, revoked: impl Fn([u8; 16], Option<SocketAddr>, &'static str) + Send + Sync + 'static) -> Self {
        Self { revoked: Some(Arc::new(revoked)), ..self }
    }

    /// What he may take who is admitted to a call.
    ///
    /// # Errors
    /// He has too many of them.
    fn bound(&self, request: Request<Body>, who: Option<Who>) -> Result<Request<Body>, Status> {
        let shown = request.extensions().get::<Peer>().map(|peer| peer.shown.clone());
        let of_agent = who == Some(Agent);
        if let Some(shown) = &shown {
            shown.known();
            if of_agent && shown.calls.load(Ordering::Relaxed) >= AGENT_CALLS_MAX {
                return Err(Status::resource_exhausted(format!(
                    "this connection has {AGENT_CALLS_MAX} calls open, more than an agent needs"
                )));
            }
        }
        let first = (request.uri().path() != SPEAKS_LATE).then_some(self.message_timeout);
        let unfinished_max = if of_agent { AGENT_UNFINISHED_MAX } else { TOOL_UNFINISHED_MAX };
        let patience = Patience { message: self.message_timeout, first, unfinished_max };
        Ok(request.map(|body| Body::new(Patient::new(body, patience, shown))))
    }

    /// One more call of somebody who has shown nothing that counts. With too many of them his connection ends.
    fn count_unknown(request: &Request<Body>) {
        let Some(peer) = request.extensions().get::<Peer>() else { return };
        if !peer.shown.is_known() && peer.shown.asked.fetch_add(1, Ordering::Relaxed) >= UNKNOWN_CALLS_MAX {
            peer.shown.cut(Why::Nobody);
        }
    }

    /// Who the caller is, if he may make this call.
    fn admit(&self, request: &mut Request<Body>) -> Result<Caller, Status> {
        let caller = caller(self.security.as_deref(), request.extensions().get(), bearer(request)?)?;
        request.extensions_mut().insert(caller.clone());
        if let Some(who) = caller.who {
            decide(request.uri().path(), who)?;
        }
        Ok(caller)
    }

    /// When this admits nobody any more: what to say then.
    fn ended(&self, credential: &Credential) -> impl Future<Output = Status> + Send + 'static {
        let (security, credential) = (self.security.clone(), credential.clone());
        async move {
            let Some(security) = security else { return std::future::pending().await };
            match credential {
                Credential::Token(id) => Status::unauthenticated(security.admission.ended(&id).await.to_string()),
                Credential::Agent => std::future::pending().await,
                Credential::Revocable(chain) => {
                    security.acceptor.clone().revoked(chain).await;
                    Status::unauthenticated(WITHDRAWN)
                }
                Credential::Certificate(chain, expires_ms) => {
                    // It was good when the call was admitted.
                    loop {
                        sleep(LOOK_EVERY).await;
                        if !is_good(&security, &chain, expires_ms) {
                            return Status::unauthenticated(ENDED);
                        }
                    }
                }
            }
        }
    }

    fn refused(&self, request: &Request<Body>, status: &Status) {
        if let Some(security) = &self.security {
            let (caller, peer) = (request.extensions().get::<Caller>(), request.extensions().get::<Peer>());
            let caller = caller.cloned().or_else(|| shown(security, peer, bearer(request).ok().flatten()));
            let address = peer.map(|peer| peer.address);
            security.refused(caller.as_ref(), address, request.uri().path(), status);
            let agent = caller.and_then(|caller| caller.agent);
            if let (Some(AgentCertificate { id, .. }), Some(revoked)) = (agent, &self.revoked)
                && request.uri().path() == CONNECT
                && let Some(why) = [REVOKED, WITHDRAWN].into_iter().find(|why| *why == status.message())
            {
                revoked(id, address, why);
            }
        }
    }
}

impl<S> tower_layer::Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.guard.admit(&mut request) {
            Ok(Caller { who: Some(Anonymous), .. }) => {
                Guard::count_unknown(&request);
                let address = request.extensions().get::<Peer>().map(|peer| peer.address);
                let place = match self.guard.strangers.enter(address) {
                    Ok(place) => place,
                    Err(full) => return Box::pin(std::future::ready(Ok(full.into_http()))),
                };
                let request = request.map(|body| Body::new(Limited::new(body, UNKNOWN_MAX)));
                let answer = place.answer(self.inner.call(request));
                Box::pin(async { answer.await.unwrap_or_else(|status| Ok(status.into_http())) })
            }
            Ok(caller) => {
                let look = is_look(request.uri().path()).then(|| self.guard.looks.enter(&caller)).transpose();
                let (request, look) = match (self.guard.bound(request, caller.who), look) {
                    (Ok(request), Ok(look)) => (request, look),
                    (Err(status), _) | (_, Err(status)) => {
                        return Box::pin(std::future::ready(Ok(status.into_http())));
                    }
                };
                let path = request.uri().path();
                let ends = caller.credential.filter(|credential| match credential {
                    Credential::Token(_) | Credential::Certificate(..) => true,
                    Credential::Agent => false,
                    // The session ends itself, and says why.
                    Credential::Revocable(_) => path != CONNECT,
                });
                if look.is_none() && ends.is_none() {
                    return Box::pin(self.inner.call(request));
                }
                // Whoever revokes what he comes with is told that it is done.
                let ended = ends.as_ref().filter(|_| path != REVOKES).map(|ends| self.guard.ended(ends));
                let request = match &ends {
                    Some(ends) => request.map(|body| lasting::request(body, self.guard.ended(ends))),
                    None => request,
                };
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    let answer = match ended {
                        Some(ended) => answer.map(|body| lasting::response(body, ended)),
                        None => answer,
                    };
                    Ok(match look {
                        Some(look) => answer.map(|body| look.hold(body)),
                        None => answer,
                    })
                })
            }
            Err(status) => {
                Guard::count_unknown(&request);
                self.guard.refused(&request, &status);
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::{
        Open,
        places::{Limits, Source},
    };
    use std::collections::BTreeSet;

    /// Of the protocol's own file.
    fn calls() -> BTreeSet<String> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
        let files = protox::compile(["agent.proto"], [folder]).unwrap().file;
        let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
        let calls = services.flat_map(|(package, service)| {
            service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
        });
        calls.collect()
    }

    #[test]
    fn every_call_of_the_protocol_stands_in_the_table_once() {
        let listed: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed.len(), TABLE.len(), "one stands there twice");
        assert_eq!(listed, calls());
    }

    #[test]
    fn a_viewer_hears_of_the_tools_commands_and_not_of_calls() {
        let mut refused = 0;
        for call in calls().iter().filter(|call| call.starts_with("/agent.Fleet/")) {
            let Err(status) = decide(call, Viewer) else { continue };
            let what = status.message().strip_prefix("a viewer may only look: `").expect("a command of the tool");
            assert!(what.contains("` wants an operator's token"), "{what}");
            refused += 1;
        }
        assert_eq!(refused, 7);
    }

    #[test]
    fn only_joining_is_open_to_those_who_show_nothing() {
        for call in calls() {
            let allowed = decide(&call, Anonymous).is_ok();
            assert_eq!(allowed, call == "/agent.AgentRegistry/Join", "{call}");
        }
    }

    #[test]
    fn agents_have_their_own_calls_and_operators_all_others() {
        for call in calls() {
            let of_agents = call.starts_with("/agent.AgentRegistry/");
            assert_eq!(decide(&call, Agent).is_ok(), of_agents, "{call}");
            assert_eq!(decide(&call, Operator).is_ok(), !of_agents, "{call}");
        }
    }

    #[test]
    fn a_viewer_only_looks() {
        let looks = ["List", "Get", "Explain", "Events", "Logs", "ListCommands", "GetCommand"];
        for call in calls() {
            let look = call.strip_prefix("/agent.Fleet/").is_some_and(|name| looks.contains(&name));
            assert_eq!(decide(&call, Viewer).is_ok(), look, "{call}");
        }
    }

    #[test]
    fn a_certificate_of_a_person_is_looked_at_in_every_call_of_its_connection() {
        use crate::security::{pki, testing};
        use rustls_pki_types::pem::PemObject;
        let (folder, security) = testing::security();
        let (stranger, _) = testing::security();
        let chain = |folder: &std::path::Path, role| {
            let path = |name| folder.join(name);
            let authority = pki::Authority::load(&path("ca.pem"), &path("ca.key"), Duration::from_secs(60)).unwrap();
            let made = authority.issue_to(role, "eva", Duration::from_secs(3600), security.admission.now_ms()).unwrap();
            vec![CertificateDer::from_pem_slice(made.0.as_bytes()).unwrap()]
        };
        let by = |subject, chain: &[CertificateDer<'static>], expires_ms| {
            let chain = chain.to_vec();
            let identity = Identity { subject, fingerprint: [1; 32], expires_ms, chain, made_here: true };
            let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
            let place = Open::default().take(Source::of(address.ip()), Limits::NONE).unwrap();
            let peer = Peer { address, shown: place.shown(), identity: Some(identity), exported: None };
            caller(Some(&security), Some(&peer), None)
        };
        let now_ms = security.admission.now_ms();
        let later = now_ms + 3_600_000;
        for (role, subject) in
            [(Role::Operator, Subject::Operator("eva".to_owned())), (Role::Viewer, Subject::Viewer("eva".to_owned()))]
        {
            let own = chain(folder.path(), role);
            let good = by(subject.clone(), &own, later).unwrap();
            assert_eq!(good.credential, Some(Credential::Certificate(own.clone(), later)));
            assert_eq!(by(subject.clone(), &own, now_ms).unwrap_err().message(), ENDED);
            // As after its CA, or its own number, was withdrawn.
            for bad in [chain(stranger.path(), role), Vec::new()] {
                assert_eq!(by(subject.clone(), &bad, later).unwrap_err().message(), ENDED);
            }
        }
        // It is renewed on its session, and a clock that jumps must not cut off a fleet.
        let agent = by(Subject::Agent([1; 16]), &[], now_ms).unwrap();
        assert_eq!(agent.credential, Some(Credential::Agent));
        let certificate = AgentCertificate { id: [1; 16], fingerprint: [1; 32], expires_ms: now_ms, made_here: true };
        assert_eq!(agent.agent, Some(certificate));
    }

    /// Answers nobody.
    #[derive(Clone)]
    struct Waits;

    impl Service<Request<Body>> for Waits {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Pending<Result<Response<Body>, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_bring_nothing_are_few_and_the_others_are_answered_at_once() {
        let (_folder, security) = crate::security::testing::security();
        let mut guarded = tower_layer::Layer::layer(&Guard::new(Some(security), Duration::from_secs(60)), Waits);
        let mut call = |port: u16| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = "/agent.AgentRegistry/Join".parse().unwrap();
            let address = SocketAddr::from(([10, 0, 0, (port % 2) as u8], port));
            request.extensions_mut().insert(crate::security::testing::peer(address));
            tokio::spawn(guarded.call(request))
        };
        let calls: Vec<_> = (0..1_000).map(|n| call(n / 100)).collect();
        crate::clock::sleep(Duration::from_millis(1)).await;
        assert_eq!(calls.iter().filter(|call| !call.is_finished()).count(), 40, "four of each connection");
        let refused = calls.into_iter().find(tokio::task::JoinHandle::is_finished).unwrap().await.unwrap().unwrap();
        assert_eq!(refused.headers()["grpc-status"], "8", "resource exhausted");
    }

    #[test]
    fn a_call_that_is_not_listed_is_nobodys() {
        for who in [Anonymous, Agent, Operator, Viewer] {
            assert!(decide("/agent.Fleet/Format", who).is_err() && decide("", who).is_err());
        }
    }
}
