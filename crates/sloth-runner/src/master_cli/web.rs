//! The web page: where it is served, and `master web`, a link that signs a browser in to the page of the master that runs
//! on this machine.

use super::control;
use crate::{
    cli::Format,
    clock::unix_ms,
    listen,
    master_config::MasterConfig,
    security::{Role, Security},
    store::Holder,
    tool::json,
    web::{
        Admit, Http,
        code::{self, Codes},
    },
};
use serde::Serialize;
use sloth_agent::{config::describe, token::Token};
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

/// Listens. That a port which nobody asked for is taken, as by a second master of this host, is no reason not to serve.
pub fn bind(config: &MasterConfig, security: Option<&Arc<Security>>) -> Result<Option<Http>, String> {
    let Some(address) = config.http_listen else { return no_page(config) };
    match listen::bind(address) {
        Ok(listener) => {
            let address = listener.local_addr().map_err(|error| error.to_string())?;
            log::info!("Health and metrics on http://{address}");
            log::info!("Web page there, too: `sloth-runner master web` prints a link that signs in");
            if !address.ip().to_canonical().is_loopback() {
                log::warn!("Whoever reaches http://{address} sees numbers and the names of agents");
            }
            let codes = Codes::leave(&config.state_dir, address);
            let codes = codes.map_err(|error| format!("cannot write the key of the web page: {}", describe(&error)))?;
            Ok(Some(Http { listener, hosts: config.http_hosts.clone(), codes, admit: security.cloned().map(admit) }))
        }
        Err(error) if config.http_asked => {
            let why = describe(&error.error);
            Err(format!("cannot listen on {address} (http.listen): {why}; take another, or \"\" for none"))
        }
        Err(error) => {
            let why = describe(&error.error);
            log::warn!("No health and metrics: cannot listen on {address}: {why}; set http.listen, or \"\" for none");
            no_page(config)
        }
    }
}

/// A key that an earlier one has left would lead nowhere.
fn no_page(config: &MasterConfig) -> Result<Option<Http>, String> {
    let withdrawn = code::withdraw(&config.state_dir);
    withdrawn.map_err(|error| format!("cannot remove the key of the web page: {}", describe(&error)))?;
    Ok(None)
}

/// By the same check as every call of the tool.
fn admit(security: Arc<Security>) -> Admit {
    Arc::new(move |text| {
        let token = Token::parse(text).ok()?;
        let record = security.admission.check(&token, &[Role::Operator, Role::Viewer]).ok()?;
        Some(record.role.word())
    })
}

#[derive(Serialize)]
struct Link<'a> {
    url: &'a str,
    /// Seconds.
    good_for: u64,
}

/// Prints it; 1 if no master runs there, or it serves no page.
pub fn link(state_dir: &Path, format: Format) -> Result<(), i32> {
    let shown = state_dir.display();
    let failed = |text: String| control::failed(format, &text);
    // What has its port now may be anybody's.
    if control::look(state_dir, format)? == Holder::Nobody {
        return Err(failed(control::nobody(&shown.to_string())));
    }
    let (address, code) = code::make(state_dir, unix_ms()).map_err(|error| {
        failed(match error.kind() {
            ErrorKind::NotFound => {
                format!("the master of {shown} serves no web page: its http.listen is \"\", or taken")
            }
            _ => format!("cannot read the key of the web page in {shown}: {}", describe(&error)),
        })
    })?;
    let url = format!("http://{}/#code={code}", reached_at(address));
    let text = match format {
        Format::Json => json::document(&Link { url: &url, good_for: code::GOOD_FOR_S }),
        Format::Table => format!("{url}\n"),
    };
    if format == Format::Table {
        crate::tool::say("It signs one browser in, within two minutes:");
    }
    match crate::tool::print(&text) {
        0 => Ok(()),
        code => Err(code),
    }
}

/// From this machine.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
