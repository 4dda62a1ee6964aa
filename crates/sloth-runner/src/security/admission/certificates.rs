//! What is known of the certificates that agents show. Pure.
//!
//! Rights belong to the agent id that a certificate names, not to the one file: whoever was deleted is out with every
//! certificate of that id, also with one that nobody here has seen yet; and a certificate whose record is lost, as after
//! a backup was restored, is bound by what its agent's others are bound by.

use std::collections::{BTreeMap, HashMap, HashSet};

pub type AgentId = [u8; 16];
/// SHA-256 of a certificate, or of a key.
pub type Hash = [u8; 32];

/// Of one agent so many are kept that are not revoked: the one it uses, and those whose answers may have been lost.
pub const KEPT: usize = 4;

/// With so many on record an agent does not join again. What was revoked is not forgotten: the clock may be wrong.
pub const RECORDS_MAX: usize = 1_000;

/// A certificate of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRecord {
    pub agent_id: AgentId,
    /// The only name that the agent may have. Empty: any.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// 0: it was not made here.
    pub issued_ms: u64,
    pub expires_ms: u64,
    pub revoked: bool,
    /// The CA that made it here; zeros for another.
    pub authority: Hash,
}

impl CertificateRecord {
    /// One that was made elsewhere, for an agent that nothing else is known of.
    pub fn foreign(agent_id: AgentId) -> Self {
        Self {
            agent_id,
            name: String::new(),
            labels: BTreeMap::new(),
            issued_ms: 0,
            expires_ms: u64::MAX >> 1,
            revoked: false,
            authority: [0; 32],
        }
    }

    /// One that is not on record, or was not made here as far as is known: good until then, and with an authority that
    /// gives certificates so long a life renewed as if it had been made by it.
    pub fn found(agent_id: AgentId, expires_ms: u64, life_ms: Option<u64>) -> Self {
        let issued_ms = life_ms.map_or(0, |life_ms| expires_ms.saturating_sub(life_ms).max(1));
        Self { issued_ms, expires_ms: expires_ms.min(u64::MAX >> 1), ..Self::foreign(agent_id) }
    }

    /// How long from now until it is to be renewed, at two thirds of its life: milliseconds, at least 1. 0: never.
    pub fn renew_in_ms(&self, now_ms: u64) -> u64 {
        if self.issued_ms == 0 {
            return 0;
        }
        let at = self.issued_ms + self.expires_ms.saturating_sub(self.issued_ms) / 3 * 2;
        at.saturating_sub(now_ms).max(1)
    }

    /// Before half of its life a new one is only asked for by who wants to do harm with the number of them.
    pub fn is_young(&self, now_ms: u64) -> bool {
        self.issued_ms > 0 && now_ms < self.issued_ms + self.expires_ms.saturating_sub(self.issued_ms) / 2
    }
}

#[derive(Debug, Default)]
pub struct Certificates {
    known: HashMap<Hash, CertificateRecord>,
    /// In the order in which they were given, whatever the clock said then.
    by_agent: HashMap<AgentId, Vec<Hash>>,
    /// Given for a token, and not for the certificate before.
    joined: HashSet<Hash>,
    /// With which each agent has registered last.
    in_use: HashMap<AgentId, Hash>,
    /// Of these only certificates that are known are good.
    deleted: HashMap<AgentId, Deletion>,
}

/// An agent was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What it was called. Empty: that was not kept then.
    pub name: String,
}

impl Certificates {
    /// From what was kept, in the order in which they were given.
    pub fn new(known: Vec<(Hash, CertificateRecord)>, deleted: HashMap<AgentId, Deletion>) -> Self {
        let mut all = Self { deleted, ..Self::default() };
        for (hash, record) in known {
            all.by_agent.entry(record.agent_id).or_default().push(hash);
            all.known.insert(hash, record);
        }
        all
    }

