use super::*;
use crate::store::{Environment, History, SqliteStore};
use std::time::Duration;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

const NOW: u64 = 1_000_000;

fn now() -> u64 {
    NOW
}

fn later() -> u64 {
    NOW + 2_000
}

/// When a certificate that is issued at `NOW` is to be renewed.
fn at_two_thirds() -> u64 {
    NOW + 2_000_000
}

const CA: [u8; 32] = [8; 32];

/// A database with its tables, and nobody in it.
fn database() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sloth.db");
    let environment = Environment { clock: Box::new(now), remove_output: Box::new(|_| true) };
    drop(SqliteStore::open(&path, History::default(), environment).unwrap());
    (folder, path)
}

fn new(role: Role) -> NewToken {
    NewToken { role, name: String::new(), labels: BTreeMap::new(), ttl_ms: Some(1_000), uses: None }
}

/// Of the certificate that [`issued`] makes.
fn hash(n: u8) -> [u8; 32] {
    sha256(&[n])
}

fn issued(n: u8) -> Result<Issued, String> {
    Ok(Issued { der: vec![n], fingerprint: hash(n), expires_ms: NOW + 3_000_000, authority: CA })
}

fn applicant(n: u8) -> Applicant<'static> {
    Applicant { agent_id: [n; 16], name: "lady", known_as: None, key_hash: [n; 32] }
}

fn refusal<T>(result: Result<T, Refused>) -> Refused {
    result.err().expect("refused")
}

fn late_again(path: &std::path::Path) -> Admission {
    Admission::open(path, later).unwrap()
}

#[test]
fn the_reasons_of_a_refusal_are_told_apart() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, record) = admission.create([1; 32], new(Role::Agent)).unwrap();
    assert_eq!(admission.check(&token, &[Role::Agent]), Ok(record.clone()));
    assert_eq!(admission.check(&token, &[Role::Operator]), Err(Refused::Role(Role::Agent)));
    assert_eq!(admission.check(&Token::new([1; 32], [9; 32]), &Role::ALL), Err(Refused::Unknown));
    let late = Admission::open(&path, later).unwrap();
    assert_eq!(late.check(&token, &[Role::Agent]), Err(Refused::Expired(Role::Agent)));
    let revoked = admission.revoke_token(&record.id).unwrap().unwrap();
    assert_eq!((revoked.already, revoked.record.revoked_ms), (false, Some(NOW)));
    assert_eq!(admission.check(&token, &[Role::Agent]), Err(Refused::Revoked(Role::Agent)));
    // The first time is what counts, also on the disk.
    for admission in [&late_again(&path), &admission, &late_again(&path)] {
        let again = admission.revoke_token(&record.id).unwrap().unwrap();
        assert_eq!((again.already, again.record.revoked_ms), (true, Some(NOW)));
    }
    assert_eq!(Admission::open(&path, now).unwrap().check(&token, &[Role::Agent]), Err(Refused::Revoked(Role::Agent)));
    assert_eq!(admission.revoke_token("nobody's").unwrap(), None);
}

#[test]
fn secrets_are_not_in_the_database() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], new(Role::Operator)).unwrap();
    drop(admission);
    let secret = token.text().rsplit('.').next().unwrap().to_owned();
    let bytes = sloth_agent::token::decode(sloth_agent::token::Alphabet::Url, &secret).unwrap();
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        let holds = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
        assert!(!holds(&bytes[..32]) && !holds(secret.as_bytes()));
    }
}

#[test]
fn a_token_for_one_admits_one_however_many_come_at_once() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], NewToken { uses: Some(1), ..new(Role::Agent) }).unwrap();
    let admitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 1..=16 {
            let (admission, token, admitted) = (&admission, &token, &admitted);
            scope.spawn(move || match admission.admit(token, &applicant(n), || issued(n)) {
                Ok(_) => _ = admitted.fetch_add(1, Ordering::Relaxed),
                Err(refused) => assert_eq!(refused, Refused::UsedUp),
            });
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 1);
    let again = Admission::open(&path, now).unwrap();
    assert_eq!(refusal(again.admit(&token, &applicant(99), || issued(99))), Refused::UsedUp);
}

#[test]
fn an_answer_that_was_lost_is_no_second_use_and_a_stolen_token_is() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], NewToken { uses: Some(1), ..new(Role::Agent) }).unwrap();
    assert!(!admission.admit(&token, &applicant(1), || issued(1)).unwrap().again);
    for admission in [&admission, &Admission::open(&path, now).unwrap()] {
        let again = admission.admit(&token, &applicant(1), || panic!("there is one")).unwrap();
        assert!(again.again && again.issued.der == [1] && again.record.expires_ms == NOW + 3_000_000);
    }
    let thief = Applicant { key_hash: [7; 32], ..applicant(1) };
    assert_eq!(refusal(admission.admit(&token, &thief, || issued(3))), Refused::UsedUp);
    let other = Applicant { agent_id: [7; 16], ..applicant(1) };
    assert_eq!(refusal(admission.admit(&token, &other, || issued(3))), Refused::UsedUp);
}

