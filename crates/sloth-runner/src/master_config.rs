//! The master's configuration: read in layers as the agent's is, and checked once.

#[cfg(test)]
mod tests;

use crate::{
    master::{Connections, HEARTBEATS_PER_SECOND_DEFAULT, REGISTRATIONS_PER_SECOND_DEFAULT, UNKNOWN_EACH_DEFAULT},
    outputs::OUTPUT_KEEP_DEFAULT,
    security::TlsFiles,
    store::History,
    webhook::{KINDS, KINDS_DEFAULT, Target},
};
use sloth_agent::config::{
    Log, Secret, Surroundings, describe, exposed, read_log,
    reader::{Layers, Problems, Reader, Setting, Shown},
};
use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the master listens unless told otherwise: nobody else reaches it.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50050);

const HTTP_LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50080);

/// Names of one master.
const HOSTS_MAX: usize = 16;

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
    /// Default `127.0.0.1:50080`; none for `""`. Another than a loopback address only with `--insecure`.
    pub http_listen: Option<SocketAddr>,
    /// Somebody has set it: that it is taken is an error then.
    pub http_asked: bool,
    /// Names under which a proxy passes requests on, besides those of this host. Default: none.
    pub http_hosts: Vec<String>,
    /// Of the whole fleet, kept by stretching intervals. Default 5,000.
    pub heartbeats_per_second: u32,
    /// Default 5,000.
    pub registrations_per_second: u32,
    /// Default: half of the room for one address, 1,024 of them without a credential; 30 s to show one, 60 s a message.
    pub connections: Connections,
    pub history: History,
    /// Of one command, in bytes; what comes after it is a gap. Default 1 GiB.
    pub output_keep: u64,
    /// Where events are posted to. Default: nowhere.
    pub webhook: Option<Webhook>,
    pub log: Log,
}

/// Where events are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub target: Target,
    /// What bodies are signed with. Default: they are not.
    pub secret: Option<Secret>,
    /// Whom to trust. Default: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Default: [`KINDS_DEFAULT`].
    pub kinds: Vec<String>,
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
    let http = http_listen(reader, insecure);
    let heartbeats = reader.integer("heartbeat.max_per_second", HEARTBEATS_PER_SECOND_DEFAULT, 1..=1_000_000);
    let registrations = reader.integer("registrations.max_per_second", REGISTRATIONS_PER_SECOND_DEFAULT, 1..=1_000_000);
    let connections = connections(reader);
    let webhook = webhook(reader);
    let config = MasterConfig {
        listen,
        tls,
        state_dir,
        store,
        http_listen: http.value.unwrap_or(Some(HTTP_LISTEN_DEFAULT)),
        http_asked: !http.is_default(),
        http_hosts: reader.list("http.hosts", HOSTS_MAX, check_host).value.unwrap_or_default(),
        heartbeats_per_second: heartbeats.value,
        registrations_per_second: registrations.value,
        connections,
        history: History {
            commands_keep: reader.duration("commands.keep", defaults.commands_keep, SECOND..=YEARS).value,
            commands_keep_max: u64::from(reader.integer("commands.keep_max", 100_000, 1..=100_000_000).value),
            events_keep: reader.duration("events.keep", defaults.events_keep, SECOND..=YEARS).value,
            sessions_keep: reader.integer("sessions.keep", defaults.sessions_keep, 1..=100_000).value,
        },
        output_keep: reader.size("commands.output_keep", OUTPUT_KEEP_DEFAULT, 0..=MIB * MIB).value,
        webhook,
        log: read_log(reader),
    };
    (config, Vec::new())
}

fn connections(reader: &mut Reader) -> Connections {
    const HOUR: Duration = Duration::from_secs(3600);
    const MIN: Duration = Duration::from_millis(100);
    let defaults = Connections::default();
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let each = reader.optional_integer("connections.max_per_address", 1..=10_000_000);
    let unknown_default = u32::try_from(UNKNOWN_EACH_DEFAULT).expect("it is small");
    let unknown = reader.integer("connections.max_unknown_per_address", unknown_default, 1..=10_000_000);
    let each_max = each.value.map(count);
    if let Some(each_max) = each_max
        && count(unknown.value) > each_max
        && !unknown.is_default()
    {
        let text = format!(
            "connections.max_unknown_per_address is {}, above connections.max_per_address ({each_max}), which counts \
             them, too: lower it, or raise the other",
            unknown.value
        );
        reader.problem(&unknown.origin, text);
    }
    Connections {
        each: each_max,
        unknown_each: count(unknown.value),
        unknown_timeout: reader.duration("connections.unknown_timeout", defaults.unknown_timeout, MIN..=HOUR).value,
        message_timeout: reader.duration("connections.message_timeout", defaults.message_timeout, MIN..=HOUR).value,
    }
}

