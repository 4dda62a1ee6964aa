//! Tokens and certificates that this master has given out, in its database; what every call asks is in memory, too.

#[cfg(test)]
mod tests;

use super::Role;
use crate::clock::sleep;
use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use sloth_agent::token::{Token, id_of};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// More tokens are not kept: revoke or let expire what is not needed.
pub const TOKENS_MAX: usize = 10_000;

/// A token that is of no use any more is forgotten so long after, milliseconds.
const FORGET_AFTER: u64 = 30 * 86_400_000;

/// Whether a token has expired is looked at so often while a call goes on: the clock of the day may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

type Hash = [u8; 32];

/// A token, as it is kept: without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: String,
    hash: Hash,
    pub role: Role,
    /// Of an agent: the only one that it may have. Empty: any.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub created_ms: u64,
    pub expires_ms: Option<u64>,
    pub uses_left: Option<u32>,
    pub revoked: bool,
}

/// What a token is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    pub role: Role,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub ttl_ms: Option<u64>,
    pub uses: Option<u32>,
}

/// Why a token does not admit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Of this CA, or not: this master has not made it, or has forgotten it.
    Unknown,
    Expired,
    UsedUp,
    Revoked,
    /// It is of another role.
    Role(Role),
    /// It is for an agent of this name.
    Name(String),
    /// It could not be looked up, or not be recorded.
    Store(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ANOTHER: &str = "make another with `sloth-runner token create`";
        match self {
            Self::Unknown => write!(f, "this master does not know the token: is it of another one? {ANOTHER}"),
            Self::Expired => write!(f, "the token has expired: {ANOTHER}"),
            Self::UsedUp => write!(f, "the token is used up: {ANOTHER}"),
            Self::Revoked => write!(f, "the token is revoked: {ANOTHER}"),
            Self::Role(role) => write!(f, "the token is of role {} and does not serve for this", role.word()),
            Self::Name(name) => write!(f, "the token is for an agent called {name}: start it with --name {name}"),
            Self::Store(error) => write!(f, "the master cannot record it: {error}"),
        }
    }
}

impl TokenRecord {
    /// Whether it admits now.
    ///
    /// # Errors
    /// Why not.
    pub fn is_valid(&self, now_ms: u64) -> Result<(), Refused> {
        match self {
            Self { revoked: true, .. } => Err(Refused::Revoked),
            Self { expires_ms: Some(at), .. } if *at <= now_ms => Err(Refused::Expired),
            Self { uses_left: Some(0), .. } => Err(Refused::UsedUp),
            _ => Ok(()),
        }
    }
}

/// A certificate of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRecord {
    pub agent_id: [u8; 16],
    /// The only name that the agent may have. Empty: any.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// 0: it was not made here.
    pub issued_ms: u64,
    pub expires_ms: u64,
    pub revoked: bool,
}

impl CertificateRecord {
    /// How long from now until it is to be renewed, at two thirds of its life: milliseconds, at least 1. 0: never.
    pub fn renew_in_ms(&self, now_ms: u64) -> u64 {
        if self.issued_ms == 0 {
            return 0;
        }
        let at = self.issued_ms + self.expires_ms.saturating_sub(self.issued_ms) / 3 * 2;
        at.saturating_sub(now_ms).max(1)
    }
}

/// Tokens and certificates of one master.
pub struct Admission {
    connection: Mutex<Connection>,
    known: RwLock<Known>,
    /// Told of every token that is revoked.
    revoked: watch::Sender<()>,
    clock: fn() -> u64,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<String, TokenRecord>,
    certificates: HashMap<Hash, CertificateRecord>,
}

/// Who wants a certificate by a token.
pub struct Applicant<'a> {
    pub agent_id: [u8; 16],
    pub name: &'a str,
    /// Of its public key. The same token with the same key again is no further use.
    pub key_hash: Hash,
}

/// A certificate that was made: DER, its hash, and until when it is good.
pub struct Issued {
    pub der: Vec<u8>,
    pub fingerprint: Hash,
    pub expires_ms: u64,
}

