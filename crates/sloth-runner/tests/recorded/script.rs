//! A recorded session as a file: one line for each thing that happened, in the order in which it did.
//!
//! ```text
//! agent lady as 5107… start --label site=berlin     a program of the agent begins, with this id
//! operator {"args":[…],"stdin":"…"}                  the operator's tool is called
//! call 1 Connect                                     the agent opens a call; sloth-… is its metadata
//! > 1 0a1f…                                          a message of it up, in hex, and what it says in the next line
//! < 1 0a02…                                          … and down
//! > 1 end                                            that direction is closed; down with a gRPC code
//! cut                                                all that is open breaks off
//! exit lady 0                                        a program of the agent has ended
//! master ends                                        the master is told to end
//! saw {…}                                            what the operator was told, at the end
//! ```

use crate::words::{Words, shown};
use bytes::Bytes;
use serde_json::Value;
use std::path::Path;

#[derive(Clone, Debug)]
pub enum Step {
    Agent { key: String, id: String, args: Vec<String> },
    Operator { args: Vec<String>, stdin: Option<String> },
    Call { call: usize, method: String, metadata: Vec<(String, String)> },
    Said { call: usize, up: bool, bytes: Bytes },
    UpEnd { call: usize },
    DownEnd { call: usize, code: i32 },
    Cut,
    Exit { key: String, code: i32 },
    MasterEnds,
    Saw(Value),
}

pub struct Script {
    pub steps: Vec<Step>,
    pub words: Words,
}

impl Script {
    #[track_caller]
    pub fn read(path: &Path, words: &Words) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let lines = text.lines().filter(|line| !line.starts_with([' ', '#']) && !line.is_empty());
        let steps = lines.map(|line| parse(line).unwrap_or_else(|| panic!("{}: {line:?}", path.display()))).collect();
        let script = Self { steps, words: words.clone() };
        // What stands there for people is what the bytes say.
        let told: String = text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        assert_eq!(script.text(), told, "{} was changed by hand: make it anew", path.display());
        script
    }

    pub fn method(&self, call: usize) -> &str {
        let method = self.steps.iter().find_map(|step| match step {
            Step::Call { call: known, method, .. } if *known == call => Some(method),
            _ => None,
        });
        method.expect("a call is opened before it is used")
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            text += &self.line(step);
            text.push('\n');
        }
        text
    }

    fn line(&self, step: &Step) -> String {
        match step {
            Step::Agent { key, id, args } => format!("agent {key} as {id} {}", args.join(" ")),
            Step::Operator { args, stdin: None } => format!("operator {}", serde_json::json!({ "args": args })),
            Step::Operator { args, stdin } => {
                format!("operator {}", serde_json::json!({ "args": args, "stdin": stdin }))
            }
            Step::Call { call, method, metadata } => {
                let metadata: String = metadata.iter().map(|(key, value)| format!(" {key}={value}")).collect();
                format!("call {call} {method}{metadata}")
            }
            Step::Said { call, up, bytes } => {
                let message = self.words.read(self.method(*call), *up, bytes);
                let sign = if *up { '>' } else { '<' };
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let hex = if hex.is_empty() { "-".to_owned() } else { hex };
                format!("{sign} {call} {hex}\n    {}", shown(&message)).trim_end().to_owned()
            }
            Step::UpEnd { call } => format!("> {call} end"),
            Step::DownEnd { call, code } => format!("< {call} end {code}"),
            Step::Cut => "cut".to_owned(),
            Step::Exit { key, code } => format!("exit {key} {code}"),
            Step::MasterEnds => "master ends".to_owned(),
            Step::Saw(value) => format!("saw {value}"),
        }
    }
}

fn parse(line: &str) -> Option<Step> {
    let words: Vec<&str> = line.split(' ').collect();
    let json = |rest: &str| serde_json::from_str::<Value>(rest).ok();
    Some(match words[0] {
        "agent" => {
            let args = words[4..].iter().map(|word| (*word).to_owned()).collect();
            Step::Agent { key: words[1].to_owned(), id: words[3].to_owned(), args }
        }
        "operator" => {
            let value = json(line.strip_prefix("operator ")?)?;
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let args = value["args"].as_array()?.iter().map(text).collect::<Option<_>>()?;
            Step::Operator { args, stdin: text(&value["stdin"]) }
        }
        "call" => {
            let pair = |word: &&str| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            let metadata = words[3..].iter().map(pair).collect::<Option<_>>()?;
            Step::Call { call: words[1].parse().ok()?, method: words[2].to_owned(), metadata }
        }
        ">" if words[2] == "end" => Step::UpEnd { call: words[1].parse().ok()? },
        "<" if words[2] == "end" => Step::DownEnd { call: words[1].parse().ok()?, code: words[3].parse().ok()? },
        ">" | "<" => {
            let hex = words.get(2).filter(|hex| **hex != "-").copied().unwrap_or_default();
            let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
            let bytes = (0..hex.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
            Step::Said { call: words[1].parse().ok()?, up: words[0] == ">", bytes: bytes.into() }
        }
        "cut" => Step::Cut,
        "exit" => Step::Exit { key: words[1].to_owned(), code: words[2].parse().ok()? },
        "master" => Step::MasterEnds,
        "saw" => Step::Saw(json(line.strip_prefix("saw ")?)?),
        _ => return None,
    })
}
