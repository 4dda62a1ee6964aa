//! Starts a command as its specification and the node's owner want it.

use super::{account::Account, allow::permits, group::Group};
use crate::{config, descriptors};
use proto::CommandSpec;
use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr, OsString},
    io, mem,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::Stdio,
    ptr,
};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that choose no code: what a command may be given where only certain programs are allowed.
const HARMLESS: [&str; 4] = ["LANG", "LANGUAGE", "TERM", "TZ"];

/// Where a child failed on its way to its program stands above the error number that it hands back.
const AT_USER: i32 = 1 << 16;
const AT_DIR: i32 = 1 << 17;

/// What does not differ between commands.
#[derive(Debug)]
pub struct Launcher {
    agent: String,
    shell: PathBuf,
    users: Vec<String>,
    allow: Vec<String>,
}

/// A process that was started: the leader of a group of its own, and our ends of its pipes.
#[derive(Debug)]
pub struct Process {
    pub child: Child,
    pub group: Group,
    pub stdin: Option<pipe::Sender>,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
}

/// Whom to become: everything that needs memory or a file is done before the fork.
struct Identity {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
}

impl Launcher {
    pub fn new(config: &config::Commands, agent: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            shell: config.shell.clone(),
            users: config.users.clone(),
            allow: config.allow.clone(),
        }
    }

    /// The agent's name.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// # Errors
    /// Why it was not started, for people. Nothing of it runs then.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(&self, id: &str, spec: &CommandSpec) -> Result<Process, String> {
        let (program, arguments) = self.program(spec)?;
        if !spec.dir.is_empty() && !spec.dir.starts_with(b"/") {
            let dir = quoted(OsStr::from_bytes(&spec.dir));
            return Err(format!("directory {dir} is relative, and there is nothing to go on from: begin with /"));
        }
        let own = Account::own().map_err(|error| format!("cannot look up the agent's user: {}", plain(&error)))?;
        let (account, identity) = self.account(own, &spec.user)?;
        let mut command = std::process::Command::new(&program);
        command.args(arguments).env_clear().envs(self.environment(id, spec, &account)?);
        command.process_group(0);

        let failed = |error: io::Error| format!("cannot start {}: {}", quoted(&program), plain(&error));
        let (stdin, child_stdin) = if spec.stdin {
            let (ours, theirs) = pipe::pipe().map_err(failed)?;
            (Some(ours), Stdio::from(theirs.into_blocking_fd().map_err(failed)?))
        } else {
            (None, Stdio::null())
        };
        let (stdout, child_stdout) = output_pipe().map_err(failed)?;
        let (stderr, child_stderr) = output_pipe().map_err(failed)?;
        command.stdin(child_stdin).stdout(child_stdout).stderr(child_stderr);

        let dir = if spec.dir.is_empty() { b"/".to_vec() } else { spec.dir.clone() };
        let dir = CString::new(dir).map_err(|_| "the directory's name has a NUL in it".to_owned())?;
        // SAFETY: the closure only makes system calls; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || become_command(identity.as_ref(), &dir)) };
        let child = Command::from(command).spawn().map_err(|error| start_error(&error, &program, spec))?;
        let leader = child.id().and_then(|id| libc::pid_t::try_from(id).ok()).expect("it was not waited for yet");
        // Without its arguments: they may hold secrets.
        log::info!("Command {id} started: {}", quoted(&program));
        Ok(Process { child, group: Group::led_by(leader), stdin, stdout, stderr })
    }

    fn program(&self, spec: &CommandSpec) -> Result<(OsString, Vec<OsString>), String> {
        let mut argv = spec.argv.iter().cloned().map(OsString::from_vec);
        let (program, arguments) = match (argv.next(), spec.shell.is_empty()) {
            (None, true) => return Err("no program is given".to_owned()),
            (Some(_), false) => return Err("a program and a shell line are given; one of them can run".to_owned()),
            (None, false) => (self.shell.clone().into_os_string(), vec!["-c".into(), spec.shell.clone().into()]),
            (Some(program), true) => (program, argv.collect()),
        };
        if program.is_empty() {
            return Err("the program's name is empty".to_owned());
        }
        let allowed = self.allow.is_empty() || self.allow.iter().any(|allowed| permits(allowed, program.as_bytes()));
        if !allowed || !(self.allow.is_empty() || spec.shell.is_empty()) {
            let what = if spec.shell.is_empty() { quoted(&program) } else { "a shell line".to_owned() };
            return Err(format!("commands.allow on the agent does not permit {what}, only {}", self.allow.join(", ")));
        }
        Ok((program, arguments))
    }

    fn account(&self, own: Account, user: &str) -> Result<(Account, Option<Identity>), String> {
        let permitted = |name: &OsStr| self.users.is_empty() || self.users.iter().any(|user| OsStr::new(user) == name);
        if user.is_empty() || own.name == user {
            if !permitted(&own.name) {
                let (own, users) = (own.name.display(), self.users.join(", "));
                return Err(format!("commands.users on the agent does not permit {own}, only {users}"));
            }
            return Ok((own, None));
        }
        if !permitted(OsStr::new(user)) {
            let (user, users) = (shown(OsStr::new(user)), self.users.join(", "));
            return Err(format!("commands.users on the agent does not permit {user}, only {users}"));
        }
        if own.uid != 0 {
            let (user, own) = (shown(OsStr::new(user)), own.name.display());
            return Err(format!("cannot run as {user}: the agent runs as {own}, and only root can change users"));
        }
        let failed = |error: io::Error| format!("cannot look up user {}: {}", shown(OsStr::new(user)), plain(&error));
        let account = Account::by_name(user).map_err(failed)?;
        let account =
            account.ok_or_else(|| format!("there is no user {} on the agent's host", shown(OsStr::new(user))))?;
        let identity = Identity { uid: account.uid, gid: account.gid, groups: account.groups().map_err(failed)? };
        Ok((account, Some(identity)))
    }

    fn environment(
        &self,
        id: &str,
        spec: &CommandSpec,
        account: &Account,
    ) -> Result<BTreeMap<OsString, OsString>, String> {
        let stated: [(&str, &OsStr); 8] = [
            ("PATH", PATH.as_ref()),
            ("HOME", &account.home),
            ("USER", &account.name),
            ("LOGNAME", &account.name),
            ("SHELL", &account.shell),
            ("LANG", "C.UTF-8".as_ref()),
            ("SLOTH_RUNNER_COMMAND_ID", id.as_ref()),
            ("SLOTH_RUNNER_AGENT", self.agent.as_ref()),
        ];
        let mut environment: BTreeMap<_, _> = stated.map(|(name, value)| (name.into(), value.to_owned())).into();
        for entry in &spec.env {
            let entry = OsStr::from_bytes(entry);
            let split = entry.as_bytes().iter().position(|byte| *byte == b'=').filter(|position| *position > 0);
            let split = split.ok_or_else(|| format!("environment entry {} is not NAME=value", quoted(entry)))?;
            let (name, value) = entry.as_bytes().split_at(split);
            let harmless = name.starts_with(b"LC_") || HARMLESS.iter().any(|harmless| harmless.as_bytes() == name);
            // A path in one of them names a file that the C library reads.
            let is_path = value[1..].starts_with(b"/")
                || value[1..].starts_with(b":")
                || value.windows(2).any(|two| two == b"..");
            let harmless = harmless && !is_path && (name == b"TZ" || !value.contains(&b'/'));
            if !self.allow.is_empty() && !harmless {
                let name = quoted(OsStr::from_bytes(name));
                return Err(format!("with commands.allow the agent takes no such environment variable {name}"));
            }
            environment.insert(OsString::from_vec(name.to_vec()), OsString::from_vec(value[1..].to_vec()));
        }
        Ok(environment)
    }
}

fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (theirs, ours) = pipe::pipe()?;
    Ok((ours, theirs.into_blocking_fd()?))
}

/// In the child, between fork and exec: system calls only.
fn become_command(identity: Option<&Identity>, dir: &CString) -> io::Result<()> {
    // SAFETY: plain system calls with valid arguments; all zeros is a valid signal set to be initialised.
    unsafe {
        // Whatever this process, or the one that started it, ignores or blocks would stay so in the command.
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::umask(0o022);
        if let Some(Identity { uid, gid, groups }) = identity {
            checked(libc::setgroups(groups.len() as _, groups.as_ptr()), AT_USER)?;
            checked(libc::setgid(*gid), AT_USER)?;
            checked(libc::setuid(*uid), AT_USER)?;
        }
        checked(libc::chdir(dir.as_ptr()), AT_DIR)?;
        descriptors::close_on_exec();
    }
    Ok(())
}

fn checked(result: libc::c_int, stage: i32) -> io::Result<()> {
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    Err(io::Error::from_raw_os_error(stage | error))
}

fn start_error(error: &io::Error, program: &OsStr, spec: &CommandSpec) -> String {
    let code = error.raw_os_error().unwrap_or(0);
    let reason = |stage: i32| plain(&io::Error::from_raw_os_error(code & !stage));
    if code & AT_USER != 0 {
        format!("cannot become user {}: {}", spec.user, reason(AT_USER))
    } else if code & AT_DIR != 0 {
        format!("cannot enter directory {}: {}", quoted(OsStr::from_bytes(&spec.dir)), reason(AT_DIR))
    } else {
        format!("cannot start {}: {}", quoted(program), plain(error))
    }
}

fn quoted(text: &OsStr) -> String {
    format!("'{}'", shown(text))
}

/// For a message: without control characters, not too long. A message is held for as long as its command's outcome.
fn shown(text: &OsStr) -> String {
    const SHOWN_MAX: usize = 200;
    let text = text.to_string_lossy();
    let shown: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(SHOWN_MAX).is_some() { "…" } else { "" };
    format!("{shown}{more}")
}

/// `no such file or directory`, not `No such file or directory (os error 2)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
