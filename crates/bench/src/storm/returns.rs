//! A fleet that comes back at once, all of it from one address: in the clear, and with a full TLS handshake each.

use super::{
    Master, Options, Return, SETTLE, all_back,
    fleet::{self, Fleet, Seen},
    netstat::Dropped,
    reasons, seconds,
};
use crate::{footprint::Machine, table::number};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use sloth_agent::config::Tls;
use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::task::LocalSet;

/// What one return was like.
struct Found {
    first: Return,
    killed: Return,
    /// Of the master's own numbers, since it was started for the return.
    page: String,
}

/// Measures both; the table in Markdown.
///
/// # Errors
/// The master does not start, or some of the fleet does not come back.
pub async fn measure(options: &Options) -> io::Result<String> {
    let plain = watch(options, false).await?;
    let tls = watch(options, true).await?;
    Ok(write(options, &plain, &tls))
}

async fn watch(options: &Options, over_tls: bool) -> io::Result<Found> {
    let tasks = LocalSet::new();
    tasks.run_until(watch_on(options, over_tls, &tasks)).await
}

async fn watch_on(options: &Options, over_tls: bool, tasks: &LocalSet) -> io::Result<Found> {
    let folder = TempDir::new()?;
    // This network is ours alone: a port that is free now is free then.
    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let http = format!("http.listen=\"127.0.0.1:{web}\"");
    let authority = folder.path().join("tls");
    let config = authority.join("master.toml").display().to_string();
    let mut settings = vec!["--set", &http];
    if over_tls {
        set_up(options, &authority)?;
        settings.extend(["--config", &config]);
    }
    let files: &dyn Fn(usize) -> Tls = &|number| Tls {
        ca_file: Some(authority.join("ca.pem")),
        cert_file: Some(authority.join(format!("{number}.pem"))),
        key_file: Some(authority.join(format!("{number}.key"))),
        server_name: Some("localhost".to_owned()),
    };
    let start = async |port| Master::start(&options.master, folder.path(), port, &settings).await;

    let mut master = start(0).await?;
    let address = master.address;
    let before = Dropped::so_far()?;
    let fleet = Fleet::start(tasks, options.agents, address, over_tls.then_some(files));
    let first = all_back(options, &fleet, &master, Instant::now(), Seen::default(), before).await?;
    tokio::time::sleep(SETTLE).await;

    let before = (fleet.seen(), Dropped::so_far()?);
    master.kill();
    tokio::time::sleep(options.down).await;
    let mut master = start(address.port()).await?;
    let killed = all_back(options, &fleet, &master, master.started, before.0, before.1).await?;
    let page = tokio::task::spawn_blocking(move || metrics(web)).await.expect("reading does not panic")?;
    master.kill();
    Ok(Found { first, killed, page })
}

/// An authority, and a certificate for each agent.
fn set_up(options: &Options, folder: &Path) -> io::Result<()> {
    let mut init = Command::new(&options.master);
    init.args(["master", "init", "--listen", "127.0.0.1:0", "--address", "127.0.0.1", "--dir"]).arg(folder);
    let done = init.output()?;
    if !done.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned()));
    }
    let ca = KeyPair::from_pem(&fs::read_to_string(folder.join("ca.key"))?).map_err(io::Error::other)?;
    let mut name = CertificateParams::default();
    name.distinguished_name = rcgen::DistinguishedName::new();
    name.distinguished_name.push(rcgen::DnType::CommonName, "Sloth Runner CA");
    let issuer = Issuer::new(name, ca);
    for number in 0..options.agents {
        let id: String = fleet::id(number).iter().map(|byte| format!("{byte:02x}")).collect();
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::URI(format!("sloth:agent:{id}").try_into().map_err(io::Error::other)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
        let certificate = params.signed_by(&key, &issuer).map_err(io::Error::other)?;
        fs::write(folder.join(format!("{number}.pem")), certificate.pem())?;
        let file: PathBuf = folder.join(format!("{number}.key"));
        fs::write(&file, key.serialize_pem())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// What the master says of itself.
fn metrics(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

fn value<'a>(page: &'a str, name: &str) -> &'a str {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("not told")
}

fn write(options: &Options, plain: &Found, tls: &Found) -> String {
    let mut text = String::new();
    let Machine { date, kernel, processor, cores } = &Machine::look();
    let agents = options.agents;
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    line(format!("{date}; {cores} cores of {processor}, shared with the fleet; Linux {kernel}."));
    line(String::new());
    line(format!("| {} agents from one address, the defaults of both sides | plain | TLS |", number(agents as f64, 0)));
    line("|---|---|---|".to_owned());
    let mut row = |what: &str, show: &dyn Fn(&Found) -> String| {
        line(format!("| {what} | {} | {} |", show(plain), show(tls)));
    };
    let each = |cpu: Duration| format!("{:.0} µs", cpu.as_secs_f64() * 1e6 / agents as f64);
    let down = options.down.as_secs();
    row("all there, starting all at once with an empty database", &|found| seconds(found.first.took));
    row(&format!("all back after SIGKILL and {down} s, since the start of the process"), &|found| {
        seconds(found.killed.took)
    });
    row("… half of them", &|found| seconds(found.killed.half));
    row("… CPU of the master, its start included", &|found| format!("{:.2} s", found.killed.cpu.as_secs_f64()));
    row("… for each", &|found| each(found.killed.cpu));
    row("… CPU of the fleet for each, on one thread", &|found| each(found.killed.fleet_cpu));
    row("… cores that other work of this machine took meanwhile", &|found| format!("{:.1}", found.killed.others));
    row("… handshakes at once, at most", &|found| value(&found.page, "sloth_master_handshakes_peak").to_owned());
    for (what, reason) in [
        ("… closed at once: too many of one address that had shown nothing", "unknown"),
        ("… closed at once: too many of one address", "address"),
        ("… handshakes that failed", "handshake"),
        ("… handshakes that took too long", "handshake_timeout"),
    ] {
        let name = format!("sloth_master_connections_closed_total{{reason=\"{reason}\"}}");
        row(what, &|found| value(&found.page, &name).to_owned());
    }
    row("… attempts that failed, from the loss on", &|found| reasons(&found.killed.seen.failed));
    row("… sent away for a moment", &|found| number(found.killed.seen.deferred as f64, 0));
    text
}
