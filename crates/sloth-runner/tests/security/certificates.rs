//! Operators and viewers by certificate: of the master's own authority, and of one of their own.

use crate::{
    files,
    secured::{Done, Master, program, run},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Files of a certificate and its key.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    /// As `master operator-cert` makes it.
    async fn made(master: &Master, folder: &Path, name: &str, options: &[&str]) -> Self {
        let mut make = program();
        make.args(["master", "operator-cert", "--name", name]).args(options).arg("--dir").arg(folder);
        let done = run_with(make.arg("--config").arg(master.file("master.toml"))).await;
        assert_eq!(done.code, 0, "{}", done.err);
        Self { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }

    /// As any tool may make it that has this authority's key.
    fn signed(issuer: &Issuer<'_, KeyPair>, folder: &Path, uri: &str, until: i32) -> Self {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.to_owned().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let name = format!("{}-{until}", uri.replace(':', "-"));
        let pair = Self { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
        fs::write(&pair.cert, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&pair.key, Permissions::from_mode(0o600)).unwrap();
        pair
    }

    /// The tool, by flags.
    async fn tool(&self, master: &Master, line: &str) -> Done {
        let mut tool = program();
        tool.args(["--master", &master.address, "--ca"]).arg(master.file("ca.pem"));
        tool.arg("--cert").arg(&self.cert).arg("--key").arg(&self.key).args(line.split(' '));
        run(tool).await
    }
}

async fn run_with(command: &mut tokio::process::Command) -> Done {
    let command = std::mem::replace(command, program());
    run(command).await
}

fn audit(master: &Master) -> String {
    let file = files(master.directory.path()).into_iter().find(|path| path.ends_with("audit.log")).expect("there");
    fs::read_to_string(file).unwrap()
}

#[tokio::test]
async fn operators_and_viewers_are_let_in_by_certificates_that_the_master_made() {
    let master = Master::start(&[]).await;
    let (folder, state, home) = [(); 3].map(|()| tempfile::tempdir().unwrap()).into();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let other_state = tempfile::tempdir().unwrap();
    let mut other = master.joins(other_state.path(), "mari");
    other.active().await;
    let eva = Pair::made(&master, folder.path(), "eva", &[]).await;
    // In a folder that is made, for its owner alone.
    let new = folder.path().join("made/here");
    let ada = Pair::made(&master, &new, "ada", &[]).await;
    assert!(ada.key.exists() && fs::metadata(&new).unwrap().mode() & 0o777 == 0o700);
    let otto = Pair::made(&master, folder.path(), "otto", &["--role", "viewer", "--ttl", "1h"]).await;
    assert_eq!(fs::metadata(&eva.key).unwrap().mode() & 0o777, 0o600);

    // By flags.
    let done = eva.tool(&master, "agent run lady -- echo hello").await;
    assert_eq!((done.code, done.out.as_str()), (0, "hello\n"), "{}", done.err);
    let done = otto.tool(&master, "agent list").await;
    assert!(done.code == 0 && done.out.contains("lady"), "{}{}", done.out, done.err);
    let done = otto.tool(&master, "agent run lady -- true").await;
    assert!(
        done.code == 255 && done.err.contains("a viewer may only look: `agent run` wants an operator"),
        "{}",
        done.err
    );
    let done = otto.tool(&master, "agent run --all -- true").await;
    assert!(done.code == 1 && done.err.matches("a viewer may only look").count() == 1, "once for both: {}", done.err);
    assert!(done.err.contains("2 failed (lady, mari)"), "{}", done.err);
    let done = otto.tool(&master, "token list").await;
    assert!(done.code == 1 && done.err.contains("a viewer may only look"), "{}", done.err);

    // By a context, from another folder, and by the environment.
    let tool = |words: &[&str]| {
        let mut tool = program();
        tool.env("XDG_CONFIG_HOME", home.path()).current_dir(folder.path()).args(words);
        tool
    };
    let ca = master.file("ca.pem").display().to_string();
    let add =
        ["context", "add", "prod", "--master", &master.address, "--ca", &ca, "--cert", "eva.pem", "--key", "eva.key"];
    let done = run(tool(&add)).await;
    assert_eq!((done.code, done.out.as_str()), (0, "context prod added, and used from now on\n"), "{}", done.err);
    let mut elsewhere = tool(&["agent", "run", "lady", "--", "echo", "context"]);
    let done = run_with(elsewhere.current_dir(state.path())).await;
    assert_eq!((done.code, done.out.as_str()), (0, "context\n"), "{}", done.err);
    let done = run(tool(&["context", "list"])).await;
    assert!(done.out.contains("eva.pem") && !done.out.contains("eva.key"), "{}", done.out);
    let mut by_environment = program();
    by_environment.env("SLOTH_RUNNER_MASTER_ADDR", &master.address).env("SLOTH_RUNNER_CA", &ca);
    by_environment.env("SLOTH_RUNNER_CERT", &eva.cert).env("SLOTH_RUNNER_KEY", &eva.key).args(["token", "list"]);
    let done = run(by_environment).await;
    assert!(done.code == 0 && done.out.contains("operator"), "{}", done.err);

    let written = audit(&master);
    assert!(written.contains(r#""who":"operator eva with a certificate""#), "{written}");
    assert!(written.contains(r#""who":"viewer otto with a certificate""#), "{written}");

    // Nothing is written over, and half a pair is not left.
    let mut again = program();
    again.args(["master", "operator-cert", "--name", "eva", "--dir"]).arg(folder.path());
    let done = run_with(again.arg("--config").arg(master.file("master.toml"))).await;
    assert!(done.code == 1 && done.err.contains("eva.pem is there already, and is not overwritten"), "{}", done.err);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_told_with_the_remedy() {
    let master = Master::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let eva = Pair::made(&master, folder.path(), "eva", &[]).await;
    fs::set_permissions(&eva.key, Permissions::from_mode(0o644)).unwrap();
    let done = eva.tool(&master, "agent list").await;
    let rule = format!("--key is {0}, which others can read (mode 0644): run chmod 600 {0}", eva.key.display());
    assert!(done.code == 2 && done.err.contains(&rule), "{}", done.err);
    fs::set_permissions(&eva.key, Permissions::from_mode(0o600)).unwrap();
    let dora = Pair::made(&master, folder.path(), "dora", &[]).await;
    let mixed = Pair { cert: eva.cert.clone(), key: dora.key };
    let done = mixed.tool(&master, "agent list").await;
    assert!(done.code == 2 && done.err.contains("which does not go with --key ("), "{}", done.err);

    let ca_key = KeyPair::from_pem(&fs::read_to_string(master.file("ca.key")).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sloth Runner CA");
    let issuer = Issuer::new(params, ca_key);
    let old = Pair::signed(&issuer, folder.path(), "sloth:operator:old", 2021);
    let done = old.tool(&master, "agent list").await;
    assert!(done.code == 1, "{}", done.err);
    assert!(
        done.err.contains("the certificate of --cert ended on 2021-01-01T00:00:00Z: have another made"),
        "{}",
        done.err
    );
    let nobody = Pair::signed(&issuer, folder.path(), "sloth:stranger:x", 2090);
    let done = nobody.tool(&master, "agent list").await;
    assert!(done.code == 1 && done.err.contains("the certificate names nobody: it needs one URI"), "{}", done.err);
    // Of an authority that the master does not know.
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "another");
    let stranger =
        Pair::signed(&Issuer::new(params, KeyPair::generate().unwrap()), folder.path(), "sloth:operator:m", 2090);
    let done = stranger.tool(&master, "agent list").await;
    assert!(done.code == 1 && done.err.contains("the master refuses the certificate of --cert"), "{}", done.err);
}

#[tokio::test]
async fn a_ca_of_ones_own_names_operators_and_viewers() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "our people");
    let key = KeyPair::generate().unwrap();
    let ca = folder.path().join("people.pem");
    fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let master = Master::start(&[&format!("tls.client_ca_file={:?}", ca.display().to_string())]).await;
    let dora = Pair::signed(&issuer, folder.path(), "sloth:operator:dora", 2090);
    let done = dora.tool(&master, "token create --role viewer").await;
    assert!(done.code == 0 && done.out.starts_with("sloth1."), "{}", done.err);
    let emil = Pair::signed(&issuer, folder.path(), "sloth:viewer:emil", 2090);
    assert_eq!(emil.tool(&master, "agent list").await.code, 0);
    let done = emil.tool(&master, "token create").await;
    assert!(done.code == 1 && done.err.contains("a viewer may only look"), "{}", done.err);
    assert!(audit(&master).contains(r#""who":"operator dora with a certificate""#));
}
