//! The way to each master, as an agent goes it: name, connection, TLS, and what the master would say to a registration.

use super::{Notes, Running, Verdict};
use crate::{
    clock::unix_ms,
    config::{Config, MasterAddress, host_name, units::ShowDuration},
    credentials::{self, Credentials, Means, Standing},
    driver::{Identity, registration_of, reported},
    state,
    transport::{self, Failure, Resolver, tls},
};
use link::{LossReason, Seconds};
use proto::{CheckReply, CheckRequest, rejected::Reason};
use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tonic::Code;

const REGISTRATION: &str = "registration";

/// Clocks that are apart by more than this make certificates and logs hard to read.
const SKEW_MAX: Duration = Duration::from_secs(30);

/// What closes without a word may be something else than a master.
const WHICH_PORT: &str = " (is this the port of `listen` in the master's configuration, and not of a web page?)";

/// After a call failed, so long for the connection itself to say why.
const VERDICT_GRACE: Duration = Duration::from_millis(100);

/// Certificates that end within this time are told of.
const ENDS_SOON: u64 = 14 * 86_400;

pub(super) async fn examine(config: &Config, running: &Running, notes: &mut Notes<'_>) {
    let way = way(config, notes).await;
    for master in &config.masters {
        notes.about(master.to_string());
        visit(config, running, master, &way, notes).await;
    }
}

/// How connections are secured.
struct Way {
    /// None: they are not.
    connector: Option<tls::Connector>,
    /// There is something to show, so that a master answers; a token is not shown, for that would use it up.
    asks: bool,
    /// What there is to show cannot be used: the agent fails before it dials.
    unusable: bool,
    /// Nothing can be kept.
    memory: bool,
    /// What there was to show is gone.
    lost: bool,
}

async fn way(config: &Config, notes: &mut Notes<'_>) -> Way {
    let memory = state::would_be_in_memory(&config.state_dir);
    let agent_id = agent_id(config, memory).unwrap_or_default();
    let kept_in = credentials::kept_in(&config.state_dir, memory);
    let credentials = Arc::new(Credentials::new(kept_in, agent_id, &config.name));
    let means = Means { tls: config.tls.clone(), token: config.token.clone(), credentials };
    let own = config.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some());
    let lost = credentials::lost(&config.state_dir).filter(|_| !own);
    if let Some(lost) = &lost {
        notes.note("certificate", Verdict::Warning, lost.replace("NAME", &config.name));
    }
    let way = Way { connector: None, asks: true, unusable: false, memory, lost: lost.is_some() };
    match means.standing().await {
        Ok(Standing::Configured) => configured(config, way, notes),
        Ok(Standing::Joined(connector, certificate)) => {
            let given = "given to this agent for a token";
            let (verdict, text) = match (connector.own().and_then(|own| own.ended()), certificate) {
                (Some(ended), _) => (Verdict::Warning, ended),
                (None, Some(certificate)) => {
                    let (verdict, note) = dates(&certificate);
                    (verdict, format!("{given}: {certificate}{note}"))
                }
                (None, None) => (Verdict::Ok, given.to_owned()),
            };
            notes.note("certificate", verdict, text);
            Way { connector: Some(connector), lost: false, ..way }
        }
        Ok(Standing::Token(connector, token)) => {
            let text = format!("{} is whole; whether it admits is seen when the agent joins with it", token.id());
            notes.note("token", Verdict::Ok, text);
            Way { connector: Some(connector), asks: false, ..way }
        }
        Err(failure) => {
            notes.note("certificate", Verdict::Failed, failure.detail);
            Way { unusable: true, ..way }
        }
    }
}

/// None: a random one will be made.
fn agent_id(config: &Config, memory: bool) -> Option<[u8; 16]> {
    let derived = || state::derived_agent_id(&config.name);
    // What others have put there the agent does not believe either.
    if state::is_trusted(&config.state_dir).is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
        return Some(derived());
    }
    state::agent_id_at(&config.state_dir).or_else(|| memory.then(derived))
}

fn configured(config: &Config, way: Way, notes: &mut Notes<'_>) -> Way {
    let Some(settings) = &config.tls else { return way };
    if let Some(own) = tls::own_certificate(settings) {
        let (verdict, note) = dates(&own);
        notes.note("certificate", verdict, format!("this agent's own: {own}{note}"));
    }
    match tls::Connector::load(settings) {
        Ok(connector) => Way { connector: Some(connector), ..way },
        Err(unusable) => {
            let all: Vec<_> = unusable.iter().map(|found| format!("{} {}", found.key, found.text)).collect();
            notes.note("certificate", Verdict::Failed, all.join("; "));
            Way { unusable: true, ..way }
        }
    }
}

