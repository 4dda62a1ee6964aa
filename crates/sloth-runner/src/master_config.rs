//! The master's configuration: read in layers as the agent's is, and checked once.

#[cfg(test)]
mod tests;

use crate::{
    master::{HEARTBEATS_PER_SECOND_DEFAULT, REGISTRATIONS_PER_SECOND_DEFAULT},
    outputs::OUTPUT_KEEP_DEFAULT,
    security::TlsFiles,
    store::History,
};
use sloth_agent::config::{
    Log, Surroundings, read_log,
    reader::{Layers, Problems, Reader, Shown},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Where the master listens unless told otherwise: nobody else reaches it.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50050);

const HTTP_LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50080);

/// Looked for where `--config` names none, best first.
const FILES: [&str; 2] = ["master.toml", "/etc/sloth-runner/master.toml"];

/// The whole configuration of a master, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct MasterConfig {
    /// Default `127.0.0.1:50050`. Another than a loopback address only with TLS, or `--insecure`. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Default: none, in the clear.
    pub tls: Option<TlsFiles>,
    /// Absolute. Default: `/var/lib/sloth-runner/master` as root, else `$XDG_STATE_HOME/sloth-runner/master`.
    pub state_dir: PathBuf,
    /// The database. Absolute. Default: `sloth.db` in the state directory.
    pub store: PathBuf,
    /// Default `127.0.0.1:50080`; none for `""`.
    pub http_listen: Option<SocketAddr>,
    /// Of the whole fleet, kept by stretching intervals. Default 5,000.
    pub heartbeats_per_second: u32,
    /// Default 5,000.
    pub registrations_per_second: u32,
    pub history: History,
    /// Of one command, in bytes; what comes after it is a gap. Default 1 GiB.
    pub output_keep: u64,
    /// Where events are posted to. Default: nowhere.
    pub webhook: Option<String>,
    pub log: Log,
}

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Flag, key and value.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Each `--set`, `key=value`; they stand above the other flags.
    pub assignments: Vec<String>,
    /// `--insecure`.
    pub insecure: bool,
}

/// A configuration that holds, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: MasterConfig,
    /// The file that was read; none was found where this is none.
    pub file: Option<PathBuf>,
    /// What somebody set, sorted by key.
    pub shown: Vec<Shown>,
    /// Keys that somebody set and that do nothing in this version.
    pub idle: Vec<&'static str>,
}

/// Reads, overlays and checks the whole configuration.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(sources: &Sources, surroundings: &Surroundings) -> Result<Loaded, Problems> {
    let mut layers = Layers::default();
    // One that is there and cannot be read is an error, not a reason to look further.
    let found = || FILES.iter().map(PathBuf::from).find(|path| path.symlink_metadata().is_ok());
    let file = sources.file.clone().or_else(found);
    if let Some(path) = &file {
        layers.add_file(path);
    }
    for (flag, key, value) in &sources.flags {
        layers.add_flag(flag, key, value);
    }
    for assignment in &sources.assignments {
        layers.add_assignment(assignment);
    }
    let mut reader = layers.reader();
    let (config, idle) = read(&mut reader, surroundings, sources.insecure);
    Ok(Loaded { config, file, shown: reader.finish()?, idle })
}

/// Reads every setting. Whether the result holds is known after [`Reader::finish`].
fn read(reader: &mut Reader, surroundings: &Surroundings, insecure: bool) -> (MasterConfig, Vec<&'static str>) {
    const SECOND: Duration = Duration::from_secs(1);
    const YEARS: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    const MIB: u64 = 1 << 20;
    let defaults = History::default();

    let tls = tls(reader);
    let listen = listen(reader, insecure || tls.is_some());
    let state_dir = reader.path("state_dir").value.unwrap_or_else(|| surroundings.default_state_dir("master"));
    let store = reader.path("store").value.unwrap_or_else(|| state_dir.join("sloth.db"));
    let http = reader.string("http.listen", check_http);
    let heartbeats = reader.integer("heartbeat.max_per_second", HEARTBEATS_PER_SECOND_DEFAULT, 1..=1_000_000);
    let registrations = reader.integer("registrations.max_per_second", REGISTRATIONS_PER_SECOND_DEFAULT, 1..=1_000_000);
    let webhook = reader.string("events.webhook", check_webhook);
    let idle = [(http.key, http.is_default()), (webhook.key, webhook.is_default())];
    let config = MasterConfig {
        listen,
        tls,
        state_dir,
        store,
        http_listen: http.value.unwrap_or(Some(HTTP_LISTEN_DEFAULT)),
        heartbeats_per_second: heartbeats.value,
        registrations_per_second: registrations.value,
        history: History {
            commands_keep: reader.duration("commands.keep", defaults.commands_keep, SECOND..=YEARS).value,
            commands_keep_max: u64::from(reader.integer("commands.keep_max", 100_000, 1..=100_000_000).value),
            events_keep: reader.duration("events.keep", defaults.events_keep, SECOND..=YEARS).value,
        },
        output_keep: reader.size("commands.output_keep", OUTPUT_KEEP_DEFAULT, 0..=MIB * MIB).value,
        webhook: webhook.value,
        log: read_log(reader),
    };
    (config, idle.into_iter().filter(|(_, default)| !default).map(|(key, _)| key).collect())
}

