//! `Join`: a certificate for an agent, by a token or by the certificate that it has.

use super::{core::Core, rows};
use crate::{
    access::{AgentCertificate, CONNECT, Caller, genuine},
    audit,
    security::{
        Role, Security,
        admission::{Admitted, Applicant, CertificateRecord, Issued, Refused},
        pki::Authority,
        tls::Peer,
    },
};
use proto::{JoinReply, JoinRequest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use sloth_agent::{
    config::check_name,
    joining::{PUBLIC_KEY_LEN, statement},
    token::{Token, sha256},
};
use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
};
use tonic::{Code, Request, Status};

/// Checks what was asked, and answers it.
///
/// # Errors
/// The call's: UNAUTHENTICATED where the token or the certificate does not admit, with what a person can do.
pub async fn answer(core: &Arc<Core>, request: Request<JoinRequest>) -> Result<JoinReply, Status> {
    let (peer, caller) = (request.extensions().get::<Peer>().cloned(), request.extensions().get::<Caller>().cloned());
    let request = request.into_inner();
    let Some(security) = core.security.clone() else {
        return Err(Status::failed_precondition("this master runs without TLS: it has no tokens and no certificates"));
    };
    if security.authority.is_none() {
        return Err(Status::failed_precondition(
            "this master cannot make certificates: its configuration has no tls.ca_key_file",
        ));
    }
    let agent_id = rows::id(&request.agent_id).ok_or_else(|| Status::invalid_argument("agent_id must be 16 bytes"))?;
    check_name(&request.name).map_err(|rule| Status::invalid_argument(format!("the name is {rule}")))?;
    let exported = peer.and_then(|peer| peer.exported);
    let exported = exported.ok_or_else(|| Status::failed_precondition("certificates are given over TLS alone"))?;
    let from = caller.as_ref().map(ToString::to_string).unwrap_or_default();
    let present = caller.as_ref().and_then(|caller| caller.agent);
    // Before anything that costs more than a look into memory: anybody may ask.
    let shown = Shown::of(&security, &request.token, present);
    let claimed = Claimed::of(&request, agent_id, caller.as_ref());
    let shown = shown.inspect_err(|status| claimed.refused(core, &security, &from, status))?;
    let key = &request.public_key;
    let statement = statement(&exported, &agent_id, key);
    let proof = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&statement, &request.proof);
    if key.len() != PUBLIC_KEY_LEN || proof.is_err() {
        return Err(Status::invalid_argument("the proof does not show that the key is the agent's"));
    }
    let name = request.name.clone();
    let agent = fleet::hex(&agent_id);
    let (what, whose, by, done) = match shown {
        Shown::Certificate(id, _) if id != agent_id => {
            return Err(Status::permission_denied("the certificate is of another agent"));
        }
        Shown::Certificate(_, fingerprint) => {
            let renew = move |security: &Security| {
                let issue = || issue(security, &agent_id, &request.public_key);
                let renewed =
                    security.admission.renew(&fingerprint, &agent_id, issue).map_err(Status::unauthenticated)?;
                Ok(Admitted { issued: renewed.0, record: renewed.1, again: false })
            };
            let whose = (audit::Kind::Renewed, agent);
            ("agent.renewed", whose, "by the one before".to_owned(), blocking(&security, renew).await)
        }
        Shown::Token(token) => {
            let whose = (audit::Kind::Joined, token.id());
            let by = format!("by token {}", token.id());
            let known_as = core.read(|fleet| fleet.registry().view(agent_id)).map(|view| view.record.name);
            let admit = move |security: &Security| admit(security, &token, agent_id, &request, known_as.as_deref());
            ("agent.joined", whose, by, blocking(&security, admit).await)
        }
    };
    let Admitted { issued, record, again } =
        done.inspect_err(|status| claimed.refused(core, &security, &from, status))?;
    if !again {
        let given = format!("certificate given {by}");
        core.file_audit((whose.0, &whose.1), caller.as_ref(), what, (&name, agent_id), &given);
        // Who joins has no credential yet but the token that is named.
        let address = caller.as_ref().and_then(|caller| caller.address);
        let message = match address {
            Some(address) => format!("{name} was given a certificate {by}, from {address}"),
            None => format!("{name} was given a certificate {by}"),
        };
        core.decide(|fleet, now| fleet.note(now, what, &name, agent_id, message));
    }
    Ok(JoinReply {
        certificate: issued.der,
        renew_in_ms: record.renew_in_ms(security.admission.now_ms()),
        expires_unix_ms: issued.expires_ms,
    })
}