async fn visit(config: &Config, running: &Running, master: &MasterAddress, way: &Way, notes: &mut Notes<'_>) {
    notes.begin();
    let Some(addresses) = resolve(master, notes).await else { return };
    let mut connected = None;
    let mut failed = Vec::new();
    for address in &addresses {
        match within(config, transport::reach(*address, config.connection_timeout)).await {
            Ok(tcp) => {
                notes.note("TCP", Verdict::Ok, address.to_string());
                connected.get_or_insert(tcp);
            }
            // Only a failure if no other one answers.
            Err(failure) => failed.push((*address, failure)),
        }
    }
    for (address, failure) in failed {
        let verdict = if connected.is_some() { Verdict::Warning } else { Verdict::Failed };
        notes.note("TCP", verdict, tcp_failure(address, &failure));
    }
    let Some(tcp) = connected else { return };
    if way.unusable {
        let text = "what this agent has to show cannot be used, so it would not dial";
        return notes.note(REGISTRATION, Verdict::NotTried, text);
    }
    let Some(mut dialled) = open(config, master, way, tcp, notes).await else { return };
    if !way.asks {
        notes.note(
            REGISTRATION,
            Verdict::NotTried,
            "the agent joins with its token first, which it does when it starts",
        );
        return dialled.close_gracefully().await;
    }
    // A connection that has failed is over: dropping it is all.
    if ask(config, running, way, &mut dialled, notes).await {
        dialled.close_gracefully().await;
    }
}

async fn resolve(master: &MasterAddress, notes: &mut Notes<'_>) -> Option<Vec<SocketAddr>> {
    let mut resolver = Resolver::default();
    match resolver.resolve(master).await {
        Ok(found) => {
            let all: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
            let text = match all.as_slice() {
                [one] if *one == master.host => "an address needs none".to_owned(),
                _ => format!("{} is {}", master.host, all.join(", ")),
            };
            notes.note("DNS", Verdict::Ok, text);
            Some(found)
        }
        Err(failure) => {
            notes.note(
                "DNS",
                Verdict::Failed,
                format!("{}: see /etc/resolv.conf, or write an address", failure.detail),
            );
            None
        }
    }
}

async fn open(
    config: &Config,
    master: &MasterAddress,
    way: &Way,
    tcp: TcpStream,
    notes: &mut Notes<'_>,
) -> Option<transport::Dialled> {
    let connector = way.connector.as_ref();
    let mut shown = None;
    let opening = transport::open(tcp, master, connector, |chain| {
        shown = chain.first().and_then(|certificate| tls::Certificate::read(certificate));
    });
    match within(config, opening).await {
        Ok(dialled) => {
            if connector.is_some() {
                let (verdict, text) = match &shown {
                    Some(certificate) => {
                        let (verdict, note) = dates(certificate);
                        (verdict, format!("the master's certificate: {certificate}{note}"))
                    }
                    None => (Verdict::Ok, "TLS 1.3".to_owned()),
                };
                notes.note("TLS", verdict, text);
            }
            Some(dialled)
        }
        Err(failure) => {
            let name = if connector.is_some() { "TLS" } else { "HTTP/2" };
            notes.note(name, Verdict::Failed, consequence(config, way, &failure).unwrap_or(failure.detail));
            None
        }
    }
}

/// What follows from it that the certificate is gone, of which the failure itself would say that it was never there.
fn consequence(config: &Config, way: &Way, failure: &Failure) -> Option<String> {
    (way.lost && way.connector.is_none() && failure.reason == LossReason::Tls).then(|| {
        format!(
            "the master speaks TLS, and so did this agent by the certificate that is gone: put it back, or give it a \
             token for its name (`sloth-runner token create --name {}`)",
            config.name
        )
    })
}

