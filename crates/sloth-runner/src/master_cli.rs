//! `sloth-runner master …`: parses, wires, and turns errors into exit codes.

mod answers;
pub mod control;
mod daemon;
mod init;
mod operator_cert;
mod place;
mod reload;
#[cfg(test)]
mod tests;
mod web;

use crate::{
    audit::{self, Audit},
    cli::Format,
    clock, listen,
    master::{self, Options, ports::Outputs},
    master_config::{Loaded, MasterConfig, Sources, load},
    open_files,
    outputs::FileOutputs,
    security::{Security, TlsFiles, admission::Admission, pki::Authority, tls},
    store::{self, Environment, FileLock, LockError, SqliteStore},
    tool::json,
    webhook::{Patience, Webhook},
};
use reload::Reload;
use sloth_agent::{
    config::{
        Log, Surroundings, describe, look_only,
        reader::{Origin, Problem, Problems},
        units::ShowSize,
    },
    logging::{self, Rolling},
    state,
};
use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the line begins with that says the master is up.
const STARTED: &str = "Master ";

/// How long reads and fsyncs that still run may take at the end.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

/// It did not work.
const FAILED: i32 = 1;
/// The configuration is wrong.
const USAGE: i32 = 2;

#[derive(Debug, clap::Subcommand)]
pub enum MasterCommand {
    /// Run the master, until SIGTERM or Ctrl-C
    Start(StartArgs),
    /// Ask the master that runs on this machine to end, and wait until it has
    Stop(ControlArgs),
    /// Say whether a master runs on this machine: exit code 0 if it does, 3 if not
    Status(ControlArgs),
    /// Say whether the configuration is right, and what it sets
    Check(CheckArgs),
    /// Make what a master needs that other hosts reach: certificates, a configuration, and a token for agents
    Init(init::InitArgs),
    /// Make a certificate for an operator or a viewer, who shows it instead of a token (`context add --cert`)
    OperatorCert(operator_cert::OperatorCertArgs),
    /// Print a link that signs a browser in to the web page of the master that runs on this machine, once
    Web(ControlArgs),
    /// Copy the database while the master runs
    Backup(BackupArgs),
}

#[derive(Debug, clap::Args)]
pub struct StartArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address and port for agents and operators [default: 127.0.0.1:50050]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Let other hosts in although there is no TLS: whoever reaches the port can run commands on every agent
    #[arg(long)]
    insecure: bool,
    /// Go to the background once it listens
    #[arg(long)]
    daemon: bool,
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// As for start
    #[arg(long)]
    insecure: bool,
}

/// Which master: the one of this state directory.
#[derive(Debug, clap::Args)]
pub struct ControlArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Overwrite FILE
    #[arg(long)]
    force: bool,
    /// Where the copy goes
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file [default: ./master.toml, then /etc/sloth-runner/master.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where database, outputs and lock live
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Any key of the configuration, such as commands.keep=7d
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// For what prints an answer.
    fn load(self, listen: Option<String>, insecure: bool, format: Format) -> Result<Loaded, i32> {
        load_or_say(&self.sources(listen, insecure))
            .inspect_err(|problems| {
                if format == Format::Json {
                    crate::tool::print(&json::error(&problems.to_string()));
                }
            })
            .map_err(|_| USAGE)
    }

    fn sources(self, listen: Option<String>, insecure: bool) -> Sources {
        let flags = [("--listen", "listen", listen), ("--state-dir", "state_dir", self.state_dir)];
        let flags = flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect();
        Sources { file: self.config, flags, assignments: self.set, insecure }
    }

    fn try_load(self, listen: Option<String>, insecure: bool) -> Result<Loaded, Problems> {
        load(&self.sources(listen, insecure), &Surroundings::of_process())
    }
}

impl ConfigArgs {
    /// With `--state-dir` a configuration that does not hold is in nobody's way; and where it listens does not matter.
    fn state_dir(self, format: Format) -> Result<PathBuf, i32> {
        match &self.state_dir {
            Some(path) if !path.is_empty() => Ok(path.into()),
            _ => self.load(None, true, format).map(|loaded| loaded.config.state_dir),
        }
    }
}