/// By what somebody asks.
enum Shown {
    /// Whose it is, and its hash.
    Certificate([u8; 16], [u8; 32]),
    Token(Token),
}

impl Shown {
    /// What it is, if it may admit somebody, as far as memory knows. One that is used up or has expired may: a lost
    /// answer is asked for again.
    fn of(security: &Security, token: &str, certificate: Option<AgentCertificate>) -> Result<Self, Status> {
        if token.is_empty() {
            return match certificate {
                Some(known) if known.made_here => Ok(Self::Certificate(known.id, known.fingerprint)),
                // What revokes it, and how long it is good, is for its own CA to say.
                Some(_) => Err(Status::unauthenticated(
                    "the certificate was not made by this master's authority: whoever made it renews it, or the agent \
                     joins with a token",
                )),
                None => Err(Status::unauthenticated("neither a token nor a certificate")),
            };
        }
        let token = Token::parse(token).map_err(|why| Status::unauthenticated(format!("the token {why}")))?;
        match security.admission.check(&token, &[Role::Agent]) {
            Ok(_) | Err(Refused::UsedUp | Refused::Expired(_)) => Ok(Self::Token(token)),
            Err(refused) => Err(does_not_admit(&refused, &token)),
        }
    }
}

fn does_not_admit(refused: &Refused, token: &Token) -> Status {
    Status::unauthenticated(format!("{refused} (token {})", token.id()))
}

/// What somebody says of himself who wants a certificate.
struct Claimed {
    register: fleet::Register,
    /// None: he renews the one that he has, or shows nothing at all.
    token: Option<String>,
    has_certificate: bool,
}

impl Claimed {
    fn of(request: &JoinRequest, id: [u8; 16], caller: Option<&Caller>) -> Self {
        let address = caller.and_then(|caller| caller.address).map(|address| address.ip().to_string());
        let (name, address) = (request.name.clone(), address.unwrap_or_default());
        let token = (!request.token.is_empty()).then(|| request.token.clone());
        let has_certificate = caller.is_some_and(|caller| caller.agent.is_some());
        Self { register: fleet::Register { id, name, address, ..fleet::Register::default() }, token, has_certificate }
    }

    /// He was not let in. Anybody can cause it, so of many such lines only some are written: of those who show something
    /// that was made here, and apart of all others. These say nothing of the agent with that id, are not counted, and make
    /// no event without a line; nor do the former, but some hundred are remembered all the same.
    fn refused(&self, core: &Arc<Core>, security: &Security, from: &str, why: &Status) {
        let now = core.now().monotonic;
        let name = &self.register.name;
        let genuine = match &self.token {
            Some(token) => genuine(security, token).is_some(),
            None => self.has_certificate,
        };
        let allowance = if genuine { &core.refusals_of_known } else { &core.refusals };
        let written = allowance.lock().unwrap_or_else(PoisonError::into_inner).written(now);
        if let Some(before) = &written {
            log::warn!("Agent {name} does not join ({from}): {}{before}", why.message());
        }
        if self.token.is_none() || why.code() != Code::Unauthenticated {
            return;
        }
        if genuine {
            core.meters.rejected(link::LossReason::Unauthorized);
        }
        let remembered = || core.remembered_of_known.lock().unwrap_or_else(PoisonError::into_inner).take(now, 1);
        if written.is_some() || genuine && remembered() {
            let claimed =
                if genuine { self.register.clone() } else { fleet::Register { id: [0; 16], ..self.register.clone() } };
            let turned = if genuine { fleet::Turned::NotJoined } else { fleet::Turned::Stranger };
            core.decide(|fleet, now| match written {
                Some(_) => fleet.turned_away(now, claimed, turned, why.message()),
                None => fleet.turned_away_too(now, claimed, turned, why.message()),
            });
        }
    }
}

