//! `context add`, `list`, `use` and `remove`, and which master the other commands talk to.

use super::{
    Access,
    address::{self, Address},
    complain,
    connect::{Master, Trouble, Waits},
    contexts::{self, Context, Contexts},
    credential::{CA_VARIABLE, CERT_VARIABLE, Credential, KEY_VARIABLE, Said, TOKEN_VARIABLE},
    fail, json, print, say,
    table::{Cell, Table},
    wants_colours,
};
use crate::cli::{ContextCommand, Format};
use proto::GetRequest;
use serde::Serialize;
use sloth_agent::{config::describe, token::Token};
use std::{
    env,
    fs::File,
    io::{self, IsTerminal, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::Code;

/// More is no token.
const TOKEN_MAX: u64 = 4096;

/// So long a master is given to say what it thinks of a token. Below [`super::connect::PATIENCE`], after which the wait
/// would be told.
const TRIED_MAX: Duration = Duration::from_secs(2);

/// What the environment says.
#[derive(Default)]
pub struct Environment {
    pub master: Option<String>,
    pub said: Said,
    /// The file of contexts.
    pub file: Option<PathBuf>,
}

impl Environment {
    pub fn own() -> Self {
        let variable = |name| env::var(name).ok().filter(|text| !text.is_empty());
        Self {
            master: variable(address::VARIABLE),
            said: Said {
                token: variable(TOKEN_VARIABLE),
                ca: variable(CA_VARIABLE),
                cert: variable(CERT_VARIABLE),
                key: variable(KEY_VARIABLE),
            },
            file: contexts::own_path(),
        }
    }
}

/// Which master, and how to talk to it. A context counts as a whole or not at all, so that no token meets a master that
/// it is not for: the one of `--context`; where a flag or a variable says anything of a master, none; else the one that
/// is used.
///
/// # Errors
/// What is wrong and where it was written, for people.
pub fn resolve(access: Access, environment: Environment) -> Result<(Address, Credential), String> {
    let masters = [&access.master, &environment.master];
    let says_any = [&access.said, &environment.said].into_iter().any(Said::is_anything);
    let chosen = match &access.context {
        Some(name) => {
            let file = environment.file.ok_or_else(homeless)?;
            Some((name.clone(), contexts::read(&file)?.named(name)?.clone()))
        }
        None if says_any || masters.into_iter().any(Option::is_some) => None,
        None => current(environment.file.as_deref())?,
    };
    match chosen {
        Some((name, context)) => of(&context).map_err(|why| format!("context {name}: {why}")),
        None => {
            let address = address::choose(access.master.as_deref(), environment.master.as_deref())?;
            let credential = Credential::choose(access.said, environment.said)?;
            Ok((address, credential))
        }
    }
}

/// The token that [`resolve`] would show, as text: to know what must not be written down.
///
/// # Errors
/// As [`resolve`].
pub fn token_of(access: &Access, environment: Environment) -> Result<Option<String>, String> {
    let chosen = match &access.context {
        Some(name) => {
            let file = environment.file.ok_or_else(homeless)?;
            Some(contexts::read(&file)?.named(name)?.clone())
        }
        None if access.said.token.is_some() || environment.said.token.is_some() => None,
        None => current(environment.file.as_deref())?.map(|(_, context)| context),
    };
    Ok(chosen.map_or(access.said.token.clone().or(environment.said.token), |context| context.token))
}

fn current(file: Option<&Path>) -> Result<Option<(String, Context)>, String> {
    let Some(file) = file else { return Ok(None) };
    let contexts = contexts::read(file)?;
    let Some(name) = contexts.current.clone() else { return Ok(None) };
    let context = contexts.named(&name)?.clone();
    Ok(Some((name, context)))
}

fn of(context: &Context) -> Result<(Address, Credential), String> {
    let address =
        Address::parse(&context.master).map_err(|why| format!("its master is {:?}, {why}", context.master))?;
    Ok((address, Credential::choose(context.said(), Said::default())?))
}

fn homeless() -> String {
    "contexts have no place: neither XDG_CONFIG_HOME nor HOME is an absolute path".to_owned()
}

/// Runs `sloth-runner context …` and returns the exit code.
pub fn context(access: Access, format: Format, command: ContextCommand) -> i32 {
    let Some(file) = contexts::own_path() else {
        fail(format, &homeless());
        return 2;
    };
    // What cannot be used is as wrong here as where a command looks for its master in it.
    if let Err(why) = contexts::read(&file) {
        fail(format, &why);
        return 2;
    }
    // What the command line names does not fit: wrong usage, as `--context` of one that there is not.
    let mut misnamed = false;
    let done = match command {
        ContextCommand::Add { name, token_file } => {
            let context = match wanted(access, token_file.as_deref()).and_then(|context| let_in(&name, context)) {
                Ok(context) => context,
                Err(why) => {
                    fail(format, &why);
                    return 2;
                }
            };
            let added = contexts::change(&file, |contexts| {
                misnamed = contexts.named(&name).is_ok();
                contexts.add(&name, context)
            });
            added.map(|used| {
                let then = if used {
                    ", and used from now on".to_owned()
                } else {
                    format!(": `sloth-runner context use {name}` has it used")
                };
                format!("context {name} added{then}")
            })
        }
        ContextCommand::List => contexts::read(&file).map(|contexts| list(format, &contexts)),
        ContextCommand::Use { name } => contexts::change(&file, |contexts| {
            misnamed = contexts.named(&name).is_err();
            contexts.set_current(&name)
        })
        .map(|()| format!("context {name} is used from now on")),
        ContextCommand::Remove { name } => contexts::change(&file, |contexts| {
            misnamed = contexts.named(&name).is_err();
            let was_used = contexts.remove(&name)?;
            Ok(removed(&name, was_used, contexts))
        }),
    };
    match done {
        Ok(text) if text.ends_with('\n') => print(&text),
        Ok(message) if format == Format::Json => print(&json::document(&Message { message })),
        Ok(message) => print(&(message + "\n")),
        Err(why) => {
            fail(format, &why);
            if misnamed { 2 } else { 1 }
        }
    }
}

/// What is said of one that is gone.
fn removed(name: &str, was_used: bool, left: &Contexts) -> String {
    let others: Vec<_> = left.contexts.keys().map(String::as_str).collect();
    match (&left.current, others.as_slice()) {
        _ if !was_used => format!("context {name} removed"),
        (Some(current), _) => format!("context {name} removed; {current} is used now"),
        (None, []) => format!("context {name} removed: it was used, and none is left"),
        (None, others) => format!(
            "context {name} removed: it was used, and none is now (`sloth-runner context use NAME` has one used; there \
             are: {})",
            others.join(", ")
        ),
    }
}

/// Shows the token to the master, if that answers at once: only there it is known whom it is for. A master that is away
/// keeps nobody from adding it.
fn let_in(name: &str, context: Context) -> Result<Context, String> {
    let (address, credential) = of(&context)?;
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Ok(context) };
    let answer = runtime.block_on(async {
        let master = Master::new(address.clone(), Waits::default()).with(credential);
        // Whoever may look may ask this; nobody has this name.
        let asked = master.call(async |mut client| client.get(GetRequest::default()).await);
        tokio::time::timeout(TRIED_MAX, asked).await
    });
    // A name that is still being resolved is not waited for.
    runtime.shutdown_background();
    match answer {
        Ok(Err(Trouble::Answer { code: Code::PermissionDenied | Code::Unauthenticated, message })) => {
            Err(format!("context {name} is not added, the master at {address} does not let it in: {message}"))
        }
        Ok(Ok(_)) | Ok(Err(Trouble::Answer { .. })) => Ok(context),
        Ok(Err(trouble)) => {
            complain(format!("note: whether the master lets it in was not seen: {trouble}"));
            Ok(context)
        }
        Err(_) => {
            let limit = TRIED_MAX.as_secs();
            complain(format!(
                "note: whether the master lets it in was not seen: {address} did not answer within {limit} s"
            ));
            Ok(context)
        }
    }
}

/// What is to be added, checked as it is when it is used.
fn wanted(access: Access, token_file: Option<&Path>) -> Result<Context, String> {
    let master = access.master.ok_or("a context is of a master: say which with --master HOST[:PORT]")?;
    Address::parse(&master).map_err(|why| format!("--master is {master:?}, {why}"))?;
    let Said { token, ca, cert, key } = access.said;
    let (ca, cert, key) = (absolute("--ca", ca)?, absolute("--cert", cert)?, absolute("--key", key)?);
    if cert.is_some() || key.is_some() {
        if token.is_some() || token_file.is_some() {
            return Err("--cert and a token: a master is shown a token or a certificate; leave one away".to_owned());
        }
        let context = Context { master, ca, token: None, cert, key };
        Credential::choose(context.said(), Said::default())?;
        return Ok(context);
    }
    let (from, text) = match (token, token_file) {
        (Some(text), _) => ("--token".to_owned(), text),
        (None, Some(path)) => {
            let failed = |error: io::Error| format!("--token-file is {}: {}", path.display(), describe(&error));
            let file = File::open(path).map_err(failed)?;
            if let Some(warning) = readable_by_others(path, file.metadata().map_err(failed)?.mode()) {
                say(&warning);
            }
            (format!("--token-file {}", path.display()), text_of(file).map_err(failed)?)
        }
        (None, None) if io::stdin().is_terminal() => {
            say("The token, and Enter; nothing for a master without tokens:");
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(|error| format!("no token: {}", describe(&error)))?;
            ("standard input".to_owned(), line)
        }
        (None, None) => {
            let failed = |error: io::Error| format!("no token on standard input: {}", describe(&error));
            ("standard input".to_owned(), text_of(io::stdin()).map_err(failed)?)
        }
    };
    let text = text.trim();
    let token = match (text, token_file) {
        ("", Some(_)) => return Err(format!("{from} holds no token")),
        ("", None) => None,
        (text, _) => Some(Token::parse(text).map_err(|why| format!("the token of {from} {why}"))?.text()),
    };
    let context = Context { master, ca, token, cert: None, key: None };
    Credential::choose(context.said(), Said::default())?;
    Ok(context)
}

/// A file as it is named in a context, which is used in any folder.
fn absolute(flag: &str, file: Option<String>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(None) };
    let path = std::path::absolute(&file).map_err(|error| format!("{flag} is {file}: {}", describe(&error)))?;
    let text = path.into_os_string().into_string();
    text.map(Some).map_err(|_| format!("{flag} is {file}, below a folder that is not UTF-8"))
}