/// Runs one command, and returns the exit code: 0 done, 1 failed, 2 wrong usage or configuration; 3 from `status`: no
/// master runs.
pub fn run(command: MasterCommand, format: Format) -> i32 {
    if !matches!(command, MasterCommand::Start(_)) {
        look_only();
    }
    let done = match command {
        MasterCommand::Start(args) => start(args),
        MasterCommand::Stop(args) => args.config.state_dir(format).and_then(|path| control::stop(&path, format)),
        MasterCommand::Status(args) => args.config.state_dir(format).and_then(|path| control::status(&path, format)),
        MasterCommand::Web(args) => args.config.state_dir(format).and_then(|path| web::link(&path, format)),
        MasterCommand::Check(args) => check(args, format),
        MasterCommand::Init(args) => init::init(args),
        MasterCommand::OperatorCert(args) => operator_cert::make(args),
        MasterCommand::Backup(args) => backup(args, format),
    };
    done.err().unwrap_or(0)
}

fn start(args: StartArgs) -> Result<(), i32> {
    let sources = args.config.sources(args.listen, args.insecure);
    let loaded = load_or_say(&sources).map_err(|_| USAGE)?;
    let failed = |error: String| {
        eprintln!("cannot start the master: {error}");
        FAILED
    };
    if args.daemon && !daemon::is_child() {
        let log = log_file(&loaded.config.log, true).unwrap_or_default();
        return match daemon::start_child(&std::path::absolute(&log).unwrap_or(log)) {
            Ok(0) => Ok(()),
            Ok(code) => Err(code),
            Err(error) => Err(failed(format!("cannot go to the background: {}", describe(&error)))),
        };
    }
    reload::ignore_until_then();
    // Before the log file: who is told of another master wants to know of that, not of its log.
    let _lock = take_state_dir(&loaded.config.state_dir).map_err(failed)?;
    let log = open_log(&loaded.config.log, args.daemon).map_err(failed)?;
    logging::install(&loaded.config.log, log.clone());
    if !loaded.idle.is_empty() {
        log::warn!("Without an effect in this version: {}", loaded.idle.join(", "));
    }
    if let Some(how) = place::open_to_others(&loaded.config.state_dir) {
        log::warn!("The state directory is not the master's alone: {how}");
    }
    let reload = Reload::new(sources, &loaded, log.clone());
    let background = log.filter(|_| args.daemon);
    serve(&loaded.config, reload, background.as_ref()).map_err(|error| {
        log::error!("Master ended: {error}");
        failed(error)
    })?;
    log::info!("Master stopped");
    Ok(())
}

fn load_or_say(sources: &Sources) -> Result<Loaded, Problems> {
    load(sources, &Surroundings::of_process()).inspect_err(|problems| eprintln!("{problems}"))
}

fn check(args: CheckArgs, format: Format) -> Result<(), i32> {
    let loaded = args.config.try_load(None, args.insecure).and_then(with_usable_files).map_err(|problems| {
        eprintln!("{problems}");
        if format == Format::Json {
            print!("{}", answers::problems(&problems));
        }
        USAGE
    })?;
    if format == Format::Json {
        print!("{}", answers::checked(&loaded));
        return Ok(());
    }
    match &loaded.file {
        Some(file) => println!("{}: valid", file.display()),
        None => println!("no configuration file: defaults"),
    }
    for setting in &loaded.shown {
        println!("{} = {} ({})", setting.key, setting.value, setting.origin);
    }
    if !loaded.idle.is_empty() {
        println!("without an effect in this version: {}", loaded.idle.join(", "));
    }
    let config = &loaded.config;
    println!(
        "listens on {}, state in {}, database {}",
        config.listen,
        config.state_dir.display(),
        config.store.display()
    );
    Ok(())
}

