//! What this agent shows a master: a certificate that it was given for a token, and renews before it ends.

mod file;
mod pending;

use crate::{
    config::{Secret, Tls},
    joining::{Exported, statement},
    state::{HEARD, is_trusted},
    token::{Token, sha256},
    transport::{
        Client, Dialled, Failure, classify_status,
        tls::{self, Certificate, Own},
    },
};
use file::{Identity, Stamp};
use link::LossReason;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls_pki_types::CertificateDer;
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};

/// A renewal that failed is tried again after an eighth of the time that the certificate had been good for, and after
/// this at the latest.
const RENEW_AGAIN_MAX: Duration = Duration::from_secs(3600);
const RENEW_AGAIN_MIN: Duration = Duration::from_secs(1);

/// A file on a disk that hangs holds one helper thread and no more: later attempts wait for that one.
static LOADING: Semaphore = Semaphore::const_new(1);

/// So long they wait. Below the default of `connection.timeout`, so that the disk is named as the cause.
const LOADING_MAX: Duration = Duration::from_secs(8);

/// So long an agent that has a certificate waits to hear whether the file is another by now.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Whether an agent has joined that has this state directory: it needs a token no more. Blocks.
pub fn has_joined(state_dir: &Path) -> bool {
    state_dir.join(file::NAME).symlink_metadata().is_ok()
}

/// An agent that was with a master over TLS has no certificate in this state directory: it was lost, or it had one of
/// `tls.*` then. For people. Blocks.
pub fn lost(state_dir: &Path) -> Option<String> {
    let path = state_dir.join(file::NAME);
    (state_dir.join(HEARD).exists() && !path.exists()).then(|| {
        format!(
            "{} is gone, by which a master knew this agent if it had joined by a token: it joins again with one that is \
             made for its name (`sloth-runner token create --name NAME`)",
            path.display()
        )
    })
}

/// Where an agent keeps its credentials; none: nowhere. Where its state lives in memory, those that it was given before are
/// of use still, if they can be read: so it comes back after a restart on a disk that has become read-only. Blocks.
pub fn kept_in(state_dir: &Path, memory: bool) -> Option<&Path> {
    let readable = || is_trusted(state_dir).is_ok() && File::open(state_dir.join(file::NAME)).is_ok();
    (!memory || readable()).then_some(state_dir)
}

/// What an agent with this state directory was given for a token; none: nothing. Blocks.
///
/// # Errors
/// It cannot be used; for people.
pub fn given(state_dir: &Path) -> Result<Option<Own>, String> {
    Ok(file::read(&state_dir.join(file::NAME))?.and_then(|identity| identity.own()))
}

/// How a connection to a master is secured, by the configuration.
#[derive(Clone)]
pub struct Means {
    pub tls: Option<Tls>,
    pub token: Option<Secret>,
    pub credentials: Arc<Credentials>,
}

/// What an agent would show a master as things are, for who only looks.
pub enum Standing {
    /// The files of `tls.*`, or nothing.
    Configured,
    /// A certificate that it was given for a token.
    Joined(tls::Connector, Option<Certificate>),
    /// A token that it has not joined with yet; the connection looks for the CA that the token names.
    Token(tls::Connector, Token),
}

/// The certificate of one agent, in its state directory and in memory. Where it cannot be kept, it lives in memory.
pub struct Credentials {
    file: Option<PathBuf>,
    agent_id: [u8; 16],
    name: String,
    state: Mutex<State>,
    ends: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    identity: Option<Arc<Identity>>,
    /// Of the file when it was read or written last: another may be put in its place while the agent runs.
    stamp: Option<Stamp>,
    /// The token that a master has refused while there was a certificate: it is not tried again with every connection.
    refused: Option<String>,
    /// The disk was asked for it: an agent that has none does not wait for the disk at each attempt.
    looked: bool,
    /// Made for a token that it was not yet used for with success: an answer that was lost is asked for again with the
    /// same key, which is no second use of the token.
    pending: Option<Pending>,
}

struct Pending {
    token_id: String,
    key: Key,
    /// It is on the disk.
    kept: bool,
}

impl Credentials {
    /// Those in this state directory; none: nothing is kept.
    pub fn new(directory: Option<&Path>, agent_id: [u8; 16], name: &str) -> Self {
        let file = directory.map(|directory| directory.join(file::NAME));
        Self { file, agent_id, name: name.to_owned(), state: Mutex::default(), ends: Arc::default() }
    }