fn listen(reader: &mut Reader, insecure: bool) -> SocketAddr {
    let listen = reader.string("listen", check_listen);
    let address = listen.value.unwrap_or(LISTEN_DEFAULT);
    if !insecure && !address.ip().to_canonical().is_loopback() {
        let text = format!(
            "listen is {address}, which other hosts can reach, and there is no TLS: whoever reaches it could run \
             commands on every agent; run `sloth-runner master init --dir DIR` once and start with its master.toml, or \
             listen on {LISTEN_DEFAULT}, or add --insecure to accept that"
        );
        reader.problem(&listen.origin, text);
    }
    address
}

/// None: in the clear.
fn tls(reader: &mut Reader) -> Option<TlsFiles> {
    const DAY: Duration = Duration::from_secs(86_400);
    let enabled = reader.optional_boolean("tls.enabled");
    let [cert, key, ca, ca_key, client_ca] =
        ["tls.cert_file", "tls.key_file", "tls.ca_file", "tls.ca_key_file", "tls.client_ca_file"]
            .map(|key| reader.path(key));
    let agent_life = reader.duration("tls.agent_life", 90 * DAY, Duration::from_secs(1)..=3650 * DAY);
    let files = [&cert, &key, &ca, &ca_key, &client_ca];
    let given = files.into_iter().find(|file| !file.is_default());
    match (enabled.value, given) {
        (Some(false), Some(file)) => {
            let text = format!("tls.enabled is false, but {} is given: remove one of them", file.key);
            reader.problem(&enabled.origin, text);
            return None;
        }
        (Some(false) | None, None) => return None,
        _ => {}
    }
    let origin = given.map_or(&enabled.origin, |file| &file.origin);
    for missing in [&cert, &key].into_iter().filter(|file| file.is_default()) {
        let text =
            format!("TLS is asked for without {}: name it; `sloth-runner master init` makes all of it", missing.key);
        reader.problem(origin, text);
    }
    if !ca_key.is_default() && ca.is_default() {
        reader.problem(&ca_key.origin, "tls.ca_key_file is given without tls.ca_file: give both, or neither".into());
    }
    Some(TlsFiles {
        cert_file: cert.value?,
        key_file: key.value?,
        ca_file: ca.value,
        ca_key_file: ca_key.value,
        client_ca_file: client_ca.value,
        agent_life: agent_life.value,
    })
}

fn check_listen(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) if host == "localhost" => check_listen(&format!("127.0.0.1:{port}")),
        Err(_) if host.is_empty() && port.parse::<u16>().is_ok() => {
            Err(format!("without an address: write 0.0.0.0:{port} for all interfaces, or 127.0.0.1:{port}"))
        }
        Err(_) => Err("not an IP address with a port: write it like 127.0.0.1:50050 or [::1]:50050".into()),
    }
}

/// None for the empty text, which turns it off.
fn check_http(text: &str) -> Result<Option<SocketAddr>, String> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(address) => Ok(Some(address)),
        Err(_) => {
            Err("not an IP address with a port: write it like 127.0.0.1:50080 or [::1]:50080, or \"\" for none".into())
        }
    }
}

fn check_webhook(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') && !host.contains(char::is_whitespace) => {
            Ok(text.to_owned())
        }
        _ => Err("not a URL: write it like https://example.com/hook".into()),
    }
}
