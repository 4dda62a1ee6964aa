//! Each setting of the agent: its key, default, bounds, and the rules between settings.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use log::LevelFilter;

use super::{
    CircuitBreaker, Commands, Config, Heartbeat, Listen, Log, MasterAddress, Reconnect, Secret, Spool, Tls, WhenFull,
    address::{check_name, check_report_address, parse_ip},
    load::Surroundings,
    reader::{Reader, Setting},
    secret::{check_token, read_token_file},
    units::{ShowDuration, ShowSize},
};
use crate::commands::allow::ANY;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// How many masters an agent may have: a pass over all of them must end.
const MASTERS_MAX: usize = 64;
/// Labels travel with every registration.
const LABELS_MAX: usize = 64;
const LABEL_KEY_MAX: usize = 63;
const LABEL_VALUE_MAX: usize = 255;
/// Entries of `commands.users` and `commands.allow`.
const PERMITS_MAX: usize = 256;

/// Reads every setting. Whether the result holds is known after [`Reader::finish`].
///
pub(super) fn read(reader: &mut Reader, surroundings: &Surroundings) -> Config {
    let name = reader.string("name", check_name).value.unwrap_or_else(|| surroundings.default_name());
    let masters = masters(reader);
    let state_dir = reader.path("state_dir");
    let state_dir = state_dir.value.unwrap_or_else(|| surroundings.default_state_dir(&name));
    let (token, token_gone) = token(reader, &state_dir);
    Config {
        masters,
        state_dir,
        name,
        labels: reader.table("labels", LABELS_MAX, check_label),
        listen: listen(reader),
        connection_timeout: reader.duration("connection.timeout", 10 * SECOND, 10 * MS..=HOUR).value,
        heartbeat: heartbeat(reader),
        reconnect: reconnect(reader),
        circuit_breaker: CircuitBreaker {
            max_failures: reader.integer("circuit_breaker.max_failures", 5, 1..=1_000).value,
            open_for: reader.duration("circuit_breaker.open_for", 300 * SECOND, 10 * MS..=DAY).value,
        },
        tls: tls(reader),
        token,
        token_gone,
        commands: commands(reader),
        shutdown_grace: reader.duration("shutdown.grace", 30 * SECOND, Duration::ZERO..=DAY).value,
        log: log(reader),
        http_listen: reader.string("http.listen", check_socket).value,
    }
}

fn masters(reader: &mut Reader) -> Vec<MasterAddress> {
    let default = || vec![MasterAddress::parse("localhost").expect("a host alone is an address")];
    reader.alternatives("master", "masters");
    let one = reader.string("master", MasterAddress::parse);
    let many = reader.list("masters", MASTERS_MAX, MasterAddress::parse);
    match (one.value, many.value) {
        (Some(master), _) => vec![master],
        (None, Some(masters)) if masters.is_empty() => {
            reader.problem(&many.origin, "masters is empty: name at least one, like [\"localhost:50050\"]".into());
            default()
        }
        (None, Some(masters)) => {
            let mut seen = HashSet::new();
            for master in &masters {
                let text = master.to_string();
                if !seen.insert(text.to_ascii_lowercase()) {
                    reader.problem(&many.origin, format!("masters names {text} more than once: leave one out"));
                }
            }
            masters
        }
        (None, None) => default(),
    }
}

/// Whether agents may have this label.
///
/// # Errors
/// Reads after "label key is value, ".
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if key.is_empty() || key.len() > LABEL_KEY_MAX || !key.chars().all(allowed) {
        return Err(format!(
            "under a key that is not allowed: use 1 to {LABEL_KEY_MAX} letters, digits, '.', '_', '-' and '/'"
        ));
    }
    if value.len() > LABEL_VALUE_MAX {
        return Err(format!("longer than {LABEL_VALUE_MAX} bytes: shorten it"));
    }
    if value.chars().any(char::is_control) {
        return Err("with a control character in it: take it out".into());
    }
    Ok(())
}

fn listen(reader: &mut Reader) -> Listen {
    let allow = reader.boolean("listen.allow_commands", false);
    if allow.value {
        let text = "listen.allow_commands is true, and this version takes commands only from its own session with \
                    the master: remove it";
        reader.problem(&allow.origin, text.into());
    }
    let port = reader.optional_integer("listen.port", 1..=u32::from(u16::MAX)).value;
    Listen {
        port: port.map(|port| u16::try_from(port).expect("bounded by the reader")),
        bind_address: reader.string("listen.bind_address", parse_ip).value.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        report_address: reader.string("listen.report_address", check_report_address).value,
    }
}