#[test]
fn the_id_of_an_agent_that_has_a_certificate_is_given_away_by_a_token_for_its_name_alone() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    let known = |key| Applicant { known_as: Some("lady"), key_hash: [key; 32], ..applicant(1) };
    // In the clear until now.
    admission.admit(&token, &known(1), || issued(1)).unwrap();
    let thief = Applicant { name: "other", ..known(2) };
    for applicant in [&thief, &known(2)] {
        assert_eq!(refusal(admission.admit(&token, applicant, || issued(2))), Refused::Held("lady".to_owned()));
    }
    // It asked, was answered, and died before it registered.
    admission.admit(&token, &applicant(3), || issued(3)).unwrap();
    admission.admit(&token, &Applicant { key_hash: [4; 32], ..applicant(3) }, || issued(4)).unwrap();

    let named = |name: &str| NewToken { name: name.to_owned(), ..new(Role::Agent) };
    let (other, _) = admission.create([1; 32], named("other")).unwrap();
    assert_eq!(refusal(admission.admit(&other, &thief, || issued(5))), Refused::Held("lady".to_owned()));
    let (its, _) = admission.create([1; 32], named("lady")).unwrap();
    admission.admit(&its, &known(5), || issued(5)).unwrap();
    admission.revoke_agent(&[1; 16], "lady").unwrap();
    for older in [&token, &its] {
        assert_eq!(refusal(admission.admit(older, &known(6), || issued(6))), Refused::Deleted);
    }
    let (token, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    admission.admit(&token, &known(6), || issued(6)).unwrap();
    // The authority was replaced: what it gave is worth nothing.
    let replaced = || Ok(Issued { authority: [9; 32], ..issued(7).unwrap() });
    admission.admit(&token, &known(7), replaced).unwrap();
}

#[test]
fn a_token_that_is_not_used_in_the_end_is_still_good() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], NewToken { uses: Some(1), ..new(Role::Agent) }).unwrap();
    let failed = refusal(admission.admit(&token, &applicant(1), || Err("no key".to_owned())));
    assert_eq!(failed, Refused::Store("no key".to_owned()));
    admission.admit(&token, &applicant(2), || issued(2)).unwrap();
}

#[test]
fn what_a_token_binds_goes_into_the_certificate_and_its_successors() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let labels: BTreeMap<_, _> = [("site".to_owned(), "a".to_owned())].into();
    let bound = NewToken { name: "lady".to_owned(), labels: labels.clone(), ..new(Role::Agent) };
    let (token, _) = admission.create([1; 32], bound).unwrap();
    let other = Applicant { name: "tramp", ..applicant(1) };
    assert_eq!(refusal(admission.admit(&token, &other, || issued(1))), Refused::Name("lady".to_owned()));
    let first = admission.admit(&token, &applicant(1), || issued(1)).unwrap().record;
    let too_early = admission.renew(&hash(1), &[1; 16], || issued(2)).err().expect("refused");
    assert!(too_early.contains("too young"), "{too_early}");
    let later = Admission::open(&path, at_two_thirds).unwrap();
    let (_, second) = later.renew(&hash(1), &[1; 16], || issued(2)).unwrap();
    let kept = Admission::open(&path, now).unwrap().certificate(&hash(2), &[1; 16]).unwrap();
    assert_eq!(kept.authority, CA);
    for record in [first, second, kept] {
        assert_eq!((record.name.as_str(), &record.labels, record.agent_id), ("lady", &labels, [1; 16]));
    }
}

#[test]
fn revoking_an_agent_ends_all_of_its_certificates_and_no_others() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, at_two_thirds).unwrap();
    let (token, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    for n in [1, 2] {
        admission.admit(&token, &applicant(n), || issued(n)).unwrap();
    }
    admission.note(&[4; 32], CertificateRecord::foreign([1; 16])).unwrap();
    admission.revoke_agent(&[1; 16], "lady").unwrap();
    // Seen for the first time after it, or while it was being deleted.
    admission.note(&[5; 32], CertificateRecord::foreign([1; 16])).unwrap();
    for admission in [&admission, &Admission::open(&path, now).unwrap()] {
        let of = |hash: &[u8; 32], n: u8| admission.certificate(hash, &[n; 16]).unwrap().revoked;
        assert_eq!([of(&hash(1), 1), of(&[4; 32], 1), of(&[5; 32], 1), of(&hash(2), 2)], [true, true, true, false]);
        assert!(admission.renew(&hash(1), &[1; 16], || issued(6)).is_err());
    }
}

