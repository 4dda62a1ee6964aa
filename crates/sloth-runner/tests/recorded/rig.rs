//! Real programs of today around a recording: a master with an operator, and agents.

use crate::{
    script::Step,
    secured::{self, Done, Log, PATIENCE, program, run},
};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring::default_provider, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::{collections::HashMap, fs, path::Path, process::Stdio, sync::Arc};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Child, time::timeout};

/// A master in the clear, or behind TLS.
pub enum Master {
    Plain { address: String, process: Box<Child>, _folder: TempDir },
    Secured(Box<secured::Master>),
}

impl Master {
    pub async fn plain() -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = program();
        command.args(["master", "start", "--listen", "127.0.0.1:0", "--set", "http.listen=\"\"", "--state-dir"]);
        let mut process = command.arg(folder.path()).stderr(Stdio::inherit()).spawn().unwrap();
        let line = Log::of(process.stdout.take().unwrap()).line(" listening on ").await;
        let address = line.split(" listening on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        Self::Plain { address, process: Box::new(process), _folder: folder }
    }

    pub async fn secured() -> Self {
        Self::Secured(Box::new(secured::Master::start(&["tls.agent_life=3s"]).await))
    }

    pub fn address(&self) -> String {
        match self {
            Self::Plain { address, .. } => address.clone(),
            Self::Secured(master) => master.address.clone(),
        }
    }

    /// Calls the operator's tool, and gives it this on its standard input.
    pub async fn tool(&self, args: Vec<String>, stdin: Option<String>) -> Done {
        let mut tool = self.command();
        tool.args(args);
        let Some(text) = stdin else { return run(tool).await };
        tool.stdin(Stdio::piped());
        let mut child = tool.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    fn command(&self) -> tokio::process::Command {
        let mut tool = program();
        tool.env("SLOTH_RUNNER_MASTER_ADDR", self.address());
        if let Self::Secured(master) = self {
            tool.env("SLOTH_RUNNER_TOKEN", master.operator());
        }
        tool
    }

    /// What an operator is told of a command or an agent, without what differs from run to run.
    pub async fn seen(&self, what: &Value) -> Value {
        let look = |args: &[&str]| {
            let args = ["-o", "json"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
            async move {
                let done = self.tool(args, None).await;
                serde_json::from_str::<Value>(&done.out).unwrap_or_else(|_| panic!("{}{}", done.out, done.err))
            }
        };
        let only = |row: &Value, keys: &[&str]| {
            Value::Object(keys.iter().map(|key| ((*key).to_owned(), row[*key].clone())).collect())
        };
        if let Some(id) = what["id"].as_str() {
            let row = look(&["command", "logs", id]).await;
            return only(
                &row,
                &["id", "agent", "state", "outcome", "code", "signal", "output_bytes", "stdout", "stderr"],
            );
        }
        let all = look(&["agent", "list"]).await;
        let row = all.as_array().unwrap().iter().find(|row| row["name"] == what["name"]).cloned();
        only(&row.unwrap_or(json!({})), &["name", "status", "reason", "labels"])
    }

    /// Compares with a line `saw`, once it is so.
    pub async fn saw(&self, expected: &Value) {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let last = self.seen(expected).await;
            if last == *expected {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{last} is not {expected}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM.
    pub fn end(&self) {
        if let Self::Plain { process, .. } = self {
            signal(process, libc::SIGTERM);
        }
    }
}

fn signal(process: &Child, signal: i32) {
    let pid = process.id().expect("still running").cast_signed();
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Beats often, so that a recording is short, and gives up late, so that a busy machine does not matter.
const SETTINGS: [&str; 6] = [
    "heartbeat.interval=\"200ms\"",
    "heartbeat.timeout=\"200ms\"",
    "heartbeat.max_failures=100",
    "reconnect.initial_delay=\"100ms\"",
    "reconnect.max_delay=\"1h\"",
    "commands.kill_grace=\"300ms\"",
];

/// Programs of the agent by the names that the recording gives them.
pub struct Agents {
    folder: TempDir,
    running: HashMap<String, Child>,
}

impl Agents {
    pub fn none() -> Self {
        Self { folder: TempDir::new().unwrap(), running: HashMap::new() }
    }

    /// Begins one as a line `agent` says; `more` comes behind.
    pub fn start(&mut self, step: &Step, master: &str, more: &[&str]) {
        let Step::Agent { key, id, args } = step else { panic!("no agent: {step:?}") };
        let state = self.folder.path().join(key);
        if !state.exists() {
            fs::create_dir(&state).unwrap();
            fs::write(state.join("agent-id"), format!("{id}\n")).unwrap();
        }
        let mut command = program();
        command.arg("agent").args(args).args(["--master", master, "--state-dir"]).arg(&state).args(more);
        command.args(SETTINGS.iter().flat_map(|setting| ["--set", setting])).current_dir(&state);
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        self.running.insert(key.clone(), child);
    }

    pub async fn exit(&mut self, key: &str) -> i32 {
        let mut child = self.running.remove(key).expect("it was started");
        timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap().code().unwrap_or(-1)
    }
}

// -------------------------------------------------------------------------------------------------------- certificates

/// What `master init` made in a folder, and one who stands between an agent and its master by it: only with the key of
/// the authority can that be done.
pub struct Between<'a>(pub &'a Path);

impl Between<'_> {
    pub fn server(&self) -> ServerConfig {
        let read = |name: &str| CertificateDer::from_pem_file(self.0.join(name)).unwrap();
        // As the master does: a token names the authority, which is looked for in what is shown.
        let chain = vec![read("master.pem"), read("ca.pem")];
        let key = PrivateKeyDer::from_pem_file(self.0.join("master.key")).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            Arc::new(default_provider()),
        );
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap();
        let builder = builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap());
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    pub fn client(&self, identity: Option<(&CertificateDer<'static>, &KeyPair)>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(self.roots());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
                builder.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.0.join("ca.pem")).unwrap()).unwrap();
        roots
    }

    /// A certificate of an agent for a key that is a point of P-256, as the released protocol sends it.
    pub fn issue(&self, agent_id: &[u8], point: &[u8]) -> Vec<u8> {
        let authority = KeyPair::from_pem(&fs::read_to_string(self.0.join("ca.key")).unwrap()).unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Sloth Runner CA");
        let issuer = Issuer::new(ca, authority);
        let mut params = CertificateParams::default();
        let id: String = agent_id.iter().map(|byte| format!("{byte:02x}")).collect();
        params.subject_alt_names = vec![SanType::URI(format!("sloth:agent:{id}").try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&Point(point), &issuer).unwrap().der().to_vec()
    }
}

struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The proof of possession of version 0.1, as its comments say it.
pub fn proof(key: &KeyPair, exported: &[u8; 32], agent_id: &[u8]) -> Vec<u8> {
    let statement = [b"sloth-runner join 1\0", &exported[..], agent_id, key.public_key_raw()].concat();
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, &key.serialize_der(), &random).unwrap();
    pair.sign(&random, &statement).unwrap().as_ref().to_vec()
}
