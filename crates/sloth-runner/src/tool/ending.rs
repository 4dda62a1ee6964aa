//! How commands ended: exit codes and words for people. Pure.

use super::follow::QUEUED;
use proto::{CommandRow, Outcome, OutputStream, outcome::Kind, outcome_from};
use std::collections::BTreeMap;

/// For every end without a code of the command's own.
pub const NO_CODE: i32 = 255;
/// After Ctrl-C.
pub const INTERRUPTED: i32 = 130;

/// What became of one command.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It has its outcome.
    Finished(Box<CommandRow>),
    /// It goes on, and nobody waits for it.
    Detached(Box<CommandRow>),
    /// It was never asked for: an earlier one failed, or somebody cancelled.
    NotStarted(String),
    /// No outcome, and perhaps no start: no connection, the master forgot it, …
    Failed(String),
    /// There is no such command, and never was: the master said no, or was never asked.
    Never(String),
    /// Our own output is closed: the command goes on, unless it was still being fed.
    OutputGone { stdin_unfinished: bool },
    /// Somebody had the tool leave before there was another end. What that means for the command was told to people
    /// already.
    Left(String),
}

impl Ending {
    /// The exit code for this command alone.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Finished(row) => row.outcome.as_ref().map_or(NO_CODE, exit_code),
            Self::Detached(_) => 0,
            Self::NotStarted(_) | Self::Failed(_) | Self::Never(_) | Self::OutputGone { .. } | Self::Left(_) => NO_CODE,
        }
    }

    /// What to say on standard error: nothing when the exit code or a signal says it all.
    pub fn complaint(&self) -> Option<String> {
        match self {
            Self::Finished(row) => match row.outcome.as_ref().map(Outcome::kind) {
                Some(Kind::Exited) => None,
                _ => Some(format!("the command {}", in_words(row.outcome.as_ref()))),
            },
            Self::Failed(why) | Self::Never(why) => Some(why.clone()),
            Self::Detached(row) if row.state == QUEUED => {
                let away = if row.agent_away.is_empty() { "its agent is away" } else { &row.agent_away };
                Some(format!("queued, {away}; to look at it: sloth-runner command get {}", row.id))
            }
            Self::Detached(_) | Self::NotStarted(_) | Self::OutputGone { .. } | Self::Left(_) => None,
        }
    }
}

/// What becomes of a command whose output nobody can read here any more.
pub fn without_output(id: &str, ending: &Ending) -> String {
    let look = format!("see `sloth-runner command logs {id}`");
    match ending {
        Ending::Finished(row) => format!("the command {}; {look}", in_words(row.outcome.as_ref())),
        Ending::OutputGone { stdin_unfinished: true } => {
            format!("the master cancels the command, for its standard input is unfinished; {look}")
        }
        Ending::OutputGone { .. } | Ending::Detached(_) => {
            format!("the command goes on; {look} or `sloth-runner command cancel {id}`")
        }
        Ending::NotStarted(why) | Ending::Failed(why) | Ending::Never(why) | Ending::Left(why) => why.clone(),
    }
}

/// The command's own code, 128+n for a signal, else 255.
pub fn exit_code(outcome: &Outcome) -> i32 {
    match outcome.kind() {
        Kind::Exited => outcome.code & 0xff,
        Kind::Signaled => 128 + (outcome.signal & 0x7f),
        _ => NO_CODE,
    }
}

/// As a predicate: "exited with 3", "was refused: …".
pub fn in_words(outcome: Option<&Outcome>) -> String {
    let Some(outcome) = outcome else { return "has no outcome yet".to_owned() };
    let because = |text: &str| {
        if outcome.reason.is_empty() { text.to_owned() } else { format!("{text}: {}", outcome.reason) }
    };
    match outcome.kind() {
        Kind::Exited => format!("exited with {}", outcome.code),
        Kind::Signaled => format!("was ended by signal {}", outcome.signal),
        Kind::TimedOut => "took too long and was ended".to_owned(),
        Kind::Cancelled => "was cancelled".to_owned(),
        Kind::Interrupted => because("was interrupted"),
        Kind::Refused => because("was refused"),
        Kind::Expired => "was not started in time".to_owned(),
        Kind::Unspecified => "ended in a way that this version does not know".to_owned(),
    }
}

