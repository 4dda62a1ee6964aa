//! How tokens and certificates stand in the database.

use super::{
    Known,
    certificates::{CertificateRecord, Certificates, Deletion, Hash},
    tokens::TokenRecord,
};
use crate::security::Role;
use rusqlite::{Connection, Row, Transaction, params};
use sloth_agent::token::{id_of, sha256};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// A token that is of no use any more is forgotten so long after, milliseconds.
const FORGET_AFTER: u64 = 30 * 86_400_000;

pub(super) fn prepare(connection: &Connection, now_ms: u64) -> rusqlite::Result<Known> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let before = signed(now_ms.saturating_sub(FORGET_AFTER));
    connection.execute("DELETE FROM tokens WHERE expires_ms < ?1 OR revoked_ms < ?1", [before])?;
    connection.execute("DELETE FROM joins WHERE token NOT IN (SELECT id FROM tokens)", [])?;
    // The newest of each agent stays, and so does what is revoked: the clock may be wrong this once.
    let superseded = "DELETE FROM certificates AS old WHERE expires_ms < ?1 AND revoked_ms IS NULL AND EXISTS (
        SELECT 1 FROM certificates AS new
        WHERE new.agent_id = old.agent_id AND new.revoked_ms IS NULL AND new.expires_ms > old.expires_ms)";
    connection.execute(superseded, [before])?;
    let tokens = "SELECT id, hash, role, name, labels, created_ms, expires_ms, uses_left, revoked_ms FROM tokens";
    let tokens = connection.prepare(tokens)?.query_map([], token)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let certificates = "SELECT fingerprint, agent_id, name, labels, issued_ms, expires_ms, revoked_ms, authority
        FROM certificates ORDER BY number, issued_ms, expires_ms";
    let certificates = connection.prepare(certificates)?.query_map([], certificate)?.collect::<Result<_, _>>()?;
    let deleted = "SELECT agent_id, deleted_ms, name FROM deleted_agents";
    let deletion =
        |row: &Row<'_>| Ok((row.get(0)?, Deletion { at_ms: row.get::<_, i64>(1)? as u64, name: row.get(2)? }));
    let deleted = connection.prepare(deleted)?.query_map([], deletion)?.collect::<Result<_, _>>()?;
    let mut certificates = Certificates::new(certificates, deleted);
    let mut joins = HashMap::new();
    let mut given = connection.prepare("SELECT token, certificate FROM joins")?;
    let mut given = given.query([])?;
    while let Some(row) = given.next()? {
        *joins.entry(row.get(0)?).or_default() += 1;
        if let Some(der) = row.get::<_, Option<Vec<u8>>>(1)? {
            certificates.set_joined(sha256(&der));
        }
    }
    Ok(Known { tokens: tokens.into_iter().map(|token| (token.id.clone(), token)).collect(), joins, certificates })
}

pub(super) fn token(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
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
        revoked_ms: row.get::<_, Option<i64>>(8)?.map(|at| at as u64),
    })
}

pub(super) fn certificate(row: &Row<'_>) -> rusqlite::Result<(Hash, CertificateRecord)> {
    let record = CertificateRecord {
        agent_id: row.get(1)?,
        name: row.get(2)?,
        labels: labels(&row.get::<_, String>(3)?),
        issued_ms: row.get::<_, i64>(4)? as u64,
        expires_ms: row.get::<_, i64>(5)? as u64,
        revoked: row.get::<_, Option<i64>>(6)?.is_some(),
        authority: row.get::<_, Option<Hash>>(7)?.unwrap_or_default(),
    };
    Ok((row.get(0)?, record))
}

pub(super) fn insert(
    connection: &Connection,
    fingerprint: &Hash,
    record: &CertificateRecord,
) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT OR IGNORE INTO certificates
         (fingerprint, agent_id, name, labels, issued_ms, expires_ms, revoked_ms, authority, number)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, NULL, ?7, coalesce(max(number), 0) + 1 FROM certificates WHERE agent_id = ?2",
        params![
            fingerprint,
            record.agent_id,
            record.name,
            json(&record.labels),
            signed(record.issued_ms),
            signed(record.expires_ms),
            record.authority
        ],
    )
}

/// One for others, as a whole.
pub(super) fn replace(
    transaction: &Transaction<'_>,
    surplus: &[Hash],
    fingerprint: &Hash,
    record: &CertificateRecord,
) -> rusqlite::Result<()> {
    for old in surplus {
        transaction.execute("DELETE FROM certificates WHERE fingerprint = ?1", [old])?;
    }
    insert(transaction, fingerprint, record).map(drop)
}

pub(super) fn json(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).expect("texts are JSON")
}

pub(super) fn labels(text: &str) -> BTreeMap<String, String> {
    serde_json::from_str(text).unwrap_or_default()
}

/// SQLite's integers are signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
