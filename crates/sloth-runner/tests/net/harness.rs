//! Runs the cases, many at once: the standard harness runs as many as there are processors, hides what a passing test
//! prints, and would take a quarter of an hour.

use crate::{fleet::needs, space::Space};
use std::{
    path::Path,
    process::{Command, Stdio, exit},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

/// Cases at once, where `--test-threads` says nothing.
const AT_ONCE: usize = 12;

pub struct Case {
    pub name: &'static str,
    /// Returns what was measured, in words.
    pub run: fn() -> String,
    /// Why it is left out unless asked for.
    pub ignored: Option<&'static str>,
}

/// The cases of a module: functions, or `fn = "why it is ignored"`. The longest first.
macro_rules! cases {
    ($($name:ident $(= $why:literal)?),* $(,)?) => {
        pub const CASES: &[$crate::harness::Case] = &[$($crate::harness::Case {
            name: concat!(module_path!(), "::", stringify!($name)),
            run: $name,
            ignored: $crate::harness::cases!(@why $($why)?),
        }),*];
    };
    (@why) => { None };
    (@why $why:literal) => { Some($why) };
}
pub(crate) use cases;

#[derive(Default)]
struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
    include_ignored: bool,
    threads: Option<usize>,
}

/// The words of the standard harness that make sense here; others are skipped.
fn options() -> Options {
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--exact" => options.exact = true,
            "--list" => options.list = true,
            "--ignored" => options.ignored = true,
            "--include-ignored" => options.include_ignored = true,
            "--skip" => options.skips.extend(args.next()),
            "--test-threads" => options.threads = args.next().and_then(|count| count.parse().ok()),
            "--format" | "--color" | "--logfile" => _ = args.next(),
            option if option.starts_with('-') => {}
            _ => options.filters.push(arg),
        }
    }
    options
}

pub fn run(modules: &[&'static [Case]]) {
    let options = options();
    let name = |case: &Case| case.name.split_once("::").map_or(case.name, |(_, name)| name).to_owned();
    let fits = |name: &str, word: &String| if options.exact { name == word } else { name.contains(word.as_str()) };
    let wanted = |case: &&Case| {
        let name = name(case);
        (options.filters.is_empty() || options.filters.iter().any(|word| fits(&name, word)))
            && !options.skips.iter().any(|word| fits(&name, word))
    };
    let cases: Vec<&Case> = modules.iter().copied().flatten().filter(wanted).collect();
    if options.list {
        cases.iter().for_each(|case| println!("{}: test", name(case)));
        return;
    }
    let runs = |case: &&&Case| options.include_ignored || case.ignored.is_some() == options.ignored;
    for case in cases.iter().filter(|case| !runs(case)) {
        println!("test {} ... ignored{}", name(case), case.ignored.map(|why| format!(", {why}")).unwrap_or_default());
    }
    let cases: Vec<&Case> = cases.iter().filter(runs).copied().collect();
    if cases.is_empty() || !can() {
        return;
    }
    let began = Instant::now();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..options.threads.unwrap_or(AT_ONCE).min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    // A thread of its own: its end ends the processes that it has started.
                    let result = thread::Builder::new().name(name(case)).spawn(case.run).unwrap().join();
                    let took = began.elapsed().as_secs_f64();
                    match result {
                        Ok(measured) => println!("test {} ... ok, {took:.1} s: {measured}", name(case)),
                        Err(_) => {
                            println!("test {} ... FAILED, {took:.1} s", name(case));
                            failed.lock().unwrap().push(name(case));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let (passed, took) = (cases.len() - failed.len(), began.elapsed().as_secs_f64());
    println!("\ntest result: {passed} passed; {} failed; in {took:.1} s", failed.len());
    if !failed.is_empty() {
        failed.iter().for_each(|name| println!("    {name}"));
        exit(101);
    }
}

/// Whether the machine has what all cases need.
fn can() -> bool {
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    needs("`ip` (Debian: iproute2)", ip.is_ok_and(|status| status.success()))
        && needs("/dev/net/tun", Path::new("/dev/net/tun").exists())
        && needs("right to make network namespaces (root)", Space::new().is_ok())
}