fn admit(
    security: &Security,
    token: &Token,
    agent_id: [u8; 16],
    request: &JoinRequest,
    known_as: Option<&str>,
) -> Result<Admitted, Status> {
    let who = Applicant { agent_id, name: &request.name, known_as, key_hash: sha256(&request.public_key) };
    let admitted = security.admission.admit(token, &who, || issue(security, &agent_id, &request.public_key));
    admitted.map_err(|refused| match refused {
        Refused::Store(error) => Status::internal(format!("the master cannot record the certificate: {error}")),
        refused => does_not_admit(&refused, token),
    })
}

fn issue(security: &Security, agent_id: &[u8; 16], public_key: &[u8]) -> Result<Issued, String> {
    let authority: &Authority = security.authority.as_ref().ok_or("this master cannot make certificates")?;
    let (der, expires_ms) = authority.issue(agent_id, public_key, security.admission.now_ms())?;
    Ok(Issued { fingerprint: sha256(&der), der, expires_ms, authority: authority.fingerprint })
}

/// Off the threads that serve everybody.
pub async fn blocking<R: Send + 'static>(
    security: &Arc<Security>,
    work: impl FnOnce(&Security) -> Result<R, Status> + Send + 'static,
) -> Result<R, Status> {
    let security = security.clone();
    match tokio::task::spawn_blocking(move || work(&security)).await {
        Ok(result) => result,
        Err(error) => Err(Status::internal(format!("a task of the master ended early: {error}"))),
    }
}

/// An agent that an operator has deleted, or whose certificate was revoked elsewhere, comes on: that says which one, and
/// nobody hears what it says.
pub fn revoked(core: &Arc<Core>, id: [u8; 16], address: Option<SocketAddr>, why: &str) {
    let deletion = core.security.as_ref().and_then(|security| security.admission.deletion(&id));
    let name = deletion.map(|deletion| deletion.name).filter(|name| !name.is_empty());
    // Not deleted, but somebody has joined in its place since.
    let known = || core.read(|fleet| fleet.registry().view(id)).map(|view| view.record.name);
    let name = name.or_else(known).unwrap_or_else(|| fleet::hex(&id));
    let address = address.map(|address| address.ip().to_string()).unwrap_or_default();
    let register = fleet::Register { id, name, address, ..fleet::Register::default() };
    core.meters.rejected(link::LossReason::Unauthorized);
    let turned = fleet::Turned::Rejected(link::LossReason::Unauthorized);
    core.decide(|fleet, now| fleet.turned_away(now, register, turned, why));
}

/// What the certificate of a connection says of the agent that registers on it.
#[derive(Clone, Debug)]
pub struct Standing {
    pub agent_id: [u8; 16],
    /// Of the certificate.
    pub fingerprint: [u8; 32],
    expires_ms: u64,
    /// An authority of this master's has made it.
    made_here: bool,
    /// From where it came.
    remote: Option<SocketAddr>,
    /// None for one that was made elsewhere, and is new here.
    pub record: Option<CertificateRecord>,
}