/// What a start would find in the files that the configuration names.
fn with_usable_files(loaded: Loaded) -> Result<Loaded, Problems> {
    let of_tls = loaded.config.tls.as_ref().and_then(|files| certificates(files).err());
    let of_tls = of_tls.map(|text| Problem { origin: Origin::Default, text });
    let of_webhook = webhook(&loaded.config).err().map(|text| {
        let set = |key: &str| loaded.shown.iter().find(|shown| shown.key == key).map(|shown| shown.origin.clone());
        let origin = set("events.webhook.ca_file").or_else(|| set("events.webhook.url"));
        Problem { origin: origin.unwrap_or(Origin::Default), text }
    });
    let problems: Vec<_> = of_tls.into_iter().chain(of_webhook).collect();
    if problems.is_empty() { Ok(loaded) } else { Err(Problems(problems)) }
}

fn backup(args: BackupArgs, format: Format) -> Result<(), i32> {
    // Where it listens does not matter here.
    let config = args.config.load(None, true, format)?.config;
    let summary = store::backup(&config.store, &args.file, args.force).map_err(|error| {
        eprintln!("cannot back up: {error}");
        if format == Format::Json {
            print!("{}", json::error(&format!("cannot back up: {error}")));
        }
        FAILED
    })?;
    if format == Format::Json {
        print!("{}", answers::backed_up(&config.store, &args.file, &summary));
        return Ok(());
    }
    let store::Summary { bytes, agents, commands, events } = summary;
    println!(
        "{} backed up to {} ({}, checked): {agents} agents, {commands} commands, {events} events; outputs are not part \
         of it",
        config.store.display(),
        args.file.display(),
        ShowSize(bytes),
    );
    Ok(())
}