    /// What holds for this certificate of this agent. None: nothing is known of the agent.
    pub fn find(&self, hash: &Hash, agent: &AgentId) -> Option<CertificateRecord> {
        if let Some(record) = self.known.get(hash) {
            return Some(record.clone());
        }
        if self.is_deleted(agent) {
            return Some(CertificateRecord { revoked: true, ..CertificateRecord::foreign(*agent) });
        }
        self.live(agent).last().map(|(_, record)| record.clone())
    }

    /// Those of an agent that are not revoked, oldest first.
    fn live(&self, agent: &AgentId) -> impl DoubleEndedIterator<Item = (&Hash, &CertificateRecord)> {
        let its = self.by_agent.get(agent).into_iter().flatten();
        its.filter_map(|hash| Some((hash, self.known.get(hash)?))).filter(|(_, record)| !record.revoked)
    }

    /// Whether an agent has one that this authority has made, or one from elsewhere: then the id is somebody's.
    pub fn is_held(&self, agent: &AgentId, authority: &Hash) -> bool {
        self.live(agent).any(|(_, record)| record.authority == *authority || record.authority == [0; 32])
    }

    /// Whether all that may be kept beside the one it shows were made lately, within a sixteenth of their lives: answers
    /// are lost, but not so many. Who asks on and on would fill the records of the master.
    pub fn is_flooded(&self, agent: &AgentId, in_use: &Hash, now_ms: u64) -> bool {
        let lately = |record: &CertificateRecord| {
            let life_ms = record.expires_ms.saturating_sub(record.issued_ms);
            record.issued_ms > 0 && now_ms < record.issued_ms.saturating_add(life_ms / 16)
        };
        self.live(agent).filter(|(hash, record)| *hash != in_use && lately(record)).count() >= KEPT - 1
    }

    /// Which ones are not to be kept when another comes: the agent's oldest, but never the one that it uses.
    pub fn surplus(&self, agent: &AgentId, in_use: Option<&Hash>) -> Vec<Hash> {
        let live: Vec<_> = self.live(agent).map(|(hash, _)| *hash).collect();
        let excess = (live.len() + 1).saturating_sub(KEPT);
        let last = self.in_use.get(agent);
        live.into_iter().filter(|hash| Some(hash) != in_use && Some(hash) != last).take(excess).collect()
    }

    pub fn insert(&mut self, hash: Hash, record: CertificateRecord) {
        let its = self.by_agent.entry(record.agent_id).or_default();
        if self.known.insert(hash, record).is_none() {
            its.push(hash);
        }
    }

    pub fn remove(&mut self, hashes: &[Hash]) {
        for hash in hashes {
            let Some(record) = self.known.remove(hash) else { continue };
            self.joined.remove(hash);
            if let Some(its) = self.by_agent.get_mut(&record.agent_id) {
                its.retain(|known| known != hash);
            }
        }
    }

    /// None of this agent's is good any more but one that is given to it from now on.
    pub fn refuse(&mut self, agent: AgentId, deletion: Deletion) {
        self.deleted.insert(agent, deletion);
        let its = self.by_agent.get(&agent).cloned().unwrap_or_default();
        self.revoke(&its);
    }

    pub fn is_deleted(&self, agent: &AgentId) -> bool {
        self.deleted.contains_key(agent)
    }

    /// It was deleted, and has been given nothing since.
    pub fn is_refused(&self, agent: &AgentId) -> bool {
        self.is_deleted(agent) && self.live(agent).next().is_none()
    }

    /// The last deletion of this agent.
    pub fn deletion(&self, agent: &AgentId) -> Option<&Deletion> {
        self.deleted.get(agent)
    }

    /// When an agent was deleted last, by the clock of then.
    pub fn last_deleted_ms(&self) -> Option<u64> {
        self.deleted.values().map(|deletion| deletion.at_ms).max()
    }

    /// How many are on record of this agent.
    pub fn count(&self, agent: &AgentId) -> usize {
        self.by_agent.get(agent).map_or(0, Vec::len)
    }

    /// It was given for a token.
    pub fn set_joined(&mut self, hash: Hash) {
        self.joined.insert(hash);
    }