/// The bare word of an outcome; `None` for one that this version does not know.
pub fn word(outcome: &Outcome) -> Option<&'static str> {
    outcome_from(outcome).map(|outcome| outcome.word())
}

/// `20/20 done: 17 exited 0; 1 exited 3 (kei); 2 failed (lady, mari)`. Those that did well need no names.
pub fn summary(endings: &[(String, Ending)]) -> String {
    let mut groups: BTreeMap<(u8, String), Vec<&str>> = BTreeMap::new();
    for (agent, ending) in endings {
        let key = match ending {
            Ending::Finished(row) => match &row.outcome {
                Some(outcome) if outcome.kind() == Kind::Exited => {
                    (u8::from(outcome.code != 0), format!("exited {}", outcome.code))
                }
                Some(outcome) if outcome.kind() == Kind::Signaled => (2, format!("ended by signal {}", outcome.signal)),
                outcome => (3, outcome.as_ref().and_then(word).unwrap_or("unknown").replace('_', " ")),
            },
            Ending::Detached(row) if row.state == QUEUED => (0, QUEUED.to_owned()),
            Ending::Detached(_) => (0, "started".to_owned()),
            Ending::NotStarted(_) => (0, "not started".to_owned()),
            Ending::Failed(_) | Ending::Never(_) => (4, "failed".to_owned()),
            Ending::OutputGone { .. } | Ending::Left(_) => (5, "not followed to the end".to_owned()),
        };
        groups.entry(key).or_default().push(agent);
    }
    let groups: Vec<String> = groups
        .iter()
        .map(|((rank, what), agents)| match rank {
            0 => format!("{} {what}", agents.len()),
            _ => format!("{} {what} ({})", agents.len(), names(agents)),
        })
        .collect();
    let done = endings.iter().filter(|(_, ending)| !matches!(ending, Ending::NotStarted(_))).count();
    format!("{done}/{} done: {}", endings.len(), groups.join("; "))
}

/// … where nobody waits for the end: `2 of 3 started; 1 failed (kei)`.
pub fn summary_of_started(endings: &[(String, Ending)]) -> String {
    let begun = |ending: &Ending| matches!(ending, Ending::Finished(_) | Ending::Detached(_));
    let failed: Vec<&str> =
        endings.iter().filter(|(_, ending)| !begun(ending)).map(|(agent, _)| agent.as_str()).collect();
    let started = format!("{} of {} started", endings.len() - failed.len(), endings.len());
    if failed.is_empty() { started } else { format!("{started}; {} failed ({})", failed.len(), names(&failed)) }
}

/// 0 if all exited 0 (or were started, when nobody waits), else 1.
pub fn exit_code_of_all(endings: &[(String, Ending)]) -> i32 {
    i32::from(endings.iter().any(|(_, ending)| ending.exit_code() != 0))
}