impl Admission {
    /// On the master's database, which has its tables already. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn open(database: &Path, clock: fn() -> u64) -> Result<Self, String> {
        let explained = |error: rusqlite::Error| format!("{}: {error}", database.display());
        let connection = Connection::open(database).map_err(explained)?;
        let known = prepare(&connection, clock()).map_err(explained)?;
        Ok(Self {
            connection: Mutex::new(connection),
            known: RwLock::new(known),
            revoked: watch::Sender::new(()),
            clock,
        })
    }

    pub fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Makes a token; it is durable. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn create(&self, fingerprint: Hash, new: NewToken) -> Result<(Token, TokenRecord), String> {
        if self.known(|known| known.tokens.len()) >= TOKENS_MAX {
            return Err(format!("there are {TOKENS_MAX} tokens: let some expire, or revoke them"));
        }
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| "the kernel gives no random numbers")?;
        let token = Token::new(fingerprint, secret);
        let now_ms = self.now_ms();
        let record = TokenRecord {
            id: token.id(),
            hash: token.hash(),
            role: new.role,
            name: new.name,
            labels: new.labels,
            created_ms: now_ms,
            expires_ms: new.ttl_ms.map(|ttl| now_ms.saturating_add(ttl)),
            uses_left: new.uses,
            revoked: false,
        };
        self.write(|connection| {
            connection.execute(
                "INSERT INTO tokens (id, hash, role, name, labels, created_ms, expires_ms, uses_left, revoked_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL)",
                params![
                    record.id,
                    record.hash,
                    record.role.word(),
                    record.name,
                    json(&record.labels),
                    signed(record.created_ms),
                    record.expires_ms.map(signed),
                    record.uses_left
                ],
            )
        })?;
        self.change(|known| known.tokens.insert(record.id.clone(), record.clone()));
        Ok((token, record))
    }

    /// Newest first.
    pub fn tokens(&self) -> Vec<TokenRecord> {
        let mut tokens: Vec<_> = self.known(|known| known.tokens.values().cloned().collect());
        tokens.sort_by(|one, other| (other.created_ms, &other.id).cmp(&(one.created_ms, &one.id)));
        tokens
    }

    /// It admits nobody from now on. None: there is none with this id. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn revoke_token(&self, id: &str) -> Result<Option<TokenRecord>, String> {
        let now_ms = signed(self.now_ms());
        // In memory first: nobody is admitted by it while the disk is slow.
        let record = self.change(|known| {
            let record = known.tokens.get_mut(id)?;
            record.revoked = true;
            Some(record.clone())
        });
        if record.is_some() {
            self.revoked.send_replace(());
            self.write(|connection| {
                connection.execute("UPDATE tokens SET revoked_ms = ?2 WHERE id = ?1", params![id, now_ms])
            })?;
        }
        Ok(record)
    }

    /// Waits until the token with this id admits nobody any more, and says why.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&self, id: &str) -> Refused {
        let mut revoked = self.revoked.subscribe();
        loop {
            let Some(record) = self.known(|known| known.tokens.get(id).cloned()) else { return Refused::Unknown };
            let now_ms = self.now_ms();
            match record.is_valid(now_ms) {
                // A use is counted where somebody joins; who is in has had it.
                Ok(()) | Err(Refused::UsedUp) => {}
                Err(refused) => return refused,
            }
            let left = record.expires_ms.map_or(LOOK_AGAIN, |at| Duration::from_millis(at.saturating_sub(now_ms)));
            tokio::select! {
                _ = revoked.changed() => {}
                () = sleep(left.min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// The token that this is, if it admits somebody of one of these roles.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, token: &Token, roles: &[Role]) -> Result<TokenRecord, Refused> {
        let record = self.known(|known| known.tokens.get(&token.id()).cloned()).ok_or(Refused::Unknown)?;
        // The id is no secret, and says nothing of the rest of the hash.
        if !bool::from(record.hash.ct_eq(&token.hash())) {
            return Err(Refused::Unknown);
        }
        record.is_valid(self.now_ms())?;
        if roles.contains(&record.role) { Ok(record) } else { Err(Refused::Role(record.role)) }
    }

    /// Uses a token for a certificate. Both are recorded in one transaction, so that a token is used as often as it may
    /// be and no more, whoever comes at once. Blocks.
    ///
    /// # Errors
    /// Why the token does not admit, or what `issue` said.
    pub fn admit(
        &self,
        token: &Token,
        who: &Applicant<'_>,
        issue: impl FnOnce() -> Result<Issued, String>,
    ) -> Result<(Issued, CertificateRecord), Refused> {
        let store = |error: rusqlite::Error| Refused::Store(error.to_string());
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let id = token.id();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store)?;
        let again = "SELECT 1 FROM joins WHERE token = ?1 AND key_hash = ?2 AND agent_id = ?3";
        let again = transaction.query_row(again, params![id, who.key_hash, who.agent_id], |_| Ok(()));
        let again = again.optional().map_err(store)?.is_some();
        let checked = self.check(token, &[Role::Agent]);
        let record = match checked {
            // A lost answer is asked for again.
            Err(Refused::UsedUp) if again => {
                self.known(|known| known.tokens.get(&id).cloned()).ok_or(Refused::Unknown)?
            }
            checked => checked?,
        };
        if !record.name.is_empty() && record.name != who.name {
            return Err(Refused::Name(record.name));
        }
        let issued = issue().map_err(Refused::Store)?;
        let used = !again && record.uses_left.is_some();
        if used {
            let spend = "UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ?1 AND uses_left > 0";
            if transaction.execute(spend, [&id]).map_err(store)? != 1 {
                return Err(Refused::UsedUp);
            }
        }
        let join = "INSERT OR IGNORE INTO joins (token, key_hash, agent_id) VALUES (?1, ?2, ?3)";
        transaction.execute(join, params![id, who.key_hash, who.agent_id]).map_err(store)?;
        let certificate = self.record(who.agent_id, record.name, record.labels, &issued);
        insert(&transaction, &issued.fingerprint, &certificate).map_err(store)?;
        transaction.commit().map_err(store)?;
        // Before the next one may look: the connection is still held.
        self.change(|known| {
            if let Some(record) = known.tokens.get_mut(&id).filter(|_| used) {
                record.uses_left = record.uses_left.map(|left| left.saturating_sub(1));
            }
            known.certificates.insert(issued.fingerprint, certificate.clone());
        });
        Ok((issued, certificate))
    }

    /// Records a certificate that follows another. Blocks.
    ///
    /// # Errors
    /// For people; also where the other is not known, or revoked.
    pub fn renew(&self, present: &Hash, issued: &Issued) -> Result<CertificateRecord, String> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.certificate(present).filter(|before| !before.revoked);
        let before = before.ok_or("the certificate is revoked, or was not made here")?;
        let certificate = self.record(before.agent_id, before.name, before.labels, issued);
        insert(&connection, &issued.fingerprint, &certificate).map_err(|error| error.to_string())?;
        // It may have been revoked meanwhile, with all of its agent's.
        let revoked = self.change(|known| {
            let revoked = known.certificates.get(present).is_none_or(|before| before.revoked);
            let certificate = CertificateRecord { revoked, ..certificate.clone() };
            known.certificates.insert(issued.fingerprint, certificate);
            revoked
        });
        if revoked { Err("the certificate is revoked".to_owned()) } else { Ok(certificate) }
    }

    pub fn certificate(&self, fingerprint: &Hash) -> Option<CertificateRecord> {
        self.known(|known| known.certificates.get(fingerprint).cloned())
    }

    /// Until when the newest certificate of this agent is good; none: it has none that was made here and admits it.
    pub fn agent_expires_ms(&self, agent_id: &[u8; 16]) -> Option<u64> {
        self.known(|known| {
            let its = known.certificates.values().filter(|one| one.agent_id == *agent_id && !one.revoked);
            its.filter(|one| one.issued_ms > 0).map(|one| one.expires_ms).max()
        })
    }

    /// Remembers a certificate that was made elsewhere, so that it can be revoked with its agent. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn note(&self, fingerprint: &Hash, agent_id: [u8; 16]) -> Result<(), String> {
        let record = CertificateRecord {
            agent_id,
            name: String::new(),
            labels: BTreeMap::new(),
            issued_ms: 0,
            expires_ms: u64::MAX >> 1,
            revoked: false,
        };
        self.write(|connection| insert(connection, fingerprint, &record))?;
        self.change(|known| _ = known.certificates.entry(*fingerprint).or_insert(record));
        Ok(())
    }

    /// No certificate of this agent is good any more, in this process: [`Admission::revoke_agent`] makes it durable.
    pub fn refuse_agent(&self, agent_id: &[u8; 16]) {
        self.change(|known| {
            known.certificates.values_mut().filter(|known| known.agent_id == *agent_id).for_each(|known| {
                known.revoked = true;
            });
        });
    }

    /// No certificate of this agent is good any more. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn revoke_agent(&self, agent_id: &[u8; 16]) -> Result<(), String> {
        self.refuse_agent(agent_id);
        let now_ms = signed(self.now_ms());
        self.write(|connection| {
            // Nor does its key make a use of a token that is used up.
            connection.execute("DELETE FROM joins WHERE agent_id = ?1", [agent_id])?;
            let revoke = "UPDATE certificates SET revoked_ms = ?2 WHERE agent_id = ?1 AND revoked_ms IS NULL";
            connection.execute(revoke, params![agent_id, now_ms])
        })
    }

    fn record(
        &self,
        agent_id: [u8; 16],
        name: String,
        labels: BTreeMap<String, String>,
        issued: &Issued,
    ) -> CertificateRecord {
        let (issued_ms, expires_ms) = (self.now_ms(), issued.expires_ms);
        CertificateRecord { agent_id, name, labels, issued_ms, expires_ms, revoked: false }
    }

    fn write(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<usize>) -> Result<(), String> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        write(&connection).map(drop).map_err(|error| error.to_string())
    }

    fn known<R>(&self, look: impl FnOnce(&Known) -> R) -> R {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Known) -> R) -> R {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn prepare(connection: &Connection, now_ms: u64) -> rusqlite::Result<Known> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let before = signed(now_ms.saturating_sub(FORGET_AFTER));
    connection.execute("DELETE FROM tokens WHERE expires_ms < ?1 OR revoked_ms < ?1", [before])?;
    connection.execute("DELETE FROM joins WHERE token NOT IN (SELECT id FROM tokens)", [])?;
    // One that has expired is refused by TLS already.
    connection.execute("DELETE FROM certificates WHERE expires_ms < ?1", [before])?;
    let tokens = "SELECT id, hash, role, name, labels, created_ms, expires_ms, uses_left, revoked_ms FROM tokens";
    let tokens = connection.prepare(tokens)?.query_map([], token)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let certificates =
        "SELECT fingerprint, agent_id, name, labels, issued_ms, expires_ms, revoked_ms FROM certificates";
    let certificates = connection.prepare(certificates)?.query_map([], certificate)?.collect::<Result<_, _>>()?;
    Ok(Known { tokens: tokens.into_iter().map(|token| (token.id.clone(), token)).collect(), certificates })
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    Ok(TokenRecord {
        id: id_of(&row.get::<_, Hash>(1)?),
        hash: row.get(1)?,
        // A role that is not known has the fewest rights that there are.
        role: Role::from_word(&row.get::<_, String>(2)?).unwrap_or(Role::Viewer),
        name: row.get(3)?,
        labels: labels(&row.get::<_, String>(4)?),
        created_ms: row.get::<_, i64>(5)? as u64,
        expires_ms: row.get::<_, Option<i64>>(6)?.map(|at| at as u64),
        uses_left: row.get(7)?,
        revoked: row.get::<_, Option<i64>>(8)?.is_some(),
    })
}

fn certificate(row: &Row<'_>) -> rusqlite::Result<(Hash, CertificateRecord)> {
    let record = CertificateRecord {
        agent_id: row.get(1)?,
        name: row.get(2)?,
        labels: labels(&row.get::<_, String>(3)?),
        issued_ms: row.get::<_, i64>(4)? as u64,
        expires_ms: row.get::<_, i64>(5)? as u64,
        revoked: row.get::<_, Option<i64>>(6)?.is_some(),
    };
    Ok((row.get(0)?, record))
}

fn insert(connection: &Connection, fingerprint: &Hash, record: &CertificateRecord) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT OR IGNORE INTO certificates (fingerprint, agent_id, name, labels, issued_ms, expires_ms, revoked_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL)",
        params![
            fingerprint,
            record.agent_id,
            record.name,
            json(&record.labels),
            signed(record.issued_ms),
            signed(record.expires_ms)
        ],
    )
}

fn json(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).expect("texts are JSON")
}

fn labels(text: &str) -> BTreeMap<String, String> {
    serde_json::from_str(text).unwrap_or_default()
}

/// SQLite's integers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
