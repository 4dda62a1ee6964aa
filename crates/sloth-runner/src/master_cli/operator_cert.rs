//! `sloth-runner master operator-cert`: a certificate for a person, made where the key of the CA is.

use super::{ConfigArgs, FAILED, USAGE};
use crate::{
    cli::Format,
    clock,
    security::{Role, pki::Authority},
    tool::{check_context_name, duration},
};
use sloth_agent::config::describe;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug, clap::Args)]
pub struct OperatorCertArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Whom it is for, as events and the audit file name him
    #[arg(long, value_parser = check_context_name)]
    name: String,
    /// What he may do
    #[arg(long, value_enum, default_value_t = PersonRole::Operator)]
    role: PersonRole,
    /// How long it is good; it cannot be revoked before
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "30d")]
    ttl: Duration,
    /// Where NAME.pem and NAME.key go; the directory is made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PersonRole {
    /// Everything that this tool does
    Operator,
    /// Only look
    Viewer,
}

pub fn make(args: OperatorCertArgs) -> Result<(), i32> {
    let OperatorCertArgs { config, name, role, ttl, dir } = args;
    // Where it listens does not matter here.
    let config = config.load(None, true, Format::Table)?.config;
    let files = config.tls.as_ref().and_then(|tls| Some((tls.ca_file.clone()?, tls.ca_key_file.clone()?)));
    let Some((ca_file, key_file)) = files else {
        eprintln!(
            "cannot make a certificate: the configuration has no tls.ca_file with tls.ca_key_file; `sloth-runner master \
             init` makes them, and docs/security.md says how a CA of your own names operators"
        );
        return Err(USAGE);
    };
    let role = match role {
        PersonRole::Operator => Role::Operator,
        PersonRole::Viewer => Role::Viewer,
    };
    let made = issue(&ca_file, &key_file, role, &name, ttl).and_then(|made| keep(&dir, &name, &made));
    let (certificate, key) = made.map_err(|error| {
        eprintln!("cannot make a certificate: {error}");
        FAILED
    })?;
    let mut out = io::stdout().lock();
    let told = write!(
        out,
        "A certificate for {} {name}: {}, its key {}. With both and the CA, {}, on the machine of the tool:\n\
         sloth-runner context add NAME --master HOST:{} --ca {} --cert {} --key {}\n",
        role.word(),
        certificate.display(),
        key.display(),
        ca_file.display(),
        config.listen.port(),
        ca_file.display(),
        certificate.display(),
        key.display(),
    );
    // A reader that is gone is told nothing; the files are there.
    let _ = told.and_then(|()| out.flush());
    Ok(())
}

fn issue(ca_file: &Path, key_file: &Path, role: Role, name: &str, life: Duration) -> Result<(String, String), String> {
    Authority::load(ca_file, key_file, life)?.issue_to(role, name, life, clock::unix_ms())
}

/// Certificate and key, 0600, and never over another file: both or none.
fn keep(dir: &Path, name: &str, made: &(String, String)) -> Result<(PathBuf, PathBuf), String> {
    let dir = std::path::absolute(dir).map_err(|error| format!("{}: {}", dir.display(), describe(&error)))?;
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    let made_dir = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made_dir.map_err(|error| format!("{}: {}", dir.display(), describe(&error)))?;
    write_new(&certificate, &made.0)?;
    if let Err(error) = write_new(&key, &made.1) {
        let _ = fs::remove_file(&certificate);
        return Err(error);
    }
    Ok((certificate, key))
}

fn write_new(path: &Path, text: &str) -> Result<(), String> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| _ = fs::remove_file(path))
    };
    write().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} is there already, and is not overwritten: name another --dir, or remove it", path.display())
        }
        _ => format!("{}: {}", path.display(), describe(&error)),
    })
}
