//! Who is signed in to the web page. Pure.
//!
//! A session has two secrets. One is a cookie that scripts cannot read. The other one is in the page's own storage and
//! comes as a header: browsers give cookies to every port of a host, so a page that another user of this machine serves
//! beside ours can have the cookie; the storage belongs to our port alone.

use sloth_agent::token::sha256;
use std::{collections::HashMap, time::Duration};

/// One for each person and browser that looks. Who has most makes room, with the one that was used longest ago.
const SESSIONS_MAX: usize = 64;
/// … of one token: the one of these that was used longest ago makes room. So whoever signs in without end signs nobody
/// else out. One-time codes are made on the master's machine alone, and are all that there is in plain mode.
const SESSIONS_EACH: usize = 8;
/// Then it is over, used or not.
pub const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Nobody looks any more: an open page asks several times a minute.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// What a session is known by here: nothing that could be shown to get in.
pub type Hash = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `viewer` or `operator`: here both look.
    pub role: &'static str,
    /// What let it in, if a token did: it must go on to.
    pub token: Option<String>,
    opened: Duration,
    used: Duration,
}

#[derive(Debug, Default)]
pub struct Sessions {
    open: HashMap<Hash, Session>,
}

/// Of the cookie and the page's key.
pub fn hash(cookie: &str, key: &str) -> Hash {
    sha256(format!("{cookie}/{key}").as_bytes())
}

impl Sessions {
    pub fn open(&mut self, now: Duration, hash: Hash, role: &'static str, token: Option<String>) {
        self.open.retain(|_, session| session.lasts(now));
        let mut of_each = HashMap::<_, usize>::new();
        self.open.values().for_each(|session| *of_each.entry(&session.token).or_default() += 1);
        let loser = match of_each.get(&token) {
            Some(&own) if token.is_some() && own >= SESSIONS_EACH => Some(token.clone()),
            _ if self.open.len() < SESSIONS_MAX => None,
            // Of as many tokens as there are places for: of those with most the one that was used longest ago.
            _ => {
                let crowds = self.open.values().max_by_key(|one| (of_each[&one.token], std::cmp::Reverse(one.used)));
                crowds.map(|session| session.token.clone())
            }
        };
        if let Some(loser) = loser {
            let oldest = self.open.iter().filter(|(_, session)| session.token == loser);
            let oldest = oldest.min_by_key(|(_, session)| session.used).map(|(hash, _)| *hash);
            oldest.and_then(|hash| self.open.remove(&hash));
        }
        self.open.insert(hash, Session { role, token, opened: now, used: now });
    }

    /// Looking counts as using.
    pub fn find(&mut self, now: Duration, hash: &Hash) -> Option<Session> {
        let session = self.open.get_mut(hash).filter(|session| session.lasts(now))?;
        session.used = now;
        Some(session.clone())
    }

    pub fn close(&mut self, hash: &Hash) {
        self.open.remove(hash);
    }
}

impl Session {
    fn lasts(&self, now: Duration) -> bool {
        now.saturating_sub(self.opened) < LIFE && now.saturating_sub(self.used) < IDLE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_session_needs_both_secrets_and_ends_when_it_is_closed() {
        let mut sessions = Sessions::default();
        sessions.open(S(0), hash("cookie", "key"), "viewer", None);
        for (cookie, key) in [("cookie", ""), ("", "key"), ("key", "cookie"), ("cookie/", "key"), ("cookie", "kex")] {
            assert_eq!(sessions.find(S(1), &hash(cookie, key)), None, "{cookie} {key}");
        }
        assert_eq!(sessions.find(S(1), &hash("cookie", "key")).unwrap().role, "viewer");
        sessions.close(&hash("cookie", "key"));
        assert_eq!(sessions.find(S(1), &hash("cookie", "key")), None);
    }

    #[test]
    fn a_session_ends_an_hour_after_its_last_use_and_twelve_after_it_was_opened() {
        let mut sessions = Sessions::default();
        let (left, used) = (hash("a", "a"), hash("b", "b"));
        sessions.open(S(0), left, "viewer", None);
        sessions.open(S(0), used, "viewer", None);
        assert!(sessions.find(S(3599), &used).is_some());
        assert!(sessions.find(S(3600), &left).is_none());
        for half_hours in 2..24 {
            assert!(sessions.find(S(half_hours * 1800), &used).is_some(), "{half_hours}");
        }
        assert!(sessions.find(S(12 * 3600), &used).is_none());
    }

    #[test]
    fn one_too_many_takes_the_place_of_one_of_whoever_has_most_that_was_used_longest_ago() {
        let mut sessions = Sessions::default();
        let token = |n: u64| Some(format!("token {n}"));
        let of = |n: u64| hash(&n.to_string(), "");
        for n in 0..SESSIONS_MAX as u64 {
            // The first two tokens have two each.
            sessions.open(S(n), of(n), "viewer", token(n % 62));
        }
        assert!(sessions.find(S(100), &of(0)).is_some());
        sessions.open(S(101), of(1000), "viewer", token(1000));
        assert_eq!(sessions.open.len(), SESSIONS_MAX);
        assert!(sessions.find(S(102), &of(1)).is_none(), "of the two with most, the one used longest ago");
        let kept = |n| sessions.open.contains_key(&of(n));
        assert!(kept(0) && kept(2) && kept(62) && kept(63) && kept(1000));
    }

    #[test]
    fn who_signs_in_without_end_signs_nobody_else_out() {
        let mut sessions = Sessions::default();
        let (eva, code) = (hash("eva", ""), hash("code", ""));
        sessions.open(S(0), eva, "operator", Some("eva".to_owned()));
        sessions.open(S(0), code, "viewer", None);
        let of = |n: u64| hash(&n.to_string(), "");
        for n in 1..=1_000 {
            sessions.open(S(n), of(n), "viewer", Some("otto".to_owned()));
        }
        assert_eq!(sessions.open.len(), SESSIONS_EACH + 2);
        assert!(sessions.find(S(1_000), &eva).is_some() && sessions.find(S(1_000), &code).is_some());
        assert!(sessions.find(S(1_000), &of(992)).is_none() && sessions.find(S(1_000), &of(993)).is_some());
    }
}
