//! Tokens and certificates that this master has given out, in its database; what every call asks is in memory, too.

mod certificates;
mod rows;
#[cfg(test)]
mod tests;
mod tokens;

pub use self::{
    certificates::{CertificateRecord, Deletion},
    tokens::{JOINS_MAX, NewToken, Refused, Revoked, TOKENS_MAX, TokenRecord},
};

use self::{
    certificates::{AgentId, Certificates, Hash},
    rows::{insert, prepare, replace, signed},
};
use super::Role;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use sloth_agent::token::{Token, sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Mutex, PoisonError, RwLock},
};
use tokio::sync::watch;

/// One certificate, if it is not yet.
const REVOKE: &str = "UPDATE certificates SET revoked_ms = ?2 WHERE fingerprint = ?1 AND revoked_ms IS NULL";

/// Tokens and certificates of one master.
pub struct Admission {
    connection: Mutex<Connection>,
    known: RwLock<Known>,
    /// Told of every token that is revoked.
    revoked: watch::Sender<()>,
    clock: fn() -> u64,
    /// No time is earlier, milliseconds since 1970.
    earliest_ms: u64,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<String, TokenRecord>,
    /// How many keys each has let in.
    joins: HashMap<String, u32>,
    certificates: Certificates,
}

/// Who wants a certificate by a token.
pub struct Applicant<'a> {
    pub agent_id: AgentId,
    pub name: &'a str,
    /// The name under which the fleet knows this agent id, if it does.
    pub known_as: Option<&'a str>,
    /// Of its public key. The same token with the same key again is no further use.
    pub key_hash: Hash,
}

/// A certificate that was made: DER, its hash, until when it is good, and the hash of the CA that has made it.
pub struct Issued {
    pub der: Vec<u8>,
    pub fingerprint: Hash,
    pub expires_ms: u64,
    pub authority: Hash,
}