    /// An agent registers with it.
    pub fn set_in_use(&mut self, agent: AgentId, hash: Hash) {
        self.in_use.insert(agent, hash);
    }

    pub fn is_in_use(&self, agent: &AgentId, hash: &Hash) -> bool {
        self.in_use.get(agent) == Some(hash)
    }

    /// What an agent had before it joined again with this one, as far as it was given here. What came after it follows
    /// from it, or from a join that is newer: one before it is renewed only over a session, at two thirds of its life.
    pub fn superseded(&self, in_use: &Hash) -> Vec<Hash> {
        let present = self.known.get(in_use).filter(|present| !present.revoked && self.joined.contains(in_use));
        let Some(present) = present else { return Vec::new() };
        let before = self.live(&present.agent_id).take_while(|(hash, _)| *hash != in_use);
        before.filter(|(_, record)| record.issued_ms > 0).map(|(hash, _)| *hash).collect()
    }

    /// Those are good no more.
    pub fn supersede(&mut self, in_use: &Hash) -> Vec<Hash> {
        let superseded = self.superseded(in_use);
        self.revoke(&superseded);
        superseded
    }

    pub fn revoke(&mut self, hashes: &[Hash]) {
        for hash in hashes {
            if let Some(record) = self.known.get_mut(hash) {
                record.revoked = true;
            }
        }
    }