fn heartbeat(reader: &mut Reader) -> Heartbeat {
    let interval = reader.duration("heartbeat.interval", 5 * SECOND, 100 * MS..=HOUR);
    let timeout = reader.optional_duration("heartbeat.timeout", 10 * MS..=HOUR).or(interval.value.min(5 * SECOND));
    let max_interval =
        reader.optional_duration("heartbeat.max_interval", 100 * MS..=DAY).or(interval.value.max(60 * SECOND));
    if comparable(&interval, &timeout) && timeout.value > interval.value {
        let text = format!(
            "heartbeat.timeout is {}, above heartbeat.interval ({}): lower it, or raise interval",
            ShowDuration(timeout.value),
            ShowDuration(interval.value)
        );
        reader.problem(&timeout.origin, text);
    }
    if comparable(&interval, &max_interval) && max_interval.value < interval.value {
        let text = format!(
            "heartbeat.max_interval is {}, below heartbeat.interval ({}): raise it, or lower interval",
            ShowDuration(max_interval.value),
            ShowDuration(interval.value)
        );
        reader.problem(&max_interval.origin, text);
    }
    Heartbeat {
        interval: interval.value,
        timeout: timeout.value,
        max_failures: reader.integer("heartbeat.max_failures", 3, 1..=100).value,
        max_interval: max_interval.value,
    }
}

fn reconnect(reader: &mut Reader) -> Reconnect {
    let initial = reader.duration("reconnect.initial_delay", 5 * SECOND, 10 * MS..=DAY);
    let max = reader.duration("reconnect.max_delay", 60 * SECOND, 10 * MS..=DAY);
    if comparable(&initial, &max) && max.value < initial.value {
        let (initial_shown, max_shown) = (ShowDuration(initial.value), ShowDuration(max.value));
        if max.is_default() {
            let text = format!(
                "reconnect.initial_delay is {initial_shown}, above reconnect.max_delay ({max_shown}): lower it, or \
                 raise max_delay"
            );
            reader.problem(&initial.origin, text);
        } else {
            let text = format!(
                "reconnect.max_delay is {max_shown}, below reconnect.initial_delay ({initial_shown}): raise it, or \
                 lower initial_delay"
            );
            reader.problem(&max.origin, text);
        }
    }
    Reconnect {
        initial_delay: initial.value,
        max_delay: max.value,
        multiplier: reader.float("reconnect.multiplier", 2.0, 1.0..=100.0).value,
        jitter: reader.float("reconnect.jitter", 0.2, 0.0..=1.0).value,
        reset_after: reader.duration("reconnect.reset_after", 30 * SECOND, 10 * MS..=DAY).value,
        on_network_change: reader.boolean("reconnect.on_network_change", true).value,
    }
}

fn tls(reader: &mut Reader) -> Option<Tls> {
    let enabled = reader.optional_boolean("tls.enabled");
    let ca_file = reader.path("tls.ca_file");
    let cert_file = reader.path("tls.cert_file");
    let key_file = reader.path("tls.key_file");
    let server_name = reader.string("tls.server_name", |text| match MasterAddress::parse(text) {
        Ok(address) if !text.contains(':') || text == address.host => Ok(address.host),
        _ => Err("not a host name: write it like master.example.com".into()),
    });
    let given = [&ca_file, &cert_file, &key_file].into_iter().find(|file| !file.is_default()).map(|file| file.key);
    let given = given.or_else(|| (!server_name.is_default()).then_some(server_name.key));
    for (one, other) in [(&cert_file, &key_file), (&key_file, &cert_file)] {
        if !one.is_default() && other.is_default() {
            let text = format!("{} is given without {}: give both, or neither", one.key, other.key);
            reader.problem(&one.origin, text);
        }
    }
    match (enabled.value, given) {
        (Some(false), Some(key)) => {
            let text = format!("tls.enabled is false, but {key} is given: remove one of them");
            reader.problem(&enabled.origin, text);
            return None;
        }
        (Some(false) | None, None) => return None,
        _ => {}
    }
    Some(Tls {
        ca_file: ca_file.value,
        cert_file: cert_file.value,
        key_file: key_file.value,
        server_name: server_name.value,
    })
}