#[test]
fn what_is_revoked_or_the_newest_is_remembered_whatever_the_clock_says() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], NewToken { name: "lady".to_owned(), ..new(Role::Agent) }).unwrap();
    for n in [1, 2] {
        admission.admit(&token, &applicant(n), || issued(n)).unwrap();
    }
    admission.revoke_agent(&[1; 16], "lady").unwrap();
    drop(Admission::open(&path, || NOW + 100 * 365 * 86_400_000).unwrap());
    let again = Admission::open(&path, now).unwrap();
    assert!(again.certificate(&hash(1), &[1; 16]).unwrap().revoked);
    assert_eq!(again.certificate(&hash(2), &[2; 16]).unwrap().name, "lady");
}

#[test]
fn a_clock_that_was_set_back_neither_ends_renewal_nor_turns_the_order_round() {
    let (_folder, path) = database();
    let ahead = Admission::open(&path, || NOW + 74 * 365 * 86_400_000).unwrap();
    let (token, _) = ahead.create([1; 32], new(Role::Agent)).unwrap();
    ahead.admit(&token, &applicant(1), || issued(1)).unwrap();
    drop(ahead);
    let admission = Admission::open(&path, now).unwrap();
    let again = Applicant { key_hash: [2; 32], ..applicant(1) };
    let given = admission.admit(&token, &again, || issued(2)).unwrap().record;
    assert_eq!((given.issued_ms, given.renew_in_ms(NOW)), (NOW, (issued(2).unwrap().expires_ms - NOW) / 3 * 2));
    drop(admission);
    let admission = Admission::open(&path, now).unwrap();
    assert_eq!(admission.supersede(&[1; 16], &hash(1)), [[0; 32]; 0], "it was given first");
    assert_eq!(admission.supersede(&[1; 16], &hash(2)), [hash(1)]);
}

#[test]
fn few_certificates_of_one_agent_are_kept() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    for n in 1..=20 {
        admission.admit(&token, &Applicant { key_hash: [n; 32], ..applicant(1) }, || issued(n)).unwrap();
    }
    let rows = "SELECT count(*) FROM certificates WHERE revoked_ms IS NULL";
    let rows: i64 = Connection::open(&path).unwrap().query_row(rows, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, certificates::KEPT as i64);
}

#[test]
fn a_deleted_agent_does_not_come_back_by_its_key_and_a_token_that_is_used_up() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], NewToken { uses: Some(1), ..new(Role::Agent) }).unwrap();
    admission.admit(&token, &applicant(1), || issued(1)).unwrap();
    admission.revoke_agent(&[1; 16], "lady").unwrap();
    assert_eq!(refusal(admission.admit(&token, &applicant(1), || issued(2))), Refused::UsedUp);
}

#[test]
fn who_comes_with_what_it_joined_with_again_ends_what_it_had_before_and_that_lasts() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], NewToken { name: "lady".to_owned(), ..new(Role::Agent) }).unwrap();
    let with = |key| Applicant { key_hash: [key; 32], ..applicant(1) };
    admission.admit(&token, &with(1), || issued(1)).unwrap();
    admission.admit(&token, &with(2), || issued(2)).unwrap();
    let good = |admission: &Admission| [1, 2].map(|n| !admission.certificate(&hash(n), &[1; 16]).unwrap().revoked);
    assert_eq!(good(&admission), [true; 2]);
    // What was given for a token is known of after a restart, too.
    let admission = Admission::open(&path, now).unwrap();
    let superseded = admission.supersede(&[1; 16], &hash(2));
    assert_eq!(superseded, [hash(1)]);
    admission.revoke(&superseded).unwrap();
    assert_eq!(good(&admission), [false, true]);
    assert_eq!(good(&Admission::open(&path, now).unwrap()), [false, true]);
}

#[test]
fn one_token_lets_in_no_more_than_is_bearable() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    admission.admit(&token, &applicant(1), || issued(1)).unwrap();
    admission.admit(&token, &applicant(1), || issued(1)).unwrap();
    assert_eq!(admission.known(|known| known.joins[&token.id()]), 1, "the same key again is nobody new");
    let admission = Admission::open(&path, now).unwrap();
    assert_eq!(admission.known(|known| known.joins[&token.id()]), 1);
    admission.change(|known| known.joins.insert(token.id(), JOINS_MAX));
    assert_eq!(refusal(admission.admit(&token, &applicant(2), || issued(2))), Refused::Exhausted);
    admission.admit(&token, &applicant(1), || issued(1)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_under_a_token_end_when_it_is_revoked_or_expires() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (_, record) = admission.create([1; 32], NewToken { uses: Some(0), ..new(Role::Viewer) }).unwrap();
    let mut ended = std::pin::pin!(admission.ended(&record.id));
    let early = tokio::time::timeout(Duration::from_secs(3600), ended.as_mut()).await;
    assert!(early.is_err(), "its clock stands still, so it does not expire");
    admission.revoke_token(&record.id).unwrap();
    assert_eq!(ended.await, Refused::Revoked(Role::Viewer));

    let late = Admission::open(&path, later).unwrap();
    let (_, record) = admission.create([1; 32], new(Role::Operator)).unwrap();
    assert_eq!(late.ended(&record.id).await, Refused::Unknown, "it was made elsewhere");
    let late = Admission::open(&path, later).unwrap();
    assert_eq!(late.ended(&record.id).await, Refused::Expired(Role::Operator));
}