impl Standing {
    /// None in plain mode.
    pub fn of(core: &Core, caller: Option<&Caller>) -> Option<Self> {
        let mut standing = Self::look(core, caller)?;
        let security = core.security.clone()?;
        let made_here = standing.made_here;
        let found = security.found(standing.agent_id, standing.expires_ms, made_here);
        match &mut standing.record {
            // Whatever is on record of it, or of its agent's others.
            Some(record) if !made_here => record.issued_ms = 0,
            // Recorded while there was no authority here.
            Some(record) if record.issued_ms == 0 && !record.revoked => {
                (record.issued_ms, record.expires_ms) = (found.issued_ms, found.expires_ms);
            }
            Some(_) => {}
            // Its agent may be deleted one day, and is to be renewed before it ends: this may be a database that was lost.
            None => {
                standing.record = Some(found.clone());
                let fingerprint = standing.fingerprint;
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = security.admission.note(&fingerprint, found) {
                        log::error!("A certificate could not be recorded, and so not be revoked: {error}");
                    }
                });
            }
        }
        Some(standing)
    }

    /// It registers with its certificate, so that it has the answer to its join: who joined in its place before has
    /// nothing any more.
    pub fn supersede(&self, core: &Core, name: &str) {
        let Some(security) = &core.security else { return };
        let superseded = security.admission.supersede(&self.agent_id, &self.fingerprint);
        if superseded.is_empty() {
            return;
        }
        let what = format!("it comes with what it has joined again for: {} before are revoked", superseded.len());
        log::info!("Agent {name}: {what}");
        let caller = self.caller();
        core.file_audit((audit::Kind::Renewed, &caller.name), Some(&caller), "revoked", (name, self.agent_id), &what);
        let security = security.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = security.admission.revoke(&superseded) {
                log::error!("A certificate that was replaced could not be revoked for good: {error}");
            }
        });
    }

    /// Whether this certificate of the same agent, with which another connection came, is revoked.
    pub fn is_out(&self, core: &Core, certificate: Option<&[u8; 32]>) -> bool {
        let (Some(security), Some(certificate)) = (&core.security, certificate) else { return false };
        security.admission.certificate(certificate, &self.agent_id).is_some_and(|record| record.revoked)
    }

    /// The same as [`Self::of`], and records nothing.
    pub fn look(core: &Core, caller: Option<&Caller>) -> Option<Self> {
        let caller = caller?;
        let AgentCertificate { id: agent_id, fingerprint, expires_ms, made_here } = caller.agent?;
        let record = core.security.as_ref()?.admission.certificate(&fingerprint, &agent_id);
        Some(Self { agent_id, fingerprint, expires_ms, made_here, remote: caller.address, record })
    }

    fn caller(&self) -> Caller {
        let Self { agent_id: id, fingerprint, expires_ms, made_here, .. } = *self;
        Caller::agent(AgentCertificate { id, fingerprint, expires_ms, made_here }, self.remote)
    }

    /// Its agent was deleted, maybe since the connection was made: a registration can wait for its turn.
    pub fn is_revoked(&self, core: &Core) -> bool {
        let known = |security: &Arc<Security>| security.admission.certificate(&self.fingerprint, &self.agent_id);
        core.security.as_ref().and_then(known).is_some_and(|record| record.revoked)
    }

    /// Refuses a registration that the certificate is not for, and leaves a trace of it: under the name that was claimed,
    /// and with the id that was shown.
    pub fn refuse(
        &self,
        core: &Arc<Core>,
        conn: fleet::ConnId,
        register: &fleet::Register,
        reason: link::LossReason,
        message: &str,
    ) {
        if let Some(security) = &core.security {
            let caller = self.caller();
            let what = format!("registration as {}: {message}", register.name);
            security.refused(Some(&caller), None, CONNECT, &Status::permission_denied(what));
        }
        let shown = fleet::Register { id: self.agent_id, ..register.clone() };
        core.decide(|fleet, now| fleet.refuse(now, conn, shown, reason, message.to_owned()));
    }

    /// Gives the registration what the token has bound, or says why it may not be.
    ///
    /// # Errors
    /// Reason and message of the refusal.
    pub fn apply(
        &self,
        register: &mut fleet::Register,
        holder: Option<fleet::AgentId>,
    ) -> Result<(), (link::LossReason, String)> {
        use link::LossReason;
        if register.id != self.agent_id {
            let [shown, claimed] = [&self.agent_id, &register.id].map(fleet::hex);
            let text = format!(
                "the certificate is of agent id {shown}, and this agent says that it is {claimed}: is its state \
                 directory a copy, or its agent-id another than that of identity.pem? Remove both files there, and start \
                 it with a token"
            );
            return Err((LossReason::Unauthorized, text));
        }
        let bound = self.record.as_ref().map_or("", |record| &record.name);
        let name = &register.name;
        if !bound.is_empty() && bound != name {
            let text = format!("the certificate is for the name {bound}, and this agent is called {name}");
            return Err((LossReason::Unauthorized, text));
        }
        if bound.is_empty() && holder.is_some_and(|holder| holder != register.id) {
            let text = format!(
                "another agent has the name {name}: give this one another name; or, if it is to replace the other, stop \
                 that one, and start this one with a token made for that name (`sloth-runner token create --name {name}`)"
            );
            return Err((LossReason::NameTaken, text));
        }
        if let Some(record) = &self.record {
            register.labels.extend(record.labels.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{REVOKED, Who},
        master::{
            Options,
            clock::{BootClock, Clock},
            fleet_rpc::delete::delete,
            ports::memory::{MemoryOutputs, MemoryStore},
            session::enter,
            wires::Outbox,
        },
        security::{
            admission::{Admission, NewToken},
            testing,
        },
    };
    use fleet::{Register, Timing};
    use proto::master_message::Kind;
    use std::time::Duration;

    const ID: [u8; 16] = [1; 16];
    const S: Duration = Duration::from_secs(1);

    fn register() -> Register {
        Register {
            id: ID,
            instance: [2; 16],
            spool_id: [3; 16],
            highest_epoch: 0,
            name: "lady".to_owned(),
            host: String::new(),
            version: String::new(),
            address: String::new(),
            labels: [].into(),
            timing: Timing { interval: 5 * S, timeout: 5 * S, max_failures: 3, interval_max: 60 * S },
            clock_skew_ms: None,
            told: Vec::new(),
            renews: false,
        }
    }

    /// The next message.
    async fn told(outbox: &Outbox) -> Kind {
        let next = std::future::poll_fn(|context| outbox.poll_next(context));
        let message = tokio::time::timeout(30 * S, next).await.expect("it is told something");
        message.and_then(|message| message.kind).expect("it is not closed before")
    }

    fn core(security: &Arc<Security>) -> Arc<Core> {
        let options = Options { security: Some(security.clone()), ..Options::named("test") };
        let fleet = fleet::Fleet::new(BootClock.now(), Vec::new(), Vec::new(), 1);
        let (store, outputs) = (Arc::new(MemoryStore::default()), Arc::new(MemoryOutputs::default()));
        Arc::new(Core::new(fleet, 1, store, outputs, Box::new(BootClock), options, S))
    }

    #[tokio::test]
    async fn a_token_that_is_not_known_costs_a_look_into_memory_and_of_many_refusals_few_are_logged() {
        let (_folder, security) = testing::with_authority();
        let core = core(&security);
        let forged = Token::new([1; 32], [9; 32]).text();
        let ask = |token: &str| {
            let request = JoinRequest {
                token: token.to_owned(),
                agent_id: ID.to_vec(),
                name: "lady".to_owned(),
                ..JoinRequest::default()
            };
            let mut request = Request::new(request);
            request.extensions_mut().insert(testing::peer("10.0.0.1:7".parse().unwrap()));
            answer(&core, request)
        };
        for _ in 0..100 {
            let refused = ask(&forged).await.unwrap_err();
            // It was judged before the signature, which is none.
            assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{}", refused.message());
        }
        let now = core.now().monotonic;
        assert_eq!(core.refusals.lock().unwrap().written(now), None);
        let new = NewToken { role: Role::Agent, name: String::new(), labels: [].into(), ttl_ms: None, uses: None };
        let (token, record) = security.admission.create([1; 32], new).unwrap();
        assert_eq!(ask(&token.text()).await.unwrap_err().code(), tonic::Code::InvalidArgument, "now the signature is");

        for _ in 0..100 {
            assert_eq!(ask("").await.unwrap_err().code(), tonic::Code::Unauthenticated);
        }
        assert!(core.refusals_of_known.lock().unwrap().written(now).is_some(), "who shows nothing is not one of ours");
        security.admission.revoke_token(&record.id).unwrap();
        while core.refusals_of_known.lock().unwrap().written(now).is_some() {}
        ask(&token.text()).await.unwrap_err();
        let attempts = core.read(|fleet| fleet.registry().attempts("lady", Some(ID)));
        assert!(attempts.iter().any(|attempt| attempt.turned == fleet::Turned::NotJoined), "{attempts:?}");
    }

    #[tokio::test]
    async fn an_agent_that_is_deleted_while_it_waits_for_its_turn_is_not_registered() {
        let (_folder, security) = testing::security();
        let core = core(&security);
        let fingerprint = [7; 32];
        security.admission.note(&fingerprint, security.found(ID, u64::MAX, true)).unwrap();
        let who = Caller {
            who: Some(Who::Agent),
            name: String::new(),
            address: None,
            agent: Some(AgentCertificate { id: ID, fingerprint, expires_ms: u64::MAX, made_here: true }),
            credential: None,
        };
        let standing = Standing::of(&core, Some(&who));
        assert!(standing.as_ref().is_some_and(|standing| standing.record.is_some()));
        security.admission.refuse_agent(&ID, "lady");
        let (conn, outbox) = core.wires.open(core.now().monotonic);
        enter(&core, standing.as_ref(), conn, register(), Vec::new());
        match told(&outbox).await {
            Kind::Rejected(rejected) => assert_eq!(rejected.message, REVOKED),
            other => panic!("{other:?}"),
        }
        assert_eq!(core.read(|fleet| fleet.registry().find("lady")), None);
        // The same without a deletion is let in.
        let (conn, outbox) = core.wires.open(core.now().monotonic);
        enter(&core, None, conn, register(), Vec::new());
        assert!(matches!(told(&outbox).await, Kind::Registered(_)));
    }

    #[tokio::test]
    async fn who_has_the_session_with_a_certificate_that_is_good_no_more_gives_it_up() {
        let (_folder, security) = testing::with_authority();
        let core = core(&security);
        let new = NewToken { role: Role::Agent, name: String::new(), labels: [].into(), ttl_ms: None, uses: None };
        let (token, _) = security.admission.create([1; 32], new).unwrap();
        let joins = |n: u8| {
            let who = Applicant { agent_id: ID, name: "lady", known_as: None, key_hash: [n; 32] };
            let issue = || {
                Ok(Issued { der: vec![n], fingerprint: sha256(&[n]), expires_ms: u64::MAX >> 1, authority: [1; 32] })
            };
            let fingerprint = security.admission.admit(&token, &who, issue).expect("admitted").issued.fingerprint;
            let agent = AgentCertificate { id: ID, fingerprint, expires_ms: u64::MAX >> 1, made_here: true };
            Standing::of(&core, Some(&Caller::agent(agent, None))).unwrap()
        };
        let registers = |standing: &Standing, instance: u8| {
            let (conn, outbox) = core.wires.open(core.now().monotonic);
            enter(&core, Some(standing), conn, Register { instance: [instance; 16], ..register() }, Vec::new());
            outbox
        };
        let (first, second) = (joins(1), joins(2));
        let impostor = registers(&first, 1);
        assert!(matches!(told(&impostor).await, Kind::Registered(_)));
        let waits = registers(&first, 3);
        // As when the other was still being given its session.
        assert_eq!(security.admission.supersede(&ID, &second.fingerprint), [first.fingerprint]);
        let agent = registers(&second, 2);
        assert!(matches!(told(&agent).await, Kind::Registered(_)), "it waits for nobody");
        for out in [impostor, waits] {
            let mut last = told(&out).await;
            // It may have been asked, for the one that waits, before it was out.
            if matches!(last, Kind::Probe(_)) {
                last = told(&out).await;
            }
            match last {
                Kind::Rejected(rejected) => assert_eq!(rejected.message, REVOKED),
                other => panic!("{other:?}"),
            }
        }

        let waits = registers(&second, 4);
        delete(core.clone(), None, "lady".to_owned(), ID, true).await.unwrap();
        match told(&waits).await {
            Kind::Rejected(rejected) => assert_eq!(rejected.message, REVOKED),
            other => panic!("{other:?}"),
        }
        assert_eq!(core.read(|fleet| fleet.registry().find("lady")), None);
    }

    #[tokio::test]
    async fn an_agent_is_forgotten_after_its_certificates_are_revoked_for_good_and_not_before() {
        let (folder, security) = testing::security();
        let core = core(&security);
        let (conn, outbox) = core.wires.open(core.now().monotonic);
        enter(&core, None, conn, register(), Vec::new());
        assert!(matches!(told(&outbox).await, Kind::Registered(_)));
        let database = rusqlite::Connection::open(folder.path().join("sloth.db")).unwrap();
        database.execute_batch("ALTER TABLE deleted_agents RENAME TO away").unwrap();
        let delete = async || delete(core.clone(), None, "lady".to_owned(), ID, true).await;
        let refused = delete().await.unwrap_err();
        assert!(refused.message().starts_with("nothing is deleted, for its certificates"), "{}", refused.message());
        assert_eq!(core.read(|fleet| fleet.registry().find("lady")), Some(ID), "to be deleted again");
        database.execute_batch("ALTER TABLE away RENAME TO deleted_agents").unwrap();
        delete().await.unwrap();
        assert_eq!(core.read(|fleet| fleet.registry().find("lady")), None);
        let again = Admission::open(&folder.path().join("sloth.db"), crate::clock::unix_ms).unwrap();
        assert!(again.deletion(&ID).is_some());
    }
}