/// The token; and the file that would hold it, where there is none and the agent has joined long ago.
fn token(reader: &mut Reader, state_dir: &Path) -> (Option<Secret>, Option<PathBuf>) {
    reader.alternatives("auth.token", "auth.token_file");
    let remedy =
        "is a secret and must not stand here: write it to a file of mode 0600 and name that in auth.token_file";
    let token = reader.secret("auth.token", remedy, check_token);
    let file = reader.path("auth.token_file");
    let Some(path) = file.value else { return (token.value, None) };
    let is_gone = || matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound);
    if is_gone() && crate::credentials::has_joined(state_dir) {
        return (None, Some(path));
    }
    let read = read_token_file(&path).map_err(|rule| {
        reader.problem(&file.origin, format!("auth.token_file is {}, {rule}", path.display()));
    });
    (read.ok(), None)
}

fn commands(reader: &mut Reader) -> Commands {
    let not_empty = |text: &str| match text.is_empty() || text.chars().any(char::is_control) {
        true => Err("empty or with a control character: write a name".to_string()),
        false => Ok(text.to_string()),
    };
    let output_limit = reader.size("commands.output_limit", 16 * MIB, 64 * KIB..=TIB);
    let spool_limit = reader.size("commands.spool_limit", 64 * MIB, 64 * KIB..=TIB);
    if comparable(&output_limit, &spool_limit) && spool_limit.value < output_limit.value {
        let (spool, output) = (ShowSize(spool_limit.value), ShowSize(output_limit.value));
        if spool_limit.is_default() {
            let text = format!(
                "commands.output_limit is {output}, above commands.spool_limit ({spool}): lower it, or raise spool_limit"
            );
            reader.problem(&output_limit.origin, text);
        } else {
            let text = format!(
                "commands.spool_limit is {spool}, below commands.output_limit ({output}): raise it, or lower output_limit"
            );
            reader.problem(&spool_limit.origin, text);
        }
    }
    Commands {
        enabled: reader.boolean("commands.enabled", true).value,
        max_running: reader.integer("commands.max_running", 16, 1..=1_024).value as usize,
        shell: reader.string("commands.shell", check_absolute).value.unwrap_or_else(|| "/bin/sh".into()),
        kill_grace: reader.duration("commands.kill_grace", 10 * SECOND, 10 * MS..=HOUR).value,
        timeout: reader.optional_duration("commands.timeout", 10 * MS..=YEAR).value,
        users: reader.list("commands.users", PERMITS_MAX, not_empty).value.unwrap_or_default(),
        allow: reader.list("commands.allow", PERMITS_MAX, check_permit).value.unwrap_or_default(),
        output_limit: output_limit.value,
        when_full: reader
            .word("commands.when_full", WhenFull::Stall, &[("stall", WhenFull::Stall), ("drop", WhenFull::Drop)])
            .value,
        spool_limit: spool_limit.value,
        spool: reader.word("commands.spool", Spool::Disk, &[("disk", Spool::Disk), ("memory", Spool::Memory)]).value,
        remember: reader.duration("commands.remember", 7 * DAY, 60 * SECOND..=YEAR).value,
    }
}

fn check_permit(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("empty or with a control character: write a program".to_string());
    }
    // A relative path is one of whoever chooses the directory; of a bare name a pattern would not say where that is.
    let is_path = text.contains('/') || text.contains(ANY);
    match is_path && (!text.starts_with('/') || text.split('/').any(|name| name == "..")) {
        true => Err("no absolute path, or one with ..: write it like /opt/site/deploy or /opt/site/*".to_string()),
        false => Ok(text.to_string()),
    }
}

fn check_absolute(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') && !text.contains('\0') {
        true => Ok(text.into()),
        false => Err("not an absolute path: write it like /bin/sh".into()),
    }
}

/// Reads the `log` section, which the master has as well.
pub fn log(reader: &mut Reader) -> Log {
    const SIZES: RangeInclusive<u64> = 4 * KIB..=TIB;
    let levels = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    Log {
        level: reader.word("log.level", LevelFilter::Info, &levels).value,
        file: reader.path("log.file").value,
        max_size: reader.size("log.max_size", MIB, SIZES).value,
        max_files: reader.integer("log.max_files", 3, 1..=1_000).value,
        timestamps: reader.boolean("log.timestamps", true).value,
    }
}

fn check_socket(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        // Port 0 is one that is free: the log says which.
        Ok(address) => Ok(address),
        _ => Err("not an IP address with a port: write it like 127.0.0.1:9100 or [::1]:9100".into()),
    }
}

/// Whether two settings can be compared: both hold, and somebody set at least one.
fn comparable<T, U>(one: &Setting<T>, other: &Setting<U>) -> bool {
    one.valid && other.valid && !(one.is_default() && other.is_default())
}