/// The word for a stream, as it stands in JSON.
pub fn stream_word(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

fn names(agents: &[&str]) -> String {
    const SHOWN: usize = 10;
    let mut text = agents[..agents.len().min(SHOWN)].join(", ");
    if agents.len() > SHOWN {
        text.push_str(&format!(" and {} more", agents.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet::Turned;

    fn finished(outcome: link::Outcome) -> Ending {
        Ending::Finished(Box::new(CommandRow { outcome: Some((&outcome).into()), ..CommandRow::default() }))
    }

    #[test]
    fn every_fixed_word_stands_in_the_documents() {
        use proto::outcome::Kind::{Cancelled, Exited, Expired, Interrupted, Refused, Signaled, TimedOut};
        let reasons = include_str!("../../../../docs/troubleshooting.md").split("\n## Reasons\n").nth(1).unwrap();
        let outcomes = [Exited, Signaled, TimedOut, Cancelled, Interrupted, Refused, Expired]
            .map(|kind| word(&Outcome { kind: kind.into(), ..Outcome::default() }).unwrap());
        let losses = link::LossReason::ALL.map(link::LossReason::word);
        let turned = [Turned::NotJoined, Turned::RetryLater].map(Turned::word);
        // The master's and the agent's constants, each a word; also those that are added some day.
        let of_fleet = include_str!("../../../fleet/src/change.rs").lines();
        let of_agent = include_str!("../../../../src/history.rs").lines();
        let of_start = include_str!("../master/start.rs").lines();
        let constant = |line: &'static str| {
            line.strip_prefix("pub ")
                .unwrap_or(line)
                .strip_prefix("const ")?
                .split_once(": &str = \"")?
                .1
                .split('"')
                .next()
        };
        let is_word = |text: &&str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let constants: Vec<_> = of_fleet.chain(of_agent).chain(of_start).filter_map(constant).filter(is_word).collect();
        for known in [fleet::REASON_NOT_READY, "agent_died", "master_died"] {
            assert!(constants.contains(&known), "{known} is not found any more");
        }
        for word in outcomes.into_iter().chain(losses).chain(turned).chain(constants).chain(["recovered"]) {
            let rows = reasons.lines().filter(|line| line.starts_with("| `"));
            let told =
                rows.filter_map(|line| line.split(" | ").next()).any(|words| words.contains(&format!("`{word}`")));
            assert!(told, "{word}");
        }
    }

    #[test]
    fn the_exit_code_is_the_commands_own_or_says_that_there_is_none() {
        for (outcome, code) in [
            (link::Outcome::Exited(0), 0),
            (link::Outcome::Exited(7), 7),
            (link::Outcome::Signaled(9), 137),
            (link::Outcome::TimedOut, 255),
            (link::Outcome::Cancelled, 255),
            (link::Outcome::Interrupted(String::new()), 255),
            (link::Outcome::Refused(String::new()), 255),
            (link::Outcome::Expired, 255),
        ] {
            assert_eq!(finished(outcome.clone()).exit_code(), code, "{outcome:?}");
        }
        assert_eq!(Ending::Failed(String::new()).exit_code(), 255);
        assert_eq!(Ending::Finished(Box::default()).exit_code(), 255);
    }

    #[test]
    fn a_refusal_is_told_with_its_reason_and_an_exit_code_speaks_for_itself() {
        assert_eq!(
            finished(link::Outcome::Refused("no such user: bob".to_owned())).complaint().unwrap(),
            "the command was refused: no such user: bob"
        );
        assert_eq!(finished(link::Outcome::Exited(3)).complaint(), None);
    }

    #[test]
    fn the_summary_names_those_that_did_not_do_well() {
        let endings = [
            ("a".to_owned(), finished(link::Outcome::Exited(0))),
            ("b".to_owned(), finished(link::Outcome::Exited(0))),
            ("c".to_owned(), finished(link::Outcome::Exited(3))),
            ("d".to_owned(), finished(link::Outcome::TimedOut)),
            ("e".to_owned(), Ending::Failed("away".to_owned())),
        ];
        assert_eq!(summary(&endings), "5/5 done: 2 exited 0; 1 exited 3 (c); 1 timed out (d); 1 failed (e)");
        assert_eq!((exit_code_of_all(&endings), exit_code_of_all(&endings[..2])), (1, 0));
        let queued = CommandRow { state: QUEUED.into(), agent_away: "kei is away".into(), ..CommandRow::default() };
        let queued = Ending::Detached(Box::new(queued));
        assert!(queued.complaint().unwrap().starts_with("queued, kei is away; "));
        let of_two = [("a".to_owned(), queued), ("b".to_owned(), Ending::NotStarted(String::new()))];
        assert_eq!(summary(&of_two), "1/2 done: 1 not started; 1 queued");
        assert_eq!((exit_code_of_all(&of_two[..1]), exit_code_of_all(&of_two)), (0, 1));
        let started = ("f".to_owned(), Ending::Detached(Box::default()));
        assert_eq!(summary_of_started(std::slice::from_ref(&started)), "1 of 1 started");
        assert_eq!(summary_of_started(&[started, endings[4].clone()]), "1 of 2 started; 1 failed (e)");
    }
}