    /// When the certificate that was used last ends, seconds since 1970; 0 while there is none, or none that can be read.
    pub fn ends(&self) -> Arc<AtomicU64> {
        self.ends.clone()
    }

    fn note_end(&self, certificate: Option<Certificate>) {
        self.ends.store(certificate.map_or(0, |read| read.not_after), Ordering::Relaxed);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing is half changed by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present certificate, read from the disk the first time, and again where the file is another than it was.
    ///
    /// # Errors
    /// The file is there and cannot be used, and there is no certificate in memory; for people.
    async fn identity(&self) -> Result<Option<Arc<Identity>>, Failure> {
        let (known, stamp, looked) = {
            let state = self.state();
            (state.identity.clone(), state.stamp, state.looked)
        };
        let Some(file) = self.file.clone().filter(|_| !looked || known.is_some()) else { return Ok(known) };
        let first = !looked && known.is_none();
        let reading = from_disk("the files of its certificate", move || {
            let read = file::read_new(&file, stamp);
            if let Some(lost) = file.parent().filter(|_| first).and_then(lost) {
                log::warn!("{lost}");
            }
            read
        });
        let read = match known {
            None => reading.await?,
            // It is as good as it was, whatever the disk does.
            Some(_) => match timeout(LOOK_MAX, reading).await {
                Ok(Ok(read)) => read,
                Ok(Err(_)) | Err(_) => return Ok(known),
            },
        };
        let Some((read, stamp)) = read else { return Ok(known) };
        let read = match (read, &known) {
            (Ok(read), _) => read.map(Arc::new),
            (Err(text), None) => return Err(Failure::new(LossReason::Unauthorized, text)),
            (Err(text), Some(_)) => {
                log::warn!("{text}: until then this agent goes on with the certificate that it has");
                None
            }
        };
        let mut state = self.state();
        if state.stamp != stamp && known.is_some() && read.is_some() {
            log::info!("{} is another than before: used from now on", file::NAME);
        }
        // One that it was given meanwhile is newer.
        let same = match (&state.identity, &known) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        if same {
            (state.looked, state.stamp) = (true, stamp);
            if let Some(read) = read {
                self.note_end(read.certificate());
                if let Some(ended) = read.own().and_then(|own| own.ended()) {
                    log::warn!("By this machine's clock {ended}");
                }
                state.identity = Some(read);
            }
        }
        Ok(state.identity.clone())
    }

    /// Whether a restart finds it; why not, is in the log.
    async fn keep(&self, identity: Identity) -> bool {
        let identity = Arc::new(identity);
        self.note_end(identity.certificate());
        {
            let mut state = self.state();
            (state.identity, state.looked, state.pending) = (Some(identity.clone()), true, None);
        }
        let Some(file) = self.file.clone() else { return false };
        let shown = file.display().to_string();
        // Where it could not be written, what lies there is older than what is in memory, and is not to be read.
        let write = move || {
            let written = file::write(&file, &identity);
            if written.is_ok() {
                pending::remove(&file.with_file_name(pending::NAME));
            }
            (written, file::stamp(&file))
        };
        let written = crate::helper::spawn(write).await;
        if let Ok((_, stamp)) = &written {
            self.state().stamp = *stamp;
        }
        let error = match written {
            Ok((Ok(()), _)) => return true,
            Ok((Err(error), _)) => crate::config::describe(&error),
            Err(error) => error.to_string(),
        };
        log::warn!(
            "the certificate cannot be kept as {shown} ({error}): after a restart this agent needs a token again, one for \
             its name that is good for more than one use (`sloth-runner token create --name NAME`)"
        );
        false
    }

    /// Asks for a certificate over this connection, by the token or by the certificate that the connection has.
    async fn ask(&self, mut client: Client, exported: &Exported, token: &str, key: &Key) -> Result<Answer, Failure> {
        let public_key = key.pair.public_key().as_ref();
        let proof = key.pair.sign(&SystemRandom::new(), &statement(exported, &self.agent_id, public_key));
        let request = proto::JoinRequest {
            token: token.to_owned(),
            agent_id: self.agent_id.to_vec(),
            name: self.name.clone(),
            public_key: public_key.to_vec(),
            proof: proof.map_err(|_| no_randomness())?.as_ref().to_vec(),
        };
        let reply = client.join(request).await.map_err(|status| classify_status(&status))?.into_inner();
        Ok(Answer {
            certificate: reply.certificate.into(),
            renew_in: (reply.renew_in_ms > 0).then(|| Duration::from_millis(reply.renew_in_ms)),
        })
    }

    async fn join(
        &self,
        token: &Token,
        means: &Means,
        connect: impl AsyncFnOnce(tls::Connector) -> Result<Dialled, Failure>,
    ) -> Result<(), Failure> {
        let id = token.id();
        let key = self.key_for(&id).await?;
        let ca: Arc<OnceLock<CertificateDer<'static>>> = Arc::default();
        let server_name = means.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let connector = tls::Connector::pinned(token.fingerprint, None, server_name, ca.clone())
            .map_err(|found| unusable(&found))?;
        let dialled = connect(connector).await?;
        let exported = dialled.exported.ok_or_else(|| Failure::protocol("TLS exports nothing"))?;
        let kept = self.keep_key(&id, &key).await;
        if let (Some(why), true) = (kept, self.state().identity.is_some()) {
            // The master ends the certificate that is on the disk once the new one is used, and only that survives a restart.
            return Err(Failure::protocol(format!("what it would give cannot be kept: {why}")));
        }
        let answer = self.ask(dialled.client.clone(), &exported, &token.text(), &key).await?;
        let ca = ca.get().cloned().ok_or_else(|| Failure::protocol("TLS was not checked"))?;
        let identity = Identity::new(id, key.pkcs8.as_ref(), answer.certificate, ca).map_err(Failure::protocol)?;
        let then = if self.keep(identity).await { " and needs the token no more" } else { "" };
        log::info!("Joined with token {}: this agent has a certificate{then}", token.id());
        Ok(())
    }

    /// The key to ask with by this token: the one that it was asked with before, also before a restart.
    async fn key_for(&self, token_id: &str) -> Result<Key, Failure> {
        if let Some(known) = self.state().pending.as_ref().filter(|pending| pending.token_id == token_id) {
            return Ok(known.key.clone());
        }
        let read = match self.beside(pending::NAME) {
            Some(path) => {
                let id = token_id.to_owned();
                let read = from_disk("the key that it joins with", move || pending::read(&path, &id)).await?;
                read.map_err(|text| Failure::new(LossReason::Unauthorized, text))?
            }
            None => None,
        };
        let kept = read.is_some();
        let key = match read {
            Some(key) => key,
            None => Key::generate()?,
        };
        self.state().pending = Some(Pending { token_id: token_id.to_owned(), key: key.clone(), kept });
        Ok(key)
    }

    /// Before the first answer can be lost; why it cannot be kept. An agent that has nothing to lose joins all the same, and
    /// says what that means when its certificate cannot be kept either.
    async fn keep_key(&self, token_id: &str, key: &Key) -> Option<String> {
        let kept = self.state().pending.as_ref().is_none_or(|pending| pending.kept);
        let path = self.beside(pending::NAME).filter(|_| !kept)?;
        let (id, key) = (token_id.to_owned(), key.clone());
        let written = from_disk("the key that it joins with", move || pending::write(&path, &id, &key)).await;
        let why = match written {
            Ok(Ok(())) => {
                if let Some(pending) = &mut self.state().pending {
                    pending.kept = true;
                }
                return None;
            }
            Ok(Err(error)) => crate::config::describe(&error),
            Err(failure) => failure.detail,
        };
        log::debug!("{} cannot be written: {why}", pending::NAME);
        Some(why)
    }

    /// A file beside that of the certificate.
    fn beside(&self, name: &str) -> Option<PathBuf> {
        self.file.as_ref().map(|file| file.with_file_name(name))
    }

    /// Renews the certificate of a session again and again. Ends when it is dropped.
    pub async fn renew(self: Arc<Self>, client: Client, exported: Exported, mut after: Duration) {
        let ca = self.state().identity.as_ref().map(|identity| identity.ca.clone());
        let mut again = again_after(after);
        loop {
            sleep(after).await;
            match self.renew_once(client.clone(), &exported, ca.as_ref()).await {
                Ok(next) => {
                    let Some(next) = next else { return };
                    log::info!("The certificate of this agent is renewed");
                    (after, again) = (next, again_after(next));
                }
                Err(failure) => {
                    // Whoever cannot renew now cannot a second later, either: the master's clock may have been set.
                    after = again;
                    again = (again * 2).min(RENEW_AGAIN_MAX);
                    log::warn!("The certificate of this agent cannot be renewed: {}. Trying again", failure.detail);
                }
            }
        }
    }

    /// None: there is nothing to renew.
    async fn renew_once(
        &self,
        client: Client,
        exported: &Exported,
        ca: Option<&CertificateDer<'static>>,
    ) -> Result<Option<Duration>, Failure> {
        // One of another master's, put there for the next connection, is not to be replaced by this master.
        let Some(present) = self.identity().await?.filter(|present| Some(&present.ca) == ca) else { return Ok(None) };
        let key = Key::generate()?;
        let answer = self.ask(client, exported, "", &key).await?;
        let token_id = present.token_id.clone();
        let identity = Identity::new(token_id, key.pkcs8.as_ref(), answer.certificate, present.ca.clone());
        self.keep(identity.map_err(Failure::protocol)?).await;
        Ok(answer.renew_in)
    }
}

impl Means {
    /// How to connect: joins first where that is to be done, over a connection of its own. None: in the clear.
    ///
    /// # Errors
    /// What cannot be used, what the master said to the token, or what the network did.
    pub async fn connector(
        self,
        connect: impl AsyncFnOnce(tls::Connector) -> Result<Dialled, Failure>,
    ) -> Result<Option<tls::Connector>, Failure> {
        let credentials = &self.credentials;
        let own = self.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some());
        if own {
            return configured(self.tls, Some(credentials)).await.map(Some);
        }
        let token = self.token()?;
        let mut identity = credentials.identity().await?;
        // A token that is not the one it has joined with is meant to be used: so agents are made to join again.
        let is_new = |token: &Token| match &identity {
            Some(known) => known.token_id != token.id() && credentials.state().refused.as_deref() != Some(&token.id()),
            None => true,
        };
        if let Some(token) = token.filter(is_new) {
            match credentials.join(&token, &self, connect).await {
                // Refused, of a master that is not this one, or of one that gives no certificates just now.
                Err(failure) if identity.is_some() && !is_of_the_network(failure.reason) => {
                    log::warn!("The new token is of no use, the certificate stays: {}", failure.detail);
                    if failure.reason == LossReason::Unauthorized {
                        credentials.state().refused = Some(token.id());
                    }
                }
                joined => joined?,
            }
            identity = credentials.identity().await?;
        }
        match identity {
            Some(identity) => {
                let server_name = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
                let certified = Some(identity.certified.clone());
                let connector = tls::Connector::pinned(sha256(&identity.ca), certified, server_name, Arc::default());
                connector.map(Some).map_err(|found| unusable(&found))
            }
            None if self.tls.is_some() => configured(self.tls, None).await.map(Some),
            None => Ok(None),
        }
    }
}

