//! Tokens: what they are, whom they admit, and why not.

use super::{
    Admission,
    certificates::{self, Hash},
    rows::{json, signed},
};
use crate::{clock::sleep, security::Role};
use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::params;
use sloth_agent::token::Token;
use std::{collections::BTreeMap, fmt, time::Duration};
use subtle::ConstantTimeEq;

/// More tokens are not kept: revoke or let expire what is not needed.
pub const TOKENS_MAX: usize = 10_000;

/// One token lets in so many keys, however many uses it has: who has an unlimited one could else fill the disk of the
/// master with ids that he makes up. Ten times the largest fleet that was tried.
pub const JOINS_MAX: u32 = 100_000;

/// Whether a token has expired is looked at so often while a call goes on: the clock of the day may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A token, as it is kept: without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: String,
    pub(super) hash: Hash,
    pub role: Role,
    /// Of an agent: the only one that it may have. Empty: any.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub created_ms: u64,
    pub expires_ms: Option<u64>,
    pub uses_left: Option<u32>,
    pub revoked_ms: Option<u64>,
}

/// A token that admits nobody any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    pub record: TokenRecord,
    /// It was before, and since when stands in the record.
    pub already: bool,
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
    Expired(Role),
    UsedUp,
    Revoked(Role),
    /// It is of another role.
    Role(Role),
    /// It is for an agent of this name.
    Name(String),
    /// It is the id of an agent of this name, which has a certificate, and the token is not for that name.
    Held(String),
    /// It is the id of an agent that was deleted, and the token is older than that.
    Deleted,
    /// It has let in all that one token may.
    Exhausted,
    /// So many certificates are on record for this agent id, all but a few of them revoked.
    TooOften,
    /// It could not be looked up, or not be recorded.
    Store(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ANOTHER: &str = "make another with `sloth-runner token create`";
        // Who comes with it cannot make one himself.
        let another = |role: &Role| match role {
            Role::Agent => ANOTHER.to_owned(),
            role => format!(
                "ask an operator for another (`sloth-runner token create --role {}`), or make a certificate on the \
                 master's machine (`sloth-runner master operator-cert`)",
                role.word()
            ),
        };
        match self {
            Self::Unknown => write!(f, "this master does not know the token: is it of another one? {ANOTHER}"),
            Self::Expired(role) => write!(f, "the token has expired: {}", another(role)),
            Self::UsedUp => write!(f, "the token is used up: {ANOTHER}"),
            Self::Revoked(role) => write!(f, "the token is revoked: {}", another(role)),
            Self::Role(Role::Agent) => f.write_str(
                "the token is of role agent and does not serve for this: it lets agents join; `sloth-runner token create \
                 --role operator` or `--role viewer` makes one for people, and `sloth-runner master init` has written an \
                 operator's to operator.token",
            ),
            Self::Role(role) => write!(
                f,
                "the token is of role {} and does not serve for this: agents join with one that `sloth-runner token \
                 create` makes without --role",
                role.word()
            ),
            Self::Name(name) => write!(f, "the token is for an agent called {name}: start it with --name {name}"),
            Self::Held(name) => {
                write!(
                    f,
                    "this agent id is that of {name}, which has a certificate: to have it back without that, start it with \
                     a token for its name (`sloth-runner token create --name {name}`), or delete it first (`sloth-runner \
                     agent delete {name}`)"
                )
            }
            Self::Deleted => write!(
                f,
                "an operator has deleted this agent, and the token was made before that: to have the agent back, {ANOTHER}"
            ),
            Self::Exhausted => write!(f, "the token has let {JOINS_MAX} agents in, which is all that one may: {ANOTHER}"),
            Self::TooOften => write!(
                f,
                "this agent id has joined {} times, and no agent needs so many: remove agent-id from its state directory, \
                 and it joins with another",
                certificates::RECORDS_MAX
            ),
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
            Self { revoked_ms: Some(_), role, .. } => Err(Refused::Revoked(*role)),
            Self { expires_ms: Some(at), role, .. } if *at <= now_ms => Err(Refused::Expired(*role)),
            Self { uses_left: Some(0), .. } => Err(Refused::UsedUp),
            _ => Ok(()),
        }
    }
}

impl Admission {
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
        // It admits who was deleted before, also where the clock was set back since.
        let created_ms =
            self.known(|known| known.certificates.last_deleted_ms()).map_or(now_ms, |at| now_ms.max(at + 1));
        let record = TokenRecord {
            id: token.id(),
            hash: token.hash(),
            role: new.role,
            name: new.name,
            labels: new.labels,
            created_ms,
            expires_ms: new.ttl_ms.map(|ttl| now_ms.saturating_add(ttl)),
            uses_left: new.uses,
            revoked_ms: None,
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

    /// The token with this id, also where it admits nobody any more.
    pub fn token(&self, id: &str) -> Option<TokenRecord> {
        self.known(|known| known.tokens.get(id).cloned())
    }

    /// It admits nobody from now on. None: there is none with this id. Blocks.
    ///
    /// # Errors
    /// For people.
    pub fn revoke_token(&self, id: &str) -> Result<Option<Revoked>, String> {
        let now_ms = self.now_ms();
        // In memory first: nobody is admitted by it while the disk is slow.
        let revoked = self.change(|known| {
            let record = known.tokens.get_mut(id)?;
            let already = record.revoked_ms.replace(record.revoked_ms.unwrap_or(now_ms)).is_some();
            Some(Revoked { record: record.clone(), already })
        });
        if revoked.is_some() {
            self.revoked.send_replace(());
            // Also where it was already: that may not have come to the disk.
            let since = "UPDATE tokens SET revoked_ms = coalesce(revoked_ms, ?2) WHERE id = ?1";
            self.write(|connection| connection.execute(since, params![id, signed(now_ms)]))?;
        }
        Ok(revoked)
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
            let left = Duration::from_millis(record.expires_ms.unwrap_or(u64::MAX).saturating_sub(now_ms));
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
}
