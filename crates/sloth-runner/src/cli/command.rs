//! `sloth-runner command …`.

use super::values::command_id;
use crate::tool::duration;
use clap::{Subcommand, ValueEnum};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum CommandCommand {
    /// List commands, newest first
    List {
        /// Only commands of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only commands in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only commands with this outcome
        #[arg(long, value_enum)]
        outcome: Option<Outcome>,
        /// Only commands that were asked for within this time (30m, 7d)
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        since: Option<Duration>,
        /// Only commands older than this one: where the last page ended
        #[arg(long, value_name = "ID", value_parser = command_id)]
        before: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one command
    Get {
        /// Its id, or the beginning of it, 4 letters or more, if no other begins so
        id: String,
    },
    /// Show the output of a command
    Logs {
        /// Its id, or the beginning of it, 4 letters or more, if no other begins so
        id: String,
        /// Until it has ended
        #[arg(long)]
        follow: bool,
    },
    /// Cancel a command
    Cancel {
        /// Its id, or the beginning of it, 4 letters or more, if no other begins so
        id: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Its agent is away: not sent yet
    Queued,
    /// Sent, and perhaps received
    Sent,
    /// The agent holds it: it runs, or waits for its turn there
    Accepted,
    /// It has its outcome, and all of its output is here
    Finished,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Accepted => "accepted",
            Self::Finished => "finished",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Outcome {
    /// It ended by itself, with whatever code
    Exited,
    /// A signal ended it
    Signaled,
    TimedOut,
    Cancelled,
    /// The agent died while it ran, or may have
    Interrupted,
    /// It never started
    Refused,
    /// It waited for its agent, and was not sent in time
    Expired,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}