impl Means {
    /// As [`Self::connector`] goes about it, but nothing is joined and no token is used.
    ///
    /// # Errors
    /// What cannot be used.
    pub async fn standing(&self) -> Result<Standing, Failure> {
        if self.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some()) {
            return Ok(Standing::Configured);
        }
        let server_name = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let pinned = |fingerprint, certified| {
            let connector = tls::Connector::pinned(fingerprint, certified, server_name, Arc::default());
            connector.map_err(|found| unusable(&found))
        };
        let token = self.token()?;
        if let Some(identity) = self.credentials.identity().await? {
            let connector = pinned(sha256(&identity.ca), Some(identity.certified.clone()))?;
            return Ok(Standing::Joined(connector, identity.certificate()));
        }
        match token {
            Some(token) => Ok(Standing::Token(pinned(token.fingerprint, None)?, token)),
            None => Ok(Standing::Configured),
        }
    }

    fn token(&self) -> Result<Option<Token>, Failure> {
        let Some(secret) = &self.token else { return Ok(None) };
        Token::parse(&secret.0)
            .map(Some)
            .map_err(|why| Failure::new(LossReason::Unauthorized, format!("the token {why}: see auth.token_file")))
    }
}

/// The first wait after a renewal that failed.
fn again_after(after: Duration) -> Duration {
    (after / 8).clamp(RENEW_AGAIN_MIN, RENEW_AGAIN_MAX)
}