#[test]
fn who_was_superseded_is_given_nothing_by_asking_again() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (theirs, _) = admission.create([1; 32], NewToken { uses: Some(1), ..new(Role::Agent) }).unwrap();
    let (its, _) =
        admission.create([1; 32], NewToken { name: "lady".to_owned(), uses: Some(1), ..new(Role::Agent) }).unwrap();
    let impostor = Applicant { key_hash: [7; 32], ..applicant(1) };
    admission.admit(&theirs, &impostor, || issued(1)).unwrap();
    let real = Applicant { known_as: Some("lady"), ..applicant(1) };
    admission.admit(&its, &real, || issued(2)).unwrap();
    admission.revoke(&admission.supersede(&[1; 16], &hash(2))).unwrap();
    assert!(admission.certificate(&hash(1), &[1; 16]).unwrap().revoked);

    let again = Applicant { known_as: Some("lady"), ..impostor };
    let given = admission.admit(&theirs, &again, || issued(3));
    assert_eq!(refusal(given), Refused::UsedUp);
    let (many, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    assert_eq!(refusal(admission.admit(&many, &again, || issued(3))), Refused::Held("lady".to_owned()));
    assert!(!admission.certificate(&hash(2), &[1; 16]).unwrap().revoked);
}

#[test]
fn of_many_who_joined_with_one_id_all_are_superseded() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (many, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    for n in 1..=5 {
        admission.admit(&many, &Applicant { key_hash: [n; 32], ..applicant(1) }, || issued(n)).unwrap();
    }
    let (its, _) = admission.create([1; 32], NewToken { name: "lady".to_owned(), ..new(Role::Agent) }).unwrap();
    admission.admit(&its, &Applicant { key_hash: [9; 32], ..applicant(1) }, || issued(9)).unwrap();
    admission.revoke(&admission.supersede(&[1; 16], &hash(9))).unwrap();
    let good = [1, 2, 3, 4, 5, 9].map(|n| !admission.certificate(&hash(n), &[1; 16]).unwrap().revoked);
    assert_eq!(good, [false, false, false, false, false, true]);
}

#[test]
fn a_token_is_older_than_a_deletion_after_it_whatever_the_clock_says() {
    let (_folder, path) = database();
    let (token, _) = Admission::open(&path, now).unwrap().create([1; 32], new(Role::Agent)).unwrap();
    // The clock was set back since.
    let admission = Admission::open(&path, || 5).unwrap();
    admission.admit(&token, &applicant(1), || issued(1)).unwrap();
    admission.revoke_agent(&[1; 16], "lady").unwrap();
    for admission in [&admission, &Admission::open(&path, || 5).unwrap()] {
        let again = Applicant { key_hash: [2; 32], ..applicant(1) };
        assert_eq!(refusal(admission.admit(&token, &again, || issued(2))), Refused::Deleted);
    }
    let (newer, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    admission.admit(&newer, &applicant(1), || issued(3)).unwrap();
}

#[test]
fn no_time_is_earlier_than_the_authority() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, || 5).unwrap().not_before(NOW);
    let (token, record) = admission.create([1; 32], new(Role::Agent)).unwrap();
    assert_eq!((record.created_ms, record.expires_ms), (NOW, Some(NOW + 1_000)));
    let given = admission.admit(&token, &applicant(1), || issued(1)).unwrap().record;
    assert_eq!((given.issued_ms, given.renew_in_ms(admission.now_ms())), (NOW, 2_000_000));
}

#[test]
fn one_id_does_not_join_without_end() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    let key = |n: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_le_bytes());
        key
    };
    admission.change(|known| {
        let record = CertificateRecord { revoked: true, ..CertificateRecord::foreign([1; 16]) };
        (0..certificates::RECORDS_MAX).for_each(|n| known.certificates.insert(key(n), record.clone()));
    });
    assert_eq!(refusal(admission.admit(&token, &applicant(1), || issued(1))), Refused::TooOften);
    admission.admit(&token, &applicant(2), || issued(2)).unwrap();
}
