use super::*;
use crate::store::{Environment, History, SqliteStore};
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

fn issued(n: u8) -> Result<Issued, String> {
    Ok(Issued { der: vec![n], fingerprint: [n; 32], expires_ms: NOW + 3_000_000 })
}

fn applicant(n: u8) -> Applicant<'static> {
    Applicant { agent_id: [n; 16], name: "lady", key_hash: [n; 32] }
}

fn refusal<T>(result: Result<T, Refused>) -> Refused {
    result.err().expect("refused")
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
    assert_eq!(late.check(&token, &[Role::Agent]), Err(Refused::Expired));
    assert!(admission.revoke_token(&record.id).unwrap().is_some());
    assert_eq!(admission.check(&token, &[Role::Agent]), Err(Refused::Revoked));
    assert_eq!(Admission::open(&path, now).unwrap().check(&token, &[Role::Agent]), Err(Refused::Revoked));
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
    admission.admit(&token, &applicant(1), || issued(1)).unwrap();
    admission.admit(&token, &applicant(1), || issued(2)).unwrap();
    let thief = Applicant { key_hash: [7; 32], ..applicant(1) };
    assert_eq!(refusal(admission.admit(&token, &thief, || issued(3))), Refused::UsedUp);
    let other = Applicant { agent_id: [7; 16], ..applicant(1) };
    assert_eq!(refusal(admission.admit(&token, &other, || issued(3))), Refused::UsedUp);
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
    let (_, first) = admission.admit(&token, &applicant(1), || issued(1)).unwrap();
    let second = admission.renew(&[1; 32], &issued(2).unwrap()).unwrap();
    for record in [first, second, Admission::open(&path, now).unwrap().certificate(&[2; 32]).unwrap()] {
        assert_eq!((record.name.as_str(), &record.labels, record.agent_id), ("lady", &labels, [1; 16]));
    }
}

#[test]
fn revoking_an_agent_ends_all_of_its_certificates_and_no_others() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], new(Role::Agent)).unwrap();
    for n in [1, 2] {
        admission.admit(&token, &applicant(n), || issued(n)).unwrap();
    }
    admission.renew(&[1; 32], &issued(3).unwrap()).unwrap();
    admission.note(&[4; 32], [1; 16]).unwrap();
    admission.revoke_agent(&[1; 16]).unwrap();
    for admission in [&admission, &Admission::open(&path, now).unwrap()] {
        let revoked = [1, 2, 3, 4].map(|n| admission.certificate(&[n; 32]).unwrap().revoked);
        assert_eq!(revoked, [true, false, true, true]);
        assert!(admission.renew(&[1; 32], &issued(5).unwrap()).is_err());
    }
}

#[test]
fn a_deleted_agent_does_not_come_back_by_its_key_and_a_token_that_is_used_up() {
    let (_folder, path) = database();
    let admission = Admission::open(&path, now).unwrap();
    let (token, _) = admission.create([1; 32], NewToken { uses: Some(1), ..new(Role::Agent) }).unwrap();
    admission.admit(&token, &applicant(1), || issued(1)).unwrap();
    admission.revoke_agent(&[1; 16]).unwrap();
    assert_eq!(refusal(admission.admit(&token, &applicant(1), || issued(2))), Refused::UsedUp);
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
    let record = CertificateRecord {
        agent_id: [1; 16],
        name: String::new(),
        labels: BTreeMap::new(),
        issued_ms: 1_000,
        expires_ms: 4_000,
        revoked: false,
    };
    assert_eq!([1_000, 2_500, 3_000, 9_000].map(|now| record.renew_in_ms(now)), [2_000, 500, 1, 1]);
    assert_eq!(CertificateRecord { issued_ms: 0, ..record }.renew_in_ms(1), 0, "made elsewhere");
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
    assert_eq!(ended.await, Refused::Revoked);

    let late = Admission::open(&path, later).unwrap();
    let (_, record) = admission.create([1; 32], new(Role::Operator)).unwrap();
    assert_eq!(late.ended(&record.id).await, Refused::Unknown, "it was made elsewhere");
    let late = Admission::open(&path, later).unwrap();
    assert_eq!(late.ended(&record.id).await, Refused::Expired);
}