/// What became of a request to join.
pub struct Admitted {
    pub issued: Issued,
    pub record: CertificateRecord,
    /// It was given before, and the answer was lost: nothing has changed.
    pub again: bool,
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
            earliest_ms: 0,
        })
    }

    /// No time is earlier than this: when its authority was made. A clock that shows one is wrong.
    pub fn not_before(self, earliest_ms: u64) -> Self {
        Self { earliest_ms, ..self }
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        (self.clock)().max(self.earliest_ms)
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
    ) -> Result<Admitted, Refused> {
        let store = |error: rusqlite::Error| Refused::Store(error.to_string());
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let id = token.id();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store)?;
        let again = "SELECT certificate FROM joins WHERE token = ?1 AND key_hash = ?2 AND agent_id = ?3";
        let again = transaction.query_row(again, params![id, who.key_hash, who.agent_id], |row| row.get(0));
        let again: Option<Option<Vec<u8>>> = again.optional().map_err(store)?;
        // Who was superseded has had his answer: he is a newcomer, with a token that may be used up.
        let is_revoked =
            |der: &Vec<u8>| self.certificate(&sha256(der), &who.agent_id).is_some_and(|given| given.revoked);
        let again = again.filter(|given| !given.as_ref().is_some_and(is_revoked));
        let record = match self.check(token, &[Role::Agent]) {
            // A lost answer is asked for again.
            Err(Refused::UsedUp | Refused::Expired(_)) if again.is_some() => {
                self.known(|known| known.tokens.get(&id).cloned()).ok_or(Refused::Unknown)?
            }
            checked => checked?,
        };
        if !record.name.is_empty() && record.name != who.name {
            return Err(Refused::Name(record.name));
        }
        if let Some(der) = again.as_ref().and_then(Option::as_ref) {
            let fingerprint = sha256(der);
            let given = self.certificate(&fingerprint, &who.agent_id).filter(|given| !given.revoked);
            if let Some(record) = given {
                let (der, expires_ms, authority) = (der.clone(), record.expires_ms, record.authority);
                let issued = Issued { der, fingerprint, expires_ms, authority };
                return Ok(Admitted { issued, record, again: true });
            }
        }
        let issued = issue().map_err(Refused::Store)?;
        if again.is_none() {
            self.known(|known| {
                is_free(&known.certificates, who, &record, &issued.authority)?;
                let joined = known.joins.get(&id).copied().unwrap_or_default();
                if joined < JOINS_MAX { Ok(()) } else { Err(Refused::Exhausted) }
            })?;
        }
        let used = again.is_none() && record.uses_left.is_some();
        if used {
            let spend = "UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ?1 AND uses_left > 0";
            if transaction.execute(spend, [&id]).map_err(store)? != 1 {
                return Err(Refused::UsedUp);
            }
        }
        let join = "INSERT OR REPLACE INTO joins (token, key_hash, agent_id, certificate) VALUES (?1, ?2, ?3, ?4)";
        transaction.execute(join, params![id, who.key_hash, who.agent_id, issued.der]).map_err(store)?;
        let certificate = self.record(who.agent_id, record.name, record.labels, &issued);
        // Not forgotten: of this agent one that nobody knows would be taken for one whose record was lost.
        let surplus = self.known(|known| known.certificates.surplus(&who.agent_id, None));
        let now_ms = signed(self.now_ms());
        for old in &surplus {
            transaction.execute(REVOKE, params![old, now_ms]).map_err(store)?;
        }
        insert(&transaction, &issued.fingerprint, &certificate).map_err(store)?;
        transaction.commit().map_err(store)?;
        // Before the next one may look: the connection is still held.
        self.change(|known| {
            if let Some(record) = known.tokens.get_mut(&id).filter(|_| used) {
                record.uses_left = record.uses_left.map(|left| left.saturating_sub(1));
            }
            if again.is_none() {
                *known.joins.entry(id).or_default() += 1;
            }
            known.certificates.revoke(&surplus);
            known.certificates.insert(issued.fingerprint, certificate.clone());
            known.certificates.set_joined(issued.fingerprint);
        });
        Ok(Admitted { issued, record: certificate, again: false })
    }

    /// Records a certificate that follows another. Blocks.
    ///
    /// # Errors
    /// For people; also where the other is not known, or revoked.
    pub fn renew(
        &self,
        present: &Hash,
        agent_id: &AgentId,
        issue: impl FnOnce() -> Result<Issued, String>,
    ) -> Result<(Issued, CertificateRecord), String> {
        const REVOKED: &str = "the certificate is revoked, or was not made here";
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.certificate(present, agent_id).filter(|before| !before.revoked);
        let before = before.ok_or(REVOKED)?;
        if before.is_young(self.now_ms()) {
            return Err("the certificate is too young to be renewed: that is done at two thirds of its life".to_owned());
        }
        if self.known(|known| known.certificates.is_flooded(agent_id, present, self.now_ms())) {
            return Err("this agent was given several new certificates just now: it is renewed later".to_owned());
        }
        let issued = issue()?;
        let certificate = self.record(*agent_id, before.name, before.labels, &issued);
        let surplus = self.known(|known| known.certificates.surplus(agent_id, Some(present)));
        let transaction = connection.transaction().map_err(|error| error.to_string())?;
        let replaced = replace(&transaction, &surplus, &issued.fingerprint, &certificate);
        replaced.and_then(|()| transaction.commit()).map_err(|error| error.to_string())?;
        // It may have been revoked meanwhile, with all of its agent's.
        let revoked = self.change(|known| {
            let revoked = known.certificates.find(present, agent_id).is_none_or(|before| before.revoked);
            let certificate = CertificateRecord { revoked, ..certificate.clone() };
            known.certificates.remove(&surplus);
            known.certificates.insert(issued.fingerprint, certificate);
            revoked
        });
        if revoked { Err(REVOKED.to_owned()) } else { Ok((issued, certificate)) }
    }

    /// What holds for this certificate of this agent; none: nothing is known of the agent.
    pub fn certificate(&self, fingerprint: &Hash, agent_id: &AgentId) -> Option<CertificateRecord> {
        self.known(|known| known.certificates.find(fingerprint, agent_id))
    }

    /// Until when the newest certificate of this agent is good; none: it has none that was made here and admits it.
    pub fn agent_expires_ms(&self, agent_id: &AgentId) -> Option<u64> {
        self.known(|known| known.certificates.expires_ms(agent_id))
    }

    /// Remembers a certificate that was made elsewhere, so that it can be revoked with its agent. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn note(&self, fingerprint: &Hash, record: CertificateRecord) -> Result<(), String> {
        let agent_id = record.agent_id;
        self.write(|connection| {
            let deleted = "SELECT 1 FROM deleted_agents WHERE agent_id = ?1";
            let deleted = connection.query_row(deleted, [agent_id], |_| Ok(())).optional()?.is_some();
            if deleted { Ok(0) } else { insert(connection, fingerprint, &record) }
        })?;
        self.change(|known| {
            if !known.certificates.is_deleted(&agent_id) {
                known.certificates.insert(*fingerprint, record);
            }
        });
        Ok(())
    }

    /// An agent registers with this certificate. If it has joined with it, what it had before is good no more, in this
    /// process: which ones those are, for [`Self::revoke`]. Not before that, for the answer to a join can be lost.
    pub fn supersede(&self, agent_id: &AgentId, in_use: &Hash) -> Vec<Hash> {
        let nothing_new = |known: &Known| {
            known.certificates.is_in_use(agent_id, in_use) && known.certificates.superseded(in_use).is_empty()
        };
        if self.known(nothing_new) {
            return Vec::new();
        }
        self.change(|known| {
            known.certificates.set_in_use(*agent_id, *in_use);
            known.certificates.supersede(in_use)
        })
    }

    /// Makes durable that these certificates are good no more. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn revoke(&self, certificates: &[Hash]) -> Result<(), String> {
        let now_ms = signed(self.now_ms());
        self.write(|connection| {
            certificates.iter().map(|certificate| connection.execute(REVOKE, params![certificate, now_ms])).sum()
        })
    }

    /// No certificate of this agent is good any more, in this process: [`Admission::revoke_agent`] makes it durable.
    pub fn refuse_agent(&self, agent_id: &AgentId, name: &str) {
        let now_ms = self.now_ms();
        self.change(|known| {
            // Later than every token that there is, also where the clock was set back.
            let at_ms = known.tokens.values().map(|token| token.created_ms).fold(now_ms, u64::max);
            known.certificates.refuse(*agent_id, Deletion { at_ms, name: name.to_owned() });
        });
    }

    /// The last deletion of the agent with this id.
    pub fn deletion(&self, agent_id: &AgentId) -> Option<Deletion> {
        self.known(|known| known.certificates.deletion(agent_id).cloned())
    }

    /// No certificate of this agent is good any more, also none that was not seen yet. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn revoke_agent(&self, agent_id: &AgentId, name: &str) -> Result<(), String> {
        // It may be refused already: tokens that were made since are newer than that.
        if self.known(|known| !known.certificates.is_refused(agent_id)) {
            self.refuse_agent(agent_id, name);
        }
        let now_ms = signed(self.now_ms());
        let deleted_ms = signed(self.deletion(agent_id).map_or(0, |deletion| deletion.at_ms));
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let revoke = |transaction: &Transaction<'_>| {
            // Nor does its key make a use of a token that is used up.
            transaction.execute("DELETE FROM joins WHERE agent_id = ?1", [agent_id])?;
            let deleted = "INSERT OR REPLACE INTO deleted_agents (agent_id, deleted_ms, name) VALUES (?1, ?2, ?3)";
            transaction.execute(deleted, params![agent_id, deleted_ms, name])?;
            let revoke = "UPDATE certificates SET revoked_ms = ?2 WHERE agent_id = ?1 AND revoked_ms IS NULL";
            transaction.execute(revoke, params![agent_id, now_ms])
        };
        let transaction = connection.transaction().map_err(|error| error.to_string())?;
        let revoked = revoke(&transaction).and_then(|_| transaction.commit());
        revoked.map_err(|error| error.to_string())
    }

    fn record(
        &self,
        agent_id: AgentId,
        name: String,
        labels: BTreeMap<String, String>,
        issued: &Issued,
    ) -> CertificateRecord {
        let (issued_ms, expires_ms, authority) = (self.now_ms(), issued.expires_ms, issued.authority);
        CertificateRecord { agent_id, name, labels, issued_ms, expires_ms, revoked: false, authority }
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

/// An agent id that has a certificate is given to nobody else by a token that is not for its name: who has that token,
/// and has read the id somewhere, would be given that agent's commands.
fn is_free(
    certificates: &Certificates,
    who: &Applicant<'_>,
    token: &TokenRecord,
    authority: &Hash,
) -> Result<(), Refused> {
    // It would come back by itself, or whoever stole it would, by the token that it was started with.
    if certificates.deletion(&who.agent_id).is_some_and(|deletion| token.created_ms <= deletion.at_ms) {
        return Err(Refused::Deleted);
    }
    if certificates.count(&who.agent_id) >= certificates::RECORDS_MAX {
        return Err(Refused::TooOften);
    }
    match who.known_as {
        Some(name) if name != token.name && certificates.is_held(&who.agent_id, authority) => {
            Err(Refused::Held(name.to_owned()))
        }
        // One that never registered has nothing that could be taken: it may have died before it had its certificate.
        _ => Ok(()),
    }
}