/// Whoever is not reached this time cannot be by the certificate either.
fn is_of_the_network(reason: LossReason) -> bool {
    use LossReason::{ConnectionRefused, ConnectionTimeout, Dns, Unreachable};
    matches!(reason, ConnectionRefused | ConnectionTimeout | Dns | Unreachable)
}

struct Answer {
    certificate: CertificateDer<'static>,
    renew_in: Option<Duration>,
}

#[derive(Clone)]
struct Key {
    pair: Arc<EcdsaKeyPair>,
    pkcs8: Arc<[u8]>,
}

impl Key {
    fn generate() -> Result<Self, Failure> {
        let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| no_randomness())?;
        Ok(Self::from_pkcs8(pkcs8.as_ref()).expect("what was just made is a key"))
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new()).ok()?;
        Some(Self { pair: Arc::new(pair), pkcs8: pkcs8.into() })
    }
}

fn no_randomness() -> Failure {
    Failure::new(LossReason::Tls, "no key can be made: the kernel gives no random numbers")
}

/// Read anew for each attempt: what was renewed on disk is used without a restart.
async fn configured(tls: Option<Tls>, own: Option<&Credentials>) -> Result<tls::Connector, Failure> {
    let Some(tls) = tls else { return Err(Failure::protocol("TLS is not configured")) };
    let certified = own.is_some();
    let read = move || (tls::Connector::load(&tls), certified.then(|| tls::own_certificate(&tls)).flatten());
    let (loaded, certificate) = from_disk("the files of tls.*", read).await?;
    if let Some(own) = own {
        own.note_end(certificate);
    }
    loaded.map_err(|found| unusable(&found))
}

