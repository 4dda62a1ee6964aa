//! Agents by certificates of a CA of one's own: what that says of them holds here.

use crate::{
    credential::Credential,
    secured::{Master, PATIENCE, program},
};
use proto::{
    AgentMessage, CheckRequest, JoinRequest, OutputMessage, Register, agent_message::Kind as Up,
    agent_registry_client::AgentRegistryClient, master_message::Kind as Down,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::PrivateKeyDer;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, transport::Channel};

const ID: [u8; 16] = [0xcd; 16];

/// A company's own CA, and its files.
struct Company {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Company {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "some company");
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let company = Self { folder, issuer: Issuer::new(params, key) };
        company.revokes(&[]);
        company
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A master that trusts it.
    async fn master(&self) -> Master {
        let set = |key: &str, name: &str| format!("tls.{key}={:?}", self.file(name).display().to_string());
        Master::start(&[&set("client_ca_file", "ca.pem"), &set("client_crl_file", "crl.pem")]).await
    }

    /// A new list.
    fn revokes(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap().pem().unwrap();
        fs::write(self.file("crl.new"), list).unwrap();
        fs::rename(self.file("crl.new"), self.file("crl.pem")).unwrap();
    }

    fn agent(&self, serial: u64) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        let uri = format!("sloth:agent:{}", fleet::hex(&ID));
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    async fn client(&self, serial: u64, master: &Master) -> AgentRegistryClient<Channel> {
        let (certificate, key) = self.agent(serial);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let certificate = Some((certificate.der().clone(), key));
        let credential = Credential { name: "the company's", certificate, bearer: None, who: None };
        AgentRegistryClient::new(credential.channel(master).await.unwrap())
    }
}

fn register() -> Register {
    Register {
        agent_id: ID.to_vec(),
        instance_id: vec![1; 16],
        spool_id: vec![1; 16],
        name: "lady".to_owned(),
        interval_ms: 60_000,
        timeout_ms: 60_000,
        max_failures: 3,
        will_wait_ms: 10_000,
        ..Register::default()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

#[tokio::test]
async fn its_certificate_is_not_renewed_here_and_revoked_there_it_ends_everything_of_its_agent() {
    let company = Company::new();
    let mut master = company.master().await;
    let mut client = company.client(7, &master).await;
    let (up, messages) = mpsc::channel(4);
    up.send(AgentMessage { kind: Some(Up::Register(register())) }).await.unwrap();
    let mut down = client.connect(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let registered = match soon(down.message()).await.unwrap().and_then(|message| message.kind) {
        Some(Down::Registered(registered)) => registered,
        other => panic!("not registered: {other:?}"),
    };
    assert_eq!(registered.certificate_renew_in_ms, 0, "it is not to ask for another");
    let join = || JoinRequest { agent_id: ID.to_vec(), name: "lady".to_owned(), ..JoinRequest::default() };
    let refused = soon(client.join(join())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("the certificate was not made by this master's authority"), "{refused}");
    let check = || CheckRequest { register: Some(register()) };
    assert!(soon(client.check(check())).await.is_ok());
    let (output, messages) = mpsc::channel(4);
    output.send(OutputMessage::default()).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(messages));
    let metadata = request.metadata_mut();
    metadata.insert("sloth-agent-id", fleet::hex(&ID).parse().unwrap());
    metadata.insert("sloth-epoch", registered.epoch.to_string().parse().unwrap());
    metadata.insert("sloth-command-id", "c".parse().unwrap());
    let mut acks = soon(client.send_output(request)).await.unwrap().into_inner();
    assert!(soon(acks.message()).await.unwrap().is_some());

    // Another's changes nothing for it.
    company.revokes(&[8]);
    master.log.line("TLS: the files have changed and are used from now on").await;
    assert!(soon(client.check(check())).await.is_ok());
    company.revokes(&[8, 7]);
    master.log.line("TLS: the files have changed and are used from now on").await;
    match soon(down.message()).await.unwrap().and_then(|message| message.kind) {
        Some(Down::Rejected(rejected)) => assert!(rejected.message.contains("revoked by the CA that made it")),
        other => panic!("not shut out: {other:?}"),
    }
    assert!(soon(down.message()).await.is_ok_and(|message| message.is_none()), "the session is over");
    let ended = loop {
        match soon(acks.message()).await {
            Ok(Some(_)) => continue,
            ended => break ended,
        }
    };
    assert_eq!(ended.unwrap_err().code(), Code::Unauthenticated, "and the call that was open");
    assert_eq!(soon(client.check(check())).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(soon(client.join(join())).await.unwrap_err().code(), Code::Unauthenticated);
    let said = master.tool("agent explain lady").await;
    assert!(said.out.contains("Inactive") && said.out.contains("revoked by the CA that made it"), "{}", said.out);
    let said = fs::read_to_string(master.audit()).unwrap();
    assert!(said.contains("revoked by the CA that made it"), "{said}");
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn an_agent_with_files_of_its_own_runs_by_them_and_asks_for_no_others() {
    let company = Company::new();
    let mut master = company.master().await;
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o700)).unwrap();
    write_secret(&state.path().join("agent-id"), &format!("{}\n", fleet::hex(&ID)));
    let (certificate, key) = company.agent(7);
    fs::write(company.file("lady.pem"), certificate.pem()).unwrap();
    write_secret(&company.file("lady.key"), &key.serialize_pem());
    let mut words = vec!["start".to_owned(), "--master".to_owned(), master.address.clone()];
    for (key, path) in [
        ("ca_file", master.file("ca.pem")),
        ("cert_file", company.file("lady.pem")),
        ("key_file", company.file("lady.key")),
    ] {
        words.extend(["--set".to_owned(), format!("tls.{key}={:?}", path.display().to_string())]);
    }
    let mut agent = crate::secured::Agent::start_as(program(), words, state.path(), "lady");
    agent.active().await;
    assert_eq!(master.tool("agent run lady -- true").await.code, 0);
    company.revokes(&[7]);
    master.log.line("TLS: the files have changed and are used from now on").await;
    agent.log.line("revoked by the CA that made it").await;
    let done = master.tool("agent run lady -- true").await;
    assert!(done.code == 255 && done.err.contains("revoked by the CA that made it"), "{}", done.err);
    assert!(!agent.log.seen.join("\n").contains("is renewed"));
    assert!(!state.path().join("identity.pem").exists());
}
