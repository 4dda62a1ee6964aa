//! Who may come in: TLS, the authority that admits agents, tokens and certificates.

pub mod admission;
pub mod pki;
#[cfg(test)]
pub mod testing;
pub mod tls;
mod verifier;

use crate::{access::Caller, audit::Audit};
use admission::{Admission, CertificateRecord};
use pki::Authority;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tonic::{Code, Status};

/// What `tls` in `master.toml` names. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The master's certificate, and what of its chain the peers don't have.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// The CA whose certificates agents are given. Shown to peers, which know it by its fingerprint.
    pub ca_file: Option<PathBuf>,
    /// Its key. Without it no agent joins by a token.
    pub ca_key_file: Option<PathBuf>,
    /// CAs whose client certificates are good here, too.
    pub client_ca_file: Option<PathBuf>,
    /// What those CAs have revoked: lists in PEM.
    pub client_crl_file: Option<PathBuf>,
    /// How long a certificate of an agent is good; it is renewed at two thirds of it. Default 90 days.
    pub agent_life: Duration,
}

/// All of it, for a master that uses TLS.
pub struct Security {
    pub acceptor: Arc<tls::Acceptor>,
    /// None where the configuration names no key of a CA.
    pub authority: Option<Authority>,
    pub admission: Admission,
    /// The file that says who did what.
    pub audit: Option<Arc<Audit>>,
}

impl Security {
    /// What holds of an agent's certificate that is not on record here, and ends then. One that was made elsewhere is
    /// renewed there.
    pub fn found(&self, agent_id: [u8; 16], expires_ms: u64, made_here: bool) -> CertificateRecord {
        let authority = self.authority.as_ref().filter(|_| made_here);
        CertificateRecord::found(agent_id, expires_ms, authority.map(Authority::life_ms))
    }

    /// Puts it into the audit file where somebody was refused for what he shows, and not for what he asks.
    pub fn refused(&self, caller: Option<&Caller>, address: Option<SocketAddr>, call: &str, status: &Status) {
        if let (Some(audit), Code::Unauthenticated | Code::PermissionDenied) = (&self.audit, status.code()) {
            audit.refused(caller, address, call, status.message());
        }
    }
}

/// What a token or a certificate makes of who shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// May act as one agent, and as no other.
    Agent,
    /// May do everything that the tool does.
    Operator,
    /// May look.
    Viewer,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Agent, Self::Operator, Self::Viewer];

    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }
}