/// Reads on a helper thread, which one file on a disk that hangs may hold, and no second one.
async fn from_disk<T: Send + 'static>(what: &str, read: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let reading = async {
        let one_at_a_time = LOADING.acquire().await;
        crate::helper::spawn(move || {
            let _until_read = one_at_a_time;
            read()
        })
        .await
    };
    match timeout(LOADING_MAX, reading).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Failure::new(LossReason::Tls, error.to_string())),
        Err(_) => {
            let text = format!("{what} could not be read within {}s: their disk hangs", LOADING_MAX.as_secs());
            Err(Failure::new(LossReason::Tls, text))
        }
    }
}

fn unusable(found: &[tls::Unusable]) -> Failure {
    let each: Vec<_> = found.iter().map(|found| format!("{} {}", found.key, found.text)).collect();
    Failure::new(LossReason::Tls, each.join("; "))
}

#[expect(clippy::disallowed_methods, reason = "a renewal months away, on a task of its own; nothing is decided by it")]
async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_on_a_disk_that_hangs_are_named_and_read_for_one_attempt_at_a_time() {
        let hangs = LOADING.acquire().await;
        let tls = Tls { ca_file: Some("/nowhere/ca.pem".into()), cert_file: None, key_file: None, server_name: None };
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials::new(Some(folder.path()), [1; 16], "lady");
        for _ in 0..100 {
            let failure = configured(Some(tls.clone()), None).await.err().expect("nothing is read");
            assert_eq!(failure.reason, LossReason::Tls);
            assert_eq!(failure.detail, "the files of tls.* could not be read within 8s: their disk hangs");
            let failure = credentials.identity().await.err().expect("nothing is read");
            assert_eq!(failure.detail, "the files of its certificate could not be read within 8s: their disk hangs");
        }
        drop(hangs);
        // A paused clock runs ahead of threads.
        tokio::time::resume();
        let failure = configured(Some(tls), None).await.err().expect("there is no such file");
        assert!(
            failure.detail.starts_with("tls.ca_file is /nowhere/ca.pem, which cannot be read"),
            "{}",
            failure.detail
        );
        assert!(credentials.identity().await.expect("the folder can be read").is_none());
        // It is known by now that there is none, whatever the disk does.
        let _hangs = LOADING.acquire().await;
        assert!(credentials.identity().await.expect("it is not read").is_none());
    }
}