/// What the master would say, and what its clock says. `false`: the connection may be over.
async fn ask(
    config: &Config,
    running: &Running,
    way: &Way,
    dialled: &mut transport::Dialled,
    notes: &mut Notes<'_>,
) -> bool {
    notes.begin();
    let random = || state::random().unwrap_or_default();
    let agent_id = agent_id(config, way.memory).unwrap_or_else(random);
    let instance = running.instance.as_ref().and_then(|text| state::parse_hex(text.as_bytes()));
    let instance_id = instance.unwrap_or_else(random);
    let identity = Identity { agent_id, instance_id, boot_id: state::boot_id(), host: host_name() };
    let mut register = registration_of(config, &identity, reported(&config.listen, dialled.local));
    register.spool_id = vec![0; 16];
    let before = unix_ms();
    let mut client = dialled.client.clone();
    let check = client.check(CheckRequest { register: Some(register) });
    let limit = config.connection_timeout;
    let said = match timeout(limit, check).await {
        Ok(said) => said.map(tonic::Response::into_inner),
        Err(_) => {
            let text = format!("{}: no answer within {}", LossReason::ConnectionTimeout, Seconds(limit));
            notes.note(REGISTRATION, Verdict::Failed, text);
            return false;
        }
    };
    let reply = match said {
        Ok(reply) => reply,
        Err(status) if status.code() == Code::Unimplemented => {
            let text = "the master knows no dry runs: it is older than this agent, or no Sloth Runner master";
            notes.note(REGISTRATION, Verdict::Warning, text);
            return true;
        }
        Err(status) => {
            // An error on the connection, such as a refusal of this agent's certificate, is the cause of what the call
            // says.
            let beneath = timeout(VERDICT_GRACE, dialled.ended()).await.ok().flatten();
            let failure = beneath.unwrap_or_else(|| transport::classify_status(&status));
            let text = consequence(config, way, &failure).unwrap_or_else(|| {
                // The connection ended, not the call. A master on its way down does the same, so it is asked and not said.
                let cut = failure.reason == LossReason::StreamClosed && status.source().is_some();
                let remedy = if cut { WHICH_PORT } else { remedy(failure.reason) };
                format!("{}: {}{remedy}", failure.reason, failure.detail)
            });
            notes.note(REGISTRATION, Verdict::Failed, text);
            return false;
        }
    };
    clock(&reply, before, unix_ms(), notes);
    let master = format!("master {} ({})", reply.master_name, reply.master_version);
    if reply.reason() == Reason::Unspecified {
        let known = if reply.known { "knows this agent" } else { "does not know this agent yet" };
        let more = if reply.message.is_empty() { String::new() } else { format!(": {}", reply.message) };
        notes.note(REGISTRATION, Verdict::Ok, format!("{master} {known} and would register it{more}"));
        return true;
    }
    let reason = proto::loss_reason_from(reply.reason());
    notes.note(REGISTRATION, Verdict::Failed, format!("{reason}: {}{}", reply.message, remedy(reason)));
    true
}

fn clock(reply: &CheckReply, before: u64, after: u64, notes: &mut Notes<'_>) {
    let ours = before.midpoint(after);
    let apart = Duration::from_millis(ours.abs_diff(reply.time_unix_ms));
    let side = if ours < reply.time_unix_ms { "behind" } else { "ahead of" };
    // To the second, but for a difference that is less than that.
    let shown = if apart.as_secs() > 0 { Duration::from_secs(apart.as_secs()) } else { apart };
    let text = format!("{} {side} the master's", ShowDuration(shown));
    if apart > SKEW_MAX {
        let text = format!("{text}: set one of them; the agent works, but certificates and times in logs may mislead");
        notes.note("clock", Verdict::Warning, text);
    } else {
        notes.note("clock", Verdict::Ok, text);
    }
}

fn dates(certificate: &tls::Certificate) -> (Verdict, String) {
    let now = unix_ms() / 1000;
    let left = certificate.not_after.saturating_sub(now);
    if now < certificate.not_before {
        (Verdict::Warning, "; it is not valid yet: set the clock, if that is wrong".to_owned())
    } else if left == 0 {
        (Verdict::Warning, "; it has ended: renew it".to_owned())
    } else if left < ENDS_SOON {
        (Verdict::Warning, format!("; it ends in {} days: renew it", left / 86_400))
    } else {
        (Verdict::Ok, format!("; {} days left", left / 86_400))
    }
}

fn tcp_failure(address: SocketAddr, failure: &Failure) -> String {
    let remedy = match failure.reason {
        LossReason::ConnectionRefused => ": does the master run, and listen at this address and port?",
        LossReason::ConnectionTimeout => ": a firewall, or a wrong address",
        LossReason::Unreachable => ": see the routes of this machine",
        _ => "",
    };
    format!("{address}: {}{remedy}", failure.detail)
}

fn remedy(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Unauthorized => " (see auth.token_file, and the master's `token list`)",
        _ => "",
    }
}

async fn within<T>(config: &Config, doing: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let limit = config.connection_timeout;
    timeout(limit, doing).await.unwrap_or_else(|_| {
        let text = format!("no answer within {}", Seconds(limit));
        Err(Failure::new(LossReason::ConnectionTimeout, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_told_of_as_people_count() {
        let told = |ours: u64, theirs: u64| {
            let mut shown = |_: &super::super::Step| {};
            let mut notes = Notes::new(&mut shown);
            clock(&CheckReply { time_unix_ms: theirs, ..CheckReply::default() }, ours, ours, &mut notes);
            let step = &notes.steps[0];
            (step.verdict, step.text.split(": ").next().unwrap_or_default().to_owned())
        };
        let day = 86_400_000;
        assert_eq!(told(day, 401 * day + 1), (Verdict::Warning, "400d behind the master's".to_owned()));
        assert_eq!(told(5_000_090, 90), (Verdict::Warning, "1h23m20s ahead of the master's".to_owned()));
        assert_eq!(told(12, 5), (Verdict::Ok, "7ms ahead of the master's".to_owned()));
        assert_eq!(told(5, 5), (Verdict::Ok, "0s ahead of the master's".to_owned()));
    }
}
