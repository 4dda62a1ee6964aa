//! `sloth-runner support-bundle`: what is known of one agent, in one archive, without secrets. What cannot be had is
//! named in it, and keeps nothing else out.

mod archive;
mod here;
mod mask;
mod parts;

use super::{
    Tool, complain,
    connect::Trouble,
    fail, json, print,
    time::{now_unix_ms, rfc3339},
    writer,
};
use crate::cli::{Format, SupportArgs};
use archive::Archive;
use mask::Mask;
use serde::Serialize;
use sloth_agent::config::describe;
use std::{future::Future, path::PathBuf};
use tonic::Code;

/// What stands at the beginning of `contents.txt`.
const ABOUT: &str = "\
What is known of one agent. Tokens, private keys and the passwords in addresses are masked. What operators and agents
wrote is as it was: command lines, labels, messages, and with --with-output what commands printed. Look at it before you
pass it on.
";

/// Makes the archive and returns the exit code.
pub(super) async fn show(tool: &Tool, args: SupportArgs, token: Option<String>) -> i32 {
    let made = now_unix_ms();
    let of = |name: &str| PathBuf::from(format!("{name}.tar.gz"));
    let mut name = archive::name(&args.name, made);
    if args.file.is_none() {
        // Two in one second are two all the same.
        let others = (2..100).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(others).find(|name| of(name).symlink_metadata().is_err());
        name = free.unwrap_or(name);
    }
    let file = args.file.clone().unwrap_or_else(|| of(&name));
    let refused = |why: &str| {
        fail(tool.format, why);
        1
    };
    if file.symlink_metadata().is_ok() {
        return refused(&format!("{} is there already: remove it, or name another with --file", file.display()));
    }
    let mut bundle = Bundle::new(Mask::new(token), format!("made {}\n", rfc3339(made).unwrap_or_default()));
    // First of all: of an agent that there is not there is nothing to collect.
    match parts::explain(tool, &args.name).await {
        Ok(text) => bundle.add("explain.json", Ok(text)),
        Err(Trouble::Answer { code: Code::NotFound, message }) => return refused(&message),
        Err(trouble) => bundle.add("explain.json", Err(trouble.to_string())),
    }
    bundle.collect("agent.json", parts::agent(tool, &args.name)).await;
    bundle.collect("events.json", parts::events(tool, &args.name)).await;
    let commands = parts::commands(tool, &args.name).await;
    let ids = commands.as_ref().map(|(_, ids)| ids.clone()).unwrap_or_default();
    bundle.add("commands.json", commands.map(|(text, _)| text));
    if let Ok((writer, _written)) = writer::standard() {
        if args.with_output {
            for id in ids {
                bundle.collect(&format!("output/{id}.json"), parts::output(tool, &id, writer.clone())).await;
            }
        }
        if args.with_agent {
            bundle.collect("agent/report.txt", parts::report(tool, &args.name, writer)).await;
        }
    }
    bundle.add("tool.json", here::tool(tool));
    for (path, part) in here::master(args.master_config) {
        bundle.add(path, part);
    }
    let (parts, problems) = bundle.finish();
    match Archive::write(&file, &name, made / 1000, &parts) {
        Ok(bytes) => told(tool.format, &file.display().to_string(), bytes, &parts, &problems),
        Err(error) => refused(&format!("cannot write {}: {}", file.display(), describe(&error))),
    }
}

fn told(format: Format, file: &str, bytes: u64, parts: &[Part], problems: &[String]) -> i32 {
    let names = parts.iter().map(|part| part.path.as_str());
    match format {
        Format::Json => print(&json::document(&Made { file, bytes, parts: names.collect(), problems })),
        Format::Table => {
            problems.iter().for_each(|problem| complain(format!("not in it: {problem}")));
            let names: Vec<&str> = names.collect();
            print(&format!("{file} ({bytes} bytes): {}\n", names.join(", ")))
        }
    }
}

/// `-o json`. The field names are an interface.
#[derive(Serialize)]
struct Made<'a> {
    file: &'a str,
    bytes: u64,
    parts: Vec<&'a str>,
    problems: &'a [String],
}

/// A file of the archive.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    path: String,
    text: String,
}

struct Bundle {
    mask: Mask,
    head: String,
    parts: Vec<Part>,
    problems: Vec<String>,
}

impl Bundle {
    fn new(mask: Mask, head: String) -> Self {
        Self { mask, head, parts: Vec::new(), problems: Vec::new() }
    }

    /// Nothing comes in that was not masked.
    fn add(&mut self, path: &str, part: Result<String, String>) {
        match part {
            Ok(text) => self.parts.push(Part { path: path.to_owned(), text: self.mask.masked(&text) }),
            Err(why) => self.problems.push(self.mask.masked(&format!("{path}: {why}"))),
        }
    }

    async fn collect(&mut self, path: &str, part: impl Future<Output = Result<String, String>>) {
        let part = part.await;
        self.add(path, part);
    }

    /// Everything, with the list of it, and what is missing.
    fn finish(mut self) -> (Vec<Part>, Vec<String>) {
        if !self.problems.is_empty() {
            let text = self.problems.join("\n") + "\n";
            self.parts.push(Part { path: "problems.txt".to_owned(), text });
        }
        let version = env!("CARGO_PKG_VERSION");
        let list: String = self.parts.iter().map(|part| format!("{:>10}  {}\n", part.text.len(), part.path)).collect();
        let text = format!("{ABOUT}\nsloth-runner {version}, {}\n     bytes  file\n{list}", self.head);
        self.parts.insert(0, Part { path: "contents.txt".to_owned(), text });
        (self.parts, self.problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_keeps_nothing_else_out() {
        let mut bundle = Bundle::new(Mask::new(Some("s3cret".to_owned())), "made now\n".to_owned());
        bundle.add("a.json", Ok("x s3cret".to_owned()));
        bundle.add("b.json", Err("no s3cret here".to_owned()));
        let (parts, problems) = bundle.finish();
        let paths: Vec<&str> = parts.iter().map(|part| part.path.as_str()).collect();
        assert_eq!(paths, ["contents.txt", "a.json", "problems.txt"]);
        assert_eq!(parts[1].text, "x ***");
        assert_eq!((parts[2].text.as_str(), problems.len()), ("b.json: no *** here\n", 1));
        assert!(
            parts[0].text.ends_with("     bytes  file\n         5  a.json\n        20  problems.txt\n"),
            "{}",
            parts[0].text
        );
        assert!(Bundle::new(Mask::new(None), String::new()).finish().0.iter().all(|part| part.path != "problems.txt"));
    }
}