/// Opens everything, serves until a signal, closes everything.
///
/// The state directory is locked. With `background` it lets go of the terminal once it listens. After the line that says
/// it is up nothing may fail any more: who has read that looks no further.
fn serve(config: &MasterConfig, reload: Reload, background: Option<&Rolling>) -> Result<(), String> {
    let open_files = open_files::raise_limit();
    let outputs = FileOutputs::new(&config.state_dir.join("output"), config.output_keep);
    let outputs = Arc::new(outputs.map_err(|error| error.to_string())?);
    let environment = Environment { clock: Box::new(clock::unix_ms), remove_output: remover(outputs.clone()) };
    let (store, snapshot) =
        SqliteStore::open(&config.store, config.history, environment).map_err(|error| error.to_string())?;

    let audit = Audit::open(&config.state_dir.join(audit::FILE), config.log.max_size, config.log.max_files)?;
    let audit = Arc::new(audit);
    let security = config.tls.as_ref().map(|files| secure(files, config, &audit)).transpose()?;
    let webhook = webhook(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no threads, or no timers: {error}"))?;
    let served = runtime.block_on(async {
        let listener = listen::bind(config.listen).map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let http = web::bind(config, security.as_ref())?;
        // Before the line that says it is up, as all that may fail: who reads it may send a signal.
        let signals = Shutdown::listen().and_then(|shutdown| reload.listen().map(|()| shutdown));
        let shutdown = signals.map_err(|error| format!("no signals: {error}"))?;
        if security.is_none() && !address.ip().to_canonical().is_loopback() {
            log::warn!("Neither TLS nor tokens on {address}: whoever reaches it can run commands on every agent");
        }
        if config.webhook.as_ref().is_some_and(|webhook| webhook.secret.is_none()) {
            log::warn!("Events are posted without a signature: set events.webhook.secret_file");
        }
        say_started(address, &config.state_dir);
        log::info!(
            "Master started: sloth-runner {}, pid {}, listening on {address}, state directory {}",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            config.state_dir.display()
        );
        log::info!("Up to {open_files} open files, room for {} agents", open_files::sessions_max());
        if let Some(log) = background {
            daemon::detach(log);
        }
        let options = Options {
            http,
            webhook,
            name: sloth_agent::config::host_name(),
            registrations_per_second: config.registrations_per_second,
            heartbeats_per_second: config.heartbeats_per_second,
            connections: config.connections,
            security,
            audit: Some(audit),
        };
        let served = master::serve(listener, Arc::new(store), outputs, snapshot, options, shutdown.wait()).await;
        served.map_err(|error| format!("the server failed: {error}"))
    });
    // The store ends with its last owner, after what waits there is written; a blocking reader that hangs is left.
    runtime.shutdown_timeout(BLOCKING_GRACE);
    served
}

/// What TLS needs; the database has its tables already.
fn secure(files: &TlsFiles, config: &MasterConfig, audit: &Arc<Audit>) -> Result<Arc<Security>, String> {
    let (acceptor, authority) = certificates(files)?;
    let made = authority.as_ref().map_or(0, Authority::not_before_ms);
    let admission = Admission::open(&config.store, clock::unix_ms)?.not_before(made);
    let acceptor = Arc::new(acceptor.with_audit(audit.clone()));
    Ok(Arc::new(Security { acceptor, authority, admission, audit: Some(audit.clone()) }))
}

fn certificates(files: &TlsFiles) -> Result<(tls::Acceptor, Option<Authority>), String> {
    let acceptor = tls::Acceptor::new(files.clone())?;
    let authority = match (&files.ca_file, &files.ca_key_file) {
        (Some(ca), Some(key)) => Some(Authority::load(ca, key, files.agent_life)?),
        _ => None,
    };
    Ok((acceptor, authority))
}

fn webhook(config: &MasterConfig) -> Result<Option<Webhook>, String> {
    let Some(webhook) = &config.webhook else { return Ok(None) };
    let (target, secret) =
        (webhook.target.clone(), webhook.secret.as_ref().map(|secret| secret.0.clone().into_bytes()));
    let (ca_file, kinds) = (webhook.ca_file.clone(), webhook.kinds.clone());
    Webhook::new(target, secret, ca_file, kinds, Patience::default()).map(Some)
}

/// The line that scripts wait for, with the real port.
fn say_started(address: SocketAddr, state_dir: &Path) {
    let (version, state_dir) = (env!("CARGO_PKG_VERSION"), state_dir.display());
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{STARTED}{version} listening on {address} (state in {state_dir})");
    // A reader that is gone is no reason to end.
    let _ = written.and_then(|()| stdout.flush());
}

/// The file that the configuration names; in the background there always is one.
fn log_file(log: &Log, background: bool) -> Option<PathBuf> {
    log.file.clone().or_else(|| background.then(|| PathBuf::from("master.log")))
}

fn open_log(log: &Log, background: bool) -> Result<Option<Rolling>, String> {
    let open = |path: PathBuf| Rolling::open(&path, log.max_size, log.max_files).map_err(|error| error.to_string());
    log_file(log, background).map(open).transpose()
}

/// SIGTERM and SIGINT.
struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn signal(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Until the first signal. A second one ends the process, whatever it still waits for: what was answered is on
    /// the disk.
    async fn wait(mut self) {
        self.signal().await;
        log::info!("Shutting down");
        tokio::spawn(async move {
            self.signal().await;
            log::warn!("Ended by a second signal");
            std::process::exit(FAILED);
        });
    }
}

fn take_state_dir(directory: &Path) -> Result<FileLock, String> {
    let shown = directory.display();
    let fails = |what: &str, error: &io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull => "make room there",
            // What is there is a file, or lies below one.
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "a part of that path is a file: remove it",
            _ => "let this user write it",
        };
        let error = describe(error);
        format!("cannot {what} the state directory {shown}: {error}; {remedy}, or name another with --state-dir")
    };
    state::make_trusted(directory).map_err(|error| fails("trust", &error))?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| fails("make", &error))?;
    FileLock::take(&control::lock_file(directory)).map_err(|error| match error {
        LockError::Held(pid) => {
            let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            format!(
                "another master{pid} holds the state directory {shown}: stop it, or start this one with another \
                 --state-dir"
            )
        }
        LockError::Io(error) => fails("lock", &error),
    })
}

fn remover(outputs: Arc<FileOutputs>) -> Box<dyn FnMut(&str) -> bool + Send> {
    Box::new(move |id| {
        let removed = outputs.remove(id);
        if let Err(error) = &removed {
            log::warn!("Output of a forgotten command stays: {error}");
        }
        removed.is_ok()
    })
}