/// A warning: the context is 0600, the file that its token came from stays as it is.
fn readable_by_others(path: &Path, mode: u32) -> Option<String> {
    let mode = mode & 0o777;
    (mode & 0o077 != 0).then(|| {
        let shown = path.display();
        format!("warning: others can read the token in {shown} (mode {mode:04o}): run chmod 600 {shown}, or remove it")
    })
}

fn text_of(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(TOKEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[derive(Serialize)]
struct Message {
    message: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    current: bool,
    master: &'a str,
    ca: Option<&'a str>,
    /// As `token list` shows it.
    token_id: Option<String>,
    /// Instead of a token: the file of a certificate.
    cert: Option<&'a str>,
}

/// As `-o json` lists them: of tokens no more than the ids.
pub fn as_json(contexts: &Contexts) -> serde_json::Value {
    serde_json::to_value(shown(contexts).collect::<Vec<_>>()).expect("these types have no failing parts")
}

fn shown(contexts: &Contexts) -> impl Iterator<Item = Shown<'_>> {
    contexts.contexts.iter().map(|(name, context)| Shown {
        name,
        current: contexts.current.as_ref() == Some(name),
        master: &context.master,
        ca: context.ca.as_deref(),
        token_id: context.token.as_deref().and_then(|text| Token::parse(text).ok()).map(|token| token.id()),
        cert: context.cert.as_deref(),
    })
}

fn list(format: Format, contexts: &Contexts) -> String {
    let rows = shown(contexts);
    if format == Format::Json {
        return json::document(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["USED", "NAME", "MASTER", "TOKEN", "CERTIFICATE", "CA"]);
    for row in rows {
        let used = if row.current { "*" } else { "" };
        let (token, cert) = (row.token_id.as_deref().unwrap_or(""), row.cert.unwrap_or(""));
        let cells = [used, row.name, row.master, token, cert, row.ca.unwrap_or("")];
        table.row(cells.map(Cell::new).into());
    }
    table.render(wants_colours(&io::stdout()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_that_others_can_read_is_warned_of() {
        let of = |mode| readable_by_others(Path::new("a.token"), mode);
        assert_eq!((of(0o100600), of(0o100400)), (None, None));
        let expected = "warning: others can read the token in a.token (mode 0640): run chmod 600 a.token, or remove it";
        assert_eq!(of(0o100640).as_deref(), Some(expected));
        assert!(of(0o100604).is_some());
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contexts.json");
        let mut contexts = Contexts::default();
        for name in ["a", "b"] {
            let token = Some(Token::new([1; 32], [2; 32]).text());
            contexts.add(name, Context { master: format!("{name}.test:1"), token, ..Context::default() }).unwrap();
        }
        contexts::write(&file, &contexts).unwrap();
        (folder, file)
    }

    /// Which master, and whether over TLS.
    fn resolved(access: Access, environment: Environment) -> (String, bool) {
        let (address, credential) = resolve(access, environment).unwrap();
        (address.to_string(), credential.dialler(&address).is_some())
    }

    #[test]
    fn a_context_counts_as_a_whole_where_nothing_else_is_said() {
        let (_folder, file) = folder();
        let text = |text: &str| Some(text.to_owned());
        let environment = || Environment { file: Some(file.clone()), ..Environment::default() };
        let with_master = || Environment { master: text("e:1"), ..environment() };
        assert_eq!(resolved(Access::default(), environment()), ("a.test:1".to_owned(), true));
        let named = || Access { context: text("b"), ..Access::default() };
        assert_eq!(resolved(named(), environment()), ("b.test:1".to_owned(), true));
        assert_eq!(resolved(named(), with_master()), ("b.test:1".to_owned(), true), "the flag wins");
        assert_eq!(resolved(Access::default(), with_master()), ("e:1".to_owned(), false), "the token stays at home");
        let flag = Access { master: text("f:1"), ..Access::default() };
        assert_eq!(resolved(flag, environment()), ("f:1".to_owned(), false));
        let said = Said { token: Some(Token::new([1; 32], [3; 32]).text()), ..Said::default() };
        let token = Environment { said, ..environment() };
        assert_eq!(resolved(Access::default(), token), ("localhost:50050".to_owned(), true));
    }

    #[test]
    fn without_contexts_it_is_as_ever() {
        let folder = tempfile::tempdir().unwrap();
        let file = || Environment { file: Some(folder.path().join("contexts.json")), ..Environment::default() };
        for environment in [file(), Environment::default()] {
            assert_eq!(resolved(Access::default(), environment), ("localhost:50050".to_owned(), false));
        }
        let named = Access { context: Some("a".to_owned()), ..Access::default() };
        assert!(resolve(named.clone(), file()).err().unwrap().starts_with("there is no context a"));
        assert_eq!(resolve(named, Environment::default()).err().unwrap(), homeless());
    }

    #[test]
    fn who_removes_the_one_in_use_is_told_that_none_is() {
        let (_folder, file) = folder();
        let mut contexts = contexts::read(&file).unwrap();
        assert_eq!(removed("c", false, &contexts), "context c removed");
        assert_eq!(contexts.remove("a"), Ok(true));
        assert_eq!(
            removed("a", true, &contexts),
            "context a removed: it was used, and none is now (`sloth-runner context use NAME` has one used; there are: b)"
        );
        assert_eq!(contexts.remove("b"), Ok(false));
        assert_eq!(removed("b", true, &contexts), "context b removed: it was used, and none is left");
    }

    #[test]
    fn the_list_holds_no_secret() {
        let (_folder, file) = folder();
        let contexts = contexts::read(&file).unwrap();
        let secret = Token::new([1; 32], [2; 32]).text();
        let secret = secret.rsplit('.').next().unwrap();
        for format in [Format::Table, Format::Json] {
            let text = list(format, &contexts);
            assert!(text.contains("b.test:1") && !text.contains(secret), "{text}");
        }
    }
}
