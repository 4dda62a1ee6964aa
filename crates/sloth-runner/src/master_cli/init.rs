//! `sloth-runner master init`: all that a master needs which other hosts reach.

use super::{FAILED, place::open_to_others};
use crate::{
    clock,
    security::{
        Role,
        admission::{Admission, NewToken},
        pki,
    },
    store::{Environment, History, SqliteStore},
};
use sloth_agent::{
    config::{describe, host_name},
    token::Token,
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The token for agents that `init` makes is good for so long, milliseconds.
const JOIN_TTL_MS: u64 = 24 * 3_600_000;

const CONFIG: &str = "master.toml";
const DATABASE: &str = "sloth.db";
const JOIN_TOKEN: &str = "join.token";
const OPERATOR_TOKEN: &str = "operator.token";

#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Where everything goes; made if it is missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address and port for agents and operators
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:50050")]
    listen: SocketAddr,
    /// Another name under which agents reach this master; the first one stands in the command that is printed
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Another address under which agents reach this master
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
}

pub fn init(args: InitArgs) -> Result<(), i32> {
    let failed = |error: String| {
        eprintln!("cannot set up the master: {error}");
        FAILED
    };
    let directory = std::path::absolute(&args.dir).map_err(|error| failed(describe(&error)))?;
    let mut made = Made { paths: Vec::new(), done: false };
    let tokens = set_up(&directory, &args, &mut made).map_err(failed)?;
    made.done = true;
    let text = told(&directory, &args, &tokens);
    let mut out = io::stdout().lock();
    // A reader that is gone is told nothing; the tokens are in their files.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

/// Files of a set-up that is not finished: removed again where it fails.
struct Made {
    paths: Vec<PathBuf>,
    done: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.paths.iter().filter(|_| !self.done) {
            let _ = fs::remove_file(path);
        }
    }
}

struct Tokens {
    join: Token,
}

fn set_up(directory: &Path, args: &InitArgs, made: &mut Made) -> Result<Tokens, String> {
    let about = |path: &Path, error: &io::Error| format!("{}: {}", path.display(), describe(error));
    let mut folder = fs::DirBuilder::new();
    folder.recursive(true).mode(0o700).create(directory).map_err(|error| about(directory, &error))?;
    if let Some(how) = open_to_others(directory) {
        return Err(format!("{how}, or name another with --dir: the keys are to be there"));
    }
    let pki = pki::make(&names(args), clock::unix_ms()).map_err(|error| format!("no certificate: {error}"))?;
    let config = config(directory, args);
    let files = [
        ("ca.pem", &pki.ca),
        ("ca.key", &pki.ca_key),
        ("master.pem", &pki.certificate),
        ("master.key", &pki.key),
        (CONFIG, &config),
    ];
    for name in files.iter().map(|(name, _)| *name).chain([DATABASE, JOIN_TOKEN, OPERATOR_TOKEN]) {
        let path = directory.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(format!(
                "{} is there already, and nothing is overwritten: start the master with `sloth-runner master start \
                 --config {}`, or set it up in another --dir",
                path.display(),
                directory.join(CONFIG).display()
            ));
        }
    }
    for (name, text) in files {
        keep(&directory.join(name), text, made)?;
    }
    let database = directory.join(DATABASE);
    made.paths.extend(["", "-wal", "-shm", ".lock"].map(|end| directory.join(format!("{DATABASE}{end}"))));
    let environment = Environment { clock: Box::new(clock::unix_ms), remove_output: Box::new(|_| true) };
    let opened = SqliteStore::open(&database, History::default(), environment).map_err(|error| error.to_string())?;
    let admission = Admission::open(&database, clock::unix_ms)?;
    let token = |role, name: &str, ttl_ms| {
        let new = NewToken { role, name: name.to_owned(), labels: Default::default(), ttl_ms, uses: None };
        admission.create(pki.fingerprint, new).map(|(token, _)| token)
    };
    let join = token(Role::Agent, "", Some(JOIN_TTL_MS))?;
    let operator = token(Role::Operator, "init", None)?;
    keep(&directory.join(JOIN_TOKEN), &(join.text() + "\n"), made)?;
    keep(&directory.join(OPERATOR_TOKEN), &(operator.text() + "\n"), made)?;
    drop((admission, opened));
    Ok(Tokens { join })
}

/// 0600, and never over another file.
fn keep(path: &Path, text: &str, made: &mut Made) -> Result<(), String> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    made.paths.push(path.to_owned());
    write().map_err(|error| format!("{}: {}", path.display(), describe(&error)))
}

