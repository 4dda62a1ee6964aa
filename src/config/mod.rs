//! Configuration: text, then raw, then checked, once. After that nothing is optional that must be there.

mod address;
mod layers;
mod load;
mod phrase;
pub mod reader;
mod secret;
mod settings;
pub mod units;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub(crate) use self::phrase::distance;
pub use self::{
    address::{MASTER_PORT_DEFAULT, check_name},
    layers::describe,
    load::{Loaded, Sources, Surroundings, Whereabouts, host_name, load, temporary_folder, whereabouts},
    reader::{Problems, Shown},
    secret::{exposed, is_anothers, look_only},
    settings::{check_label, log as read_log},
};

/// The whole configuration of an agent, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// 1 to 63 of letters, digits, `.`, `_`, `-`, beginning with a letter or digit. Default: the host name.
    pub name: String,
    /// Never empty. Default: `localhost:50050`.
    pub masters: Vec<MasterAddress>,
    /// Absolute. Default: `/var/lib/sloth-runner/<name>` as root, else `$XDG_STATE_HOME/sloth-runner/<name>`.
    pub state_dir: PathBuf,
    /// What the master shows and selects by. Default: none.
    pub labels: BTreeMap<String, String>,
    pub listen: Listen,
    /// For dialling and registering together. Default 10 s.
    pub connection_timeout: Duration,
    pub heartbeat: Heartbeat,
    pub reconnect: Reconnect,
    pub circuit_breaker: CircuitBreaker,
    /// Default: plain TCP.
    pub tls: Option<Tls>,
    pub token: Option<Secret>,
    /// What `auth.token_file` names, where it is not there: no fault in an agent that has joined.
    pub token_gone: Option<PathBuf>,
    pub commands: Commands,
    /// How long running commands may go on after SIGTERM. Default 30 s.
    pub shutdown_grace: Duration,
    pub log: Log,
    /// Default: none.
    pub http_listen: Option<SocketAddr>,
}

/// Where a master is, not yet resolved. IPv6 literals are kept without their brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterAddress {
    pub host: String,
    pub port: u16,
}

/// `host:port`, with an IPv6 literal in brackets.
impl fmt::Display for MasterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The agent's own gRPC port. Default: none.
    pub port: Option<u16>,
    /// Default `0.0.0.0`.
    pub bind_address: IpAddr,
    /// What the master shows. Default: the local address of the connection, with the port if there is one.
    pub report_address: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Default 5 s.
    pub interval: Duration,
    /// Never above the interval. Default: the smaller of the interval and 5 s.
    pub timeout: Duration,
    /// Default 3.
    pub max_failures: u32,
    /// How far a master may stretch the interval. Default: the larger of the interval and 60 s.
    pub max_interval: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Reconnect {
    /// Default 5 s.
    pub initial_delay: Duration,
    /// Never below the initial delay. Default 60 s.
    pub max_delay: Duration,
    /// 1.0 or more. Default 2.0.
    pub multiplier: f64,
    /// 0.0 to 1.0: the part of a wait that is drawn. Default 0.2.
    pub jitter: f64,
    /// Default 30 s.
    pub reset_after: Duration,
    /// Default true.
    pub on_network_change: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Default 5.
    pub max_failures: u32,
    /// Default 5 min.
    pub open_for: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub server_name: Option<String>,
}

/// A text that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Default true.
    pub enabled: bool,
    /// More wait on the agent, in order. Default 16.
    pub max_running: usize,
    /// Default `/bin/sh`.
    pub shell: PathBuf,
    /// Between TERM and KILL. Default 10 s.
    pub kill_grace: Duration,
    /// For commands that state none. Default: none.
    pub timeout: Option<Duration>,
    /// Whom commands may run as; empty: anybody.
    pub users: Vec<String>,
    /// Which programs may be run; empty: any.
    pub allow: Vec<String>,
    /// Output that is held unacknowledged for one command, bytes. Default 16 MiB.
    pub output_limit: u64,
    pub when_full: WhenFull,
    /// Bytes. Default 64 MiB.
    pub spool_limit: u64,
    pub spool: Spool,
    /// How long the outcome of a delivered command is remembered. Default 7 d.
    pub remember: Duration,
}

/// What happens to output that has no room while the link is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The command waits. The default.
    Stall,
    /// It is dropped, and the gap is marked.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spool {
    Disk,
    Memory,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Default info.
    pub level: log::LevelFilter,
    /// Default: standard error; with `--daemon` `./agent.log`.
    pub file: Option<PathBuf>,
    /// Bytes. Default 1 MiB.
    pub max_size: u64,
    /// How many files in all, the current one counted. Default 3.
    pub max_files: u32,
    /// Default true.
    pub timestamps: bool,
}

#[cfg(test)]
mod tests;