fn http_listen(reader: &mut Reader, insecure: bool) -> Setting<Option<Option<SocketAddr>>> {
    let http = reader.string("http.listen", check_http);
    if let Some(Some(address)) = http.value
        && !insecure
        && !address.ip().to_canonical().is_loopback()
    {
        let text = format!(
            "http.listen is {address}, which other hosts can reach, and it speaks plain HTTP: whoever reaches it sees \
             numbers and the names of agents, and who is on the way sees what its web page shows; add --insecure to \
             accept that, or listen on {HTTP_LISTEN_DEFAULT} and put a proxy with TLS before it"
        );
        reader.problem(&http.origin, text);
    }
    http
}

fn webhook(reader: &mut Reader) -> Option<Webhook> {
    let url = reader.string("events.webhook.url", Target::parse);
    let secret = reader.path("events.webhook.secret_file");
    let ca_file = reader.path("events.webhook.ca_file");
    let kinds = reader.list("events.webhook.kinds", KINDS.len(), |kind| match KINDS.contains(&kind) {
        true => Ok(kind.to_owned()),
        false => Err(format!("which is no kind of event: use {}", KINDS.join(", "))),
    });
    let key = secret.value.as_deref().and_then(|path| {
        let read = read_secret(path);
        read.map_err(|rule| {
            reader.problem(&secret.origin, format!("events.webhook.secret_file is {}, {rule}", path.display()))
        })
        .ok()
    });
    let Some(target) = url.value else {
        let idle =
            [(secret.key, secret.is_default(), secret.origin), (ca_file.key, ca_file.is_default(), ca_file.origin)];
        for (key, default, origin) in idle {
            if !default && url.valid {
                let text = format!("{key} is set without events.webhook.url: name the receiver, or remove it");
                reader.problem(&origin, text);
            }
        }
        return None;
    };
    let kinds = kinds.value.unwrap_or_else(|| KINDS_DEFAULT.map(str::to_owned).to_vec());
    Some(Webhook { target, secret: key, ca_file: ca_file.value, kinds })
}

/// The whole file without the newline at its end, if nobody but its owner can read it.
fn read_secret(path: &Path) -> Result<Secret, String> {
    /// Longer than any key of use.
    const SECRET_MAX: u64 = 4096;
    let unreadable = |error: io::Error| format!("which cannot be read ({}): check it", describe(&error));
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("which is no file: name one".to_owned());
    }
    if let Some(problem) = exposed(&metadata, path) {
        return Err(format!("which {problem}"));
    }
    let mut text = String::new();
    file.take(SECRET_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    match text.trim_end_matches(['\n', '\r']) {
        "" => Err("which is empty: write a secret into it".to_owned()),
        secret if secret.len() as u64 > SECRET_MAX => {
            Err(format!("which is longer than {SECRET_MAX} bytes: shorten it"))
        }
        secret => Ok(Secret(secret.to_owned())),
    }
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
    let [cert, key] = ["tls.cert_file", "tls.key_file"].map(|key| reader.path(key));
    let [ca, ca_key] = ["tls.ca_file", "tls.ca_key_file"].map(|key| reader.path(key));
    let [client_ca, client_crl] = ["tls.client_ca_file", "tls.client_crl_file"].map(|key| reader.path(key));
    let agent_life = reader.duration("tls.agent_life", 90 * DAY, Duration::from_secs(1)..=3650 * DAY);
    let files = [&cert, &key, &ca, &ca_key, &client_ca, &client_crl];
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
        client_crl_file: client_crl.value,
        agent_life: agent_life.value,
    })
}

fn check_listen(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_host = |host: &str| host == "localhost" || host.parse::<Ipv4Addr>().is_ok();
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) if is_host(text) => Err(format!("without a port: write it like {text}:50050")),
        Err(_) if text.parse::<IpAddr>().is_ok() => Err(format!("without a port: write it like [{text}]:50050")),
        Err(_) if is_host(host) && port.parse::<u16>().is_err() => {
            Err(format!("with {port:?}, which is not a port: use 1 to 65535"))
        }
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

/// A name, as it stands in `Host`, in small letters.
fn check_host(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match !text.is_empty() && text.len() <= 253 && text.bytes().all(good) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("not a name: write it without scheme and port, like sloth.example.org".into()),
    }
}