fn config(directory: &Path, args: &InitArgs) -> String {
    // As TOML's basic strings are written; a path that is not UTF-8 has no other spelling there.
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    let file = |name: &str| quoted(directory.join(name));
    format!(
        "# Made by `sloth-runner master init`; every other key is in the master.toml that is shipped.\n\
         listen = \"{}\"\nstate_dir = {}\n\n[tls]\ncert_file = {}\nkey_file = {}\nca_file = {}\nca_key_file = {}\n",
        args.listen,
        quoted(directory.to_owned()),
        file("master.pem"),
        file("master.key"),
        file("ca.pem"),
        file("ca.key"),
    )
}

/// Under which agents may reach this machine: what was given first, then what is found.
fn names(args: &InitArgs) -> Vec<String> {
    let mut names = args.name.clone();
    names.extend(args.address.iter().map(ToString::to_string));
    if !args.listen.ip().is_unspecified() {
        names.push(args.listen.ip().to_canonical().to_string());
    }
    let host = host_name();
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    names.extend(is_name.then_some(host));
    names.extend(addresses().iter().map(ToString::to_string));
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Of this machine's interfaces, without those that only mean something on one link.
fn addresses() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is to a local; what it is set to is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: the list and what it points to are the kernel's answer, valid until it is freed; an address of a family
    // has that family's size.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: as above.
        let family = unsafe { entry.ifa_addr.as_ref() }.map(|address| i32::from(address.sa_family));
        match family {
            Some(libc::AF_INET) => {
                // SAFETY: as above.
                let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in>() };
                found.push(IpAddr::from(address.sin_addr.s_addr.to_ne_bytes()));
            }
            Some(libc::AF_INET6) => {
                // SAFETY: as above.
                let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in6>() };
                found.push(IpAddr::from(address.sin6_addr.s6_addr));
            }
            _ => {}
        }
        next = entry.ifa_next;
    }
    // SAFETY: it came from getifaddrs and is freed once.
    unsafe { libc::freeifaddrs(list) };
    let is_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
    found.retain(|ip| !ip.is_loopback() && !is_local(ip));
    found
}

fn told(directory: &Path, args: &InitArgs, tokens: &Tokens) -> String {
    let names = names(args);
    let host = names.first().expect("localhost, if nothing else");
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let (port, shown, text) = (args.listen.port(), directory.display(), tokens.join.text());
    let agent = format!("sloth-agent start --master {host}:{port}");
    format!(
        "Set up in {shown}, for {}.\n\
         \n\
         Start the master:\n\
         \x20 sloth-runner master start --config {shown}/{CONFIG}\n\
         Tell the tool where it is and who you are, on this machine or with a copy of that file on another:\n\
         \x20 sloth-runner context add master --master {host}:{port} --token-file {shown}/{OPERATOR_TOKEN}\n\
         Start agents, within 24 hours (`sloth-runner token create` makes other tokens): with the token in a file, as \
         {shown}/{JOIN_TOKEN} is one,\n\
         \x20 {agent} --set auth.token_file=/etc/sloth-runner/{JOIN_TOKEN}\n\
         or with the token on the command line, where `ps` shows it:\n\
         {agent} --token {text}\n",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn args(dir: &Path) -> InitArgs {
        InitArgs {
            dir: dir.to_owned(),
            listen: "127.0.0.1:4000".parse().unwrap(),
            name: vec!["master.test".to_owned()],
            address: vec!["2001:db8::1".parse().unwrap()],
        }
    }

    #[test]
    fn what_was_given_comes_first_and_everything_once() {
        let names = names(&args(Path::new("/x")));
        assert_eq!(names[..3], ["master.test", "2001:db8::1", "127.0.0.1"]);
        assert_eq!(names.iter().filter(|name| *name == "127.0.0.1").count(), 1);
        assert!(names.iter().any(|name| name == "localhost"));
    }

    #[test]
    fn files_are_for_their_owner_alone_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("m");
        assert_eq!(init(args(&directory)), Ok(()));
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().mode() & 0o077, 0, "{}", entry.path().display());
        }
        let ca = fs::read(directory.join("ca.pem")).unwrap();
        assert_eq!(init(args(&directory)), Err(FAILED));
        assert_eq!(fs::read(directory.join("ca.pem")).unwrap(), ca);
    }

    #[test]
    fn nothing_is_put_where_others_can_replace_it() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, code) in [(0o770, Err(FAILED)), (0o702, Err(FAILED)), (0o777, Err(FAILED)), (0o755, Ok(()))] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            assert_eq!(init(args(folder.path())), code, "{mode:o}");
        }
        let shown = folder.path().display();
        assert_eq!(open_to_others(folder.path()), None);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(open_to_others(folder.path()), None, "as /tmp is");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o775)).unwrap();
        let told = format!("others can write {shown} (mode 775): `chmod go-w {shown}`");
        assert_eq!(open_to_others(folder.path()), Some(told));
    }

    #[test]
    fn a_set_up_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(OPERATOR_TOKEN), "mine").unwrap();
        assert_eq!(init(args(folder.path())), Err(FAILED));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [OPERATOR_TOKEN]);
    }
}