    /// Until when the newest certificate of this agent is good; none: it has none that was made here and admits it.
    pub fn expires_ms(&self, agent: &AgentId) -> Option<u64> {
        self.live(agent).filter(|(_, record)| record.issued_ms > 0).map(|(_, record)| record.expires_ms).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADY: AgentId = [1; 16];
    const CA: Hash = [9; 32];

    fn record(issued_ms: u64) -> CertificateRecord {
        CertificateRecord {
            issued_ms,
            expires_ms: issued_ms + 3_000,
            authority: CA,
            ..CertificateRecord::foreign(LADY)
        }
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_not_before_half() {
        let record = record(1_000);
        assert_eq!([1_000, 2_500, 3_000, 9_000].map(|now| record.renew_in_ms(now)), [2_000, 500, 1, 1]);
        assert_eq!([0, 2_499, 2_500, 9_000].map(|now| record.is_young(now)), [true, true, false, false]);
        let elsewhere = CertificateRecord { issued_ms: 0, ..record };
        assert_eq!((elsewhere.renew_in_ms(1), elsewhere.is_young(1)), (0, false));
    }

    #[test]
    fn one_that_is_not_on_record_is_bound_by_what_binds_its_agent() {
        let mut all = Certificates::default();
        assert_eq!(all.find(&[1; 32], &LADY), None);
        all.insert([1; 32], CertificateRecord { name: "lady".to_owned(), ..record(1) });
        assert_eq!(all.find(&[2; 32], &LADY).unwrap().name, "lady");
        assert_eq!(all.find(&[2; 32], &[2; 16]), None);
    }

    #[test]
    fn who_is_deleted_is_out_with_what_nobody_has_seen_too_and_back_only_by_what_it_is_given_then() {
        let mut all = Certificates::default();
        all.insert([1; 32], record(1));
        all.refuse(LADY, Deletion { at_ms: 1, name: "lady".to_owned() });
        assert!(all.find(&[1; 32], &LADY).unwrap().revoked);
        assert!(all.find(&[2; 32], &LADY).unwrap().revoked);
        assert!(!all.is_held(&LADY, &CA) && all.expires_ms(&LADY).is_none());
        all.insert([3; 32], record(5));
        assert!(!all.find(&[3; 32], &LADY).unwrap().revoked);
        assert!(all.find(&[2; 32], &LADY).unwrap().revoked);
        assert_eq!(all.expires_ms(&LADY), Some(3_005));
    }

    #[test]
    fn who_joined_again_and_comes_with_that_has_ended_what_it_had_before_and_who_was_renewed_has_not() {
        let mut all = Certificates::default();
        all.insert([1; 32], record(1));
        all.set_joined([1; 32]);
        all.insert([2; 32], record(5));
        assert!(all.superseded(&[2; 32]).is_empty(), "it was renewed: the one before is a backup's");
        all.insert([3; 32], record(7));
        all.set_joined([3; 32]);
        all.insert([4; 32], record(9));
        assert!(all.superseded(&[1; 32]).is_empty(), "the newer one's answer may have been lost");
        assert_eq!(all.supersede(&[3; 32]), [[1; 32], [2; 32]]);
        let good = [1, 2, 3, 4].map(|n| !all.find(&[n; 32], &LADY).unwrap().revoked);
        assert_eq!(good, [false, false, true, true]);
        assert!(all.supersede(&[3; 32]).is_empty());
    }

    #[test]
    fn an_id_is_held_by_certificates_of_this_authority_and_of_others_but_not_of_one_that_was_replaced() {
        let mut all = Certificates::default();
        assert!(!all.is_held(&LADY, &CA));
        all.insert([1; 32], record(1));
        assert!(all.is_held(&LADY, &CA) && !all.is_held(&LADY, &[8; 32]) && !all.is_held(&[2; 16], &CA));
        all.insert([2; 32], CertificateRecord::foreign(LADY));
        assert!(all.is_held(&LADY, &[8; 32]));
    }

    #[test]
    fn one_that_nobody_knows_is_renewed_before_it_ends_where_there_is_an_authority() {
        let found = CertificateRecord::found(LADY, 4_000, Some(3_000));
        assert_eq!((found.issued_ms, found.renew_in_ms(2_000)), (1_000, 1_000));
        // Made by one that gave more.
        assert_eq!(CertificateRecord::found(LADY, 4_000, Some(9_000)).renew_in_ms(1), 2_666);
        assert_eq!(CertificateRecord::found(LADY, 4_000, None).renew_in_ms(1), 0);
    }

    #[test]
    fn a_few_lost_answers_are_asked_for_again_and_a_flood_is_not_answered() {
        let mut all = Certificates::default();
        all.insert([1; 32], record(1_000));
        for n in 2..=4 {
            assert!(!all.is_flooded(&LADY, &[1; 32], 3_001));
            all.insert([n; 32], CertificateRecord { expires_ms: 4_600, ..record(3_000) });
        }
        assert!(all.is_flooded(&LADY, &[1; 32], 3_001));
        assert!(!all.is_flooded(&LADY, &[1; 32], 3_100));
    }

    #[test]
    fn what_was_given_before_a_join_ends_with_it_whatever_the_clock_said() {
        let mut all = Certificates::default();
        all.insert([1; 32], record(2_100));
        // The clock was set back.
        all.insert([2; 32], record(100));
        assert_eq!(all.superseded(&[2; 32]), [[0; 32]; 0], "that follows from the one before");
        all.set_joined([2; 32]);
        all.insert([3; 32], record(50));
        assert_eq!(all.superseded(&[2; 32]), [[1; 32]]);
        all.revoke(&[[2; 32]]);
        assert_eq!(all.superseded(&[2; 32]), [[0; 32]; 0], "who is out ends nobody");
    }

    #[test]
    fn the_one_that_an_agent_has_registered_with_is_no_surplus() {
        let mut all = Certificates::default();
        all.insert([1; 32], record(1));
        all.set_in_use(LADY, [1; 32]);
        (2..=4).for_each(|n| all.insert([n; 32], record(u64::from(n))));
        assert_eq!(all.surplus(&LADY, None), [[2; 32]]);
    }

    #[test]
    fn few_are_kept_of_one_agent_and_the_one_in_use_among_them() {
        let mut all = Certificates::default();
        for n in 1..=20 {
            let surplus = all.surplus(&LADY, Some(&[1; 32]));
            all.remove(&surplus);
            all.insert([n; 32], record(u64::from(n)));
        }
        let left: Vec<u8> = all.live(&LADY).map(|(hash, _)| hash[0]).collect();
        assert_eq!(left, [1, 18, 19, 20]);
        assert_eq!(all.by_agent[&LADY].len(), KEPT);
    }
}
